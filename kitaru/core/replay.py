"""What a replay may take over: results and answers of the execution that it replays, each taken once.

Where the code is that of the replayed execution, a call takes what is offered at its own place in the flow body, if
name and inputs are those recorded. Other code may have moved the call: then the first call of a name with certain
inputs takes what the first such call gave there, the second what the second gave, and so on. What nobody asks for
leaves no trace. Pure but for the taking, which any thread may do.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

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
    FailureOffered,
    Kept,
    Suspended,
    Value,
    WaitAnswered,
)
from kitaru.model.standing import Standing, place_of

Offer = CheckpointOffered | FailureOffered
Queues = dict[tuple[str, str], deque[Offer]]


class Offers:
    """The offers in ``events`` that no event after them took."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._placed: dict[str, Offer] = {}
        self._movable: Queues = {}
        self._movable_names: set[str] = set()
        self._given: dict[str, CheckpointOffered] = {}
        self._answers: dict[str, AnswerOffered] = {}
        self._given_answers: dict[str, AnswerOffered] = {}
        for event in events:
            if isinstance(event, (CheckpointOffered, FailureOffered)):
                self._offer(event)
            elif isinstance(event, AnswerOffered):
                answers = self._given_answers if event.given else self._answers
                answers[event.name if event.given else event.wait] = event
            elif isinstance(event, (CheckpointCompleted, CheckpointFailed)):
                self._drop(event)
            elif isinstance(event, WaitAnswered):
                taken = [one.wait for one in self.answers(event.wait, event.name) if not one.given]
                self._answers.pop(taken[0] if taken else "", None)

    def _offer(self, event: Offer) -> None:
        if isinstance(event, CheckpointOffered) and not event.input_digest:
            self._given[event.name] = event
        elif event.movable:
            self._movable_names.add(event.name)
            self._movable.setdefault((event.name, event.input_digest), deque()).append(event)
        else:
            self._placed[event.call] = event

    def _drop(self, event: CheckpointCompleted | CheckpointFailed) -> None:
        """What this call took, before its runner ended."""
        if event.original_call_id is None:
            return
        self._placed.pop(event.original_call_id, None)
        queue = self._movable.get((event.name, event.input_digest), ())
        found = [one for one in queue if one.call == event.original_call_id]
        if found:
            self._movable[event.name, event.input_digest].remove(found[0])

    def may_fit(self, call: str, name: str) -> bool:
        """Whether ``take`` may find something for the call at that place; its inputs are not known yet."""
        return call in self._placed or name in self._given or name in self._movable_names

    def take(self, call: CallIdentity) -> Offer | None:
        """The outcome for this call, which no other call gets then; one that was given fits every call of its name."""
        given = self._given.get(call.name)
        if given is not None:
            return given
        placed = self._placed.get(call.key)
        if placed is not None and (placed.name, placed.input_digest) == (call.name, call.input_digest):
            return self._placed.pop(call.key, None)
        queue = self._movable.get((call.name, call.input_digest))
        try:
            return queue.popleft() if queue else None
        except IndexError:  # Another thread had the last one.
            return None

    def answers(self, wait: str, name: str, asked: str | None = None) -> list[AnswerOffered]:
        """The answers that may fit the wait at that place, the best first. ``asked``: the digest of what it asks; an
        answer to something else does not fit, unless it was given.
        """
        given = self._given_answers.get(name)
        if given is not None:
            return [given]
        named = [one for one in self._answers.values() if one.name == name]
        if asked is not None:
            named = [one for one in named if one.asked in (None, asked)]
        return sorted(named, key=lambda one: one.wait != wait)

    def take_answer(self, offered: AnswerOffered) -> bool:
        """Whether it is still to be had; nobody else gets it then, unless it was given."""
        return offered.given or self._answers.pop(offered.wait, None) is not None


class Branch:
    """A line of calls made one after the other. Concurrent tasks get a branch of their own, numbered where they are
    created.

    Keys: ``1``, ``2``, … on the root branch; ``2/1`` is the first call of the root's second branch, ``2.1/3`` the
    third of that one's first. No key is given out twice, but only calls made one after the other keep theirs.
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
    """What a call must have in common with a recorded one to take its result."""

    key: str
    name: str
    input_digest: str


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """What the journal knows about one call.

    ``attempts`` counts failed ones; ``open_attempts`` those since the last that was final. ``failure``: of a call that
    failed for good. ``offer``: the outcome is taken from the execution that this one replays, and that is not recorded
    yet.
    """

    name: str
    input_digest: str
    output: Value | None = None
    attempts: int = 0
    open_attempts: int = 0
    failure: Failure | None = None
    offer: CheckpointOffered | FailureOffered | None = None

    def is_of(self, call: CallIdentity) -> bool:
        """Whether ``call`` is the recorded one."""
        return self.name == call.name and self.input_digest == call.input_digest


@dataclass(frozen=True, slots=True)
class Reuse:
    """The call ``call`` finished before: this is its result. ``kept``: in an attempt at the body that failed, and it is
    taken for this place now, which is to be recorded.
    """

    output: Value
    call: str
    kept: bool = False


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
    """What a journal's events know about each call, by its id, and what that means for the calls that the body makes.

    A completed call stays completed. A call that failed for good stays failed, and the body meets its failure again,
    until an attempt at the body has failed by it: whoever goes on where a runner ended takes the way that was taken.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.standing = Standing()
        self._calls: dict[str, RecordedCall] = {}
        self._loose: dict[tuple[str, str], list[str]] = {}
        self._ids: dict[str, str] = {}
        for event in events:
            self.add(event)
        self.begin_again()

    def begin_again(self) -> None:
        """The body begins once more, if an attempt at it has failed."""
        self.standing.begin()
        self._loose, self._ids = {}, {}
        for call in self.standing.loose:
            known = self._calls.get(call)
            if known is not None and known.output is not None:
                self._loose.setdefault((known.name, known.input_digest), []).append(call)

    def __contains__(self, place: str) -> bool:
        return self.standing.newest(place) in self._calls or bool(self.standing.loose)

    def __getitem__(self, call: str) -> RecordedCall:
        return self._calls[call]

    def __setitem__(self, call: str, known: RecordedCall) -> None:
        self._calls[call] = known

    def get(self, call: str) -> RecordedCall | None:
        """What is known of the call with that id."""
        return self._calls.get(call)

    def id_at(self, place: str) -> str:
        """The id of the call that the body made at that place in this attempt."""
        return self._ids.get(place, place)

    @property
    def completed(self) -> int:
        """How many calls have a result."""
        return sum(call.output is not None for call in self._calls.values())

    def add(self, event: Event) -> None:
        """Take one more event."""
        self.standing.add(event)
        if isinstance(event, CheckpointCompleted):
            self._calls[event.call] = RecordedCall(event.name, event.input_digest, event.output)
        elif isinstance(event, CheckpointFailed):
            self._note_failure(event)
        elif isinstance(event, CheckpointLost):
            self._note_lost(event)

    def decide(self, call: CallIdentity) -> Decision:
        """Whether ``call``, with its place as key, takes a recorded outcome, is run, or stands where the journal has
        another call. What it takes is its own from now on. Asked by one thread at a time.
        """
        decision = self._decide(call)
        if not isinstance(decision, Diverged) and decision.call != call.key:
            self._ids[call.key] = decision.call
        return decision

    def _decide(self, call: CallIdentity) -> Decision:
        standing = self.standing
        binding = standing.call_at(call.key)
        if binding is not None:
            bound = self._calls[binding]
            if not bound.is_of(call):
                return Diverged(CallIdentity(call.key, bound.name, bound.input_digest), call)
            return _outcome(bound, binding)
        if self._loose and (found := self._take_loose(call)) is not None:
            return found
        here = standing.newest(call.key)
        known = self._calls.get(here)
        if known is not None and known.offer is None and (known.output is not None or self._is_other(known, call)):
            here = standing.next_id(call.key)
            known = self._calls.get(here)
        if known is not None and known.offer is not None:
            if known.is_of(call):
                return _outcome(known, here)
            # Taken in an earlier attempt of this process, which failed before it was recorded.
            del self._calls[here]
            known = None
        if known is None:
            return Compute(here)
        return Compute(here, known.attempts, known.open_attempts if known.is_of(call) else 0)

    def _is_other(self, known: RecordedCall, call: CallIdentity) -> bool:
        """Whether an earlier attempt at the body made another call there, which has no result."""
        other = known.name != call.name or known.input_digest not in ("", call.input_digest)
        return other and self.standing.attempt > 1

    def _take_loose(self, call: CallIdentity) -> Reuse | None:
        """What an earlier attempt at the body finished, best at the same place, else the first that is the same."""
        same = self._loose.get((call.name, call.input_digest), [])
        if not same:
            return None
        taken = min(same, key=lambda one: place_of(one) != call.key)
        same.remove(taken)
        self.standing.keep(Kept(at="", of=taken, place=call.key))
        found = _outcome(self._calls[taken], taken)
        assert isinstance(found, Reuse)
        return replace(found, kept=True)

    def _note_failure(self, event: CheckpointFailed) -> None:
        """Count one more failed attempt."""
        known = self._calls.get(event.call)
        if known is not None and known.output is not None:
            return
        attempts = max(known.attempts if known else 0, event.attempt)
        still_open = (known.open_attempts if known else 0) + 1 if event.retry else 0
        failure = None if event.retry else event.error
        self._calls[event.call] = RecordedCall(
            event.name, event.input_digest, None, attempts, still_open, failure=failure
        )

    def _note_lost(self, event: CheckpointLost) -> None:
        """Give the number of a lost attempt to no other one; it uses up no retry."""
        known = self._calls.get(event.call)
        if known is None:
            self._calls[event.call] = RecordedCall(event.name, "", attempts=event.attempt)
        elif known.output is None:
            self._calls[event.call] = replace(known, attempts=max(known.attempts, event.attempt))


def _outcome(known: RecordedCall, call: str) -> Reuse | Reraise:
    if known.output is not None:
        return Reuse(known.output, call)
    assert known.failure is not None
    return Reraise(known.failure, call)


def calls_under_way(events: Iterable[Event]) -> tuple[CheckpointStarted, ...]:
    """The attempts whose outcome their runner has not recorded, in the order in which they began.

    One that ended the body in words, or left, had none under way any more.
    """
    begun: dict[tuple[str, int], CheckpointStarted] = {}
    for event in events:
        if isinstance(event, CheckpointStarted):
            begun[event.call, event.attempt] = event
        elif isinstance(event, (CheckpointCompleted, CheckpointFailed, CheckpointLost)):
            begun.pop((event.call, event.attempt), None)
        elif isinstance(event, (AttemptFailed, Failed, Suspended)):
            begun.clear()
    return tuple(begun.values())
