"""Inside the run: the flow's body from its recorded beginning to its recorded end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from kitaru.core.replay import Branch
from kitaru.errors import (
    KitaruDivergenceError,
    KitaruExecutionError,
    KitaruInputError,
    KitaruTimeoutError,
)
from kitaru.flows.flow import Flow
from kitaru.flows.future import resolved
from kitaru.flows.options import next_delay
from kitaru.flows.scope import scope
from kitaru.model.event import AttemptFailed, Cancelled, Completed, Event, Failed, Started
from kitaru.model.execution import fold
from kitaru.run.cancel import cancelled_error
from kitaru.run.drivers import Crew, FlowScope
from kitaru.run.index import note_end, note_state
from kitaru.run.journal import Fenced, Recorded, RunExpired, RunStopped, RunSuspended, Stopped
from kitaru.run.lease import Keeper, Lease, end_of, lost_attempts
from kitaru.run.logs import LogWriter
from kitaru.run.output import Capture
from kitaru.run.state import LOOK_SECONDS, Host, RunState
from kitaru.run.user_code import error_of, failing, overrun, user_code
from kitaru.values import stored
from kitaru.values.stored import Encoded, encode

RETURN_WHERE = (
    'keep it with save(name, value, serializer="pickle") and return the name: a flow\'s own result is never pickled.'
)


def execute(flow: Flow[..., Any], recorded: Recorded, host: Host, *, takes_over: bool = False) -> Any:
    """Run an execution to its end, from all of its journal; its result. Its output goes to its runtime logs, too.

    A completed execution gives its recorded result; a failed one is taken up again. If another runner has written,
    or may have (``takes_over``), a claim is recorded before any of the flow's code runs.

    Raises a ``KitaruExecutionError`` with the failure's origin, and the original exception as its cause; ``Fenced``
    if another runner took over, ``RunSuspended`` if an answer is long in coming. ``KeyboardInterrupt`` and
    subclasses of ``SystemExit`` pass through; the journal stays as it is.
    """
    run = RunState(flow, recorded, host)
    ended = run.history.ended
    if isinstance(ended, Completed):
        subject = f"the result of flow {flow.name!r}"
        return stored.get(run.store, run.project, ended.output, subject=subject, home=run.home)
    if isinstance(ended, Cancelled):
        raise cancelled_error(flow.name, run.exec_id, ended.by)
    crew, keeper = Crew(run), Keeper(run.journal)
    lease = Lease(run)
    logs = LogWriter(run.store, run.project, run.exec_id, keeper.wake, host.mask, lease.holds)
    keeper.start(logs, lease.tick)
    lease.begin()
    claims = takes_over or len(recorded.entries) > 1 or lease.may_be_marked
    try:
        return _Body(run, crew, lease, logs, claims=claims).run_to_end()
    except Exception:
        raise
    except BaseException as signal:
        # Also Ctrl-C, SIGTERM: calls that are still under way must neither begin nor record anything.
        run.halt(signal if isinstance(signal, (Fenced, Stopped)) else Stopped())
        logs.flush()
        if isinstance(run.halted, Fenced):
            raise end_of(run, run.halted) from None
        if isinstance(run.halted, RunSuspended):
            # Nothing runs until an answer comes: that is recorded, and lists are to know it.
            lease.end()
            note_state(run.store, run.project, run.exec_id, recorded.entries)
        raise
    finally:
        keeper.close()
        lease.end()
        run.cache.close()
        crew.close()


class _Body:
    """The attempts at one flow body, up to the terminal event. ``claims``: another runner may be about to go on."""

    def __init__(self, run: RunState, crew: Crew, lease: Lease, logs: LogWriter, *, claims: bool) -> None:
        self._run = run
        self._crew = crew
        self._lease = lease
        self._logs = logs
        self._claims = claims

    def run_to_end(self) -> Any:
        """The flow's result; ``KitaruExecutionError`` for its failure."""
        run = self._run
        attempt, failures, began = run.history.attempt, run.history.failures, time.monotonic()
        while True:
            self._begin(attempt)
            try:
                result, encoded = self._attempt()
                stored.put(run.store, run.project, encoded)
            except Exception as error:
                problem = run.diverged or error
                if run.halted is not None:
                    raise run.halted from error
                if run.journal.stopped is not None:
                    raise self._unrecorded(run.journal.stopped) from error
                failures += 1
                delay = self._delay(problem, failures, time.monotonic() - began)
                if delay is None:
                    raise self._failed(problem) from problem
                failed = AttemptFailed(at=run.now(), attempt=attempt, error=run.failure_of(problem))
                self._commit(failed)
                attempt += 1
                run.begin_again(failed)
                run.pause(delay)
                continue
            self._end(Completed(at=run.now(), output=encoded.value))
            return result

    def _delay(self, error: Exception, failures: int, elapsed: float) -> float | None:
        if isinstance(error, (KitaruDivergenceError, KitaruInputError)):
            return None
        return next_delay(self._run.retry, error, failed=failures, elapsed=elapsed, chance=self._run.chance())

    def _begin(self, attempt: int) -> None:
        run = self._run
        event = Started(at=run.now(), runner=run.host.runner, attempt=attempt)
        run.history.headlines.append(event)
        if not self._claims:
            run.journal.buffer(event)
            return
        # Any other runner that would go on must learn of it before either runs anything.
        self._claims = False
        lost = lost_attempts(run)
        run.journal.commit(event, *lost)
        self._lease.confirm()
        for one in lost:
            run.recorded.add(one)

    def _attempt(self) -> tuple[Any, Encoded]:
        """One run of the body, and of every call that it submitted: the result, and as it is to be recorded."""
        run, flow = self._run, self._run.flow
        alone = threading.current_thread() is threading.main_thread()
        with Capture(self._logs, run.now, owns_process=alone, descriptors=run.host.descriptors) as capture:
            self._crew.capture = capture
            subject = f"the inputs of flow {flow.name!r}"
            inputs = stored.get(run.store, run.project, run.opened.inputs, subject=subject, home=run.home)
            args, kwargs = flow.parameters.arguments(flow.bind(kwargs=inputs))
            result = resolved(self._within_timeout(partial(flow.func, *args, **kwargs)))
            for future in run.futures:
                if future.lost_error is not None:
                    raise future.lost_error
        subject = f"the result of flow {flow.name!r}"
        typed = flow.parameters.result_fits(result)
        return result, encode(result, subject=subject, typed=typed, way_out=RETURN_WHERE)

    def _within_timeout(self, body: Callable[[], Any]) -> Any:
        run = self._run
        seconds = run.opened.options.timeout
        began = time.monotonic()
        run.deadline = None if seconds is None else began + seconds
        here = FlowScope(self._crew, Branch())
        try:
            if not run.flow.is_async:
                return self._call(here, body, seconds)
            from kitaru.run import event_loop

            return event_loop.run_flow(self._crew, here, body, seconds)
        except RunExpired as expired:
            late = KitaruTimeoutError(
                overrun(f"flow {run.flow.name!r}", seconds or 0.0, time.monotonic() - began),
                hint="Give it a longer timeout=; what its checkpoints finished is recorded.",
            )
            raise late.with_traceback(expired.__traceback__) from expired.__cause__

    def _call(self, here: FlowScope, body: Callable[[], Any], seconds: float | None) -> Any:
        """The result of a sync body; the calls that it submitted have ended when this returns or raises."""
        run = self._run
        token = scope.set(here)
        try:
            with failing("the flow"):
                result = user_code(body, seconds, lambda _spent: RunExpired())
            for future in run.futures:
                while not future.settled(LOOK_SECONDS):
                    run.check()
            run.check()
        except (Exception, RunStopped) as error:
            run.abandoned = error
            where = error.__traceback__  # before a submitted call raises it, too
            for future in run.futures:
                future.settled()
            raise error.with_traceback(where)  # noqa: B904 - it is the same error
        finally:
            scope.reset(token)
        return result

    def _failed(self, error: Exception) -> KitaruExecutionError:
        failure = self._run.failure_of(error)
        self._end(Failed(at=self._run.now(), error=failure))
        if isinstance(error, KitaruDivergenceError) and error.exec_id == self._run.exec_id:
            return error
        return error_of(failure, flow=self._run.flow.name, exec_id=self._run.exec_id, status="failed")

    def _unrecorded(self, reason: BaseException) -> BaseException:
        """The store failed: nothing more can be recorded, not even that."""
        run = self._run
        if not isinstance(reason, Exception):
            return reason
        return KitaruExecutionError(
            f"execution {run.exec_id} of flow {run.flow.name!r} stopped: its journal can't be written ({reason})",
            exec_id=run.exec_id,
            status="running",
            failure_origin="backend",
            hint="What finished is recorded; the execution goes on from there once the store answers again.",
        )

    def _commit(self, event: Event) -> None:
        self._run.history.headlines.append(event)
        try:
            self._run.journal.commit(event)
        except Exception as error:
            raise self._unrecorded(error) from error

    def _end(self, event: Completed | Failed) -> None:
        """Logs first, then the event that ends the execution, then the hint."""
        self._logs.flush()
        if self._run.journal.stopped is None:
            self._lease.ending()
        self._commit(event)
        # The result is due now; a hint may come later. Not a daemon: a short script's summary is written, too.
        threading.Thread(target=_write_summary, args=(self._run, self._lease), name="kitaru-summary").start()


def _write_summary(run: RunState, lease: Lease) -> None:
    execution = fold(run.history.headlines)
    lease.end()
    note_end(run.store, execution, run.journal.written, open_hint=lease.hinted)
