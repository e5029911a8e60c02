"""Sources, environments and facts of imports on this machine: checked, locked while in use, removed if unused.

Results of checkpoints are in ``run.cache``.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

_SUM_SIZE = 64


def read_entry(path: Path) -> bytes | None:
    """The body kept at ``path``; None if there is none, or its checksum does not fit."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    checksum, body = content[:_SUM_SIZE], content[_SUM_SIZE + 1 :]
    return body if checksum == hashlib.sha256(body).hexdigest().encode() else None


def write_entry(path: Path, body: bytes) -> None:
    """Keep ``body`` at ``path``, written whole or not at all. An unwritable cache (read-only, full) is no error."""
    temporary: str | None = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        Path(temporary).replace(path)
    except OSError:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


KINDS = {"environments": "environment", "sources": "source"}
"""Folder of the cache → the kind of its entries."""

DOOMED = ".gone-"
DAY = 86_400


@dataclass(frozen=True, slots=True)
class Unused:
    """A folder that was not used for so many days; its size in bytes."""

    kind: str
    path: str
    days: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """The folders below ``cache`` that were, or would be, removed."""

    cache: str
    deleted: bool
    folders: tuple[Unused, ...]


def prune(cache: Path, unused_for: timedelta, *, delete: bool) -> Pruned:
    """Find the environments and sources below ``cache`` that were not used lately; ``delete``: remove them."""
    found = []
    for name, kind in KINDS.items():
        for folder in sorted(path for path in (cache / name).glob("*") if path.is_dir() and not path.is_symlink()):
            with suppress(OSError):
                unused = _look_at(folder, kind, unused_for.total_seconds(), delete=delete)
                found += [unused] if unused else []
    return Pruned(str(cache), delete, tuple(found))


def _look_at(folder: Path, kind: str, seconds: float, *, delete: bool) -> Unused | None:
    if DOOMED in folder.name:
        # A removal was stopped; no reader finds the folder under this name.
        return _remove(folder, kind, folder, delete=delete)
    # No lock is taken, and no lock file made, for a folder that was used lately.
    lock = lock_of(folder)
    if time.time() - (lock if lock.exists() else folder).stat().st_mtime < seconds:
        return None
    with alone(folder) as used:
        if used is None or time.time() - used < seconds:
            return None
        doomed = folder
        if delete:
            doomed = folder.with_name(f"{folder.name}{DOOMED}{os.getpid()}")
            folder.rename(doomed)
    return _remove(doomed, kind, folder, delete=delete, days=int((time.time() - used) // DAY))


def _remove(doomed: Path, kind: str, folder: Path, *, delete: bool, days: int = 0) -> Unused:
    size = sum(path.lstat().st_size for path in doomed.rglob("*") if not path.is_dir() or path.is_symlink())
    if delete:
        shutil.rmtree(doomed, ignore_errors=True)
    return Unused(kind, str(folder), days, size)


SUFFIX = ".used"
_held: dict[str, int] = {}
"""Folder → the descriptor by which this process holds it."""


@contextmanager
def using(folder: Path) -> Iterator[None]:
    """Hold ``folder``, which need not exist yet, during the block."""
    descriptor = take(folder)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def take(folder: Path) -> int | None:
    """Hold ``folder`` until the returned descriptor is closed, or this process ends.

    None if the cache can't be written: then nothing in it can be removed either.
    """
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(lock_of(folder), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        os.utime(descriptor)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def hold(folder: Path) -> None:
    """Hold ``folder`` until this process ends, and set its time of use to now."""
    name = str(folder)
    if name in _held:
        with suppress(OSError):
            os.utime(_held[name])
    elif (descriptor := take(folder)) is not None:
        _held[name] = descriptor


@contextmanager
def alone(folder: Path) -> Iterator[float | None]:
    """Lock ``folder`` exclusively; gives the time of its last use in seconds, None if it is in use now.

    For a folder without a lock file, the time of its last change stands for it.
    """
    path = lock_of(folder)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        used = folder.stat().st_mtime
        os.utime(descriptor, (used, used))
    except FileExistsError:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield os.fstat(descriptor).st_mtime
    except BlockingIOError:
        yield None
    finally:
        os.close(descriptor)


def lock_of(folder: Path) -> Path:
    """The lock file of a folder, ``3f….used``; copies of one source (``3f….1``) share it."""
    return folder.with_name(f"{folder.name.partition('.')[0]}{SUFFIX}")
