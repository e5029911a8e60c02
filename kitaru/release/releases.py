"""The lock log of a project: its newest state, its history, and the only writer of generations."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Required, TypedDict, Unpack

from kitaru.core.commit import fold, next_lockfile
from kitaru.errors import KitaruError, KitaruIntegrityError, KitaruStoreFormatError
from kitaru.model import address
from kitaru.model.address import canonical_json, digest, timestamp
from kitaru.model.jsonable import recorded_line
from kitaru.model.lockfile import Broken, Edit, Generation, Lockfile, Rename
from kitaru.model.route import APPLY
from kitaru.model.snapshot import Commit
from kitaru.ports import Clock
from kitaru.release.history import Past
from kitaru.store import hints
from kitaru.store.log import Log, runs
from kitaru.store.objects import parse
from kitaru.store.port import Created, Store

FULL_STATE_BYTES = 16 * 1024
FULL_STATE_EVERY = 64
"""A state larger than ``FULL_STATE_BYTES`` is written in full in every 64th entry only."""


LONGEST_PAUSE = 2.0
"""Seconds. Fifty writers of one log need a few tenths of one to get out of each other's way."""

MOST_DOUBLINGS = 10

READS_ON = 3
"""How many generations a writer that lost a race follows one by one, before it asks the hint where the log is now."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Another writer took the generation: this one, on the state ``before`` it.

    ``entry`` is the digest of the winner's bytes, ``seconds`` how long the attempt took that was lost to it.
    """

    winner: Generation
    entry: str
    before: Lockfile
    seconds: float


def way_on(project: str) -> str:
    """What somebody does who has looked at a log that the hint denies, and wants to go on with it."""
    hint = address.lock_hint(project)
    return f"delete {hint} to go on with the log as it is (numbers of versions that are gone are given again)"


def belongs(store: Store, project: str, number: int) -> bool:
    """Whether an entry behind a gap is of this log: by its own word it is, and none is written before the one before.

    Only then were those in the gap there once. One that can't be read doesn't deny it. One read.
    """
    log = Log(store, address.generations(project))
    body = log.read(number)
    if body is None:
        return False
    try:
        entry = parse(Generation, body, log.key(number))
    except (KitaruIntegrityError, KitaruStoreFormatError):
        return True
    return (entry.generation, entry.project) == (number, project)


class Signed(TypedDict, total=False):
    """Who writes a generation, with which verb (``apply`` where none is given), from which commit, and why."""

    by: Required[str]
    verb: str
    commit: Commit | None
    message: str


class Releases:
    """The lock log of one project in one store."""

    def __init__(self, store: Store, project: str, clock: Clock) -> None:
        self._store = store
        self._project = project
        self._log = Log(store, address.generations(project))
        self._clock = clock

    def head(self, *, verified: bool = False) -> Lockfile:
        """The newest state. Two reads where the hint is fresh; a lost one costs a listing and reads, never truth.

        ``verified``: what will be built upon is checked against the log first, one read more. The hint is written after
        its entry, so it may be behind the log, never ahead of it: ``KitaruIntegrityError`` where it is, or says
        otherwise than the entry, for whoever writes then would bury what was cut off or changed.
        """
        lock = self._hinted()
        if lock is None:
            lock = self._rebuilt(self.last_number())
        elif verified:
            self._must_be_logged(lock)
        try:
            return self._forward(lock)
        except KitaruStoreFormatError:
            raise
        except KitaruIntegrityError:
            if verified:
                # The log agreed with the hint, and does not agree with itself.
                raise
            # The hint may be what is wrong; the log alone decides.
            return self._forward(self._rebuilt(self.last_number()))

    def newest(self, known: Lockfile | None) -> Lockfile:
        """The state that will be built upon: ``known`` where that was read already, else the head, verified."""
        return known if known is not None else self.head(verified=True)

    def entry(self, number: int) -> tuple[Generation, str] | None:
        """Generation ``number`` and the digest of its bytes; None where the log ends before it."""
        body = self._log.read(number)
        return None if body is None else (parse(Generation, body, self._log.key(number)), digest(body))

    def last_number(self) -> int:
        """The number of the newest generation, 0 where there is none; without the hint, and whatever is missing.

        One listing, and one read for each gap at the end of which an entry says that it is of another place.
        """
        numbers, _ = self._log.listing()
        for first, last in reversed(runs(numbers)):
            if first == 1 or belongs(self._store, self._project, first):
                return last
        return 0

    def after(self, lost: Lost) -> Lockfile:
        """The newest state, for who lost a race: it has the winner's entry, so that one read is the rule."""
        try:
            lock = fold(lost.before, lost.winner, lost.entry)
            for _ in range(READS_ON):
                found = self.entry(lock.generation + 1)
                if found is None:
                    return lock
                lock = fold(lock, *found)
        except KitaruStoreFormatError:
            raise
        except KitaruIntegrityError:
            # What it was built upon may be what is wrong; the log alone decides.
            pass
        return self.head(verified=True)

    def append(
        self, lock: Lockfile, edits: Sequence[Edit], **signed: Unpack[Signed]
    ) -> Lockfile | Lost | tuple[Broken, ...]:
        """Write the generation after ``lock`` with all of ``edits``: the only commit point there is.

        Returns the new state, or ``Lost`` when another generation is there already, or what broke; nothing is written
        in the last two cases. An interruption comes through unless the entry landed: then it is too late.
        """
        at = timestamp(self._clock.now())
        by, verb = recorded_line(signed["by"]), signed.get("verb", APPLY)
        following = next_lockfile(lock, edits, at=at, by=by, via=verb)
        if isinstance(following, tuple):
            return following
        # Written out once: of a thousand flows that takes longer than everything else here.
        state = canonical_json({name: flow.data() for name, flow in following.flows.items()})
        state_digest = digest(state)
        whole = len(state) <= FULL_STATE_BYTES or following.generation % FULL_STATE_EVERY == 0
        entry = Generation(
            project=self._project,
            generation=following.generation,
            parent=lock.entry,
            write=self._clock.token(26),
            at=at,
            by=by,
            commit=signed.get("commit"),
            message=recorded_line(signed.get("message", "")),
            verb=verb,
            edits=tuple(edits),
            state_digest=state_digest,
            state=following.flows if whole else None,
        )
        body = entry.canonical()
        following = following.model_copy(update={"entry": digest(body)})
        begun = time.monotonic()
        try:
            outcome = self._log.append(entry.generation, body)
            if not isinstance(outcome, Created):
                winner = parse(Generation, outcome.existing, self._log.key(entry.generation))
                return Lost(winner, digest(outcome.existing), lock, time.monotonic() - begun)
            self._note_names(edits)
            self._leave_hint(following, state_digest)
        except KeyboardInterrupt:
            with suppress(KitaruError, KeyboardInterrupt):
                if self._log.read(entry.generation) == body:
                    return following
            # A request that was under way may still land.
            raise KeyboardInterrupt(
                f"interrupted while generation {entry.generation} was being written; it was not there a moment later. "
                "To be sure: kitaru plan"
            ) from None
        return following

    def _leave_hint(self, lock: Lockfile, state_digest: str) -> None:
        # The generation is committed; a reader finds it without the hint.
        hint = lock.model_copy(update={"checksum": state_digest})
        hints.leave(self._store, address.lock_hint(self._project), hint.canonical())

    def _hinted(self) -> Lockfile | None:
        """The state that ``kitaru.lock`` tells; None where it is lost, damaged, edited or of a newer format."""
        body = self._store.read(address.lock_hint(self._project))
        if body is None:
            return None
        try:
            lock = parse(Lockfile, body, address.lock_hint(self._project))
        except (KitaruStoreFormatError, KitaruIntegrityError):
            return None
        # Generation 0 is the state before any: nobody leaves a hint of it.
        sound = lock.project == self._project and lock.generation > 0 and lock.checksum == lock.state_digest
        return lock.model_copy(update={"checksum": ""}) if sound else None

    def _must_be_logged(self, lock: Lockfile) -> None:
        """Raise ``KitaruIntegrityError`` unless the log's own entry of the hint's generation leads to its state."""
        key = address.lock_hint(self._project)
        found = self.entry(lock.generation)
        if found is None:
            problem = self._lack_words(lock.generation)
        elif (found[1], found[0].state_digest) != (lock.entry, lock.state_digest):
            problem = (
                f"generation {lock.generation} of project {self._project} is not the one that {key} tells of: "
                "one of them was changed"
            )
        else:
            return
        raise KitaruIntegrityError(
            f"{problem}; nothing is built upon that",
            hint=f"kitaru store verify says what is wrong; restore it from a backup, or {way_on(self._project)}",
        )

    def _lack_words(self, number: int) -> str:
        last = self.last_number()
        if last > number:
            return f"generation {number} of project {self._project} is missing, and the lock log goes on to {last}"
        return (
            f"{address.lock_hint(self._project)} tells of generation {number}, and the lock log of project "
            f"{self._project} ends with {last}: its newest entries are gone"
        )

    def _forward(self, lock: Lockfile) -> Lockfile:
        while (found := self.entry(lock.generation + 1)) is not None:
            lock = fold(lock, *found)
            self._note_names(found[0].edits)  # whoever wrote it may not have come to that
        return lock

    def _note_names(self, edits: Sequence[Edit]) -> None:
        """Let lists of executions find those of a flow under its former names."""
        for edit in edits:
            if isinstance(edit, Rename):
                hints.leave(self._store, address.renamed_hint(self._project, edit.flow, edit.was))

    def _rebuilt(self, number: int) -> Lockfile:
        """The state after generation ``number``, from the log alone."""
        try:
            return Past(self._store, self._project).state(number)
        except KitaruStoreFormatError:
            raise
        except KitaruIntegrityError as error:
            message = f"{error.message}: the newest state can't be told; nothing is built upon that"
            raise KitaruIntegrityError(message, hint="kitaru store verify; restore it from a backup") from error


class Turns:
    """The attempts of one writer at the lock log. The first has no pause.

    A pause is random, up to so many times what the lost attempt itself took, twice as many after each lost race: a few
    milliseconds on a disk, more in a bucket, and more again if too many wait for its answers.
    """

    def __init__(self, releases: Releases, sleep: Callable[[float], None] = time.sleep) -> None:
        self._releases = releases
        self._sleep = sleep
        self._lost = 0

    def again(self, outcome: Lost | tuple[Broken, ...]) -> Lockfile:
        """The newest state after an attempt that wrote nothing; after a pause if another writer was first.

        Raises what ``Releases.head`` raises.
        """
        if not isinstance(outcome, Lost):
            return self._releases.head(verified=True)
        self._lost += 1
        most = min(outcome.seconds * 2 ** min(self._lost, MOST_DOUBLINGS), LONGEST_PAUSE)
        self._sleep(random.uniform(0.0, most))
        return self._releases.after(outcome)
