"""What is recorded of an execution's waits, and which of them this run polls for."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kitaru.model.event import Event, Kept, WaitAnswered, WaitOpened
from kitaru.model.standing import Standing, place_of


@dataclass(frozen=True, slots=True)
class Known:
    """What is recorded for a wait that the body comes to, under the id ``wait``. ``kept``: an earlier attempt at the
    body asked the same elsewhere or before it took another way, and its answer is taken, which is to be recorded.
    """

    wait: str
    opened: WaitOpened | None = None
    answered: WaitAnswered | None = None
    kept: bool = False


class WaitBook:
    """What is recorded of the waits, by their ids, and those that this run polls for."""

    def __init__(self, events: Sequence[Event], standing: Standing) -> None:
        """``standing``: that of all of these events."""
        self.opened: dict[str, WaitOpened] = {}
        """Questions that stand, with an answer or without one."""
        self.answered: dict[str, WaitAnswered] = {}
        self.left: dict[str, WaitOpened] = {}
        """Questions without an answer of an attempt at the body that failed, which nobody asks any more."""
        self.polled: dict[str, float] = {}
        """Waits that are being polled → when (on the monotonic clock) that has been long enough."""
        self.leaving = threading.RLock()
        """Held while it is decided that the run halts."""
        self._guard = threading.Lock()
        self._standing = standing
        for event in events:
            if isinstance(event, WaitOpened):
                self.opened[event.wait] = event
            elif isinstance(event, WaitAnswered):
                self.answered[event.wait] = event
        self.begin_again()

    @property
    def asks(self) -> bool:
        """Whether a question is open."""
        return len(self.opened) > len(self.answered)

    def begin_again(self) -> None:
        """The body begins once more: what it may not come to again is asked no longer."""
        self.polled = {}
        for wait in self._standing.loose_waits:
            if wait in self.opened and wait not in self.answered:
                self.left[wait] = self.opened.pop(wait)

    def find(self, place: str, name: str, question: str | None, schema: dict[str, Any] | None) -> Known:
        """What is recorded for the wait at that place. ``opened`` may be of another name: then the body diverged."""
        standing = self._standing
        binding = standing.wait_at(place)
        if binding is not None:
            return Known(binding, self.opened.get(binding), self.answered.get(binding))

        def is_same(opened: WaitOpened | None) -> bool:
            return opened is not None and (opened.name, opened.question, opened.schema) == (name, question, schema)

        with self._guard:
            same = [wait for wait in standing.loose_waits if wait in self.answered and is_same(self.opened.get(wait))]
            if same:
                taken = min(same, key=lambda wait: place_of(wait) != place)
                standing.keep(Kept(at="", of=taken, place=place))
                return Known(taken, self.opened[taken], self.answered[taken], kept=True)
        here = standing.newest(place)
        before = self.left.get(here) or self.opened.get(here)
        return Known(here if before is None or is_same(before) else standing.next_id(place))

    def open(self, event: WaitOpened) -> None:
        """It is asked."""
        self.left.pop(event.wait, None)
        self.opened[event.wait] = event
        self._standing.add(event)

    def answer(self, event: WaitAnswered) -> None:
        """It is answered."""
        self.answered[event.wait] = event
        self.polled.pop(event.wait, None)
