"""The schema and the flow agree: what the schema lets pass, the flow takes."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import pathlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired, TypedDict

import pytest
from pydantic import BaseModel, Field

from kitaru import flow
from kitaru.errors import KitaruInputError
from kitaru.flows.describe import input_schema
from kitaru.flows.flow import Flow
from kitaru.manifest.inputs import check


class Query(TypedDict):
    text: str
    limit: NotRequired[int]


class Level(enum.Enum):
    LOW = "low"


@dataclass
class Point:
    x: int


class Order(BaseModel):
    at: dt.datetime
    count: int = 1


ANNOTATIONS: list[Any] = [
    int, float, str, bool, bytes, dt.date, dt.datetime, dt.time, dt.timedelta, uuid.UUID, pathlib.Path, decimal.Decimal,
    Query, Level, Point, Order, Annotated[int, Field(gt=0)], int | None, int | str, tuple[int, str], set[int],
    Sequence[int], list[int], dict[str, int], dict, list, list[dt.date], dt.date | None, list[Query],
    dict[str, Query], Query | None, Any, list[bytes],
]  # fmt: skip
VALUES: list[Any] = [
    "abc", "2026-01-01", "2026-01-01T10:00:00", "2026-01-01T10:00:00Z", "10:00:00", "P1D", "1.5", "3", "low", "\u00e9",
    "6ba7b810-9dad-11d1-80b4-00c04fd430c8", 3, 3.0, 3.5, -1, 2**70, True, None, [], [1], [3.0], [1, "x"], ["a"], {},
    {"text": "a"}, {"text": "a", "limit": 1}, {"text": "a", "limit": "x"}, {"a": 1}, {"x": 1}, {"x": "y"},
    {"at": "2026-01-01T10:00:00"}, {"at": "soon"}, [{"text": "a"}], [{}], ["2026-01-01"], {"q": {"text": "a"}},
]  # fmt: skip


def taking(annotation: Any) -> Flow[..., Any]:
    @flow
    def takes(value: Any) -> None: ...

    takes.func.__annotations__["value"] = annotation
    return takes


@pytest.mark.parametrize("annotation", ANNOTATIONS, ids=str)
def test_the_flow_takes_what_the_schema_lets_pass(annotation: Any) -> None:
    """An invoke that was checked never fails by its inputs."""
    takes = taking(annotation)
    schema = input_schema(takes)
    assert "$comment" not in schema["properties"]["value"]
    for value in VALUES:
        if not check(schema, {"value": value}):
            takes.bind(kwargs={"value": value})


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (int, 3, 3.0),
        (bytes, "abc", 3),
        (dt.date, "2026-01-02", "2026-13-02"),
        (dt.datetime, "2026-01-02T03:04:05Z", "soon"),
        (uuid.UUID, "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "6ba7"),
        (decimal.Decimal, "1.10", "one"),
        (Query, {"text": "a"}, {"limit": 1}),
        (list[Query], [{"text": "a", "limit": 2}], [{"text": "a", "limit": "x"}]),
    ],
    ids=str,
)
def test_both_refuse_the_same_values(annotation: Any, good: Any, bad: Any) -> None:
    """Formats, bytes, keys that may be left out, and 3.0 for a whole number."""
    takes = taking(annotation)
    schema = input_schema(takes)
    assert not check(schema, {"value": good})
    takes.bind(kwargs={"value": good})
    assert check(schema, {"value": bad})
    with pytest.raises(KitaruInputError):
        takes.bind(kwargs={"value": bad})


def test_an_address_is_checked_by_its_format() -> None:
    """``email`` in a schema that another library made."""
    schema = {"properties": {"to": {"type": "string", "format": "email"}}}
    assert not check(schema, {"to": "a@b.example"})
    assert check(schema, {"to": "a@"})
