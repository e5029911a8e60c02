"""Exact digests: equal for equal values in every process, different for all others, refused in doubt."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy
import pandas
import pytest
from pydantic import BaseModel, Field, PrivateAttr, SecretStr, field_serializer

from kitaru.values.digests import Exact, Inexact, Summaries


class Shape(BaseModel):
    name: str = "s"


class Circle(Shape):
    r: float = 1.0


class Order(BaseModel):
    shape: Shape


class Hidden(BaseModel):
    tenant: str = Field(exclude=True)


class Masked(BaseModel):
    tenant: str

    @field_serializer("tenant")
    def _mask(self, value: str) -> str:
        return value[:1]


class Private(BaseModel):
    _tenant: str = PrivateAttr("")

    @classmethod
    def of(cls, tenant: str) -> Private:
        made = cls()
        made._tenant = tenant
        return made


class Credentials(BaseModel):
    token: SecretStr


@dataclass
class Point:
    x: int


class Tagged(Point):
    def __init__(self, x: int, tenant: str) -> None:
        super().__init__(x)
        self.tenant = tenant


@dataclass
class Labelled(dict):  # type: ignore[type-arg]
    label: str = ""


class Pair(NamedTuple):
    a: int
    b: int


class Colour(Enum):
    RED = 1
    BLUE = 2


def digest(value: Any) -> str:
    return Exact(Summaries(__name__)).digest(value)


MORNING = datetime.datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Paris"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        ("1", 1),
        ("a", b"a"),
        ([1], (1,)),
        ([["a"]], ["a"]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({1: 2}, {"1": 2}),
        ({1, 2}, {1, 3}),
        ({1}, frozenset({1})),
        (Point(1), Point(2)),
        (Pair(1, 2), (1, 2)),
        (Colour.RED, Colour.BLUE),
        (Colour.RED, 1),
        (Decimal("1.0"), Decimal("1.00")),
        (Path("a"), "a"),
        (deque([1]), deque([1], 3)),
        (Counter("ab"), {"a": 1, "b": 1}),
        (OrderedDict(a=1), {"a": 1}),
        (MORNING, MORNING.replace(fold=1)),
        (MORNING, MORNING.replace(tzinfo=ZoneInfo("Europe/Berlin"))),
        (datetime.time(9, tzinfo=ZoneInfo("Europe/Paris")), datetime.time(9, tzinfo=ZoneInfo("Asia/Tokyo"))),
        (datetime.date(2026, 1, 1), "2026-01-01"),
        (Order(shape=Circle(r=1)), Order(shape=Circle(r=2))),
        (Order(shape=Circle()), Order(shape=Shape())),
        (Hidden(tenant="a"), Hidden(tenant="b")),
        (Masked(tenant="ab"), Masked(tenant="ac")),
        (Private.of("a"), Private.of("b")),
        (Shape(), Shape(name="s")),
        (numpy.array([1, 2]), numpy.array([1, 3])),
        (numpy.array([1]), numpy.array([1.0])),
        (numpy.array([1]), [1]),
        (numpy.int64(1), numpy.int32(1)),
        (pandas.DataFrame({"a": [1]}), pandas.DataFrame({"b": [1]})),
        (pandas.Timestamp("2026-01-01"), pandas.Timestamp("2026-01-02")),
        (float("nan"), float("inf")),
    ],
)
def test_different_values_have_different_digests(one: Any, other: Any) -> None:
    """Types, order, hidden fields and zones count."""
    assert digest(one) != digest(other)
    assert digest([one]) != digest([other])


@pytest.mark.parametrize(
    "value",
    [
        Credentials(token=SecretStr("x")),
        [Credentials(token=SecretStr("x"))],
        Tagged(1, "a"),
        Labelled(label="l"),
        object(),
        lambda: 1,
        Point,
        (number for number in ()),
        numpy.array([object()]),
        datetime.time(9, tzinfo=datetime.UTC).tzinfo,
    ],
)
def test_a_value_without_identity_has_no_digest(value: Any) -> None:
    """Secrets, hidden state, code."""
    with pytest.raises(Inexact, match="can't be told from another one"):
        digest(value)


def test_a_value_that_contains_itself_has_no_digest() -> None:
    """Nor one that is nested too deeply."""
    itself: list[Any] = []
    itself.append(itself)
    with pytest.raises(Inexact):
        digest(itself)


def test_digests_are_the_same_in_every_process() -> None:
    """Sets have no order of their own, and texts hash otherwise in each process."""
    code = (
        "from kitaru.values.digests import Exact, Summaries\n"
        "print(Exact(Summaries()).digest([{'a', 'b', 'c'}, {'k': (1, b'x')}, frozenset({'q', 'r'})]))"
    )
    made = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in "123"
    }
    assert len(made) == 1
