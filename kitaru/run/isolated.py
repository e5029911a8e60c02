"""Checkpoints in a process of their own: started for one attempt, spoken to over a private socket, ended when late.

The child imports the checkpoint from the same place, gets its arguments, and sends back its result or its
exception. Its output goes to the runtime logs of the call, and to the output of this process. Its notes (``log``,
``save``, ``load``) are carried out here, by the one process that writes the journal. It ends with this process: the
socket closes then.
"""

from __future__ import annotations

import codecs
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from kitaru.errors import KitaruRuntimeError, KitaruUsageError, KitaruUserCodeError
from kitaru.flows.checkpoint import Checkpoint
from kitaru.flows.finder import present
from kitaru.run.failures import ChildTraceback
from kitaru.run.journal import Stopped
from kitaru.run.output import print_past
from kitaru.run.state import LOOK_SECONDS
from kitaru.run.wire import LEARN, MAIN_ALIAS, Failed, Note, Order, Place, Returned, pack, receive, send, unpack

if TYPE_CHECKING:
    from kitaru.run.call import Call

CHILD = "kitaru.run.isolated_child"
GRACE_SECONDS = 1.0
"""The time of a child between SIGTERM and SIGKILL."""

ENDING_SECONDS = 5.0
"""How long a child has to end that has given its result."""

OUTPUT_SECONDS = 1.0
"""How long its output is waited for once it has ended: a process that it left behind may hold the pipe open."""


class IsolatedAttempt:
    """One attempt of a call, in a child process."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._cancelled = False
        self._readers: list[threading.Thread] = []

    def run(self) -> Any:
        """The result. Raises the checkpoint's error, the timeout's, or the reason for which the run goes no further.

        When it returns or raises, the child has ended.
        """
        order = self._order()
        timeout = self._call.checkpoint.options.timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        ours, process = self._start(order.path)
        with ours:  # which the child hears, and ends at once
            try:
                return self._converse(ours, process, order, deadline)
            finally:
                if process.poll() is None:
                    _signal(process, signal.SIGTERM)
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(GRACE_SECONDS)
                    _signal(process, signal.SIGKILL)  # what it started ends with it
                    process.wait()
                for reader in self._readers:
                    reader.join(OUTPUT_SECONDS)

    def stop(self) -> None:
        """Make ``run`` end soon. For any thread; does not block."""
        self._cancelled = True

    # --- the process --------------------------------------------------------------------------------------------------

    def _start(self, path: list[str]) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair()
        package = str(Path(__file__).resolve().parents[2])
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([package, *path])}
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", CHILD, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                env=environ,
                start_new_session=True,
            )
        return ours, process

    def _converse(
        self, ours: socket.socket, process: subprocess.Popen[bytes], order: Order, deadline: float | None
    ) -> Any:
        assert process.stdout is not None and process.stderr is not None
        for pipe, name in ((process.stdout, "stdout"), (process.stderr, "stderr")):
            reader = threading.Thread(target=self._forward, args=(pipe, name), name=f"kitaru-{name}", daemon=True)
            reader.start()
            self._readers.append(reader)
        answer = None
        with suppress(ConnectionError):  # the child is gone, and with it what it would be told
            send(ours, order)
            while isinstance(answer := self._receive(ours, deadline), Note):
                send(ours, self._carry_out(answer))
        with suppress(subprocess.TimeoutExpired):
            process.wait(ENDING_SECONDS)
        if isinstance(answer, Returned):
            return unpack(answer.result, self._call.checkpoint.func.__module__)
        if isinstance(answer, Failed):
            raise _raised(answer)
        _signal(process, signal.SIGKILL)
        raise self._died(process.wait())

    def _receive(self, ours: socket.socket, deadline: float | None) -> Any:
        """The next message; raises if the attempt's time is over, or the run goes no further."""
        call = self._call
        while True:
            left = LOOK_SECONDS if deadline is None else min(LOOK_SECONDS, deadline - time.monotonic())
            if select.select([ours], [], [], max(left, 0.0))[0]:
                return receive(ours)
            if self._cancelled:
                raise Stopped
            call.run.must_go_on()
            if deadline is not None and time.monotonic() >= deadline:
                raise call.late(call.checkpoint.options.timeout or 0.0)

    def _forward(self, pipe: IO[bytes], name: str) -> None:
        """Pass the child's text on, to its call's output and to this process's own."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        output = self._call.output
        with pipe:
            while True:
                body = os.read(pipe.fileno(), 65536)
                text = decoder.decode(body, final=not body)
                if text:
                    print_past(name, text)
                    if output is not None:
                        output.write(name, text)
                if not body:
                    return

    def _died(self, code: int) -> KitaruRuntimeError:
        if code >= 0:
            return KitaruRuntimeError(
                f"the process of checkpoint {self._call.name!r} ended with exit code {code}, without a result",
                hint="A checkpoint returns its result; it must not end its process.",
            )
        with suppress(ValueError):
            name = signal.Signals(-code).name
            hint = "The system kills a process that takes too much memory." if name == "SIGKILL" else ""
            return KitaruRuntimeError(f"the process of checkpoint {self._call.name!r} was ended by {name}", hint=hint)
        return KitaruRuntimeError(f"the process of checkpoint {self._call.name!r} was ended by signal {-code}")

    # --- what is said -------------------------------------------------------------------------------------------------

    def _order(self) -> Order:
        call = self._call
        subject = f"of checkpoint {call.name!r}"
        return Order(
            place=place_of(call.checkpoint),
            path=[*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))],
            sys_path=list(sys.path),
            project=present(),
            argv=list(sys.argv),
            args=[pack(value, f"argument {number} {subject}") for number, value in enumerate(call.args, start=1)],
            kwargs={name: pack(value, f"argument {name} {subject}") for name, value in call.kwargs.items()},
            serializer=call.checkpoint.options.serializer,
        )

    def _carry_out(self, note: Note) -> Returned | Failed:
        scope: Any = self._call.scope
        if note.verb == LEARN:
            # Before the child goes on: what it prints next may hold the value.
            if self._call.run.mask is not None:
                self._call.run.mask.learn(unpack(note.args[0], ""))
            return Returned(pack(None, LEARN))
        try:
            given = [unpack(value, self._call.checkpoint.func.__module__) for value in note.args]
            return Returned(pack(getattr(scope, note.verb)(*given), f"the answer of {note.verb}()"))
        except Exception as error:
            return Failed.of(error)


def place_of(checkpoint: Checkpoint[..., Any]) -> Place:
    """The place in which another process finds the checkpoint. ``KitaruUsageError`` if there is none."""
    func = checkpoint.func
    module = sys.modules.get(func.__module__)
    file = getattr(module, "__file__", None)
    main = func.__module__ == "__main__"
    name = next((key for key, value in vars(module).items() if value is checkpoint or value is func), None)
    if name is None or (main and not file):
        raise KitaruUsageError(
            f'checkpoint {checkpoint.name!r} with runtime="isolated" can\'t be imported by a process of its own',
            hint="Define it at the top of a module that is a file, not inside a function or a console.",
        )
    spec = getattr(module, "__spec__", None) if main else None
    if main:
        sys.modules.setdefault(MAIN_ALIAS, sys.modules["__main__"])  # what the child calls it
    return Place(func.__module__, str(file) if file else None, name, spec.name if spec is not None else None)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to the process and its children."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _raised(failed: Failed) -> BaseException:
    error: BaseException | None = None
    if failed.pickled is not None:
        with suppress(Exception):  # its class may not be here, or not be what it was
            error = pickle.loads(failed.pickled)
    if error is None:
        error = KitaruUserCodeError(f"{failed.type}: {failed.message}", failure_origin="user_code")
    error.__cause__ = ChildTraceback(failed.traceback)
    return error
