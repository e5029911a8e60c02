"""Drawing from a divided route: in proportion, sticky, and moving no key without need."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.core.resolving import draw
from kitaru.model.route import Assignment
from tests.lock_strategies import FEW

KEYS = 10_000


def holders(**weights: int) -> tuple[Assignment, ...]:
    """``v1=90, v2=10``."""
    return tuple(Assignment(version=int(name[1:]), snapshot=name, weight=weight) for name, weight in weights.items())


def drawn(route: tuple[Assignment, ...]) -> list[int]:
    return [draw("agent", "beta", route, f"order {number}").version for number in range(KEYS)]


@pytest.mark.parametrize(
    "route", [holders(v1=90, v2=10), holders(v1=50, v2=50), holders(v1=1, v2=99), holders(v1=20, v2=30, v7=50)]
)
def test_each_version_gets_its_share(route: tuple[Assignment, ...]) -> None:
    """Over ten thousand keys, each share is within four standard deviations of its weight."""
    counts = Counter(drawn(route))
    for holder in route:
        share = holder.weight / 100
        assert abs(counts[holder.version] - KEYS * share) <= 4 * math.sqrt(KEYS * share * (1 - share))


def test_a_growing_share_keeps_its_keys() -> None:
    """From 10 % to 30 %, every key that drew v2 still does; about a fifth of all keys join it."""
    before, after = drawn(holders(v1=90, v2=10)), drawn(holders(v1=70, v2=30))
    assert all(now == 2 for was, now in zip(before, after, strict=True) if was == 2)
    joined = sum(now == 2 for was, now in zip(before, after, strict=True) if was == 1)
    assert 0.18 * KEYS < joined < 0.22 * KEYS


def test_a_version_that_leaves_moves_its_own_keys_only() -> None:
    """Keys of the versions that stay with the same weights among each other draw what they drew."""
    before, after = drawn(holders(v1=40, v2=40, v3=20)), drawn(holders(v1=50, v2=50))
    assert all(was == now for was, now in zip(before, after, strict=True) if was != 3)


@FEW
@given(st.text(), st.integers(1, 99))
def test_any_key_draws_the_same_each_time(key: str, share: int) -> None:
    """Whatever a key holds, it draws one of the holders, and the order of the holders does not matter."""
    route = holders(v1=share, v2=100 - share)
    assert draw("agent", "beta", route, key) == draw("agent", "beta", route[::-1], key)
