from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from kitaru.model.route import (
    EXPECTED,
    Assignment,
    ByTag,
    ByVersion,
    Head,
    Label,
    Pin,
    Route,
    RouteTarget,
    RouteTargetField,
    Split,
    describe_holders,
    parse_target,
    selector,
    target_data,
)

versions = st.integers(min_value=1, max_value=10**9)


@st.composite
def splits(draw: st.DrawFn) -> Split:
    numbers = sorted(draw(st.sets(versions, min_size=1, max_size=6)))
    cuts = sorted(draw(st.sets(st.integers(1, 99), min_size=len(numbers) - 1, max_size=len(numbers) - 1)))
    weights = [end - start for start, end in zip([0, *cuts], [*cuts, 100], strict=True)]
    return Split(tuple(zip(numbers, weights, strict=True)))


wishes: st.SearchStrategy[RouteTarget] = st.one_of(
    versions.map(Pin),
    st.just(Head()),
    st.lists(st.none() | versions, min_size=1, max_size=6, unique=True).map(lambda items: Label(tuple(items))),
    splits(),
)


@pytest.mark.parametrize(
    ("value", "wish"),
    [
        (1, Pin(1)),
        ("head", Head()),
        ([1, 2], Label((1, 2))),
        ((1, 2), Label((1, 2))),
        (["head"], Label((None,))),
        ([2, "head"], Label((2, None))),
        ({"head": 10, 1: 90}, Split(((1, 90), (None, 10)))),
        ({2: 10, 1: 90}, Split(((1, 90), (2, 10)))),
        ({"2": 10, "1": 90}, Split(((1, 90), (2, 10)))),
        ({7: 100}, Split(((7, 100),))),
        (Pin(3), Pin(3)),
    ],
)
def test_each_spelling_of_a_route_means_one_wish(value: Any, wish: RouteTarget) -> None:
    """A number pins, head follows, a list labels, weights split."""
    assert parse_target(value) == wish


@pytest.mark.parametrize("value", [None, "", "latest", "1", "Head", [], {}, 1.0, True, False, object()])
def test_anything_else_is_refused_with_what_was_expected(value: Any) -> None:
    """A value that is no spelling of a route is answered with every spelling that there is."""
    with pytest.raises(ValueError) as refused:
        parse_target(value)
    assert str(refused.value) == EXPECTED


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (0, "0 is not a version number"),
        (-1, "-1 is not a version number"),
        ([1, 0], "0 is not a version number"),
        ([1, True], "True is not a version number"),
        ([1, "v2"], "'v2' is not a version number"),
        ([1, 1], "listed twice"),
        (["head", "head"], "listed twice"),
        ({1: 50, 2: 49}, "add up to 99"),
        ({1: 50, 2: 51}, "add up to 101"),
        ({1: 0, 2: 100}, "0 is not a percentage"),
        ({1: 100.0}, "100.0 is not a percentage"),
        ({1: True, 2: 99}, "True is not a percentage"),
        ({"heads": 100}, "'heads' is not a version number"),
        ({"1": 50, 1: 50}, "version 1 has two weights"),
        ({0: 100}, "0 is not a version number"),
    ],
)
def test_a_spelling_with_a_wrong_part_names_that_part(value: Any, reason: str) -> None:
    """Versions count from 1, once each, and weights are whole percentages of the whole."""
    with pytest.raises(ValueError, match=reason):
        parse_target(value)


@given(wishes)
def test_a_wish_survives_its_own_spelling(wish: RouteTarget) -> None:
    """What a wish is written as reads back as the same wish, in Python and through JSON."""
    field: TypeAdapter[RouteTarget] = TypeAdapter(RouteTargetField)
    assert parse_target(target_data(wish)) == wish
    assert field.validate_json(field.dump_json(wish)) == wish


def test_a_selector_is_a_tag_or_a_version_and_nothing_means_default() -> None:
    """Nothing typed is the default route; both typed is an error."""
    assert selector() == ByTag("default")
    assert selector(tag="stable") == ByTag("stable")
    assert selector(version=2) == ByVersion(2)
    with pytest.raises(ValueError, match="not both"):
        selector(tag="stable", version=2)


def test_holders_read_as_people_say_them() -> None:
    """One, several, weighted, or none."""
    one, two = Assignment(version=1, snapshot="a"), Assignment(version=2, snapshot="b")
    assert describe_holders((two,)) == "v2"
    assert describe_holders((one, two)) == "v1, v2"
    weighted = (two.model_copy(update={"weight": 10}), one.model_copy(update={"weight": 90}))
    assert describe_holders(weighted) == "v2 10 %, v1 90 %"
    assert describe_holders(()) == describe_holders(None) == "nothing"
    assert Route(holders=(two, one)).versions == (1, 2)
