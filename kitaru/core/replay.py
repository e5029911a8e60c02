"""Calls that know themselves:

where a checkpoint call stands in the flow body, and what the journal says about it. Pure.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias, cast

from kitaru.model.event import (
    AttemptFailed,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointLost,
    CheckpointOffered,
    CheckpointStarted,
    Event,
    Failed,
    Failure,
    Suspended,
    Value,
)


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
    """What the journal knows about one key.

    ``attempts`` counts failed ones; ``open_attempts`` those since the last that was final. ``failure`` is a final one
    that the flow body went on from, in its present attempt. ``offer``: the result is taken from the execution that this
    one replays, and that is not recorded yet.
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
    """The call finished before: this is its result."""

    output: Value


@dataclass(frozen=True, slots=True)
class Reraise:
    """The call failed for good before, and the body went on from there: it must meet that failure again."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Compute:
    """Run it. ``attempts`` were made before, ``spent`` of them on the retries that this run of the call has."""

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


def recorded_calls(events: Iterable[Event]) -> dict[str, RecordedCall]:
    """What ``events`` know about each call, by key. A completed call stays completed.

    A final failure counts only where another call began after it and the body has not begun anew since: then the body
    knew of it, and what it did next depends on it. Else nothing does, and the call may be tried again.
    """
    calls: dict[str, RecordedCall] = {}
    final: dict[str, CheckpointFailed] = {}
    for event in events:
        if isinstance(event, (AttemptFailed, Failed)):
            calls = {key: replace(call, failure=None) for key, call in calls.items()}
            final = {}
            continue
        if isinstance(event, CheckpointLost):
            note_lost(calls, event)
        if not isinstance(event, (CheckpointStarted, CheckpointCompleted, CheckpointFailed)):
            continue
        began = event.at if isinstance(event, CheckpointStarted) else event.started
        for key in [key for key, failed in final.items() if key != event.call and began >= failed.at]:
            calls[key] = replace(calls[key], failure=final.pop(key).error)
        if isinstance(event, CheckpointCompleted):
            calls[event.call] = RecordedCall(event.name, event.input_digest, event.output)
            final.pop(event.call, None)
        elif isinstance(event, CheckpointFailed):
            note_failure(calls, event)
            if not event.retry and calls[event.call].output is None:
                final[event.call] = event
    return calls


def note_failure(calls: dict[str, RecordedCall], event: CheckpointFailed) -> None:
    """Count one more failed attempt in ``calls``."""
    known = calls.get(event.call)
    if known is not None and known.output is not None:
        return
    attempts = max(known.attempts if known else 0, event.attempt)
    still_open = (known.open_attempts if known else 0) + 1 if event.retry else 0
    calls[event.call] = RecordedCall(event.name, event.input_digest, None, attempts, still_open)


def note_lost(calls: dict[str, RecordedCall], event: CheckpointLost) -> None:
    """Give the number of a lost attempt to no other one in ``calls``; it uses up no retry."""
    known = calls.get(event.call)
    if known is None:
        calls[event.call] = RecordedCall(event.name, "", attempts=event.attempt)
    elif known.output is None:
        calls[event.call] = replace(known, attempts=max(known.attempts, event.attempt))


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


def decide(recorded: Mapping[str, RecordedCall], call: CallIdentity) -> Decision:
    """Whether ``call`` takes a recorded result, is run, or stands where the journal has another call."""
    known = recorded.get(call.key)
    if known is None:
        return Compute()
    same = known.is_of(call)
    if known.output is None and known.failure is None:
        return Compute(known.attempts, known.open_attempts if same else 0)
    if not same:
        return Diverged(CallIdentity(call.key, known.name, known.input_digest), call)
    return Reuse(known.output) if known.output is not None else Reraise(cast("Failure", known.failure))
