"""The end of a process that ran one execution, and of what it started."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

GRACE_SECONDS = 1.0
"""So long what was started has to end by itself."""


def leave_with_children(code: int) -> NoReturn:
    """End this process at once, and all that it started, asked first, then killed: its execution goes no further here.

    What began a session of its own goes on. Where this process leads none, and so may share its group with others,
    or the system does not list its processes, only ``multiprocessing`` children end with it.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    end_workers()
    if os.getsid(0) == os.getpid():
        latest = time.monotonic() + GRACE_SECONDS
        others = _signalled(signal.SIGTERM)
        while others and time.monotonic() < latest:
            time.sleep(0.01)
            others = _others()
        if others:
            _signalled(signal.SIGKILL)
    os._exit(code)


def end_workers() -> None:
    """End ``multiprocessing`` children, for which Python would wait at its own end, for ever if need be."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is not None:
        for child in multiprocessing.active_children():
            child.kill()


def _signalled(number: int) -> list[int]:
    others = _others()
    for process in others:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)
    return others


def _others() -> list[int]:
    """The other processes of this one's group that have not ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _parent, group = (folder / "stat").read_bytes().rpartition(b")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(group) == os.getpgrp() and state != b"Z" and folder.name != str(os.getpid()):
            found.append(int(folder.name))
    return found
