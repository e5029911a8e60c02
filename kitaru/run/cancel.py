"""Cancelling: the end is recorded in the runner's place, which fences it; then its stack ends a worker."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kitaru.errors import KitaruCancelledError, KitaruStateError
from kitaru.model.address import timestamp
from kitaru.model.event import Cancelled, Completed, Failed, WaitAborted, decode_entry, encode_entry
from kitaru.model.execution import Execution, fold
from kitaru.run.index import note_end
from kitaru.run.journal import log_of, read_entries, read_events
from kitaru.store.port import Created

if TYPE_CHECKING:
    from kitaru.run.executions import Executions
    from kitaru.run.state import RunState

PATIENCE = 10.0
"""Seconds in which the end gets its place in the journal of a runner that writes all the time."""


def cancel(executions: Executions, exec_id: str, by: str) -> Execution:
    """Cancel an execution; how it ended. ``KitaruStateError`` for one that has ended before.

    A run from source is in a process of its own user: it stops at its next checkpoint, wait or note, or within seconds.
    """
    execution = executions.get(exec_id)
    if not execution.ended:
        execution = record_cancelled(executions, execution.exec_id, by)
        if execution.status == "cancelled":
            worker = execution.runner or executions.runner.launched(execution.exec_id)
            if worker is not None and execution.origin == "invoke":
                executions.runner.stop(worker)
            return execution
    raise KitaruStateError(
        f"{execution.exec_id} can't be cancelled: it is {execution.status}",
        hint=f"kitaru executions get {execution.exec_id}",
    )


def cancelled_error(flow: str, exec_id: str, by: str) -> KitaruCancelledError:
    """The error for the caller of a cancelled execution."""
    return KitaruCancelledError(
        f"execution {exec_id} of flow {flow!r} was cancelled" + (f" by {by}" if by else ""),
        exec_id=exec_id,
        status="cancelled",
        hint=f"kitaru executions get {exec_id}",
    )


def record_cancelled(place: Executions | RunState, exec_id: str, by: str, *, wait: str | None = None) -> Execution:
    """Write the end of an execution in its runner's place; the runner, should there be one, is fenced by that.

    ``wait``: the wait with an answer that was refused. Gives the execution as it ended, which may be otherwise if that
    came first.
    """
    store, clock = place.store, place.clock
    entries = read_entries(store, place.project, exec_id)
    ended = fold(read_events(entries, exec_id)).ended
    write, deadline = clock.token(26), time.monotonic() + PATIENCE
    while not ended:
        at, number = timestamp(clock.now()), len(entries) + 1
        aborted = [WaitAborted(at=at, wait=wait, by=by)] if wait is not None else []
        body = encode_entry(number, f"{write}.{number}", [*aborted, Cancelled(at=at, by=by)])
        outcome = log_of(store, place.project, exec_id).append(number, body)
        ended = isinstance(outcome, Created)
        if not isinstance(outcome, Created):
            # The runner wrote one more entry: ours is tried as the next one, without a look, as that takes time.
            body = outcome.existing
            ended = any(isinstance(event, (Completed, Failed, Cancelled)) for event in decode_entry(body).events)
        entries += (body,)
        if not ended and time.monotonic() > deadline:
            raise KitaruStateError(
                f"{exec_id} writes faster than it can be ended from outside", hint=f"kitaru executions cancel {exec_id}"
            )
    execution = fold(read_events(entries, exec_id))
    note_end(store, execution, len(entries))
    return execution
