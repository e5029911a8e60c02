"""Removes unreferenced objects older than the grace period, and versions and executions by their terms.

An object's age is checked again just before its removal. A writer that refers to an object makes it young first, and
waits for active collectors (``store.objects.put_object``): so no reference leads to a removed object.
"""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kitaru.core.renames import first_name
from kitaru.errors import KitaruStoreError
from kitaru.model import address
from kitaru.model.address import timestamp
from kitaru.model.lockfile import Drop, FlowState, Lockfile, Release, VersionTable
from kitaru.ports import Clock, Reporter, Step
from kitaru.release.releases import Releases, Turns
from kitaru.run.index import hint_keys
from kitaru.run.journal import load
from kitaru.store import hints
from kitaru.store.objects import put_object, read_table, remove_object
from kitaru.store.port import Listed, Store
from kitaru.upkeep.needs import (
    Journaled,
    Needs,
    Terms,
    Window,
    digest_of,
    in_parallel,
    needs,
    outlived,
    read_journal,
    recent,
)

VERB = "gc"

MOST_DROPS = 2000
"""Versions deleted by one generation, so that an entry of the log stays far below the limits of a store."""

BATCH_KEYS = 256
"""Objects removed under one mark."""

REMOVING_SECONDS = 20.0
"""The time for which a collector removes under one mark; a writer waits for that."""


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

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {"kind": self.kind, "count": self.count, "bytes": self.bytes}


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
        data: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        data["versions"] = [{name: getattr(one, name) for name in one.__slots__} for one in self.versions]
        data["executions"] = list(self.executions)
        data["objects"] = [one.to_json() for one in self.objects]
        return {name: value.to_json() if isinstance(value, Amount) else value for name, value in data.items()}


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
        self._journals: dict[str, Journaled] = {}
        self._archives = address.source_archives(project)
        self._mark = f"{address.collecting(project)}{clock.token(26)}"

    def collect(self, *, delete: bool, by: str) -> Collected:
        """Find garbage; with ``delete``, remove it. Without, nothing is written.

        Raises ``KitaruIntegrityError`` if the needs can't be read; anything removed before that was garbage. On a full
        disk objects go first, then versions and executions, whose removal needs a write.
        """
        if not delete:
            return self._collect(by, delete=False)
        self._now = self._store_time()
        self._horizon = self._now - self._terms.grace
        try:
            return self._collect(by, delete=True)
        except KitaruStoreError as error:
            if not _is_full(error):
                raise
        terms, self._terms = self._terms, Terms(self._terms.grace)
        self._collect(by, delete=True)
        self._terms = terms
        return self._collect(by, delete=True)

    def _collect(self, by: str, *, delete: bool) -> Collected:
        # Objects before needs: a reference that comes later leads to an object that is young by then.
        self._list()
        lock = self._releases.head(verified=True)
        window = recent(self._store, self._project, lock, self._horizon)
        self._read_journals()
        dropped = self._doomed(lock, window) if self._terms.drops_versions else {}
        if delete and dropped:
            lock, dropped = self._drop(lock, window, by)
            window = recent(self._store, self._project, lock, self._horizon)
        doomed = {} if delete else {flow: [row.version for row in rows] for flow, rows in dropped.items()}
        then, grace = needs(self._store, self._project, lock, window, doomed)
        expired = self._expired()
        gone = {one.exec_id for one in expired}
        then.add_executions(
            self._store, self._project, (one for one in self._journals.values() if one.exec_id not in gone)
        )
        words, outdated = self._remembered()
        referred = {sha for one in expired for sha in one.refers} - then.blobs
        # Without a grace period, removed executions need nothing.
        grace.blobs |= words | (referred if self._terms.grace else set())
        if delete:
            self._expire(expired, referred if self._terms.grace else set(), lock)
        old = {key: one.size for key, one in self._objects.items() if self._is_old(key, self._objects)}
        going = {key: size for key, size in old.items() if not (then.covers(key) or grace.covers(key))}
        if delete:
            going = self._sweep(going)
            hints.remove(self._store, *outdated)
        return self._report(lock, dropped, expired, going, old, then, deleted=delete)

    def _report(
        self,
        lock: Lockfile,
        dropped: Mapping[str, tuple[Release, ...]],
        expired: Collection[Journaled],
        going: Mapping[str, int],
        old: Mapping[str, int],
        then: Needs,
        *,
        deleted: bool,
    ) -> Collected:
        archives = {key: size for key, size in going.items() if key.startswith(self._archives)}
        others = {key: size for key, size in going.items() if key not in archives}
        amounts = (Amount.of("source archives", archives), Amount.of("objects", others))
        return Collected(
            project=self._project,
            store=self._store.url,
            deleted=deleted,
            generation=lock.generation,
            at=timestamp(self._now),
            versions=tuple(
                DroppedVersion(flow, row.version, row.at, row.by) for flow, rows in dropped.items() for row in rows
            ),
            executions=tuple(one.exec_id for one in expired if one.exists),
            objects=tuple(amount for amount in amounts if amount.count),
            records=Amount("records", sum(one.keys for one in expired), sum(one.size for one in expired)),
            later=Amount.of(
                "objects", {key: size for key, size in old.items() if key not in going and not then.covers(key)}
            ),
            kept=Amount.of("objects", {key: one.size for key, one in self._objects.items() if key not in going}),
        )

    # --- the store as it is -------------------------------------------------------------------------------------------

    def _list(self) -> None:
        self._step("listing objects")
        for prefix in (address.blobs(self._project), self._archives):
            self._objects.update({one.key: one for one in self._store.listed(prefix)})

    def _read_journals(self) -> None:
        ids = [name.rstrip("/") for name in self._store.names(address.executions(self._project))]
        wanted = frozenset(map(digest_of, self._objects))

        def read(exec_id: str) -> Journaled | None:
            return read_journal(self._store, self._project, exec_id, wanted)

        for done, journaled in enumerate(in_parallel(read, ids), 1):
            self._step("reading journals", done, len(ids))
            if journaled is not None:
                self._journals[journaled.exec_id] = journaled

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

    def _doomed(self, lock: Lockfile, window: Window) -> dict[str, tuple[Release, ...]]:
        """The versions to delete by the terms, by flow."""
        pinned = {one.pinned for one in self._journals.values() if one.pinned is not None} | window.led
        flows = [(flow, state) for flow, state in sorted(lock.flows.items()) if not state.renamed_to]

        def outlived_of(item: tuple[str, FlowState]) -> tuple[Release, ...]:
            table = read_table(self._store, self._project, item[1].table, item[0])
            return outlived(item[1], table, self._terms, self._now, pinned)

        return {flow: rows for (flow, _), rows in zip(flows, in_parallel(outlived_of, flows), strict=True) if rows}

    def _drop(self, lock: Lockfile, window: Window, by: str) -> tuple[Lockfile, dict[str, tuple[Release, ...]]]:
        """Delete the versions in the log; if another writer was faster, choose them anew from its state."""
        dropped: dict[str, tuple[Release, ...]] = {}
        turns = Turns(self._releases)
        while True:
            chosen: dict[str, tuple[Release, ...]] = {}
            edits: list[Drop] = []
            for flow, rows in self._doomed(lock, window).items():
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
        after = put_object(self._store, self._project, VersionTable(flow=flow, releases=tuple(releases)).canonical())
        return [Drop(kind="drop", flow=flow, version=row.version, table=after, expects=sha) for row in rows]

    # --- executions ---------------------------------------------------------------------------------------------------

    def _expired(self) -> list[Journaled]:
        """Executions that ended long enough ago, and the rest of incomplete removals."""
        age = self._terms.executions_older_than
        limit = min(self._now - age, self._horizon) if age is not None else None

        def is_expired(one: Journaled) -> bool:
            if not one.exists:
                return one.quiet_since < self._horizon
            return limit is not None and one.ended and one.quiet_since < limit

        return [one for one in self._journals.values() if is_expired(one)]

    def _expire(self, expired: list[Journaled], referred: Collection[str], lock: Lockfile) -> None:
        """Remove these executions; a note keeps their objects for the grace period."""
        if not expired:
            return
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
        old = [one.key for one in self._store.listed(folder) if one.modified < self._horizon]
        notes = f"{folder}seen/"

        def forget(key: str) -> None:
            if not key.startswith(notes):
                self._remove_naming(key, exec_ids)
            elif key.rpartition("/")[2].removesuffix(".json") in exec_ids:
                hints.remove(self._store, key)

        for _ in in_parallel(forget, old):
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
        removed: dict[str, int] = {}
        archives = sorted(key for key in going if key.startswith(self._archives))
        self._remove(archives, removed)
        left = {digest_of(key) for key in self._objects if key.startswith(self._archives) and key not in removed}
        others = sorted(going.keys() - set(archives))
        self._remove([key for key in others if digest_of(key) not in left], removed)
        return {key: going[key] for key in removed}

    def _remove(self, keys: list[str], removed: dict[str, int]) -> None:
        waiting = list(keys)
        while waiting:
            batch, rest = waiting[:BATCH_KEYS], waiting[BATCH_KEYS:]
            self._step("removing objects", len(removed), len(removed) + len(waiting))
            with self._marked() as open_still:
                folders = {key.rpartition("/")[0] for key in batch}
                folders |= {address.blob(self._project, digest_of(key)).rpartition("/")[0] for key in batch}
                listed = {one.key: one for folder in sorted(folders) for one in self._store.listed(f"{folder}/")}
                old = [key for key in batch if self._is_old(key, listed)]

                def remove(key: str, open_still: Callable[[], bool] = open_still) -> bool:
                    if open_still():
                        remove_object(self._store, key)
                        return True
                    return False

                for key, gone in zip(old, in_parallel(remove, old), strict=True):
                    if gone:
                        removed[key] = 0
            waiting = [*(key for key in old if key not in removed), *rest]

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


def _is_full(error: KitaruStoreError) -> bool:
    """Whether a disk is full, or a quota of it."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT)
