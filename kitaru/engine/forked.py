"""Processes that the user's code forks: one that comes out of that code records nothing, and ends."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress


def end_if_forked(process: int, error: BaseException | None = None) -> None:
    """Return in ``process``, which runs the execution. In one that was forked from it end at once, as by ``error``.

    It has the engine's memory and none of its threads: what it recorded would stand in its parent's journal.
    """
    if os.getpid() == process:
        return
    code = 0 if error is None else 1
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        with suppress(Exception):
            traceback.print_exception(error)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code & 0xFF)
