"""Do the objects that the newest state needs exist, and are they what their names say? And are the journals whole?"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from kitaru.errors import KitaruIntegrityError, KitaruStoreFormatError
from kitaru.model import address
from kitaru.model.lockfile import FlowState, Lockfile, VersionTable
from kitaru.model.noun import Noun
from kitaru.model.snapshot import Snapshot
from kitaru.ports import Reporter, Step, Store
from kitaru.store.records import parse
from kitaru.upkeep.journal_checks import JournalChecks
from kitaru.upkeep.verifying import Fault

CHECKS_AT_ONCE = 16
ARCHIVES_AT_ONCE = 4
"""Archives are the one kind of object that may be large."""

WINDOW = 128
"""Checks that are begun before the first of them is asked for its result."""

CheckArchive = Callable[[bytes, str], None]
"""(archive, digest of the tree) → nothing, or ``KitaruIntegrityError`` where it holds something else."""

Item = TypeVar("Item")
Result = TypeVar("Result")
AnyNoun = TypeVar("AnyNoun", bound=Noun)


class Missing(Fault):
    """A key with nothing under it."""

    __slots__ = ()


@dataclass(slots=True)
class Found:
    """What was looked at, and what is wrong with it."""

    objects: int = 0
    executions: int = 0
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Needed:
    """A snapshot to check; ``source`` "": not known."""

    flow: str
    version: int | None
    sha: str
    source: str


@dataclass(frozen=True, slots=True)
class _Checked:
    """How a snapshot was found: ``source`` is what it was made of."""

    needed: _Needed
    fault: Fault | None = None
    source: str = ""


def verify_objects(
    store: Store, project: str, lock: Lockfile, check_archive: CheckArchive, reporter: Reporter
) -> Found:
    """Read all that ``lock`` leads to, and every journal; memory grows with the flows and the distinct sources only.

    Every version that is not deleted must have its snapshot and its source, whether a route leads there or not.
    """
    found = Found()
    checks = _Checks(store, project, check_archive)
    sources: dict[str, None] = {}
    # What a renamed flow was is all found under its new name.
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
    """Version and snapshot of all that the flow's routes lead to, what a rollback took off included."""
    holders = [holder for route in state.routes.values() for holder in route.holders]
    holders += [holder for route in state.routes.values() if route.hold is not None for holder in route.hold.left]
    holders += [holder for marks in state.held_off.values() for mark in marks for holder in mark.left]
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
    """``work`` of each item, in order, by several threads; no more than ``WINDOW`` results wait to be taken."""
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
        """The snapshots that a flow's version table names, and what is wrong with the table itself."""
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
        """One snapshot, read and hashed."""
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
        """One source tree: how many of its two objects are there, and what is wrong with its listing and archive."""
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
    """Read every journal; the snapshots that executions are pinned to which have not ended, by flow."""
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
