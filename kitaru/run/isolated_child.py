"""The child process of an isolated checkpoint, and the messages between it and the run.

It imports the checkpoint, calls it once, and says how that went, over a private pipe.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import queue
import runpy
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from kitaru.errors import KitaruRuntimeError, KitaruUserCodeError, KitaruValueError
from kitaru.flows.checkpoint import Checkpoint
from kitaru.flows.loading import take_over_process
from kitaru.flows.scope import InCheckpoint, scope
from kitaru.model.event import Value
from kitaru.run.user_code import await_here, failure_of, run_here
from kitaru.values.stored import decode, encode
from kitaru.values.typed_json import type_name

MAIN_ALIAS = "__kitaru_main__"
"""The name under which the child runs a script, so that ``if __name__ == "__main__"`` does not."""

LEARN = "learn"
"""The verb of a note that tells of a variable that the child sets: it may be a secret, and is kept out of the logs."""

LEARN_SECONDS = 1.0
"""How long another question to the parent is waited for before one about a variable is left out."""

LARGE = 1 << 20
"""Bytes from which a value's bytes travel beside their message, not within it: held once."""

DIE_WITH_PARENT = 1
"""Linux: ``PR_SET_PDEATHSIG``."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A value on its way: in its stored form, or pickled if it has none."""

    value: dict[str, Any] | None
    body: bytes

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A large body is not copied: ``send`` writes it."""
        large = len(self.body) > LARGE and protocol >= 5
        return Parcel, (self.value, pickle.PickleBuffer(self.body) if large else self.body)

    @classmethod
    def of(cls, value: Any, subject: str, serializer: str | None = None) -> Parcel:
        """A value for the other side. ``KitaruValueError`` if it has neither a stored form nor a pickle."""
        try:
            encoded = encode(value, subject=subject, serializer=serializer, inline_limit=-1)
            return cls(encoded.value.to_json(), bytes(encoded.body))
        except KitaruValueError:
            with suppress(Exception):
                return cls(None, pickle.dumps(value))
            raise KitaruValueError(
                f"{subject} is a {type_name(type(value))}, which has no form that another process could read",
                hint='Pass what it is made from instead, or leave out runtime="isolated".',
            ) from None

    def open(self, home: str = "") -> Any:
        """The value again; ``home`` is the module of the checkpoint."""
        if self.value is None:
            return pickle.loads(self.body)
        subject = "a value of an isolated checkpoint"
        return decode(Value.from_json(self.value), self.body, subject=subject, home=home)


@dataclass(frozen=True, slots=True)
class Order:
    """The first message: the place of a checkpoint, and its call.

    ``spec`` is set if the program was started with ``python -m``. ``path``: the parent's import path; ``project``: the
    root of the source, and the folders in it to import from; empty outside of one.
    """

    module: str
    file: str | None
    name: str
    spec: str | None
    path: list[str]
    project: list[str]
    argv: list[str]
    args: list[Parcel]
    kwargs: dict[str, Parcel]
    serializer: str | None


@dataclass(frozen=True, slots=True)
class Note:
    """The child asks for ``log``, ``save``, ``load`` or ``LEARN``; the answer is a ``Parcel`` or a ``Failed``."""

    verb: str
    args: list[Parcel]


@dataclass(frozen=True, slots=True)
class Failed:
    """It raised: the exception itself if it can be pickled, and as text."""

    pickled: bytes | None
    type: str
    message: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> Failed:
        """The message for an exception."""
        failure = failure_of(error)
        body = None
        with suppress(Exception):
            body = pickle.dumps(error)
            pickle.loads(body)
        kept = body if isinstance(error, (Exception, SystemExit, GeneratorExit)) else None
        return cls(kept, failure.type, failure.message, failure.traceback)

    def error(self) -> BaseException:
        """The exception, on the other side."""
        if self.pickled is not None:
            with suppress(Exception):  # its class may not be here, or not be what it was
                error: BaseException = pickle.loads(self.pickled)
                return error
        return KitaruUserCodeError(f"{self.type}: {self.message}", failure_origin="user_code")


def send(link: Connection, message: Any) -> None:
    """One message, then the large bodies in it, each by itself."""
    beside: list[pickle.PickleBuffer] = []
    body = pickle.dumps(message, protocol=5, buffer_callback=beside.append)
    link.send((body, len(beside)))
    for one in beside:
        link.send_bytes(one.raw())


def receive(link: Connection) -> Any:
    """The next message; None if the other side is gone."""
    try:
        body, count = link.recv()
        return pickle.loads(body, buffers=[link.recv_bytes() for _ in range(count)])
    except (EOFError, ConnectionError):
        return None


# --- the child --------------------------------------------------------------------------------------------------------


def serve(descriptor: int) -> None:
    """Carry out the order that comes over the pipe, and leave its outcome there."""
    os.set_inheritable(descriptor, False)
    _die_with_parent()
    link = Connection(descriptor)
    order = receive(link)
    if not isinstance(order, Order):
        return
    line = _Line(link)
    try:
        answer: Parcel | Failed = _outcome(order, line)
    except SystemExit as error:
        answer = Failed.of(SystemExit(error.code))  # whatever its class: a signal of the other process is no such thing
    except BaseException as error:
        answer = Failed.of(error)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    send(link, answer)


def _outcome(order: Order, line: _Line) -> Parcel:
    _arrange(order)
    sys.addaudithook(line.hear)
    module = _main(order) if order.module == "__main__" else _module(order)
    found = getattr(module, order.name)
    func = found.func if isinstance(found, Checkpoint) else found
    args = [parcel.open(func.__module__) for parcel in order.args]
    kwargs = {name: parcel.open(func.__module__) for name, parcel in order.kwargs.items()}
    scope.set(_ChildScope(order.name, line))
    result = run_here(func, *args, **kwargs)
    if hasattr(result, "__await__"):
        import asyncio  # slow to load; only async checkpoints need it

        result = asyncio.run(await_here(lambda: result))
    return Parcel.of(result, f"the result of checkpoint {order.name!r}", order.serializer)


def _arrange(order: Order) -> None:
    """The same arguments and import path as in the process that asked."""
    sys.argv[:] = order.argv
    sys.path[:] = order.path
    if order.project:
        root, *places = map(Path, order.project)
        take_over_process(root, places)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)


def _main(order: Order) -> ModuleType:
    """The script, run under another name, so that its part as a program is left out."""
    module = ModuleType(MAIN_ALIAS)
    sys.modules[MAIN_ALIAS] = sys.modules["__main__"] = module
    if order.spec is not None:
        space = runpy.run_module(order.spec, run_name=MAIN_ALIAS, alter_sys=False)
    else:
        space = runpy.run_path(str(order.file), run_name=MAIN_ALIAS)
    vars(module).update(space)
    sys.modules[MAIN_ALIAS] = sys.modules["__main__"] = module
    return module


def _module(order: Order) -> ModuleType:
    """As imported there: by name, or from the same file if that name leads elsewhere."""
    try:
        module = importlib.import_module(order.module)
        if order.file is None or (module.__file__ and Path(module.__file__).samefile(order.file)):
            return module
    except ModuleNotFoundError:
        if order.file is None:
            raise
    spec = importlib.util.spec_from_file_location(order.module, str(order.file))
    if spec is None or spec.loader is None:
        raise KitaruRuntimeError(f"{order.file} can't be imported as {order.module}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[order.module] = module
    spec.loader.exec_module(module)
    return module


class _Line:
    """The pipe: messages are whole, answers come in order, and its end is the end of this process."""

    def __init__(self, link: Connection) -> None:
        self._link = link
        self._process = os.getpid()
        self._asking = threading.Lock()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="kitaru-parent", daemon=True).start()

    def ask(self, verb: str, *values: Any, within: float = -1) -> Any:
        """The answer; None if another question is under way for longer than ``within`` seconds."""
        note = Note(verb, [Parcel.of(value, f"an argument of {verb}()") for value in values])
        if not self._asking.acquire(timeout=within):
            return None
        try:
            send(self._link, note)
            answer = self._answers.get()
        finally:
            self._asking.release()
        if isinstance(answer, Failed):
            raise answer.error()
        return answer.open()

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        """An audit hook: the parent learns of a variable before it is set, as it may be printed a moment later.

        A process that was forked from here has no parent to tell.
        """
        if event == "os.putenv" and os.getpid() == self._process:
            name, value = map(os.fsdecode, args)
            with suppress(OSError):  # the parent is gone, and this process follows it
                # Not for ever: a signal's handler may set one in the middle of a question.
                self.ask(LEARN, {name: value}, within=LEARN_SECONDS)

    def _listen(self) -> None:
        while (answer := receive(self._link)) is not None:
            self._answers.put(answer)
        os.killpg(0, signal.SIGKILL)  # whatever it started ends, too


class _ChildScope(InCheckpoint):
    """The scope of the checkpoint's body: the process that writes the journal takes its notes."""

    def __init__(self, name: str, line: _Line) -> None:
        self.name = name
        self.process = os.getpid()
        self._line = line

    def log(self, metadata: dict[str, Any]) -> None:
        self._line.ask("log", metadata)

    def save(self, name: str, value: Any, kind: str, tags: Sequence[str], serializer: str | None = None) -> Any:
        return self._line.ask("save", name, value, kind, tuple(tags), serializer)

    def load(self, exec_id: str, name: str) -> Any:
        return self._line.ask("load", exec_id, name)


def _die_with_parent() -> None:
    """On Linux also if this process can't listen: stuck in C code that holds the interpreter."""
    if sys.platform == "linux":
        import ctypes  # only here

        ctypes.CDLL(None, use_errno=True).prctl(DIE_WITH_PARENT, signal.SIGKILL)
