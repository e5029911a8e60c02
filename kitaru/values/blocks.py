"""JSON in which bytes may stand apart: a typed tree with large blocks of bytes is stored without a text form of them.

Such a body is one line with the lengths of the rest, the JSON, then the blocks::

    [43,300000000]
    [{"$type":"bytes","value":{"$part":0}}]
    ...

A block that occurs twice is there once. The JSON names each with an object of the one key ``$part``.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from hashlib import sha256
from itertools import accumulate
from typing import Any

from kitaru.model.pieces import Body, Pieces

PART = "$part"
APART_BYTES = 256
"""Bytes from which a block stands apart, if its value does not fit into a journal entry."""

SORTED_BYTES = 4096
"""Up to this size a set's blocks are sorted by their own text."""

LONG_TEXT = 1 << 20
"""Characters of JSON from which its bytes are made piece by piece."""

_WRITTEN = f'{{"{PART}":'


def as_text(block: Any) -> str:
    """Base64, the form of bytes inside a JSON text; serves as ``default`` of an encoder. Raises ``TypeError``."""
    if type(block) is not bytes:
        raise TypeError(f"a {type(block).__name__} has no JSON form")
    return b64encode(block).decode()


def as_bytes(block: str | bytes) -> bytes:
    """The inverse of ``as_text``; bytes that stood apart are returned as they are."""
    return block if isinstance(block, bytes) else b64decode(block)


def as_order(block: bytes) -> str:
    """A short key that sorts blocks in the same order in every process."""
    return as_text(block) if len(block) <= SORTED_BYTES else sha256(block).hexdigest()


def write(tree: Any, limit: int) -> tuple[Body, bool, bool]:
    """The tree as JSON, whether blocks stand apart in it, and whether it has any.

    None stands apart if that makes a body of up to ``limit`` bytes, or the tree holds an object like a block's.
    """
    names = _Names()
    text = _encoder(names.name).encode(tree)
    if names.blocks and text.count(_WRITTEN) == names.named:
        json_text = _as_block(text)
        head = json.dumps([len(json_text), *map(len, names.blocks)], separators=(",", ":")).encode() + b"\n"
        body = Pieces([head, json_text, *names.blocks])
        if len(body) > limit:
            return body, True, True
    if names.blocks:
        text = _ENCODER.encode(tree)
    block = _as_block(text)
    return Pieces([block]) if isinstance(block, str) else block, False, names.called


def _encoder(default: Callable[[Any], Any]) -> json.JSONEncoder:
    return json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=default)


_ENCODER = _encoder(as_text)


class _Names:
    """Gives each larger block a number, and a repeated one the same number."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self.blocks: list[bytes] = []  # they are kept, so that an id stays its block's own
        self.named = 0
        self.called = False

    def name(self, block: Any) -> Any:
        """A block in JSON: base64 if it is small, else ``{"$part": 0}``."""
        self.called = True
        if type(block) is not bytes or len(block) < APART_BYTES:
            return as_text(block)
        self.named += 1
        number = self._numbers.get(id(block))
        if number is None:
            number = self._numbers[id(block)] = len(self.blocks)
            self.blocks.append(block)
        return {PART: number}


def _as_block(text: str) -> bytes | str:
    if len(text) >= LONG_TEXT and text.isascii():
        return text
    try:
        return text.encode()
    except UnicodeEncodeError:  # lone surrogates have no UTF-8; JSON escapes them
        return json.dumps(json.loads(text), separators=(",", ":")).encode()


def read(body: bytes, block: Callable[[bytes], Any] = bytes) -> Any:
    """The tree of a body with blocks apart, each converted by ``block``. Raises ``ValueError`` for an invalid body."""
    line = body.index(b"\n") + 1
    size, *sizes = json.loads(body[:line])
    ends = list(accumulate(sizes, initial=line + size))
    if ends[-1] != len(body):
        raise ValueError("its blocks are not as long as it says")
    made: dict[int, Any] = {}

    def place(item: dict[str, Any]) -> Any:
        if len(item) != 1 or PART not in item:
            return item
        number = item[PART]
        if number not in made:
            made[number] = block(body[ends[number] : ends[number + 1]])
        return made[number]

    return json.loads(body[line : line + size], object_hook=place)
