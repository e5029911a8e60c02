"""Bytes that are stored as one body, and lie in several places until then: nothing large is copied to be joined."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

CHUNK_BYTES = 1 << 20
"""About how much of a body is made at a time."""


class Pieces:
    """A body of blocks, bytes or flat views of bytes, one behind the other.

    Has the length and the slices of the joined bytes, and is equal to them. Blocks must not change.
    """

    __slots__ = ("_blocks", "_ends")

    def __init__(self, blocks: Sequence[bytes | memoryview]) -> None:
        self._blocks = blocks
        self._ends = list(accumulate(map(len, blocks)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, cut: slice) -> bytes:
        start, stop, step = cut.indices(len(self))
        if step != 1:
            raise ValueError("pieces have no slices with steps")
        return b"".join(self._between(start, stop))

    def __bytes__(self) -> bytes:
        return self[:]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (bytes, Pieces)):
            return NotImplemented
        if len(self) != len(other):
            return False
        done = 0
        for chunk in self.chunks():
            if other[done : done + len(chunk)] != chunk:
                return False
            done += len(chunk)
        return True

    __hash__ = None  # type: ignore[assignment]

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The whole of it in order: at most about ``CHUNK_BYTES`` at once, none empty; bytes are not copied for it."""
        small: list[bytes | memoryview] = []
        gathered = 0
        for block in self._blocks:
            if len(block) < CHUNK_BYTES:
                small.append(block)
                gathered += len(block)
            if gathered and (gathered >= CHUNK_BYTES or len(block) >= CHUNK_BYTES):
                yield b"".join(small)
                small, gathered = [], 0
            if len(block) >= CHUNK_BYTES:
                whole = memoryview(block)
                for start in range(0, len(block), CHUNK_BYTES):
                    yield whole[start : start + CHUNK_BYTES]
        if gathered:
            yield b"".join(small)

    def _between(self, start: int, stop: int) -> Iterator[bytes | memoryview]:
        number = bisect_right(self._ends, start)
        while start < stop:
            begin = self._ends[number - 1] if number else 0
            block = self._blocks[number]
            inside = slice(start - begin, min(stop, self._ends[number]) - begin)
            yield memoryview(block)[inside]
            start = self._ends[number]
            number += 1


Body = bytes | Pieces
"""The body of a key in a store."""


def chunks_of(body: Body) -> Iterator[bytes | memoryview]:
    """``body`` in order, in few and large parts, copied only if it must be."""
    return body.chunks() if isinstance(body, Pieces) else iter((body,))
