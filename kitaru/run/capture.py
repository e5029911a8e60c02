"""Captures what a flow prints and logs, by context: each line goes to the run, call and attempt that it was made in.

``sys.stdout`` and ``sys.stderr`` are replaced by streams that still print, and note the line where the current
context belongs to a run. ``logging`` records are noted where they are made, whatever handlers do with them. A thread
that the user starts has no such context: it inherits from the thread that started it, for as long as that attempt goes
on. In a process that exists for one run (``children``) what child processes print is the attempt's, or flow body's,
that started them, to their end. Of what else comes through the process's descriptors, from C code, nothing tells whose
it is: it is the one attempt's that is under way then, and the flow body's where there are several.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import ModuleType
from typing import Any, ClassVar, TextIO, cast

from kitaru.model.execution import LogLine
from kitaru.run.child_lines import ChildLines, split
from kitaru.run.logs import LogWriter
from kitaru.run.port import ChildOutput

INHERITED = "_kitaru_output"
"""The attribute of a thread that says whose output it has part in."""

DESCRIPTORS = {"stdout": 1, "stderr": 2}


class OutputScope:
    """Where the output of one context goes: a run, and in it a call's attempt, or the flow body."""

    __slots__ = ("_capture", "_now", "_partial", "_where", "_writer", "open")

    def __init__(
        self,
        writer: LogWriter,
        now: Callable[[], str],
        where: tuple[str, str, int] | None = None,
        capture: Capture | None = None,
    ) -> None:
        """``where``: checkpoint, call and attempt. ``capture`` is told when it closes."""
        self.open = True
        self._capture = capture
        self._writer = writer
        self._now = now
        self._where = where or (None, None, None)
        self._partial: dict[tuple[str, int], str] = {}

    def write(self, stream: str, text: str) -> None:
        """Note what was printed; lines are noted when complete.

        A line is put together by thread: ``print`` writes its text and the end of the line apart, and another thread
        may come in between.
        """
        key = stream, threading.get_ident()
        lines, rest = split(self._partial.pop(key, "") + text)
        for line in lines:
            self.note(stream, line)
        if rest:
            self._partial[key] = rest

    def note(self, stream: str, text: str, level: str | None = None) -> None:
        """Note one line."""
        self._writer.add(LogLine(self._now(), stream, text, level, *self._where))

    def close(self) -> None:
        """Note lines that were begun and never ended."""
        self.open = False  # first: a thread that goes on starts no child in its name
        if self._capture is not None:
            self._capture.closing(self)
        partial, self._partial = self._partial, {}
        for (stream, _), rest in list(partial.items()):
            self.note(stream, rest.rstrip("\r"))

    def heir(self) -> OutputScope | None:
        """Who takes what a thread prints that was started here: this, later the flow body, in the end nobody."""
        if self.open or self._capture is None:
            return self if self.open else None
        return self._capture.body if self._capture.body.open else None


current_output: ContextVar[OutputScope | None] = ContextVar("kitaru_output", default=None)

_apart: ContextVar[bool] = ContextVar("kitaru_output_apart", default=False)


@contextmanager
def apart() -> Iterator[None]:
    """What is printed in this block and thread belongs to no run: a command's own words while a run goes on."""
    token = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(token)


@contextmanager
def cleared_by(clear: Callable[[str], None]) -> Iterator[None]:
    """In this block ``clear`` is called with all that a run prints, before that is printed."""
    _Installed.clear = clear
    try:
        yield
    finally:
        _Installed.clear = None


class Tee:
    """A text stream that prints to ``real`` as before, and notes the text for the run whose context this is."""

    def __init__(self, real: TextIO, name: str) -> None:
        self.real = real
        self.stream_name = name
        self._begun: dict[int, str] = {}
        """Thread → what it has written since the end of its last line, in a process that was forked."""

    def write(self, text: str) -> int:
        if _Installed.forked:
            # A copy of this process: what it notes here nobody will ever write to the store.
            return self._write_forked(text) if _Installed.descriptors else self.real.write(text)
        scope = _scope_here()
        if scope is not None and _Installed.clear is not None:
            _Installed.clear(text)
        written = self.real.write(text)
        if _Installed.descriptors is not None:
            _Installed.descriptors.drain(scope)  # what a child wrote before this comes before it
        # A logging handler that prints: its record was noted already.
        if scope is not None and not (_Installed.logging and sys._getframe(1).f_globals.get("__name__") == "logging"):
            scope.write(self.stream_name, text)
        return written

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def _write_forked(self, text: str) -> int:
        """Line by line: its siblings write to the same descriptor, and ``print`` writes the end of a line apart."""
        thread = threading.get_ident()
        lines, end, rest = (self._begun.pop(thread, "") + text).rpartition("\n")
        if rest:
            self._begun[thread] = rest
        _write_descriptor(self.stream_name, lines + end)
        return len(text)

    def flush(self) -> None:
        while self._begun:
            _write_descriptor(self.stream_name, self._begun.popitem()[1])
        self.real.flush()

    @property
    def buffer(self) -> Any:
        """Bytes written here are seen as well, where descriptors are: as a child's would be that is started here."""
        if _Installed.descriptors is None:
            return self.real.buffer
        own = DESCRIPTORS[self.stream_name]
        lent = {} if _Installed.forked else _Installed.descriptors.lend([own])
        return _Bytes(lent.get(own, own), "wb", closefd=own in lent)

    def fileno(self) -> int:
        """The descriptor that a child process is to be given."""
        return DESCRIPTORS[self.stream_name] if _Installed.descriptors else self.real.fileno()

    def __iter__(self) -> Any:
        return iter(self.real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class _Bytes(io.FileIO):
    """Writes bytes to a descriptor; whoever had it from ``sys.stdout.buffer`` never closes it."""

    def __del__(self) -> None:
        self.close()


class _Installed:
    """What of this process is replaced now, and for how many runs."""

    guard = threading.Lock()
    runs = 0
    default: OutputScope | None = None
    streams: tuple[TextIO, TextIO] | None = None
    tees: tuple[Tee, Tee] | None = None
    logging: ModuleType | None = None
    factory: Any = None
    ours: Any = None
    start_thread: Any = None
    descriptors: ChildOutput | None = None
    """What reads descriptors 1 and 2 of this process."""
    forked = False
    redirected: ClassVar[list[tuple[Any, Any]]] = []
    """Handlers of ``logging`` that print to where they printed before by way of a stream of ours."""
    clear: Callable[[str], None] | None = None
    """Takes a command's own passing words off the terminal, before this text of a run comes."""


class Capture:
    """Output captured for one run, while the block lasts."""

    def __init__(
        self, writer: LogWriter, now: Callable[[], str], *, default: bool, children: ChildOutput | None = None
    ) -> None:
        """``now`` gives the time as text. ``default``: output of no known context is this run's, too. ``children``:
        so is what comes through the process's descriptors.
        """
        self._children = children
        self._writer = writer
        self._now = now
        self._default = default
        self.body = OutputScope(writer, now)
        self._child_lines = ChildLines(self.body, self._ours)
        self._token: Any = None

    def __enter__(self) -> Capture:
        with _Installed.guard:
            _Installed.runs += 1
            if _Installed.runs == 1:
                _install_streams()
            if self._default and _Installed.default is None:
                _Installed.default = self.body
        watch_logging()
        if self._children is not None:
            _Installed.descriptors = self._children
            self._children.attach(self._from_child, self._starting)
            _redirect_handlers()
        self._token = current_output.set(self.body)
        return self

    def __exit__(self, *_: object) -> None:
        current_output.reset(self._token)
        if self._children is not None:
            self._children.detach()
            self._child_lines.close()
            _Installed.descriptors = None
            while _Installed.redirected:
                handler, stream = _Installed.redirected.pop()
                handler.setStream(stream)
        self.body.close()
        with _Installed.guard:
            _Installed.runs -= 1
            if _Installed.default is self.body:
                _Installed.default = None
            if _Installed.runs == 0:
                _restore()

    def scope(self, checkpoint: str, call: str, attempt: int) -> OutputScope:
        """The scope of one attempt of a call."""
        watch_logging()
        made = OutputScope(self._writer, self._now, (checkpoint, call, attempt), self)
        if self._children is not None:
            self._children.drain()
        self._child_lines.begin(made)
        return made

    def closing(self, scope: OutputScope) -> None:
        """An attempt is over: what its child processes wrote until now is there, before the call is recorded."""
        if self._children is not None:
            self._children.drain()
            self._children.end(scope)
        self._child_lines.end(scope)

    def _from_child(self, stream: str, text: str, owner: object) -> None:
        if _Installed.clear is not None:
            _Installed.clear(text)
        self._child_lines.take(stream, text, owner)

    def _starting(self) -> OutputScope | None:
        """Whose a child process is that is started here; None where that is not sure."""
        scope = self._ours(current_output.get() or _inherited())
        return scope if scope is not None and scope.open else None

    def _ours(self, scope: object) -> OutputScope | None:
        ours = isinstance(scope, OutputScope) and (scope is self.body or scope._capture is self)
        return cast(OutputScope, scope) if ours else None


def _scope_here() -> OutputScope | None:
    scope = current_output.get()
    if scope is not None:
        return scope
    if _apart.get():
        return None
    inherited = _inherited()
    return (inherited.heir() if inherited is not None else None) or _Installed.default


def _inherited() -> OutputScope | None:
    """Whose output this thread had part in when it was started; nobody's where this is a command's own affair."""
    return None if _apart.get() else threading.current_thread().__dict__.get(INHERITED)


def _write_descriptor(name: str, text: str) -> None:
    if text:
        with suppress(OSError):
            os.write(DESCRIPTORS[name], text.encode("utf-8", "backslashreplace"))


def _starting(start: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    """``Thread.start`` that leaves with the thread whose output it has part in."""

    def start_with_output(thread: threading.Thread) -> None:
        scope = _scope_here()
        if scope is not None:
            thread.__dict__[INHERITED] = scope
        start(thread)

    return start_with_output


def _redirect_handlers() -> None:
    """Handlers that were made before, when the program was imported, print through our streams: what they wrote to the
    old ones would come back through the descriptors, as a second line for a record that was noted already.
    """
    module = sys.modules.get("logging")
    for reference in list(getattr(module, "_handlerList", ())):
        handler = reference()
        for before, now in ((sys.__stdout__, sys.stdout), (sys.__stderr__, sys.stderr)):
            if before is not None and getattr(handler, "stream", None) is before and hasattr(handler, "setStream"):
                handler.setStream(now)
                _Installed.redirected.append((handler, before))
                break


def _note_fork() -> None:
    _Installed.forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def watch_logging() -> None:
    """Note log records from now on, where the program has loaded ``logging`` meanwhile."""
    module = sys.modules.get("logging")
    if module is None or _Installed.logging is not None or not hasattr(module, "setLogRecordFactory"):
        return
    with _Installed.guard:
        if _Installed.logging is None and _Installed.runs:
            make: Callable[..., Any] = module.getLogRecordFactory()
            _Installed.logging, _Installed.factory = module, make
            _Installed.ours = _noting(make)
            module.setLogRecordFactory(_Installed.ours)


def _noting(make: Callable[..., Any]) -> Callable[..., Any]:
    def make_noted(*args: Any, **kwargs: Any) -> Any:
        record = make(*args, **kwargs)
        # The thread in which an object store talks to its server: writing logs must not make more of them.
        scope = current_output.get() if record.threadName == "fsspecIO" else _scope_here()
        if scope is not None and not _Installed.forked:
            if _Installed.descriptors is not None:
                _Installed.descriptors.drain(scope)
            scope.note("log", _message(record), record.levelname)
        return record

    return make_noted


def _message(record: Any) -> str:
    try:
        text = f"{record.name}: {record.getMessage()}"
    except Exception:  # logging itself reports a bad format string; the line must not be lost
        text = f"{record.name}: {record.msg} {record.args}"
    if record.exc_info and record.exc_info[0] is not None:
        import traceback  # slow to load, and needed only here

        text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
    return text


def _install_streams() -> None:
    _Installed.streams = (sys.stdout, sys.stderr)
    _Installed.tees = (Tee(sys.stdout, "stdout"), Tee(sys.stderr, "stderr"))
    sys.stdout, sys.stderr = cast(Any, _Installed.tees)
    _Installed.start_thread = (threading.Thread.start, _starting(threading.Thread.start))
    setattr(threading.Thread, "start", _Installed.start_thread[1])  # noqa: B010 - a method is replaced, on purpose


def _restore() -> None:
    if _Installed.streams is not None and _Installed.tees is not None:
        # Somebody else may have replaced them since; theirs stay.
        if sys.stdout is _Installed.tees[0]:
            sys.stdout = _Installed.streams[0]
        if sys.stderr is _Installed.tees[1]:
            sys.stderr = _Installed.streams[1]
    before, ours = _Installed.start_thread
    if threading.Thread.start is ours:
        setattr(threading.Thread, "start", before)  # noqa: B010 - as above
    module = _Installed.logging
    if module is not None and module.getLogRecordFactory() is _Installed.ours:
        module.setLogRecordFactory(_Installed.factory)
    _Installed.streams = _Installed.tees = _Installed.logging = _Installed.factory = _Installed.ours = None
