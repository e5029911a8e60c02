"""What a replay takes from the execution that it replays, call by call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Action = Literal["reuse", "override", "rerun", "incompatible"]


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """What becomes of one recorded call, and why."""

    call_id: str
    name: str
    action: Action
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {"call_id": self.call_id, "name": self.name, "action": self.action, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """The recorded calls in the order in which they began, and the waits whose answers are taken over."""

    calls: tuple[PlannedCall, ...]
    waits: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {"calls": [call.to_json() for call in self.calls], "waits": list(self.waits)}
