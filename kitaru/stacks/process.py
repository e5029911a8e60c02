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

from kitaru.stacks.port import Handle

UNKNOWN = "-"
GONE = "X"
STOPPED_STATES = frozenset("Tt")
DEAD_STATES = frozenset("ZXx")
"""Kernel states of a process that has ended: zombie, or being taken apart."""

KILL_SECONDS = 2.0
"""Between SIGTERM and SIGKILL."""


def process_handle(pid: int) -> Handle:
    """The handle of a running process of this machine, the same for every caller."""
    host, started = this_host(), _kernel_record(pid)[1]
    token = hashlib.sha256(f"{host}\n{pid}\n{started}".encode()).hexdigest()[:16]
    shown = f"process {pid} on {host.split()[0]}"
    return Handle(f"local-{token}", shown, {"host": host, "pid": pid, "started": started})


def process_alive(handle: Handle) -> bool | None:
    """Whether exactly that process still runs: a reused pid, a zombie and a reboot all count as ended.

    None for a process of another machine or container, which is not visible from here.
    """
    host, here = str(handle.data.get("host", UNKNOWN)), this_host()
    if host != here:
        return False if _rebooted(host, here) else None
    state, started = _kernel_record(handle.data["pid"])
    return state not in DEAD_STATES and handle.data["started"] in ("", started)


def process_at_work(handle: Handle) -> bool | None:
    """As ``process_alive``, but None for a stopped process (SIGSTOP, Ctrl-Z): it may never go on."""
    alive = process_alive(handle)
    return None if alive and _kernel_record(handle.data["pid"])[0] in STOPPED_STATES else alive


def end_process(handle: Handle) -> None:
    """Send SIGTERM to exactly that process, and SIGKILL after ``KILL_SECONDS``: to all of its session, if it leads one.

    It also gets SIGCONT, as a stopped process takes SIGTERM only once it is continued.
    """
    pid, deadline = handle.data.get("pid", 0), time.monotonic() + KILL_SECONDS
    with suppress(ProcessLookupError, PermissionError):
        if process_alive(handle) is not True or not handle.data["started"]:
            return
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGCONT)
        while process_alive(handle):
            if time.monotonic() < deadline:
                time.sleep(0.1)
            elif os.getsid(pid) == pid:
                os.killpg(pid, signal.SIGKILL)  # a worker: its children end with it
                return
            else:
                os.kill(pid, signal.SIGKILL)
                return


def this_host() -> str:
    """``name machine boot namespace``: hostname, keyed digests of the ids of machine and boot, pid namespace.

    ``-`` for each that the system lacks. Two containers of one machine share the boot id, not the namespace.
    """
    name, namespace = os.uname().nodename.replace(" ", "_") or UNKNOWN, UNKNOWN
    with suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return f"{name} {_keyed(_read('/etc/machine-id'))} {_keyed(_boot_id())} {namespace}"


def _keyed(identity: str) -> str:
    """A keyed digest of ``identity``, as other software may use the id as a secret."""
    if identity == UNKNOWN:
        return identity
    return hashlib.sha256(f"kitaru host\n{identity}".encode()).hexdigest()[:16]


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
        _signal_others(signal.SIGTERM)
        while _others() and time.monotonic() < latest:
            time.sleep(0.01)
        _signal_others(signal.SIGKILL)
    os._exit(code)


def end_workers() -> None:
    """Kill ``multiprocessing`` children, as Python would wait for them without limit at its own end."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is not None:
        for child in multiprocessing.active_children():
            child.kill()


def _signal_others(number: int) -> None:
    for process in _others():
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)


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
