"""Which objects are needed: by the states of the lock log, and by the journals of executions."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from kitaru.errors import KitaruIntegrityError, KitaruStoreFormatError
from kitaru.model import address
from kitaru.model.event import Event, Opened
from kitaru.model.execution import fold
from kitaru.model.lockfile import Drop, FlowState, Generation, Lockfile, Mint, Rename
from kitaru.model.snapshot import Snapshot
from kitaru.ports import Store
from kitaru.release.history import Past
from kitaru.run.journal import read_events, read_many
from kitaru.store.records import parse, read_object, read_table
from kitaru.upkeep.retention import held

AT_ONCE = 16
BATCH = 256

DIGEST = re.compile(rb"[0-9a-f]{64}")
TABLE = re.compile(rb'"(?:table|expects)":"([0-9a-f]{64})"')
"""Where an entry of the lock log names a version table, before and after."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Window:
    """The generations that were the newest one at some moment of the grace period.

    ``since`` is the oldest of them; ``tables`` are the version tables of them all, ``dropped`` the versions that were
    deleted in this time.
    """

    since: int
    tables: frozenset[str] = frozenset()
    dropped: Mapping[str, Collection[int]] = field(default_factory=dict)


def recent(store: Store, project: str, head: Lockfile, horizon: datetime) -> Window:
    """The window from ``horizon``, by the store's clock, to ``head``."""
    young = [number for number, modified in _generations(store, project) if modified >= horizon]
    since = min(min(young, default=head.generation + 1) - 1, head.generation)
    before = Past(store, project).state(since) if since else Lockfile(project=project)
    tables = {state.table for state in before.flows.values()}
    dropped: dict[str, set[int]] = {}
    for body in log_bodies(store, project, range(since + 1, head.generation + 1)):
        for edit in parse(Generation, body, address.generations(project)).edits:
            match edit:
                case Mint(table=table):
                    tables.add(table)
                case Drop(flow=flow, version=version, table=table):
                    tables.add(table)
                    dropped.setdefault(flow, set()).add(version)
                case Rename(flow=flow, was=was):
                    dropped[flow] = dropped.pop(was, set())
                case _:
                    pass
    return Window(since, frozenset(tables), dropped)


def log_bodies(store: Store, project: str, numbers: Sequence[int]) -> Iterator[bytes]:
    """The bytes of these generations, in order."""
    for start in range(0, len(numbers), BATCH):
        keys = [address.generation(project, number) for number in numbers[start : start + BATCH]]
        for key, body in zip(keys, read_many(store, keys), strict=True):
            if body is None:
                raise KitaruIntegrityError(f"{key} is missing from the lock log", hint="kitaru store verify")
            yield body


def _generations(store: Store, project: str) -> Iterator[tuple[int, datetime]]:
    for one in store.listed(address.generations(project)):
        name = one.key.rpartition("/")[2].removesuffix(".json")
        if name.isdecimal():
            yield int(name), one.modified


class Needs:
    """Digests of what is needed. It only ever grows: what was needed while a collector ran stays."""

    def __init__(self, store: Store, project: str, without: Mapping[str, Collection[int]] | None = None) -> None:
        """``without``: versions of each flow that count as deleted."""
        self.blobs: set[str] = set()
        self.sources: set[str] = set()
        """Source trees: an archive and the object that lists it."""
        self.deleted: dict[str, str] = {}
        """Snapshots of versions that were deleted → their sources."""
        self._store = store
        self._project = project
        self._without = without or {}
        self._tables: dict[str, str] = {}
        self._pinned: set[str] = set()

    def covers(self, key: str) -> bool:
        """Whether the object under ``key`` is needed."""
        sha = digest_of(key)
        return sha in self.sources or (sha in self.blobs and not key.endswith(".zst"))

    def add_state(self, lock: Lockfile, window: Window | None = None) -> None:
        """What ``lock`` needs: the version tables, and of every version that is not deleted snapshot and source.

        ``window``: what was needed by any of its states too.
        """
        if window is not None:
            self.blobs |= window.tables
        changed = [(name, one) for name, one in lock.flows.items() if self._tables.get(name) != one.table]

        def add(item: tuple[str, FlowState]) -> None:
            self._add_flow(*item, window.dropped.get(item[0], ()) if window else ())

        for _ in in_parallel(add, changed):
            pass
        # A route may have moved where no table did: to a version that is there, so this is for certainty alone.
        for state in lock.flows.values():
            self.blobs |= {one.snapshot for route in state.routes.values() for one in route.holders}

    def _add_flow(self, name: str, state: FlowState, dropped: Collection[int]) -> None:
        self.blobs.add(state.table)
        if not state.renamed_to:
            # The versions of a renamed flow are those of its new name.
            kept, gone = held(state), self._without.get(name, ())
            for row in read_table(self._store, self._project, state.table, name).releases:
                there = not row.deleted and row.version not in gone
                if there or row.version in dropped or row.version in kept:
                    self.blobs.add(row.snapshot)
                    self.sources.add(row.source)
                else:
                    self.deleted[row.snapshot] = row.source
        self._tables[name] = state.table

    def add_snapshot(self, sha: str) -> None:
        """An execution that has not ended runs this snapshot."""
        if sha in self._pinned:
            return
        self._pinned.add(sha)
        self.blobs.add(sha)
        source = self.deleted.get(sha)
        if source is None:
            what = f"snapshot {address.short(sha)}"
            with suppress(KitaruIntegrityError):  # gone already
                source = parse(Snapshot, read_object(self._store, self._project, sha, what), what).source
        if source is not None:
            self.sources.add(source)


@dataclass(frozen=True, slots=True)
class Journaled:
    """One execution, as its journal tells it.

    ``pinned`` is its snapshot while it has not ended; ``refers`` are the wanted digests that its journal names;
    ``quiet_since`` is when its newest record was written, by the store's clock. ``exists``: there is a first entry.
    """

    exec_id: str
    exists: bool
    ended: bool
    entries: int
    pinned: str | None
    refers: frozenset[str]
    quiet_since: datetime
    keys: int
    size: int


def look_at(store: Store, project: str, exec_id: str, wanted: Collection[str]) -> Journaled | None:
    """Read an execution's journal; None where nothing is under its name.

    Any digest that stands anywhere in it counts, so that what a later release writes there counts too; but for the
    snapshot of one that has ended. One whose journal can't be read has not ended.
    """
    found = list(store.listed(address.execution(project, exec_id)))
    if not found:
        return None
    folders = (address.journal(project, exec_id), address.wait_answers(project, exec_id))
    keys = sorted(one.key for one in found if one.key.startswith(folders))
    bodies = [body for key in keys if (body := store.read(key)) is not None]
    entries = sum(key.startswith(folders[0]) for key in keys)
    first = address.journal_entry(project, exec_id, 1) in keys
    events: list[Event] = []
    ended = False
    with suppress(KitaruIntegrityError, KitaruStoreFormatError):
        events = read_events(bodies[:entries], exec_id)
        ended = first and fold(events).ended
    opened = events[0] if events and isinstance(events[0], Opened) else None
    snapshot = opened.snapshot if opened is not None else None
    if ended and snapshot is not None:
        bodies[0] = bodies[0].replace(snapshot.encode(), b"")
    return Journaled(
        exec_id=exec_id,
        exists=first,
        ended=ended,
        entries=entries,
        pinned=None if ended else snapshot,
        refers=digests_in(bodies, wanted),
        quiet_since=max(one.modified for one in found),
        keys=len(found),
        size=sum(one.size for one in found),
    )


def digests_in(bodies: Iterable[bytes], wanted: Collection[str]) -> frozenset[str]:
    """Those of ``wanted`` that stand anywhere in these texts."""
    found = {one.decode() for body in bodies for one in DIGEST.findall(body)}
    return frozenset(found.intersection(wanted))


def digest_of(key: str) -> str:
    """The digest that an object's key ends with."""
    return key.rpartition("/")[2].partition(".")[0]


def in_parallel(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """``work`` of each item, in order, by several threads."""
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        for start in range(0, len(items), BATCH):
            yield from pool.map(work, items[start : start + BATCH])
