"""Verifies a project: every generation of the log, and with ``deep`` every object and journal.

Each generation holds the digest of the one before it. So a sound chain shows that no entry was changed, swapped,
removed or inserted while the later ones stayed. It does not show that the log was rewritten from one entry to its end,
digests and hint included; nor, if the hint was edited, too, that the newest entries were cut off. A digest of the head
in another place (a pull request, a CI log) shows both: ``expect`` looks for it in the chain.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, cast

from kitaru.core.commit import next_lockfile
from kitaru.errors import KitaruError, KitaruIntegrityError, KitaruStoreFormatError
from kitaru.model import address
from kitaru.model.address import canonical_json, digest
from kitaru.model.event import (
    FORMAT,
    Entry,
    Opened,
    Value,
    decode_entry,
)
from kitaru.model.execution import Execution, fold
from kitaru.model.lockfile import FlowState, Generation, Lockfile, VersionTable
from kitaru.model.noun import Noun
from kitaru.model.snapshot import Snapshot
from kitaru.ports import Reporter, Step
from kitaru.release.releases import belongs, way_on
from kitaru.run.journal import log_of
from kitaru.store.log import Log, runs
from kitaru.store.objects import parse
from kitaru.store.port import Store
from kitaru.upkeep.collect import held, in_parallel
from kitaru.values.stored import inline_fits

BATCH = 256
"""Generations in memory at once."""

ARCHIVES_AT_ONCE = 4
"""Fewer than other objects, as only archives may be large."""

COMPARED = ("exec_id", "project", "flow_name", "status", "version", "snapshot", "inputs", "output", "failure")
"""The fields that must be equal in a summary and its journal."""

CheckArchive = Callable[[bytes, str], object]
"""(archive, digest of the tree); raises ``KitaruIntegrityError`` if the archive does not hold that tree."""

AnyNoun = TypeVar("AnyNoun", bound=Noun)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: the key in the store, a message, and the generation (0: none)."""

    key: str
    message: str
    generation: int = 0

    def to_json(self) -> dict[str, Any]:
        """As JSON data; ``generation`` is null if there is none."""
        return {"key": self.key, "generation": self.generation or None, "message": self.message}


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of ``store verify``. ``head``: the digest of the newest generation, worth noting in another place.

    It is empty if there is none, or it is damaged.
    """

    project: str
    store: str
    generations: int
    head: str
    deep: bool
    objects: int
    executions: int
    problems: tuple[Fault, ...]
    notes: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    @property
    def first_bad(self) -> int | None:
        """The first generation with a problem; None if there is none."""
        return min((fault.generation for fault in self.problems if fault.generation), default=None)

    def to_json(self) -> dict[str, Any]:
        """As JSON data; every key is always there. ``problems`` are ``{"key", "generation", "message"}``."""
        problems = [fault.to_json() for fault in self.problems]
        return {"sound": self.sound, **asdict(self), "first_bad": self.first_bad, "problems": problems}


def verify(
    store: Store, project: str, reporter: Reporter, *, expect: str = "", check_archive: CheckArchive | None = None
) -> Verified:
    """Read every generation once, in order; with ``check_archive`` every object and journal, too.

    ``expect``: a digest, or its first twelve digits at least, that some generation must have.
    """
    chain = _Chain(store, project, expect)
    chain.read(reporter)
    objects = _Objects(store, project, chain.lock or Lockfile(project=project))
    if check_archive is not None and chain.lock is not None:
        objects.read(check_archive, reporter)
    elif check_archive is not None:
        chain.notes.append("objects were not checked: the newest state can't be told")
    return Verified(
        project=project,
        store=store.url,
        generations=chain.head,
        head=chain.digest,
        deep=check_archive is not None,
        objects=objects.objects,
        executions=objects.executions,
        problems=(*sorted(chain.faults, key=lambda fault: fault.generation), *objects.faults),
        notes=tuple(chain.notes),
    )


# --- the log ----------------------------------------------------------------------------------------------------------


class _Chain:
    """The log of a project. ``lock``: the newest state, None if it is not known; ``digest``: of the newest entry."""

    def __init__(self, store: Store, project: str, expect: str) -> None:
        self._store = store
        self._project = project
        self._expect = expect
        self._expected = not expect
        self._hint_key = address.lock_hint(project)
        self.faults: list[Fault] = []
        self.notes: list[str] = []
        self.head = 0
        self.digest = ""
        self.lock: Lockfile | None = Lockfile(project=project)
        self._before: str | None = ""
        """The digest of the entry before, None if that is missing."""
        self._loose: dict[int, str] = {}
        """Generations with a parent that is not the entry before them, and that parent: one of the two was changed."""
        self._confirmed: set[int] = set()
        """Those of them with the digest that the next entry, or the hint, has as its parent: they are as written."""
        self._unchecked = 0
        self._written: dict[str, tuple[FlowState, bytes]] = {}

    def read(self, reporter: Reporter) -> None:
        """Check every entry, in order."""
        # The hint first: entries that are appended meanwhile can't make it look ahead of the log.
        hint_body = self._store.read(self._hint_key)
        self._hint = self._parse_hint(hint_body)
        log = Log(self._store, address.generations(self._project))
        numbers, foreign = log.listing()
        for name in foreign:
            self.faults.append(Fault(f"{log.folder}{name}", "no generation has this name; nothing reads it"))
        for first, last in runs(numbers):
            if first > self.head + 1:
                if not belongs(self._store, self._project, first):
                    self._report_stray(first, last)
                    continue
                self._skip_to(first)
            for start in range(first, last + 1, BATCH):
                batch = range(start, min(start + BATCH, last + 1))
                for number, body in zip(batch, log.read_each(batch), strict=True):
                    self._take(number, body)
                reporter.step(Step("verify", "generations", batch[-1], last))
        self._end(has_hint=hint_body is not None)

    def _parse_hint(self, body: bytes | None) -> Lockfile | None:
        """The state in ``kitaru.lock``, None if it is missing or damaged."""
        if body is None:
            return None
        reason = "its checksum does not fit its content"
        try:
            lock = parse(Lockfile, body, self._hint_key)
            if lock.project != self._project:
                reason = f"it is of project {lock.project}"
            elif lock.checksum == lock.state_digest:
                return lock
        except (KitaruIntegrityError, KitaruStoreFormatError) as error:
            reason = error.message
        message = f"was damaged or edited: {reason}. Readers leave it aside; the next generation writes it anew"
        self.faults.append(Fault(self._hint_key, message))
        return None

    def _report_stray(self, first: int, last: int) -> None:
        these = f"generations {first} to {last} are stray entries" if last > first else "is a stray entry"
        before = f"the log before it ends with {self.head}"
        self._fault(first, f"{these}: by its own word it is no generation {first}, and {before}")

    def _skip_to(self, number: int) -> None:
        """Report the missing generations before ``number``."""
        first, several = self.head + 1, number - self.head > 2
        these = f"generations {first} to {number - 1} are missing" if several else "is missing"
        place = f"between {self.head} and {number}" if first > 1 else "at the beginning of the log"
        restore = "them" if several else "it"
        self._fault(
            first,
            f"{these} {place}, and no generation is ever deleted: restore {restore} from a backup. Write nothing until "
            f"then, and keep a copy of {self._hint_key}",
        )
        self._before = self.lock = None

    def _take(self, number: int, body: bytes | None) -> None:
        before, self.head, self.digest = self._before, number, ""
        if body is None:
            self._fault(number, "is missing: it was listed, and was gone a moment later")
            self._before = self.lock = None
            return
        self._before = sha = digest(body)
        self._expected |= sha.startswith(self._expect)
        try:
            entry = parse(Generation, body, address.generation(self._project, number))
        except (KitaruIntegrityError, KitaruStoreFormatError) as error:
            self._fault(number, f"can't be read: {error.message}")
            self.lock = None
            return
        self.digest = sha
        if before is not None and entry.parent != before:
            self._loose[number] = entry.parent
        elif before is not None:
            self._confirmed.add(number - 1)
        if (entry.generation, entry.project) != (number, self._project):
            self._fault(number, f"is generation {entry.generation} of project {entry.project} by its own word")
        hint = self._hint
        if hint is not None and hint.generation == number and (hint.entry, hint.checksum) != (sha, entry.state_digest):
            self._hint = None
            message = (
                f"does not tell of generation {number} what the log does: one of them was changed. Nothing is built "
                f"upon that: restore the one or the other, or {way_on(self._project)}"
            )
            self.faults.append(Fault(self._hint_key, message, number))
        self._fold(entry, number, sha)

    def _fold(self, entry: Generation, number: int, sha: str) -> None:
        """Go on to the state after ``entry``; a full state or the hint makes it known again after it was lost."""
        whole = None
        if self._hint is not None and self._hint.generation == number:
            whole = self._hint.model_copy(update={"checksum": ""})
        if entry.state is not None:
            whole = Lockfile(project=self._project, generation=number, entry=sha, flows=dict(entry.state))
            if whole.state_digest != entry.state_digest:
                self._fault(number, "the state that it holds is not the one whose digest it names")
                whole = None
        if self.lock is not None:
            following = next_lockfile(self.lock, entry.edits, at=entry.at, by=entry.by, via=entry.verb)
            if isinstance(following, tuple):
                first = following[0]
                subject = f"{first.flow} {first.tag}" if first.tag else first.flow
                self._fault(number, f"its edits do not fit the state before it: {subject}: {first.message}")
            elif self._state_digest(following.flows) != entry.state_digest:
                self._fault(number, "its edits do not lead to the state whose digest it names")
            else:
                self.lock = following.model_copy(update={"entry": sha})
                return
        elif whole is None:
            self._unchecked += 1
        self.lock = whole

    def _state_digest(self, flows: Mapping[str, FlowState]) -> str:
        """``Lockfile.state_digest`` of successive states: only the flows that changed are serialized again."""
        for name, state in flows.items():
            if name not in self._written or self._written[name][0] is not state:
                # A whole object of one key, without its braces and its newline.
                self._written[name] = (state, canonical_json({name: state.data()})[1:-2])
        return digest(b"{" + b",".join(self._written[name][1] for name in sorted(flows)) + b"}\n")

    def _end(self, *, has_hint: bool) -> None:
        hint = self._hint
        if hint is not None and (hint.generation, hint.entry) == (self.head, self._before):
            self._confirmed.add(self.head)
        for number, parent in self._loose.items():
            if number in self._confirmed and number > 1:
                named = address.short(parent) or "nothing"
                message = f"was changed after it was written: generation {number} follows one of digest {named}"
                self._fault(number - 1, message)
            else:
                before = f"generation {number - 1}" if number > 1 else "nothing"
                message = f"does not follow {before}: its parent is not the digest of that; one of them was changed"
                self._fault(number, message)
        if hint is not None and hint.generation > self.head:
            message = (
                f"tells of generation {hint.generation}, and the log ends with {self.head}: the newest generations "
                "are gone, or the hint was edited. Nothing is built upon that: restore them from a backup, or "
                f"{way_on(self._project)}"
            )
            self.faults.append(Fault(self._hint_key, message, self.head + 1))
        elif self.head and not has_hint:
            self.notes.append("kitaru.lock is not there; readers do without it, the next generation writes it")
        if self._unchecked:
            self.notes.append(f"{self._unchecked} states could not be checked: those generations hold none in full")
        beyond = {fault.generation for fault in self.faults if fault.key == self._hint_key}
        if max(beyond, default=0) > self.head or any(fault.generation == self.head for fault in self.faults):
            self.digest = ""
        if not self._expected:
            message = f"no generation has the digest {self._expect}: the log was cut off, or rewritten since"
            self.faults.append(Fault(address.generations(self._project), message))
        if not self.head and not self.faults:
            self._check_nothing()

    def _check_nothing(self) -> None:
        """A project without any generation was never applied, or its log was removed."""
        sources = address.source_archives(self._project)
        if self._store.names(sources):
            message = (
                f"there is released source in {sources}, and no generation: the log was removed, or the first apply "
                "was stopped before it ended"
            )
            self.faults.append(Fault(address.generations(self._project), message))
        else:
            self.notes.append(f"nothing there: no generation of project {self._project} in {self._store.url}")

    def _fault(self, number: int, message: str) -> None:
        self.faults.append(Fault(address.generation(self._project, number), message, number))


# --- objects and journals ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Needed:
    """A snapshot to check. ``name``: ``the snapshot of agent v3``; ``source`` is empty if it is not known."""

    name: str
    sha: str
    source: str = ""


class _Objects:
    """The objects that ``lock`` needs, and the journals.

    Every version that is not deleted must have its snapshot and its source, with or without a route.
    """

    def __init__(self, store: Store, project: str, lock: Lockfile) -> None:
        self._store = store
        self._project = project
        self._lock = lock
        self._released: dict[str, dict[int, str]] = {}
        """Flow → version → snapshot, of the tables that can be read."""
        self.objects = 0
        self.executions = 0
        self.faults: list[Fault] = []

    def read(self, check_archive: CheckArchive, reporter: Reporter) -> None:
        """Read all of them."""
        snapshots: set[str] = set()
        sources: dict[str, None] = {}

        def take(needed: Sequence[_Needed]) -> None:
            snapshots.update(one.sha for one in needed)
            for source, faults in in_parallel(self._snapshot, needed):
                self.faults += faults
                sources.update({source: None} if source else {})
            self.objects += len(needed)

        # The versions of a renamed flow are those of its new name.
        flows = {name: state for name, state in sorted(self._lock.flows.items()) if not state.renamed_to}
        for done, (name, state) in enumerate(flows.items(), 1):
            reporter.step(Step("verify", f"objects of {name}", done, len(flows)))
            needed, faults = self._table(name, state)
            self.objects += 1
            self.faults += faults
            take(needed)
        ids = [name.rstrip("/") for name in self._store.names(address.executions(self._project))]
        pinned = {}
        for done, (execution, faults) in enumerate(in_parallel(self._journal, ids), 1):
            reporter.step(Step("verify", "journals", done, len(ids)))
            self.executions += 1
            self.faults += faults
            if execution is not None and not execution.ended and execution.snapshot not in {None, *snapshots}:
                pinned[execution.snapshot] = _Needed(f"the snapshot of {execution.flow_name}", str(execution.snapshot))
        take(list(pinned.values()))

        def check_source(sha: str) -> list[Fault]:
            return self._source(sha, check_archive)

        for done, faults in enumerate(in_parallel(check_source, list(sources), ARCHIVES_AT_ONCE), 1):
            reporter.step(Step("verify", "sources", done, len(sources)))
            self.objects += 2
            self.faults += faults

    def _table(self, name: str, state: FlowState) -> tuple[list[_Needed], list[Fault]]:
        """The snapshots in a flow's version table, and the faults of the table itself."""
        title = f"the version table of {name}"
        table = self._noun(VersionTable, state.table, title)
        if isinstance(table, Fault):
            return [_Needed(f"the snapshot of {name} v{version}", sha) for version, sha in held(state)], [table]
        by_number = {row.version: row.snapshot for row in table.releases}
        self._released[name] = by_number
        key, faults = address.blob(self._project, state.table), []
        if [row.version for row in table.releases] != list(range(1, state.latest + 1)):
            faults.append(Fault(key, f"{title} does not list v1 to v{state.latest}, each once, in order"))
        for version, sha in held(state):
            if by_number.get(version) != sha:
                faults.append(Fault(key, f"{title} does not give v{version} the snapshot that a route leads to"))
        rows = (row for row in table.releases if not row.deleted)
        return [_Needed(f"the snapshot of {name} v{row.version}", row.snapshot, row.source) for row in rows], faults

    def _snapshot(self, needed: _Needed) -> tuple[str, list[Fault]]:
        """The source of a snapshot, and its faults."""
        found = self._noun(Snapshot, needed.sha, needed.name)
        if isinstance(found, Fault):
            return "", [found]
        if needed.source not in ("", found.source):
            message = f"{needed.name} has another source than its version table says"
            return "", [Fault(address.blob(self._project, needed.sha), message)]
        return found.source, []

    def _source(self, sha: str, check_archive: CheckArchive) -> list[Fault]:
        """The faults of a source tree's listing and archive."""
        listing = self._body(sha, f"the listing of source {address.short(sha)}")
        faults = [listing] if isinstance(listing, Fault) else []
        key = address.source_archive(self._project, sha)
        archive = self._store.read(key)
        if archive is None:
            return [*faults, Fault(key, f"the archive of source {address.short(sha)} is missing from the store")]
        try:
            check_archive(archive, sha)
        except KitaruIntegrityError as error:
            faults.append(Fault(key, error.message))
        return faults

    def _noun(self, cls: type[AnyNoun], sha: str, title: str) -> AnyNoun | Fault:
        body = self._body(sha, title)
        if isinstance(body, Fault):
            return body
        try:
            return parse(cls, body, title)
        except (KitaruIntegrityError, KitaruStoreFormatError) as error:
            return Fault(address.blob(self._project, sha), error.message)

    def _body(self, sha: str, title: str) -> bytes | Fault:
        key = address.blob(self._project, sha)
        body = self._store.read(key)
        if body is None:
            return Fault(key, f"{title} is missing from the store")
        if digest(body) != sha:
            return Fault(key, f"{title} is not what its name says: its bytes were changed")
        return body

    def _journal(self, exec_id: str) -> tuple[Execution | None, list[Fault]]:
        """Read an execution's whole journal. Entries that its runner writes meanwhile are no fault."""
        # Before the entries: a runner writes them first, so the summary can't have more.
        summary = self._store.read(address.summary(self._project, exec_id))
        log = log_of(self._store, self._project, exec_id)
        try:
            bodies = log.read_on()
        except KitaruIntegrityError as error:
            return None, [Fault(log.folder, f"the journal of {exec_id} can't be read: {error.message}")]
        following = len(bodies) + 1
        beyond = [number for number in log.listing()[0] if number > following]
        # A runner may have written between the two looks.
        if beyond and log.read(following) is None:
            if bodies:
                text = f"missing, and {log.key(beyond[0]).rpartition('/')[2]} is there: "
                return None, [Fault(log.key(following), f"{text}what {exec_id} did is not known to its end")]
            # A replay writes its second entry first: until the first one is there, there is no execution.
            gone = Fault(log.folder, f"{exec_id} has no first entry, and later ones")
            return None, [gone] if len(beyond) > 1 else []
        if not bodies:
            return None, []
        try:
            entries = [decode_entry(body, f"journal entry {at} of {exec_id}") for at, body in enumerate(bodies, 1)]
            events = [event for entry in entries for event in entry.events]
            execution = fold(events)
        except (KitaruIntegrityError, KitaruStoreFormatError) as error:
            return None, [Fault(log.folder, f"the journal of {exec_id} can't be read: {error.message}")]
        if not isinstance(events[0], Opened) or (execution.exec_id, execution.project) != (exec_id, self._project):
            return None, [Fault(log.folder, f"the journal of {exec_id} is that of {execution.exec_id}")]
        faults = (
            *self._entry_faults(log, exec_id, entries),
            *self._version_faults(execution),
            *(self._summary_faults(log, exec_id, entries, summary) if summary is not None else ()),
        )
        return execution, list(faults)

    def _entry_faults(self, log: Log, exec_id: str, entries: Sequence[Entry]) -> Iterator[Fault]:
        for number, entry in enumerate(entries, 1):
            if entry.number != number:
                yield Fault(log.key(number), f"is entry {entry.number} of {exec_id} by its own word")
            for event in entry.events:
                for name in cast("tuple[str, ...]", event.__slots__):
                    value = getattr(event, name)
                    if isinstance(value, Value) and not inline_fits(value):
                        text = f"the {name} in its {event.kind} event is not what the digest beside it says"
                        yield Fault(log.key(number), f"{text}: entry {number} of {exec_id} was changed")

    def _version_faults(self, execution: Execution) -> Iterator[Fault]:
        """Check that the execution runs the snapshot of its version."""
        version, exec_id = execution.version, execution.exec_id
        name = execution.flow_name
        while (state := self._lock.flows.get(name)) is not None and state.renamed_to:
            name = state.renamed_to
        key = address.journal_entry(self._project, exec_id, 1)
        if version is None:
            return
        if state is None or version > state.latest:
            # The version may have been released after the log was read.
            if self._store.read(address.generation(self._project, self._lock.generation + 1)) is None:
                yield Fault(key, f"{exec_id} runs v{version} of {execution.flow_name}, which was never released")
        elif name in self._released and self._released[name].get(version) != execution.snapshot:
            yield Fault(key, f"{exec_id} runs another snapshot than v{version} of {name} is: its entry 1 was changed")

    def _summary_faults(self, log: Log, exec_id: str, entries: Sequence[Entry], body: bytes) -> Iterator[Fault]:
        """Compare the summary with as many entries as it counts: later ones may be newer than it."""
        key = address.summary(self._project, exec_id)
        try:
            content = json.loads(body)
            if content["format"] > FORMAT:
                return
            count, summary = int(content["entries"]), Execution.from_json(content["execution"])
        except (ValueError, TypeError, KeyError, RecursionError):
            yield Fault(key, f"the summary of {exec_id} can't be read: it was damaged or edited")
            return
        text = f"the summary of {exec_id} tells of {count} entries"
        if count > len(entries):
            text = f"missing: {text} ({summary.status}), its journal ends with {len(entries)}"
            yield Fault(log.key(len(entries) + 1), text)
            return
        try:
            known = fold(event for entry in entries[:count] for event in entry.events)
        except KitaruError:
            yield Fault(key, f"{text}, which do not open it")
            return
        differing = [name for name in COMPARED if not _alike(getattr(summary, name), getattr(known, name))]
        if summary.status == "lost" and "status" in differing:
            differing.remove("status")  # No journal records that its runner is lost.
        if differing:
            words = ", ".join(name.removesuffix("_name").replace("_", " ") for name in differing)
            yield Fault(key, f"the summary of {exec_id} does not say what its {count} entries do: {words}")


def _alike(summary: Any, journal: Any) -> bool:
    """Whether a summary's field equals the journal's; an edited value in an entry is a fault of the entry alone."""
    if isinstance(summary, Value) and isinstance(journal, Value):
        named = (summary.format, summary.size, summary.sha256) == (journal.format, journal.size, journal.sha256)
        return named and (summary.inline == journal.inline or not inline_fits(journal))
    return bool(summary == journal)
