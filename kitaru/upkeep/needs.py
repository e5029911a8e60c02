"""The objects of a project that are needed: by versions, by the states of the grace period, by executions."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from kitaru.errors import KitaruIntegrityError, KitaruStoreFormatError
from kitaru.model import address
from kitaru.model.address import timestamp
from kitaru.model.event import Event, Opened
from kitaru.model.execution import fold
from kitaru.model.lockfile import AddVersion, Drop, FlowState, Generation, Lockfile, Move, Release, Rename, VersionTable
from kitaru.model.snapshot import Snapshot
from kitaru.release.history import Past
from kitaru.run.journal import read_events
from kitaru.store.log import Log
from kitaru.store.objects import get_object, parse, read_table
from kitaru.store.port import Store

GRACE = timedelta(hours=24)
AT_ONCE = 16
BATCH = 256
DIGEST = re.compile(rb"[0-9a-f]{64}")

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Terms:
    """The limits of a collection.

    ``grace``: younger or more recently needed objects stay. Versions are deleted if they are outside both of
    ``keep_versions`` (the newest of each flow) and ``older_than``, as far as those are given; executions are removed if
    they ended longer ago than ``executions_older_than``. None: no version, no execution.
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
    """The versions of routes and labels, of rollback holds, and of removed routes that may come back."""
    routes = (*state.routes.values(), *state.untagged.values())
    holders = [holder for route in routes for holder in route.holders]
    holders += [holder for route in routes if route.hold is not None for holder in route.hold.left]
    return frozenset(holder.version for holder in holders)


def outlived(
    state: FlowState, table: VersionTable, terms: Terms, now: datetime, pinned: Container[str]
) -> tuple[Release, ...]:
    """The versions of a flow that may be deleted. ``pinned``: snapshots of executions and of recent routes."""
    rows = [release for release in table.releases if not release.deleted]
    kept = held(state)
    if not state.retired:
        kept |= {state.latest}
    if terms.keep_versions is not None:
        kept |= {release.version for release in rows[len(rows) - min(terms.keep_versions, len(rows)) :]}
    before = timestamp(now - max(terms.older_than or terms.grace, terms.grace))
    return tuple(
        release
        for release in rows
        if release.version not in kept and release.snapshot not in pinned and release.at < before
    )


@dataclass(frozen=True, slots=True)
class Window:
    """The needs of the states of the grace period, apart from the newest one.

    ``tables``: their version tables. ``dropped``: versions of each flow that were deleted meanwhile. ``led``: the
    snapshots of their routes.
    """

    tables: frozenset[str] = frozenset()
    dropped: Mapping[str, Collection[int]] = field(default_factory=dict)
    led: frozenset[str] = frozenset()


def recent(store: Store, project: str, head: Lockfile, horizon: datetime) -> Window:
    """The window from ``horizon``, by the store's clock, to ``head``."""
    log = Log(store, address.generations(project))
    numbers, _ = log.listing()
    modified = {one.key: one.modified for one in store.listed(log.folder)}
    young = [number for number in numbers if modified.get(log.key(number), horizon) >= horizon]
    since = min(min(young, default=head.generation + 1) - 1, head.generation)
    before = Past(store, project).state(since) if since else Lockfile(project=project)
    tables = {state.table for state in before.flows.values()}
    led = {one.snapshot for state in before.flows.values() for route in state.routes.values() for one in route.holders}
    dropped: dict[str, set[int]] = {}
    missed = range(since + 1, head.generation + 1)
    for number, body in zip(missed, log.read_each(missed), strict=True):
        if body is None:
            raise KitaruIntegrityError(f"{log.key(number)} is missing", hint="kitaru store verify")
        for edit in parse(Generation, body, log.key(number)).edits:
            match edit:
                case AddVersion(table=table):
                    tables.add(table)
                case Move(holders=holders):
                    led |= {one.snapshot for one in holders}
                case Drop(flow=flow, version=version, table=table):
                    tables.add(table)
                    dropped.setdefault(flow, set()).add(version)
                case Rename(flow=flow, was=was):
                    dropped[flow] = dropped.pop(was, set())
                case _:
                    pass
    return Window(frozenset(tables), dropped, frozenset(led))


@dataclass(slots=True)
class Needs:
    """Digests of needed objects: ``blobs`` of single objects, ``sources`` of an archive with its listing.

    ``snapshots``: those with needed sources. ``deleted``: snapshots of deleted versions → their sources.
    """

    blobs: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    deleted: dict[str, str] = field(default_factory=dict)
    snapshots: set[str] = field(default_factory=set)

    def covers(self, key: str) -> bool:
        """Whether the object under ``key`` is needed."""
        sha = digest_of(key)
        return sha in self.sources or (sha in self.blobs and not key.endswith(".zst"))

    def add_rows(self, rows: Iterable[Release]) -> None:
        """Need these versions."""
        for row in rows:
            self.snapshots.add(row.snapshot)
            self.blobs.add(row.snapshot)
            self.sources.add(row.source)

    def add_executions(self, store: Store, project: str, executions: Iterable[Journaled]) -> None:
        """Need the objects that these executions refer to, and the code of those that have not ended."""
        for one in executions:
            self.blobs |= one.refers
            if one.pinned is None or one.pinned in self.snapshots:
                continue
            self.snapshots.add(one.pinned)
            self.blobs.add(one.pinned)
            if (source := self.deleted.get(one.pinned)) is None:
                what = f"snapshot {address.short(one.pinned)}"
                with suppress(KitaruIntegrityError):  # gone already
                    source = parse(Snapshot, get_object(store, project, one.pinned, what), what).source
            self.sources |= {source} if source else set()


def needs(
    store: Store, project: str, lock: Lockfile, window: Window, doomed: Mapping[str, Collection[int]]
) -> tuple[Needs, Needs]:
    """The needs of ``lock`` without its ``doomed`` versions, and the further needs of the grace period."""
    then, grace = Needs(), Needs(blobs=set(window.tables))
    # The versions of a renamed flow are those of its new name.
    flows = [(name, state) for name, state in lock.flows.items() if not state.renamed_to]
    tables = in_parallel(lambda item: read_table(store, project, item[1].table, item[0]), flows)
    for (name, state), table in zip(flows, tables, strict=True):
        kept, gone, dropped = held(state), doomed.get(name, ()), window.dropped.get(name, ())
        for row in table.releases:
            if row.version in kept or not (row.deleted or row.version in gone):
                then.add_rows((row,))
            else:
                then.deleted[row.snapshot] = row.source
                if row.version in dropped or row.version in gone:
                    grace.add_rows((row,))
    for name, state in lock.flows.items():
        (grace if name in doomed else then).blobs.add(state.table)
    return then, grace


@dataclass(frozen=True, slots=True)
class Journaled:
    """One execution, from its journal; an unreadable one counts as not ended.

    ``exists``: there is a first entry. ``pinned``: its snapshot if it has not ended; ``refers``: the wanted digests in
    its journal; ``quiet_since``: its newest write, by the store's clock.
    """

    exec_id: str
    exists: bool
    ended: bool
    pinned: str | None
    refers: frozenset[str]
    quiet_since: datetime
    keys: int
    size: int


def read_journal(store: Store, project: str, exec_id: str, wanted: Collection[str]) -> Journaled | None:
    """Read an execution's journal and answers; None if it has no keys.

    Any digest anywhere in them counts, so that events of later releases count, too; except the snapshot of an execution
    that has ended.
    """
    listed = list(store.listed(address.execution(project, exec_id)))
    if not listed:
        return None
    folders = (address.journal(project, exec_id), address.wait_answers(project, exec_id))
    keys = sorted(one.key for one in listed if one.key.startswith(folders))
    bodies = [body for key in keys if (body := store.read(key)) is not None]
    entries = sum(key.startswith(folders[0]) for key in keys)
    first = address.journal_entry(project, exec_id, 1) in keys
    events: list[Event] = []
    ended = False
    with suppress(KitaruIntegrityError, KitaruStoreFormatError):
        events = read_events(bodies[:entries], exec_id)
        ended = first and fold(events).ended
    snapshot = events[0].snapshot if events and isinstance(events[0], Opened) else None
    if ended and snapshot is not None:
        bodies[0] = bodies[0].replace(snapshot.encode(), b"")
    named = {one.decode() for body in bodies for one in DIGEST.findall(body)}
    return Journaled(
        exec_id=exec_id,
        exists=first,
        ended=ended,
        pinned=None if ended else snapshot,
        refers=frozenset(named.intersection(wanted)),
        quiet_since=max(one.modified for one in listed),
        keys=len(listed),
        size=sum(one.size for one in listed),
    )


def digest_of(key: str) -> str:
    """The digest at the end of an object's key: ``…/3f….zst`` → ``3f…``."""
    return key.rpartition("/")[2].partition(".")[0]


def in_parallel(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """``work`` of each item, in order, by several threads."""
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        for start in range(0, len(items), BATCH):
            yield from pool.map(work, items[start : start + BATCH])
