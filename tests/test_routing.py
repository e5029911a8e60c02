"""Moving routes, as a table of cases: what each verb makes of a state, what it refuses, and what always holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitaru.core.commit import next_lockfile
from kitaru.core.resolving import live_flow
from kitaru.core.routing import (
    Edits,
    agrees,
    check_deletable,
    promoted,
    rolled_back,
    tagged,
    untagged,
    wish_of,
)
from kitaru.errors import KitaruError, KitaruSelectorError, KitaruStateError, KitaruUsageError
from kitaru.model.address import digest
from kitaru.model.lockfile import Drop, Lockfile, Move, Release, Rename, VersionTable
from kitaru.model.route import Head, Label, Pin, Route, Split
from tests.lock_strategies import after, holder, mint, move

EMPTY = Lockfile(project="research")


def state(*moves: Move, versions: int = 3) -> Lockfile:
    """A flow ``agent`` with that many versions, default at v1, and these moves."""
    lock = EMPTY
    for number in range(1, versions + 1):
        lock = after(lock, mint("agent", number))
    lock = after(lock, move("agent", "default", 1))
    for one in moves:
        lock = after(lock, one)
    return lock


def table(versions: int = 3, deleted: tuple[int, ...] = ()) -> VersionTable:
    rows = [
        Release(version=number, snapshot=holder("agent", number).snapshot, source="s", at="t", by="Ann")
        for number in range(1, versions + 1)
    ]
    made = VersionTable(flow="agent", releases=tuple(rows))
    for number in deleted:
        made = made.deleting(number, at="t", by="Ann")
    return made


def tag(lock: Lockfile, name: str, version: int, *, exclusive: bool = False, **given: Any) -> Lockfile:
    edits = tagged(lock, "agent", name, holder("agent", version), exclusive=exclusive, **given)
    return after(lock, *edits) if edits else lock


def led(lock: Lockfile, name: str) -> tuple[int, ...] | None:
    route = live_flow(lock, "agent").routes.get(name)
    return route.versions if route else None


# --- tag --------------------------------------------------------------------------------------------------------------


def test_an_exclusive_tag_moves_whole() -> None:
    """The route leads to the new version alone, in one edit: there is no instant without a holder."""
    lock = tag(state(), "canary", 2, exclusive=True)
    edits = tagged(lock, "agent", "canary", holder("agent", 3), exclusive=True)
    assert [(edit.kind, edit.expects) for edit in edits if isinstance(edit, Move)] == [("move", (holder("agent", 2),))]
    assert led(after(lock, *edits), "canary") == (3,)


def test_a_shared_label_grows() -> None:
    """Each version is added to those that hold the label, and one that holds it already changes nothing."""
    lock = tag(tag(tag(state(), "benchmark", 3), "benchmark", 1), "benchmark", 2)
    assert led(lock, "benchmark") == (1, 2, 3)
    assert not live_flow(lock, "agent").routes["benchmark"].exclusive
    assert tagged(lock, "agent", "benchmark", holder("agent", 2), exclusive=False) == ()


def test_a_label_made_exclusive_leaves_one() -> None:
    """--exclusive takes the tag off every other version."""
    lock = tag(tag(tag(state(), "benchmark", 1), "benchmark", 2), "benchmark", 3, exclusive=True)
    assert led(lock, "benchmark") == (3,)
    assert live_flow(lock, "agent").routes["benchmark"].exclusive


def test_a_divided_route_moves_to_one() -> None:
    """A version that had a tenth of a route gets all of it."""
    weights = (holder("agent", 1, 90), holder("agent", 2, 10))
    split = move("agent", "beta", 1).model_copy(update={"holders": weights})
    assert live_flow(tag(state(split), "beta", 2, exclusive=True), "agent").routes["beta"].holders == (
        holder("agent", 2),
    )


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [
        ("default", 2, "pass --exclusive to move it"),
        ("canary", 3, "canary of agent is an exclusive route to v2; pass --exclusive"),
        ("head", 1, "can't be a tag"),
        ("v2", 1, "can't be a tag"),
        ("Bad Tag!", 1, "can't be a tag"),
        ("", 1, "can't be a tag"),
    ],
)
def test_labels_that_are_refused(name: str, version: int, words: str) -> None:
    """default is reserved, an exclusive tag is no label, and a tag never reads like a version."""
    lock = tag(state(), "canary", 2, exclusive=True)
    with pytest.raises(KitaruUsageError, match="tag") as caught:
        tagged(lock, "agent", name, holder("agent", version), exclusive=False)
    assert words in caught.value.message
    assert caught.value.hint.startswith("kitaru flow tag ")


def test_the_hint_is_the_command_that_works() -> None:
    """Who forgot --exclusive is told the whole command."""
    with pytest.raises(KitaruUsageError) as caught:
        tagged(state(), "agent", "default", holder("agent", 2), exclusive=False)
    assert caught.value.hint == "kitaru flow tag agent default --version 2 --exclusive"


def test_a_person_ends_a_hold() -> None:
    """An explicit move takes a rollback's hold away, one to the same version too."""
    lock = tag(state(), "stable", 2, exclusive=True)
    lock = after(lock, *rolled_back(lock, "agent", "stable", (holder("agent", 1),), "bad"))
    hold = live_flow(lock, "agent").routes["stable"].hold
    assert hold is not None and hold.reason == "bad" and hold.left == (holder("agent", 2),)
    for version in (1, 3):
        assert live_flow(tag(lock, "stable", version, exclusive=True), "agent").routes["stable"].hold is None


def test_a_label_that_becomes_a_route_says_so() -> None:
    """The edit itself tells, both ways: history has nothing else to go by."""
    lock = tag(state(), "beta", 2, exclusive=False)
    (edit,) = tagged(lock, "agent", "beta", holder("agent", 2), exclusive=True)
    assert isinstance(edit, Move) and edit.converts and edit.expects == edit.holders
    (edit,) = tagged(lock, "agent", "beta", holder("agent", 3), exclusive=False)
    assert isinstance(edit, Move) and not edit.converts


def test_whether_the_manifest_says_so_is_kept_unless_told() -> None:
    """managed None leaves the route's own word; True makes it the manifest's."""
    lock = after(state(), move("agent", "loose", 1).model_copy(update={"managed": False}))
    routes = live_flow(tag(lock, "loose", 2, exclusive=True), "agent").routes
    assert not routes["loose"].managed
    routes = live_flow(tag(lock, "loose", 1, exclusive=True, managed=True), "agent").routes
    assert routes["loose"].managed


# --- untag, promote, delete -------------------------------------------------------------------------------------------


def test_untag() -> None:
    """Off one version, off the last one, or off all."""
    lock = tag(tag(state(), "benchmark", 1), "benchmark", 2)
    assert led(after(lock, *untagged(lock, "agent", "benchmark", 1)), "benchmark") == (2,)
    assert led(after(lock, *untagged(lock, "agent", "benchmark")), "benchmark") is None
    lock = after(lock, *untagged(lock, "agent", "benchmark", 1))
    assert led(after(lock, *untagged(lock, "agent", "benchmark", 2)), "benchmark") is None


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [
        ("default", None, "default is reserved: it can't be removed, only moved"),
        ("canary", 3, "v3 of agent does not hold canary: it leads to v2"),
        ("canery", None, "agent has no tag canery; did you mean 'canary'?"),
        ("beta", 1, "is divided: v1 90 %, v2 10 %"),
    ],
)
def test_untag_that_is_refused(name: str, version: int | None, words: str) -> None:
    """default stays; a tag that is not there, or not there, is told."""
    weights = (holder("agent", 1, 90), holder("agent", 2, 10))
    split = move("agent", "beta", 1).model_copy(update={"holders": weights})
    lock = tag(state(split), "canary", 2, exclusive=True)
    with pytest.raises(KitaruError) as caught:
        untagged(lock, "agent", name, version)
    assert words in caught.value.message


def test_promote() -> None:
    """The tag leads to where the other one does; several holders are no answer."""
    lock = tag(tag(tag(state(), "canary", 2, exclusive=True), "both", 1), "both", 3)
    assert led(after(lock, *promoted(lock, "agent", "canary", "default")), "default") == (2,)
    with pytest.raises(KitaruSelectorError, match="leads to several versions: v1, v3"):
        promoted(lock, "agent", "both", "default")
    with pytest.raises(KitaruUsageError, match="to itself"):
        promoted(lock, "agent", "canary", "canary")
    with pytest.raises(KitaruSelectorError, match="no tag canry; did you mean 'canary'"):
        promoted(lock, "agent", "canry", "default")
    lock = after(lock, *promoted(lock, "agent", "canary", "default"))
    assert promoted(lock, "agent", "canary", "default") == ()


def test_a_holder_can_not_be_deleted() -> None:
    """Every exclusive tag of the version is named, with the commands that move them to the newest other one."""
    lock = tag(tag(state(), "stable", 1, exclusive=True), "benchmark", 1)
    with pytest.raises(KitaruStateError, match="holds the exclusive tags default, stable") as caught:
        check_deletable(live_flow(lock, "agent"), table(3, deleted=(3,)), 1)
    assert caught.value.hint == (
        "move it first: kitaru flow tag agent default --version 2 --exclusive "
        "&& kitaru flow tag agent stable --version 2 --exclusive"
    )
    with pytest.raises(KitaruStateError, match="no other version"):
        check_deletable(live_flow(lock, "agent"), table(1), 1)
    check_deletable(live_flow(lock, "agent"), table(), 2)


def drop(lock: Lockfile, version: int, table: str) -> Drop:
    return Drop(kind="drop", flow="agent", version=version, table=table, expects=lock.flows["agent"].table)


def test_labels_go_with_their_version() -> None:
    """A label loses a deleted version, and is gone where that was the last one."""
    lock = tag(tag(tag(state(), "benchmark", 2), "benchmark", 3), "only", 2)
    lock = after(lock, drop(lock, 2, digest(b"new table")))
    assert (led(lock, "benchmark"), led(lock, "only")) == ((3,), None)


def test_flows_that_are_not_there() -> None:
    """A flow that was renamed, removed, or never was, has no routes to move."""
    lock = after(state(), Rename(kind="rename", flow="researcher", was="agent", expects=3))
    for name, words in (("agent", "was renamed to researcher"), ("resercher", "did you mean 'researcher'?")):
        with pytest.raises(KitaruSelectorError) as caught:
            tagged(lock, name, "stable", holder("agent", 1), exclusive=True)
        assert words in caught.value.message


# --- rollback ---------------------------------------------------------------------------------------------------------


def test_rollback_of_a_label_or_to_where_it_is() -> None:
    """Only exclusive routes are rolled back; there already is nothing to do; the manifest's own word needs no hold."""
    lock = tag(state(), "benchmark", 1)
    with pytest.raises(KitaruUsageError, match="is a shared label"):
        rolled_back(lock, "agent", "benchmark", (holder("agent", 2),))
    assert rolled_back(lock, "agent", "default", (holder("agent", 1),)) == ()
    (edit,) = rolled_back(lock, "agent", "default", (holder("agent", 2),), said=Pin(2))
    assert isinstance(edit, Move) and edit.hold is None
    (edit,) = rolled_back(lock, "agent", "default", (holder("agent", 2),), said=Pin(3))
    assert isinstance(edit, Move) and edit.hold is not None


# --- what a manifest says ---------------------------------------------------------------------------------------------


def test_routes_and_what_a_manifest_says_of_them() -> None:
    """A number, a list, or weights; head agrees where it is that version."""
    one, two = holder("agent", 1, 90), holder("agent", 2, 10)
    split = Route(holders=(two, one))
    assert wish_of(split) == Split(((1, 90), (2, 10)))
    assert wish_of(Route(holders=(holder("agent", 2),))) == Pin(2)
    assert wish_of(Route(holders=(holder("agent", 2),), exclusive=False)) == Label((2,))
    assert agrees(Split(((None, 10), (1, 90))), split, 2) and not agrees(Split(((None, 10), (1, 90))), split, 3)
    assert agrees(Head(), Route(holders=(holder("agent", 2),)), 2)
    assert not agrees(Head(), Route(holders=(holder("agent", 2),)), None)
    assert agrees(Label((2, 1)), Route(holders=(holder("agent", 1), holder("agent", 2)), exclusive=False), None)
    assert agrees(None, None, 1) and not agrees(None, split, 1) and not agrees(Pin(1), None, 1)


# --- any sequence of verbs --------------------------------------------------------------------------------------------

TAGS = ("default", "stable", "benchmark")
NUMBERS = st.integers(1, 6)
VERBS = st.one_of(
    st.tuples(st.just("mint")),
    st.tuples(st.just("tag"), st.sampled_from(TAGS), NUMBERS, st.booleans()),
    st.tuples(st.just("untag"), st.sampled_from(TAGS), st.none() | NUMBERS),
    st.tuples(st.just("promote"), st.sampled_from(TAGS), st.sampled_from(TAGS)),
    st.tuples(st.just("rollback"), st.sampled_from(TAGS), NUMBERS),
    st.tuples(st.just("delete"), NUMBERS),
)


class World:
    """A flow, its version table, and verbs that may be refused."""

    def __init__(self) -> None:
        self.lock, self.versions = state(versions=1), table(1)
        self.refused = 0

    def there(self, version: int) -> None:
        found = self.versions.release(version)
        if found is None or found.deleted:
            raise KitaruSelectorError("no such version")

    def edits(self, verb: str, *words: Any) -> Edits:
        lock = self.lock
        match verb, *words:
            case ("mint",):
                number = lock.flows["agent"].latest + 1
                row = Release(version=number, snapshot=holder("agent", number).snapshot, source="s", at="t", by="Ann")
                self.versions = self.versions.adding(row)
                return (mint("agent", number, deletions=lock.flows["agent"].deletions),)
            case "tag", name, version, exclusive:
                self.there(version)
                return tagged(lock, "agent", name, holder("agent", version), exclusive=exclusive)
            case "untag", name, version:
                return untagged(lock, "agent", name, version)
            case "promote", source, name:
                return promoted(lock, "agent", source, name)
            case "rollback", name, version:
                self.there(version)
                return rolled_back(lock, "agent", name, (holder("agent", version),))
            case _, version:
                self.there(version)
                check_deletable(live_flow(lock, "agent"), self.versions, version)
                self.versions = self.versions.deleting(version, at="t", by="Ann")
                return (drop(lock, version, digest(self.versions.canonical())),)

    def do(self, *words: Any) -> None:
        try:
            edits = self.edits(*words)
        except KitaruError as error:
            assert error.hint or "no such version" in error.message
            self.refused += 1
            return
        following = next_lockfile(self.lock, edits, at="t", by="Ann")
        assert isinstance(following, Lockfile), (words, following)
        self.lock = following

    def check(self) -> None:
        routes = live_flow(self.lock, "agent").routes
        assert routes["default"].exclusive
        for route in routes.values():
            assert route.holders
            assert len(route.holders) == 1 or not route.exclusive
            assert route.holders == tuple(sorted(route.holders, key=lambda one: one.version))
            for one in route.holders:
                found = self.versions.release(one.version)
                assert found is not None and not found.deleted and found.snapshot == one.snapshot


@given(st.lists(VERBS, max_size=25))
@settings(max_examples=200, deadline=None)
def test_any_sequence_of_verbs(verbs: list[tuple[Any, ...]]) -> None:
    """default is exclusive and never gone; an exclusive tag has one holder; no tag leads to a deleted version."""
    world = World()
    for words in verbs:
        world.do(*words)
        world.check()
