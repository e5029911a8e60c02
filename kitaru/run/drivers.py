"""The driver of a flow's calls: the threads of its run, and the scope in which its body makes calls."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

from kitaru.core.replay import Branch
from kitaru.errors import KitaruUsageError
from kitaru.flows.checkpoint import Checkpoint
from kitaru.flows.future import CheckpointFuture, CheckpointFutures, FanOut, futures_in, resolved
from kitaru.flows.waiting import Question
from kitaru.run.call import Attempt, Blocking, Call, Step, running_loop
from kitaru.run.executions import NotesHere
from kitaru.run.output import Capture
from kitaru.run.state import RunState
from kitaru.run.user_code import failing, uninterrupted
from kitaru.run.waits import PendingAnswer, Poll, until_answered

Task = Callable[[], None]

MAX_THREADS = 128
"""How many submitted checkpoints of one run are under way at once."""


class ThreadPool:
    """Runs tasks on up to ``limit`` threads, made when needed. Tasks must not raise."""

    def __init__(self, name: str, limit: int = MAX_THREADS) -> None:
        self.name = name
        self._limit = limit
        self._ready = threading.Condition(threading.Lock())
        self._queue: deque[Task] = deque()
        self._idle = 0
        self._threads = 0
        self._closed = False

    def start(self, task: Task) -> None:
        """Run ``task`` as soon as a thread is free."""
        with self._ready:
            if self._idle > len(self._queue) or self._threads >= self._limit:
                self._queue.append(task)
                self._ready.notify()
                return
            self._threads += 1
            name = f"{self.name}-{self._threads}"
        threading.Thread(target=self._work, args=(task,), name=name, daemon=True).start()

    def close(self) -> None:
        """Let each thread end as soon as the queue is empty, now and later."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    def _work(self, task: Task) -> None:
        while True:
            task()
            with self._ready:
                self._idle += 1
                while not self._queue and not self._closed:
                    self._ready.wait()
                self._idle -= 1
                if not self._queue:
                    self._threads -= 1
                    return
                task = self._queue.popleft()


class Crew:
    """The threads and the output of one run."""

    def __init__(self, run: RunState) -> None:
        self.run = run
        self.pool = ThreadPool(f"kitaru-{run.exec_id}")
        self.commit_pool = ThreadPool(f"kitaru-commit-{run.exec_id}")
        self.capture: Capture
        """Of this attempt at the body."""
        self.tasks: set[Any] = set()
        """Tasks of submitted async calls: an event loop itself holds them only weakly."""

    def close(self) -> None:
        """Let go of the threads."""
        self.pool.close()
        self.commit_pool.close()


@dataclass(slots=True)
class Submission:
    """A call that runs beside the body. It begins once ``waits`` are settled, and the pool or gate has room."""

    checkpoint: Checkpoint[..., Any]
    key: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    future: CheckpointFuture[Any]
    waits: list[CheckpointFuture[Any]] = field(default_factory=list)
    group: FanOut | None = None
    gate: Any = None

    def must_begin(self, run: RunState) -> None:
        """Raise the reason if it must not begin any more: the flow, or another call of its map, has failed."""
        if run.abandoned is not None:
            raise run.abandoned
        if self.group is not None:
            self.group.check()


class FlowScope(NotesHere):
    """A flow body, or one concurrent branch of it: checkpoints called here are durable."""

    __slots__ = ("branch", "call_id", "crew", "run")

    def __init__(self, crew: Crew, branch: Branch) -> None:
        self.crew = crew
        self.run = crew.run
        self.branch = branch
        self.call_id = None

    def branch_off(self) -> FlowScope:
        """The scope of the next concurrent task that is made here."""
        return FlowScope(self.crew, self.branch.next_branch())

    @uninterrupted
    def call(self, checkpoint: Checkpoint[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run it in this thread; an async one on the loop that runs here, else on one of its own."""
        run, crew = self.run, self.crew
        run.check()
        key = self.branch.next_call()
        if checkpoint.is_async and running_loop() is not None:
            from kitaru.run import event_loop

            return event_loop.perform_async(crew, checkpoint, key, args, kwargs)
        if run.futures:
            args, kwargs = resolved(args), resolved(kwargs)
        return perform(Call(run, crew.capture, checkpoint, key, args, kwargs))

    @uninterrupted
    def wait(self, question: Question) -> Any:
        """The answer to a question; a ``PendingAnswer`` if an event loop runs."""
        self.run.check()
        poll = Poll(self.run, self.branch.next_wait(), question)
        if running_loop() is not None:
            from kitaru.run import event_loop

            return PendingAnswer(event_loop.answered(self.crew, poll))
        return until_answered(self.run, poll)

    @uninterrupted
    def submit(
        self, checkpoint: Checkpoint[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], after: Any
    ) -> CheckpointFuture[Any]:
        """Run it on a thread of the run, or an async one on the loop that runs here."""
        work = self._submission(checkpoint, args, kwargs, _waits(after, checkpoint.name))
        return self._submit(work, self.crew.pool)

    @uninterrupted
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
        pool = self.crew.pool
        gate = None
        if max_concurrency is not None and checkpoint.is_async and running_loop() is not None:
            import asyncio

            gate = asyncio.Semaphore(max_concurrency)
        elif max_concurrency is not None:
            pool = ThreadPool(f"{pool.name}-map", min(max_concurrency, MAX_THREADS))
            pool.close()
        futures = []
        for args in calls:
            work = self._submission(checkpoint, args, dict(constants), list(waits))
            work.group, work.gate = group, gate
            work.future.group = group
            work.future.on_done(group.note)
            futures.append(self._submit(work, pool))
        return CheckpointFutures(futures)

    def _submission(
        self,
        checkpoint: Checkpoint[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        waits: list[CheckpointFuture[Any]],
    ) -> Submission:
        self.run.check()
        key = self.branch.next_call()
        return Submission(checkpoint, key, args, kwargs, CheckpointFuture(checkpoint.name, key), waits)

    def _submit(self, work: Submission, pool: ThreadPool) -> CheckpointFuture[Any]:
        run, crew, future = self.run, self.crew, work.future
        if work.checkpoint.is_async and running_loop() is not None:
            from kitaru.run import event_loop

            event_loop.start_task(crew, work)
            run.futures.append(future)
            return future
        if run.futures:
            work.waits += futures_in((work.args, work.kwargs))
        run.futures.append(future)
        known: Call | None = None
        if not work.waits and (work.key in run.recorded or run.offers):
            call = Call(run, crew.capture, work.checkpoint, work.key, work.args, work.kwargs)
            if call.reusable_inline:
                _settle(future, lambda: perform(call))
                return future
            known = call if call.has_outcome else None  # It took the outcome: another call would not find that.

        def produce() -> Any:
            for wait in work.waits:
                wait.result()
            work.must_begin(run)
            if known is not None:
                return perform(known)
            args, kwargs = resolved(work.args), resolved(work.kwargs)
            return perform(Call(run, crew.capture, work.checkpoint, work.key, args, kwargs))

        context = copy_context()
        _when_all_done(work.waits, lambda: pool.start(lambda: context.run(_settle, future, produce)))
        return future


def perform(call: Call) -> Any:
    """The value of a call, with each of its steps carried out in this thread."""
    steps = call.steps()
    try:
        step = next(steps)
        while True:
            try:
                value = _carry_out(call, step)
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(value)
    except StopIteration as end:
        return end.value


def _carry_out(call: Call, step: Step) -> Any:
    if isinstance(step, Attempt):
        if call.checkpoint.is_async and call.checkpoint.options.runtime != "isolated":
            from kitaru.run.event_loop import run_alone  # asyncio is slow to load, and most flows have no use for it

            with failing(f"checkpoint {call.name!r}"):
                return run_alone(call)
        return call.body()
    if isinstance(step, Blocking):
        return step.work()
    return call.run.pause(step.seconds)


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
    futures = futures_in(list(after) if isinstance(after, (set, frozenset)) else after)
    if not futures and not (isinstance(after, (list, tuple, set, frozenset, CheckpointFutures)) and not len(after)):
        raise KitaruUsageError(
            f"after= of {name} must be a future or several of them, not {after!r:.80}",
            hint="Pass what .submit() returned.",
        )
    return futures


def _when_all_done(waits: list[CheckpointFuture[Any]], start: Callable[[], None]) -> None:
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
