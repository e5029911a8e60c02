"""What child processes and C code write to this process's standard output and error: descriptors 1 and 2.

Only for a process that exists for one execution: a worker, or a command such as ``kitaru run``. Its own Python streams
write past the pipes that take the place of the descriptors, so that nothing is seen twice; everything that comes
through a pipe is passed on to where it went before. Never in a program of the user's: its descriptors are its own, and
child processes there would find a pipe in place of the terminal.
"""

from __future__ import annotations

import codecs
import fcntl
import io
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

PIPE_BYTES = 1 << 20
"""As much may be written before the writer has to wait for this process to read."""

STREAMS = {1: "stdout", 2: "stderr"}
Sink = Callable[[str, str], None]


class ChildOutput:
    """Takes the descriptors over until ``give_back``, or for good; ``attach`` says who is told of what comes."""

    def __init__(self) -> None:
        self._guard = threading.RLock()
        self._sink: Sink | None = None
        self._readers: dict[int, str] = {}
        self._real: dict[str, int] = {}
        self._streams: dict[str, tuple[Any, Any]] = {}
        """Name → Python's stream as it was, and the one in its place."""
        self._decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in STREAMS.values()}
        self._poll = select.poll()
        for descriptor, name in STREAMS.items():
            self._take_over(descriptor, name)
        threading.Thread(target=self._read_on, name="kitaru-child-output", daemon=True).start()

    def attach(self, sink: Sink) -> None:
        """From now on ``sink`` is given stream (``stdout`` or ``stderr``) and text: from one thread at a time."""
        with self._guard:
            self.drain()
            self._sink = sink

    def detach(self) -> None:
        """Nobody is told any more."""
        with self._guard:
            self.drain()
            self._sink = None

    def drain(self) -> None:
        """Take what was written until now: when this returns, the sink has it."""
        with self._guard:
            while ready := self._poll.poll(0):
                for descriptor, _ in ready:
                    self._take(descriptor)

    def give_back(self) -> None:
        """The descriptors and streams as they were. What a child that goes on still writes is passed on as before."""
        self.detach()
        for descriptor, name in STREAMS.items():
            before, own = self._streams[name]
            own.flush()
            if getattr(sys, name) is own:
                setattr(sys, name, before)
            os.dup2(self._real[name], descriptor)

    def _take_over(self, descriptor: int, name: str) -> None:
        stream: Any = getattr(sys, name)
        stream.flush()
        real = os.dup(descriptor)
        reader, writer = os.pipe()
        with suppress(OSError, AttributeError):  # as large as the system lets it be
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.set_blocking(reader, False)
        os.dup2(writer, descriptor)
        os.close(writer)
        own = io.TextIOWrapper(io.FileIO(real, "w"), stream.encoding, "backslashreplace", write_through=True)
        setattr(sys, name, own)
        self._streams[name] = (stream, own)
        self._readers[reader] = name
        self._real[name] = real
        self._poll.register(reader, select.POLLIN)

    def _read_on(self) -> None:
        waiting = select.poll()
        for reader in self._readers:
            waiting.register(reader, select.POLLIN)
        while self._readers:
            ready = waiting.poll()
            self.drain()
            for reader, _ in ready:
                if reader not in self._readers:
                    with suppress(KeyError):
                        waiting.unregister(reader)

    def _take(self, reader: int) -> None:
        name = self._readers[reader]
        try:
            body = os.read(reader, PIPE_BYTES)
        except BlockingIOError:
            return
        if not body:  # the flow closed its own standard output
            self._poll.unregister(reader)
            del self._readers[reader]
            os.close(reader)
            return
        if self._sink is not None:
            self._sink(name, self._decoders[name].decode(body))
        with suppress(OSError):  # the disk of the worker's own log is full, say: the line still goes to the store
            os.write(self._real[name], body)


@contextmanager
def while_it_lasts() -> Iterator[ChildOutput | None]:
    """Takes the descriptors over for the block; None where this program's own streams do not lead there."""
    try:
        own = all(getattr(sys, name).fileno() == descriptor for descriptor, name in STREAMS.items())
    except (OSError, ValueError, AttributeError):
        own = False
    if not own:
        yield None
        return
    children = ChildOutput()
    try:
        yield children
    finally:
        children.give_back()
