"""Stopping the user's own code from outside: at a timeout, or when somebody ends the run.

Python can stop a thread only between two instructions, so code that blocks inside a C function (``time.sleep``, a
socket) is stopped when that returns; only on the main thread is it woken at once, by a signal: that is where workers
and ``kitaru run`` have the flow's body. The engine's own code is never hit: a thread can be stopped only between
``enter`` and ``leave``. Tasks and child processes register what stops them.
"""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from kitaru.run.alarms import Alarms

T = TypeVar("T")

AGAIN_SECONDS = 1.0
"""After so long a thread that went on all the same (a bare ``except``) is stopped again."""

LEAST_STEP = 0.05
"""A task's step that began more recently is let go on for now: it may be the one that takes the task's cancellation."""

PROMPT_SECONDS = 0.5
"""Code that ends so long after its time was up was stopped; later, it was told to stop and ended when it pleased."""

WAKE_SIGNAL = signal.SIGURG
"""Ignored by default, and used by next to nobody."""


class Interrupted(BaseException):
    """Stops the user's code where it is. Not an ``Exception``, so that it is not swallowed."""


class Expired(Interrupted):
    """The time of a stretch of code is up. Its ``run`` raises in its place what its caller wants said."""


class RunStopped(BaseException):
    """The run is stopped from outside: none of its code begins any more, and what is under way is stopped."""


class FlowExpired(RunStopped):
    """The attempt at the flow's body took longer than its timeout."""


def time_is_up(what: str, timeout: float, spent: float) -> str:
    """How ``what`` ended, which had ``timeout`` seconds and took ``spent``, in words that are true."""
    if spent - timeout <= PROMPT_SECONDS:
        return f"{what} was stopped after {_seconds(timeout)}"
    return (
        f"{what} was told to stop after {_seconds(timeout)}, and its code did not return before {_seconds(spent)} "
        "were over"
    )


def killed_late(what: str, timeout: float) -> str:
    """How ``what`` ended, whose process was told to end after ``timeout`` seconds and did not."""
    return f"{what} was killed after {_seconds(timeout)}, as its process did not end when it was told to"


def _seconds(count: float) -> str:
    text = f"{count:.3g}"
    return f"{text} second" if text == "1" else f"{text} seconds"


class _Region:
    """A stretch of the user's code on one thread. ``shield``: the engine's code, called from there."""

    __slots__ = ("ident", "outer", "reason", "shield")

    def __init__(self, ident: int, shield: bool) -> None:
        self.ident = ident
        self.shield = shield
        self.outer: _Region | None = None
        self.reason: BaseException | None = None


class Interrupts:
    """The user's code of one run that is under way, and how to stop it. Every method may be called by any thread."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._regions: dict[int, _Region] = {}
        self._stoppers: dict[int, Callable[[], None]] = {}
        self._numbers = itertools.count()
        self._alarms = Alarms()
        self._reason: BaseException | None = None
        self._stopped = threading.Event()

    @property
    def reason(self) -> BaseException | None:
        """Why the whole run is being stopped; None while it goes on."""
        return self._reason

    def check(self) -> None:
        """Raise the reason where the run is being stopped."""
        if self._reason is not None:
            raise self._reason

    def stop(self, reason: BaseException) -> None:
        """Stop all of the user's code that is under way, and let none begin: ``reason`` is raised in its place."""
        with self._guard:
            self._reason = self._reason or reason
            stoppers = list(self._stoppers.values())
            for region in self._regions.values():
                self._hit_all(region, self._reason)
        self._stopped.set()
        for stopper in stoppers:
            stopper()
        self._alarms.at(AGAIN_SECONDS, self._stop_again)

    def reset(self) -> None:
        """Go on, for another attempt: everything that was stopped has ended."""
        with self._guard:
            self._reason = None
            self._stopped.clear()

    def pause(self, seconds: float) -> None:
        """Wait so long, in this thread; raises the reason as soon as the run is being stopped."""
        self._stopped.wait(seconds)
        self.check()

    def close(self) -> None:
        """End the thread that watches the time."""
        self._alarms.close()

    def when_stopped(self, stopper: Callable[[], None]) -> Callable[[], None]:
        """Call ``stopper`` (from any thread; it must not block) when the run is stopped, until the returned function
        is called; at once where it is being stopped already.
        """
        number = next(self._numbers)
        with self._guard:
            self._stoppers[number] = stopper
            stopped = self._reason is not None
        if stopped:
            stopper()
        return lambda: self._forget(number)

    def after(self, seconds: float, action: Callable[[], None]) -> Callable[[], None]:
        """Call ``action`` after ``seconds``, on a thread of its own, unless the returned function is called before."""
        return self._alarms.at(seconds, action)

    def run(
        self,
        work: Callable[[], T],
        *,
        timeout: float | None = None,
        late: Callable[[float], BaseException] = Expired,
    ) -> T:
        """``work()`` in this thread, stopped when the run is, or after ``timeout`` seconds: then ``late(spent)`` is
        raised, with the seconds that it really took.

        Returns or raises only when ``work`` has ended, so that nothing of it goes on beside what comes next.
        """
        region = _Region(threading.get_ident(), shield=False)
        self._enter(region)
        if timeout is None:
            forget, began = None, 0.0
        else:
            forget, began = self._alarms.at(timeout, lambda: self._expire(region)), time.monotonic()
        try:
            return self._within(region, work, lambda: late(time.monotonic() - began))
        finally:
            if forget is not None:
                forget()

    def steps(self, timeout: float, late: Callable[[], BaseException]) -> Steps:
        """For a task whose steps run in one thread: each is stopped where ``timeout`` seconds from now are over."""
        return Steps(self, timeout, late)

    def shielded(self, work: Callable[[], T]) -> T:
        """``work()`` of the engine, called by the user's code on this thread: not to be stopped in the middle."""
        ident = threading.get_ident()
        if ident not in self._regions:
            return work()
        region = _Region(ident, shield=True)
        self._enter(region)
        try:
            return work()
        finally:
            self._leave(region)

    # --- where threads are --------------------------------------------------------------------------------------------

    def _within(self, region: _Region, work: Callable[[], T], late: Callable[[], BaseException]) -> T:
        """``work()`` in a stretch that was entered, which this leaves."""
        try:
            try:
                return work()
            finally:
                self._leave(region)
        except BaseException as error:
            reason = region.reason
            if reason is None:
                raise
            self._end(region)
            met = error.__context__ if error is reason else error  # as the code ended is the context of `_leave`
            told = late() if isinstance(reason, Expired) else reason
            if met is None or isinstance(met, Interrupted):
                raise told.with_traceback((met or error).__traceback__) from None  # which says where the code was
            raise told from met

    def _enter(self, region: _Region) -> None:
        with self._guard:
            outer = region.outer = self._regions.get(region.ident)
            if self._reason is not None and not region.shield:
                raise self._reason
            if outer is not None and outer.reason is not None:
                # It was hit a moment ago: that must not arrive in the engine's code.
                _take_back(region.ident)
                raise outer.reason
            self._regions[region.ident] = region

    def _leave(self, region: _Region) -> None:
        """Nothing reaches this stretch any more; raises what was meant for it or for the one around it."""
        with self._guard:
            if self._regions.get(region.ident) is not region:
                return
            if region.outer is None:
                del self._regions[region.ident]
            else:
                self._regions[region.ident] = region.outer
        if region.reason is not None:
            _take_back(region.ident)
            raise region.reason
        outer = region.outer
        if region.shield and outer is not None and outer.reason is not None:
            raise outer.reason

    def _end(self, region: _Region) -> None:
        with suppress(BaseException):  # its reason, which the caller raises
            self._leave(region)

    def _expire(self, region: _Region) -> None:
        with self._guard:
            if not self._is_there(region):
                return
            if region.reason is None:
                region.reason = Expired()
            if self._regions[region.ident] is region:
                _strike(region.ident)
        self._alarms.at(AGAIN_SECONDS, lambda: self._expire(region))

    def _stop_again(self) -> None:
        with self._guard:
            if self._reason is None or not self._regions:
                return
            for region in self._regions.values():
                self._hit_all(region, self._reason)
        self._alarms.at(AGAIN_SECONDS, self._stop_again)

    def _hit_all(self, region: _Region, reason: BaseException) -> None:
        """The innermost stretch is struck; the others of that thread learn it when it ends."""
        if not region.shield:
            _strike(region.ident)
        around: _Region | None = region
        while around is not None:
            if not around.shield:
                around.reason = around.reason or reason
            around = around.outer

    def _is_there(self, region: _Region) -> bool:
        around = self._regions.get(region.ident)
        while around is not None and around is not region:
            around = around.outer
        return around is region

    def _forget(self, number: int) -> None:
        with self._guard:
            self._stoppers.pop(number, None)


class Steps:
    """A task's steps, which are the user's code, all in one thread: the one under way is stopped when time is up.

    Between its steps the task's cancellation ends it, and so it does at the end of the whole run: a step that only
    takes the cancellation has a second for that.
    """

    def __init__(self, interrupts: Interrupts, timeout: float, late: Callable[[], BaseException]) -> None:
        self._interrupts = interrupts
        self._late = late
        self._region: _Region | None = None
        self._since = 0.0
        self._closed = False
        self._forget = interrupts.after(timeout, self._expire)
        self.stopped: BaseException | None = None
        """What was raised in place of a step that was stopped."""

    def run(self, work: Callable[[], T]) -> T:
        """``work()``, one step in this thread; raises what ``late()`` gives where it was stopped."""
        region = _Region(threading.get_ident(), shield=True)
        self._interrupts._enter(region)
        self._since, self._region = time.monotonic(), region
        try:
            return self._interrupts._within(region, work, self._is_late)
        finally:
            self._region = None

    def close(self) -> None:
        """The task has ended."""
        self._closed = True
        self._forget()

    def _is_late(self) -> BaseException:
        self.stopped = self._late()
        return self.stopped

    def _expire(self) -> None:
        region = self._region
        if region is not None and region.reason is None and time.monotonic() - self._since > LEAST_STEP:
            self._interrupts._expire(region)  # again and again, until it has ended
        if not self._closed:
            self._forget = self._interrupts.after(AGAIN_SECONDS, self._expire)


class WakingMain:
    """While the block lasts, a blocked main thread can be stopped at once. Does nothing on any other thread."""

    def __init__(self) -> None:
        self._previous: Any = None

    def __enter__(self) -> WakingMain:
        if threading.current_thread() is threading.main_thread() and signal.getsignal(WAKE_SIGNAL) is signal.SIG_DFL:
            self._previous = signal.signal(WAKE_SIGNAL, _raise_in_main)
            _Main.wakes = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            _Main.wakes = False
            signal.signal(WAKE_SIGNAL, self._previous)


class _Main:
    """Whether the main thread can be woken, and whether it was struck since it last raised."""

    wakes = False
    struck = False


def _raise_in_main(_number: int, _frame: object) -> None:
    if _Main.struck:
        _take_back(threading.main_thread().ident or 0)
        raise Interrupted


def _strike(ident: int) -> None:
    """Raise ``Interrupted`` in that thread as soon as it runs Python code. The guard must be held."""
    _raise_in(ident, Interrupted)
    if _Main.wakes and ident == threading.main_thread().ident:
        _Main.struck = True
        signal.pthread_kill(ident, WAKE_SIGNAL)


def _take_back(ident: int) -> None:
    """Forget a strike that did not arrive yet."""
    _raise_in(ident, None)
    if ident == threading.main_thread().ident:
        _Main.struck = False


def _raise_in(ident: int, kind: type[BaseException] | None) -> None:
    import ctypes  # slow to load, and most runs never stop anything

    raised = ctypes.py_object(kind) if kind is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), raised)
