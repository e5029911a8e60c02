"""Async flows and checkpoints. Imported only if a flow has them: ``asyncio`` takes longer to load than the rest.

The store is synchronous, so each step that waits for it is carried out on a thread, while the loop goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from kitaru.errors import KitaruStateError
from kitaru.flows.checkpoint import Checkpoint
from kitaru.flows.future import futures_in, resolved
from kitaru.flows.scope import Scope, scope
from kitaru.run.call import Attempt, Blocking, Call, Step, running_loop
from kitaru.run.journal import RunExpired, RunStopped, Stopped
from kitaru.run.state import LOOK_SECONDS, RunState
from kitaru.run.user_code import as_failure, await_here

if TYPE_CHECKING:
    from kitaru.run.drivers import Crew, Submission
    from kitaru.run.waits import Poll

T = TypeVar("T")


def run_flow(crew: Crew, here: Scope, body: Callable[[], Awaitable[Any]], seconds: float | None) -> Any:
    """The result of an async flow's body, run in the scope ``here``, once every call that it submitted has ended.

    Raises ``RunExpired`` if that takes longer than ``seconds``: all that is under way is cancelled.
    """
    run = crew.run

    async def limited() -> Any:
        result = await _failing(await_here(body), "the flow")
        await _settled(run)
        return result

    async def main() -> Any:
        scope.set(here)
        try:
            result = await _within(seconds, limited(), lambda _spent: RunExpired())
            run.check()
        except (Exception, RunStopped) as error:
            run.abandoned = error
            if isinstance(error, RunExpired):
                for task in crew.tasks:
                    task.cancel()
            await _settled(run)
            raise
        return result

    with asyncio.Runner() as runner:
        runner.get_loop().set_task_factory(_make_task)
        try:
            return runner.run(main())
        except asyncio.CancelledError as error:
            raise RuntimeError("the task of the flow's body was cancelled") from error


async def perform_async(
    crew: Crew, checkpoint: Checkpoint[..., Any], key: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The value of a call, with its steps carried out on this loop."""
    if crew.run.futures:
        for future in futures_in((args, kwargs)):
            await future
        args, kwargs = resolved(args), resolved(kwargs)
    call = Call(crew.run, crew.capture, checkpoint, key, args, kwargs)
    steps = call.steps()
    try:
        step = next(steps)
        while True:
            try:
                value = await _carry_out(crew, call, step)
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(value)
    except StopIteration as end:
        return end.value


async def _carry_out(crew: Crew, call: Call, step: Step) -> Any:
    if isinstance(step, Blocking):
        return await _on_thread(crew, step.work)
    if isinstance(step, Attempt) and call.checkpoint.options.runtime == "isolated":
        from kitaru.run.isolated import run_isolated  # brings subprocess, which few flows need

        cancelled: list[bool] = []

        def check() -> None:
            if cancelled:
                raise Stopped
            crew.run.must_go_on()

        work = partial(run_isolated, call, check)
        return await _failing(_on_thread(crew, work, partial(cancelled.append, True)), f"checkpoint {call.name!r}")
    if isinstance(step, Attempt):
        return await _body(call)
    return await _pause(crew.run, step.seconds)


def run_alone(call: Call) -> Any:
    """The result of an async checkpoint's body, on a loop of its own in this thread; the flow's time ends it, too."""
    deadline = call.run.deadline
    left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
    with asyncio.Runner() as runner:
        return runner.run(_within(left, _body(call), lambda _spent: RunExpired()))


async def _body(call: Call) -> Any:
    """The result of the checkpoint's body; cancelled if it takes longer than its timeout."""
    body = _failing(await_here(call.checkpoint.func, *call.args, **call.kwargs), f"checkpoint {call.name!r}")
    return await _within(call.checkpoint.options.timeout, body, call.late)


async def _within(seconds: float | None, work: Coroutine[Any, Any, T], late: Callable[[float], BaseException]) -> T:
    """The result of ``work``; ``late(spent)`` is raised if it takes longer than ``seconds``.

    Its cancellation comes with the loop's next turn: code that blocks the loop has failed when it returns.
    """
    if seconds is None:
        return await work
    began = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            result = await work
    except Exception as error:
        spent = time.monotonic() - began
        if spent < seconds:
            raise
        if isinstance(error, TimeoutError) and isinstance(error.__cause__, asyncio.CancelledError):
            raise late(spent).with_traceback(error.__cause__.__traceback__) from None  # where its code was
        raise late(spent) from error
    if time.monotonic() - began > seconds:
        raise late(time.monotonic() - began)
    return result


async def answered(crew: Crew, poll: Poll) -> Any:
    """The answer to a wait, while the loop goes on."""
    await _on_thread(crew, poll.open)
    while not poll.found:
        await _on_thread(crew, poll.look)
        if not poll.found:
            await asyncio.sleep(poll.pause)
    return poll.found[0]


async def _settled(run: RunState) -> None:
    """Until every submitted call has an outcome, good or bad."""
    for future in run.futures:
        await future.outcome()


async def _failing(work: Coroutine[Any, Any, T], subject: str) -> T:
    """The user's own ``work``; any error of it that is no ``Exception`` becomes one, unless it is a signal."""
    task = asyncio.current_task()
    try:
        return await work
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        failure = as_failure(error, subject)
        # A task that is thrown away, not one that goes on.
        dropped = isinstance(error, GeneratorExit) and (running_loop() is None or asyncio.current_task() is not task)
        if failure is error or dropped:
            raise
        raise failure from error


async def _pause(run: RunState, seconds: float) -> None:
    """As ``run.pause``, while the loop goes on."""
    end = time.monotonic() + seconds
    while run.abandoned is None and (left := end - time.monotonic()) > 0:
        await asyncio.sleep(min(left, LOOK_SECONDS))
        run.check()


def start_task(crew: Crew, work: Submission) -> None:
    """Start a submitted call on the loop that runs here."""
    loop = asyncio.get_running_loop()
    work.future.refuses_wait = lambda: running_loop() is loop
    task = loop.create_task(_settle(crew, work))
    crew.tasks.add(task)
    task.add_done_callback(crew.tasks.discard)


async def _settle(crew: Crew, work: Submission) -> None:
    future = work.future
    try:
        for wait in (*work.waits, *futures_in((work.args, work.kwargs))):
            await wait
        async with AsyncExitStack() as stack:
            if work.gate is not None:
                await stack.enter_async_context(work.gate)
            work.must_begin(crew.run)
            value = await perform_async(crew, work.checkpoint, work.key, work.args, work.kwargs)
    except asyncio.CancelledError:
        future.settle(error=KitaruStateError(f"checkpoint {future.name!r} was cancelled with its event loop"))
        raise
    except BaseException as error:
        # Signals, too: where the result is asked for, the flow's body raises them.
        future.settle(error=error)
    else:
        future.settle(value)


def _make_task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
    """A task in a branch of its own, numbered as it is created: its calls keep their keys in any order."""
    context: Context | None = options.pop("context", None)
    context = context.copy() if context is not None else copy_context()
    branch_off = getattr(context.get(scope), "branch_off", None)
    if branch_off is not None:
        context.run(scope.set, branch_off())
    return asyncio.Task(work, loop=loop, context=context, **options)


async def _on_thread(crew: Crew, work: Callable[[], Any], stop: Callable[[], None] | None = None) -> Any:
    """The result of ``work()``, which runs on a thread while the loop goes on.

    ``stop`` makes it end if the task is cancelled; the task goes on to its end only then.
    """
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()

    def finish(outcome: tuple[Any, BaseException | None]) -> None:
        if not waiter.done():
            waiter.set_result(outcome)

    def task() -> None:
        try:
            outcome: tuple[Any, BaseException | None] = work(), None
        except BaseException as problem:
            outcome = None, problem
        with suppress(RuntimeError):  # the loop was closed meanwhile, and with it the task that waits
            loop.call_soon_threadsafe(finish, outcome)

    crew.commit_pool.start(task)
    cancelled: asyncio.CancelledError | None = None
    while stop is not None and not waiter.done():
        try:
            await asyncio.shield(waiter)
        except asyncio.CancelledError as problem:
            cancelled = problem
            stop()
    value, error = await waiter
    if cancelled is not None or error is not None:
        raise cancelled or error
    return value
