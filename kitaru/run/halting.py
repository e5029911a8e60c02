"""Why a run goes no further though nothing failed, and which of its calls are under way."""

from __future__ import annotations

import sys
import time
from typing import Any

from kitaru.run.interrupts import RunStopped

OVERDUE_SECONDS = 10.0
"""A call that goes on so long after its own timeout runs in a process that no longer reacts."""


class Left(RunStopped):
    """The execution waits for an answer, and its runner leaves until there is one."""


class CancelRequested(RunStopped):
    """Somebody, ``by``, asked for the execution to be cancelled."""

    def __init__(self, by: str = "") -> None:
        super().__init__(by)
        self.by = by


class Doing:
    """An attempt of a call that is under way. ``deadline``: when, on the monotonic clock, it should have ended."""

    __slots__ = ("at", "attempt", "call", "deadline", "name")

    def __init__(self, call: str, name: str, attempt: int, at: str, timeout: float | None) -> None:
        self.call = call
        self.name = name
        self.attempt = attempt
        self.at = at
        self.deadline = None if timeout is None else time.monotonic() + timeout


class UnderWay:
    """The calls of one run that have begun and whose outcome is not recorded yet. For any thread."""

    def __init__(self) -> None:
        self._calls: dict[str, Doing] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def begin(self, call: str, name: str, attempt: int, at: str, timeout: float | None) -> None:
        """An attempt begins."""
        self._calls[call] = Doing(call, name, attempt, at, timeout)

    def body_over(self, call: str) -> None:
        """The body has ended. Where a signal passes through, which nobody records, the call is over as well."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, Exception):
            self._calls.pop(call, None)

    def over(self, call: str) -> None:
        """The outcome is recorded, or never will be."""
        self._calls.pop(call, None)

    @property
    def overdue(self) -> bool:
        """Whether a call goes on though it should have been stopped some time ago."""
        latest = time.monotonic() - OVERDUE_SECONDS
        return any(one.deadline is not None and one.deadline < latest for one in list(self._calls.values()))

    def to_json(self) -> list[dict[str, Any]]:
        """Which calls, and since when; ``left``: the seconds that one with a timeout still has."""
        now = time.monotonic()
        return [
            {"call": one.call, "name": one.name, "attempt": one.attempt, "since": one.at}
            | ({} if one.deadline is None else {"left": round(one.deadline - now, 3)})
            for one in list(self._calls.values())
        ]
