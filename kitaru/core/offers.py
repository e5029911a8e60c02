"""What a replay may take over: results and answers of the execution that it replays, each taken once.

Where the code is that of the replayed execution, a call takes what is offered at its own place in the flow body, if
name and inputs are those recorded. Other code may have moved the call: then the first call of a name with certain
inputs takes what the first such call gave there, the second what the second gave, and so on. What nobody asks for
leaves no trace. Pure but for the taking, which any thread may do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from kitaru.core.replay import CallIdentity
from kitaru.model.event import (
    AnswerOffered,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointOffered,
    Event,
    FailureOffered,
    WaitAnswered,
)

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
