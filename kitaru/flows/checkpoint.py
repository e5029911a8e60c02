"""``@checkpoint``: one durable call inside a flow."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Literal, ParamSpec, TypeVar, overload

from kitaru.errors import KitaruUsageError
from kitaru.flows.future import CheckpointFuture, CheckpointFutures
from kitaru.flows.options import Cache, Decorated, Retry, check, check_function, checked
from kitaru.flows.scope import require_scope

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
OnError = Literal["fail", "collect"]


class Checkpoint(Decorated[P, R]):
    """A function whose result, once it has one, is recorded and never computed again in that execution."""

    kind = "checkpoint"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it here, in the flow body, and return its value; recorded results are returned without running it.

        Raises the function's own error, once its retries are used up. ``KitaruContextError`` outside a flow, and
        inside another checkpoint.
        """
        result: R = require_scope(self.name).call(self, args, kwargs)
        return result

    @overload
    def submit(
        self: Checkpoint[..., Coroutine[Any, Any, T]], *args: Any, after: Any = None, **kwargs: Any
    ) -> CheckpointFuture[T]: ...

    @overload
    def submit(self, *args: Any, after: Any = None, **kwargs: Any) -> CheckpointFuture[R]: ...

    def submit(self, *args: Any, after: Any = None, **kwargs: Any) -> CheckpointFuture[Any]:
        """Start it beside the flow body. Futures among the arguments, and in ``after``, are waited for first."""
        return require_scope(self.name).submit(self, args, kwargs, after)

    @overload
    def map(
        self: Checkpoint[..., Coroutine[Any, Any, T]],
        *iterables: Iterable[Any],
        max_concurrency: int | None = None,
        on_error: OnError = "fail",
        after: Any = None,
        **constants: Any,
    ) -> CheckpointFutures[T]: ...

    @overload
    def map(
        self,
        *iterables: Iterable[Any],
        max_concurrency: int | None = None,
        on_error: OnError = "fail",
        after: Any = None,
        **constants: Any,
    ) -> CheckpointFutures[R]: ...

    def map(
        self,
        *iterables: Iterable[Any],
        max_concurrency: int | None = None,
        on_error: OnError = "fail",
        after: Any = None,
        **constants: Any,
    ) -> CheckpointFutures[Any]:
        """One call for each element (zipped, equal lengths), with ``constants`` the same in all of them.

        ``on_error``: with ``fail`` the first call that fails keeps those that have not begun from beginning; with
        ``collect`` all of them run, and ``outcomes()`` tells which failed.
        """
        if not iterables:
            raise KitaruUsageError(f"{self.name}.map() needs something to map over", hint=f"{self.name}.map([1, 2, 3])")
        try:
            calls = list(zip(*map(list, iterables), strict=True))
        except ValueError:
            raise KitaruUsageError(
                f"{self.name}.map() was given iterables of different lengths",
                hint="For all combinations use .product().",
            ) from None
        return self._fan_out(calls, constants, after, max_concurrency, on_error)

    @overload
    def product(
        self: Checkpoint[..., Coroutine[Any, Any, T]],
        *iterables: Iterable[Any],
        max_concurrency: int | None = None,
        on_error: OnError = "fail",
        after: Any = None,
        **constants: Any,
    ) -> CheckpointFutures[T]: ...

    @overload
    def product(
        self,
        *iterables: Iterable[Any],
        max_concurrency: int | None = None,
        on_error: OnError = "fail",
        after: Any = None,
        **constants: Any,
    ) -> CheckpointFutures[R]: ...

    def product(
        self,
        *iterables: Iterable[Any],
        max_concurrency: int | None = None,
        on_error: OnError = "fail",
        after: Any = None,
        **constants: Any,
    ) -> CheckpointFutures[Any]:
        """One call for each combination of elements, the last iterable varying fastest. ``on_error`` as in ``map``."""
        return self._fan_out(itertools.product(*iterables), constants, after, max_concurrency, on_error)

    def _fan_out(
        self,
        calls: Iterable[tuple[Any, ...]],
        constants: dict[str, Any],
        after: Any,
        limit: int | None,
        on_error: OnError,
    ) -> CheckpointFutures[Any]:
        check(self.name, max_concurrency=limit, on_error=on_error)
        return require_scope(self.name).fan_out(self, calls, constants, after, limit, on_error == "collect")


@overload
def checkpoint(func: Callable[P, R], /) -> Checkpoint[P, R]: ...


@overload
def checkpoint(
    *,
    retries: int | Retry = 0,
    cache: bool | Cache | None = None,
    type: str | None = None,
    runtime: str | None = None,
    timeout: float | None = None,
    serializer: str | None = None,
) -> Callable[[Callable[P, R]], Checkpoint[P, R]]: ...


def checkpoint(
    func: Callable[..., Any] | None = None,
    /,
    *,
    retries: int | Retry = 0,
    cache: bool | Cache | None = None,
    type: str | None = None,
    runtime: str | None = None,
    timeout: float | None = None,
    serializer: str | None = None,
) -> Any:
    """Make a function a checkpoint: ``@checkpoint``, or ``@checkpoint(retries=2)`` for up to two further attempts.

    ``retries`` is a number, or ``Retry(attempts=3, backoff=1)``. ``timeout``: seconds after which an attempt is stopped
    and counts as failed. ``runtime="isolated"`` runs each attempt in a process of its own. ``cache=False``: the result
    of an earlier execution is never taken instead.
    ``serializer="pickle"`` stores results by pickle, for types that have no other form; only for stores that you trust.
    """

    def decorate(func: Callable[..., Any]) -> Checkpoint[..., Any]:
        owner = f"checkpoint {getattr(func, '__name__', '?')!r}"
        options = checked(
            owner, retries=retries, cache=cache, type=type, runtime=runtime, serializer=serializer, timeout=timeout
        )
        return Checkpoint(check_function(func, "@checkpoint"), options)

    return decorate if func is None else decorate(func)
