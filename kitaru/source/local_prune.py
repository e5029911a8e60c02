"""Remove from this machine's caches what nobody has used for long and nobody uses now."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from kitaru.source.local_use import alone, lock_of

KINDS = {"environments": "environment", "sources": "source"}
"""Folder of the cache → what is in it."""

DOOMED = ".gone-"
DAY = 86_400


@dataclass(frozen=True, slots=True)
class Unused:
    """A folder that nobody has used for so many days; its size in bytes."""

    kind: str
    path: str
    days: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was, or would be, removed below ``cache``."""

    cache: str
    deleted: bool
    folders: tuple[Unused, ...]


def prune(cache: Path, unused_for: timedelta, *, delete: bool) -> Pruned:
    """Find the environments and sources below ``cache`` that nobody uses or used lately; ``delete``: remove them."""
    found = []
    for name, kind in KINDS.items():
        with suppress(FileNotFoundError, NotADirectoryError):
            for folder in sorted(path for path in (cache / name).iterdir() if path.is_dir() and not path.is_symlink()):
                with suppress(OSError):
                    unused = _look_at(folder, kind, unused_for.total_seconds(), delete=delete)
                    found += [unused] if unused else []
    return Pruned(str(cache), delete, tuple(found))


def _look_at(folder: Path, kind: str, seconds: float, *, delete: bool) -> Unused | None:
    if DOOMED in folder.name:
        # Somebody was stopped while removing it; nobody finds it under this name.
        return _remove(folder, kind, folder, delete=delete)
    # Nothing is locked, nor a lock file made, for what was used lately.
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
