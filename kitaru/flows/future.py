"""The value of a checkpoint that runs beside the flow body."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

from kitaru.errors import KitaruTimeoutError, KitaruUsageError
from kitaru.flows.scope import must_run_in

T = TypeVar("T")


class CheckpointFuture(Generic[T]):
    """The result of ``checkpoint.submit()``, once there is one.

    Pass it to another checkpoint as it is, ask for ``result()``, or ``await`` it.
    """

    def __init__(self, name: str, call: str) -> None:
        self.name = name
        self.call_id = call
        self._guard = threading.Lock()
        self._process = os.getpid()
        self._settled = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._waiting: threading.Event | None = None
        self._callbacks: list[Callable[[CheckpointFuture[T]], None]] = []
        self._observed = False
        self.refuses_wait: Callable[[], bool] | None = None
        """Whether to wait here and now would stop the very loop that makes the value."""
        self.group: FanOut | None = None
        """The calls that it was made with."""

    def __repr__(self) -> str:
        state = ("failed" if self._error else "done") if self._settled else "pending"
        return f"<CheckpointFuture {self.name} #{self.call_id} {state}>"

    def done(self) -> bool:
        """Whether it has a value or failed."""
        return self._settled

    def result(self, timeout: float | None = None) -> T:
        """The value, waiting for it up to ``timeout`` seconds; raises the checkpoint's error.

        ``KitaruTimeoutError`` if it takes longer; the checkpoint goes on.
        """
        self._wait(timeout)
        self._observed = True
        if self._error is not None:
            raise self._error
        value: T = self._value
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The checkpoint's error, or None; waits like ``result``."""
        self._wait(timeout)
        self._observed = True
        return self._error

    def __await__(self) -> Generator[Any, None, T]:
        yield from self.outcome().__await__()
        return self.result()

    # --- for the run that owns it -------------------------------------------------------------------------------------

    def settle(self, value: Any = None, error: BaseException | None = None) -> None:
        """Give it its value or its error, once."""
        with self._guard:
            self._value, self._error = value, error
            self._settled = True
            callbacks, self._callbacks = self._callbacks, []
            waiting = self._waiting
        if waiting is not None:
            waiting.set()
        for callback in callbacks:
            callback(self)

    def on_done(self, callback: Callable[[CheckpointFuture[T]], None]) -> None:
        """Call ``callback`` when it is settled, at once if it is; from whichever thread settles it."""
        with self._guard:
            if not self._settled:
                self._callbacks.append(callback)
                return
        callback(self)

    def settled(self, seconds: float | None = None) -> bool:
        """Wait for the outcome without asking for it, up to ``seconds``; whether there is one."""
        return self._settled or self._event().wait(seconds)

    async def outcome(self) -> None:
        """As ``settled``, while the event loop goes on."""
        if self._settled:
            return
        import asyncio  # slow to load; an awaiting flow has loaded it

        loop = asyncio.get_running_loop()
        waiter = loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        def settled(_: CheckpointFuture[T]) -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(wake)

        self.on_done(settled)
        await waiter

    @property
    def lost_error(self) -> BaseException | None:
        """The error of a failed call, unless the flow has asked for it."""
        return None if self._observed else self._error

    def _event(self) -> threading.Event:
        with self._guard:
            self._waiting = waiting = self._waiting or threading.Event()
            if self._settled:
                waiting.set()
        return waiting

    def _wait(self, timeout: float | None) -> None:
        if self._settled:
            return
        must_run_in(self._process, f"result() of checkpoint {self.name!r}")  # a fork has no thread to settle it
        if self.refuses_wait is not None and self.refuses_wait():
            raise KitaruUsageError(
                f"result() of async checkpoint {self.name!r} would block the event loop that runs it",
                hint="Write: value = await future",
            )
        if not self._event().wait(timeout):
            raise KitaruTimeoutError(
                f"checkpoint {self.name!r} (call {self.call_id}) has no result after {timeout} seconds",
                hint="It goes on; ask again, or without a timeout.",
            )


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """How one call went: its ``value``, or the ``error`` that it failed with."""

    value: T | None = None
    error: BaseException | None = None

    @property
    def ok(self) -> bool:
        """Whether it has a value."""
        return self.error is None


class FanOut:
    """Calls that were made together. ``failed``: why those that have not begun must not begin any more."""

    __slots__ = ("collects", "failed")

    def __init__(self, *, collects: bool) -> None:
        self.collects = collects
        self.failed: BaseException | None = None

    def check(self) -> None:
        """Raise the first failure, unless all of them are collected."""
        if self.failed is not None:
            raise self.failed

    def note(self, future: CheckpointFuture[Any]) -> None:
        """One call is settled."""
        if self.collects:
            future._observed = True  # its failure does not fail the flow by itself
        else:
            self.failed = self.failed or future._error


class CheckpointFutures(Sequence[CheckpointFuture[T]]):
    """The futures of ``map`` and ``product``, in the order of the arguments."""

    def __init__(self, futures: Sequence[CheckpointFuture[T]]) -> None:
        self._futures = tuple(futures)

    def results(self, timeout: float | None = None) -> list[T]:
        """All values, in order. Waits for every one, each up to ``timeout`` seconds, then raises the first error."""
        self.outcomes(timeout)
        return [future.result() for future in self._futures]

    def outcomes(self, timeout: float | None = None) -> list[Outcome[T]]:
        """How each call went, in order. Waits for every one, each up to ``timeout`` seconds."""
        errors = [future.exception(timeout) for future in self._futures]
        return [
            Outcome(error=error) if error is not None else Outcome(future.result())
            for error, future in zip(errors, self._futures, strict=True)
        ]

    def done(self) -> bool:
        """Whether every one has a value or failed."""
        return all(future.done() for future in self._futures)

    def __await__(self) -> Generator[Any, None, list[T]]:
        for future in self._futures:
            yield from future.outcome().__await__()
        return [future.result() for future in self._futures]

    def __len__(self) -> int:
        return len(self._futures)

    @overload
    def __getitem__(self, index: int) -> CheckpointFuture[T]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[CheckpointFuture[T]]: ...

    def __getitem__(self, index: int | slice) -> CheckpointFuture[T] | Sequence[CheckpointFuture[T]]:
        return self._futures[index]

    def __repr__(self) -> str:
        return f"<CheckpointFutures of {len(self)}>"


def futures_in(value: Any) -> list[CheckpointFuture[Any]]:
    """Every future in ``value``, also nested in lists, tuples and dicts."""
    kind = type(value)
    if kind is CheckpointFuture:
        return [value]
    if kind is CheckpointFutures:
        return list(value)
    if kind is dict:
        return [future for item in value.values() for future in futures_in(item)]
    if kind is list or kind is tuple:
        return [future for item in value for future in futures_in(item)]
    return []


def resolved(value: Any) -> Any:
    """``value`` with each future in it replaced by its result; the same object if there is none."""
    kind = type(value)
    if kind is CheckpointFuture:
        return value.result()
    if kind is CheckpointFutures:
        return [future.result() for future in value]
    if kind in (dict, list, tuple) and futures_in(value):
        if kind is dict:
            return {key: resolved(item) for key, item in value.items()}
        return kind(resolved(item) for item in value)
    return value
