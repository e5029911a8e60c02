"""Inside the run: the flow's body from its recorded beginning to its recorded end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, NoReturn

from kitaru.core.replay import Branch
from kitaru.errors import (
    KitaruDivergenceError,
    KitaruExecutionError,
    KitaruInputError,
    KitaruTimeoutError,
)
from kitaru.flows.flow import Flow
from kitaru.flows.future import resolved
from kitaru.flows.retry import next_delay
from kitaru.flows.scope import scope
from kitaru.manifest.port import AnswerCheck
from kitaru.model.event import AttemptFailed, Cancelled, Completed, Event, Failed, RunnerRecord, Started
from kitaru.model.execution import fold
from kitaru.ports import Clock
from kitaru.run.calls import FlowScope
from kitaru.run.cancel import CancelWatch, ForcedEnd, cancelled_error
from kitaru.run.failures import as_failure, error_of
from kitaru.run.forked import run_here
from kitaru.run.halting import CancelRequested, Left
from kitaru.run.index import note_end, note_state
from kitaru.run.interrupts import FlowExpired, RunStopped, WakingMain, time_is_up
from kitaru.run.journal import Fenced, Stopped
from kitaru.run.keeper import Keeper
from kitaru.run.lease import LEASE_SECONDS, LeaseKeeping, lost_attempts
from kitaru.run.logs import LogWriter
from kitaru.run.output import Capture, Descriptors
from kitaru.run.port import Mask
from kitaru.run.run_state import RunState
from kitaru.source.port import NO_CODE, CodeBase
from kitaru.stacks.port import RunnerInfo
from kitaru.store.port import Store
from kitaru.values import stored
from kitaru.values.codec import Encoded, encode

RETURN_WHERE = (
    'keep it with save(name, value, serializer="pickle") and return the name: a flow\'s own result is never pickled.'
)


def execute(
    flow: Flow[..., Any],
    *,
    store: Store,
    clock: Clock,
    project: str,
    exec_id: str,
    entries: tuple[bytes, ...],
    runner: RunnerInfo,
    capture: bool,
    takes_over: bool = False,
    code: Callable[[], CodeBase] = lambda: NO_CODE,
    lease_seconds: float = LEASE_SECONDS,
    forced_end: ForcedEnd | None = None,
    mask: Mask | None = None,
    descriptors: Descriptors | None = None,
    check_answer: AnswerCheck | None = None,
) -> Any:
    """Run an execution to its end, from what ``entries`` (all of its journal, at least entry 1) record; its result.

    A completed execution gives its recorded result; a failed one is taken up again. Where another runner has written,
    or may have (``takes_over``), a claim is recorded before any of the flow's code runs. ``capture``: its output goes
    to its runtime logs, too; ``descriptors``: these of the process as well. ``mask`` takes secrets out of records, but
    not out of values. ``code``: the code that runs, asked for by the first call that may be cached; ``check_answer``:
    what of an answer doesn't fit a schema. ``forced_end``: called by another thread, once its cancellation is recorded
    and its code does not react.

    Raises a ``KitaruExecutionError`` with the failure's origin, and the original exception as its cause; ``Fenced``
    where another runner took over, ``Left`` where an answer is long in coming. ``KeyboardInterrupt`` and subclasses of
    ``SystemExit`` pass through; the journal stays as it is.
    """
    run = RunState(flow, store, clock, project, exec_id, entries, code, mask, check_answer)
    if isinstance(ended := run.history.ended, Completed):
        return stored.get(store, project, ended.output, subject=f"the result of flow {flow.name!r}", home=run.home)
    if isinstance(ended, Cancelled):
        raise cancelled_error(flow.name, exec_id, ended.by)
    keeper = Keeper(run.journal)
    lease = LeaseKeeping(run, runner.runner_id, lease_seconds)
    logs = LogWriter(store, project, exec_id, keeper.wake, mask, lease.holds) if capture else None
    keeper.start(logs, (lease.tick, CancelWatch(run, forced_end).tick))
    run.presence.begin(run.history.headlines, clock.now())
    here = _Runner(run, runner, logs, descriptors, claims=takes_over or len(entries) > 1)
    try:
        return here.run_to_end()
    except Exception:
        raise
    except BaseException as signal:
        if isinstance(run.halted, CancelRequested):
            raise here.cancelled(run.halted) from None
        # Ctrl-C, SIGTERM, a fence: calls that are still under way must neither begin nor record anything.
        run.abandoned = signal
        run.journal.stop(signal if isinstance(signal, (Fenced, Stopped)) else Stopped())
        if isinstance(run.halted, Left):
            here.leave(entries)
        raise
    finally:
        keeper.close()
        run.presence.end()
        run.close()


class _Runner:
    """The attempts at one flow body, up to the terminal event."""

    def __init__(
        self,
        run: RunState,
        runner: RunnerInfo,
        logs: LogWriter | None,
        descriptors: Descriptors | None,
        *,
        claims: bool,
    ) -> None:
        """``claims``: others may think that they are to go on, too."""
        self._descriptors = descriptors
        self._claims = claims or run.presence.may_be_marked
        self._run = run
        self._runner = RunnerRecord(runner.runner_id, runner.host, runner.pid, runner.started)
        self._logs = logs

    def run_to_end(self) -> Any:
        """The flow's result; ``KitaruExecutionError`` for its failure."""
        run = self._run
        attempt = run.history.attempt
        failed = run.history.failures
        began = time.monotonic()
        while True:
            self._started(attempt)
            try:
                result, encoded = self._attempt()
                stored.put(run.store, run.project, encoded)
            except Exception as error:
                problem = run.diverged or error
                if run.halted is not None:
                    raise run.halted from error
                if run.journal.stopped is not None:
                    raise self._unrecorded(run.journal.stopped) from error
                failed += 1
                delay = self._delay(problem, failed, time.monotonic() - began)
                if delay is None:
                    raise self._failed(problem) from problem
                again = AttemptFailed(at=run.now(), attempt=attempt, error=run.failure_of(problem))
                self._commit(again)
                attempt += 1
                run.begin_again(again)
                run.pause(delay)
                continue
            self._end(Completed(at=run.now(), output=encoded.value))
            return result

    def _delay(self, error: Exception, failed: int, elapsed: float) -> float | None:
        if isinstance(error, (KitaruDivergenceError, KitaruInputError)):
            return None
        return next_delay(self._run.retry, error, failed=failed, elapsed=elapsed, chance=self._run.chance())

    def _started(self, attempt: int) -> None:
        run = self._run
        event = Started(at=run.now(), runner=self._runner, attempt=attempt)
        run.history.headlines.append(event)
        if self._claims:
            # Whoever else thinks it may go on must learn of it before either runs anything.
            self._claims = False
            lost = lost_attempts(run)
            run.journal.commit(event, *lost)
            run.presence.confirm()
            for one in lost:
                run.recorded.add(one)
        else:
            run.journal.buffer(event)

    def _attempt(self) -> tuple[Any, Encoded]:
        """One run of the body, and of every call that it submitted: the result, and as it is to be recorded."""
        run = self._run
        flow = run.flow
        with ExitStack() as stack:
            if self._logs is not None:
                alone = threading.current_thread() is threading.main_thread()
                run.capture = stack.enter_context(
                    Capture(self._logs, run.now, owns_process=alone, descriptors=self._descriptors)
                )
            recorded = stored.get(
                run.store, run.project, run.opened.inputs, subject=f"the inputs of flow {flow.name!r}", home=run.home
            )
            args, kwargs = flow.parameters.arguments(flow.bind(kwargs=recorded))
            try:
                with WakingMain():
                    result = _within_timeout(run, _call_async if flow.is_async else _call, args, kwargs)
            except BaseException as error:
                _raise_as_failure(error)
            run.check()
            result = resolved(result)
            for future in run.futures:
                if future.lost_error is not None:
                    raise future.lost_error
        subject = f"the result of flow {flow.name!r}"
        typed = flow.parameters.result_fits(result)
        return result, encode(result, subject=subject, typed=typed, way_out=RETURN_WHERE)

    def leave(self, entries: tuple[bytes, ...]) -> None:
        """Nothing runs until somebody answers: that is recorded, and lists are to know it. ``entries``: the first."""
        if self._logs is not None:
            self._logs.flush()
        self._run.presence.end()
        note_state(self._run.store, self._run.project, self._run.exec_id, entries)

    def cancelled(self, request: CancelRequested) -> KitaruExecutionError:
        """Record that it was cancelled; the error for its caller."""
        run = self._run
        if not run.cancel_recorded:
            run.cancel_recorded = True
            self._end(Cancelled(at=run.now(), by=request.by))
        return cancelled_error(run.flow.name, run.exec_id, request.by)

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
        run = self._run
        run.history.headlines.append(event)
        try:
            run.journal.commit(event)
        except Exception as error:
            raise self._unrecorded(error) from error

    def _end(self, event: Event) -> None:
        """Logs first, then the event that ends the execution, then the hint."""
        if self._logs is not None:
            self._logs.flush()
        if self._run.journal.stopped is None:
            self._run.presence.ending()
        self._commit(event)
        # The result is due now; nobody waits for a hint. Not a daemon: a short script's summary is written, too.
        threading.Thread(target=_write_summary, args=(self._run,), name="kitaru-summary").start()


def _within_timeout(run: RunState, call: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What ``call`` gives. Everything of this attempt is stopped, and has ended, where the flow's timeout is over."""
    seconds = run.opened.options.timeout
    began = time.monotonic()
    stop = partial(run.interrupts.stop, FlowExpired())
    forget = run.interrupts.after(seconds, stop) if seconds is not None else None
    try:
        return call(run, args, kwargs)
    except FlowExpired as expired:
        late = KitaruTimeoutError(
            time_is_up(f"flow {run.flow.name!r}", seconds or 0.0, time.monotonic() - began),
            hint="Give it a longer timeout=; what its checkpoints finished is recorded.",
        )
        raise late.with_traceback(expired.__traceback__) from expired.__cause__
    finally:
        if forget is not None:
            forget()


def _call(run: RunState, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    token = scope.set(FlowScope(run, Branch()))
    try:
        try:
            result = run.interrupts.run(partial(run_here, run.flow.func, *args, **kwargs))
        except BaseException as error:
            _raise_as_failure(error)
        _wait_for_calls(run)
        run.interrupts.check()
    except (Exception, RunStopped) as error:
        run.abandoned = error
        where = error.__traceback__  # before a submitted call raises it, too
        _wait_for_calls(run)
        raise error.with_traceback(where)  # noqa: B904 - it is the same error
    finally:
        scope.reset(token)
    return result


def _raise_as_failure(error: BaseException) -> NoReturn:
    failure = as_failure(error, "the flow")
    if failure is error:
        raise error
    raise failure from error


def _call_async(run: RunState, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    from kitaru.run import event_loop

    return event_loop.run_flow(run, FlowScope(run, Branch()), partial(run.flow.func, *args, **kwargs))


def _wait_for_calls(run: RunState) -> None:
    """Until every submitted call is settled; those that have not begun don't begin where the body failed."""
    for future in run.futures:
        future.settled()


def _write_summary(run: RunState) -> None:
    execution = fold(run.history.headlines)
    run.presence.end()
    note_end(run.store, execution, run.journal.written, open_hint=run.presence.written)
