"""What a replay takes from the execution that it replays, call by call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

Action = Literal["reuse", "reuse_if_same", "override", "rerun", "incompatible"]
"""``reuse``: its result, or the failure that the body went on from, is taken over. ``reuse_if_same``: that too, where
the body makes the call with the inputs that were recorded, which only the run can tell; else it runs anew.
``override``: its result is given. ``rerun``: it runs anew. ``incompatible``: the code to run has no such checkpoint.
"""

WaitAction = Literal["reuse", "reuse_if_same", "override", "ask"]
"""``ask``: the question is asked again. The others as for calls."""

REUSED: Final = ("reuse", "reuse_if_same")


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """What becomes of one recorded call, and why. ``call_id`` is empty for a checkpoint that was not called, and whose
    result is given.
    """

    call_id: str
    name: str
    action: Action
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {"call_id": self.call_id, "name": self.name, "action": self.action, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class PlannedWait:
    """What becomes of one recorded question, and why. ``wait_id`` is empty for one that was not asked, and whose answer
    is given.
    """

    wait_id: str
    name: str
    action: WaitAction
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {"wait_id": self.wait_id, "name": self.name, "action": self.action, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """The recorded calls and waits, each in the order in which they began."""

    calls: tuple[PlannedCall, ...]
    waits: tuple[PlannedWait, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {"calls": [call.to_json() for call in self.calls], "waits": [wait.to_json() for wait in self.waits]}
