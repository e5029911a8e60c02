"""How two snapshots differ, in the words that a reviewer reads; values that may be secret are never among them."""

from __future__ import annotations

from typing import Any

import pytest

from kitaru.core.diffing import snapshot_changes
from kitaru.manifest.inputs import check
from kitaru.model.plan import Change
from kitaru.model.snapshot import ImageSettings, LocalStack, NamedStack, Options, Snapshot

LOCAL = NamedStack(name="local", spec=LocalStack(type="local"))
BEFORE = Snapshot(flow="agent", target="flows/work.py:agent", source="1" * 64, stack=LOCAL)
OLD_FILES = [["a.py", "100644", "1"], ["b.py", "100644", "2"], ["c.py", "100644", "3"]]
NEW_FILES = [["a.py", "100644", "1"], ["b.py", "100644", "9"], ["d.py", "100644", "4"]]


def changes(**changed: Any) -> tuple[Change, ...]:
    return snapshot_changes(BEFORE, BEFORE.model_copy(update=changed), OLD_FILES, NEW_FILES)


def texts(**changed: Any) -> list[str]:
    return [change.text for change in changes(**changed)]


def test_equal_snapshots_have_no_differences() -> None:
    """Nothing changed, nothing said."""
    assert changes() == ()


def test_a_source_change_names_the_files() -> None:
    """Changed, added and removed files, each by its path."""
    (change,) = changes(source="2" * 64)
    assert change.text == "source: 1 file changed, 1 added, 1 removed"
    assert change.details == ("~ b.py", "+ d.py", "- c.py")


def test_a_mode_change_is_a_change() -> None:
    """A file that became executable is named."""
    after = BEFORE.model_copy(update={"source": "2" * 64})
    (change,) = snapshot_changes(BEFORE, after, [["a", "100644", "1"]], [["a", "100755", "1"]])
    assert change.details == ("~ a",)


def test_a_lost_listing_still_says_that_the_source_changed() -> None:
    """Without the old listing the files can't be named, the fact can."""
    after = BEFORE.model_copy(update={"source": "2" * 64})
    assert [one.text for one in snapshot_changes(BEFORE, after, None, NEW_FILES)] == ["source changed"]


def test_fields_say_from_what_to_what() -> None:
    """Target, options, image, inputs and description, each in its own words."""
    assert texts(target="x.py:y") == ["target flows/work.py:agent → x.py:y"]
    assert texts(options=Options(retries=2)) == ["options.retries: 0 → 2"]
    assert texts(image=ImageSettings(base_image="python:3.12")) == ["image.base_image: unset → python:3.12"]
    assert texts(inputs={"topic": "x"}) == ["sample input topic added"]
    assert texts(summary="It researches.") == ["description changed"]
    assert texts(checkpoints=("collect",)) == ["checkpoints: + collect"]
    venv = NamedStack(name="local", spec=LocalStack(type="local", environment="venv"))
    assert texts(stack=venv) == ["stack.spec: {'type': 'local'} → {'type': 'local', 'environment': 'venv'}"]


def test_lists_say_what_came_and_what_went() -> None:
    """Requirements are a list: the ones that are new, the ones that are gone, or that their order changed."""
    old = BEFORE.model_copy(update={"image": ImageSettings(requirements=("httpx", "rich"))})

    def said(*requirements: str) -> str:
        new = old.model_copy(update={"image": ImageSettings(requirements=requirements)})
        (change,) = snapshot_changes(old, new, None, [])
        return change.text

    assert said("httpx", "polars") == "image.requirements: - rich, + polars"
    assert said("rich", "httpx") == "image.requirements: order changed"


def test_environment_values_are_never_said() -> None:
    """A variable that changed, came or went is named; its value is not, neither the old nor the new."""
    old = BEFORE.model_copy(update={"image": ImageSettings(environment={"TOKEN": "hunter2", "GONE": "hunter3"})})
    new = BEFORE.model_copy(update={"image": ImageSettings(environment={"TOKEN": "hunter4", "NEW": "hunter5"})})
    (change,) = snapshot_changes(old, new, None, [])
    assert change.text == "image.environment: - GONE, ~ TOKEN, + NEW"
    assert "hunter" not in change.model_dump_json()


def test_breaking_input_changes_come_first() -> None:
    """A reviewer sees first what breaks callers, however small it is beside the rest."""
    found = changes(
        source="2" * 64,
        input_schema={"type": "object", "properties": {"t": {"type": "string"}}, "required": ["t"]},
    )
    assert [(change.subject, change.breaking) for change in found] == [("input_schema", True), ("source", False)]


TOPIC = {"type": "object", "properties": {"topic": {"type": "string"}}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("required", "before", "after", "said"),
    [
        (["topic"], {"topic": "x"}, {}, ["topic is now required: its sample input is gone"]),
        (["topic"], {"topic": "x"}, {"topic": "y"}, []),
        (["topic"], {}, {"topic": "x"}, []),
        ([], {"topic": "x"}, {}, []),
    ],
)
def test_an_input_that_nothing_fills_in_any_more_breaks_callers(
    required: list[str], before: dict[str, str], after: dict[str, str], said: list[str]
) -> None:
    """Callers may leave out what the manifest gives; where it gives it no longer, and the flow needs it, they can't."""
    old = BEFORE.model_copy(update={"input_schema": {**TOPIC, "required": required}, "inputs": before})
    new = old.model_copy(update={"inputs": after})
    found = snapshot_changes(old, new, None, [])
    assert [one.text for one in found if one.breaking] == said
    assert {one.subject for one in found} == ({"inputs", "input_schema"} if said else {"inputs"})


@pytest.mark.parametrize("closed", [True, False])
def test_an_input_that_goes_breaks_callers_where_it_is_refused(closed: bool) -> None:
    """Invoke refuses an input that the flow does not take; a flow with ``**more`` takes any."""
    schema = {"type": "object", "additionalProperties": not closed}
    old = BEFORE.model_copy(update={"input_schema": {**schema, "properties": {"topic": {"type": "string"}}}})
    new = old.model_copy(update={"input_schema": {**schema, "properties": {}}})
    assert bool(check(new.input_schema, {"topic": "x"})) == closed
    (change,) = snapshot_changes(old, new, None, [])
    assert (change.text, change.breaking) == ("topic removed", closed)


def test_long_values_are_cut() -> None:
    """A value of any length takes one short line."""
    (text,) = texts(inputs={"topic": "x" * 500})
    assert len(text) < 120
