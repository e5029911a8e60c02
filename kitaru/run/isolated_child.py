"""The child process of an isolated checkpoint: it imports the checkpoint, calls it once, and says how that went."""

from __future__ import annotations

import importlib
import importlib.util
import os
import queue
import runpy
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from kitaru.errors import KitaruRuntimeError
from kitaru.flows.checkpoint import Checkpoint
from kitaru.flows.finder import take_over_process
from kitaru.flows.scope import InCheckpoint, scope
from kitaru.run.forked import await_here, run_here
from kitaru.run.wire import LEARN, MAIN_ALIAS, Failed, Note, Order, Place, Returned, pack, receive, send, unpack

DIE_WITH_PARENT = 1
"""Linux: ``PR_SET_PDEATHSIG``."""

LEARN_SECONDS = 1.0
"""How long another question to the parent is waited for before one about a variable is left out."""


def serve(descriptor: int) -> None:
    """Carry out the order that comes over the socket, and leave its outcome there."""
    os.set_inheritable(descriptor, False)
    _die_with_parent()
    link = socket.socket(fileno=descriptor)
    order = receive(link)
    if not isinstance(order, Order):
        return
    line = _Line(link)
    try:
        answer: Returned | Failed = Returned(_outcome(order, line))
    except SystemExit as error:
        answer = Failed.of(SystemExit(error.code))  # whatever its class: a signal of the other process is no such thing
    except BaseException as error:
        answer = Failed.of(error)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    line.say(answer)


def _outcome(order: Order, line: _Line) -> Any:
    _arrange(order)
    sys.addaudithook(_Variables(line).hear)
    func = _find(order.place)
    args = [unpack(value, func.__module__) for value in order.args]
    kwargs = {name: unpack(value, func.__module__) for name, value in order.kwargs.items()}
    scope.set(_ChildScope(order.place.name, line))
    result = run_here(func, *args, **kwargs)
    if hasattr(result, "__await__"):
        import asyncio  # slow to load; only async checkpoints need it

        result = asyncio.run(await_here(lambda: result))
    return pack(result, f"the result of checkpoint {order.place.name!r}", order.serializer)


def _arrange(order: Order) -> None:
    """The same arguments, import path and environment as in the process that asked."""
    sys.argv[:] = order.argv
    sys.path[:] = order.sys_path
    if order.project:
        root, *places = map(Path, order.project)
        take_over_process(root, places)
    if order.path:
        os.environ["PYTHONPATH"] = os.pathsep.join(order.path)
    else:
        os.environ.pop("PYTHONPATH", None)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)


def _find(place: Place) -> Any:
    module = _main(place) if place.module == "__main__" else _module(place)
    found = getattr(module, place.name)
    return found.func if isinstance(found, Checkpoint) else found


def _main(place: Place) -> ModuleType:
    """The script, run under another name, so that its part as a program is left out."""
    module = ModuleType(MAIN_ALIAS)
    sys.modules[MAIN_ALIAS] = sys.modules["__main__"] = module
    if place.spec is not None:
        space = runpy.run_module(place.spec, run_name=MAIN_ALIAS, alter_sys=False)
    else:
        space = runpy.run_path(str(place.file), run_name=MAIN_ALIAS)
    vars(module).update(space)
    sys.modules[MAIN_ALIAS] = sys.modules["__main__"] = module
    return module


def _module(place: Place) -> ModuleType:
    """As imported there: by name, or from the same file if that name leads elsewhere."""
    try:
        module = importlib.import_module(place.module)
        if place.file is None or (module.__file__ and Path(module.__file__).samefile(place.file)):
            return module
    except ModuleNotFoundError:
        if place.file is None:
            raise
    spec = importlib.util.spec_from_file_location(place.module, str(place.file))
    if spec is None or spec.loader is None:
        raise KitaruRuntimeError(f"{place.file} can't be imported as {place.module}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[place.module] = module
    spec.loader.exec_module(module)
    return module


class _Line:
    """The socket: messages are whole, answers come in order, and its end is the end of this process."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._asking = threading.Lock()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="kitaru-parent", daemon=True).start()

    def say(self, message: Any) -> None:
        send(self._link, message)

    def ask(self, note: Note, within: float = -1) -> Any:
        """The answer; None if another question is under way for longer than ``within`` seconds."""
        if not self._asking.acquire(timeout=within):
            return None
        try:
            self.say(note)
            return self._answers.get()
        finally:
            self._asking.release()

    def _listen(self) -> None:
        while (answer := receive(self._link)) is not None:
            self._answers.put(answer)
        os.killpg(0, signal.SIGKILL)  # whatever it started ends, too


class _Variables:
    """Tells the parent of every variable that is set here, before it is: its value may be printed a moment later."""

    def __init__(self, line: _Line) -> None:
        self._line = line
        self._process = os.getpid()

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        """An audit hook. A process that was forked from here has no parent to tell."""
        if event == "os.putenv" and os.getpid() == self._process:
            name, value = map(os.fsdecode, args)
            with suppress(OSError):  # the parent is gone, and this process follows it
                # Not for ever: a signal's handler may set one in the middle of a question.
                self._line.ask(Note(LEARN, [pack({name: value}, name)]), LEARN_SECONDS)


class _ChildScope(InCheckpoint):
    """The scope of the checkpoint's body: the process that writes the journal takes its notes."""

    def __init__(self, name: str, line: _Line) -> None:
        self.name = name
        self.process = os.getpid()
        self._line = line

    def log(self, metadata: dict[str, Any]) -> None:
        self._ask("log", metadata)

    def save(self, name: str, value: Any, kind: str, tags: Sequence[str], serializer: str | None = None) -> Any:
        return self._ask("save", name, value, kind, tuple(tags), serializer)

    def load(self, exec_id: str, name: str) -> Any:
        return self._ask("load", exec_id, name)

    def _ask(self, verb: str, *values: Any) -> Any:
        answer = self._line.ask(Note(verb, [pack(value, f"an argument of {verb}()") for value in values]))
        if isinstance(answer, Failed):
            error = _restored(answer)
            raise error
        return unpack(answer.result, "")


def _restored(failed: Failed) -> BaseException:
    import pickle  # of our own parent, and only for an error

    if failed.pickled is not None:
        error = pickle.loads(failed.pickled)
        if isinstance(error, BaseException):
            return error
    return KitaruRuntimeError(f"{failed.type}: {failed.message}")


def _die_with_parent() -> None:
    """On Linux also if this process can't listen: stuck in C code that holds the interpreter."""
    if sys.platform == "linux":
        import ctypes  # only here

        ctypes.CDLL(None, use_errno=True).prctl(DIE_WITH_PARENT, signal.SIGKILL)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
