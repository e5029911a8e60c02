"""Checks that the objects of the newest state exist and fit their digests, and that the journals are whole."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, TypeVar, cast

from kitaru.errors import KitaruError, KitaruIntegrityError, KitaruStoreFormatError
from kitaru.model import address
from kitaru.model.event import (
    FORMAT,
    ArtifactSaved,
    CheckpointCompleted,
    Completed,
    Entry,
    Event,
    Opened,
    Value,
    decode_entry,
)
from kitaru.model.execution import Execution, fold
from kitaru.model.lockfile import FlowState, Lockfile, VersionTable
from kitaru.model.noun import Noun
from kitaru.model.snapshot import Snapshot
from kitaru.ports import Reporter, Step
from kitaru.run.journal import read_entries
from kitaru.store.objects import parse, read_table
from kitaru.store.port import Store
from kitaru.upkeep.verify import Fault
from kitaru.values.stored import inline_fits

CHECKS_AT_ONCE = 16
ARCHIVES_AT_ONCE = 4
"""Fewer, as only archives may be large."""

WINDOW = 128
"""Checks that are begun before the first result is taken."""

CheckArchive = Callable[[bytes, str], None]
"""(archive, digest of the tree); raises ``KitaruIntegrityError`` if the archive does not hold that tree."""

Item = TypeVar("Item")
Result = TypeVar("Result")
AnyNoun = TypeVar("AnyNoun", bound=Noun)


class Missing(Fault):
    """A key that is missing from the store."""

    __slots__ = ()


@dataclass(slots=True)
class Found:
    """The number of checked objects and executions, and their faults."""

    objects: int = 0
    executions: int = 0
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Needed:
    """A snapshot to check; ``source`` is empty if it is not known."""

    flow: str
    version: int | None
    sha: str
    source: str


@dataclass(frozen=True, slots=True)
class _Checked:
    """A checked snapshot: its fault, or the digest of its ``source``."""

    needed: _Needed
    fault: Fault | None = None
    source: str = ""


def verify_objects(
    store: Store, project: str, lock: Lockfile, check_archive: CheckArchive, reporter: Reporter
) -> Found:
    """Read every object that ``lock`` needs, and every journal; memory grows with flows and distinct sources only.

    Every version that is not deleted must have its snapshot and its source, with or without a route.
    """
    found = Found()
    checks = _Checks(store, project, check_archive)
    sources: dict[str, None] = {}
    # The versions of a renamed flow are those of its new name.
    flows = {name: state for name, state in sorted(lock.flows.items()) if not state.renamed_to}
    for done, (name, state) in enumerate(flows.items(), 1):
        reporter.step(Step("verify", f"objects of {name}", done, len(flows)))
        needed, faults = checks.table(name, state)
        found.objects += 1
        found.faults += faults
        _take(found, sources, _parallel(checks.snapshot, needed, CHECKS_AT_ONCE))
    for flow, shas in _journals(store, project, lock, found, reporter).items():
        told = {fault.key for fault in found.faults}
        asked = [sha for sha in sorted(shas - _routed(lock)) if address.blob(project, sha) not in told]
        pinned = [_Needed(flow, None, sha, "") for sha in asked]
        _take(found, sources, _parallel(checks.snapshot, pinned, CHECKS_AT_ONCE))
    total = len(sources)
    for done, (there, faults) in enumerate(_parallel(checks.source, sources, ARCHIVES_AT_ONCE), 1):
        reporter.step(Step("verify", "sources", done, total))
        found.objects += there
        found.faults += faults
    return found


def _held(state: FlowState) -> list[tuple[int, str]]:
    """Version and snapshot, ``(3, "3f…")``, of the flow's routes, and of those that a rollback took off."""
    holders = [holder for route in state.routes.values() for holder in route.holders]
    holders += [holder for route in state.routes.values() if route.hold is not None for holder in route.hold.left]
    return sorted({(holder.version, holder.snapshot) for holder in holders})


def _routed(lock: Lockfile) -> set[str]:
    routes = (route for state in lock.flows.values() for route in state.routes.values())
    return {holder.snapshot for route in routes for holder in route.holders}


def _take(found: Found, sources: dict[str, None], checked: Iterable[_Checked]) -> None:
    for one in checked:
        found.objects += 0 if isinstance(one.fault, Missing) else 1
        found.faults += [one.fault] if one.fault else []
        if one.source:
            sources[one.source] = None


def _parallel(work: Callable[[Item], Result], items: Iterable[Item], at_once: int) -> Iterator[Result]:
    """``work`` of each item, in order, by several threads; at most ``WINDOW`` results wait."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(max_workers=at_once) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= (WINDOW if at_once > ARCHIVES_AT_ONCE else at_once):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@dataclass(frozen=True, slots=True)
class _Checks:
    store: Store
    project: str
    check_archive: CheckArchive

    def table(self, name: str, state: FlowState) -> tuple[list[_Needed], list[Fault]]:
        """The snapshots in a flow's version table, and the faults of the table itself."""
        key = address.blob(self.project, state.table)
        what = f"the version table of {name}"
        table = self._noun(VersionTable, state.table, what)
        if isinstance(table, Fault):
            return [_Needed(name, version, sha, "") for version, sha in _held(state)], [table]
        faults = []
        numbers = [release.version for release in table.releases]
        if numbers != list(range(1, state.latest + 1)):
            faults.append(Fault(key, f"{what} does not list v1 to v{state.latest}, each once, in order"))
        by_number = {release.version: release for release in table.releases}
        held = _held(state)
        for version, sha in held:
            release = by_number.get(version)
            if release is None or release.snapshot != sha:
                faults.append(Fault(key, f"{what} does not give v{version} the snapshot that a route leads to"))
        needed = [_Needed(name, one.version, one.snapshot, one.source) for one in table.releases if not one.deleted]
        return needed, faults

    def snapshot(self, needed: _Needed) -> _Checked:
        """Read and check one snapshot."""
        version = f" v{needed.version}" if needed.version is not None else ""
        what = f"the snapshot of {needed.flow}{version}"
        found = self._noun(Snapshot, needed.sha, what)
        if isinstance(found, Fault):
            return _Checked(needed, found)
        if needed.source and found.source != needed.source:
            key = address.blob(self.project, needed.sha)
            return _Checked(needed, Fault(key, f"{what} has another source than its version table says"))
        return _Checked(needed, source=found.source)

    def source(self, sha: str) -> tuple[int, list[Fault]]:
        """The number of a source tree's objects that exist (0 to 2), and the faults of its listing and archive."""
        short = address.short(sha)
        key = address.source_archive(self.project, sha)
        faults = []
        listing = self._body(address.blob(self.project, sha), sha, f"the listing of source {short}")
        if isinstance(listing, Fault):
            faults.append(listing)
        archive = self.store.read(key)
        if archive is None:
            faults.append(Missing(key, f"the archive of source {short} is missing from the store"))
        else:
            try:
                self.check_archive(archive, sha)
            except KitaruIntegrityError as error:
                faults.append(Fault(key, error.message))
        return 2 - sum(isinstance(one, Missing) for one in faults), faults

    def _noun(self, cls: type[AnyNoun], sha: str, what: str) -> AnyNoun | Fault:
        key = address.blob(self.project, sha)
        body = self._body(key, sha, what)
        if isinstance(body, Fault):
            return body
        try:
            return parse(cls, body, what)
        except (KitaruIntegrityError, KitaruStoreFormatError) as error:
            return Fault(key, error.message)

    def _body(self, key: str, sha: str, what: str) -> bytes | Fault:
        body = self.store.read(key)
        if body is None:
            return Missing(key, f"{what} is missing from the store")
        if address.digest(body) != sha:
            return Fault(key, f"{what} is not what its name says: its bytes were changed")
        return body


def _journals(store: Store, project: str, lock: Lockfile, found: Found, reporter: Reporter) -> dict[str, set[str]]:
    """Read every journal; the snapshots of executions that have not ended, by flow: ``{"research": {"3f…"}}``."""
    ids = [name.rstrip("/") for name in store.names(address.executions(project))]
    pinned: dict[str, set[str]] = {}
    checks = JournalChecks(store, project, lock)
    for done, one in enumerate(_parallel(checks.check, ids, CHECKS_AT_ONCE), 1):
        if done % WINDOW == 0 or done == len(ids):
            reporter.step(Step("verify", "journals", done, len(ids)))
        found.executions += 1
        found.faults += one.faults
        if one.pinned is not None:
            pinned.setdefault(one.pinned[0], set()).add(one.pinned[1])
    return pinned


COMPARED = ("exec_id", "project", "flow_name", "status", "version", "snapshot", "inputs", "output", "failure")
"""The fields that must be equal in a summary and its journal."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The faults of one journal. ``pinned``: flow and snapshot if it has not ended: ``("research", "3f…")``."""

    faults: tuple[Fault, ...] = ()
    pinned: tuple[str, str] | None = None


@dataclass(slots=True)
class JournalChecks:
    """Checks the journals of a project with the newest state ``lock``. Several threads may use it."""

    store: Store
    project: str
    lock: Lockfile
    _tables: dict[str, VersionTable | None] = field(default_factory=dict)
    _guard: Lock = field(default_factory=Lock)

    def check(self, exec_id: str) -> Checked:
        """Read an execution's whole journal. Entries that its runner writes meanwhile are no fault."""
        # Before the entries: a runner writes them first, so the summary can't have more.
        summary = self.store.read(address.summary(self.project, exec_id))
        folder = address.journal(self.project, exec_id)
        bodies: tuple[bytes, ...] = ()
        while True:
            bodies = read_entries(self.store, self.project, exec_id, bodies)
            missing = address.journal_entry(self.project, exec_id, len(bodies) + 1)
            newest = address.journal_entry(self.project, exec_id, len(bodies)).rpartition("/")[2]
            beyond = self.store.names(folder, after=newest)
            # A runner may have written between the two looks.
            if not beyond or self.store.read(missing) is None:
                break
        if not bodies:
            # A replay writes its second entry first: until the first one is there, there is no execution.
            gone = Fault(folder, f"{exec_id} has no first entry, and later ones")
            return Checked((gone,) if len(beyond) > 1 else ())
        if beyond:
            text = f"missing, and {beyond[0]} is there: what {exec_id} did is not known to its end"
            return Checked((Fault(missing, text),))
        try:
            entries = [decode_entry(body, f"journal entry {at} of {exec_id}") for at, body in enumerate(bodies, 1)]
            events = [event for entry in entries for event in entry.events]
            execution = fold(events)
        except (KitaruIntegrityError, KitaruStoreFormatError) as error:
            return Checked((Fault(folder, f"the journal of {exec_id} can't be read: {error.message}"),))
        if not isinstance(events[0], Opened) or (execution.exec_id, execution.project) != (exec_id, self.project):
            return Checked((Fault(folder, f"the journal of {exec_id} is that of {execution.exec_id}"),))
        faults = (
            *self._entry_faults(exec_id, entries),
            *self._version_faults(execution),
            *self._summary_faults(exec_id, entries, summary),
        )
        if execution.ended or execution.snapshot is None:
            return Checked(faults)
        return Checked(faults, (execution.flow_name, execution.snapshot))

    def _entry_faults(self, exec_id: str, entries: Sequence[Entry]) -> Iterator[Fault]:
        for number, entry in enumerate(entries, 1):
            key = address.journal_entry(self.project, exec_id, number)
            if entry.number != number:
                yield Fault(key, f"is entry {entry.number} of {exec_id} by its own word")
            for event in entry.events:
                for name, value in _values(event):
                    if not inline_fits(value, as_written=_is_own(event)):
                        text = f"the {name} in its {event.kind} event is not what the digest beside it says"
                        yield Fault(key, f"{text}: entry {number} of {exec_id} was changed")

    def _version_faults(self, execution: Execution) -> Iterator[Fault]:
        """Check that the execution runs the snapshot of its version."""
        version, exec_id = execution.version, execution.exec_id
        if version is None:
            return
        key = address.journal_entry(self.project, exec_id, 1)
        name = execution.flow_name
        while (state := self.lock.flows.get(name)) is not None and state.renamed_to:
            name = state.renamed_to
        if state is None or version > state.latest:
            # The version may have been released after the log was read.
            if self.store.read(address.generation(self.project, self.lock.generation + 1)) is None:
                yield Fault(key, f"{exec_id} runs v{version} of {execution.flow_name}, which was never released")
            return
        table = self._table(name, state.table)
        release = table.release(version) if table is not None else None
        # A table that can't be read is a fault of its own.
        if table is not None and (release is None or release.snapshot != execution.snapshot):
            yield Fault(key, f"{exec_id} runs another snapshot than v{version} of {name} is: its entry 1 was changed")

    def _table(self, flow: str, sha: str) -> VersionTable | None:
        with self._guard:
            if sha not in self._tables:
                try:
                    self._tables[sha] = read_table(self.store, self.project, sha, flow)
                except (KitaruIntegrityError, KitaruStoreFormatError):
                    self._tables[sha] = None
            return self._tables[sha]

    def _summary_faults(self, exec_id: str, entries: Sequence[Entry], body: bytes | None) -> Iterator[Fault]:
        """Compare the summary with as many entries as it counts: later ones may be newer than it."""
        if body is None:
            return
        key = address.summary(self.project, exec_id)
        try:
            content = json.loads(body)
            if content["format"] > FORMAT:
                return
            count, told = int(content["entries"]), Execution.from_json(content["execution"])
        except (ValueError, TypeError, KeyError, RecursionError):
            yield Fault(key, f"the summary of {exec_id} can't be read: it was damaged or edited")
            return
        if count > len(entries):
            text = f"the summary of {exec_id} tells of {count} entries ({told.status}), its journal ends with"
            missing = address.journal_entry(self.project, exec_id, len(entries) + 1)
            yield Fault(missing, f"missing: {text} {len(entries)}")
            return
        try:
            known = fold(event for entry in entries[:count] for event in entry.events)
        except KitaruError:
            yield Fault(key, f"the summary of {exec_id} tells of {count} entries, which do not open it")
            return
        # No journal records that its runner is lost.
        lost = told.status == "lost"
        differing = [
            name
            for name in COMPARED
            if not _alike(getattr(told, name), getattr(known, name)) and not (lost and name == "status")
        ]
        if differing:
            words = ", ".join(name.removesuffix("_name").replace("_", " ") for name in differing)
            yield Fault(key, f"the summary of {exec_id} does not say what its {count} entries do: {words}")


def _is_own(event: Event) -> bool:
    """Whether the runner made the event's value itself, so that its bytes are as first written."""
    if isinstance(event, CheckpointCompleted):
        return event.cached_from is None and event.original_call_id is None and event.given_by is None
    return isinstance(event, Completed | ArtifactSaved)


def _values(event: Event) -> Iterator[tuple[str, Value]]:
    """The stored values of an event, each with its field's name."""
    for name in cast("tuple[str, ...]", event.__slots__):
        found = getattr(event, name)
        if isinstance(found, Value):
            yield name, found


def _alike(told: Any, known: Any) -> bool:
    """Whether a summary's field equals the journal's; a summary sorts the keys of a value, so its digest may differ.

    An edited value in an entry is a fault of the entry, not of the summary, too.
    """
    if isinstance(told, Value) and isinstance(known, Value):
        named = (told.format, told.size, told.sha256) == (known.format, known.size, known.sha256)
        return named and (told.inline == known.inline or not inline_fits(known))
    return bool(told == known)
