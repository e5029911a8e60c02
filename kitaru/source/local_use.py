"""Folders of a cache that are in use: who works in one holds its lock file, and each use leaves its time there.

The lock is the kernel's, and shared by all users: it goes with the last of them, however they end. Who removes a folder
holds it alone from the look at that time until the folder has another name, so a user finds the folder whole, or makes
it anew. Lock files stay: they are empty, and two could hold one that was removed in between.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SUFFIX = ".used"
_held: dict[str, int] = {}
"""Folder → the descriptor by which this process holds it."""


@contextmanager
def using(folder: Path) -> Iterator[None]:
    """Hold ``folder``, which need not be there yet, for as long as the block lasts."""
    descriptor = take(folder)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def take(folder: Path) -> int | None:
    """Hold ``folder`` until the descriptor that is returned is closed, or this process has ended.

    None where the cache can't be written: then nobody can remove anything there either.
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
    """Hold ``folder`` until this process has ended; it is used now."""
    name = str(folder)
    if name in _held:
        with suppress(OSError):
            os.utime(_held[name])
    elif (descriptor := take(folder)) is not None:
        _held[name] = descriptor


@contextmanager
def alone(folder: Path) -> Iterator[float | None]:
    """Hold ``folder`` against every user; gives when it was last used, None where somebody uses it now.

    A folder that an earlier release made has no time of use: that of its own last change stands for it.
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
    """The lock file of a folder; copies of one source (``<digest>.1``) share it."""
    return folder.with_name(f"{folder.name.partition('.')[0]}{SUFFIX}")
