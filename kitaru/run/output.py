"""Output of a flow: each line that it prints or logs is noted for the run, the call and the attempt that made it.

``sys.stdout`` and ``sys.stderr`` are streams that print as before and note each line for the scope of the current
context. ``logging`` records are noted as they are made, whichever handlers print them. Text without a context has
no scope of its own: child processes and C code, which write to descriptors 1 and 2, and threads that the flow starts
by itself. It belongs to the one call that runs, else to the flow's body. It is captured only in a process that exists
for one run; the descriptors and threads of any other program are its own.
"""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Literal, TextIO

from kitaru.model.execution import LogLine
from kitaru.run.logs import LogWriter

DESCRIPTORS = {"stdout": 1, "stderr": 2}
PIPE = -1
"""The source of text that came through a descriptor, as a thread's number stands for its own."""

READ_BYTES = 1 << 16


class OutputScope:
    """The place of lines: a run, and in it one attempt of a call, or the flow's body."""

    __slots__ = ("_begun", "_now", "_where", "_writer")

    def __init__(self, writer: LogWriter, now: Callable[[], str], where: tuple[str, str, int] | tuple[()] = ()) -> None:
        """``where`` is checkpoint, call and attempt, such as ``("collect", "3", 1)``."""
        self._writer = writer
        self._now = now
        self._where = where or (None, None, None)
        self._begun: dict[tuple[str, int], str] = {}

    def write(self, stream: str, text: str, source: int = 0) -> None:
        """Note the lines that ``text`` completes; the rest waits for its end.

        ``print`` writes a text and the end of its line apart, so lines are put together by thread.
        """
        key = stream, source or threading.get_ident()
        lines, rest = _split(self._begun.pop(key, "") + text)
        for line in lines:
            self.note(stream, line)
        if rest:
            self._begun[key] = rest

    def note(self, stream: str, text: str, level: str | None = None) -> None:
        """Note one line."""
        self._writer.add(LogLine(self._now(), stream, text, level, *self._where))

    def close(self) -> None:
        """Note the lines that have no end."""
        begun, self._begun = self._begun, {}
        for (stream, _), rest in list(begun.items()):
            self.note(stream, rest.rstrip("\r"))


current_output: ContextVar[OutputScope | Literal[False] | None] = ContextVar("kitaru_output", default=None)
"""The scope of this context; False: its output is of no run."""


@contextmanager
def apart() -> Iterator[None]:
    """The output of this block is of no run: it is a command's own, while a run goes on in another thread."""
    token = current_output.set(False)
    try:
        yield
    finally:
        current_output.reset(token)


@contextmanager
def cleared_by(clear: Callable[[str], None]) -> Iterator[None]:
    """In this block, call ``clear`` with each text of a run before it is printed."""
    _Process.clear = clear
    try:
        yield
    finally:
        _Process.clear = None


class Tee:
    """A text stream that prints to ``real``, and notes the text for the scope of the current context."""

    def __init__(self, real: TextIO, name: str) -> None:
        self.real = real
        self._name = name

    def write(self, text: str) -> int:
        scope = _scope()
        if scope is not None and _Process.clear is not None:
            _Process.clear(text)
        if _Process.descriptors is not None:
            _Process.descriptors.drain()  # what a child wrote before this comes before it
        written = self.real.write(text)
        # A logging handler that prints: its record is noted already.
        if scope is not None and not (_Process.logging and sys._getframe(1).f_globals.get("__name__") == "logging"):
            scope.write(self._name, text)
        return written

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    @property
    def buffer(self) -> Any:
        """For bytes; if the descriptors are captured, they are noted like those of a child process."""
        return self.real.buffer if _Process.descriptors is None else open(self.fileno(), "wb", 0, closefd=False)

    def fileno(self) -> int:
        """The descriptor for a child process, as in ``subprocess.run(..., stdout=sys.stdout)``."""
        return self.real.fileno() if _Process.descriptors is None else DESCRIPTORS[self._name]

    def __iter__(self) -> Any:
        return iter(self.real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class _Pipe:
    """Descriptor 1 or 2, of the stream ``name``: it is read through a pipe, and passed on to its old end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.before: Any = getattr(sys, name)
        self.before.flush()
        self.real = os.dup(DESCRIPTORS[name])
        self.reader, writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.dup2(writer, DESCRIPTORS[name])
        os.close(writer)
        self.stream = io.TextIOWrapper(
            io.FileIO(self.real, "w"), self.before.encoding, "backslashreplace", write_through=True
        )
        setattr(sys, name, self.stream)
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def give_back(self) -> None:
        """The text of a child that goes on is passed on as before."""
        self.stream.flush()
        if getattr(sys, self.name) is self.stream:
            setattr(sys, self.name, self.before)
        os.dup2(self.real, DESCRIPTORS[self.name])


class Descriptors:
    """Descriptors 1 and 2 of this process, captured from now on until ``give_back``.

    Python's own streams write past the pipes, so that nothing is noted twice.
    """

    def __init__(self) -> None:
        self._guard = threading.RLock()
        self._sink: Callable[[str, str], None] | None = None
        self._pipes = [_Pipe(name) for name in DESCRIPTORS]
        self._open = {pipe.reader: pipe for pipe in self._pipes}
        threading.Thread(target=self._read_on, name="kitaru-output", daemon=True).start()

    def attach(self, sink: Callable[[str, str], None]) -> None:
        """Give ``sink`` each further text with the name of its stream, from one thread at a time."""
        with self._guard:
            self.drain()
            self._sink = sink
            _Process.descriptors = self

    def detach(self) -> None:
        """Give the sink the text up to now, and nothing more."""
        with self._guard:
            self.drain()
            self._sink = _Process.descriptors = None

    def drain(self) -> None:
        """Give the sink the text that was written up to now."""
        with self._guard:
            for reader in list(self._open):
                self._read(reader)

    def give_back(self) -> None:
        """Put the descriptors and streams back."""
        self.detach()
        for pipe in self._pipes:
            pipe.give_back()

    def let_go(self) -> None:
        """In a forked process: no end that is read, or it would wait for itself to read when its parent is gone."""
        for reader in self._open:
            with suppress(OSError):
                os.close(reader)

    def _read_on(self) -> None:
        waiting = select.poll()
        for pipe in self._pipes:
            waiting.register(pipe.reader, select.POLLIN)
        while self._open:
            for reader, _ in waiting.poll():
                with self._guard:
                    self._read(reader)
                    if reader not in self._open:
                        waiting.unregister(reader)
                        os.close(reader)

    def _read(self, reader: int) -> None:
        """Once, up to ``READ_BYTES``: a child may write without end."""
        try:
            body = os.read(reader, READ_BYTES) if reader in self._open else None
        except BlockingIOError:
            return
        if body is None:
            return
        pipe = self._open[reader]
        if not body:  # no process has the other end any more
            del self._open[reader]
        if self._sink is not None and (text := pipe.decoder.decode(body, final=not body)):
            self._sink(pipe.name, text)
        with suppress(OSError):  # the disk of the worker's own log is full, say: the line still goes to the store
            os.write(pipe.real, body)


@contextmanager
def captured_descriptors() -> Iterator[Descriptors | None]:
    """The descriptors, taken over for the block; None if this program's own streams do not lead to them."""
    try:
        own = all(getattr(sys, name).fileno() == descriptor for name, descriptor in DESCRIPTORS.items())
    except (OSError, ValueError, AttributeError):
        own = False
    if not own:
        yield None
        return
    descriptors = Descriptors()
    try:
        yield descriptors
    finally:
        descriptors.give_back()


class _Process:
    """The streams and hooks in place in this process, and for how many runs."""

    guard = threading.Lock()
    runs = 0
    undo = ExitStack()
    """Puts back what was there before the first of the runs."""
    owner: Capture | None = None
    """The run that text without a context belongs to."""
    logging = False
    """Whether log records are noted."""
    descriptors: Descriptors | None = None
    forked = False
    clear: Callable[[str], None] | None = None


class Capture:
    """The output of one run, captured while the block lasts."""

    def __init__(
        self,
        writer: LogWriter,
        now: Callable[[], str],
        *,
        owns_process: bool,
        descriptors: Descriptors | None = None,
    ) -> None:
        """``now`` gives the time as text. ``owns_process``: text without a context is this run's, too."""
        self._writer = writer
        self._now = now
        self._owns_process = owns_process
        self._descriptors = descriptors
        self._guard = threading.Lock()
        self._attempts: list[OutputScope] = []
        self._body = OutputScope(writer, now)
        self._token: Any = None

    def __enter__(self) -> Capture:
        with _Process.guard:
            _Process.runs += 1
            if _Process.runs == 1:
                for name in DESCRIPTORS:
                    _put_tee(name)
            if self._owns_process and _Process.owner is None:
                _Process.owner = self
        _watch_logging()
        if self._descriptors is not None:
            self._descriptors.attach(self._take)
            _redirect_handlers()
        self._token = current_output.set(self._body)
        return self

    def __exit__(self, *_: object) -> None:
        current_output.reset(self._token)
        if self._descriptors is not None:
            self._descriptors.detach()
        self._body.close()
        with _Process.guard:
            _Process.runs -= 1
            if _Process.owner is self:
                _Process.owner = None
            if _Process.runs == 0:
                _Process.undo.close()

    def begin(self, checkpoint: str, call: str, attempt: int) -> OutputScope:
        """An attempt of a call begins: its scope."""
        _watch_logging()
        scope = OutputScope(self._writer, self._now, (checkpoint, call, attempt))
        if self._descriptors is not None:
            self._descriptors.drain()
        with self._guard:
            self._attempts.append(scope)
        return scope

    def end(self, scope: OutputScope) -> None:
        """The attempt is over; its lines are noted when this returns."""
        if self._descriptors is not None:
            self._descriptors.drain()
        scope.close()
        with self._guard:
            self._attempts.remove(scope)

    @property
    def scope(self) -> OutputScope:
        """The scope of text without a context: the one attempt that runs, else the flow's body."""
        with self._guard:
            return self._attempts[0] if len(self._attempts) == 1 else self._body

    def _take(self, stream: str, text: str) -> None:
        if _Process.clear is not None:
            _Process.clear(text)
        self.scope.write(stream, text, PIPE)


def print_past(name: str, text: str) -> None:
    """Print to this process's own ``stdout`` or ``stderr`` text that is noted elsewhere."""
    stream = getattr(sys, name)
    with suppress(ValueError, OSError):  # it was closed
        (stream.real if isinstance(stream, Tee) else stream).write(text)


def _scope() -> OutputScope | None:
    scope = current_output.get()
    if _Process.forked:
        return None
    if scope is None and _Process.owner is not None:
        scope = _Process.owner.scope
    return scope or None


def _after_fork() -> None:
    """A copy of the process: what it noted here would never reach the store, but its descriptors are heard.

    It prints line by line, as other processes write to the same ones.
    """
    _Process.forked = True
    if _Process.descriptors is not None:
        _Process.descriptors.let_go()
        _Process.descriptors = None
        for name, descriptor in DESCRIPTORS.items():
            if isinstance(tee := getattr(sys, name), Tee):
                tee.real = open(descriptor, "w", 1, "utf-8", "backslashreplace", closefd=False)  # noqa: SIM115


os.register_at_fork(after_in_child=_after_fork)


def _put_tee(name: str) -> None:
    before = getattr(sys, name)
    tee = Tee(before, name)
    setattr(sys, name, tee)

    def put_back() -> None:
        if getattr(sys, name) is tee:  # a stream that the program has set since stays
            setattr(sys, name, before)

    _Process.undo.callback(put_back)


def _redirect_handlers() -> None:
    """Handlers that hold the program's first streams print past the pipes: their records are noted already."""
    module = sys.modules.get("logging")
    if module is None:
        return
    streams = {sys.__stdout__: sys.stdout, sys.__stderr__: sys.stderr}
    loggers = [module.root, *module.Logger.manager.loggerDict.values()]
    for handler in (one for logger in loggers for one in getattr(logger, "handlers", ())):
        before = getattr(handler, "stream", None)
        if isinstance(before, io.TextIOBase) and before in streams and hasattr(handler, "setStream"):
            handler.setStream(streams[before])
            _Process.undo.callback(handler.setStream, before)


def _watch_logging() -> None:
    """Note log records from now on, if the program has loaded ``logging`` meanwhile."""
    module = sys.modules.get("logging")
    if module is None or _Process.logging or not hasattr(module, "setLogRecordFactory"):
        return
    make = module.getLogRecordFactory()

    def make_noted(*args: Any, **kwargs: Any) -> Any:
        record = make(*args, **kwargs)
        # The thread in which an object store talks to its server: writing logs must not make more of them.
        scope = None if record.threadName == "fsspecIO" and not current_output.get() else _scope()
        if scope is not None:
            if _Process.descriptors is not None:
                _Process.descriptors.drain()
            scope.note("log", _message(record), record.levelname)
        return record

    def put_back() -> None:
        _Process.logging = False
        if module.getLogRecordFactory() is make_noted:
            module.setLogRecordFactory(make)

    with _Process.guard:
        if not _Process.logging and _Process.runs:
            _Process.logging = True
            module.setLogRecordFactory(make_noted)
            _Process.undo.callback(put_back)


def _message(record: Any) -> str:
    try:
        text = f"{record.name}: {record.getMessage()}"
    except Exception:  # logging itself reports a bad format string; the line must not be lost
        text = f"{record.name}: {record.msg} {record.args}"
    if record.exc_info and record.exc_info[0] is not None:
        import traceback  # slow to load, and needed only here

        text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
    return text


def _split(text: str) -> tuple[list[str], str]:
    """The complete lines and the rest; of text that a carriage return overwrote, as progress bars do, the last."""
    *lines, rest = text.split("\n")
    body = rest.rstrip("\r")
    begun = body.rpartition("\r")[2] + ("\r" if body != rest else "")
    return [line.rstrip("\r").rpartition("\r")[2] for line in lines], begun
