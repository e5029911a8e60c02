"""Processes that the user's code forks: one that returns out of that code ends, and records nothing."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def run_here(func: Callable[..., T], /, *args: object, **kwargs: object) -> T:
    """``func(*args, **kwargs)``, the user's code. A process that was forked in it ends on its way out:

    with status 0 if it returned, else as its exception says, which it prints.
    """
    process = os.getpid()
    try:
        return func(*args, **kwargs)
    finally:
        if os.getpid() != process:
            _end(sys.exc_info()[1])


async def await_here(func: Callable[..., Awaitable[T]], /, *args: object, **kwargs: object) -> T:
    """``await func(*args, **kwargs)``; otherwise as ``run_here``."""
    process = os.getpid()
    try:
        return await func(*args, **kwargs)
    finally:
        if os.getpid() != process:
            _end(sys.exc_info()[1])


def _end(error: BaseException | None) -> None:
    """End this process, and leave its parent's files and sockets alone."""
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
