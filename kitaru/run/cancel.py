"""Cancelling: the request that a runner looks for, its reaction, and the end that is recorded in its place."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from kitaru.errors import KitaruCancelledError, KitaruStateError, KitaruStoreError
from kitaru.model import address
from kitaru.model.address import canonical_json, timestamp
from kitaru.model.event import Cancelled, WaitAborted
from kitaru.model.execution import Execution, fold
from kitaru.ports import Clock
from kitaru.run.index import note_end
from kitaru.run.journal import Fenced, Journal, read_entries, read_events
from kitaru.run.logs import LogWriter
from kitaru.run.state import RunState
from kitaru.run.timeouts import RunCancelled
from kitaru.store.log import claim, withdraw
from kitaru.store.port import Store, Taken

if TYPE_CHECKING:
    from kitaru.run.executions import Executions

LOOK_SECONDS = 1.0
"""Between two looks of a runner for a request."""

GRACE_SECONDS = 1.0
"""How long the flow's code has to come to its next checkpoint, wait or note, before its process ends."""

TRIES = 8

ForcedEnd = Callable[[BaseException], None]
"""Ends a run whose code goes on: its process, or the handle on it. Given the reason, which is recorded."""


class CancelWatch:
    """Looks for a request to cancel a run, and ends the run while its code goes on."""

    def __init__(self, run: RunState, logs: LogWriter, forced_end: ForcedEnd | None) -> None:
        self._run = run
        self._logs = logs
        self._forced_end = forced_end
        self._guard = threading.Lock()
        self._recorded = False
        self._due: float | None = None
        self._deadline: float | None = None

    def tick(self, now: float) -> None:
        """Look, if it is time by ``now`` (monotonic seconds). Called some times a second."""
        run = self._run
        if run.halted is None:
            self._look(now)
        if not isinstance(run.halted, (RunCancelled, Fenced)):
            return
        self._deadline = self._deadline or now + GRACE_SECONDS
        error: BaseException = run.halted
        if isinstance(error, RunCancelled):
            try:
                error = self.end(error)
            except (KitaruStoreError, KitaruStateError):
                return
        if now >= self._deadline and self._forced_end is not None:
            forced_end, self._forced_end = self._forced_end, None
            forced_end(error)

    def end(self, request: RunCancelled) -> KitaruCancelledError:
        """Record that the run was cancelled, whoever does so first; the error for its caller."""
        run = self._run
        with self._guard:
            if not self._recorded:
                self._logs.flush()
                record_cancelled(run.store, run.clock, run.project, run.exec_id, request.by)
                self._recorded = True
        return cancelled_error(run.flow.name, run.exec_id, request.by)

    def _look(self, now: float) -> None:
        if self._due is None:
            self._due = now + LOOK_SECONDS
        if now < self._due:
            return
        self._due = now + LOOK_SECONDS
        run = self._run
        try:
            body = run.store.read(address.cancel_request(run.project, run.exec_id))
        except KitaruStoreError:
            return
        if body is not None:
            run.halt(RunCancelled(requested_by(body)))


def cancelled_error(flow: str, exec_id: str, by: str) -> KitaruCancelledError:
    """The error for the caller of a cancelled execution."""
    return KitaruCancelledError(
        f"execution {exec_id} of flow {flow!r} was cancelled" + (f" by {by}" if by else ""),
        exec_id=exec_id,
        status="cancelled",
        hint=f"kitaru executions get {exec_id}",
    )


REACTION_SECONDS = LOOK_SECONDS + GRACE_SECONDS + 3.0
"""The time that a live runner has for recording the end itself."""

PAUSE = 0.1


def cancel(executions: Executions, exec_id: str, by: str) -> Execution:
    """Cancel an execution; how it ended, once that is recorded. ``KitaruStateError`` for one that has ended before.

    Its runner is asked. If it does not react, it is fenced, and its stack stops a worker; a run from source is in a
    person's own process. If it has no runner, the end is recorded here.
    """
    execution = executions.get(exec_id)
    exec_id, store, project = execution.exec_id, executions.store, execution.project
    if execution.ended:
        raise _too_late(execution)
    if executions.held(execution):
        by = request_cancel(store, executions.clock, project, exec_id, by)
        execution = _until_ended(executions, execution)
        if not execution.ended and execution.runner is not None and execution.origin == "invoke":
            executions.runner.stop(execution.runner)
    if not execution.ended:
        execution = record_cancelled(store, executions.clock, project, exec_id, by)
    if execution.status != "cancelled":
        withdraw(store, address.cancel_request(project, exec_id))  # it is void, and must not cancel a retry
        raise _too_late(execution)
    return execution


def _until_ended(executions: Executions, execution: Execution) -> Execution:
    deadline = time.monotonic() + REACTION_SECONDS
    entries: tuple[bytes, ...] = ()
    while True:
        entries = read_entries(executions.store, execution.project, execution.exec_id, entries)
        execution = fold(read_events(entries, execution.exec_id))
        if execution.ended or time.monotonic() >= deadline or not executions.held(execution):
            return execution
        time.sleep(PAUSE)


def _too_late(execution: Execution) -> KitaruStateError:
    return KitaruStateError(
        f"{execution.exec_id} can't be cancelled: it is {execution.status}",
        hint=f"kitaru executions get {execution.exec_id}",
    )


def requested_by(body: bytes) -> str:
    """The author of a request; empty if that can't be read."""
    try:
        return str(json.loads(body)["by"])
    except (ValueError, KeyError, TypeError):
        return ""


def request_cancel(store: Store, clock: Clock, project: str, exec_id: str, by: str) -> str:
    """Ask the runner to cancel; the author of the first request."""
    content = {"by": by, "at": timestamp(clock.now()), "write": clock.token(26)}
    outcome = claim(store, address.cancel_request(project, exec_id), canonical_json(content))
    return requested_by(outcome.existing) if isinstance(outcome, Taken) else by


def record_cancelled(
    store: Store, clock: Clock, project: str, exec_id: str, by: str, *, wait: str | None = None
) -> Execution:
    """Write the end of an execution in its runner's place; the runner, should there be one, is fenced by that.

    ``wait``: the wait whose answer was refused. Gives the execution as it ended, which may be otherwise if that
    came first.
    """
    entries: tuple[bytes, ...] = ()
    for _ in range(TRIES):
        entries = read_entries(store, project, exec_id, entries)
        execution = fold(read_events(entries, exec_id))
        if execution.ended:
            note_end(store, execution, len(entries))
            return execution
        journal = Journal(store, project, exec_id, written=len(entries), write_id=clock.token(26))
        try:
            at = timestamp(clock.now())
            aborted = [WaitAborted(at=at, wait=wait, by=by)] if wait is not None else []
            journal.commit(*aborted, Cancelled(at=at, by=by))
        except Fenced:
            # The runner wrote one more entry between our look and our write.
            continue
    entries = read_entries(store, project, exec_id, entries)
    execution = fold(read_events(entries, exec_id))
    if not execution.ended:
        raise KitaruStateError(
            f"{exec_id} writes faster than it can be ended from outside", hint=f"kitaru executions cancel {exec_id}"
        )
    return execution
