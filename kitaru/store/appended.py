"""Logs on a local disk: entries appended to a file, one sync each, under the keys that they have in every store.

``journal/000000000001.log`` holds the entries one after the other, and only its maker appends to it. A process that
goes on with the log makes the next file, ``000000000002.log``; its first frame says how many entries of each former
file count. A maker looks for the next file after each sync, before it answers: where there is one, it reads again
which entries count. So each entry is created once, as with one file an entry, for less than half of the cost.

A frame is a line with the start of the body's SHA-256 and its length in bytes, the body, and a newline::

    9f86d081884c7d65 47
    {"events":[],"format":1,"number":2,"write":"a"}

A torn last frame counts as not written.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from kitaru.errors import KitaruIntegrityError, KitaruStoreError
from kitaru.model.address import log_entry
from kitaru.model.pieces import Body, chunks_of
from kitaru.store.local import LocalStore, sync_folder
from kitaru.store.port import Created, Listed, Taken, check_body, check_key, check_prefix

# Bare system calls: a checkpoint is counted in microseconds.
# ruff: noqa: PTH110

_HEADER = re.compile(rb"([0-9a-f]{16}) ([1-9]\d{0,14})\n")
_FOLDER = "/journal"
_LOGS = 128
"""How many logs are remembered, each with at most one open file."""

_OF_THE_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "afs"}
_ATTEMPTS = 50
"""How often a writer looks again because another one made the next file meanwhile."""


def frame(body: bytes) -> bytes:
    """The bytes that stand for one entry: its header line, the body, a newline."""
    return b"%s %d\n%s\n" % (_digest(body), len(body), body)


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:16].encode()


def _frame_at(data: bytes, position: int) -> tuple[int, int] | None:
    """Where the body of the whole frame at ``position`` begins and ends; None if there is none."""
    header = _HEADER.match(data, position)
    if header is None:
        return None
    start, end = header.end(), header.end() + int(header[2])
    whole = data[end : end + 1] == b"\n" and _digest(data[start:end]) == header[1]
    return (start, end) if whole else None


@dataclass(slots=True)
class _File:
    """One file of the log, as far as it was read."""

    path: str
    counts: tuple[int, ...] | None = None
    """How many entries of each former file count, by its first frame; None while it has none."""
    places: list[tuple[int, int]] = field(default_factory=list)
    """Where the body of each entry begins and ends."""
    end: int = 0
    """Where the next frame begins."""
    newest: tuple[int, bytes] = (0, b"")
    """Where the newest frame begins, and its header line."""

    def read_on(self) -> None:
        """Take in the frames that came since, up to the end or a torn one.

        Raises ``FileNotFoundError`` if the file was removed.
        """
        base, known = self.newest
        with open(self.path, "rb", buffering=0) as file:
            file.seek(base)
            data = file.readall() or b""
        if not data.startswith(known):
            raise FileNotFoundError(errno.ENOENT, "another file took its place", self.path)
        position = self.end - base
        while (place := _frame_at(data, position)) is not None:
            start, end = place
            if self.counts is None:
                self.counts = tuple(json.loads(data[start:end])["counts"])
            else:
                self.places.append((base + start, base + end))
            self.newest = (base + position, data[position:start])
            position = end + 1
        self.end = base + position
        if any(_frame_at(data, header.start()) for header in _HEADER.finditer(data, position)):
            raise KitaruIntegrityError(
                f"{self.path} is damaged at byte {self.end}: whole entries follow a broken one",
                hint="restore the file from a backup; kitaru store verify --deep looks for more",
            )

    def bodies(self, places: list[tuple[int, int]]) -> list[bytes]:
        """The bodies at these places, which follow each other, by one read."""
        if not places:
            return []
        first = places[0][0]
        with open(self.path, "rb", buffering=0) as file:
            file.seek(first)
            data = file.read(places[-1][1] - first) or b""
        return [data[start - first : end - first] for start, end in places]


class AppendedLog:
    """The log in one folder. Its methods may be called from several threads, and by several processes at once.

    ``make_folder`` makes the folder, durably.
    """

    def __init__(self, folder: str, make_folder: Callable[[str], None]) -> None:
        self._folder = folder
        self._make_folder = make_folder
        self._guard = threading.Lock()
        self._files: list[_File] = []
        self._own: int | None = None
        """The descriptor of the newest file, if this object made it."""
        self._process = 0

    def append(self, number: int, body: bytes) -> Created | Taken:
        """Write entry ``number``, durably, if it is free and follows the newest.

        Raises ``KitaruStoreError`` where it would leave a hole. After an ``OSError`` of the disk it may be there or
        not: append the same bytes again to know.
        """
        with self._guard:
            for _ in range(_ATTEMPTS):
                outcome = self._append(number, body)
                if outcome is not None:
                    return outcome
        raise KitaruStoreError(
            f"other processes write the log {self._folder} again and again", hint="stop all but one of them"
        )

    def read(self, number: int) -> bytes | None:
        """The bytes of an entry; None after the end."""
        with self._guard:
            self._look()
            return self._body(number)

    def read_from(self, number: int) -> list[bytes]:
        """The bytes of that entry and of all later ones."""
        with self._guard:
            self._look()
            bodies: list[bytes] = []
            skipped = number - 1
            for file, count in zip(self._files, self._counts(), strict=True):
                bodies += file.bodies(file.places[skipped:count])
                skipped = max(0, skipped - count)
            return bodies

    def sizes(self) -> list[tuple[int, datetime]]:
        """The size of each entry in bytes, and when its file was last written."""
        with self._guard:
            self._look()
            sizes: list[tuple[int, datetime]] = []
            for file, count in zip(self._files, self._counts(), strict=True):
                modified = datetime.fromtimestamp(Path(file.path).stat().st_mtime, UTC)
                sizes += [(end - start, modified) for start, end in file.places[:count]]
            return sizes

    def length(self) -> int:
        """The number of the newest entry; 0 where there is none."""
        with self._guard:
            self._look()
            return sum(self._counts())

    def __del__(self) -> None:
        self._release()

    def _append(self, number: int, body: bytes) -> Created | Taken | None:
        """Append to the own file or to a new one, or find that the number is taken. None if another was quicker."""
        self._look()
        former, length = len(self._files), sum(self._counts())
        if number > length + 1:
            raise KitaruStoreError(
                f"entry {number} of the log {self._folder} can't follow entry {length}",
                hint="kitaru store verify --deep",
            )
        if number <= length and self._files[-1].counts is not None:
            return self._found(number, body)
        if self._own is not None:
            return Created() if self._write(None, body) else None
        self._make_folder(self._folder)
        try:
            self._own = os.open(self._path(former + 1), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            return None
        self._process = os.getpid()
        try:
            # The maker of the former file finds this one after its next sync, and then does not answer. All entries
            # that it answered for are there to be read now.
            for path in (self._folder, *(file.path for file in self._files[-1:])):
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    sync_folder(descriptor)
                finally:
                    os.close(descriptor)
            self._files.append(_File(self._path(former + 1)))
            self._read()
        except BaseException:
            self._forget()
            raise
        counts = self._counts()[:former]
        free = number == sum(counts) + 1
        if not self._write(counts, body if free else None):
            return None
        return Created() if free else self._found(number, body)

    def _write(self, counts: list[int] | None, body: bytes | None) -> bool:
        """Append these frames to the own file, durably. False if another process has made the next file."""
        assert self._own is not None
        file = self._files[-1]
        data = frame(json.dumps({"counts": counts}).encode()) if counts is not None else b""
        data += frame(body) if body is not None else b""
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._own, memoryview(data)[written:], file.end + written)
            _sync(self._own)
        except BaseException:
            self._forget()
            raise
        if counts is not None:
            file.counts = tuple(counts)
        file.end += len(data)
        if body is not None:
            file.places.append((file.end - len(body) - 1, file.end - 1))
        if self._is_newest():
            return True
        self._forget()
        return False

    def _is_newest(self) -> bool:
        """Whether this process made the own file, which is there, and none is after it."""
        if self._own is None or self._process != os.getpid() or not os.fstat(self._own).st_nlink:
            return False
        return not os.path.exists(self._path(len(self._files) + 1))

    def _look(self) -> None:
        """Learn of all entries that there are now. After it an own file is the newest one."""
        if self._is_newest():
            return
        if self._own is not None:
            self._forget()
        for _ in range(_ATTEMPTS):
            while os.path.exists(path := self._path(len(self._files) + 1)):
                self._files.append(_File(path))
            try:
                self._read()
                return
            except FileNotFoundError:
                # The log was removed, and perhaps another began.
                self._files.clear()

    def _read(self) -> None:
        for file in reversed(self._files):
            file.read_on()
            if file.counts is not None:
                break
        for file, count in zip(self._files, self._counts(), strict=True):
            if len(file.places) < count:
                file.read_on()

    def _counts(self) -> list[int]:
        """How many entries of each file count: the newest file with a first frame says it of those before it."""
        for place in range(len(self._files) - 1, -1, -1):
            file = self._files[place]
            if file.counts is not None:
                return [*file.counts, len(file.places), *[0] * (len(self._files) - place - 1)]
        return [0] * len(self._files)

    def _body(self, number: int) -> bytes | None:
        for file, count in zip(self._files, self._counts(), strict=True):
            if number <= count:
                return file.bodies([file.places[number - 1]])[0]
            number -= count
        return None

    def _found(self, number: int, body: bytes) -> Created | Taken:
        existing = self._body(number)
        assert existing is not None
        return Created(found=True) if existing == body else Taken(existing)

    def _path(self, number: int) -> str:
        return f"{self._folder}/{_file(number)}"

    def _release(self) -> None:
        if self._own is not None:
            own, self._own = self._own, None
            os.close(own)

    def _forget(self) -> None:
        self._release()
        self._files.clear()


class AppendingStore(LocalStore):
    """A folder that keeps each log below a folder ``journal/`` as files that are appended to.

    Such a log has the keys that it has in every store: entry 42 is ``…/journal/000000000042.json``, to be created, read
    and listed. To remove its first entry removes the log. A log whose second entry came first is kept as one file an
    entry, as is one on a disk of the network, where a writer can't see at once that another one has begun.
    """

    def __init__(self, root: Path, url: str) -> None:
        """``root`` need not exist; the first write makes it. Messages name the store by ``url``."""
        super().__init__(root, url)
        self._logs: OrderedDict[str, AppendedLog] = OrderedDict()
        self._logs_guard = threading.Lock()

    @cached_property
    def _shared(self) -> bool:
        return _is_of_the_network(self._root)

    def read(self, key: str) -> bytes | None:
        log, number = self._log_of(key)
        if log is None:
            return super().read(key)
        with self._told("read", key):
            return log.read(number)

    def create(self, key: str, body: Body) -> Created | Taken:
        log, number = self._log_of(key, begins=True)
        if log is None:
            return super().create(key, body)
        check_body(key, body)
        data = body if isinstance(body, bytes) else b"".join(chunks_of(body))
        with self._told("write", key):
            try:
                return log.append(number, data)
            except FileNotFoundError:  # the folder was removed since it was made
                self._settled.clear()
                return log.append(number, data)

    def names(self, prefix: str, *, after: str = "") -> list[str]:
        check_prefix(prefix)
        log, _ = self._log_of(log_entry(prefix, 1))
        if log is None:
            return super().names(prefix, after=after)
        with self._told("list", prefix):
            return [name for number in range(1, log.length() + 1) if (name := log_entry("", number)) > after]

    def listed(self, prefix: str) -> Iterator[Listed]:
        for one in super().listed(prefix):
            folder, _, name = one.key.rpartition("/")
            log = self._log_of(log_entry(f"{folder}/", 1))[0] if name.endswith(".log") else None
            if log is None:
                yield one
            elif name == _file(1):
                with self._told("list", folder):
                    sizes = log.sizes()
                for number, (size, modified) in enumerate(sizes, start=1):
                    yield Listed(log_entry(f"{folder}/", number), size, modified)

    def remove(self, key: str) -> None:
        log, number = self._log_of(key)
        if log is None:
            super().remove(key)
        elif number == 1:
            folder = key.rpartition("/")[0]
            with self._logs_guard:
                self._logs.pop(folder, None)
            # The first file first: without it there is no log.
            for name in sorted(super().names(f"{folder}/")):
                super().remove(f"{folder}/{name}")

    def _log_of(self, key: str, *, begins: bool = False) -> tuple[AppendedLog | None, int]:
        """The log that holds the entry ``key``, and the entry's number; None for all that is kept by itself."""
        check_key(key)
        folder, _, name = key.rpartition("/")
        if not (folder.endswith(_FOLDER) and len(name) == len(log_entry("", 1)) and name[:12].isdecimal()):
            return None, 0
        number, path = int(name[:12]), f"{self._root}/{folder}"
        if not os.path.exists(f"{path}/{_file(1)}"):
            alone = any(os.path.exists(log_entry(f"{path}/", known)) for known in (1, 2))
            if not begins or number > 1 or alone or self._shared:
                return None, 0
        elif begins and self._shared:
            raise KitaruStoreError(
                f"{folder} in the store {self.url} was begun on the machine of that disk and is written there alone",
                hint="go on with the execution there",
            )
        with self._logs_guard:
            log = self._logs.get(folder)
            if log is None:
                log = self._logs[folder] = AppendedLog(path, self._settle)
                if len(self._logs) > _LOGS:
                    self._logs.popitem(last=False)
            self._logs.move_to_end(folder)
        return log, number


def _file(number: int) -> str:
    return f"{number:012}.log"


def _is_of_the_network(folder: str) -> bool:
    """Whether a folder lies on a file system that other machines write, too, as far as Linux says."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text("utf-8", "replace").splitlines()]
    except OSError:
        return False
    above = [(len(point), kind) for _, point, kind, *_ in mounts if f"{folder}/".startswith(f"{point.rstrip('/')}/")]
    kind = max(above)[1] if above else ""
    return kind.startswith("fuse.") or kind in _OF_THE_NETWORK


def _sync(descriptor: int) -> None:
    getattr(os, "fdatasync", os.fsync)(descriptor)
