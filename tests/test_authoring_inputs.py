"""Inputs against a flow's signature: bound, checked, converted, and every problem at once."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import pydantic
import pytest

from kitaru import errors, flow
from kitaru.flows.signature import Mismatch, convert, fits


class Depth(enum.Enum):
    QUICK = "quick"


@dataclasses.dataclass
class Box:
    side: int
    tags: list[str] = dataclasses.field(default_factory=list)


class Request(pydantic.BaseModel):
    topic: str
    when: dt.date | None = None


class Options(TypedDict):
    fast: bool


@flow
def research(topic: str, depth: int = 3, *, since: dt.datetime | None = None) -> None: ...


def test_every_problem_is_told_at_once_with_what_it_takes() -> None:
    """Missing, unexpected with a did-you-mean, and wrongly typed inputs come in one error."""
    with pytest.raises(errors.KitaruInputError) as caught:
        research.bind(kwargs={"topik": "x", "depth": "deep", "since": "soon"})
    text = str(caught.value)
    assert "topik: unexpected (did you mean topic?)" in text
    assert "depth: expected int, got str 'deep'" in text
    assert "since: expected" in text and "topic: missing" in text
    assert len(caught.value.problems) == 4
    assert "topic: str, depth: int = 3" in caught.value.hint


def test_inputs_are_bound_by_place_and_name_with_defaults() -> None:
    """The result names every parameter."""
    assert research.bind(("x",)) == {"topic": "x", "depth": 3, "since": None}
    assert research.bind(("x",), {"since": "2026-01-02T03:04:05"})["since"] == dt.datetime(2026, 1, 2, 3, 4, 5)
    with pytest.raises(errors.KitaruInputError, match="takes 2 positional"):
        research.bind(("x", 1, None, 4))
    with pytest.raises(errors.KitaruInputError, match="topic: given twice"):
        research.bind(("x",), {"topic": "y"})


def test_other_shapes_of_signatures() -> None:
    """Positional-only and ``**more`` parameters work by name; ``*args`` has no names, and says so."""

    @flow
    def only(a: int, /, b: int, **more: Any) -> Any: ...

    bound = only.bind(kwargs={"a": 1, "b": 2, "c": 3})
    assert bound == {"a": 1, "b": 2, "c": 3}
    assert only.parameters.arguments(bound) == ((1,), {"b": 2, "c": 3})

    @flow
    def many(*topics: str) -> None: ...

    with pytest.raises(errors.KitaruUsageError, match=r"takes \*topics"):
        many.bind(("a",))


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        ("x", str, "x"),
        (3, float, 3.0),
        (True, bool, True),
        (None, type(None), None),
        (None, int | None, None),
        ([1, 2], list[int], [1, 2]),
        ({"a": [1]}, dict[str, list[int]], {"a": [1]}),
        ([1], list, [1]),
        ("quick", Literal["quick", "slow"], "quick"),
        ((1, 2), Sequence[int], (1, 2)),
        ({"a": 1}, Mapping[str, int], {"a": 1}),
        ("quick", Depth, Depth.QUICK),
        ("2026-01-02", dt.date, dt.date(2026, 1, 2)),
        (["2026-01-02"], list[dt.date], [dt.date(2026, 1, 2)]),
        ([], list[dt.date], []),
        ("7f0a4a9a-5a1f-4f6e-9d8a-0a4fd1a2f0a1", uuid.UUID, uuid.UUID("7f0a4a9a-5a1f-4f6e-9d8a-0a4fd1a2f0a1")),
        ("a/b", Path, Path("a/b")),
        ([1, "a"], tuple[int, str], (1, "a")),
        ([1, 1], set[int], {1}),
        ({"side": 2}, Box, Box(2)),
        ({"topic": "x", "when": "2026-01-02"}, Request, Request(topic="x", when=dt.date(2026, 1, 2))),
        ({"fast": True}, Options, {"fast": True}),
        (3, Annotated[int, pydantic.Field(ge=1)], 3),
        (object, Any, object),
    ],
    ids=lambda value: str(getattr(value, "__name__", type(value).__name__)),
)
def test_values_are_what_the_annotation_says_afterwards(value: Any, annotation: Any, expected: Any) -> None:
    """JSON-like inputs become dates, enums, dataclasses and models; plain ones stay as they are."""
    converted = convert(value, annotation)
    assert converted == expected and type(converted) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (3, str),
        ("3", int),
        (True, int),
        (1, bool),
        (3.0, int),
        ("x", float),
        (None, str),
        ("a", list[str]),
        ([1], list[str]),
        ({1: "a"}, dict[str, str]),
        ("medium", Literal["quick", "slow"]),
        (1, Literal[True]),
        ("slow", Depth),
        ({"side": "wide"}, Box),
        ({"topik": "x"}, Request),
        (0, Annotated[int, pydantic.Field(ge=1)]),
        (b"x", str),
        ({"f": 1}, threading.Thread),
    ],
    ids=lambda value: str(getattr(value, "__name__", type(value).__name__)),
)
def test_what_does_not_fit_is_refused(value: Any, annotation: Any) -> None:
    """Nothing is guessed: ``topic: str`` refuses 3."""
    with pytest.raises(Mismatch):
        convert(value, annotation)
    assert not fits(value, annotation) or annotation in (Box, Request) or "Annotated" in str(annotation)


def test_annotations_that_cannot_be_resolved_let_anything_through() -> None:
    """A name that exists for type checkers only is no reason to refuse an input; its neighbours are checked."""

    @flow
    def partial(a: NoSuchName, b: int) -> None: ...  # type: ignore[name-defined] # noqa: F821

    assert partial.bind((object, 1))["b"] == 1
    with pytest.raises(errors.KitaruInputError, match="b: expected int"):
        partial.bind((object, "x"))


def test_plain_inputs_need_no_pydantic() -> None:
    """Checking str, int, list and dict loads no heavy library."""
    code = (
        "import sys; from kitaru import flow\n"
        "@flow\ndef f(a: str, b: list[int], c: dict[str, float] | None = None): ...\n"
        "f.bind(('x', [1])); assert 'pydantic' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
