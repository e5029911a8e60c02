"""Whether callers of the old inputs are understood by the new ones: the table of what breaks them and what does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitaru.core.diffing import compare_inputs
from kitaru.flows.describe import input_schema
from kitaru.flows.flow import flow
from kitaru.manifest.inputs import check

Schema = dict[str, Any]


def inputs(required: list[str] | None = None, *, closed: bool = True, **properties: Schema) -> Schema:
    made: Schema = {"type": "object", "properties": properties, "required": required or []}
    return {**made, "additionalProperties": False} if closed else made


TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}

leaves = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["string", "integer", "number", "boolean", "null"])},
        optional={"minimum": st.integers(-3, 3), "maxLength": st.integers(0, 9), "default": st.integers() | st.text()},
    ),
    st.builds(lambda values: {"enum": values}, st.lists(st.integers(0, 3) | st.text(max_size=2), min_size=1)),
    st.just({}),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda item: {"type": "array", "items": item}, inner),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda properties, closed: {
                "type": "object",
                "properties": properties,
                "required": sorted(properties)[:1],
                "additionalProperties": closed,
            },
            st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
            st.booleans(),
        ),
    ),
    max_leaves=6,
)
schemas = st.builds(
    lambda properties, count: inputs(sorted(properties)[:count], **properties),
    st.dictionaries(st.sampled_from(["topic", "depth", "mode"]), values, max_size=3),
    st.integers(0, 3),
)


@settings(max_examples=60, deadline=None)
@given(schemas)
def test_nothing_changed_is_nothing_to_tell(schema: Schema) -> None:
    """A schema compared with itself has no differences, whatever it says."""
    assert compare_inputs(schema, schema) == ()


@settings(max_examples=80, deadline=None)
@given(
    schemas,
    schemas,
    st.dictionaries(
        st.sampled_from(["topic", "depth", "mode"]),
        st.none() | st.booleans() | st.integers(-4, 4) | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    ),
)
def test_what_is_called_compatible_takes_every_old_call(before: Schema, after: Schema, call: dict[str, Any]) -> None:
    """If no difference is labelled breaking, inputs that fitted the old version fit the new one."""
    changes = compare_inputs(before, after)
    if any(change.breaking for change in changes) or check(before, call):
        return
    assert not check(after, call)


@settings(max_examples=60, deadline=None)
@given(schemas, schemas)
def test_breaking_differences_come_first(before: Schema, after: Schema) -> None:
    """A reader sees at once what breaks callers."""
    breaking = [change.breaking for change in compare_inputs(before, after)]
    assert breaking == sorted(breaking, reverse=True)


@pytest.mark.parametrize(
    ("before", "after", "text", "breaking"),
    [
        (inputs(), inputs(topic=TEXT), "topic added, optional (string)", False),
        (inputs(), inputs(["topic"], topic=TEXT), "topic added, required (string)", True),
        (inputs(topic=TEXT), inputs(), "topic removed", True),
        (inputs(topic=TEXT), inputs(closed=False), "topic removed", False),
        (inputs(topic=TEXT), inputs(["topic"], topic=TEXT), "topic is now required", True),
        (inputs(["topic"], topic=TEXT), inputs(topic=TEXT), "topic is now optional", False),
        (inputs(depth=WHOLE), inputs(depth={"type": "number"}), "depth: integer → number", False),
        (inputs(depth={"type": "number"}), inputs(depth=WHOLE), "depth: number → integer", True),
        (inputs(depth=WHOLE), inputs(depth=TEXT), "depth: integer → string", True),
        (
            inputs(depth={**WHOLE, "minimum": 1}),
            inputs(depth={**WHOLE, "minimum": 0}),
            "depth: integer (minimum 1) → integer (minimum 0)",
            False,
        ),
        (
            inputs(depth={**WHOLE, "maximum": 9}),
            inputs(depth={**WHOLE, "maximum": 5}),
            "depth: integer (maximum 9) → integer (maximum 5)",
            True,
        ),
        (inputs(depth=WHOLE), inputs(depth={}), "depth: integer → any", False),
        (inputs(mode={"enum": ["a"]}), inputs(mode={"enum": ["a", "b"]}), "mode: 'a' → 'a' | 'b'", False),
        (inputs(mode={"enum": ["a", "b"]}), inputs(mode={"enum": ["a"]}), "mode: 'a' | 'b' → 'a'", True),
        (
            inputs(topic=TEXT),
            inputs(topic={"anyOf": [TEXT, {"type": "null"}]}),
            "topic: string → string | null",
            False,
        ),
        (
            inputs(topic={"anyOf": [TEXT, {"type": "null"}]}),
            inputs(topic=TEXT),
            "topic: string | null → string",
            True,
        ),
        (
            inputs(topic={"type": "array", "items": TEXT}),
            inputs(topic={"type": "array", "items": WHOLE}),
            "topic[]: string → integer",
            True,
        ),
        (
            inputs(depth={**WHOLE, "default": 1}),
            inputs(depth={**WHOLE, "default": 2}),
            "depth: default changed",
            False,
        ),
        (inputs(depth=WHOLE), inputs(depth={**WHOLE, "default": 2}), "depth: now has a default", False),
        (inputs(depth={**WHOLE, "default": 2}), inputs(depth=WHOLE), "depth: no longer has a default", False),
        (inputs(closed=False), inputs(), "inputs: other names are no longer accepted", True),
    ],
)
def test_one_difference(before: Schema, after: Schema, text: str, breaking: bool) -> None:
    """Each kind of difference has its words, and its label."""
    (change,) = compare_inputs(before, after)
    assert (change.text, change.breaking) == (text, breaking)


def test_words_are_no_difference() -> None:
    """Titles and descriptions decide nothing."""
    worded = {**TEXT, "title": "Topic", "description": "what to research"}
    assert compare_inputs(inputs(topic=TEXT), inputs(topic=worded)) == ()


def test_a_required_input_that_the_version_brings_breaks_nobody() -> None:
    """A new required parameter for which the manifest gives a representative input is filled in for old callers."""
    (change,) = compare_inputs(inputs(), inputs(["topic"], topic=TEXT), frozenset({"topic"}))
    assert not change.breaking


def test_models_are_compared_by_what_they_take() -> None:
    """A pydantic-like model is followed through its reference, and its fields are named with their path."""

    def order(line: Schema) -> Schema:
        return {**inputs(order={"$ref": "#/$defs/Order"}), "$defs": {"Order": line}}

    old = order({"type": "object", "properties": {"pieces": WHOLE}, "required": []})
    new = order({"type": "object", "properties": {"pieces": WHOLE, "price": TEXT}, "required": ["price"]})
    (change,) = compare_inputs(old, new)
    assert (change.text, change.breaking) == ("order.price added, required (string)", True)


def test_a_model_that_holds_itself_can_be_compared() -> None:
    """A recursive type ends the comparison where it comes back to itself."""
    tree = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}}}
    schema = {**inputs(tree={"$ref": "#/$defs/Tree"}), "$defs": {"Tree": tree}}
    assert compare_inputs(schema, schema) == ()
    deeper = {**tree, "properties": {**tree["properties"], "name": TEXT}}
    found = compare_inputs(schema, {**schema, "$defs": {"Tree": deeper}})
    assert [change.text for change in found] == ["tree.name added, optional (string)"]


def test_signatures_as_authors_write_them() -> None:
    """From two Python signatures to the label: a new default is compatible, a new obligation is not."""

    def first(topic: str, depth: int = 1) -> str:
        return topic * depth

    def second(topic: str, depth: int = 2, mode: str | None = None) -> str:
        return topic * depth

    def third(topic: str, depth: int) -> str:
        return topic * depth

    one, two, three = (input_schema(flow(each)) for each in (first, second, third))
    assert not any(change.breaking for change in compare_inputs(one, two))
    assert [change.text for change in compare_inputs(one, three) if change.breaking] == ["depth is now required"]
