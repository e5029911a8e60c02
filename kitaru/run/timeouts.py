"""Running the user's code: its timeouts, its forks, and the reasons for which a run goes no further.

The user's code on the main thread is interrupted by an interval timer, async code by ``asyncio.timeout``, an isolated
checkpoint by the end of its process. Code on any other thread is left alone: if it takes too long, it has failed when
it returns. The engine's own code is never interrupted.

A process that the user's code forks ends on its way out of that code, and records nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import wraps
from typing import Any, ClassVar, ParamSpec, TypeVar

from kitaru.run.journal import Stopped

P = ParamSpec("P")
T = TypeVar("T")

AGAIN_SECONDS = 1.0
"""So long after an interruption the next one comes, for code that went on all the same (a bare ``except``)."""

PROMPT_SECONDS = 0.5
"""Code that ends so long after its time was interrupted; later, it ended by itself."""


class Interrupted(BaseException):
    """Ends the user's code at once. Not an ``Exception``, so that no flow swallows it."""

    def __init__(self, limit: Limit) -> None:
        super().__init__()
        self.limit = limit


class RunStopped(Stopped):
    """The run goes no further."""


class RunExpired(RunStopped):
    """The attempt at the flow's body took longer than its timeout."""


class RunSuspended(RunStopped):
    """The execution waits for an answer, and its runner leaves until there is one."""


class Limit:
    """The end of a stretch of code, on the monotonic clock."""

    __slots__ = ("at",)

    def __init__(self, at: float) -> None:
        self.at = at


class _Main:
    """The timer of the main thread."""

    limits: ClassVar[list[Limit]] = []
    """Of the stretches that the main thread is in, the outermost first."""
    in_engine = True
    """Whether the engine's own code runs there: it learns of its limits when it returns to the user's."""
    handler: Any = None
    """The handler of the signal before."""


def user_code(work: Callable[[], T], seconds: float | None, late: Callable[[float], BaseException]) -> T:
    """``work()``, the user's code, in this thread; see ``run_here``.

    If it takes longer than ``seconds``, ``late(spent)`` is raised, with the seconds that it took: at once on the
    main thread, else when it returns.
    """
    if seconds is None:
        return _open(work)
    began = time.monotonic()
    limit = Limit(began + seconds)
    timed = _begin(limit)
    try:
        value = _open(work)
    except Interrupted as stop:
        _Main.in_engine = True
        if stop.limit is not limit:
            raise
        raise late(time.monotonic() - began).with_traceback(stop.__traceback__) from None
    except Exception as error:
        if time.monotonic() < limit.at:
            raise
        raise late(time.monotonic() - began) from error
    finally:
        if timed:
            _end(limit)
    if time.monotonic() > limit.at:
        raise late(time.monotonic() - began)
    return value


def uninterrupted(func: Callable[P, T]) -> Callable[P, T]:
    """``func`` of the engine, called by the user's code: the timer waits until it returns."""

    @wraps(func)
    def engine(*args: P.args, **kwargs: P.kwargs) -> T:
        if not _on_timed_thread():
            return func(*args, **kwargs)
        before, _Main.in_engine = _Main.in_engine, True
        try:
            return func(*args, **kwargs)
        finally:
            _Main.in_engine = before
            if not before:
                _interrupt_if_due()

    return engine


def overrun(subject: str, timeout: float, spent: float) -> str:
    """The message for ``subject``, such as ``checkpoint 'collect' (call 3)``, that had ``timeout`` seconds."""
    if spent - timeout <= PROMPT_SECONDS:
        return f"{subject} was stopped after {_seconds(timeout)}"
    return f"{subject} had {_seconds(timeout)}, and its code did not return before {_seconds(spent)} were over"


def _seconds(count: float) -> str:
    text = f"{count:.3g}"
    return f"{text} second" if text == "1" else f"{text} seconds"


def _on_timed_thread() -> bool:
    return bool(_Main.limits) and threading.current_thread() is threading.main_thread()


def _open(work: Callable[[], T]) -> T:
    """``work()``, which may be interrupted if this thread is timed."""
    if not _on_timed_thread():
        return run_here(work)
    _interrupt_if_due()
    try:
        _Main.in_engine = False
        return run_here(work)
    finally:
        # The timer may strike just before this line; whoever catches that sets it, too.
        _Main.in_engine = True


def _begin(limit: Limit) -> bool:
    """Set the timer; False if this is another thread, or the program uses the signal itself."""
    if threading.current_thread() is not threading.main_thread():
        return False
    if signal.getsignal(signal.SIGALRM) not in (signal.SIG_DFL, _ring):
        return False
    if not _Main.limits:
        _Main.handler = signal.signal(signal.SIGALRM, _ring)
    _Main.limits.append(limit)
    _set_timer()
    return True


def _end(limit: Limit) -> None:
    _Main.limits.remove(limit)
    if _Main.limits:
        _set_timer()
    else:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, _Main.handler)


def _set_timer() -> None:
    first = min(limit.at for limit in _Main.limits) - time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, max(first, 1e-6), AGAIN_SECONDS)


def _ring(_number: int, _frame: object) -> None:
    if not _Main.in_engine:
        _interrupt_if_due()


def _interrupt_if_due() -> None:
    now = time.monotonic()
    for limit in _Main.limits:
        if limit.at <= now:
            raise Interrupted(limit)


def run_here(func: Callable[..., T], /, *args: object, **kwargs: object) -> T:
    """``func(*args, **kwargs)``, the user's code. A process that was forked in it ends on its way out:

    with status 0 if it returned, else as its exception says, which it prints.
    """
    process = os.getpid()
    try:
        return func(*args, **kwargs)
    finally:
        if os.getpid() != process:
            _end_fork(sys.exc_info()[1])


async def await_here(func: Callable[..., Awaitable[T]], /, *args: object, **kwargs: object) -> T:
    """``await func(*args, **kwargs)``; otherwise as ``run_here``."""
    process = os.getpid()
    try:
        return await func(*args, **kwargs)
    finally:
        if os.getpid() != process:
            _end_fork(sys.exc_info()[1])


def _end_fork(error: BaseException | None) -> None:
    """End this process, and leave its parent's files and sockets alone."""
    code = 0 if error is None else 1
    with suppress(Exception):
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            if error.code is not None and not isinstance(error.code, int):
                print(error.code, file=sys.stderr)
        elif error is not None:
            import traceback  # slow to load, and needed only here

            where = error.__traceback__.tb_next if error.__traceback__ is not None else None  # without this module
            traceback.print_exception(error.with_traceback(where))
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code & 0xFF)
