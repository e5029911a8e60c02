"""What a checkpoint returns, as its failure records it: enough to refuse what could not be its result, and no more."""

from __future__ import annotations

import dataclasses
import json
from datetime import date
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, RootModel, model_validator

from kitaru import KitaruClient, wiring
from kitaru.errors import KitaruInputError
from kitaru.flows.signature import Mismatch, convert, returned_schema
from kitaru.model.event import CheckpointFailed, Failure
from tests.repository import Repository, kitaru


@dataclasses.dataclass
class Report:
    title: str = ""


class Order(BaseModel):
    items: list[str] = []


class Spelled(BaseModel):
    text: str

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        return {"text": given} if isinstance(given, str) else given


class Number(RootModel[int]):
    pass


class Color(Enum):
    red = "crimson"


class Level(IntEnum):
    low = 1


class Lenient(Enum):
    one = "one"

    @classmethod
    def _missing_(cls, _value: object) -> Lenient:
        return cls.one


class Entry(TypedDict, total=False):
    name: str


class Pair(NamedTuple):
    left: int
    right: int


ANNOTATIONS: list[Any] = [
    int, float, str, bool, None, bytes, list, dict, tuple, set, Any, object, date, Report, Order, Spelled, Number,
    Color, Level, Lenient, Entry, Pair, list[int], list[date], dict[str, int], dict[int, str], tuple[int, ...],
    set[str], int | None, Report | None, int | Report, list[int | None], dict[str, list[bool]], Literal["a", "b"],
    Literal[1, None], Annotated[int, Field(ge=0)], list[Report], Color | None, list[Any], str | list[str],
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.5, "", "a", "1", "crimson", "2026-01-02"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["title", "items", "1"]), inner),
    max_leaves=4,
)


@settings(deadline=None)
@given(annotation=st.sampled_from(ANNOTATIONS), value=JSON)
@example(Spelled, "tea")
@example(Number, 3)
@example(Lenient, 7)
@example(Level, "1")
@example(int | Report, "3")
@example(list[int], "x")
def test_it_refuses_nothing_that_the_run_would_take(annotation: Any, value: Any) -> None:
    """What doesn't fit the schema doesn't become what the annotation says either; the schema is JSON."""
    schema = returned_schema(annotation)
    if schema is None:
        return
    schema = json.loads(json.dumps(schema))
    if wiring.check_answer(schema, value):
        with pytest.raises(Mismatch):
            convert(value, annotation)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, "x"),
        (int, 0.5),
        (int, None),
        (str, 1),
        (bool, 1),
        (Report, "x"),
        (Order | None, [1]),
        (Entry, 1),
        (tuple[int, ...], 1),
    ],
)
def test_it_refuses_what_could_not_be_one(annotation: Any, value: Any) -> None:
    """A value of another kind is told from the schema alone."""
    schema = returned_schema(annotation)
    assert schema is not None and wiring.check_answer(schema, value)


def test_a_failure_without_it_is_as_it_was() -> None:
    """The event's bytes have the key only where something is known; one written before has none, and is read."""
    failed = CheckpointFailed(
        at="t", started="t", call="1", name="a", attempt=1, input_digest="d", error=Failure("E", "m"), retry=False
    )
    assert "returns" not in failed.to_json() and CheckpointFailed.from_json(failed.to_json()).returns is None
    known = dataclasses.replace(failed, returns={"type": "integer"})
    assert CheckpointFailed.from_json(known.to_json()) == known


FLOWS = """
from dataclasses import dataclass
from kitaru import checkpoint, flow

@dataclass
class Report:
    title: str

@checkpoint(retries=1)
def flaky() -> int:
    raise ConnectionError("away")

@checkpoint(runtime="isolated")
def apart() -> Report:
    raise ConnectionError("away, too")

@checkpoint
def unsaid():
    raise ConnectionError("away as well")

@checkpoint
def final(count: int) -> int:
    return count

@flow
def guarded() -> int:
    count = 0
    for call in (flaky, apart, unsaid):
        try:
            call()
        except ConnectionError:
            count += 1
    return final(count)
"""
MANIFEST = """\
kitaru: 1
project: research
store: file://.kitaru/store
source: {include: ["flows/**"]}
flows: {guarded: {target: flows/work.py:guarded, routes: {default: head}}}
"""


def test_an_override_of_a_failed_checkpoint_is_checked_first(own_world: Path) -> None:
    """One that its code doesn't return is refused by the dry run and by the run, and no execution is opened; also where
    the failure was itself taken over. One that fits is used.
    """
    repository = Repository.make(own_world / "deployed", {"flows/work.py": FLOWS}, MANIFEST)
    repository.apply()
    client = repository.client()
    first = client.deployments.invoke("guarded")
    assert first.wait(60) == 3
    second = client.executions.replay(first.exec_id, from_="final")  # its failures are taken over
    assert second.wait(60) == 3
    for exec_id in (first.exec_id, second.exec_id):
        opened = len(client.executions.list())
        for words in (("--dry-run",), ("--wait",)):
            given = ("executions", "replay", exec_id, "--from", "final", *words, "--override")
            done = kitaru(*given, 'checkpoint.flaky="x"', cwd=repository.folder)
            done.refused('checkpoint.flaky: expected int, as its code returns it, got text "x"')
            done = kitaru(*given, "checkpoint.apart=3", cwd=repository.folder)
            done.refused("checkpoint.apart: expected Report, as its code returns it, got a number 3")
        assert len(client.executions.list()) == opened
        assert _replayed(client, exec_id, {"checkpoint.unsaid": "anything"}) == 2
        assert _replayed(client, exec_id, {"checkpoint.flaky": 5, "checkpoint.apart": {"title": "tea"}}) == 1


def _replayed(client: KitaruClient, exec_id: str, overrides: dict[str, Any]) -> Any:
    return client.executions.replay(exec_id, from_="final", overrides=overrides).wait(60)


def test_another_version_may_return_another_type(own_world: Path) -> None:
    """What the failed code returns says nothing of other code: there the run itself tells."""
    repository = Repository.make(own_world / "deployed", {"flows/work.py": FLOWS}, MANIFEST)
    repository.apply()
    client = repository.client()
    handle = client.deployments.invoke("guarded")
    handle.wait(60)
    repository.change("flows/work.py", "flaky() -> int", "flaky() -> str")
    repository.commit()
    repository.apply()
    overrides = {"checkpoint.flaky": "x"}
    with pytest.raises(KitaruInputError, match="expected int"):
        client.executions.replay(handle.exec_id, from_="final", overrides=overrides)
    assert client.executions.replay(handle.exec_id, from_="final", overrides=overrides, version=2).wait(60) == 2
