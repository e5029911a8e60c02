"""Checkpoint calls of a running flow: reused where recorded, else run, retried and recorded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from kitaru.core.replay import Branch
from kitaru.errors import KitaruUsageError
from kitaru.flows.checkpoint import Checkpoint
from kitaru.flows.future import CheckpointFuture, CheckpointFutures, FanOut, futures_in, resolved
from kitaru.flows.waiting import Question
from kitaru.run.artifacts import NotesHere
from kitaru.run.call_run import CallRun
from kitaru.run.pool import Lane, ThreadPool
from kitaru.run.run_state import RunState
from kitaru.run.waits import PendingAnswer, Poll, until_answered

if TYPE_CHECKING:
    from kitaru.run.event_loop import LoopThread

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class FlowScope(NotesHere):
    """A flow body, or one concurrent branch of it: checkpoints called here are durable."""

    __slots__ = ("branch", "call_id", "run")

    def __init__(self, run: RunState, branch: Branch) -> None:
        self.run = run
        self.branch = branch
        self.call_id = None

    def branch_off(self) -> FlowScope:
        """The scope of the next concurrent task that is made here."""
        return FlowScope(self.run, self.branch.next_branch())

    def call(self, checkpoint: Checkpoint[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run it in this thread; an async one on the loop that runs here, else on the run's own."""
        run = self.run
        run.check()
        key = self.branch.next_call()
        if checkpoint.is_async:
            from kitaru.run import event_loop

            if event_loop.running_loop() is not None:
                return event_loop.perform_async(run, checkpoint, key, (args, kwargs))
            future: CheckpointFuture[Any] = CheckpointFuture(checkpoint.name, key)
            loop = _loop_thread(run)
            return run.interrupts.shielded(lambda: loop.submit(run, checkpoint, key, (args, kwargs), future).result())

        def produce() -> Any:
            given = (resolved(args), resolved(kwargs)) if run.futures else (args, kwargs)
            return perform(CallRun(run, checkpoint, key, *given))

        return run.interrupts.shielded(produce)

    def wait(self, question: Question) -> Any:
        """The answer to a question; a ``PendingAnswer`` where an event loop runs."""
        run = self.run
        run.check()
        poll = Poll(run, self.branch.next_wait(), question)
        if "asyncio" in sys.modules:
            from kitaru.run import event_loop

            if event_loop.running_loop() is not None:
                return PendingAnswer(event_loop.answered(run, poll))
        return run.interrupts.shielded(lambda: until_answered(run, poll))

    def submit(
        self, checkpoint: Checkpoint[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], after: Any
    ) -> CheckpointFuture[Any]:
        """Run it on a thread of the run, or an async one on the flow's loop."""
        return self._submit(checkpoint, (args, kwargs), _waits(after, checkpoint.name), self.run.pool, None)

    def fan_out(
        self,
        checkpoint: Checkpoint[..., Any],
        calls: Iterable[tuple[Any, ...]],
        constants: dict[str, Any],
        after: Any,
        max_concurrency: int | None,
        collect: bool,
    ) -> CheckpointFutures[Any]:
        """One submitted call for each tuple of arguments."""
        group = FanOut(collects=collect)
        waits = _waits(after, checkpoint.name)
        limited = max_concurrency is not None
        lane = Lane(self.run.pool, max_concurrency) if max_concurrency is not None else self.run.pool
        gate = None
        if checkpoint.is_async and limited:
            from kitaru.run import event_loop

            gate = event_loop.Gate(max_concurrency or 1)
        return CheckpointFutures(
            [self._submit(checkpoint, (args, dict(constants)), waits, lane, gate, group) for args in calls]
        )

    def _submit(
        self,
        checkpoint: Checkpoint[..., Any],
        arguments: Arguments,
        waits: list[CheckpointFuture[Any]],
        lane: ThreadPool | Lane,
        gate: Any,
        group: FanOut | None = None,
    ) -> CheckpointFuture[Any]:
        run = self.run
        run.check()
        key = self.branch.next_call()
        future: CheckpointFuture[Any] = CheckpointFuture(checkpoint.name, key)
        if group is not None:
            future.group = group
            future.on_done(group.note)
        if checkpoint.is_async:
            from kitaru.run import event_loop

            if event_loop.running_loop() is not None:
                event_loop.start_task(run, checkpoint, key, arguments, waits, future, gate, group)
            else:
                _loop_thread(run).submit(run, checkpoint, key, arguments, future, waits, gate, group)
            run.futures.append(future)
            return future
        waits = waits + futures_in(arguments) if run.futures else waits
        run.futures.append(future)
        if not waits and (key in run.recorded or run.offers):
            call = CallRun(run, checkpoint, key, *arguments)
            if call.reusable_inline:
                _settle(future, lambda: perform(call))
                return future
        context = copy_context()

        def produce() -> Any:
            for wait in waits:
                wait.result()
            if run.abandoned is not None:
                raise run.abandoned
            if group is not None:
                group.check()
            return perform(CallRun(run, checkpoint, key, resolved(arguments[0]), resolved(arguments[1])))

        _when_all_done(waits, lambda: lane.start(lambda: context.run(_settle, future, produce)))
        return future


def perform(call: CallRun) -> Any:
    """The call's value: recorded, or computed in this thread, with its retries."""
    if call.decide():
        return call.reused()
    if call.asks_store() and (hit := call.cached()) is not None:
        call.commit(hit)
        return call.cached_value
    while True:
        call.begin()
        try:
            result = call.compute()
        except Exception as error:
            event, delay = call.failed(error)
            call.commit(event)
            if delay is None:
                raise
            if delay:
                call.run.pause(delay)
                if call.give_up():
                    raise
            continue
        except BaseException as signal:
            call.stopped(signal)
            raise
        finally:
            call.end()
        call.commit(call.completed(result))
        return result


def _settle(future: CheckpointFuture[Any], produce: Callable[[], Any]) -> None:
    """Give the future the outcome of ``produce``."""
    try:
        value = produce()
    except BaseException as error:
        future.settle(error=error)
    else:
        future.settle(value)


def _waits(after: Any, name: str) -> list[CheckpointFuture[Any]]:
    if after is None:
        return []
    found = futures_in(list(after) if isinstance(after, (set, frozenset)) else after)
    if not found and not (isinstance(after, (list, tuple, set, frozenset, CheckpointFutures)) and not len(after)):
        raise KitaruUsageError(
            f"after= of {name} must be a future or several of them, not {after!r:.80}",
            hint="Pass what .submit() returned.",
        )
    return found


def _when_all_done(waits: list[CheckpointFuture[Any]], start: Any) -> None:
    """Call ``start`` once every future is settled: at once, or from the thread that settles the last."""
    pending = [wait for wait in waits if not wait.done()]
    if not pending:
        start()
        return
    remaining = iter(range(len(pending) - 1))  # next() on it is atomic: the thread that finds it empty is the last

    def one_done(_: CheckpointFuture[Any]) -> None:
        if next(remaining, None) is None:
            start()

    for wait in pending:
        wait.on_done(one_done)


def _loop_thread(run: RunState) -> LoopThread:
    from kitaru.run import event_loop

    if run.loop_thread is None:
        run.loop_thread = event_loop.LoopThread(run)
    return run.loop_thread
