"""Values inside their journal entry: the digest beside one fits it as it was written, and nothing that was edited."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy
import pytest
from hypothesis import given

from kitaru.model.event import Completed, Value, decode_entry, encode_entry
from kitaru.values.stored import encode, inline_fits
from tests.test_codecs import json_like, richer


def read_back(value: Value, edit: tuple[str, str] | None = None) -> Value:
    """The value as a reader of the journal has it, where ``edit`` replaced some text of the entry."""
    body = encode_entry(1, "w", [Completed(at="2026-01-01T00:00:00.000000Z", output=value)]).decode()
    if edit is not None:
        assert edit[0] in body
        body = body.replace(*edit)
    (event,) = decode_entry(body.encode()).events
    assert isinstance(event, Completed)
    return event.output


@given(json_like | richer)
def test_whatever_was_written_fits(value: Any) -> None:
    """JSON, values with types, lone surrogates, the largest and smallest numbers: read back, they have their digest."""
    assert inline_fits(read_back(encode(value, subject="x").value))


@pytest.mark.parametrize(
    "value",
    ["a text", "", "é\u2028", "\ud800", b"some bytes", b"", numpy.arange(3), {"$part": 0}, [b"x" * 400], 1e22, -0.0],
    ids=repr,
)
def test_every_format_fits(value: Any) -> None:
    """Text, bytes, arrays, trees with bytes in them, and what looks like a block of bytes."""
    stored = encode(value, subject="x").value
    assert stored.stored == "inline"
    assert inline_fits(read_back(stored))


def test_pickles_and_objects_fit() -> None:
    """A pickle is base64 like any bytes; an object of its own is verified where it is read."""
    assert inline_fits(read_back(encode({1}, subject="x", serializer="pickle").value))
    assert inline_fits(encode("long" * 100, subject="x", inline_limit=10).value)


@pytest.mark.parametrize(
    ("value", "edit"),
    [
        ({"price": 10}, ('"price":10', '"price":90')),
        ("good", ('"good"', '"evil"')),
        (b"good", ('"Z29vZA=="', '"ZXZpbA=="')),
        (b"good", ('"Z29vZA=="', '"not base64"')),
        ("good", ('"good"', "4")),
        ((1, 2), ("[1,2]", "[1,3]")),
        ("good", ('"size":4', '"size":5')),
    ],
    ids=str,
)
def test_what_was_edited_does_not_fit(value: Any, edit: tuple[str, str]) -> None:
    """Another content, another kind of content, or another size."""
    assert not inline_fits(read_back(encode(value, subject="x").value, edit))


def test_a_value_nested_too_deeply_does_not_fit() -> None:
    """What no encoder can write again was never written: no error, and no fit."""
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert not inline_fits(Value("json", 2, "0" * 64, "inline", deep))


def test_keys_in_another_order_do_not_fit() -> None:
    """A value keeps the order of its keys wherever it is written."""
    stored = encode({"topic": "tea", "facts": [1]}, subject="x").value
    assert not inline_fits(replace(stored, inline={"facts": [1], "topic": "tea"}))
