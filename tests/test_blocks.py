"""Bytes inside containers: stored as they are, behind the JSON, and never copied to be written."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import io
import json
import tracemalloc
from typing import Any

import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.model.event import Value
from kitaru.model.pieces import CHUNK_BYTES, Pieces
from kitaru.values import blocks
from kitaru.values.codec import decode, decode_plain, digest_arguments, encode

LARGE = 200_000
MEGABYTE = 1 << 20


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
        [BODY, {"$part": 0}, {"$type": "bytes", "$part": 1}],
        ["\ud800", BODY],
    ],
    ids=["list", "dict", "tuple", "pairs", "set", "ordered", "dataclass", "what looks like a part", "surrogate"],
)
def test_large_blocks_come_back_as_they_were(value: Any) -> None:
    """In every container, beside others of any size, and beside what only looks like one."""
    _, back = there_and_back(value)
    assert back == value and type(back) is type(value)


def test_a_large_block_is_stored_as_it_is_and_once() -> None:
    """No base64, no second copy of what occurs twice; the JSON before it can be read by people."""
    record, body = stored([BODY, "between", BODY, b"short"])
    assert record.format == "json+parts" and body.count(BODY) == 1
    assert record.size < len(BODY) + 200
    head, tree, _ = body.split(b"\n", 1)[0], *body.split(b"\n", 1)[1].split(b"]", 1)
    assert json.loads(head)[1] == len(BODY)
    assert tree.startswith(b'[{"$type":"bytes","value":{"$part":0}},"between"')


def test_small_values_stay_readable_json() -> None:
    """What fits into a journal entry has its bytes as base64 there, as before."""
    record, _ = stored({"a": b"x" * 300, "b": [b"y"]})
    assert (record.format, record.stored) == ("json+types", "inline")
    assert record.inline["b"] == [{"$type": "bytes", "value": "eQ=="}]


def test_arrays_and_frames_inside_containers_come_back() -> None:
    """They hold their bytes apart, too."""
    value = {"array": numpy.arange(LARGE, dtype="<u4").reshape(2, -1), "frame": pandas.DataFrame({"a": range(LARGE)})}
    form, back = there_and_back(value)
    assert form == "json+parts"
    assert (back["array"] == value["array"]).all() and back["array"].dtype == value["array"].dtype
    back["array"][0, 0] = 7  # the flow's own to change
    assert back["frame"].equals(value["frame"])


def test_as_plain_data_bytes_are_base64() -> None:
    """Whoever lacks the types reads the same as from a value without blocks apart."""
    page = Page("one", BODY, [bytearray(b"ab")])
    apart = encode(page, subject="it")
    inline = encode(page, subject="it", inline_limit=10**9)
    assert (apart.value.format, inline.value.format) == ("json+parts", "json+types")
    plain = decode_plain(apart.value, apart.body, subject="it")
    assert plain == decode_plain(inline.value, None, subject="it")
    assert plain["scans"] == ["YWI="]


def test_values_of_earlier_releases_are_read() -> None:
    """Their large objects hold base64."""
    body = json.dumps([{"$type": "bytes", "value": blocks.as_text(BODY)}]).encode()
    record = Value("json+types", len(body), hashlib.sha256(body).hexdigest(), "object", None, "list")
    assert decode(record, body, subject="it") == [BODY]


@pytest.mark.parametrize("cut", [slice(0, -1), slice(0, 5), slice(1, None)])
def test_a_body_that_is_none_is_refused(cut: slice) -> None:
    """A ``ValueError``, whatever is missing."""
    _, body = stored([BODY])
    with pytest.raises(ValueError):
        blocks.read(body[cut])


@pytest.mark.parametrize(
    ("make", "times"),
    [
        (lambda body: [body], 0.2),
        (lambda body: {"a": body, "b": "text"}, 0.2),
        (lambda body: Page("one", body), 0.2),
        (lambda body: [body[start : start + 1000] for start in range(0, len(body), 1000)], 0.7),
        (lambda body: body.decode(), 0.2),
        (lambda body: [numpy.frombuffer(body, dtype="u1")], 1.2),
    ],
    ids=["list", "dict", "dataclass", "many", "text", "array"],
)
def test_encoding_holds_no_second_copy(make: Any, times: float) -> None:
    """Beside the value there is room for little more than the JSON around its blocks; an array is copied once."""
    value = make(b"x" * (20 * MEGABYTE))
    tracemalloc.start()
    try:
        encoded = encode(value, subject="it")
        for chunk in encoded.body.chunks():  # type: ignore[union-attr]
            assert len(chunk) <= 2 * CHUNK_BYTES
        assert tracemalloc.get_traced_memory()[1] < times * 20 * MEGABYTE
    finally:
        tracemalloc.stop()


@given(st.lists(st.one_of(st.binary(max_size=9), st.text(st.characters(max_codepoint=127), max_size=9))), st.data())
def test_pieces_are_the_joined_bytes(parts: list[Any], data: st.DataObject) -> None:
    """Length, slices, chunks and equality."""
    whole = b"".join(part if isinstance(part, bytes) else part.encode() for part in parts)
    pieces = Pieces(parts)
    assert len(pieces) == len(whole) and bytes(pieces) == whole and pieces == whole
    assert b"".join(pieces.chunks()) == whole and all(pieces.chunks())
    ends = st.one_of(st.none(), st.integers(-len(whole) - 2, len(whole) + 2))
    cut = slice(data.draw(ends), data.draw(ends))
    assert pieces[cut] == whole[cut]
    assert pieces != whole + b"x" and (not whole or pieces != whole[:-1] + bytes([whole[-1] ^ 1]))


def test_long_blocks_are_given_in_chunks() -> None:
    """A chunk is at most about a megabyte, and a block of text is encoded as it is needed."""
    parts = ["ab" * CHUNK_BYTES, b"cd" * CHUNK_BYTES, b"tail"]
    sizes = [len(chunk) for chunk in Pieces(parts).chunks()]
    assert max(sizes) <= CHUNK_BYTES and sum(sizes) == 4 * CHUNK_BYTES + 4
    joined = io.BytesIO()
    for chunk in Pieces(parts).chunks():
        joined.write(chunk)
    assert joined.getvalue() == Pieces(parts)
    with pytest.raises(ValueError, match="ASCII"):
        Pieces(["\u20ac"])


def test_digests_of_arguments_are_what_they_were() -> None:
    """Recorded calls are found again: bytes in containers count as in earlier releases."""
    found, preview = digest_arguments({"a": [b"abc", bytearray(b"de")], "n": numpy.float64(1.5), "s": {b"x", b"y"}})
    assert found == "dac1873dfe30d55f7135fa737e0182c48d4cebe5207a2eeb36d8086a6f10e8a3"
    assert preview is not None and json.loads(json.dumps(preview)) == preview
