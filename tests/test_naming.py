"""What outlives a rename: the name that a flow began with, and what is drawn by it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.core.commit import next_lockfile
from kitaru.core.renames import first_name, names_of, present_name
from kitaru.core.resolving import Resolved, resolve
from kitaru.model.lockfile import Lockfile, Rename
from kitaru.model.route import ByTag
from tests.lock_strategies import AT, BY, FEW, after, holder, mint, move

NAMES = ("agent", "researcher", "scout", "writer")


def begun(name: str = "agent") -> Lockfile:
    return after(Lockfile(project="research"), mint(name, 1))


def renamed(lock: Lockfile, was: str, name: str) -> Lockfile:
    return after(lock, Rename(kind="rename", flow=name, was=was, expects=lock.flows[was].latest))


@FEW
@given(st.lists(st.sampled_from(NAMES), max_size=8), st.booleans())
def test_a_flow_is_the_same_under_all_its_names(names: list[str], mints: bool) -> None:
    """Through any chain of renames, there and back: one first name, one present name, all names known."""
    lock, now, had = begun(), "agent", {"agent"}
    for name in names:
        if name == now:
            continue
        lock, now = renamed(lock, now, name), name
        had.add(name)
        if mints:
            lock = after(lock, mint(now, lock.flows[now].latest + 1))
        assert {first_name(lock.flows, one) for one in had} == {"agent"}
        assert {present_name(lock.flows, one) for one in had} == {now}
        assert names_of(lock.flows, now) == had
        assert [one for one in had if not lock.flows[one].retired] == [now]


def test_a_name_of_another_flow_is_refused() -> None:
    """A flow may take back a name that it had, and no name that another one had."""
    lock = renamed(after(begun(), mint("greeter", 1)), "agent", "researcher")
    for name in ("agent", "researcher"):
        edit = Rename(kind="rename", flow=name, was="greeter", expects=1)
        broken = next_lockfile(lock, [edit], at=AT, by=BY)
        assert isinstance(broken, tuple)
        assert [one.message for one in broken] == ["expected a name that was never used"]
    assert not renamed(lock, "researcher", "agent").flows["agent"].retired


def test_a_flow_that_was_never_renamed_says_nothing_of_it() -> None:
    """Only a rename back leaves a word of the first name: states of before keep their bytes."""
    lock = renamed(begun(), "agent", "researcher")
    assert all("first_name" not in state.data() for state in lock.flows.values())
    lock = renamed(lock, "researcher", "agent")
    assert lock.flows["agent"].first_name == "agent"
    assert "first_name" not in lock.flows["researcher"].data()


@pytest.mark.parametrize("chain", [("researcher",), ("researcher", "agent"), ("researcher", "scout", "researcher")])
def test_a_key_draws_the_same_version_through_renames(chain: tuple[str, ...]) -> None:
    """A customer's key that drew the tenth stays with it, whatever the flow is called."""
    halves = (holder("agent", 1, 50), holder("agent", 2, 50))
    lock = after(after(begun(), mint("agent", 2)), move("agent", "default", 1).model_copy(update={"holders": halves}))

    def drawn(flow: str) -> list[int]:
        found = [resolve(lock, flow, ByTag("default"), key=f"order {number}") for number in range(60)]
        return [one.version for one in found if isinstance(one, Resolved)]

    before, now = drawn("agent"), "agent"
    assert set(before) == {1, 2}
    for name in chain:
        lock, now = renamed(lock, now, name), name
        assert drawn(now) == before
