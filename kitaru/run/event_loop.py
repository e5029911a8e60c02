"""Async flows and checkpoints. Imported only where a flow has them: ``asyncio`` takes longer to load than the rest
together.

The store is synchronous, so events are committed on threads; calls that finish together share an entry there as well.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import AsyncExitStack, suppress
from contextvars import Context, copy_context
from functools import partial
from types import coroutine
from typing import TYPE_CHECKING, Any, TypeVar, cast

from kitaru.errors import KitaruStateError
from kitaru.flows.checkpoint import Checkpoint
from kitaru.flows.future import CheckpointFuture, FanOut, futures_in, resolved
from kitaru.flows.scope import Scope, scope
from kitaru.run.call_run import CallRun
from kitaru.run.failures import as_failure
from kitaru.run.forked import await_here
from kitaru.run.interrupts import RunStopped, Steps
from kitaru.run.run_state import LOOK_SECONDS, RunState

if TYPE_CHECKING:
    from kitaru.run.waits import Poll

T = TypeVar("T")

CLOSING_SECONDS = 2.0
"""How long the end of a run waits for async calls to take their cancellation."""

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs in this thread now: the flow's own, or one that its body started itself."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class Gate:
    """Lets at most ``limit`` calls through at once. Made before any loop runs, used on one."""

    def __init__(self, limit: int) -> None:
        self.semaphore = asyncio.Semaphore(limit)


def run_flow(run: RunState, here: Scope, body: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run an async flow's body to its end in the scope ``here``, and every call that it submitted."""

    async def main() -> Any:
        scope.set(here)
        forget = run.interrupts.when_stopped(_stopper(run))
        try:
            result = await _failing(await_here(body), lambda error: as_failure(error, "the flow"))
            await _settled(run)
            run.interrupts.check()  # where the body blocked the loop, so that its cancellation never came
        except (Exception, RunStopped, asyncio.CancelledError) as error:
            reason = run.interrupts.reason
            if reason is None and isinstance(error, asyncio.CancelledError):
                raise
            run.abandoned = reason or error
            await _settled(run)
            raise run.abandoned from (None if error is reason else error)
        finally:
            forget()
        return result

    with asyncio.Runner() as runner:
        runner.get_loop().set_task_factory(_make_task)
        try:
            return runner.run(main())
        except asyncio.CancelledError as error:
            raise RuntimeError("the task of the flow's body was cancelled") from error


def _stopper(run: RunState) -> Callable[[], None]:
    """What stops the body that runs in this task, and the calls that it submitted."""
    loop = asyncio.get_running_loop()
    body = asyncio.current_task()

    def cancel() -> None:
        for task in (body, *run.tasks):
            if task is not None:
                task.cancel()

    def stop() -> None:
        with suppress(RuntimeError):  # the loop was closed meanwhile: nothing runs on it
            loop.call_soon_threadsafe(cancel)

    return stop


async def _settled(run: RunState) -> None:
    """Until every submitted call has an outcome, good or bad."""
    for future in run.futures:
        await future.outcome()


async def perform_async(run: RunState, checkpoint: Checkpoint[..., Any], key: str, arguments: Arguments) -> Any:
    """The call's value: recorded, or computed on this loop, with its retries."""
    if run.futures:
        for future in futures_in(arguments):
            await future
        arguments = resolved(arguments)
    call = CallRun(run, checkpoint, key, *arguments)
    if call.decide():
        return call.reused() if call.reusable_inline else await _on_thread(run, call.reused)
    if call.asks_store() and (hit := await _on_thread(run, call.cached)) is not None:
        await _on_thread(run, partial(call.commit, hit))
        return call.cached_value
    while True:
        call.begin()
        try:
            result = await _compute(call)
        except Exception as error:
            event, delay = call.failed(error)
            await _on_thread(run, partial(call.commit, event))
            if delay is None:
                raise
            if delay:
                await _pause(run, delay)
                if call.give_up():
                    raise
            continue
        except BaseException as signal:
            call.stopped(signal)
            raise
        finally:
            call.end()
        await _on_thread(run, partial(call.commit, call.completed(result)))
        return result


async def answered(run: RunState, poll: Poll) -> Any:
    """The answer to a wait, while the loop goes on."""
    await _on_thread(run, poll.open)
    while not poll.found:
        await _on_thread(run, poll.look)
        if not poll.found:
            await asyncio.sleep(poll.pause)
    return poll.found[0]


async def _compute(call: CallRun) -> Any:
    """What the body gives; cancelled where it takes longer than its timeout."""
    timeout = call.checkpoint.options.timeout
    if call.checkpoint.options.runtime == "isolated":
        attempt = call.isolated()
        return await _failing(_on_thread(call.run, attempt.run, attempt.stop), call.as_failure)
    if timeout is None:
        return await _failing(_awaited(call), call.as_failure)
    began = time.monotonic()
    steps = call.run.interrupts.steps(timeout, lambda: call.late(time.monotonic() - began))
    try:
        async with asyncio.timeout(timeout) as limit:
            result = await _failing(_stepwise(steps, _awaited(call)), call.as_failure)
    except Exception as error:
        spent = time.monotonic() - began
        if error is steps.stopped or not (limit.expired() or spent > timeout):
            raise
        late = call.late(spent)
        if isinstance(error.__cause__, asyncio.CancelledError):
            raise late.with_traceback(error.__cause__.__traceback__) from None  # where its code was
        raise late from error
    finally:
        steps.close()
    if limit.expired() or time.monotonic() - began > timeout:  # it went on after its cancellation, or never yielded
        raise call.late(time.monotonic() - began)
    return result


def _awaited(call: CallRun) -> Coroutine[Any, Any, Any]:
    return await_here(call.checkpoint.func, *call.args, **call.kwargs)


@coroutine
def _stepwise(steps: Steps, work: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """What ``work`` gives; each of its steps can be stopped."""
    step: Callable[[], Any] = partial(work.send, None)
    try:
        while True:
            ended, value = steps.run(partial(_taken, step))
            if ended:
                return cast("T", value)
            try:
                step = partial(work.send, (yield value))
            except GeneratorExit:
                raise
            except BaseException as error:
                step = partial(work.throw, error)
    finally:
        with suppress(RuntimeError):  # code that catches everything; it was told often enough
            work.close()


def _taken(step: Callable[[], Any]) -> tuple[bool, Any]:
    """What a step gives, and whether it was the last one."""
    try:
        return False, step()
    except StopIteration as end:
        return True, end.value


async def _failing(work: Coroutine[Any, Any, T], as_failure: Callable[[BaseException], BaseException]) -> T:
    """The user's own ``work``; what it raises that is no ``Exception`` becomes one, unless it is a signal."""
    task = asyncio.current_task()
    try:
        return await work
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        failure = as_failure(error)
        if failure is error or (isinstance(error, GeneratorExit) and _running_task() is not task):
            raise  # the latter: a task that is thrown away, not one that goes on
        raise failure from error


def _running_task() -> Any:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


async def _pause(run: RunState, seconds: float) -> None:
    """As ``run.pause``, while the loop goes on."""
    deadline = time.monotonic() + seconds
    while run.abandoned is None and (left := deadline - time.monotonic()) > 0:
        await asyncio.sleep(min(left, LOOK_SECONDS))
        run.check()
        run.interrupts.check()


def start_task(
    run: RunState,
    checkpoint: Checkpoint[..., Any],
    key: str,
    arguments: Arguments,
    waits: list[CheckpointFuture[Any]],
    future: CheckpointFuture[Any],
    gate: Gate | None,
    group: FanOut | None = None,
) -> None:
    """Start a submitted call on the loop that runs here."""
    loop = asyncio.get_running_loop()
    future.refuse_wait_when(lambda: running_loop() is loop)
    task = loop.create_task(_settle(run, checkpoint, key, arguments, waits, future, gate, group))
    run.tasks.add(task)
    task.add_done_callback(run.tasks.discard)


class LoopThread:
    """The loop on which a sync flow's async checkpoints run: one thread for all of them."""

    def __init__(self, run: RunState) -> None:
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name=f"kitaru-loop-{run.exec_id}", daemon=True)
        self._thread.start()
        self._forget = run.interrupts.when_stopped(self._stop_tasks)

    def submit(
        self,
        run: RunState,
        checkpoint: Checkpoint[..., Any],
        key: str,
        arguments: Arguments,
        future: CheckpointFuture[Any],
        waits: list[CheckpointFuture[Any]] | None = None,
        gate: Gate | None = None,
        group: FanOut | None = None,
    ) -> CheckpointFuture[Any]:
        """Start a call on the loop; ``future`` gets its outcome."""
        context = copy_context()
        self._loop.call_soon_threadsafe(
            lambda: self._start(_settle(run, checkpoint, key, arguments, waits or [], future, gate, group), context)
        )
        return future

    def close(self) -> None:
        """Cancel what still runs and end the thread."""
        self._forget()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSING_SECONDS)

    def _stop_tasks(self) -> None:
        def cancel() -> None:
            for task in self._tasks:
                task.cancel()

        with suppress(RuntimeError):  # closed meanwhile
            self._loop.call_soon_threadsafe(cancel)

    def _start(self, work: Coroutine[Any, Any, None], context: Context) -> None:
        task = self._loop.create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            for task in list(self._tasks):
                task.cancel()
            with suppress(BaseException):
                self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()


async def _settle(
    run: RunState,
    checkpoint: Checkpoint[..., Any],
    key: str,
    arguments: Arguments,
    waits: list[CheckpointFuture[Any]],
    future: CheckpointFuture[Any],
    gate: Gate | None,
    group: FanOut | None = None,
) -> None:
    try:
        for wait in (*waits, *futures_in(arguments)):
            await wait
        async with AsyncExitStack() as stack:
            if gate is not None:
                await stack.enter_async_context(gate.semaphore)
            if run.abandoned is not None:
                raise run.abandoned
            if group is not None:
                group.check()
            value = await perform_async(run, checkpoint, key, arguments)
    except asyncio.CancelledError:
        future.settle(error=KitaruStateError(f"checkpoint {checkpoint.name!r} was cancelled with its event loop"))
        raise
    except BaseException as error:
        # Also signals: whoever asks for the result raises them there, where the flow's body is.
        future.settle(error=error)
    else:
        future.settle(value)


def _make_task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
    """A task in a branch of its own, numbered where it is created:

    concurrent calls keep their keys whoever is faster.
    """
    context: Context | None = options.pop("context", None)
    context = context.copy() if context is not None else copy_context()
    branch_off = getattr(context.get(scope), "branch_off", None)
    if branch_off is not None:
        context.run(scope.set, branch_off())
    return asyncio.Task(work, loop=loop, context=context, **options)


async def _on_thread(run: RunState, work: Callable[[], Any], stop: Callable[[], None] | None = None) -> Any:
    """``work()``'s result, computed on a thread while the loop goes on.

    ``stop`` makes it end where the task is cancelled; the task goes on to its end only then.
    """
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()

    def finish(value: Any, error: BaseException | None) -> None:
        if not waiter.done():
            waiter.set_result((value, error))

    def task() -> None:
        value, error = None, None
        try:
            value = work()
        except BaseException as problem:
            error = problem
        with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
            loop.call_soon_threadsafe(finish, value, error)

    run.commit_pool.start(task)
    cancelled: asyncio.CancelledError | None = None
    while stop is not None and not waiter.done():
        try:
            await asyncio.shield(waiter)
        except asyncio.CancelledError as problem:
            cancelled = problem
            stop()
    if cancelled is not None:
        raise cancelled
    value, error = await waiter
    if error is not None:
        raise error
    return value
