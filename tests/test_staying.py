"""What ends a hold beside the manifest's agreement, and what keeps a route from all that stands on a bad commit."""

from __future__ import annotations

import pytest

from kitaru.cli.views.plan_markdown import plan_markdown
from kitaru.core.holding import Origins, behind, newer, returns, why_freed
from kitaru.core.route_changes import way_past_end
from kitaru.model.lockfile import Release
from kitaru.model.route import Assignment, HeldOff, Hold, Route, parse_target
from kitaru.model.snapshot import Commit
from kitaru.source.git import GitSource
from tests.applying import new_version, routed
from tests.lock_strategies import holder
from tests.repository import Repository, git, kitaru

BAD, END = "b" * 40, "e" * 40
HELD = Route(holders=(holder("agent", 1),), hold=Hold(left=(holder("agent", 2),)))
FIFTH: tuple[Assignment, ...] = (holder("agent", 5),)


def rows(*commits: Commit | None) -> Origins:
    """Versions 2, 3, … of these commits."""
    made = [
        Release(version=number, snapshot="s", source="s", at="", by="", commit=commit)
        for number, commit in enumerate(commits, 2)
    ]
    return lambda versions: [row for row in made if row.version in versions]


def default(repository: Repository) -> Route:
    return repository.client().project.releases.head().flows["agent"].routes["default"]


def head(repository: Repository) -> str:
    return git(repository.folder, "rev-parse", "HEAD").strip()


def revert(repository: Repository, commit: str) -> str:
    git(repository.folder, "revert", "--no-edit", commit)
    return head(repository)


# --- the rules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("commit", "has", "stays"),
    [
        (Commit(sha=BAD), {BAD}, True),
        (Commit(sha=BAD), {BAD, END}, False),
        (Commit(sha=BAD), set(), False),
        (Commit(sha=BAD, dirty=True), {BAD}, False),
        (None, {BAD}, False),
    ],
)
def test_who_has_the_bad_commit_and_not_the_end_is_behind(commit: Commit | None, has: set[str], stays: bool) -> None:
    """A version of no commit, or of changes that no commit has, says nothing of others."""
    mark = HeldOff(left=(holder("agent", 2),), by="Ann", reason="bad", commit=END)
    found = behind((mark,), rows(commit), has.__contains__)
    assert (found is not None) == stays
    if found is not None:
        assert found.text == (
            "this commit has the release that Ann rolled back (bad), v2 from bbbbbbbbbbbb, and not eeeeeeeeeeee, with "
            "which the rollback ended: git pull, or merge that"
        )
        way = "or, where that commit was squashed or rebased away: write default: 5 and merge"
        by_hand = ", or kitaru flow tag agent default --version 5 --exclusive"
        assert way_past_end("agent", "default", FIFTH, found, protected=True) == way
        assert way_past_end("agent", "default", FIFTH, found, protected=False) == way + by_hand
    assert behind((mark.model_copy(update={"commit": ""}),), rows(commit), has.__contains__) is None


@pytest.mark.parametrize(("wish", "own"), [(3, True), (2, False), ("head", False), ({1: 50, 3: 50}, True), ([3], True)])
def test_only_numbers_past_the_bad_one_are_a_word_of_their_own(wish: object, own: bool) -> None:
    """Beside the versions that are there already."""
    assert newer(parse_target(wish), (1,), (holder("agent", 2),)) == own


def test_a_revert_frees_nothing_that_a_rollback_took_off() -> None:
    """Not the bad content, whatever Git says; nor with half of the reverts, or after an earlier rollback."""
    wish, origins = parse_target("head"), rows(Commit(sha=BAD), Commit(sha=END))
    assert why_freed(HELD, (), wish, FIFTH, origins, {BAD}.__contains__).startswith("bbbbbbbbbbbb was reverted")
    assert why_freed(HELD, (), wish, FIFTH, origins, lambda _sha: False) == ""
    assert why_freed(HELD, (), wish, FIFTH, rows(Commit(sha=BAD, dirty=True)), lambda _sha: True) == ""
    back = (Assignment(version=5, snapshot=holder("agent", 2).snapshot),)
    assert returns(HELD, (), back)
    assert why_freed(HELD, (), wish, back, origins, lambda _sha: True) == ""
    first = HeldOff(left=(holder("agent", 3),), goes_on=True)
    assert why_freed(HELD, (first,), wish, FIFTH, origins, {BAD}.__contains__) == ""
    assert why_freed(HELD, (first,), wish, FIFTH, origins, {BAD, END}.__contains__) != ""
    again = HeldOff(left=(holder("agent", 2),), commit=END)
    assert why_freed(HELD, (again,), wish, FIFTH, origins, lambda _sha: True) == ""


# --- over a real repository and store ---------------------------------------------------------------------------------


def test_git_says_what_was_reverted(repository: Repository) -> None:
    """By its own line, unless that commit was reverted too; words beside it, and other histories, count for nothing."""
    source, good = GitSource(repository.folder), head(repository)
    new_version(repository, "bad")
    bad = head(repository)
    repository.write("note.txt", "1")
    repository.commit(f"As said:\n\n    This reverts commit {bad}.")
    assert not source.reverted(head(repository), bad)
    first = revert(repository, bad)
    assert source.reverted(first, bad)
    assert not source.reverted(first, good)
    assert not source.reverted(bad, first)
    again = revert(repository, first)
    assert not source.reverted(again, bad)
    assert source.reverted(revert(repository, again), bad)
    assert not source.reverted(first, "f" * 40)


@pytest.fixture
def rolled_back(repository: Repository) -> Repository:
    """v1, the bad v2, rolled back; then a commit that changes another file."""
    repository.apply()
    new_version(repository, "bad")
    repository.apply()
    kitaru("rollback", "agent", "-m", "bad", cwd=repository.folder).must()
    repository.write("flows/other.py", "MORE = 1\n")
    repository.commit("more")
    return repository


def test_a_revert_among_other_changes_ends_the_hold(rolled_back: Repository) -> None:
    """The content is a new one then. Until there is a revert, plan names the ways out; a reverted one is none."""
    bad = git(rolled_back.folder, "rev-parse", "HEAD~1").strip()
    way = "to release v3: write default: 3 and merge, or kitaru flow tag agent default --version 3 --exclusive"
    assert way in kitaru("plan", cwd=rolled_back.folder).must().out
    assert way in plan_markdown(rolled_back.plan())
    undone = revert(rolled_back, bad)
    (move,) = rolled_back.plan().flows[0].moves
    assert move.reason == f"{bad[:12]} was reverted: the rollback's hold ends"
    git(rolled_back.folder, "revert", "--no-edit", undone)
    assert [one.tag for one in rolled_back.plan().flows[0].held] == ["default"]
    git(rolled_back.folder, "reset", "-q", "--hard", undone)
    rolled_back.apply()
    assert (default(rolled_back).versions, default(rolled_back).hold) == ((3,), None)
    (mark,) = rolled_back.client().project.releases.head().flows["agent"].held_off["default"]
    assert mark.commit == undone


def test_plan_at_the_bad_commit_names_the_way_to_stay(repository: Repository) -> None:
    """Not only the one that releases it after all."""
    repository.apply()
    new_version(repository, "bad")
    repository.apply()
    kitaru("rollback", "agent", cwd=repository.folder).must()
    shown = kitaru("plan", cwd=repository.folder).must().out
    assert "to keep v1: write default: 1, or revert the bad commit, and merge; to release v2 all the same: " in shown


def test_a_number_past_the_bad_one_ends_the_hold(rolled_back: Repository) -> None:
    """In one step with the version that it names."""
    rolled_back.manifest(routed("{default: 3}"))
    rolled_back.commit()
    rolled_back.apply()
    assert (default(rolled_back).versions, default(rolled_back).hold) == ((3,), None)


def test_what_was_built_on_top_of_the_bad_commit_stays_off(rolled_back: Repository) -> None:
    """Also after the hold; where its end is on no branch any more, a newer number goes on, and head after it."""
    rolled_back.apply()
    stale = head(rolled_back)
    git(rolled_back.folder, "revert", "--no-edit", stale, f"{stale}~1")
    rolled_back.apply()
    assert default(rolled_back).hold is None
    git(rolled_back.folder, "reset", "-q", "--hard", stale)
    rolled_back.apply()
    assert default(rolled_back).versions == (1,)
    shown = kitaru("plan", cwd=rolled_back.folder).must().out
    assert "route default stays at v1: this commit has the release that Ann rolled back (bad), v2 from" in shown
    assert "squashed or rebased away: write default: 3 and merge" in shown
    rolled_back.write("flows/other.py", "MORE = 2\n")
    rolled_back.manifest(routed("{default: 4}"))
    rolled_back.commit()
    (told,) = [one for one in rolled_back.plan().flows[0].consequences if one.kind == "rolled_back"]
    assert "default: this commit has the release that Ann rolled back (bad), v2 from" in told.text
    rolled_back.apply()
    assert default(rolled_back).versions == (4,)
    rolled_back.write("flows/other.py", "MORE = 3\n")
    rolled_back.manifest(routed("{default: head}"))
    rolled_back.commit()
    rolled_back.apply()
    assert default(rolled_back).versions == (5,)
