"""Verifies every generation of the log, chained by digest; the checks of objects and journals are in ``checks``.

Each entry holds the digest of the one before it. So a sound chain shows that no entry was changed, swapped, removed or
inserted while the later ones stayed. It does not show that the log was rewritten from one entry to its end, digests and
hint included; nor, if the hint was edited, too, that the newest entries were cut off. A digest of the head in another
place (a pull request, a CI log) shows both: ``expect`` looks for it in the chain.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kitaru.core.commit import next_lockfile
from kitaru.errors import KitaruIntegrityError, KitaruStoreFormatError
from kitaru.model import address
from kitaru.model.address import canonical_json, digest
from kitaru.model.event import Opened
from kitaru.model.lockfile import FlowState, Generation, Lockfile
from kitaru.ports import Reporter, Step
from kitaru.release.releases import belongs, way_on
from kitaru.run.journal import read_events
from kitaru.store.log import Log, runs
from kitaru.store.objects import parse
from kitaru.store.port import Store

BATCH = 256
"""Generations in memory at once."""

MOST_PROBLEMS = 1000

EXECUTIONS_ASKED = 256
"""Without any log, so many executions are read to find one of a released version."""


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
class Hole:
    """Generations ``first`` to ``last`` are missing, and the next one exists."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Hint:
    """``kitaru.lock`` as it was before the log was listed; ``lock`` is None if it is missing or invalid."""

    there: bool
    lock: Lockfile | None
    why: str = ""


@dataclass(slots=True)
class Chain:
    """The checked lock log. ``lock``: the newest state, None if the log alone does not give it.

    ``digest``: that of the newest entry, empty if there is none or it is damaged.
    """

    head: int = 0
    digest: str = ""
    lock: Lockfile | None = None
    expected: bool = True
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fault(self, key: str, message: str, generation: int = 0) -> None:
        """Add a fault, up to ``MOST_PROBLEMS``."""
        if len(self.faults) < MOST_PROBLEMS:
            self.faults.append(Fault(key, message, generation))


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
        names = ("project", "store", "generations", "head", "deep", "objects", "executions")
        return {
            "sound": self.sound,
            **{name: getattr(self, name) for name in names},
            "first_bad": self.first_bad,
            "problems": [fault.to_json() for fault in self.problems],
            "notes": list(self.notes),
        }


def read_hint(store: Store, project: str) -> Hint:
    """Read the copy of the newest state, ``kitaru.lock``, and check that it is whole."""
    key = address.lock_hint(project)
    body = store.read(key)
    if body is None:
        return Hint(False, None)
    try:
        lock = parse(Lockfile, body, key)
    except (KitaruIntegrityError, KitaruStoreFormatError) as error:
        return Hint(True, None, error.message)
    if lock.project != project:
        return Hint(True, None, f"it is of project {lock.project}")
    if lock.checksum != lock.state_digest:
        return Hint(True, None, "its checksum does not fit its content")
    return Hint(True, lock)


def verify_chain(store: Store, project: str, reporter: Reporter, *, expect: str = "") -> Chain:
    """Read every generation once, in order, and list all faults; memory does not grow with their number.

    ``expect``: a digest, or its first twelve digits at least, that some generation must have.
    """
    # The hint first: entries that are appended meanwhile can't make it look ahead of the log.
    hint = read_hint(store, project)
    chain = Chain(expected=not expect)
    numbers = _numbers(store, project, chain)
    walk = _Walk(project, chain, hint, expect)
    done = 0
    for first, last in runs(numbers):
        if first > chain.head + 1 and not belongs(store, project, first):
            _report_stray(project, chain, first, last)
            continue
        if first > chain.head + 1:
            walk.skip(Hole(chain.head + 1, first - 1))
        for start in range(first, last + 1, BATCH):
            batch = range(start, min(start + BATCH, last + 1))
            for number, body in _bodies(store, project, batch):
                walk.take(number, body)
            done += len(batch)
            reporter.step(Step("verify", "generations", done, len(numbers)))
        chain.head = last
    walk.end(frozenset(numbers))
    if any(_denies_head(fault, chain.head, address.lock_hint(project)) for fault in chain.faults):
        chain.digest = ""
    if not chain.expected:
        message = f"no generation has the digest {expect}: the log was rewritten since it was noted, or cut off"
        chain.faults.append(Fault(f"{project}/lock/", message))
    if not chain.head and not chain.faults:
        _check_nothing(store, project, chain)
    if len(chain.faults) >= MOST_PROBLEMS:
        chain.notes.append(f"only the first {MOST_PROBLEMS} problems of the log are listed")
    return chain


def _numbers(store: Store, project: str, chain: Chain) -> list[int]:
    numbers, foreign = Log(store, address.generations(project)).listing()
    for name in foreign:
        chain.fault(f"{address.generations(project)}{name}", "no generation has this name; nothing reads it")
    return numbers


def _report_stray(project: str, chain: Chain, first: int, last: int) -> None:
    """Add one fault for a run of entries that do not belong to the log."""
    what = f"generations {first} to {last} are stray entries" if last > first else "is a stray entry"
    message = f"{what}: by its own word it is no generation {first}, and the log before it ends with {chain.head}"
    chain.fault(address.generation(project, first), message, first)


def _denies_head(fault: Fault, head: int, hint: str) -> bool:
    """Whether a fault says that the newest entry is wrong, or is not the newest."""
    return fault.generation == head > 0 or (fault.key == hint and fault.generation > head)


def _check_nothing(store: Store, project: str, chain: Chain) -> None:
    """Check a project without any generation: it was never applied, or its log was removed.

    Executions from source need no log; released source and executions of a version do.
    """
    log = f"{project}/lock/"
    sources = address.source_archives(project)
    if store.names(sources):
        chain.fault(
            log,
            f"there is released source in {sources}, and no generation: the log was removed, or the first apply was "
            "stopped before it ended",
        )
    ids = [name.rstrip("/") for name in store.names(address.executions(project))]
    led = next((one for one in ids[:EXECUTIONS_ASKED] if _was_led(store, project, one)), None)
    if led is not None:
        chain.fault(log, f"{led} runs a released version, and there is no generation: the log was removed")
    if not chain.faults:
        chain.notes.append(f"nothing there: no generation of project {project} in {store.url}")


def _was_led(store: Store, project: str, exec_id: str) -> bool:
    """Whether an execution runs a version, which needs a log."""
    body = store.read(address.journal_entry(project, exec_id, 1))
    try:
        events = read_events((body,), exec_id) if body is not None else ()
    except (KitaruIntegrityError, KitaruStoreFormatError):
        return False
    return any(isinstance(event, Opened) and event.version is not None for event in events)


def _bodies(store: Store, project: str, numbers: Sequence[int]) -> Iterator[tuple[int, bytes | None]]:
    return zip(numbers, Log(store, address.generations(project)).read_each(numbers), strict=True)


class _StateDigest:
    """``Lockfile.state_digest`` of successive states: only the flows that changed are serialized again."""

    def __init__(self) -> None:
        self._written: dict[str, tuple[FlowState, bytes]] = {}

    def of(self, flows: Mapping[str, FlowState]) -> str:
        """The digest of a state."""
        return digest(b"{" + b",".join(self._one(name, flows[name]) for name in sorted(flows)) + b"}\n")

    def _one(self, name: str, state: FlowState) -> bytes:
        known = self._written.get(name)
        if known is not None and known[0] is state:
            return known[1]
        # A whole object of one key, without its braces and its newline.
        written = canonical_json({name: state.data()})[1:-2]
        self._written[name] = (state, written)
        return written


class _Walk:
    """Checks the chain, one generation after the other."""

    def __init__(self, project: str, chain: Chain, hint: Hint, expect: str) -> None:
        self._project = project
        self._chain = chain
        self._hint = hint
        self._expect = expect
        self._lock: Lockfile | None = Lockfile(project=project)
        self._before: str | None = ""
        """The digest of the entry before, None if that is missing."""
        self._loose: tuple[int, str] | None = None
        """A generation with a parent that is not the entry before it, and that parent: one of the two was changed."""
        self._lost_state = 0
        self._holes: list[Hole] = []
        self._known_from = 0
        """The generation with a full state that made the state known again after it was lost."""
        self._digests = _StateDigest()

    def take(self, number: int, body: bytes | None) -> None:
        """Check the next generation; ``body`` is None if it is missing."""
        if body is None:
            self._settle_link(following_fits=False)
            self._fault(number, "is missing: it was listed, and was gone a moment later")
            self._before, self._chain.digest = None, ""
            self._lose(number)
            return
        sha = digest(body)
        self._expected(sha)
        try:
            entry = parse(Generation, body, self._key(number))
        except (KitaruIntegrityError, KitaruStoreFormatError) as error:
            self._settle_link(following_fits=False)
            self._fault(number, f"can't be read: {error.message}")
            # No head to note: an unreadable entry was changed.
            self._before, self._chain.digest = sha, ""
            self._lose(number)
            return
        self._link(entry, number)
        if entry.generation != number or entry.project != self._project:
            self._fault(number, f"is generation {entry.generation} of project {entry.project} by its own word")
        self._fold(entry, number, sha)
        self._before, self._chain.digest = sha, sha
        self._check_hint(number, sha)

    def skip(self, hole: Hole) -> None:
        """Pass over missing generations."""
        self._settle_link(following_fits=False)
        self._holes.append(hole)
        self._before = None
        self._lose(hole.last)

    def end(self, present: Collection[int]) -> None:
        """Finish the checks after the last generation. ``present``: the numbers of all listed entries."""
        hint, head = self._hint, self._chain.head
        witnessed = hint.lock is not None and (hint.lock.generation, hint.lock.entry) == (head, self._before)
        self._settle_link(following_fits=witnessed)
        self._report_lost(head)
        self._chain.lock = self._lock
        self._report_holes(present)
        key = address.lock_hint(self._project)
        if hint.lock is None and hint.there:
            message = f"was damaged or edited: {hint.why}. Readers leave it aside; the next generation writes it anew"
            self._chain.faults.append(Fault(key, message))
        elif hint.lock is not None and hint.lock.generation > head:
            message = (
                f"tells of generation {hint.lock.generation}, and the log ends with {head}: the newest generations "
                "are gone, or the hint was edited. Nothing is built upon that: restore them from a backup, or "
                f"{way_on(self._project)}"
            )
            self._chain.faults.append(Fault(key, message, head + 1))
        elif head and not hint.there:
            self._chain.notes.append("kitaru.lock is not there; readers do without it, the next generation writes it")

    def _report_holes(self, present: Collection[int]) -> None:
        for hole in self._holes:
            message = hole_words(hole)
            if hole is self._holes[-1]:
                known_from = self._known_from if self._lock is not None else 0
                known = state_words(self._project, self._chain.head, known_from, self._hint.lock, present)
                message = f"{message}. {known}"
            self._fault(hole.first, message)

    def _link(self, entry: Generation, number: int) -> None:
        fits = self._before is None or entry.parent == self._before
        self._settle_link(following_fits=fits)
        if not fits:
            self._loose = (number, entry.parent)

    def _settle_link(self, *, following_fits: bool) -> None:
        """Report which entry was changed, if one does not have the entry before it as its parent.

        If the next entry (or the hint) has its digest, it is as it was written, so the one before it was changed.
        """
        if self._loose is None:
            return
        (number, parent), self._loose = self._loose, None
        if following_fits and number > 1:
            named = address.short(parent) or "nothing"
            self._fault(
                number - 1, f"was changed after it was written: generation {number} follows one of digest {named}"
            )
        else:
            before = f"generation {number - 1}" if number > 1 else "nothing"
            self._fault(
                number, f"does not follow {before}: its parent is not the digest of that; one of them was changed"
            )

    def _fold(self, entry: Generation, number: int, sha: str) -> None:
        whole = None
        if entry.state is not None:
            whole = Lockfile(project=self._project, generation=number, entry=sha, flows=dict(entry.state))
            if whole.state_digest != entry.state_digest:
                self._fault(number, "the state that it holds is not the one whose digest it names")
                whole = None
        if self._lock is None:
            if whole is not None:
                self._report_lost(number - 1)
                self._known_from = number
            self._lock = whole
            return
        following = next_lockfile(self._lock, entry.edits, at=entry.at, by=entry.by, via=entry.verb)
        if isinstance(following, tuple):
            first = following[0]
            subject = f"{first.flow} {first.tag}" if first.tag else first.flow
            self._fault(number, f"its edits do not fit the state before it: {subject}: {first.message}")
        elif self._digests.of(following.flows) != entry.state_digest:
            self._fault(number, "its edits do not lead to the state whose digest it names")
        else:
            self._lock = following.model_copy(update={"entry": sha})
            return
        self._lock = whole
        if whole is None:
            self._lost_state = number

    def _check_hint(self, number: int, sha: str) -> None:
        hint = self._hint.lock
        if hint is None or hint.generation != number:
            return
        state = self._lock.state_digest if self._lock is not None else hint.state_digest
        if (hint.entry, hint.state_digest) != (sha, state):
            message = (
                f"does not tell of generation {number} what the log does: one of them was changed. Nothing is built "
                f"upon that: restore the one or the other, or {way_on(self._project)}"
            )
            self._chain.faults.append(Fault(address.lock_hint(self._project), message, number))

    def _lose(self, number: int) -> None:
        if self._lock is not None:
            self._lock, self._lost_state = None, number

    def _report_lost(self, last: int) -> None:
        if self._lost_state and self._lock is None and last > self._lost_state:
            self._chain.notes.append(
                f"the states of generations {self._lost_state} to {last} could not be checked: no full state among them"
            )
        self._lost_state = 0

    def _expected(self, sha: str) -> None:
        if self._expect and sha.startswith(self._expect):
            self._chain.expected = True

    def _key(self, number: int) -> str:
        return address.generation(self._project, number)

    def _fault(self, number: int, message: str) -> None:
        self._chain.fault(self._key(number), message, number)


def hole_words(hole: Hole) -> str:
    """The words on a hole, after ``generation 5``: the missing generations, and the remedy."""
    which = f"generations {hole.first} to {hole.last} are missing" if hole.last > hole.first else "is missing"
    where = f"between {hole.first - 1} and {hole.last + 1}" if hole.first > 1 else "at the beginning of the log"
    restore = "them" if hole.last > hole.first else "it"
    return f"{which} {where}, and no generation is ever deleted: restore {restore} from a backup"


def state_words(project: str, head: int, known_from: int, hint: Lockfile | None, present: Collection[int]) -> str:
    """The words on the newest state of a log with a hole before ``head``, its newest generation.

    ``known_from``: the generation with a full state after the hole, 0 if there is none. ``hint``: the state in
    ``kitaru.lock``, if that is valid. ``present``: all generations that exist.
    """
    found = _followed(hint.generation, present) if hint is not None else head
    if found < head:
        return f"Write nothing until then: the log would be taken to end with {found}, and forked there"
    if known_from:
        return f"The newest state is still known: generation {known_from} holds one in full"
    if hint is not None:
        return f"The newest state is known from {address.lock_hint(project)} alone: keep a copy of it"
    return "The newest state can't be told without that: no generation behind it holds one in full"


def _followed(number: int, present: Collection[int]) -> int:
    """The last generation from ``number`` on before a gap."""
    while number + 1 in present:
        number += 1
    return number
