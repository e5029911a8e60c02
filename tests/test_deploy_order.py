"""Rollback and the order of deploys: a hold keeps a route, and head moves a route forward only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitaru import KitaruClient
from kitaru.cli.views.plan import plan_markdown
from kitaru.client.project import read_plan
from kitaru.core.commit import next_lockfile
from kitaru.core.rollback import (
    ROLLBACK,
    WayBack,
    backward,
    held,
    held_versions,
    hold_of,
    rollback_words,
    steps,
    way_back,
    why_not_after,
)
from kitaru.errors import KitaruConflictError, KitaruManifestError, KitaruStateError
from kitaru.model.lockfile import Broken, Edit, Lockfile, Move
from kitaru.model.route import Assignment, Hold, Route, parse_target
from tests.applying import everything, generation, new_version, routed
from tests.lock_strategies import AT, BY, after, holder, mint, move
from tests.repository import Repository, git, kitaru

C1 = "1" * 40


def numbered(*versions: int) -> tuple[Assignment, ...]:
    return tuple(holder("agent", version) for version in versions)


def on_hold(at: int = 1, *left: int) -> Route:
    return Route(holders=numbered(at), by="Ann", at=AT, floor=C1, hold=Hold(left=numbered(*left), reason="slow"))


# --- the rule of holds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "wanted", "contains", "stays"),
    [
        (1, 1, False, False),  # A number ends it, from any commit,
        (3, 3, False, False),
        (2, 2, True, True),  # but not the one that was rolled back.
        ("head", 1, True, False),  # head ends it if it builds what the route leads to,
        ("head", 1, False, True),  # from a commit that contains the floor,
        ("head", 1, None, True),  # as far as the clone can tell.
        ("head", 2, True, True),
        ("head", 3, True, True),
    ],
)
def test_what_ends_a_hold(target: object, wanted: int, contains: bool | None, stays: bool) -> None:
    """A number that was not rolled back, or head where it builds what the route leads to."""
    hold = held("default", parse_target(target), on_hold(1, 2), numbered(wanted), lambda _commit: contains)
    assert (hold is not None) == stays


def test_a_hold_says_how_it_ends() -> None:
    """By the number of a good version; never by that of the one rolled back."""
    head, route = parse_target("head"), on_hold(1, 2)
    fixed = held("default", head, route, numbered(3), lambda _commit: True)
    bad = held("default", head, route, numbered(2), lambda _commit: True)
    old = held("default", head, route, numbered(1), lambda _commit: False)
    assert fixed and bad and old
    assert "write default: 3 and merge, or kitaru apply --force" in fixed.way
    assert bad.way == "to keep v1: write default: 1, or revert the bad commit, and merge"
    assert old.why == f"this commit does not contain {C1[:12]}"
    assert (fixed.reason, fixed.by, fixed.at) == ("slow", "Ann", AT)


def test_a_second_rollback_holds_what_both_left() -> None:
    """The first bad version stays off the route, too."""
    assert hold_of(on_hold(2, 3), numbered(1), "worse") == Hold(left=numbered(3, 2), reason="worse")
    assert hold_of(on_hold(2, 3), numbered(3), "").left == numbered(2)


def test_what_was_rolled_back_is_known_by_number_and_by_content() -> None:
    """A route that is not on hold remembers nothing."""
    copy = Assignment(version=7, snapshot=holder("agent", 2).snapshot)
    event = "rolled back by Ann on 2026-11-21: slow"
    assert rollback_words(on_hold(1, 2), numbered(2, 3)) == (f"v2 was {event}",)
    assert rollback_words(on_hold(1, 2), (copy,)) == (f"v7 has the content of v2, which was {event}",)
    assert rollback_words(on_hold(1, 2).model_copy(update={"hold": None}), numbered(2)) == ()
    assert rollback_words(None, numbered(2)) == ()


def test_no_edit_ends_a_hold_by_accident() -> None:
    """A move that was planned before the rollback is refused; one that ends the hold says so."""
    lock = after(Lockfile(project="research"), mint("agent", 1), move("agent", "default", 1))
    back = move("agent", "default", 1, expects=(1,)).model_copy(update={"hold": Hold(left=numbered(2))})
    lock = after(lock, mint("agent", 2), back)
    stale = move("agent", "default", 2, expects=(1,))
    assert next_lockfile(lock, [stale], at=AT, by=BY) == (Broken("agent", "default", "a rollback holds it", 1, BY, AT),)
    meant = stale.model_copy(update={"ends_hold": True, "floor": C1})
    route = after(lock, meant).flows["agent"].routes["default"]
    assert (route.hold, route.floor, route.versions) == (None, C1, (2,))


def test_no_hint_suggests_what_was_rolled_back() -> None:
    """As long as the hold lives."""
    lock = after(Lockfile(project="research"), mint("agent", 1), mint("agent", 2, expects=0))
    state = lock.flows["agent"].model_copy(update={"routes": {"default": on_hold(1, 2)}})
    assert held_versions(state) == {2}


# --- the rule of order ------------------------------------------------------------------------------------------------


def test_forward_is_from_a_commit_that_contains_the_floor() -> None:
    """A route that stays, is new, or was never set by apply goes anywhere."""
    three, one = numbered(3), numbered(1)
    assert backward("default", three, C1, one, lambda _commit: True) == ""
    assert backward("default", three, C1, three, lambda _commit: False) == ""
    assert backward("default", None, "", one, lambda _commit: False) == ""
    assert backward("default", three, "", one, lambda _commit: False) == ""
    assert backward("default", three, C1, one, lambda _commit: False) == (
        "default would move from v3 to v1: this commit does not contain 111111111111, from which it was last set"
    )
    assert "fetch-depth: 0" in why_not_after(C1, lambda _commit: None)


# --- over a real repository and store ---------------------------------------------------------------------------------


def theirs(repository: Repository, bob: Repository) -> KitaruClient:
    return bob.client(store=f"file://{repository.store_folder}")


def place(repository: Repository) -> tuple[str, ...]:
    return ("--store", f"file://{repository.store_folder}")


def route_of(repository: Repository, tag: str = "default", flow: str = "agent") -> Route:
    return repository.client().session.releases.head().flows[flow].routes[tag]


def head(repository: Repository) -> str:
    return git(repository.folder, "rev-parse", "HEAD")


@pytest.fixture
def three(repository: Repository, own_world: Path) -> Repository:
    """Ann applied v1, v2 and v3; Bob's clone, which is returned, stands at the commit of v1."""
    repository.apply()
    bob = repository.clone(own_world / "bob")
    for word in ("two", "three"):
        new_version(repository, word)
        repository.apply()
    return bob


def test_an_older_commit_is_refused(repository: Repository, three: Repository) -> None:
    """A CI job run again moves nothing; plan and apply name the commit, the way back, and --force."""
    assert route_of(repository).floor == head(repository)
    before = everything(repository.store_folder)
    refusal = f"agent: default would move from v3 to v1: this commit does not contain {head(repository)[:12]}"
    plan = theirs(repository, three).plan()
    (guard,) = plan.guards
    assert guard.startswith(refusal)
    assert "kitaru rollback agent;" in guard and guard.endswith("kitaru apply --force")
    assert refusal in plan_markdown(plan).replace("`", "")
    assert refusal in kitaru("plan", *place(repository), cwd=three.folder).must().out
    kitaru("apply", "--yes", *place(repository), cwd=three.folder).refused(refusal, "kitaru rollback agent", code=1)
    with pytest.raises(KitaruStateError, match="kitaru apply --force"):
        theirs(repository, three).apply()
    assert everything(repository.store_folder) == before


def test_a_commit_on_top_goes_forward(repository: Repository, three: Repository) -> None:
    """After a pull the same clone moves the route, and its commit is the floor from then on."""
    git(three.folder, "pull", "-q")
    new_version(three, "four")
    theirs(repository, three).apply()
    assert route_of(repository).versions == (4,)
    assert route_of(repository).floor == head(three)


def test_force_moves_it_and_says_what_it_overrides(repository: Repository, three: Repository) -> None:
    """In the plan, as a severe consequence, and in the command that the plan prints."""
    plan = theirs(repository, three).plan(force=True)
    assert plan.guards == ()
    (told,) = [one for one in plan.flows[0].consequences if one.kind == "override"]
    assert told.severe
    assert f"does not contain {head(repository)[:12]}" in told.text
    shown = kitaru("plan", "--force", *place(repository), cwd=three.folder).must().out
    assert "carry it out: kitaru apply --force" in shown
    kitaru("apply", "--force", "--yes", *place(repository), cwd=three.folder).must()
    assert route_of(repository).versions == (1,)
    assert route_of(repository).floor == head(three)


def test_a_forced_plan_is_forced_from_its_file(repository: Repository, three: Repository) -> None:
    """What its readers saw is carried out."""
    saved = read_plan(theirs(repository, three).plan(force=True).canonical(), "plan.json")
    theirs(repository, three).apply(plan=saved, saved=True)
    assert route_of(repository).versions == (1,)


def test_a_number_moves_it_from_any_commit(repository: Repository, three: Repository) -> None:
    """It is the author's own word; the plan says which commit this one lacks."""
    three.manifest(routed("{default: 2}"))
    three.commit()
    (move,) = theirs(repository, three).plan().flows[0].moves
    assert move.reason.startswith("the manifest says so, though this commit does not contain")
    theirs(repository, three).apply()
    assert route_of(repository).versions == (2,)


def test_a_number_is_a_floor_too(repository: Repository, three: Repository) -> None:
    """What main pins, an older commit's head does not move."""
    repository.manifest(routed("{default: 2}"))
    repository.commit()
    repository.apply()
    with pytest.raises(KitaruStateError, match="from v2 to v1"):
        theirs(repository, three).apply()


def test_a_shared_target_only_warns(repository: Repository, three: Repository) -> None:
    """forward: false, at the top of the manifest or in a target's overlay."""
    overlay = f"targets: {{staging: {{store: 'file://{repository.store_folder}', forward: false}}}}\n"
    for text, target in (("forward: false\n", None), (overlay, "staging")):
        three.manifest(routed("{default: head}") + text)
        three.commit()
        client = theirs(repository, three) if target is None else three.client(target=target)
        plan = client.plan()
        assert plan.guards == ()
        assert any("default would move from v3 to v1" in one and "forward: false" in one for one in plan.warnings)
    client.apply()
    assert route_of(repository).versions == (1,)


def test_a_shallow_clone_that_can_not_tell_is_refused(
    repository: Repository, three: Repository, own_world: Path
) -> None:
    """With fetch-depth: 0 in the message; with the history fetched it goes on."""
    new_version(repository, "four")
    git(own_world, "clone", "-q", "--depth", "1", f"file://{repository.folder}", "shallow")
    shallow = Repository(own_world / "shallow")
    with pytest.raises(KitaruStateError, match="fetch-depth: 0"):
        theirs(repository, shallow).apply()
    git(shallow.folder, "fetch", "-q", "--unshallow")
    theirs(repository, shallow).apply()
    assert route_of(repository).versions == (4,)


def test_only_flows_that_would_move_are_asked_about(repository: Repository, three: Repository) -> None:
    """A quiet plan asks Git about no commit."""
    client = repository.client()
    workshop = client.project.workshop(allow_dirty=False)
    workshop.source.contains = None  # type: ignore[assignment, method-assign]
    repository.commit("nothing new")
    assert client.plan().is_empty


# --- rollback and order together --------------------------------------------------------------------------------------


@pytest.fixture
def bad(repository: Repository, own_world: Path) -> Repository:
    """Ann applied v1 and the bad v2, and rolled back; Bob's clone stands at v1's commit."""
    repository.apply()
    bob = repository.clone(own_world / "bob")
    new_version(repository, "bad")
    repository.apply()
    kitaru("rollback", "agent", "-m", "it loses orders", cwd=repository.folder).must()
    return bob


def test_the_pipeline_does_not_bring_the_bad_version_back(repository: Repository, bad: Repository) -> None:
    """Neither from its own commit, nor from one on top that fixes something else."""
    assert not repository.client().apply().changed
    new_version(repository, "unrelated")
    plan = repository.client().plan()
    (hold,) = plan.flows[0].held
    assert (hold.reason, [one.version for one in hold.wanted]) == ("it loses orders", [3])
    repository.apply()
    assert route_of(repository).versions == (1,)
    assert route_of(repository).hold is not None


def test_an_old_commit_that_agrees_does_not_end_the_hold(repository: Repository, bad: Repository) -> None:
    """It builds the version that the route leads to only because it is old."""
    plan = theirs(repository, bad).plan()
    assert plan.is_empty
    assert plan.flows[0].held[0].why == f"this commit does not contain {head(repository)[:12]}"
    assert not theirs(repository, bad).apply().changed
    assert route_of(repository).hold is not None


def test_the_revert_ends_the_hold_and_is_the_floor(repository: Repository, bad: Repository) -> None:
    """The bad commit's job, run again after that, is refused."""
    stale = repository.clone(bad.folder.parent / "stale")
    git(repository.folder, "revert", "--no-edit", "HEAD")
    (move,) = repository.client().plan().flows[0].moves
    assert move.reason == "the manifest agrees: the rollback's hold ends"
    repository.apply()
    assert (route_of(repository).hold, route_of(repository).floor) == (None, head(repository))
    assert "default stays at v1, the hold ends" in kitaru("history", "agent", cwd=repository.folder).must().out
    with pytest.raises(KitaruStateError, match="from v1 to v2"):
        theirs(repository, stale).apply()
    assert "sound" in kitaru("store", "verify", "--deep", cwd=repository.folder).must().out


def test_a_number_ends_the_hold_and_is_the_floor(repository: Repository, bad: Repository) -> None:
    """A fix is released by its number; then head goes on from there."""
    stale = repository.clone(bad.folder.parent / "stale")
    new_version(repository, "fixed")
    repository.manifest(routed("{default: 3}"))
    repository.commit()
    (move,) = repository.client().plan().flows[0].moves
    assert move.reason == "the manifest names it: the rollback's hold ends"
    repository.apply()
    assert (route_of(repository).versions, route_of(repository).hold) == ((3,), None)
    with pytest.raises(KitaruStateError, match="from v3 to v2"):
        theirs(repository, stale).apply()
    repository.manifest(routed("{default: head}"))
    repository.commit()
    new_version(repository, "next")
    repository.apply()
    assert route_of(repository).versions == (4,)


def test_the_number_of_the_bad_version_does_not_end_it(repository: Repository, bad: Repository) -> None:
    """Where the manifest names it already, rollback would hold nothing."""
    repository.manifest(routed("{default: 2}"))
    repository.commit()
    assert not repository.client().apply().changed
    assert route_of(repository).versions == (1,)


def test_force_releases_it_again_and_says_so(repository: Repository, bad: Repository) -> None:
    """Who rolled it back, when and why is in the plan."""
    plan = repository.client().plan(force=True)
    (told,) = [one for one in plan.flows[0].consequences if one.kind == "override"]
    assert told.text.startswith("default: v2 was rolled back by Ann on ")
    assert "it loses orders" in told.text
    repository.client().apply(force=True)
    assert (route_of(repository).versions, route_of(repository).hold) == ((2,), None)


def test_flow_tag_says_what_it_overrides(repository: Repository, bad: Repository) -> None:
    """A person's own word is allowed."""
    tag = ("flow", "tag", "agent", "default", "--exclusive", "--no-manifest", "--version")
    done = kitaru(*tag, "2", "-o", "json", cwd=repository.folder).must().json["item"]
    assert done["hold_ended"]
    assert [one.partition(" on ")[0] for one in done["rolled_back"]] == ["v2 was rolled back by Ann"]


def test_a_saved_plan_that_ends_a_hold_survives_a_merge(repository: Repository, bad: Repository) -> None:
    """Planned at one commit, carried out at another one of the same files: the floor is the latter."""
    git(repository.folder, "revert", "--no-edit", "HEAD")
    saved = read_plan(repository.plan().canonical(), "plan.json")
    merged = repository.commit("as merged")
    assert repository.client().apply(plan=saved, saved=True).changed
    assert route_of(repository).floor == merged


def test_a_saved_plan_is_not_carried_out_from_another_history(repository: Repository, bad: Repository) -> None:
    """The same files in a clone that lacks the bad commit."""
    git(repository.folder, "revert", "--no-edit", "HEAD")
    saved = read_plan(repository.plan().canonical(), "plan.json")
    with pytest.raises(KitaruConflictError, match=r"out of date: it was made at commit \w+; at \w+ this differs"):
        theirs(repository, bad).apply(plan=saved, saved=True)


def test_a_rename_that_was_undone_obeys_the_same_rule(repository: Repository, own_world: Path) -> None:
    """A commit from before the way back is refused; --force overrides."""

    def renamed(was: str, name: str) -> None:
        text = (repository.folder / "kitaru.yaml").read_text().partition("moved:")[0]
        repository.manifest(text.replace(f"  {was}:\n", f"  {name}:\n") + f"moved: {{{was}: {name}}}\n")
        repository.commit(f"rename {was}")
        repository.apply()

    repository.apply()
    renamed("agent", "researcher")
    bob = repository.clone(own_world / "bob")
    renamed("researcher", "agent")
    undone = head(repository)[:12]
    with pytest.raises(KitaruManifestError) as refused:
        theirs(repository, bob).plan()
    assert f"can't become researcher again: this commit does not contain {undone}" in str(refused.value)
    assert "kitaru apply --force" in refused.value.problems[0].hint
    at = generation(repository)
    theirs(repository, bob).apply(force=True)
    assert generation(repository) == at + 1


# --- the way back -----------------------------------------------------------------------------------------------------

Verb = tuple[str, int]
"""("tag" or "rollback", the version led to)."""

THERE = frozenset(range(1, 10))


def log_of(moves: Sequence[Verb]) -> list[tuple[Sequence[Edit], str]]:
    """Edits and verb of each generation, newest first; the oldest has the flow's first version."""
    log: list[tuple[Sequence[Edit], str]] = []
    at: tuple[int, ...] | None = None
    for verb, version in moves:
        moved = move("agent", "default", version, expects=at)
        log.append(((moved,) if at else (mint("agent", 1), moved), verb))
        at = (version,)
    return log[::-1]


def retraced(moves: Sequence[Verb], there: Collection[int] = THERE) -> WayBack:
    return way_back(steps(log_of(moves), {"agent"}, "default"), numbered(moves[-1][1]), there)


def back(moves: Sequence[Verb], there: Collection[int] = THERE) -> int | None:
    found = retraced(moves, there).holders
    return found[0].version if found else None


def moves_of(text: str) -> list[Verb]:
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
    assert back(moves_of(steps)) == expected


def test_deleted_versions_are_passed_over() -> None:
    """On to the one before, and it says so; with nothing before, there is nothing."""
    way = retraced(moves_of("1 2 3 4"), there={1, 2, 4})
    assert (way.holders[0].version, way.skipped) == (2, ("v3, which was deleted",))
    assert back(moves_of("1 2"), there={2}) is None


def test_what_was_passed_over_is_told() -> None:
    """Versions that rollbacks left, newest first."""
    assert retraced(moves_of("1 2 3 <2 4 <2")).skipped == (
        "v4, which a rollback left",
        "v3, which a rollback left",
    )
    assert retraced(moves_of("1 2 3")).skipped == ()


def test_moves_of_others_say_nothing() -> None:
    """Another flow, another tag, and a move that changes no holder are not steps of this route."""
    others = (
        move("agent", "stable", 2, expects=(2,)),
        move("greeter", "stable", 2, expects=(1,)),
        move("agent", "x", 2),
    )
    assert list(steps([(others, "tag")], {"agent", "researcher"}, "stable")) == []
    renamed = move("agent", "stable", 2, expects=(1,)).model_copy(update={"flow": "researcher"})
    (step,) = steps([((renamed,), "tag")], {"agent", "researcher"}, "stable")
    assert way_back([step], numbered(2), THERE).holders == numbered(1)


def test_a_shared_label_is_no_place_to_go_back_to() -> None:
    """Where several versions held the tag, the search ends and says why."""
    both = (holder("agent", 1), holder("agent", 2))
    made = Move(kind="move", flow="agent", tag="stable", holders=(holder("agent", 3),), expects=both)
    way = way_back(steps([((made,), "tag")], {"agent"}, "stable"), numbered(3), THERE)
    assert (way.holders, way.label) == ((), True)


def test_a_divided_route_is_a_place_like_any_other() -> None:
    """A rollback restores the percents, unless one of the versions is gone."""
    divided: tuple[Assignment, ...] = (holder("agent", 1, 90), holder("agent", 2, 10))
    made = Move(kind="move", flow="agent", tag="stable", holders=(holder("agent", 3),), expects=divided)
    for there, expected in ((THERE, divided), ({1, 3}, ())):
        assert way_back(steps([((made,), "tag")], {"agent"}, "stable"), numbered(3), there).holders == expected


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.frozensets(st.integers(1, 5)))
@settings(max_examples=200, deadline=None)
def test_rollbacks_in_a_row(versions: list[int], gone: frozenset[int]) -> None:
    """They end, never come to a version twice or to a deleted one, and each was led to before."""
    moves: list[Verb] = [("tag", version) for version, _ in groupby(versions)]
    there = THERE - gone
    seen = [moves[-1][1]]
    for _ in range(6):
        found = back(moves, there)
        if found is None:
            break
        assert found in there
        assert found not in seen
        assert ("tag", found) in moves
        seen.append(found)
        moves.append((ROLLBACK, found))
    assert back(moves, there) is None


@given(st.lists(st.tuples(st.sampled_from(("tag", ROLLBACK)), st.integers(1, 5)), min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_the_first_rollback_undoes_the_last_move(moves: list[Verb]) -> None:
    """Whatever happened before, and whoever made it, a move that was no rollback is simply undone."""
    last = moves[-1][1]
    assert back([*moves, ("tag", last + 10)], range(1, 20)) == last
