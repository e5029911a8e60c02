"""Attempts of calls that were stopped in the middle: for people to see, with what stopped them."""

from __future__ import annotations

from kitaru.model.event import CheckpointLost, CheckpointStarted, Failure
from kitaru.run.halting import CancelRequested
from kitaru.run.interrupts import FlowExpired
from kitaru.run.run_state import RunState


def note_stopped(run: RunState, started: CheckpointStarted, signal: BaseException) -> None:
    """Note that the attempt goes no further, with what ends the flow or comes next in its journal.

    Not where this process ends: whoever takes the execution up finds the attempt under way then.
    """
    why = _why(run.interrupts.reason or signal)
    if not why or run.journal.stopped is not None:
        return
    at = run.now()
    event = CheckpointLost(
        at=at,
        started=started.at,
        seen=at,
        call=started.call,
        name=started.name,
        attempt=started.attempt,
        error=Failure(type="Stopped", message=why, origin="runtime"),
        stopped=True,
    )
    run.journal.buffer(event)
    if run.keeps_outputs:
        run.recorded.add(event)
    run.under_way.over(started.call)


def _why(signal: BaseException) -> str:
    """Empty where the execution is to go on elsewhere, or later."""
    if isinstance(signal, FlowExpired):
        return "stopped, as the time of the flow was over"
    if isinstance(signal, CancelRequested):
        return f"stopped, as the execution was cancelled{f' by {signal.by}' if signal.by else ''}"
    # By name: asyncio is slow to load, and most flows have no use for it.
    return "stopped, as the flow cancelled its task" if type(signal).__name__ == "CancelledError" else ""
