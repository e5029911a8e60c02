"""The options of decorators, checked at decoration."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kitaru.errors import KitaruUsageError
from kitaru.flows.retry import Retry


@dataclass(frozen=True, slots=True)
class FlowOptions:
    """Defaults of a flow; None leaves one open. ``image`` is a base image's name, a mapping, or ``ImageSettings``."""

    retries: int | Retry = 0
    cache: bool | None = None
    stack: str | None = None
    image: Any = None
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Cache:
    """``@checkpoint(cache=Cache(version="2"))``: results are reused until ``version`` changes, whatever the source is.

    ``KitaruUsageError`` for a version that is no text, or an empty one.
    """

    version: str

    def __post_init__(self) -> None:
        if not isinstance(self.version, str) or not self.version:
            raise KitaruUsageError(
                f"version of Cache() must be a text, not {self.version!r}",
                hint='Cache(version="2"): change it whenever the function, or code that it calls, gives other results.',
            )


@dataclass(frozen=True, slots=True)
class CheckpointOptions:
    """``retries``: further attempts after the first, or a policy. ``cache``: None leaves it to the flow. ``type``: a
    word for people. ``runtime``: None, ``inline`` or ``isolated``. ``timeout``: seconds for each attempt.
    ``serializer``: None or ``pickle``.
    """

    retries: int | Retry = 0
    cache: bool | Cache | None = None
    type: str | None = None
    runtime: str | None = None
    serializer: str | None = None
    timeout: float | None = None


def check_retries(retries: Any, owner: str) -> int | Retry:
    """``retries`` if it is a whole number from 0 or a policy; else ``KitaruUsageError``.

    ``owner``: ``flow research``.
    """
    if isinstance(retries, Retry):
        return retries
    if not isinstance(retries, int) or isinstance(retries, bool):
        raise KitaruUsageError(
            f"retries of {owner} must be a whole number, not {retries!r}",
            hint="retries=2 means up to two further attempts; retries=Retry(attempts=3, backoff=1) waits between them.",
        )
    if retries < 0:
        raise KitaruUsageError(
            f"retries of {owner} must not be negative, not {retries}", hint="retries=0 means: no retry."
        )
    return retries


def check_cache(cache: Any, owner: str) -> bool | None:
    """``cache`` if it is True, False or None; else ``KitaruUsageError``."""
    if cache is not None and not isinstance(cache, bool):
        raise KitaruUsageError(f"cache of {owner} must be True or False, not {cache!r}")
    return cache


def check_timeout(timeout: Any, owner: str) -> float | None:
    """``timeout`` in seconds if it is a positive number or None; else ``KitaruUsageError``."""
    if timeout is None:
        return None
    number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if not number or not 0 < timeout < float("inf"):
        raise KitaruUsageError(
            f"timeout of {owner} must be a number of seconds above 0, not {timeout!r}",
            hint="timeout=30 stops an attempt that takes longer than 30 seconds.",
        )
    return float(timeout)


def check_runtime(runtime: Any, owner: str) -> str | None:
    """``inline``, ``isolated`` or None; else ``KitaruUsageError``."""
    return _check_word("runtime", runtime, ("inline", "isolated"), owner)


def check_serializer(serializer: Any, owner: str) -> str | None:
    """``pickle`` or None; else ``KitaruUsageError``."""
    return _check_word("serializer", serializer, ("pickle",), owner)


def _check_word(option: str, value: Any, words: tuple[str, ...], owner: str) -> str | None:
    if value is not None and value not in words:
        known = " or ".join(f'"{word}"' for word in words)
        raise KitaruUsageError(f"{option} of {owner} must be {known} or left out, not {value!r}")
    return value  # type: ignore[no-any-return]


def check_function(func: Any, decorator: str) -> Callable[..., Any]:
    """``func`` if it can be decorated: a named function or coroutine function that returns rather than yields."""
    if not inspect.isfunction(func):
        raise KitaruUsageError(
            f"{decorator} decorates a function, not {func!r:.80}",
            hint=f"@staticmethod goes above {decorator}."
            if isinstance(func, (staticmethod, classmethod))
            else f"{decorator} goes above def or async def.",
        )
    if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
        raise KitaruUsageError(
            f"{decorator} {func.__name__!r} is a generator, whose position can't be recorded",
            hint="Return a list instead.",
        )
    if not func.__name__.isidentifier():
        raise KitaruUsageError(f"{decorator} needs a function with a name, not a lambda", hint="Write it with def.")
    return func
