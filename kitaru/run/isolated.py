"""Checkpoints in a process of their own: started for one attempt, spoken to over a private pipe, ended when late.

The child imports the checkpoint from the same place, gets its arguments, and sends back its result or its
exception. Its output goes to the runtime logs of the call, and to the output of this process. Its notes (``log``,
``save``, ``load``) are carried out here, by the one process that writes the journal. It ends with this process: the
pipe closes then.
"""

from __future__ import annotations

import codecs
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from kitaru.errors import KitaruRuntimeError, KitaruUsageError
from kitaru.flows.loading import present
from kitaru.run.isolated_child import LEARN, MAIN_ALIAS, Failed, Note, Order, Parcel, receive, send
from kitaru.run.output import print_past
from kitaru.run.state import LOOK_SECONDS
from kitaru.run.user_code import ChildTraceback

if TYPE_CHECKING:
    from kitaru.run.call import Call

CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from kitaru.run.isolated_child import serve
serve(int(sys.argv[2]))
"""

GRACE_SECONDS = 1.0
"""The time of a child between SIGTERM and SIGKILL."""

ENDING_SECONDS = 5.0
"""How long a child has to end that has given its result."""

OUTPUT_SECONDS = 1.0
"""How long its output is waited for once it has ended: a process that it left behind may hold the pipe open."""


def run_isolated(call: Call, check: Callable[[], None]) -> Any:
    """The result of one attempt of a call, in a child process, which has ended when this returns or raises.

    Raises the checkpoint's error, the timeout's, or what ``check`` raises, some times a second, if the run goes no
    further.
    """
    order = _order(call)
    timeout = call.checkpoint.options.timeout
    deadline = None if timeout is None else time.monotonic() + timeout
    ours, process = _start()
    readers = [
        threading.Thread(target=_forward, args=(call, pipe, name), name=f"kitaru-{name}", daemon=True)
        for name, pipe in (("stdout", process.stdout), ("stderr", process.stderr))
    ]
    for reader in readers:
        reader.start()
    with ours:  # whose end the child hears, and ends at once
        try:
            return _converse(call, ours, process, order, deadline, check)
        finally:
            if process.poll() is None:
                _signal(process, signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE_SECONDS)
                _signal(process, signal.SIGKILL)  # what it started ends with it
                process.wait()
            for reader in readers:
                reader.join(OUTPUT_SECONDS)


def _order(call: Call) -> Order:
    """The call for another process. ``KitaruUsageError`` if that can't find the checkpoint."""
    checkpoint, func = call.checkpoint, call.checkpoint.func
    module = sys.modules.get(func.__module__)
    file = getattr(module, "__file__", None)
    main = func.__module__ == "__main__"
    found = next((key for key, value in vars(module).items() if value is checkpoint or value is func), None)
    if found is None or (main and not file):
        raise KitaruUsageError(
            f'checkpoint {checkpoint.name!r} with runtime="isolated" can\'t be imported by a process of its own',
            hint="Define it at the top of a module that is a file, not inside a function or a console.",
        )
    spec = getattr(module, "__spec__", None) if main else None
    if main:
        sys.modules.setdefault(MAIN_ALIAS, sys.modules["__main__"])  # what the child calls it
    subject = f"of checkpoint {call.name!r}"
    return Order(
        module=func.__module__,
        file=str(file) if file else None,
        name=found,
        spec=spec.name if spec is not None else None,
        path=list(sys.path),
        project=present(),
        argv=list(sys.argv),
        args=[Parcel.of(value, f"argument {number} {subject}") for number, value in enumerate(call.args, start=1)],
        kwargs={name: Parcel.of(value, f"argument {name} {subject}") for name, value in call.kwargs.items()},
        serializer=checkpoint.options.serializer,
    )


def _start() -> tuple[Connection, subprocess.Popen[bytes]]:
    ours, theirs = Pipe()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", CHILD, str(Path(__file__).parents[2]), str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    return ours, process


def _converse(
    call: Call,
    ours: Connection,
    process: subprocess.Popen[bytes],
    order: Order,
    deadline: float | None,
    check: Callable[[], None],
) -> Any:
    answer = None
    with suppress(ConnectionError):  # the child is gone, and with it what it would be told
        send(ours, order)
        while isinstance(answer := _next(call, ours, deadline, check), Note):
            send(ours, _answer(call, answer))
    with suppress(subprocess.TimeoutExpired):
        process.wait(ENDING_SECONDS)
    if isinstance(answer, Parcel):
        return answer.open(call.checkpoint.func.__module__)
    if isinstance(answer, Failed):
        error = answer.error()
        error.__cause__ = ChildTraceback(answer.traceback)
        raise error
    _signal(process, signal.SIGKILL)
    raise _died(call.name, process.wait())


def _next(call: Call, ours: Connection, deadline: float | None, check: Callable[[], None]) -> Any:
    """The next message; raises if the attempt's time is over, or the run goes no further."""
    while True:
        left = LOOK_SECONDS if deadline is None else min(LOOK_SECONDS, deadline - time.monotonic())
        if ours.poll(max(left, 0.0)):
            return receive(ours)
        check()
        if deadline is not None and time.monotonic() >= deadline:
            raise call.late(call.checkpoint.options.timeout or 0.0)


def _answer(call: Call, note: Note) -> Parcel | Failed:
    if note.verb == LEARN:
        # Before the child goes on: what it prints next may hold the value.
        if call.run.mask is not None:
            call.run.mask.learn(note.args[0].open())
        return Parcel.of(None, LEARN)
    try:
        given = [value.open(call.checkpoint.func.__module__) for value in note.args]
        return Parcel.of(getattr(call.scope, note.verb)(*given), f"the answer of {note.verb}()")
    except Exception as error:
        return Failed.of(error)


def _forward(call: Call, pipe: IO[bytes], name: str) -> None:
    """Pass the child's text on, to its call's output and to this process's own."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    output = call.output
    with pipe:
        while True:
            body = os.read(pipe.fileno(), 65536)
            text = decoder.decode(body, final=not body)
            if text:
                print_past(name, text)
                output.write(name, text)
            if not body:
                return


def _died(name: str, code: int) -> KitaruRuntimeError:
    subject = f"the process of checkpoint {name!r}"
    if code >= 0:
        return KitaruRuntimeError(
            f"{subject} ended with exit code {code}, without a result",
            hint="A checkpoint returns its result; it must not end its process.",
        )
    try:
        ended_by = signal.Signals(-code).name
    except ValueError:
        ended_by = f"signal {-code}"
    hint = "The system kills a process that takes too much memory." if ended_by == "SIGKILL" else ""
    return KitaruRuntimeError(f"{subject} was ended by {ended_by}", hint=hint)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to the process and its children."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
