"""The second primitive: a log of numbered entries, each created once, never changed and never removed.

Entry 42 of the log in ``research/lock/`` is ``research/lock/000000000042.json``. Of all writers that append the same
number exactly one gets ``Created``; the others get ``Taken`` with the winner's bytes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from kitaru.model import address
from kitaru.model.pieces import Body
from kitaru.store.port import Created, Store, Taken

PROBES = 3
"""How many entries are read one by one before the log is listed."""

SLOW_READ = 0.002
"""Seconds. If one read takes longer, several threads make the others."""

READERS = 16


@dataclass(frozen=True, slots=True)
class Log:
    """One log: ``Log(store, "research/lock/")``. ``folder`` ends with a slash."""

    store: Store
    folder: str

    def key(self, number: int) -> str:
        """The key of an entry: ``research/lock/000000000042.json``."""
        return address.log_entry(self.folder, number)

    def append(self, number: int, body: Body) -> Created | Taken:
        """Write entry ``number``, durably, if it is free. The caller has seen entry ``number - 1``."""
        return self.store.create(self.key(number), body)

    def read(self, number: int) -> bytes | None:
        """The bytes of an entry; None after the end."""
        return self.store.read(self.key(number))

    def read_each(self, numbers: Sequence[int]) -> list[bytes | None]:
        """The bytes of these entries, in their order."""
        return read_many(self.store, [self.key(number) for number in numbers])

    def read_on(self, known: tuple[bytes, ...] = ()) -> tuple[bytes, ...]:
        """All entries from the first to the end, with those already ``known``.

        A short rest is probed, one read an entry; a long one is listed and read by several threads if reads are slow.
        """
        entries = list(known)
        while True:
            for _ in range(PROBES):
                body = self.read(len(entries) + 1)
                if body is None:
                    return tuple(entries)
                entries.append(body)
            listed = self.store.names(self.folder, after=self.key(len(entries)).rpartition("/")[2])
            for body in self.read_each(range(len(entries) + 1, len(entries) + 1 + len(listed))):
                if body is None:
                    break
                entries.append(body)

    def listing(self) -> tuple[list[int], list[str]]:
        """The numbers of all entries, sorted, and the other names: ``([1, 2, 4], ["notes.txt"])``.

        Numbers that are missing in the middle are holes: see ``runs``.
        """
        numbers, foreign = [], []
        for name in self.store.names(self.folder):
            stem = name.removesuffix(".json")
            if stem.isdecimal() and int(stem) > 0 and self.folder + name == self.key(int(stem)):
                numbers.append(int(stem))
            else:
                foreign.append(name)
        return sorted(numbers), foreign


def runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """The first and last of each run without a hole: ``[1, 2, 4]`` → ``[(1, 2), (4, 4)]``. ``numbers`` are sorted."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def claim(store: Store, key: str, body: Body) -> Created | Taken:
    """Create a key outside any log: the first writer wins. For answers, requests and idempotency keys."""
    return store.create(key, body)


def withdraw(store: Store, key: str) -> None:
    """Free a claimed key: a request that is void, an answer that was refused."""
    store.remove(key)


def read_many(store: Store, keys: Sequence[str]) -> list[bytes | None]:
    """The bytes under ``keys``, in their order; by several threads if the first read is slow."""
    if not keys:
        return []
    begun = time.perf_counter()
    first = store.read(keys[0])
    if len(keys) < 3 or time.perf_counter() - begun <= SLOW_READ:
        return [first, *map(store.read, keys[1:])]
    from concurrent.futures import ThreadPoolExecutor  # it loads logging, which a quick store need not wait for

    with ThreadPoolExecutor(min(READERS, len(keys) - 1)) as pool:
        return [first, *pool.map(store.read, keys[1:])]
