"""Bytes that are stored as one body, and lie in several places until then: nothing large is copied to be joined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

CHUNK_BYTES = 1 << 20
"""About how much of a body is made at a time."""


class Pieces:
    """A body of blocks, bytes or flat views of bytes, one behind the other.

    Has the length and the slices of the joined bytes, and is equal to them. Blocks must not change.
    """

    __slots__ = ("_blocks",)

    def __init__(self, blocks: Sequence[bytes | memoryview]) -> None:
        self._blocks = [memoryview(block) for block in blocks]

    def __len__(self) -> int:
        return sum(map(len, self._blocks))

    def __getitem__(self, cut: slice) -> bytes:
        start, stop, step = cut.indices(len(self))
        if step != 1:
            raise ValueError("pieces have no slices with steps")
        parts = []
        for block in self._blocks:
            parts.append(block[max(start, 0) : max(stop, 0)])
            start, stop = start - len(block), stop - len(block)
        return b"".join(parts)

    def __bytes__(self) -> bytes:
        return b"".join(self._blocks)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (bytes, Pieces)):
            return NotImplemented
        starts = range(0, len(self), CHUNK_BYTES)
        return len(self) == len(other) and all(
            self[start : start + CHUNK_BYTES] == other[start : start + CHUNK_BYTES] for start in starts
        )

    __hash__ = None  # type: ignore[assignment]

    def chunks(self) -> Iterator[memoryview]:
        """The whole of it in order: at most ``CHUNK_BYTES`` at once, none empty, nothing copied."""
        for block in self._blocks:
            yield from (block[start : start + CHUNK_BYTES] for start in range(0, len(block), CHUNK_BYTES))


Body = bytes | Pieces
"""The body of a key in a store."""


def chunks_of(body: Body) -> Iterator[bytes | memoryview]:
    """``body`` in order, in few and large parts, copied only if it must be."""
    return body.chunks() if isinstance(body, Pieces) else iter((body,))
