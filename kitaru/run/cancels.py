"""Cancelling an execution from outside: asked, then ended, and recorded whoever runs it."""

from __future__ import annotations

import time

from kitaru import wiring
from kitaru.client.session import Session
from kitaru.errors import KitaruStateError
from kitaru.model import address
from kitaru.model.execution import Execution, fold
from kitaru.run.cancel import GRACE_SECONDS, LOOK_SECONDS, record_cancelled, request_cancel
from kitaru.run.journal import read_entries, read_events
from kitaru.stacks.port import RunnerInfo
from kitaru.store.log import withdraw

REACTION_SECONDS = LOOK_SECONDS + GRACE_SECONDS + 3.0
"""How long a runner that is alive has for recording the end itself."""

KILL_SECONDS = 2.0
"""Between telling a process to end and ending it."""

PAUSE = 0.1


def cancel(session: Session, exec_id: str) -> Execution:
    """Cancel an execution; how it ended, once that is recorded.

    Its runner is asked. One that does not react is fenced, and, where it is a worker of this machine, ended. Where
    nobody runs it, the end is recorded here. ``KitaruStateError`` for an execution that has ended.
    """
    execution = session.executions.get(exec_id)
    exec_id = execution.exec_id
    if execution.ended:
        raise _too_late(execution)
    by = session.actor
    if session.executions.held(execution):
        by = request_cancel(session.store, session.clock, session.project, exec_id, by)
        execution = _until_ended(session, exec_id, REACTION_SECONDS)
        if not execution.ended:
            execution = session.executions.get(exec_id)
            _end_worker(execution)
    if not execution.ended:
        execution = record_cancelled(session.store, session.clock, session.project, exec_id, by)
    if execution.status != "cancelled":
        # The request is void, and must not cancel a retry.
        withdraw(session.store, address.cancel_request(session.project, exec_id))
        raise _too_late(execution)
    return execution


def _until_ended(session: Session, exec_id: str, seconds: float) -> Execution:
    deadline = time.monotonic() + seconds
    entries: tuple[bytes, ...] = ()
    while True:
        entries = read_entries(session.store, session.project, exec_id, entries)
        execution = fold(read_events(entries, exec_id))
        if execution.ended or time.monotonic() >= deadline:
            return execution
        if not session.executions.held(execution):
            return execution
        time.sleep(PAUSE)


def _end_worker(execution: Execution) -> None:
    """End the process of an execution that was invoked: it does nothing else. A run from source is somebody's own."""
    record = execution.runner
    if record is None or execution.origin != "invoke":
        return
    runner = RunnerInfo(record.runner_id, record.host, record.pid, record.started)
    if not wiring.end_process(runner, hard=False):
        return
    deadline = time.monotonic() + KILL_SECONDS
    while wiring.process_alive(runner) and time.monotonic() < deadline:
        time.sleep(PAUSE)
    wiring.end_process(runner, hard=True)


def _too_late(execution: Execution) -> KitaruStateError:
    return KitaruStateError(
        f"{execution.exec_id} can't be cancelled: it is {execution.status}",
        hint=f"kitaru executions get {execution.exec_id}",
    )
