"""What a collector removed, or would remove."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from kitaru.errors import KitaruError, KitaruStateError, KitaruStoreError
from kitaru.model import address
from kitaru.model.address import timestamp
from kitaru.model.lockfile import Drop, FlowState, Lockfile, Release, VersionTable
from kitaru.ports import Clock, Reporter, Step
from kitaru.release.releases import Releases, Turns
from kitaru.store.objects import put_object, read_table
from kitaru.store.port import Listed, Store, Taken
from kitaru.upkeep.needs import (
    AT_ONCE,
    TABLE,
    Expirer,
    Journaled,
    Needs,
    Terms,
    Window,
    digest_of,
    digests_in,
    in_parallel,
    log_bodies,
    look_at,
    outlived,
    recent,
    remembered,
)

KINDS = ("source archives", "source listings", "snapshots", "version tables", "outputs and other objects")


@dataclass(frozen=True, slots=True)
class Amount:
    """So many of a kind, with their size in bytes."""

    kind: str
    count: int = 0
    bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {"kind": self.kind, "count": self.count, "bytes": self.bytes}


@dataclass(frozen=True, slots=True)
class Doomed:
    """A version that goes."""

    flow: str
    version: int
    at: str
    by: str


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collector removed, or would.

    ``objects`` go now; ``later`` follow once nothing has needed them for the grace period; ``kept`` stay. ``records``
    are what is kept of the executions that go. ``at`` is the store's own time; ``restored`` counts what was put back
    because somebody came to need it meanwhile.
    """

    project: str
    store: str
    deleted: bool
    generation: int
    at: str
    versions: tuple[Doomed, ...]
    executions: tuple[str, ...]
    objects: tuple[Amount, ...]
    records: Amount
    later: Amount
    kept: Amount
    restored: int = 0

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to remove."""
        return not (self.versions or self.objects or self.records.count)

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        data: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        data["versions"] = [{name: getattr(one, name) for name in one.__slots__} for one in self.versions]
        data["executions"] = list(self.executions)
        data["objects"] = [one.to_json() for one in self.objects]
        return {name: value.to_json() if isinstance(value, Amount) else value for name, value in data.items()}


def total(sizes: Mapping[str, int], kind: str = "objects") -> Amount:
    """All of ``sizes`` (key → bytes) together."""
    return Amount(kind, len(sizes), sum(sizes.values()))


@dataclass(slots=True)
class Sorter:
    """Tells of which kind an object is, by its key and by what versions and the log say of its digest."""

    tables: set[str] = field(default_factory=set)
    snapshots: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)

    def amounts(self, sizes: Mapping[str, int]) -> tuple[Amount, ...]:
        """``sizes`` by kind; kinds that do not occur are left out."""
        groups: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}
        for key, size in sizes.items():
            groups[self.kind(key)][key] = size
        return tuple(total(found, kind) for kind, found in groups.items() if found)

    def kind(self, key: str) -> str:
        """One of ``KINDS``."""
        sha = key.rpartition("/")[2]
        if sha.endswith(".zst"):
            return KINDS[0]
        for kind, known in zip(KINDS[1:], (self.sources, self.snapshots, self.tables), strict=False):
            if sha in known:
                return kind
        return KINDS[-1]


BATCH_BYTES = 32 * 2**20
"""What is kept in memory until it is certain that nobody needs it; a larger object is a batch of its own."""

BATCH_KEYS = 256


@dataclass(slots=True)
class Swept:
    """Keys that were removed, with their sizes in bytes; and how many were put back."""

    removed: dict[str, int] = field(default_factory=dict)
    restored: int = 0


@dataclass(frozen=True, slots=True)
class Sweeper:
    """``needed(candidates)`` looks anew at what is needed: those of the candidates that are."""

    store: Store
    project: str
    horizon: datetime
    needed: Callable[[Collection[str]], set[str]]

    def sweep(self, sizes: Mapping[str, int], archives: Collection[str]) -> Swept:
        """Remove the objects of ``sizes`` (key → bytes) that nobody needs. ``archives``: all sources that have one.

        Archives go before the objects that list them: an archive that is there promises its listing.
        """
        swept = Swept()
        kept = set(archives)
        for keys in batches({key: size for key, size in sizes.items() if key.endswith(".zst")}):
            self._remove(keys, sizes, swept)
            kept -= {digest_of(key) for key in keys if key in swept.removed}
        rest = {key: size for key, size in sizes.items() if not key.endswith(".zst") and digest_of(key) not in kept}
        for keys in batches(rest):
            self._remove(keys, sizes, swept)
        return swept

    def _remove(self, keys: list[str], sizes: Mapping[str, int], swept: Swept) -> None:
        found = zip(keys, in_parallel(self.store.read, keys), strict=True)
        bodies = {key: body for key, body in found if body is not None}
        needed = self.needed(bodies)
        going = [key for key in self._old(bodies) if key not in needed]
        try:
            with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
                list(pool.map(self.store.remove, going))
            needed = self.needed(going)
        except BaseException:
            # Nobody can tell what happened meanwhile.
            with suppress(KitaruError):
                self._put_back(going, bodies)
            raise
        swept.restored += self._put_back([key for key in going if key in needed], bodies)
        swept.removed |= {key: sizes[key] for key in going if key not in needed}

    def _old(self, keys: Collection[str]) -> Iterator[str]:
        """Those that are as old as they were: nobody has written them since. An archive's listing speaks for it."""
        ages = {}
        listings = {key: self._listing(key) for key in keys if key.endswith(".zst")}
        for folder in sorted({key.rpartition("/")[0] for key in (*keys, *listings.values())}):
            ages.update({one.key: one.modified for one in self.store.listed(f"{folder}/")})
        for key in keys:
            partner = listings.get(key, key)
            if key in ages and ages[key] < self.horizon and ages.get(partner, ages[key]) < self.horizon:
                yield key

    def _listing(self, archive: str) -> str:
        return address.blob(self.project, digest_of(archive))

    def _put_back(self, keys: Collection[str], bodies: Mapping[str, bytes]) -> int:
        # The listing before its archive, as whoever writes them does.
        for key in sorted(keys, key=lambda key: key.endswith(".zst")):
            self.store.create(key, bodies[key])
        return len(keys)


def batches(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """The keys in order, in batches that fit into memory."""
    batch: list[str] = []
    held = 0
    for key in sorted(sizes):
        if batch and (held + sizes[key] > BATCH_BYTES or len(batch) == BATCH_KEYS):
            yield batch
            batch, held = [], 0
        batch.append(key)
        held += sizes[key]
    if batch:
        yield batch


VERB = "gc"

MOST_DROPS = 2000
"""Versions deleted by one generation: an entry of the log stays far below what a store takes at once."""

NEW_IDS = timedelta(days=2)
"""How far back executions are looked for that were opened meanwhile: the clocks of callers may be wrong."""

DEAD_AFTER = timedelta(hours=1)
"""A collector that has not said for so long that it works is taken for dead."""


def store_time(store: Store, token: str) -> datetime:
    """The present by the clock of the store, to whatever part of a second it keeps."""
    key = address.probe(f"clock-{token}")
    store.create(key, token.encode())
    try:
        for one in store.listed(f"{key.rpartition('/')[0]}/"):
            if one.key == key:
                return one.modified
    finally:
        store.remove(key)
    raise KitaruStoreError(
        f"the store {store.url} does not list what was just written", hint="check that nothing else removes keys there"
    )


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
        self._needs = Needs(store, project)
        self._objects: dict[str, Listed] = {}
        self._digests: frozenset[str] = frozenset()
        self._journals: dict[str, Journaled] | None = None
        self._now = self._horizon = datetime.min
        self._token = clock.token(26)
        self._mark = b""

    def collect(self, *, delete: bool, by: str) -> Collected:
        """Look, and ``delete``: remove.

        Raises ``KitaruIntegrityError`` where it can't be told what is needed, ``KitaruStateError`` where another
        collector is at work; what was removed until then was garbage.
        """
        self._now = store_time(self._store, self._token)
        self._horizon = self._now - self._terms.grace
        if not delete:
            return self._collect(by, delete=False)
        with self._alone(by):
            return self._collect(by, delete=True)

    def _collect(self, by: str, *, delete: bool) -> Collected:
        self._list()
        lock = self._releases.head(verified=True)
        doomed = self._doomed(lock) if self._terms.drops_versions else {}
        if delete and doomed:
            lock, doomed = self._drop(lock, by)
        window = recent(self._store, self._project, lock, self._horizon)
        self._needs.add_state(lock, window)
        words, outdated = remembered(self._store, self._project, self._horizon)
        self._needs.blobs |= words
        old = self._old()
        tables = self._tables_of_log(window) if self._unneeded(old) else set()
        if window.dropped or any(digest_of(key) not in tables for key in self._unneeded(old)):
            self._look()
        expired = self._expired()
        referred = self._heed_journals(expired)
        if delete:
            # With no grace there is nobody for whom to remember.
            self._expire(expired, referred if self._terms.grace else frozenset(), lock)
        going = self._unneeded(old)
        restored = 0
        if delete:
            sweeper = Sweeper(self._store, self._project, self._horizon, self._needed)
            swept = sweeper.sweep(going, {digest_of(key) for key in self._objects if key.endswith(".zst")})
            going, restored = swept.removed, swept.restored
            for key in outdated:
                self._store.remove(key)
        then = self._then(lock, {} if delete else doomed, expired)
        passing = window.tables | words | referred | {state.table for state in lock.flows.values()}
        passing |= then.deleted.keys() | set(then.deleted.values())
        later = {key: size for key, size in old.items() if key not in going and digest_of(key) in passing}
        sizes = {key: one.size for key, one in self._objects.items()}
        sorter = Sorter(tables, set(then.deleted), set(then.deleted.values()))
        return Collected(
            project=self._project,
            store=self._store.url,
            deleted=delete,
            generation=lock.generation,
            at=timestamp(self._now),
            versions=tuple(Doomed(flow, row.version, row.at, row.by) for flow, rows in doomed.items() for row in rows),
            executions=tuple(one.exec_id for one in expired if one.exists),
            objects=sorter.amounts(going),
            records=replace(
                total({one.exec_id: one.size for one in expired}, "records"), count=sum(one.keys for one in expired)
            ),
            later=total({key: size for key, size in later.items() if not then.covers(key)}),
            kept=total({key: size for key, size in sizes.items() if key not in going}),
            restored=restored,
        )

    # --- what there is ------------------------------------------------------------------------------------------------

    def _list(self) -> None:
        self._step("listing objects")
        for prefix in (address.blobs(self._project), address.source_archives(self._project)):
            self._objects.update({one.key: one for one in self._store.listed(prefix)})
        self._digests = frozenset(map(digest_of, self._objects))

    def _old(self) -> dict[str, int]:
        """The objects that nobody has written within the grace period; an archive is as young as its listing."""
        sizes = {}
        for key, one in self._objects.items():
            listing = self._objects.get(address.blob(self._project, digest_of(key)), one)
            if one.modified < self._horizon and listing.modified < self._horizon:
                sizes[key] = one.size
        return sizes

    def _unneeded(self, sizes: dict[str, int]) -> dict[str, int]:
        return {key: size for key, size in sizes.items() if not self._needs.covers(key)}

    def _tables_of_log(self, window: Window) -> set[str]:
        """All version tables that there ever were: nothing but the log leads to them."""
        self._step("reading the log")
        found: set[str] = set(window.tables)
        for body in log_bodies(self._store, self._project, range(1, window.since + 1)):
            found.update(one.decode() for one in TABLE.findall(body))
        return found

    def _look(self) -> dict[str, Journaled]:
        """Every execution, by its id; looked at once."""
        if self._journals is None:
            ids = [name.rstrip("/") for name in self._store.names(address.executions(self._project))]
            self._journals = {}
            for done, found in enumerate(in_parallel(self._look_at, ids), 1):
                self._step("reading journals", done, len(ids))
                if found is not None:
                    self._journals[found.exec_id] = found
        return self._journals

    def _look_at(self, exec_id: str) -> Journaled | None:
        return look_at(self._store, self._project, exec_id, self._digests)

    # --- versions and executions --------------------------------------------------------------------------------------

    def _doomed(self, lock: Lockfile) -> dict[str, tuple[Release, ...]]:
        """The versions that the terms give up, by flow."""
        pinned = {one.pinned for one in self._look().values() if one.pinned is not None}

        def outlived_of(item: tuple[str, FlowState]) -> tuple[Release, ...]:
            flow, state = item
            table = read_table(self._store, self._project, state.table, flow)
            return outlived(state, table, self._terms, self._now, pinned)

        flows = [(flow, state) for flow, state in sorted(lock.flows.items()) if not state.renamed_to]
        rows = zip(flows, in_parallel(outlived_of, flows), strict=True)
        return {flow: found for (flow, _), found in rows if found}

    def _drop(self, lock: Lockfile, by: str) -> tuple[Lockfile, dict[str, tuple[Release, ...]]]:
        """Delete them in the log. Decided anew on each state that another writer leaves."""
        dropped: dict[str, tuple[Release, ...]] = {}
        turns = Turns(self._releases)
        while True:
            chosen: dict[str, tuple[Release, ...]] = {}
            edits: list[Drop] = []
            for flow, rows in self._doomed(lock).items():
                chosen[flow] = rows[: MOST_DROPS - len(edits)]
                edits += self._drops(flow, lock.flows[flow].table, chosen[flow], by)
                if len(edits) == MOST_DROPS:
                    break
            if not edits:
                return lock, dropped
            self._step(f"deleting {len(edits)} versions")
            outcome = self._releases.write(lock, edits, by=by, verb=VERB)
            if isinstance(outcome, Lockfile):
                lock = outcome
                for flow, rows in chosen.items():
                    dropped[flow] = (*dropped.get(flow, ()), *rows)
            else:
                lock = turns.again(outcome)

    def _drops(self, flow: str, sha: str, rows: tuple[Release, ...], by: str) -> list[Drop]:
        table = read_table(self._store, self._project, sha, flow)
        gone = {row.version for row in rows}
        mark = {"deleted_at": timestamp(self._clock.now()), "deleted_by": by}
        releases = (row.model_copy(update=mark) if row.version in gone else row for row in table.releases)
        body = VersionTable(flow=flow, releases=tuple(releases)).canonical()
        after = put_object(self._store, self._project, body)
        return [Drop(kind="drop", flow=flow, version=row.version, table=after, expects=sha) for row in rows]

    def _expired(self) -> list[Journaled]:
        """Executions that ended long enough ago, and what is left of some that somebody began to remove."""
        ended = None
        if self._terms.executions_older_than is not None:
            ended = min(self._now - self._terms.executions_older_than, self._horizon)
            self._look()
        found = (self._journals or {}).values()
        return [
            one
            for one in found
            if (one.ended and ended is not None and one.quiet_since < ended)
            or (not one.exists and one.quiet_since < self._horizon)
        ]

    def _heed_journals(self, expired: Collection[Journaled]) -> frozenset[str]:
        """Need what executions need; what only expired ones refer to is returned, and needed for the grace period."""
        gone = {one.exec_id for one in expired}
        for one in (self._journals or {}).values():
            if one.exec_id not in gone:
                self._needs.blobs |= one.refers
                if one.pinned is not None:
                    self._needs.add_snapshot(one.pinned)
        referred = frozenset(sha for one in expired for sha in one.refers if sha not in self._needs.blobs)
        if self._terms.grace:
            self._needs.blobs |= referred
        return referred

    def _expire(self, expired: list[Journaled], referred: frozenset[str], lock: Lockfile) -> None:
        if expired:
            self._step(f"removing {len(expired)} executions")
            expirer = Expirer(self._store, self._project, self._clock, self._horizon, lock.flows)
            expirer.expire([one.exec_id for one in expired], referred)

    def _then(self, lock: Lockfile, doomed: dict[str, tuple[Release, ...]], expired: Collection[Journaled]) -> Needs:
        """What will be needed when the grace period is over and ``doomed`` deleted, if nothing else happens."""
        then = Needs(self._store, self._project, {flow: {row.version for row in rows} for flow, rows in doomed.items()})
        then.add_state(lock)
        then.blobs -= {lock.flows[flow].table for flow in doomed}
        gone = {one.exec_id for one in expired}
        for one in (self._journals or {}).values():
            if one.exec_id not in gone:
                then.blobs |= one.refers
                if one.pinned is not None:
                    then.add_snapshot(one.pinned)
        return then

    # --- while others work --------------------------------------------------------------------------------------------

    def _needed(self, keys: Collection[str]) -> set[str]:
        """Those of ``keys`` that are needed by now."""
        self._still_alone()
        self._needs.add_state(self._releases.head())
        if self._journals is not None:
            self._look_again(self._journals)
        return {key for key in keys if self._needs.covers(key)}

    def _look_again(self, journals: dict[str, Journaled]) -> None:
        """What was written since to journals of executions that have not ended, or were taken up again, or are new."""
        floor = address.exec_floor(self._now - NEW_IDS)
        ids = {name.rstrip("/") for name in self._store.names(address.executions(self._project), after=floor)}
        opened = {name.partition("~")[0] for name in self._store.names(address.open_hints(self._project))}
        fresh = [exec_id for exec_id in ids if exec_id not in journals]
        under_way = [one for one in journals.values() if one.exists and (not one.ended or one.exec_id in opened)]
        for found in in_parallel(self._look_at, fresh):
            if found is not None and found.exists:
                journals[found.exec_id] = found
                self._needs.blobs |= found.refers
                if found.pinned is not None:
                    self._needs.add_snapshot(found.pinned)
        for one in in_parallel(self._follow, under_way):
            journals[one.exec_id] = one
            self._needs.blobs |= one.refers

    def _follow(self, one: Journaled) -> Journaled:
        bodies: list[bytes] = []
        while True:
            number = one.entries + len(bodies) + 1
            body = self._store.read(address.journal_entry(self._project, one.exec_id, number))
            if body is None:
                refers = one.refers | digests_in(bodies, self._digests)
                return replace(one, entries=one.entries + len(bodies), refers=refers)
            bodies.append(body)

    @contextmanager
    def _alone(self, by: str) -> Iterator[None]:
        """Be the only collector of the project that removes anything."""
        key = address.collecting(self._project)
        body = address.canonical_json({"by": by, "at": timestamp(self._now), "write": self._token})
        outcome = self._store.create(key, body)
        if isinstance(outcome, Taken):
            self._must_be_dead(key)
            self._store.remove(key)
            outcome = self._store.create(key, body)
        if isinstance(outcome, Taken):
            self._must_be_dead(key)
        self._mark = body
        try:
            yield
        finally:
            if self._store.read(key) == body:
                self._store.remove(key)

    def _must_be_dead(self, key: str) -> None:
        for one in self._store.listed(address.collections(self._project)):
            if one.key == key and self._now - one.modified < DEAD_AFTER:
                raise KitaruStateError(
                    f"another collector has been at work since {timestamp(one.modified)[:19]}Z",
                    hint=f"wait for it; should it have been killed, one hour after that it no longer counts ({key})",
                )

    def _still_alone(self) -> None:
        key = address.collecting(self._project)
        if self._store.read(key) != self._mark:
            raise KitaruStateError("another collector has begun meanwhile", hint="kitaru store gc, when it is through")
        self._store.overwrite(key, self._mark)

    def _step(self, message: str, done: int = 0, total: int = 0) -> None:
        self._reporter.step(Step("gc", message, done, total))
