"""The recorded outcomes that a body takes over, and those that a replay takes from its original. Pure.

A body that goes on after its runner's end meets the calls that this attempt recorded, in the same order. When it runs
again after a failure, a call with the same name and arguments as one that was completed takes its result, each once,
best at its own place; everything else is computed.

A call's id is its place in the body, ``3``. The id of another call that a later attempt makes there is ``3@2``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from kitaru.errors import KitaruUsageError
from kitaru.model.event import (
    AnswerOffered,
    AttemptFailed,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointLost,
    CheckpointOffered,
    CheckpointStarted,
    Event,
    Failed,
    Failure,
    Started,
    Suspended,
    Value,
    WaitAnswered,
)
from kitaru.model.execution import (
    Action,
    CheckpointCall,
    Execution,
    PlannedCall,
    PlannedWait,
    ReplayPlan,
    Wait,
    WaitAction,
)

AGAIN = "@"
"""Between a place and the attempt in which another call came to stand there."""


def place_of(call: str) -> str:
    """The place in the body of a call or wait: ``2/3`` of ``2/3@2``."""
    return call.partition(AGAIN)[0]


class Branch:
    """A line of calls made one after the other. Each concurrent task has a branch, numbered as it is created.

    Keys: ``1``, ``2``, … on the root branch; ``2/1`` is the first call of the root's second branch, ``2.1/3`` the
    third of that one's first. No key is given out twice.
    """

    __slots__ = ("_branches", "_calls", "_waits", "path")

    def __init__(self, path: str = "") -> None:
        self.path = path
        self._calls = itertools.count(1)
        self._branches = itertools.count(1)
        self._waits = itertools.count(1)

    def next_call(self) -> str:
        """The key of the next call made here."""
        number = next(self._calls)
        return f"{self.path}/{number}" if self.path else str(number)

    def next_wait(self) -> str:
        """The key of the next wait opened here: ``w1``, ``2/w1``. Waits don't shift the keys of calls."""
        number = next(self._waits)
        return f"{self.path}/w{number}" if self.path else f"w{number}"

    def next_branch(self) -> Branch:
        """The branch of the next task created here."""
        number = next(self._branches)
        return Branch(f"{self.path}.{number}" if self.path else str(number))


@dataclass(frozen=True, slots=True)
class CallIdentity:
    """The identity that a call must share with a recorded one to take its result. ``key``: its place."""

    key: str
    name: str
    input_digest: str


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """The record of one call.

    ``attempts`` counts failed ones; ``open_attempts`` those since the last that was final. ``failure``: of a call that
    failed for good. ``offer``: the outcome is taken from the execution that this one replays, and is not recorded yet.
    """

    name: str
    input_digest: str
    output: Value | None = None
    attempts: int = 0
    open_attempts: int = 0
    failure: Failure | None = None
    offer: CheckpointOffered | None = None

    def is_of(self, call: CallIdentity) -> bool:
        """Whether ``call`` is the recorded one."""
        return self.name == call.name and self.input_digest == call.input_digest


@dataclass(frozen=True, slots=True)
class Reuse:
    """The call ``call`` finished before: this is its result."""

    output: Value
    call: str


@dataclass(frozen=True, slots=True)
class Reraise:
    """The call failed for good before: the body must meet that failure again."""

    failure: Failure
    call: str


@dataclass(frozen=True, slots=True)
class Compute:
    """Run it, as ``call``. ``attempts`` were made before, ``spent`` of them on the retries that this run of it has."""

    call: str
    attempts: int = 0
    spent: int = 0


@dataclass(frozen=True, slots=True)
class Diverged:
    """At this place the journal recorded another call."""

    expected: CallIdentity
    came: CallIdentity

    def __str__(self) -> str:
        where = f"call {self.came.key}"
        if self.expected.name != self.came.name:
            return f"{where} was {self.expected.name}(...) when it was recorded, and is {self.came.name}(...) now"
        return (
            f"{where}, {self.came.name}(...), has other inputs than when it was recorded"
            f" (then {self.expected.input_digest[:12]}, now {self.came.input_digest[:12]})"
        )


Decision: TypeAlias = Reuse | Reraise | Compute | Diverged


class RecordedCalls:
    """The record of each call, by its id, and the decision about each call that the body makes.

    Asked by one thread at a time.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._calls: dict[str, RecordedCall] = {}
        self._here: dict[str, str] = {}
        """Place → call, of this attempt at the body."""
        self._earlier: dict[tuple[str, str], list[str]] = {}
        """Name and inputs → completed calls of earlier attempts that this one has not made yet."""
        self._attempt = 1
        self._failed = False
        for event in events:
            self.add(event)
        self.begin_again()

    def begin_again(self) -> None:
        """The body begins once more, if an attempt at it has failed."""
        if not self._failed:
            return
        self._failed = False
        self._attempt += 1
        self._here, self._earlier = {}, {}
        for call, known in self._calls.items():
            if known.output is not None:
                self._earlier.setdefault((known.name, known.input_digest), []).append(call)

    def __contains__(self, place: str) -> bool:
        """Whether the call at that place may find its outcome here."""
        return place in self._here or bool(self._earlier)

    def __getitem__(self, call: str) -> RecordedCall:
        return self._calls[call]

    def __setitem__(self, call: str, known: RecordedCall) -> None:
        self._calls[call] = known

    def get(self, call: str) -> RecordedCall | None:
        """The record of the call with that id."""
        return self._calls.get(call)

    def add(self, event: Event) -> None:
        """Take one more event."""
        if isinstance(event, (AttemptFailed, Failed)):
            self._failed = True
        elif isinstance(event, Started):
            self.begin_again()
            self._attempt = event.attempt
        elif isinstance(event, (CheckpointStarted, CheckpointCompleted, CheckpointFailed, CheckpointLost)):
            self._here[place_of(event.call)] = event.call
            if isinstance(event, CheckpointCompleted):
                self._calls[event.call] = RecordedCall(event.name, event.input_digest, event.output)
            elif isinstance(event, CheckpointFailed):
                self._add_failure(event)
            elif isinstance(event, CheckpointLost):
                # The number of a lost attempt is given to no other one; it uses up no retry.
                known = self._calls.get(event.call, RecordedCall(event.name, ""))
                if known.output is None:
                    self._calls[event.call] = replace(known, attempts=max(known.attempts, event.attempt))

    def decide(self, call: CallIdentity) -> Decision:
        """Whether ``call`` takes a recorded outcome, is run, or differs from the call recorded at its place."""
        here = self._here.get(call.key)
        if here is not None:
            known = self._calls.get(here)
            if known is None:
                return Compute(here)
            if known.output is None and known.failure is None:
                return Compute(here, known.attempts, known.open_attempts if known.is_of(call) else 0)
            if not known.is_of(call):
                return Diverged(CallIdentity(call.key, known.name, known.input_digest), call)
            if known.output is not None:
                return Reuse(known.output, here)
            assert known.failure is not None
            return Reraise(known.failure, here)
        same = self._earlier.get((call.name, call.input_digest))
        if same:
            taken = min(same, key=lambda one: place_of(one) != call.key)
            same.remove(taken)
            output = self._calls[taken].output
            assert output is not None
            return Reuse(output, taken)
        known = self._calls.get(call.key)
        if known is None or (known.offer is not None and known.output is None):
            return Compute(call.key)
        if known.output is not None or known.name != call.name or known.input_digest not in ("", call.input_digest):
            return Compute(f"{call.key}{AGAIN}{self._attempt}")
        return Compute(call.key, known.attempts, known.open_attempts)

    def _add_failure(self, event: CheckpointFailed) -> None:
        """Count one more failed attempt."""
        known = self._calls.get(event.call, RecordedCall(event.name, ""))
        if known.output is not None:
            return
        self._calls[event.call] = RecordedCall(
            event.name,
            event.input_digest,
            attempts=max(known.attempts, event.attempt),
            open_attempts=known.open_attempts + 1 if event.retry else 0,
            failure=None if event.retry else event.error,
        )


def calls_under_way(events: Iterable[Event]) -> tuple[CheckpointStarted, ...]:
    """The attempts that have no recorded outcome, in the order in which they began."""
    begun: dict[tuple[str, int], CheckpointStarted] = {}
    for event in events:
        if isinstance(event, CheckpointStarted):
            begun[event.call, event.attempt] = event
        elif isinstance(event, (CheckpointCompleted, CheckpointFailed, CheckpointLost)):
            begun.pop((event.call, event.attempt), None)
        elif isinstance(event, (AttemptFailed, Failed, Suspended)):
            begun.clear()
    return tuple(begun.values())


# --- a replay: what it is offered, and what is planned ----------------------------------------------------------------


class Offers:
    """Results and answers that a replay may take over, each once: those that no later event took.

    If the code is that of the replayed execution, a call takes the offer of its own place. Other code may have
    moved the call: there the first call of a name with certain inputs takes the first offer of these, and so on.
    """

    def __init__(self, events: Iterable[Event]) -> None:
        self._outcomes: dict[tuple[str, str], list[CheckpointOffered]] = {}
        self._given: dict[str, CheckpointOffered] = {}
        self._answers: dict[str, AnswerOffered] = {}
        self._given_answers: dict[str, AnswerOffered] = {}
        for event in events:
            if isinstance(event, CheckpointOffered):
                if event.input_digest:
                    self._outcomes.setdefault((event.name, event.input_digest), []).append(event)
                else:
                    self._given[event.name] = event
            elif isinstance(event, AnswerOffered):
                answers = self._given_answers if event.given else self._answers
                answers[event.name if event.given else event.wait] = event
            elif isinstance(event, (CheckpointCompleted, CheckpointFailed)) and event.original_call_id is not None:
                queue = self._outcomes.get((event.name, event.input_digest), [])
                queue[:] = [offer for offer in queue if offer.call != event.original_call_id]
            elif isinstance(event, WaitAnswered):
                taken = [offer.wait for offer in self.answers(event.wait, event.name) if not offer.given]
                self._answers.pop(taken[0] if taken else "", None)

    def __bool__(self) -> bool:
        return bool(self._given or self._outcomes)

    def take(self, call: CallIdentity) -> CheckpointOffered | None:
        """The outcome for this call, which no other call gets then; a given one fits every call of its name.

        Asked by one thread at a time.
        """
        given = self._given.get(call.name)
        if given is not None:
            return given
        queue = self._outcomes.get((call.name, call.input_digest), [])
        for offer in queue:
            if offer.movable or offer.call == call.key:
                queue.remove(offer)
                return offer
        return None

    def answers(self, wait: str, name: str, asked: str | None = None) -> list[AnswerOffered]:
        """The answers that may fit the wait at that place, the best first. ``asked``: the digest of its question; an
        answer to another question does not fit, unless it was given.
        """
        given = self._given_answers.get(name)
        if given is not None:
            return [given]
        named = [offer for offer in self._answers.values() if offer.name == name]
        if asked is not None:
            named = [offer for offer in named if offer.asked in (None, asked)]
        return sorted(named, key=lambda offer: offer.wait != wait)

    def take_answer(self, offered: AnswerOffered) -> bool:
        """Whether it is still to be had; no other wait gets it then, unless it was given."""
        return offered.given or self._answers.pop(offered.wait, None) is not None


CHECKPOINT = "checkpoint."
WAIT = "wait."


@dataclass(frozen=True, slots=True)
class Changes:
    """The differences from the execution that is replayed.

    ``code``: the code that runs now, in words (``v2``), if it may be other code. ``inputs``: whether the flow's inputs
    are others. ``results`` and ``answers``: the checkpoints and waits for which one is given. ``gone``: checkpoints
    that the code to run is known not to have; ``there``: those that it is known to have.
    """

    code: str = ""
    inputs: bool = False
    results: Collection[str] = ()
    answers: Collection[str] = ()
    gone: Collection[str] = ()
    there: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class _Cut:
    """The beginning of a replay: that call or wait, which began at ``at``. ``place`` is the call's, in their order."""

    at: str
    place: int | None = None
    wait: Wait | None = None


def plan_replay(original: Execution, *, cut: str, changes: Changes = Changes()) -> ReplayPlan:
    """Take over the calls that finished before ``cut`` began, failures that the body went on from among it.

    ``cut``: a call's id (``3``), the name of a checkpoint or wait (the first of that name), a wait's id (``w1``), or a
    call's position from 1. ``KitaruUsageError`` for a cut or a name that is not there.
    """
    calls = sorted(original.checkpoints, key=lambda call: call.started_at)
    waits = sorted(original.waits, key=lambda wait: wait.opened_at)
    called = [call.name for call in calls]
    asked = list(dict.fromkeys(wait.name for wait in waits))
    for name in changes.results:
        if name in changes.gone:
            raise KitaruUsageError(
                f"{changes.code or 'the code to run'} has no checkpoint {name}: a result for it would have no effect",
                hint=f"it has: {_listed(changes.there)}" if changes.there else "leave that override out",
            )
    must_be_known(changes.results, [*called, *changes.there], "call of checkpoint", CHECKPOINT)
    if not changes.code:  # other code may ask what was not asked before
        must_be_known(changes.answers, asked, "wait", WAIT)
    begins = _cut(calls, waits, cut)
    doubt = _doubts(original, changes)
    failed = original.status == "failed"
    planned = [_planned_call(call, place, begins, changes, doubt, failed) for place, call in enumerate(calls)]
    new = [name for name in dict.fromkeys(changes.results) if name not in called]
    planned += [PlannedCall("", name, "override", "its result is given to each call of it") for name in new]
    answers = [_planned_wait(wait, begins, changes, doubt) for wait in waits]
    if_asked = f"its answer is given, if {changes.code} asks it"
    answers += [PlannedWait("", name, "override", if_asked) for name in changes.answers if name not in asked]
    return ReplayPlan(tuple(planned), tuple(answers))


def _ended(call: CheckpointCall) -> str:
    return call.ended_at or call.started_at


def _doubts(original: Execution, changes: Changes) -> Callable[[str], str]:
    """(beginning of a recorded call) → why it may come with other inputs, or not at all; empty if it will not."""
    always = f"if {changes.code} calls it with the same inputs" if changes.code else ""
    if not always and (changes.inputs or len(original.attempts) > 1):
        always = "if it is called with the same inputs"
    given = [(call.started_at, call.name) for call in original.checkpoints if call.name in changes.results]
    given += [(wait.opened_at, wait.name) for wait in original.waits if wait.name in changes.answers]
    first = min(given, default=None)
    failed = [_ended(call) for call in original.checkpoints if call.status == "failed"]
    rerun = min(failed, default=None) if original.status == "failed" else None

    def doubt(started: str) -> str:
        if always or first is None or started < first[0]:
            after = not always and rerun is not None and started >= rerun
            return "if the body comes to it: a call that failed before it is run anew" if after else always
        return f"unless what is given for {first[1]} changes its inputs"

    return doubt


def _planned_call(
    call: CheckpointCall, place: int, begins: _Cut, changes: Changes, doubt: Callable[[str], str], failed: bool
) -> PlannedCall:
    """``failed``: the execution did, so that a failure met again might only fail the replay."""

    def planned(action: Action, reason: str) -> PlannedCall:
        return PlannedCall(call.call_id, call.name, action, reason)

    if call.name in changes.gone:
        return planned("incompatible", f"{changes.code or 'the code to run'} has no checkpoint {call.name}")
    if call.name in changes.results:
        sure = call.name in changes.there or not changes.code
        return planned(
            "override", "its result is given" if sure else f"its result is given, if {changes.code} calls it"
        )
    if place == begins.place:
        return planned("rerun", "the replay begins here")
    if not (place < begins.place if begins.place is not None else call.started_at < begins.at):
        after = "it began after that" if begins.wait is None else f"it began after {begins.wait.name} was asked"
        return planned("rerun", after)
    reason = ""
    if call.status == "failed" and call.failure is not None:
        if failed:
            return planned("rerun", "it failed, as did the execution")
        if _ended(call) > begins.at:
            return planned("rerun", "it failed after that")
        reason = "its failure is met again"
    elif call.status != "completed" or call.output is None:
        return planned("rerun", "it did not finish")
    doubted = doubt(call.started_at)
    reasons = "; ".join(part for part in (reason, doubted) if part)
    return planned("reuse_if_same" if doubted else "reuse", reasons)


def _planned_wait(wait: Wait, begins: _Cut, changes: Changes, doubt: Callable[[str], str]) -> PlannedWait:
    action: WaitAction = "ask"
    if wait.name in changes.answers:
        action, reason = "override", "its answer is given"
    elif wait is begins.wait:
        reason = "the replay begins here"
    elif wait.value is None or wait.answered_at is None:
        reason = "it has no answer"
    elif wait.answered_at > begins.at:
        reason = "it was answered after that"
    elif doubt(wait.opened_at):
        action, reason = "reuse_if_same", f"if {changes.code} asks the same" if changes.code else "if the same is asked"
    else:
        action, reason = "reuse", ""
    return PlannedWait(wait.wait_id, wait.name, action, reason)


def _cut(calls: Sequence[CheckpointCall], waits: Sequence[Wait], cut: str) -> _Cut:
    """``checkpoint.NAME`` and ``wait.NAME`` tell a checkpoint and a wait of one name apart."""
    wanted = cut.removeprefix(CHECKPOINT)
    for known in ([call.call_id for call in calls], [call.name for call in calls]):
        if wanted in known:
            place = known.index(wanted)
            return _Cut(calls[place].started_at, place)
    for wait in waits:
        if cut.removeprefix(WAIT) in (wait.wait_id, wait.name):
            return _Cut(wait.opened_at, wait=wait)
    if cut.isdecimal() and 1 <= int(cut) <= len(calls):
        return _Cut(calls[int(cut) - 1].started_at, int(cut) - 1)
    names = list(dict.fromkeys([call.name for call in calls] + [wait.name for wait in waits]))
    if not names:
        raise KitaruUsageError("it made no call that a replay could begin from", hint="start a new execution")
    raise KitaruUsageError(
        f"there is no call or wait {cut!r} to begin from{nearest(cut, names)[1]}",
        hint="give the name of a checkpoint or wait, the id of a call, or its position from 1",
    )


def must_be_known(names: Iterable[str], there: Sequence[str], kind: str, prefix: str) -> None:
    """``KitaruUsageError`` for a name to override that no call or wait has."""
    for name in names:
        if name not in there:
            close, words = nearest(name, there)
            raise KitaruUsageError(
                f"there is no {kind} {name!r} to override{words}", hint=f"--override {prefix}{close or 'NAME'}=JSON"
            )


def nearest(name: str, names: Sequence[str]) -> tuple[str, str]:
    """The nearest name, or an empty text; and the words about it for an error."""
    import difflib  # Late: every run imports this module, and almost none makes a mistake.

    close = difflib.get_close_matches(name, names, n=1)
    return (close[0], f"; did you mean {close[0]}?") if close else ("", f"; there are: {_listed(names)}")


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(set(names))) or "none"
