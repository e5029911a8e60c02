"""Ending a process of this machine: the one that was meant, and never another that got its number."""

from __future__ import annotations

import os
import signal

from kitaru.ports import RunnerInfo
from kitaru.stacks.process_identity import process_alive


def end_process(runner: RunnerInfo, *, hard: bool) -> bool:
    """Send SIGTERM, or SIGKILL where ``hard``, to exactly that process; False where it is gone, or not of this machine.

    A stopped process takes SIGTERM only once it is continued, so it is continued, too.
    """
    if process_alive(runner) is not True or not runner.started:
        return False
    try:
        if hard and os.getsid(runner.pid) == runner.pid:
            os.killpg(runner.pid, signal.SIGKILL)  # a worker: what it started ends with it
            return True
        os.kill(runner.pid, signal.SIGKILL if hard else signal.SIGTERM)
        os.kill(runner.pid, signal.SIGCONT)
    except (ProcessLookupError, PermissionError):
        return False
    return True
