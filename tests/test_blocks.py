"""Bytes inside containers, and bodies made of several pieces."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import io
import json
from typing import Any

import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.model.event import Value
from kitaru.model.pieces import CHUNK_BYTES, Pieces
from kitaru.values.digests import digest_arguments
from kitaru.values.stored import decode, decode_plain, encode

LARGE = 200_000


@dataclasses.dataclass
class Page:
    name: str
    body: bytes
    scans: list[bytearray] = dataclasses.field(default_factory=list)


def stored(value: Any) -> tuple[Value, bytes]:
    encoded = encode(value, subject="it")
    record = Value.from_json(json.loads(json.dumps(encoded.value.to_json(), allow_nan=False)))
    body = bytes(encoded.body)
    assert (record.size, record.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    return record, body


def there_and_back(value: Any) -> tuple[str, Any]:
    record, body = stored(value)
    return record.format, decode(record, body if record.stored == "object" else None, subject="it")


BODY = bytes(range(256)) * (LARGE // 256)


@pytest.mark.parametrize(
    "value",
    [
        [BODY],
        {"a": BODY, "text": "x" * LARGE, "none": None},
        (BODY, [BODY, {"deep": BODY[1:]}]),
        {1: BODY, b"key": 2},
        {BODY, BODY[1:], b"", b"short"},
        collections.OrderedDict(a=BODY, b=b""),
        Page("one", BODY, [bytearray(BODY)]),
        ["\ud800", BODY],
    ],
    ids=["list", "dict", "tuple", "pairs", "set", "ordered", "dataclass", "surrogate"],
)
def test_large_blocks_come_back_as_they_were(value: Any) -> None:
    """In every container, beside others of any size."""
    _, back = there_and_back(value)
    assert back == value and type(back) is type(value)


def test_small_values_stay_readable_json() -> None:
    """Bytes in a container are base64."""
    record, _ = stored({"a": b"x" * 300, "b": [b"y"]})
    assert (record.format, record.stored) == ("json+types", "inline")
    assert record.inline["b"] == [{"$type": "bytes", "value": "eQ=="}]


def test_arrays_and_frames_inside_containers_come_back() -> None:
    """Each with its type, and the flow's own to change."""
    value = {"array": numpy.arange(LARGE, dtype="<u4").reshape(2, -1), "frame": pandas.DataFrame({"a": range(LARGE)})}
    form, back = there_and_back(value)
    assert form == "json+types"
    assert (back["array"] == value["array"]).all() and back["array"].dtype == value["array"].dtype
    back["array"][0, 0] = 7
    assert back["frame"].equals(value["frame"])


def test_as_plain_data_bytes_are_base64() -> None:
    """Whoever lacks the types reads the same as from a value without blocks apart."""
    page = Page("one", BODY, [bytearray(b"ab")])
    apart = encode(page, subject="it")
    inline = encode(page, subject="it", inline_limit=10**9)
    assert (apart.value.stored, inline.value.stored) == ("object", "inline")
    plain = decode_plain(apart.value, apart.body, subject="it")
    assert plain == decode_plain(inline.value, None, subject="it")
    assert plain["scans"] == ["YWI="]


@given(st.lists(st.binary(max_size=9)), st.data())
def test_pieces_are_the_joined_bytes(parts: list[bytes], data: st.DataObject) -> None:
    """Length, slices, chunks and equality."""
    whole = b"".join(parts)
    pieces = Pieces(parts)
    assert len(pieces) == len(whole) and bytes(pieces) == whole and pieces == whole
    assert b"".join(pieces.chunks()) == whole and all(pieces.chunks())
    ends = st.one_of(st.none(), st.integers(-len(whole) - 2, len(whole) + 2))
    cut = slice(data.draw(ends), data.draw(ends))
    assert pieces[cut] == whole[cut]
    assert pieces != whole + b"x" and (not whole or pieces != whole[:-1] + bytes([whole[-1] ^ 1]))


def test_long_blocks_are_given_in_chunks() -> None:
    """A chunk is at most about a megabyte."""
    parts = [b"ab" * CHUNK_BYTES, b"cd" * CHUNK_BYTES, b"tail"]
    sizes = [len(chunk) for chunk in Pieces(parts).chunks()]
    assert max(sizes) <= CHUNK_BYTES and sum(sizes) == 4 * CHUNK_BYTES + 4
    joined = io.BytesIO()
    for chunk in Pieces(parts).chunks():
        joined.write(chunk)
    assert joined.getvalue() == Pieces(parts)


def test_digests_of_arguments_are_what_they_were() -> None:
    """Recorded calls are found again: bytes in containers count as in earlier releases."""
    found, preview = digest_arguments({"a": [b"abc", bytearray(b"de")], "n": numpy.float64(1.5), "s": {b"x", b"y"}})
    assert found == "dac1873dfe30d55f7135fa737e0182c48d4cebe5207a2eeb36d8086a6f10e8a3"
    assert preview is not None and json.loads(json.dumps(preview)) == preview
