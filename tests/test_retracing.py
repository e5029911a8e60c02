"""Where a rollback leads: back along the steps of a route, never to what a rollback left, past what was deleted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitaru.core.retracing import ROLLBACK, Retracing
from kitaru.model.lockfile import Edit, Move
from kitaru.model.route import Assignment
from tests.lock_strategies import holder, mint, move

Step = tuple[str, int]
"""("tag" or "rollback", the version led to)."""

THERE = frozenset(range(1, 10))


def log_of(steps: Sequence[Step]) -> list[tuple[str, tuple[Edit, ...]]]:
    """Verb and edits of each generation, oldest first: the flow's first version, then the moves of ``default``."""
    log: list[tuple[str, tuple[Edit, ...]]] = []
    at: tuple[int, ...] | None = None
    for verb, version in steps:
        moved = move("agent", "default", version, expects=at)
        log.append((verb, (moved,) if at else (mint("agent", 1), moved)))
        at = (version,)
    return log


def retraced(steps: Sequence[Step], there: Collection[int] = THERE) -> Retracing:
    way = Retracing({"agent"}, "default", (holder("agent", steps[-1][1]),), there)
    for verb, edits in reversed(log_of(steps)):
        if way.follow(edits, verb):
            break
    way.settle()
    return way


def back(steps: Sequence[Step], there: Collection[int] = THERE) -> int | None:
    found = retraced(steps, there).found
    return found[0].version if found else None


def steps_of(text: str) -> list[Step]:
    """``1 2 <1``: led to 1, to 2, and rolled back to 1."""
    return [(ROLLBACK, int(word[1:])) if word[0] == "<" else ("tag", int(word)) for word in text.split()]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("1 2 3", 2),
        ("1 2 3 <2", 1),
        ("1 2 3 <2 <1", None),
        ("1 2 3 <2 4", 2),
        ("1 2 3 <2 4 <2", 1),
        ("1 2 3 <2 3", 2),  # Somebody went forward to it again, of his own will.
        ("1 2 3 <2 3 <2", 1),
        ("1 2 3 4 <2", 1),  # What --to went past is undone with it.
        ("1 2 3 2 <3", 1),  # v2 was left by the rollback, though it led there once before as well.
        ("1 2 <7", 1),  # The route had never led to v7.
        ("1 2 1 3 <2", 1),
        ("1 2 1 2 <1", None),  # Nothing but the version that was left, and the one that it leads to.
        ("1", None),
        ("1 <2", None),
    ],
)
def test_one_further_back(steps: str, expected: int | None) -> None:
    """Each rollback goes one step further back than the one before it."""
    assert back(steps_of(steps)) == expected


def test_deleted_versions_are_passed_over() -> None:
    """On to the one before, and it says so; with nothing before, there is nothing."""
    way = retraced(steps_of("1 2 3 4"), there={1, 2, 4})
    assert (way.found[0].version, way.skipped) == (2, ("v3, which was deleted",))
    assert back(steps_of("1 2"), there={2}) is None


def test_what_was_passed_over_is_told() -> None:
    """Versions that rollbacks left, newest first."""
    assert retraced(steps_of("1 2 3 <2 4 <2")).skipped == (
        "v4, which a rollback left",
        "v3, which a rollback left",
    )
    assert retraced(steps_of("1 2 3")).skipped == ()


def test_moves_of_others_say_nothing() -> None:
    """Another flow, another tag, and a move that changes no holder are not steps of this route."""
    way = Retracing({"agent", "researcher"}, "stable", (holder("agent", 2),), THERE)
    for other in (
        move("agent", "stable", 2, expects=(2,)),
        move("greeter", "stable", 2, expects=(1,)),
        move("agent", "x", 2),
    ):
        assert not way.follow((other,), "tag")
    renamed = move("agent", "stable", 2, expects=(1,)).model_copy(update={"flow": "researcher"})
    assert way.follow((renamed,), "tag")
    assert way.found == (holder("agent", 1),)


def test_a_shared_label_is_no_place_to_go_back_to() -> None:
    """Where several versions held the tag, the search ends and says why."""
    both = (holder("agent", 1), holder("agent", 2))
    way = Retracing({"agent"}, "stable", (holder("agent", 3),), THERE)
    made = Move(kind="move", flow="agent", tag="stable", holders=(holder("agent", 3),), expects=both)
    assert way.follow((made,), "tag")
    assert (way.settle(), way.was_label) == ((), True)


def test_a_divided_route_is_a_place_like_any_other() -> None:
    """A rollback restores the percents, unless one of the versions is gone."""
    divided: tuple[Assignment, ...] = (holder("agent", 1, 90), holder("agent", 2, 10))
    made = Move(kind="move", flow="agent", tag="stable", holders=(holder("agent", 3),), expects=divided)
    for there, expected in ((THERE, divided), ({1, 3}, ())):
        way = Retracing({"agent"}, "stable", (holder("agent", 3),), there)
        way.follow((made,), "tag")
        assert way.found == expected


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.frozensets(st.integers(1, 5)))
@settings(max_examples=200, deadline=None)
def test_rollbacks_in_a_row(versions: list[int], gone: frozenset[int]) -> None:
    """They end, never come to a version twice or to a deleted one, and each was led to before."""
    steps: list[Step] = [("tag", version) for version, _ in groupby(versions)]
    there = THERE - gone
    seen = [steps[-1][1]]
    for _ in range(6):
        found = back(steps, there)
        if found is None:
            break
        assert found in there
        assert found not in seen
        assert ("tag", found) in steps
        seen.append(found)
        steps.append((ROLLBACK, found))
    assert back(steps, there) is None


@given(st.lists(st.tuples(st.sampled_from(("tag", ROLLBACK)), st.integers(1, 5)), min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_the_first_rollback_undoes_the_last_move(steps: list[Step]) -> None:
    """Whatever happened before, and whoever made it, a move that was no rollback is simply undone."""
    last = steps[-1][1]
    assert back([*steps, ("tag", last + 10)], range(1, 20)) == last
