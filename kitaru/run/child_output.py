"""What child processes and C code write to this process's standard output and error: descriptors 1 and 2.

Only for a process that exists for one execution: a worker, or a command such as ``kitaru run``. Its own Python streams
write past the pipes that take the place of the descriptors, so that nothing is seen twice; everything that comes
through a pipe is passed on to where it went before. Never in a program of the user's: its descriptors are its own, and
child processes there would find a pipe in place of the terminal.

Who starts a child (``child_starts``) has pipes of its own, an *owner*, made when its first child is started. When it
ends they are read empty and closed; what a child that goes on still holds is read until that ends, too.
"""

from __future__ import annotations

import codecs
import fcntl
import io
import os
import resource
import select
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from kitaru.run import child_starts

PIPE_BYTES = 1 << 20
"""As much may be written before the writer has to wait for this process to read."""

LARGE_PIPES = 4
"""So many pipes at once are so large: a user may have 64 MiB of them, in all processes. Others are as they come."""

SHARE = 4
"""A quarter of the descriptors that this process may have goes to owners; the children of further ones have none."""

STREAMS = {1: "stdout", 2: "stderr"}
Sink = Callable[[str, str, object], None]
Identity = tuple[int, int]


class _Pipe:
    """What is written at one end is read here at the other. ``writer`` is None where only children hold it."""

    __slots__ = ("decoder", "owner", "reader", "size", "stream", "writer")

    def __init__(self, stream: str, owner: object | None, *, large: bool) -> None:
        """``OSError`` where there are too many descriptors."""
        self.stream = stream
        self.owner = owner
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        if large:
            with suppress(OSError, AttributeError):  # as large as the system lets it be
                fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.size = PIPE_BYTES if large else 1 << 16
        self.reader: tuple[int, Identity] = reader, _identity(reader)
        self.writer: tuple[int, Identity] | None = (writer, _identity(writer))

    def close_writer(self) -> None:
        if self.writer is not None:
            (descriptor, _), self.writer = self.writer, None
            os.close(descriptor)


class ChildOutput:
    """Takes the descriptors over until ``give_back``, or for good; ``attach`` says who is told of what comes."""

    def __init__(self) -> None:
        self._guard = threading.RLock()
        self._sink: Sink | None = None
        self._whose: Callable[[], object | None] | None = None
        self._pipes: dict[int, _Pipe] = {}
        """By the descriptor that is read."""
        self._owned: dict[object | None, dict[str, _Pipe]] = {}
        """Owner → by stream, those that its children are given; None: those in place of this process's own."""
        self._names: dict[Identity, str] = {}
        """What stands in place of 1 and 2 → its stream."""
        self._real: dict[str, int] = {}
        self._streams: dict[str, tuple[Any, Any]] = {}
        """Name → Python's stream as it was, and the one in its place."""
        self._wake = os.pipe()
        for descriptor in self._wake:
            os.set_blocking(descriptor, False)
        for descriptor, name in STREAMS.items():
            self._take_over(descriptor, name)
        threading.Thread(target=self._read_on, name="kitaru-child-output", daemon=True).start()

    def attach(self, sink: Sink, whose: Callable[[], object | None]) -> None:
        """From now on ``sink`` is given stream (``stdout`` or ``stderr``), text and owner: from one thread at a time.

        ``whose`` says who owns what a child prints that is started in the context where it is asked; None: nobody is
        known. An owner is anything that can be hashed. ``end`` it when nothing is started there any more.
        """
        with self._guard:
            self.drain()
            self._sink, self._whose = sink, whose
            child_starts.put_on(self)

    def detach(self) -> None:
        """Nobody is told any more."""
        child_starts.take_off()
        with self._guard:
            self._whose = None
            for owner in [one for one in self._owned if one is not None]:
                self.end(owner)
            self._empty(list(self._pipes.values()))
            self._sink = None

    def drain(self, owner: object | None = None) -> None:
        """Take what was written until now, by this process and the owner's: when this returns, the sink has it."""
        with self._guard:
            pipes = list(self._owned[None].values())
            if owner is not None:
                pipes += self._owned.get(owner, {}).values()
            self._empty(pipes)

    def end(self, owner: object) -> None:
        """Take what its children wrote until now, and give them nothing more. Those that go on are heard all the same.

        Called when ``whose`` no longer names it.
        """
        with self._guard:
            pipes = list(self._owned.pop(owner, {}).values())
            for pipe in pipes:
                pipe.close_writer()
            self._empty(pipes)
            self._empty([pipe for pipe in pipes if pipe.reader[0] in self._pipes])  # where it was the last: the end

    def give_back(self) -> None:
        """The descriptors and streams as they were. What a child that goes on still writes is passed on as before."""
        self.detach()
        for descriptor, name in STREAMS.items():
            before, own = self._streams[name]
            own.flush()
            if getattr(sys, name) is own:
                setattr(sys, name, before)
            os.dup2(self._real[name], descriptor)

    def lend(self, descriptors: Iterable[int]) -> dict[int, int]:
        """What a child that is started here is to have in place of 1 and 2; whoever asks closes that.

        Left out: what leads elsewhere by now, or belongs to nobody who is known.
        """
        lent: dict[int, int] = {}
        with self._guard:
            owner = self._whose() if self._whose is not None else None
            if owner is None:
                return lent
            for descriptor in descriptors:
                name = self._name(descriptor)
                pipe = self._pipe(owner, name) if name is not None else None
                if pipe is not None and pipe.writer is not None:
                    with suppress(OSError):  # too many are open: it inherits this process's own
                        lent[descriptor] = os.dup(pipe.writer[0])
        return lent

    def become(self, lent: Mapping[int, int]) -> None:
        """In a process that was forked: what was lent to it is its own, and no end of a pipe of its parent's is left.

        It would be waited for at the one end, and at the other it would wait for itself to read.
        """
        for descriptor, instead in lent.items():
            if self._name(descriptor) is not None:  # os.forkpty has put a terminal there
                os.dup2(instead, descriptor)
        for pipe in list(self._pipes.values()):
            for end in (pipe.reader, pipe.writer):
                # A thread that is no more may have closed it just then, and its number may be another's.
                if end is not None and _is(*end):
                    os.close(end[0])

    def _name(self, descriptor: int) -> str | None:
        try:
            return self._names.get(_identity(descriptor))
        except OSError:
            return None

    def _pipe(self, owner: object, name: str) -> _Pipe | None:
        mine = self._owned.get(owner, {})
        if name not in mine:
            allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            if allowed != resource.RLIM_INFINITY and (len(self._pipes) + 1) * 2 > allowed // SHARE:
                return None
            try:
                mine[name] = self._open(name, owner)
            except OSError:
                return None
            self._owned[owner] = mine
            self._rouse()
        return mine[name]

    def _open(self, name: str, owner: object | None) -> _Pipe:
        pipe = _Pipe(name, owner, large=len(self._pipes) < LARGE_PIPES)
        self._pipes[pipe.reader[0]] = pipe
        return pipe

    def _take_over(self, descriptor: int, name: str) -> None:
        stream: Any = getattr(sys, name)
        stream.flush()
        real = os.dup(descriptor)
        pipe = self._open(name, None)
        assert pipe.writer is not None
        os.dup2(pipe.writer[0], descriptor)
        pipe.close_writer()
        own = io.TextIOWrapper(io.FileIO(real, "w"), stream.encoding, "backslashreplace", write_through=True)
        setattr(sys, name, own)
        self._streams[name] = (stream, own)
        self._real[name] = real
        self._names[_identity(descriptor)] = name
        self._owned.setdefault(None, {})[name] = pipe

    def _rouse(self) -> None:
        with suppress(OSError):  # it is full: the reader will look anyway
            os.write(self._wake[1], b".")

    def _read_on(self) -> None:
        waiting = select.poll()
        known: set[int] = set()
        while self._pipes:
            with self._guard:
                for descriptor in {self._wake[0], *self._pipes} - known:
                    waiting.register(descriptor, select.POLLIN)
                    known.add(descriptor)
            ready = {descriptor for descriptor, _ in waiting.poll()}
            with self._guard:
                self._empty([self._pipes[descriptor] for descriptor in ready if descriptor in self._pipes])
                for descriptor in ready - self._pipes.keys() - {self._wake[0]}:
                    waiting.unregister(descriptor)
                    known.discard(descriptor)
            if self._wake[0] in ready:
                with suppress(BlockingIOError):
                    os.read(self._wake[0], PIPE_BYTES)
        with self._guard:  # they were given back, and no child has them any more
            (reader, writer), self._wake = self._wake, (-1, -1)
            os.close(reader)
            os.close(writer)

    def _empty(self, pipes: list[_Pipe]) -> None:
        """Read each as far as it was written when this began: some child may write without end."""
        waiting = select.poll()
        for pipe in pipes:
            waiting.register(pipe.reader[0], select.POLLIN)
        for descriptor, _ in waiting.poll(0):
            self._take(self._pipes[descriptor])

    def _take(self, pipe: _Pipe) -> None:
        try:
            body = os.read(pipe.reader[0], pipe.size)
        except BlockingIOError:
            return
        if not body:  # nobody is left who could write: the flow closed its own standard output, say
            del self._pipes[pipe.reader[0]]
            mine = self._owned.get(pipe.owner, {})
            if mine.get(pipe.stream) is pipe:
                del mine[pipe.stream]
            os.close(pipe.reader[0])
        if self._sink is not None and (text := pipe.decoder.decode(body, final=not body)):
            self._sink(pipe.stream, text, pipe.owner)
        with suppress(OSError):  # the disk of the worker's own log is full, say: the line still goes to the store
            os.write(self._real[pipe.stream], body)


def _identity(descriptor: int) -> Identity:
    known = os.fstat(descriptor)
    return known.st_dev, known.st_ino


def _is(descriptor: int, identity: Identity) -> bool:
    try:
        return _identity(descriptor) == identity
    except OSError:
        return False


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
