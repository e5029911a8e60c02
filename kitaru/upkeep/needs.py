"""Which versions nobody needs any more, by the terms that a person gave. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from kitaru.core.renames import first_name
from kitaru.errors import KitaruIntegrityError, KitaruStoreFormatError
from kitaru.model import address
from kitaru.model.address import timestamp
from kitaru.model.event import Event, Opened
from kitaru.model.execution import fold
from kitaru.model.lockfile import AddVersion, Drop, FlowState, Generation, Lockfile, Release, Rename, VersionTable
from kitaru.model.snapshot import Snapshot
from kitaru.ports import Clock
from kitaru.release.history import Past
from kitaru.run.index import hint_keys
from kitaru.run.journal import read_entries, read_events
from kitaru.store.log import Log
from kitaru.store.objects import get_object, parse, read_table
from kitaru.store.port import Store

GRACE = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a collector may take.

    ``grace``: nothing younger, and nothing that was still needed so long ago. Versions go where they are outside both
    of ``keep_versions`` (so many of the newest of each flow) and ``older_than``, as far as those are given; executions
    where they ended longer ago than ``executions_older_than``. None: no version, no execution.
    """

    grace: timedelta = GRACE
    keep_versions: int | None = None
    older_than: timedelta | None = None
    executions_older_than: timedelta | None = None

    @property
    def drops_versions(self) -> bool:
        """Whether any version may go."""
        return self.keep_versions is not None or self.older_than is not None


def held(state: FlowState) -> frozenset[int]:
    """The versions that routes and labels lead to, that a hold remembers, or that a removed route may come back to."""
    routes = (*state.routes.values(), *state.untagged.values())
    holders = [holder for route in routes for holder in route.holders]
    holders += [holder for route in routes if route.hold is not None for holder in route.hold.left]
    return frozenset(holder.version for holder in holders)


def outlived(
    state: FlowState, table: VersionTable, terms: Terms, now: datetime, pinned: Container[str]
) -> tuple[Release, ...]:
    """The versions of a flow that may go. ``pinned``: snapshots of executions that have not ended."""
    rows = [release for release in table.releases if not release.deleted]
    kept = held(state)
    if not state.retired:
        kept |= {state.latest}
    if terms.keep_versions is not None:
        kept |= {release.version for release in rows[len(rows) - min(terms.keep_versions, len(rows)) :]}
    before = timestamp(now - terms.older_than) if terms.older_than is not None else None
    return tuple(
        release
        for release in rows
        if release.version not in kept and release.snapshot not in pinned and (before is None or release.at < before)
    )


@dataclass(frozen=True, slots=True)
class Expirer:
    """Removes executions of one project. ``horizon``: nothing that was written since is touched.

    ``flows`` are the project's, since an idempotency key is kept under the first name of a flow that was renamed.
    """

    store: Store
    project: str
    clock: Clock
    horizon: datetime
    flows: Mapping[str, FlowState]

    def expire(self, exec_ids: Sequence[str], referred: Collection[str]) -> int:
        """Remove these executions; how many were still as they had been. ``referred``: the objects that they name."""
        if not exec_ids:
            return 0
        if referred:
            body = address.canonical_json({"format": 1, "objects": sorted(referred)})
            self.store.create(address.collection(self.project, self.clock.token(26)), body)
        self._forget_cached(frozenset(exec_ids))
        return sum(in_parallel(self._expire, exec_ids))

    def _expire(self, exec_id: str) -> bool:
        folder = address.execution(self.project, exec_id)
        found = {one.key: one.modified for one in self.store.listed(folder)}
        if any(modified >= self.horizon for modified in found.values()):
            return False  # Somebody took it up again.
        for key in self._hints(exec_id):
            self.store.remove(key)
        first = address.journal_entry(self.project, exec_id, 1)
        for key in sorted(found, key=lambda key: key != first):
            self.store.remove(key)
        return True

    def _hints(self, exec_id: str) -> Iterator[str]:
        """Keys outside its folder that lead to an execution."""
        with suppress(KitaruIntegrityError, KitaruStoreFormatError):
            events = read_events(read_entries(self.store, self.project, exec_id), exec_id)
            if not events or not isinstance(opened := events[0], Opened):
                return
            yield from hint_keys(fold(events))
            if opened.idempotency_key is not None:
                for name in {opened.flow, first_name(self.flows, opened.flow)}:
                    key = address.idempotency(self.project, name, opened.idempotency_key)
                    if self._names(key) == exec_id:
                        yield key

    def _forget_cached(self, exec_ids: Collection[str]) -> None:
        """Remove what the cache knows of their results, and their notes about it."""
        old = [one.key for one in self.store.listed(address.cache_index(self.project)) if one.modified < self.horizon]
        notes = f"{address.cache_index(self.project)}seen/"

        def forget(key: str) -> None:
            name = key.rpartition("/")[2].removesuffix(".json")
            if (name if key.startswith(notes) else self._names(key)) in exec_ids:
                self.store.remove(key)

        for _ in in_parallel(forget, old):
            pass

    def _names(self, key: str) -> str:
        """The execution that a hint names; nothing where it can't be read."""
        with suppress(ValueError, TypeError, KeyError):
            return str(json.loads(self.store.read(key) or b"")["exec_id"])
        return ""


def remembered(store: Store, project: str, horizon: datetime) -> tuple[set[str], list[str]]:
    """What executions referred to that were removed within the grace period; and the keys of older words of that."""
    objects: set[str] = set()
    outdated = []
    for one in store.listed(address.collections(project)):
        if one.key == address.collecting(project):
            continue
        if one.modified < horizon:
            outdated.append(one.key)
        elif (body := store.read(one.key)) is not None:
            objects.update(json.loads(body)["objects"])
    return objects, outdated


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
                case AddVersion(table=table):
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
        log, batch = Log(store, address.generations(project)), numbers[start : start + BATCH]
        for number, body in zip(batch, log.read_each(batch), strict=True):
            if body is None:
                raise KitaruIntegrityError(
                    f"{log.key(number)} is missing from the lock log", hint="kitaru store verify"
                )
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
                source = parse(Snapshot, get_object(self._store, self._project, sha, what), what).source
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
