"""``Store`` on a local disk: one file a key, and a hard link as the atomic create.

No third-party import: a command on a local store must start at once.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from kitaru.errors import KitaruStoreError
from kitaru.model.pieces import Body, chunks_of
from kitaru.store.port import TEMPORARY, Created, Listed, Taken, check_body, check_key, check_prefix

# Bare system calls throughout: they take folders by descriptor, and a checkpoint is counted in microseconds.
# ruff: noqa: PTH100, PTH102, PTH106, PTH108, PTH112, PTH120


ATTEMPTS = 20
"""How often a write begins again because its folder, or the file of its key, was removed meanwhile."""

COMPARED_BYTES = 1 << 20
"""How much of a file is in memory at once during a comparison."""

SETTLED_FOLDERS = 4096
"""How many folders are remembered as durable."""

STALE_SECONDS = 24 * 3600.0
"""An unfinished file of this age belongs to a process that died."""

Outcome = TypeVar("Outcome", bound="Created | Taken")

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CLOEXEC
_ANONYMOUS = getattr(os, "O_TMPFILE", 0)
_NO_ANONYMOUS_FILES = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.EXDEV, errno.EPERM}

_HINTS = {
    errno.ENOSPC: "free some space there, and try again",
    errno.EDQUOT: "your quota there is used up; free some space, and try again",
    errno.EFBIG: "raise the limit on file sizes (`ulimit -f`)",
    errno.EACCES: "check the owner and the permissions of that folder, or choose another with --store",
    errno.EPERM: "check that the file system allows hard links and that you may write there, or choose another --store",
    errno.EROFS: "the file system is mounted read-only; choose another folder with --store",
    errno.ENOTDIR: "a file stands where the store needs a folder; move it away, or choose another folder with --store",
    errno.EISDIR: "a folder stands where the store needs a file; move it away, or choose another folder with --store",
    errno.ENAMETOOLONG: "choose a folder with a shorter path with --store",
    errno.EMFILE: "raise the limit on open files (`ulimit -n`)",
    errno.ENFILE: "the system has too many open files; close some programs and try again",
    errno.ELOOP: "the path leads through symbolic links in a circle; choose another folder with --store",
    errno.ENOENT: "another program removes this folder while it is in use; choose another folder with --store",
}


class LocalStore:
    """A folder: each key is a file below it, written whole under a temporary name and then linked.

    ``names`` may name an empty folder if a writer was killed before its first file was complete.
    """

    durable_across_processes = True

    def __init__(self, root: Path, url: str) -> None:
        """``root`` need not exist; the first write makes it. Messages name the store by ``url``."""
        self.url = url
        self._root = os.path.abspath(root)
        self._settled: set[str] = set()
        self._anonymous = bool(_ANONYMOUS) and os.path.isdir("/proc/self/fd")

    def read(self, key: str) -> bytes | None:
        check_key(key)
        with self._told("read", key), _opened(f"{self._root}/{key}") as descriptor:
            return None if descriptor is None else _read(descriptor)

    def create(self, key: str, body: Body) -> Created | Taken:
        return self._write(key, body, self._create_in)

    def overwrite(self, key: str, body: Body, *, durable: bool = True) -> None:
        self._write(key, body, partial(_overwrite_in, durable=durable))

    def _write(self, key: str, body: Body, write: Callable[[int, str, Body], Outcome | None]) -> Outcome:
        """Call ``write`` with the open folder of the key, again if the folder or the key was removed meanwhile."""
        check_key(key)
        check_body(key, body)
        with self._told("write", key):
            for _ in range(ATTEMPTS):
                with suppress(FileNotFoundError), self._folder(key) as (folder, name):
                    outcome = write(folder, name, body)
                    if outcome is not None:
                        return outcome
            raise FileNotFoundError(errno.ENOENT, "the folder vanishes again and again")

    def names(self, prefix: str, *, after: str = "") -> list[str]:
        check_prefix(prefix)
        with self._told("list", prefix):
            entries = (entry for entry in self._entries(prefix) if entry.name > after)
            return sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries)

    def listed(self, prefix: str) -> Iterator[Listed]:
        check_prefix(prefix)
        folders = [prefix]
        with self._told("list", prefix):
            for folder in folders:
                for entry in self._entries(folder):
                    if entry.is_dir():
                        folders.append(f"{folder}{entry.name}/")
                        continue
                    with suppress(FileNotFoundError):
                        found = entry.stat()
                        modified = datetime.fromtimestamp(found.st_mtime, UTC)
                        yield Listed(f"{folder}{entry.name}", found.st_size, modified)

    def remove(self, key: str) -> None:
        check_key(key)
        path = f"{self._root}/{key}"
        with self._told("remove", key):
            try:
                os.unlink(path)
            except (FileNotFoundError, NotADirectoryError):
                return
            except (IsADirectoryError, PermissionError):
                # Only a file is a key. Some systems say EPERM for a folder.
                if os.path.isdir(path):
                    return
                raise
            self._remove_empty_folders(os.path.dirname(path))

    def _entries(self, prefix: str) -> Iterator[os.DirEntry[str]]:
        """The entries of a folder without unfinished files; stale ones are removed."""
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(f"{self._root}/{prefix}") as entries:
            for entry in entries:
                if not entry.name.startswith(TEMPORARY):
                    yield entry
                    continue
                with suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > STALE_SECONDS:
                        os.unlink(entry.path)

    def _create_in(self, folder: int, name: str, body: Body) -> Created | Taken | None:
        """None if the key was taken, and then removed before its bytes could be read."""
        # Compare first, so that an existing object is not written a second time.
        outcome: Created | Taken | None = _compared(name, folder, body)
        if outcome is None and self._link(folder, name, body):
            outcome = Created()
        elif outcome is None:
            outcome = _compared(name, folder, body)
            if outcome is None and stat.S_ISDIR(os.stat(name, dir_fd=folder).st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        # Its writer may not have synced the folder yet, and the caller relies on the key.
        sync_folder(folder)
        return outcome

    def _link(self, folder: int, name: str, body: Body) -> bool:
        """Write the body to an unnamed or temporary file, durably, and link it; False if the name is taken."""
        if self._anonymous:
            try:
                return _link_anonymous(folder, name, body)
            except OSError as error:
                if error.errno not in _NO_ANONYMOUS_FILES:
                    raise
                self._anonymous = False
        with _temporary(folder, body) as temporary:
            try:
                os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            except FileExistsError:
                return False
            return True

    @contextmanager
    def _folder(self, key: str) -> Iterator[tuple[int, str]]:
        """The open folder of ``key``, made if need be and durable, and the key's name in it."""
        above, _, name = key.rpartition("/")
        path = f"{self._root}/{above}" if above else self._root
        try:
            if path not in self._settled:
                self._settle(path)
            descriptor = os.open(path, _FOLDER)
            try:
                yield descriptor, name
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            # Another process removed one of the folders: settle all of them again.
            self._settled.clear()
            raise

    def _settle(self, path: str) -> None:
        """Make ``path`` and the folders above it exist, and their entries durable.

        The entry of a folder that exists is synced once, too: its maker may not have synced it yet, and a file is only
        as durable as the path that leads to it.
        """
        unsettled = []
        while path not in self._settled and (len(path) >= len(self._root) or not os.path.isdir(path)):
            unsettled.append(path)
            path = os.path.dirname(path)
        for folder in reversed(unsettled):
            try:
                # The store's own folder is closed to others; one that an admin made for a team stays as it is.
                os.mkdir(folder, 0o700 if folder == self._root else 0o777)
            except FileExistsError:
                # By one look what is there, as others may remove the folder and make it again; a link may lead to one.
                with suppress(FileNotFoundError):
                    if not stat.S_ISDIR(os.lstat(folder).st_mode) and not os.path.isdir(folder):
                        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from None
        if len(self._settled) > SETTLED_FOLDERS:
            self._settled.clear()
        for folder in reversed(unsettled):
            parent = os.path.dirname(folder)
            try:
                descriptor = os.open(parent, _FOLDER)
            except PermissionError:
                # A folder above the store may be unreadable; then this process made nothing in it.
                continue
            try:
                sync_folder(descriptor)
            finally:
                os.close(descriptor)
            self._settled.add(folder)

    def _remove_empty_folders(self, path: str) -> None:
        while len(path) > len(self._root):
            self._settled.discard(path)
            try:
                os.rmdir(path)
            except OSError:
                return
            path = os.path.dirname(path)

    @contextmanager
    def _told(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            message = f"can't {verb} {key or 'the root'!r} in the store {self.url} ({self._root}): {reason}"
            hint = _HINTS.get(error.errno or 0, "check the disk and the folder's path")
            raise KitaruStoreError(message, hint=hint) from error


def _link_anonymous(folder: int, name: str, body: Body) -> bool:
    """Link a file that has no name until it is complete: a killed writer leaves no file behind."""
    descriptor = os.open(".", _WRITE | _ANONYMOUS, 0o666, dir_fd=folder)
    try:
        _write(descriptor, body)
        os.fsync(descriptor)
        try:
            os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=folder)
        except FileExistsError:
            return False
        return True
    finally:
        os.close(descriptor)


@contextmanager
def _temporary(folder: int, body: Body, *, durable: bool = True) -> Iterator[str]:
    """The name of a complete file in ``folder``, removed at the end unless it was moved."""
    name = f"{TEMPORARY}{os.getpid()}.{os.urandom(8).hex()}"
    descriptor = os.open(name, _WRITE | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
    try:
        try:
            _write(descriptor, body)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        yield name
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


def _write(descriptor: int, body: Body) -> None:
    for chunk in chunks_of(body):
        written = os.write(descriptor, chunk)
        while written < len(chunk):
            written += os.write(descriptor, memoryview(chunk)[written:])


def sync_folder(descriptor: int) -> None:
    """Make the names in an open folder durable, or what an open file holds."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems can't sync a folder, and need not.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def _overwrite_in(folder: int, name: str, body: Body, *, durable: bool) -> Created:
    with _temporary(folder, body, durable=durable) as temporary:
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    if durable:
        sync_folder(folder)
    return Created()


def _compared(name: str, folder: int, body: Body) -> Created | Taken | None:
    """The outcome of a create for a name that is there; None if there is no such file.

    A large file is compared in pieces, without a second copy in memory.
    """
    with _opened(name, folder) as descriptor:
        if descriptor is None:
            return None
        if len(body) > COMPARED_BYTES and os.fstat(descriptor).st_size == len(body):
            view, done = memoryview(body) if isinstance(body, bytes) else body, 0
            while (part := os.read(descriptor, COMPARED_BYTES)) and view[done : done + len(part)] == part:
                done += len(part)
            if done == len(body):
                return Created(found=True)
            os.lseek(descriptor, 0, os.SEEK_SET)
        existing = _read(descriptor)
    return Created(found=True) if existing == body else Taken(existing)


@contextmanager
def _opened(path: str, folder: int | None = None) -> Iterator[int | None]:
    """The file, open for reading; None if there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    try:
        yield None if stat.S_ISDIR(os.fstat(descriptor).st_mode) else descriptor
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    body = os.read(descriptor, size + 1)
    if len(body) == size:
        return body
    # A read gives at most 2 GiB at once.
    parts = [body]
    while part := os.read(descriptor, 1 << 30):
        parts.append(part)
    return b"".join(parts)
