"""The plan of a replay: which outcomes it takes from its original, call by call."""

from __future__ import annotations

from typing import Final, Literal

from kitaru.model.jsonable import Record, record

Action = Literal["reuse", "reuse_if_same", "override", "rerun", "incompatible"]
"""``reuse``: its result, or the failure that the body went on from, is taken over. ``reuse_if_same``: that too, if
the body makes the call with the recorded inputs; else it runs anew. ``override``: its result is given. ``rerun``: it
runs anew. ``incompatible``: the code to run has no such checkpoint.
"""

WaitAction = Literal["reuse", "reuse_if_same", "override", "ask"]
"""``ask``: the question is asked again. The others as for calls."""

REUSED: Final = ("reuse", "reuse_if_same")


@record()
class PlannedCall(Record):
    """One recorded call. ``call_id`` is empty for a given result of a checkpoint that was not called."""

    call_id: str
    name: str
    action: Action
    reason: str = ""


@record()
class PlannedWait(Record):
    """One recorded question. ``wait_id`` is empty for a given answer to one that was not asked."""

    wait_id: str
    name: str
    action: WaitAction
    reason: str = ""


@record()
class ReplayPlan(Record):
    """The recorded calls and waits, each in the order in which they began."""

    calls: tuple[PlannedCall, ...]
    waits: tuple[PlannedWait, ...]
