"""Removes unreferenced objects older than the grace period, and versions and executions by their terms.

An object's age is checked again just before its removal. A writer that refers to an object makes it young first, and
waits for active collectors (``store.objects.put_object``): so no reference leads to a removed object.
"""

from __future__ import annotations

import errno
import json
import re
import time
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, TypeVar

from kitaru.core.renames import first_name
from kitaru.errors import KitaruIntegrityError, KitaruStoreError, KitaruStoreFormatError
from kitaru.model import address
from kitaru.model.address import timestamp
from kitaru.model.event import Event, Opened
from kitaru.model.execution import fold
from kitaru.model.lockfile import AddVersion, Drop, FlowState, Generation, Lockfile, Move, Release, VersionTable
from kitaru.ports import Clock, Reporter, Step
from kitaru.release.history import Past
from kitaru.release.releases import Releases, Turns
from kitaru.run.index import hint_keys
from kitaru.run.journal import load, read_events
from kitaru.store import hints
from kitaru.store.log import Log
from kitaru.store.objects import parse, put_object, read_snapshot, read_table, remove_object
from kitaru.store.port import Listed, Store

VERB = "gc"
GRACE = timedelta(hours=24)

MOST_DROPS = 2000
"""Versions deleted by one generation, so that an entry of the log stays far below the limits of a store."""

BATCH_KEYS = 256
"""Objects removed under one mark."""

REMOVING_SECONDS = 20.0
"""The time for which a collector removes under one mark; a writer waits for that."""

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


@dataclass(frozen=True, slots=True)
class Amount:
    """So many keys of a kind, with their size in bytes: ``source archives``, ``objects``, ``records``."""

    kind: str
    count: int = 0
    bytes: int = 0

    @classmethod
    def of(cls, kind: str, sizes: Mapping[str, int]) -> Amount:
        """All of ``sizes`` (key → bytes) together."""
        return cls(kind, len(sizes), sum(sizes.values()))


@dataclass(frozen=True, slots=True)
class DroppedVersion:
    """A version to delete."""

    flow: str
    version: int
    at: str
    by: str


@dataclass(frozen=True, slots=True)
class Collected:
    """The keys that a collector removed, or would remove.

    ``objects`` are removed now; ``later`` once nothing has needed them for the grace period; ``kept`` stay. ``records``
    are the keys of the ``executions``. ``at`` is the store's own time, or this machine's if nothing is removed.
    """

    project: str
    store: str
    deleted: bool
    generation: int
    at: str
    versions: tuple[DroppedVersion, ...]
    executions: tuple[str, ...]
    objects: tuple[Amount, ...]
    records: Amount
    later: Amount
    kept: Amount

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to remove."""
        return not (self.versions or self.objects or self.records.count)

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


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


class Collector:
    """Collects in one project of one store, once."""

    def __init__(
        self, store: Store, project: str, releases: Releases, clock: Clock, reporter: Reporter, terms: Terms
    ) -> None:
        self._store = store
        self._project = project
        self._releases = releases
        self._clock = clock
        self._reporter = reporter
        self._terms = terms
        self._now = clock.now()
        self._horizon = self._now - terms.grace
        self._objects: dict[str, Listed] = {}
        self._journals: list[Journaled] = []
        self._archives = address.source_archives(project)
        self._mark = f"{address.collecting(project)}{clock.token(26)}"

    def collect(self, *, delete: bool, by: str) -> Collected:
        """Find garbage; with ``delete``, remove it. Without, nothing is written.

        Raises ``KitaruIntegrityError`` if the needs can't be read; anything removed before that was garbage. On a full
        disk objects go first, then versions and executions, whose removal needs a write.
        """
        if delete:
            self._now = self._store_time()
            self._horizon = self._now - self._terms.grace
        try:
            return self._collect(by, delete=delete)
        except KitaruStoreError as error:
            if not delete or not _is_full(error):
                raise
        terms, self._terms = self._terms, Terms(self._terms.grace)
        self._collect(by, delete=True)
        self._terms = terms
        return self._collect(by, delete=True)

    def _collect(self, by: str, *, delete: bool) -> Collected:
        # Objects before needs: a reference that comes later leads to an object that is young by then.
        self._step("listing objects")
        self._objects = {
            one.key: one
            for prefix in (address.blobs(self._project), self._archives)
            for one in self._store.listed(prefix)
        }
        lock = self._releases.head(verified=True)
        tables, led = self._recent(lock)
        self._read_journals()
        lock, dropped = self._drop(lock, led, by, delete=delete)
        expired = self._expired()
        needed, grace = self._needs(lock, dropped, expired, by_now=delete)
        words, outdated = self._remembered()
        # Without a grace period, removed executions need nothing.
        referred = {sha for one in expired for sha in one.refers} - needed if self._terms.grace else set()
        grace |= tables | words | referred
        if delete and expired:
            self._expire(expired, referred, lock)
        old = {key: one.size for key, one in self._objects.items() if self._is_old(key, self._objects)}
        going = {key: size for key, size in old.items() if digest_of(key) not in needed | grace}
        if delete:
            going = self._sweep(going)
            hints.remove(self._store, *outdated)
        archives = {key: size for key, size in going.items() if key.startswith(self._archives)}
        others = {key: size for key, size in going.items() if key not in archives}
        later = {key: size for key, size in old.items() if key not in going and digest_of(key) not in needed}
        amounts = (Amount.of("source archives", archives), Amount.of("objects", others))
        return Collected(
            project=self._project,
            store=self._store.url,
            deleted=delete,
            generation=lock.generation,
            at=timestamp(self._now),
            versions=tuple(DroppedVersion(flow, row.version, row.at, row.by) for flow, row in dropped),
            executions=tuple(one.exec_id for one in expired if one.exists),
            objects=tuple(amount for amount in amounts if amount.count),
            records=Amount("records", sum(one.keys for one in expired), sum(one.size for one in expired)),
            later=Amount.of("objects", later),
            kept=Amount.of("objects", {key: one.size for key, one in self._objects.items() if key not in going}),
        )

    # --- needs --------------------------------------------------------------------------------------------------------

    def _recent(self, head: Lockfile) -> tuple[set[str], set[str]]:
        """The version tables of the states of the grace period, and the snapshots of their routes."""
        log = Log(self._store, address.generations(self._project))
        modified = {one.key: one.modified for one in self._store.listed(log.folder)}
        young = (number for number in log.listing()[0] if modified.get(log.key(number), self._now) >= self._horizon)
        since = min(min(young, default=head.generation + 1) - 1, head.generation)
        before = Past(self._store, self._project).state(since) if since else Lockfile(project=self._project)
        tables = {state.table for state in before.flows.values()}
        routes = (route for state in before.flows.values() for route in state.routes.values())
        led = {holder.snapshot for route in routes for holder in route.holders}
        missed = range(since + 1, head.generation + 1)
        for number, body in zip(missed, log.read_each(missed), strict=True):
            if body is None:
                raise KitaruIntegrityError(f"{log.key(number)} is missing", hint="kitaru store verify")
            for edit in parse(Generation, body, log.key(number)).edits:
                if isinstance(edit, AddVersion | Drop):
                    tables.add(edit.table)
                elif isinstance(edit, Move):
                    led |= {holder.snapshot for holder in edit.holders}
        return tables, led

    def _read_journals(self) -> None:
        ids = [name.rstrip("/") for name in self._store.names(address.executions(self._project))]
        wanted = frozenset(map(digest_of, self._objects))
        self._journals = []
        for done, journaled in enumerate(in_parallel(lambda exec_id: self._read_journal(exec_id, wanted), ids), 1):
            self._step("reading journals", done, len(ids))
            self._journals += [journaled] if journaled is not None else []

    def _read_journal(self, exec_id: str, wanted: Collection[str]) -> Journaled | None:
        """Read an execution's journal and answers; None if it has no keys.

        Any digest anywhere in them counts, so that events of later releases count, too; except the snapshot of an
        execution that has ended.
        """
        listed = list(self._store.listed(address.execution(self._project, exec_id)))
        if not listed:
            return None
        folders = (address.journal(self._project, exec_id), address.wait_answers(self._project, exec_id))
        keys = sorted(one.key for one in listed if one.key.startswith(folders))
        bodies = [body for key in keys if (body := self._store.read(key)) is not None]
        entries = sum(key.startswith(folders[0]) for key in keys)
        first = address.journal_entry(self._project, exec_id, 1) in keys
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

    def _needs(
        self, lock: Lockfile, dropped: Collection[tuple[str, Release]], expired: Collection[Journaled], *, by_now: bool
    ) -> tuple[set[str], set[str]]:
        """The digests of the objects that ``lock`` and the executions need, and of those until the grace period ends.

        ``dropped`` versions are deleted ``by_now``, or would be.
        """
        needed: set[str] = set()
        grace: set[str] = set()
        sources: dict[str, str] = {}
        doomed = {(flow, row.version) for flow, row in dropped} if not by_now else set()
        since = timestamp(self._horizon)
        for name, state, table in self._tables(lock):
            kept = {version for version, _ in held(state)}
            (grace if name in dict(doomed) else needed).add(state.table)
            for row in table.releases:
                sources[row.snapshot] = row.source
                gone = row.deleted or (name, row.version) in doomed
                if row.version in kept or not gone:
                    needed |= {row.snapshot, row.source}
                elif not row.deleted or row.deleted_at >= since:
                    grace |= {row.snapshot, row.source}
        needed |= {state.table for state in lock.flows.values() if state.renamed_to}
        removed = {one.exec_id for one in expired}
        for one in self._journals:
            if one.exec_id in removed:
                continue
            needed |= one.refers
            if one.pinned is not None:
                needed.add(one.pinned)
                with suppress(KitaruIntegrityError):  # gone already
                    if one.pinned not in sources:
                        snapshot = read_snapshot(self._store, self._project, one.pinned, one.exec_id)
                        sources[one.pinned] = snapshot.source
                    needed.add(sources[one.pinned])
        return needed, grace

    def _tables(self, lock: Lockfile) -> Iterator[tuple[str, FlowState, VersionTable]]:
        """Each flow with its version table; the versions of a renamed flow are those of its new name."""
        flows = [(name, state) for name, state in sorted(lock.flows.items()) if not state.renamed_to]
        tables = in_parallel(lambda item: read_table(self._store, self._project, item[1].table, item[0]), flows)
        for (name, state), table in zip(flows, tables, strict=True):
            yield name, state, table

    def _remembered(self) -> tuple[set[str], list[str]]:
        """The objects of executions that were removed within the grace period, and the keys of outdated notes."""
        objects: set[str] = set()
        outdated = []
        for one in self._store.listed(address.collections(self._project)):
            if one.modified < self._horizon:
                outdated.append(one.key)
            elif one.key.startswith(address.collecting(self._project)):
                continue
            elif (body := self._store.read(one.key)) is not None:
                objects.update(json.loads(body)["objects"])
        return objects, outdated

    # --- versions -----------------------------------------------------------------------------------------------------

    def _drop(
        self, lock: Lockfile, led: Collection[str], by: str, *, delete: bool
    ) -> tuple[Lockfile, list[tuple[str, Release]]]:
        """The versions to delete by the terms, with ``delete`` deleted in the log: ``[("agent", row), …]``.

        If another writer was faster, they are chosen anew from its state.
        """
        dropped: list[tuple[str, Release]] = []
        if self._terms.keep_versions is None and self._terms.older_than is None:
            return lock, dropped
        pinned = {one.pinned for one in self._journals if one.pinned is not None}.union(led)
        turns = Turns(self._releases)
        while doomed := [
            (name, row)
            for name, state, table in self._tables(lock)
            for row in outlived(state, table, self._terms, self._now, pinned)
        ]:
            if not delete:
                return lock, doomed
            batch = doomed[:MOST_DROPS]
            self._step(f"deleting {len(batch)} versions")
            edits: list[Drop] = []
            for flow, rows in groupby(batch, lambda pair: pair[0]):
                edits += self._drops(lock, flow, rows, by)
            outcome = self._releases.append(lock, edits, by=by, verb=VERB)
            if isinstance(outcome, Lockfile):
                lock = outcome
                dropped += batch
            else:
                lock = turns.again(outcome)
        return lock, dropped

    def _drops(self, lock: Lockfile, flow: str, rows: Iterable[tuple[str, Release]], by: str) -> list[Drop]:
        before = lock.flows[flow].table
        gone = [row.version for _, row in rows]
        mark = {"deleted_at": timestamp(self._clock.now()), "deleted_by": by}
        table = read_table(self._store, self._project, before, flow)
        releases = tuple(row.model_copy(update=mark) if row.version in gone else row for row in table.releases)
        after = put_object(self._store, self._project, VersionTable(flow=flow, releases=releases).canonical())
        return [Drop(kind="drop", flow=flow, version=version, table=after, expects=before) for version in gone]

    # --- executions ---------------------------------------------------------------------------------------------------

    def _expired(self) -> list[Journaled]:
        """Executions that ended long enough ago, and the rest of incomplete removals."""
        age = self._terms.executions_older_than
        limit = min(self._now - age, self._horizon) if age is not None else None
        return [
            one
            for one in self._journals
            if (one.quiet_since < self._horizon and not one.exists)
            or (limit is not None and one.ended and one.quiet_since < limit)
        ]

    def _expire(self, expired: list[Journaled], referred: Collection[str], lock: Lockfile) -> None:
        """Remove these executions; a note keeps the objects that they ``referred`` to for the grace period."""
        self._step(f"removing {len(expired)} executions")
        if referred:
            note = address.canonical_json({"format": 1, "objects": sorted(referred)})
            hints.write(self._store, address.collection(self._project, self._clock.token(26)), note)
        self._forget_cached({one.exec_id for one in expired})
        for _ in in_parallel(lambda one: self._expire_one(one, lock), expired):
            pass

    def _expire_one(self, one: Journaled, lock: Lockfile) -> None:
        listed = {item.key: item.modified for item in self._store.listed(address.execution(self._project, one.exec_id))}
        if any(modified >= self._horizon for modified in listed.values()):
            return  # It was taken up again.
        if one.ended:
            execution = load(self._store, self._project, one.exec_id)
            hints.remove(self._store, *hint_keys(execution))
            if execution.idempotency_key is not None:
                for name in {execution.flow_name, first_name(lock.flows, execution.flow_name)}:
                    key = address.idempotency(self._project, name, execution.idempotency_key)
                    self._remove_naming(key, {one.exec_id})
        # The first entry first: without it there is no execution.
        first = address.journal_entry(self._project, one.exec_id, 1)
        hints.remove(self._store, *sorted(listed, key=lambda key: key != first))

    def _forget_cached(self, exec_ids: Collection[str]) -> None:
        """Remove the cache's hints and notes of their results."""
        folder = address.cache_index(self._project)

        def forget(key: str) -> None:
            if not key.startswith(f"{folder}seen/"):
                self._remove_naming(key, exec_ids)
            elif key.rpartition("/")[2].removesuffix(".json") in exec_ids:
                hints.remove(self._store, key)

        for _ in in_parallel(forget, [one.key for one in self._store.listed(folder) if one.modified < self._horizon]):
            pass

    def _remove_naming(self, key: str, exec_ids: Collection[str]) -> None:
        """Remove a hint if it leads to one of these executions."""
        with suppress(ValueError, TypeError, KeyError):
            if json.loads(self._store.read(key) or b"")["exec_id"] in exec_ids:
                hints.remove(self._store, key)

    # --- objects ------------------------------------------------------------------------------------------------------

    def _is_old(self, key: str, listed: Mapping[str, Listed]) -> bool:
        """Whether the object was last written before the grace period; an archive is as young as its listing."""
        one = listed.get(key)
        listing = listed.get(address.blob(self._project, digest_of(key)), one)
        return one is not None and listing is not None and max(one.modified, listing.modified) < self._horizon

    def _sweep(self, going: Mapping[str, int]) -> dict[str, int]:
        """Remove those objects that are still old, and return the removed ones.

        Archives are removed before their listings, as an archive promises its listing.
        """
        archives = sorted(key for key in going if key.startswith(self._archives))
        removed = self._remove(archives)
        left = {digest_of(key) for key in self._objects if key.startswith(self._archives)}
        left -= set(map(digest_of, removed))
        removed |= self._remove(sorted(key for key in going.keys() - set(archives) if digest_of(key) not in left))
        return {key: going[key] for key in removed}

    def _remove(self, keys: list[str]) -> set[str]:
        removed: set[str] = set()
        while keys:
            batch, rest = keys[:BATCH_KEYS], keys[BATCH_KEYS:]
            self._step("removing objects", len(removed), len(removed) + len(keys))
            with self._marked() as open_still:
                objects = [*batch, *(address.blob(self._project, digest_of(key)) for key in batch)]
                folders = sorted({key.rpartition("/")[0] for key in objects})
                listed = {one.key: one for folder in folders for one in self._store.listed(f"{folder}/")}
                old = [key for key in batch if self._is_old(key, listed)]

                def remove(key: str, open_still: Callable[[], bool] = open_still) -> bool:
                    if open_still():
                        remove_object(self._store, key)
                        return True
                    return False

                removed.update(key for key, gone in zip(old, in_parallel(remove, old), strict=True) if gone)
            keys = [*(key for key in old if key not in removed), *rest]
        return removed

    @contextmanager
    def _marked(self) -> Iterator[Callable[[], bool]]:
        """Mark for writers that objects are being removed; gives a function that is true while time is left.

        A disk without room for the mark has none for a writer's objects either: one object is removed without a mark.
        """
        begun, chances, marked = time.time(), iter((True,)), True
        try:
            hints.write(self._store, self._mark)
        except KitaruStoreError as error:
            if not _is_full(error):
                raise
            marked = False
        try:
            yield lambda: 0 <= time.time() - begun < REMOVING_SECONDS and (marked or next(chances, False))
        finally:
            hints.drop(self._store, self._mark)

    def _store_time(self) -> datetime:
        """The present by the clock of the store, in its precision."""
        with self._marked():
            listed = self._store.listed(address.collecting(self._project))
            return next((one.modified for one in listed if one.key == self._mark), self._clock.now())

    def _step(self, message: str, done: int = 0, total: int = 0) -> None:
        self._reporter.step(Step("gc", message, done, total))


def held(state: FlowState) -> list[tuple[int, str]]:
    """Version and snapshot, ``(3, "3f…")``, of routes, labels, rollback holds, and removed routes that may return."""
    routes = (*state.routes.values(), *state.untagged.values())
    holders = {holder for route in routes for holder in (*route.holders, *(route.hold.left if route.hold else ()))}
    return sorted((holder.version, holder.snapshot) for holder in holders)


def outlived(
    state: FlowState, table: VersionTable, terms: Terms, now: datetime, pinned: Container[str]
) -> list[Release]:
    """The versions of a flow that may be deleted. ``pinned``: snapshots of executions and of recent routes."""
    rows = [release for release in table.releases if not release.deleted]
    kept = {version for version, _ in held(state)}
    if not state.retired:
        kept.add(state.latest)
    if terms.keep_versions is not None:
        kept |= {release.version for release in rows[-terms.keep_versions :]}
    before = timestamp(now - max(terms.older_than or terms.grace, terms.grace))
    return [
        release
        for release in rows
        if release.version not in kept and release.snapshot not in pinned and release.at < before
    ]


def digest_of(key: str) -> str:
    """The digest at the end of an object's key: ``…/3f….zst`` → ``3f…``."""
    return key.rpartition("/")[2].partition(".")[0]


def in_parallel(work: Callable[[Item], Result], items: Sequence[Item], at_once: int = AT_ONCE) -> Iterator[Result]:
    """``work`` of each item, in order, by several threads."""
    with ThreadPoolExecutor(max_workers=at_once) as pool:
        for start in range(0, len(items), BATCH):
            yield from pool.map(work, items[start : start + BATCH])


def _is_full(error: KitaruStoreError) -> bool:
    """Whether a disk is full, or a quota of it."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT)
