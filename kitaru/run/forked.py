"""Processes that the user's code forks: one that comes out of that code records nothing, and ends."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from kitaru.errors import KitaruContextError

T = TypeVar("T")


def run_here(func: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """``func(*args, **kwargs)``, the user's code. A process that was forked in it ends where it comes out of it:

    with status 0 where it returned, else as its exception says, which it prints.
    """
    with _Here():
        return func(*args, **kwargs)


async def await_here(func: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:
    """``await func(*args, **kwargs)``; otherwise as ``run_here``."""
    with _Here():
        return await func(*args, **kwargs)


class _Here:
    """A block that only the process which came to it leaves; one that was forked in it ends there."""

    __slots__ = ("_process",)

    def __enter__(self) -> None:
        self._process = os.getpid()

    def __exit__(self, _kind: object, error: BaseException | None, _where: object) -> None:
        if os.getpid() != self._process:
            _end(error)


def end_if_forked(process: int) -> None:
    """Return in ``process``, which runs the execution; a forked one that came as far as its journal ends at once.

    It has the engine's memory and none of its threads: what it recorded would stand in its parent's journal.
    """
    if os.getpid() != process:
        _end(KitaruContextError("a process that was forked from the one that runs an execution records nothing"))


def _end(error: BaseException | None) -> None:
    """End this process, without a word to what its parent has open."""
    code = 0 if error is None else 1
    with suppress(Exception):
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            if error.code is not None and not isinstance(error.code, int):
                print(error.code, file=sys.stderr)
        elif error is not None:
            where = error.__traceback__.tb_next if error.__traceback__ is not None else None  # without this module
            traceback.print_exception(error.with_traceback(where))
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code & 0xFF)
