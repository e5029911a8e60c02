"""The one place where a lockfile changes: edits with requirements, folded by a pure function."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.core.commit import fold, next_lockfile
from kitaru.errors import KitaruIntegrityError
from kitaru.model.lockfile import Broken, Drop, Edit, Generation, Lockfile, Manage, Rename, Retire, Untag
from kitaru.model.route import Hold
from tests.lock_strategies import ANY_EDIT, AT, BY, FEW, after, entry_for, fitting, histories, holder, locks, mint, move

EMPTY = Lockfile(project="research")


@FEW
@given(st.data(), locks)
def test_folding_an_entry_gives_the_state_that_was_appended(data: st.DataObject, lock: Lockfile) -> None:
    """What a reader folds from the log is what the writer had, through the entry's own bytes."""
    edits = data.draw(fitting(lock))
    following = next_lockfile(lock, edits, at=AT, by=BY)
    assert isinstance(following, Lockfile)
    entry = Generation.parse(entry_for(lock, edits, following).canonical())
    folded = fold(lock, entry, "e" * 64)
    assert folded.flows == following.flows
    assert (folded.generation, folded.entry) == (lock.generation + 1, "e" * 64)
    assert Lockfile.parse(folded.canonical()) == folded


@FEW
@given(st.data(), locks)
def test_untouched_flows_stay_as_they_are(data: st.DataObject, lock: Lockfile) -> None:
    """An edit of one flow changes no other, to the byte."""
    edits = data.draw(fitting(lock))
    following = after(lock, *edits)
    touched = {edit.flow for edit in edits} | {edit.was for edit in edits if isinstance(edit, Rename)}
    assert {name: state.canonical() for name, state in lock.flows.items() if name not in touched} == {
        name: state.canonical() for name, state in following.flows.items() if name not in touched
    }


@FEW
@given(st.lists(ANY_EDIT, max_size=6), locks)
def test_a_broken_requirement_changes_nothing(edits: list[Edit], lock: Lockfile) -> None:
    """Whatever edits are asked for: a new state with every requirement met, or each broken one, and the old state."""
    before = lock.canonical()
    try:
        outcome = next_lockfile(lock, edits, at=AT, by=BY)
    except KitaruIntegrityError:
        # A route of a flow that has no version: no writer makes such a list, and no state comes of it.
        assert lock.canonical() == before
        return
    assert lock.canonical() == before
    if isinstance(outcome, Lockfile):
        assert outcome.generation == lock.generation + 1
    else:
        assert outcome
        assert {one.flow for one in outcome} <= {edit.flow for edit in edits}


@FEW
@given(histories())
def test_numbers_only_grow(states: tuple[Lockfile, ...]) -> None:
    """No history takes a version back: a flow's highest number never falls, not even when it is retired."""
    for before, following in itertools.pairwise(states):
        for name, state in before.flows.items():
            assert following.flows[name].latest >= state.latest


@FEW
@given(locks)
def test_every_route_leads_to_a_version_that_exists(lock: Lockfile) -> None:
    """A tag never leads above the flow's highest number."""
    for state in lock.flows.values():
        for route in state.routes.values():
            assert all(1 <= version <= state.latest for version in route.versions)


def test_two_versions_can_not_be_minted_from_one_number() -> None:
    """Of two edits that both expect v1 to be the highest, the second finds v2."""
    lock = after(EMPTY, mint("agent", 1))
    winner = after(lock, mint("agent", 2))
    assert next_lockfile(winner, [mint("agent", 2)], at=AT, by=BY) == (Broken("agent", None, "expected v1, found v2"),)
    assert next_lockfile(EMPTY, [mint("agent", 3, expects=2)], at=AT, by=BY) == (
        Broken("agent", None, "expected v2, found v0"),
    )


def test_a_lost_route_race_names_who_moved_it() -> None:
    """A move that expected v1 and finds v2 says so, with generation, time and name of the one who moved it."""
    lock = after(EMPTY, mint("agent", 1), move("agent", "stable", 1))
    lock = after(lock, mint("agent", 2), move("agent", "stable", 2, expects=(1,)))
    assert next_lockfile(lock, [move("agent", "stable", 1, expects=(1,))], at=AT, by="Bob") == (
        Broken("agent", "stable", "expected v1, found v2", 2, BY, AT),
    )


def test_a_new_route_expects_that_there_is_none() -> None:
    """A tag that somebody else made meanwhile is not taken over silently."""
    lock = after(EMPTY, mint("agent", 1), move("agent", "stable", 1))
    (broken,) = next_lockfile(lock, [move("agent", "stable", 1)], at=AT, by=BY)
    assert broken == Broken("agent", "stable", "expected nothing, found v1", 1, BY, AT)


def test_every_broken_requirement_is_told_at_once() -> None:
    """A list with three broken edits gives three problems."""
    edits: list[Edit] = [
        mint("agent", 2),
        move("greeter", "stable", 1, expects=(1,)),
        Retire(kind="retire", flow="other", expects=4),
    ]
    broken = next_lockfile(EMPTY, edits, at=AT, by=BY)
    assert isinstance(broken, tuple)
    assert [one.flow for one in broken] == ["agent", "greeter", "other"]


def test_a_route_may_lead_to_a_version_of_the_same_generation() -> None:
    """One generation mints v1 and routes default and stable to it."""
    lock = after(EMPTY, mint("agent", 1), move("agent", "default", 1), move("agent", "stable", 1))
    state = lock.flows["agent"]
    assert {tag: route.versions for tag, route in state.routes.items()} == {"default": (1,), "stable": (1,)}
    assert {route.generation for route in state.routes.values()} == {1}


def test_adopting_a_route_keeps_who_moved_it() -> None:
    """A move to where the route leads already changes who manages it, not when it was moved or by whom."""
    lock = after(EMPTY, mint("agent", 1), move("agent", "stable", 1).model_copy(update={"managed": False}))
    lock = after(lock.model_copy(), move("agent", "stable", 1, expects=(1,)))
    route = lock.flows["agent"].routes["stable"]
    assert (route.managed, route.generation, route.by) == (True, 1, BY)


def test_a_retired_flow_keeps_its_numbers() -> None:
    """Retired, a flow has no routes and is not there; declared again, its next version goes on counting."""
    lock = after(EMPTY, mint("agent", 1), move("agent", "default", 1))
    lock = after(lock, Retire(kind="retire", flow="agent", expects=1))
    assert lock.flow("agent") is None
    assert (lock.flows["agent"].latest, lock.flows["agent"].routes) == (1, {})
    lock = after(lock, mint("agent", 2), move("agent", "default", 2))
    assert lock.flow("agent") is not None
    assert lock.flows["agent"].routes["default"].versions == (2,)


def test_a_removed_route_is_gone_and_the_others_stay() -> None:
    """Untag takes away the one route."""
    lock = after(EMPTY, mint("agent", 1), move("agent", "default", 1), move("agent", "stable", 1))
    lock = after(lock, Untag(kind="untag", flow="agent", tag="stable", expects=(holder("agent", 1),)))
    assert sorted(lock.flows["agent"].routes) == ["default"]


def test_a_flow_can_be_managed_again() -> None:
    """Manage brings a retired flow back without a new version."""
    lock = after(EMPTY, mint("agent", 1))
    lock = after(lock, Retire(kind="retire", flow="agent", expects=1))
    lock = after(lock, Manage(kind="manage", flow="agent"), move("agent", "default", 1))
    state = lock.flow("agent")
    assert state is not None
    assert (state.latest, state.managed, sorted(state.routes)) == (1, True, ["default"])


@pytest.mark.parametrize(
    "changed",
    [
        {"generation": 3},
        {"parent": "0" * 64},
        {"state_digest": "0" * 64},
        {"edits": (mint("agent", 5, expects=1),)},
        {"edits": (mint("agent", 9, expects=8),)},
        {"edits": ()},
    ],
    ids=["number", "parent", "state", "other edits", "edits that don't fit", "no edits"],
)
def test_an_entry_that_does_not_follow_is_refused(changed: dict[str, object]) -> None:
    """Whatever of an entry is changed by hand, folding it is an error and not another history."""
    lock = after(EMPTY, mint("agent", 1)).model_copy(update={"entry": "a" * 64})
    edits = (mint("agent", 2),)
    following = after(lock, *edits)
    assert fold(lock, entry_for(lock, edits, following), "b" * 64).flows == following.flows
    with pytest.raises(KitaruIntegrityError) as refused:
        fold(lock, entry_for(lock, edits, following, **changed), "b" * 64)
    assert refused.value.hint


def test_a_renamed_flow_keeps_versions_and_routes() -> None:
    """All of it goes with the new name, other edits of the same generation included; the old name is spent."""
    lock = after(EMPTY, mint("agent", 1), move("agent", "default", 1))
    rename = Rename(kind="rename", flow="researcher", was="agent", expects=1)
    following = after(lock, rename, move("researcher", "stable", 1))
    assert following.flows["researcher"].routes.keys() == {"default", "stable"}
    assert (following.flows["agent"].retired, following.flows["agent"].renamed_to) == (True, "researcher")
    assert next_lockfile(following, [rename], at=AT, by=BY) == (
        Broken("agent", None, "expected v1, found no such flow"),
    )
    taken = after(lock, mint("researcher", 1))
    assert next_lockfile(taken, [rename], at=AT, by=BY) == (
        Broken("researcher", None, "expected a name that was never used"),
    )


def test_a_deleted_version_is_led_to_by_nothing() -> None:
    """No exclusive route may hold it, labels lose it, and a move that did not see the deletion fails."""
    lock = after(EMPTY, mint("agent", 1), move("agent", "default", 1))
    lock = after(lock, mint("agent", 2), move("agent", "bench", 1, 2, exclusive=False), move("agent", "old", 2))
    drop = Drop(kind="drop", flow="agent", version=2, table="t2", expects=lock.flows["agent"].table)
    refused = next_lockfile(lock, [drop], at=AT, by=BY)
    assert isinstance(refused, tuple)
    assert (refused[0].tag, refused[0].message) == ("old", "v2 holds an exclusive tag")
    lock = after(lock, move("agent", "old", 1, expects=(2,)))
    left = after(lock, drop)
    assert left.flows["agent"].routes["bench"].versions == (1,)
    assert (left.flows["agent"].known_snapshot(2), left.flows["agent"].latest) == (None, 2)
    late = next_lockfile(left, [move("agent", "canary", 2)], at=AT, by=BY)
    assert late == (Broken("agent", "canary", "a version was deleted in the meantime"),)


def test_a_hold_ends_with_the_next_move() -> None:
    """A rollback's hold stays on the route until somebody moves it, or agrees with it."""
    lock = after(EMPTY, mint("agent", 1), move("agent", "default", 1))
    lock = after(lock, mint("agent", 2), move("agent", "default", 2, expects=(1,)))
    hold = Hold(left=(holder("agent", 2),), reason="it loses orders")
    back = move("agent", "default", 1, expects=(2,)).model_copy(update={"hold": hold})
    held = next_lockfile(lock, [back], at=AT, by=BY, via="rollback")
    assert isinstance(held, Lockfile)
    route = held.flows["agent"].routes["default"]
    assert (route.hold, route.via) == (hold, "rollback")
    agreement = move("agent", "default", 1, expects=(1,)).model_copy(update={"ends_hold": True})
    agreed = after(held, agreement).flows["agent"].routes["default"]
    assert (agreed.hold, agreed.via, agreed.generation) == (None, "rollback", route.generation)
