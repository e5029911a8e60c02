"""Runtime logs in the store: numbered chunks of JSON lines, beside the journal and never part of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from kitaru.errors import KitaruLogRetrievalError, KitaruStoreError
from kitaru.masking import Masking
from kitaru.model import address
from kitaru.model.execution import LogLine
from kitaru.store.log import claim, read_many
from kitaru.store.port import Created, Store

CHUNK_LIMIT = 256 * 1024
"""Bytes (about) after which a chunk is written at once, without waiting for the next second."""

LINE_LIMIT = 64 * 1024
"""Characters of one line; the rest is cut off, with a word about it."""

AT_ONCE = 16
"""Chunks that are read together, and are in memory together."""


class LogWriter:
    """Collects lines, and writes them as chunks. A store that fails loses lines, never an execution."""

    def __init__(
        self,
        store: Store,
        project: str,
        exec_id: str,
        wake: Callable[[], None],
        mask: Masking | None = None,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        """``wake`` is called when there is enough for a chunk: to be flushed soon, by a thread that may block.

        ``mask`` takes secrets out of a line: those known when the line is written, so that one that became known after
        it was printed is hidden there, too. ``may_write``: whether this runner still has the execution; if not, its
        lines are dropped.
        """
        self._may_write = may_write
        self._mask = mask or (lambda text: text)
        self._store = store
        self._project = project
        self._exec_id = exec_id
        self._guard = threading.Lock()
        self._writing = threading.Lock()
        self._lines: list[LogLine] = []
        self._size = 0
        self._next = 1
        self._wake = wake

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self._lines

    def add(self, line: LogLine) -> None:
        """Take a line; it is in the store after the next ``flush``."""
        self._mask("")  # it sees which secrets there are now: a variable may be gone when the line is written
        with self._guard:
            self._lines.append(line)
            self._size += len(line.text) + 100
            full = self._size >= CHUNK_LIMIT
        if full:
            self._wake()

    def flush(self, first: Callable[[], None] | None = None) -> None:
        """Write the lines so far as the next chunk; ``first`` is called once it is settled which lines that are."""
        with self._writing:
            with self._guard:
                lines, size, self._lines, self._size = self._lines, self._size, [], 0
            if not lines:
                return
            try:
                if not self._may_write():
                    return
                if first is not None:
                    first()
                records = (json.dumps(self._shortened(line).to_json(), separators=(",", ":")) for line in lines)
                self._write("".join(f"{record}\n" for record in records).encode())
            except KitaruStoreError:
                with self._guard:
                    if self._size < 16 * CHUNK_LIMIT:
                        self._lines, self._size = lines + self._lines, size + self._size

    def _shortened(self, line: LogLine) -> LogLine:
        """Masked before it is cut: half a secret would be left else."""
        text = self._mask(line.text)
        if len(text) > LINE_LIMIT:
            text = f"{text[:LINE_LIMIT]}… ({len(text) - LINE_LIMIT} more characters)"
        return line if text is line.text else replace(line, text=text)

    def _write(self, body: bytes) -> None:
        chunk = address.log_chunk
        while not isinstance(claim(self._store, chunk(self._project, self._exec_id, self._next), body), Created):
            # An earlier runner of this execution wrote chunks: go on after its last.
            names = self._store.names(address.logs(self._project, self._exec_id))
            self._next = max(self._next, _number(names[-1]) if names else 0) + 1
        self._next += 1


def read_newest(store: Store, project: str, exec_id: str, limit: int, fits: Callable[[LogLine], bool]) -> list[LogLine]:
    """The last ``limit`` lines that fit, in order. Reads from the end, no further than it must."""
    names = store.names(address.logs(project, exec_id))
    found: list[LogLine] = []
    size = 1  # few lines are in the last chunk, mostly
    while names and len(found) < limit:
        names, block = names[:-size], names[-size:]
        size = min(size * 2, AT_ONCE)
        found = [line for _, lines in _chunks(store, project, exec_id, block) for line in lines if fits(line)] + found
    return found[-limit:]


def read_on(store: Store, project: str, exec_id: str, after_chunk: int = 0) -> Iterator[tuple[int, list[LogLine]]]:
    """The chunks after that one, each with its number, a few in memory at once.

    ``KitaruLogRetrievalError`` if one can't be read.
    """
    last = address.log_chunk(project, exec_id, after_chunk).rpartition("/")[2] if after_chunk else ""
    names = store.names(address.logs(project, exec_id), after=last)
    for place in range(0, len(names), AT_ONCE):
        yield from _chunks(store, project, exec_id, names[place : place + AT_ONCE])


def _chunks(store: Store, project: str, exec_id: str, names: Sequence[str]) -> Iterator[tuple[int, list[LogLine]]]:
    bodies = read_many(store, [address.logs(project, exec_id) + name for name in names])
    for name, body in zip(names, bodies, strict=True):
        try:
            yield _number(name), [LogLine.from_json(json.loads(line)) for line in (body or b"").splitlines()]
        except ValueError as error:
            raise KitaruLogRetrievalError(
                f"log chunk {name} of {exec_id} can't be read: {error}", hint="The store is damaged there."
            ) from error


def _number(name: str) -> int:
    return int(name.partition(".")[0])
