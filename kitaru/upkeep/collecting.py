"""``store gc``: remove what nothing leads to any more, beside whoever works on the store.

*Needed* is what any generation leads to that was the newest one within the grace period (so that who still has an older
state at hand finds all of it), what the journals of executions refer to, and what executions referred to that were
removed within the grace period. An object may go when it is not needed and nobody has written it within that period, by
the store's clock. What is left is a writer that comes upon an old object which nothing needs, and is about to need it.

* Such a writer (W) finds the object by its create, writes the same bytes over it, commits (generation or journal
  entry), and creates the object once more.
* The collector (G) takes the bytes into memory, looks what is needed, looks how old the objects are, removes them,
  looks again what is needed, and puts back what is.

Say that W's last create comes before G's removal. Then its commit does too, G's second look sees it, and G puts the
object back. Else W's last create comes after the removal, and puts it back itself. Either way the object is there when
both are through, whatever the order of their steps, however many W there are; of G there is one at a time. Between the
removal and the return a reader may miss the object. And a W that dies between its commit and its last create, with G's
removal and second look before that commit, leaves it missing; ``store verify --deep`` tells.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta

from kitaru.errors import KitaruStateError, KitaruStoreError
from kitaru.model import address
from kitaru.model.address import timestamp
from kitaru.model.lockfile import Drop, FlowState, Lockfile, Release, VersionTable
from kitaru.ports import Clock, Listed, Reporter, Step, Store, Taken
from kitaru.release.releases import Releases
from kitaru.store.records import read_table, write_object
from kitaru.store.turns import Turns
from kitaru.upkeep.collected import Collected, Doomed, Sorter, total
from kitaru.upkeep.expiring import Expirer, remembered
from kitaru.upkeep.needs import (
    TABLE,
    Journaled,
    Needs,
    Window,
    digest_of,
    digests_in,
    in_parallel,
    log_bodies,
    look_at,
    recent,
)
from kitaru.upkeep.retention import Terms, outlived
from kitaru.upkeep.sweeping import Sweeper

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
        after = write_object(self._store, self._project, body)
        return [
            Drop(kind="drop", flow=flow, version=row.version, table=after, expects=sha, remembers=True) for row in rows
        ]

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
