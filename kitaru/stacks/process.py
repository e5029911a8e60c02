"""Identifies and ends processes of this machine, never another process with a reused pid."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from kitaru.model.jsonable import RunnerRecord


def end_process(runner: RunnerRecord, *, hard: bool) -> bool:
    """Send SIGTERM, or SIGKILL if ``hard``, to exactly that process; False if it is gone, or not of this machine.

    It also gets SIGCONT, as a stopped process takes SIGTERM only once it is continued.
    """
    if process_alive(runner) is not True or not runner.started:
        return False
    try:
        if hard and os.getsid(runner.pid) == runner.pid:
            os.killpg(runner.pid, signal.SIGKILL)  # a worker: its children end with it
            return True
        os.kill(runner.pid, signal.SIGKILL if hard else signal.SIGTERM)
        os.kill(runner.pid, signal.SIGCONT)
    except (ProcessLookupError, PermissionError):
        return False
    return True


UNKNOWN = "-"
GONE = "X"
STOPPED_STATES = frozenset("Tt")
DEAD_STATES = frozenset("ZXx")
"""Kernel states of a process that has ended: zombie, or being taken apart."""


def describe_process(pid: int) -> RunnerRecord:
    """The identity of a running process of this machine, the same for every caller."""
    host, started = this_host(), _kernel_record(pid)[1]
    token = hashlib.sha256(f"{host}\n{pid}\n{started}".encode()).hexdigest()[:16]
    return RunnerRecord(runner_id=f"local-{token}", host=host, pid=pid, started=started)


def process_alive(runner: RunnerRecord) -> bool | None:
    """Whether exactly that process still runs: a reused pid, a zombie and a reboot all count as ended.

    None for a process of another machine or container, which is not visible from here.
    """
    here = this_host()
    if runner.host != here:
        return False if _rebooted(runner.host, here) else None
    started = start_time(runner.pid)
    if started is None:
        return False
    return not runner.started or started == runner.started


def process_at_work(runner: RunnerRecord) -> bool | None:
    """As ``process_alive``, but None for a stopped process (SIGSTOP, Ctrl-Z): it may never go on."""
    alive = process_alive(runner)
    return None if alive and _kernel_record(runner.pid)[0] in STOPPED_STATES else alive


def this_host() -> str:
    """``name machine boot namespace``: hostname, keyed digests of the ids of machine and boot, pid namespace.

    ``-`` for each that the system lacks. Two containers of one machine share the boot id, not the namespace.
    """
    name = os.uname().nodename.replace(" ", "_") or UNKNOWN
    return f"{name} {_keyed(_read('/etc/machine-id'))} {_keyed(_boot_id())} {_pid_namespace()}"


def _keyed(identity: str) -> str:
    """A keyed digest of ``identity``, as other software may use the id as a secret."""
    if identity == UNKNOWN:
        return identity
    return hashlib.sha256(f"kitaru host\n{identity}".encode()).hexdigest()[:16]


def start_time(pid: int) -> str | None:
    """The start of the process as the kernel gives it; None if no such process runs (a zombie does not run)."""
    state, started = _kernel_record(pid)
    return None if state in DEAD_STATES else started


def _kernel_record(pid: int) -> tuple[str, str]:
    """State and start of a process: ``("S", "8412345")``; ``("X", "")`` if it is gone."""
    if sys.platform != "linux":
        state, _, started = _ask("ps", "-o", "state=,lstart=", "-p", str(pid)).partition(" ")
        return state[:1] or GONE, started.strip()
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return GONE, ""
    # The second field is the command's name in parentheses, which may itself hold blanks and parentheses.
    fields = stat.rpartition(")")[2].split()
    return fields[0], fields[19]


def _rebooted(then: str, now: str) -> bool:
    """Whether host ``then`` is this machine before its last start. Needs a machine id, as names repeat."""
    before, after = then.split(" "), now.split(" ")
    return len(before) == len(after) and before[1] != UNKNOWN and before[:2] == after[:2] and before[2] != after[2]


def _boot_id() -> str:
    if sys.platform == "linux":
        return _read("/proc/sys/kernel/random/boot_id")
    return _ask("sysctl", "-n", "kern.bootsessionuuid") or UNKNOWN


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return UNKNOWN


def _ask(*command: str) -> str:
    import subprocess  # Only where there is no /proc; the worker's start on Linux does without it.

    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, env={**os.environ, "LC_ALL": "C"})
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip()


def _read(path: str) -> str:
    try:
        return Path(path).read_text("ascii").strip() or UNKNOWN
    except (OSError, UnicodeDecodeError):
        return UNKNOWN


GRACE_SECONDS = 1.0
"""The time that children have to end by themselves."""


def leave_with_children(code: int) -> NoReturn:
    """End this process and its group: SIGTERM, then SIGKILL after ``GRACE_SECONDS``.

    Children with a session of their own go on. If this process leads no session, and so may share its group with
    others, or the system has no ``/proc``, only ``multiprocessing`` children end with it.
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
    """Kill ``multiprocessing`` children, as Python would wait for them without limit at its own end."""
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
