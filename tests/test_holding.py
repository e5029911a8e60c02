"""A hold ends when somebody means it: not by a stale clone, or an old job run again, whose head agrees by accident."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from kitaru import KitaruClient
from kitaru.cli.views.plan_markdown import drift_markdown, plan_markdown
from kitaru.client.project import read_plan
from kitaru.core.holding import why_still_held
from kitaru.errors import KitaruConflictError
from kitaru.model.lockfile import Release
from kitaru.model.plan import Plan
from kitaru.model.route import Hold, Label, Route, RouteTarget, Split, parse_target
from kitaru.model.snapshot import Commit
from tests.applying import everything, new_version, routed
from tests.lock_strategies import holder
from tests.repository import Repository, Watched, git, kitaru

BAD = Release(version=5, snapshot="s", source="s", at="", by="", commit=Commit(sha="91c1960" + "0" * 33))

# --- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wish", ["head", {"head": 100}, ["head"], {4: 50, "head": 50}])
def test_head_ends_a_hold_only_from_a_commit_that_contains_the_bad_one(wish: object) -> None:
    """Alone or beside numbers; the versions asked about are those that the rollback took away."""
    route = Route(holders=(holder("agent", 4),), hold=Hold(left=(holder("agent", 4), holder("agent", 5))))
    asked: list[Collection[int]] = []

    def lacks(versions: Collection[int]) -> Sequence[Release]:
        asked.append(versions)
        return [BAD]

    said = why_still_held("default", route, parse_target(wish), lacks)
    assert said.startswith("this commit does not contain 91c196000000, whose v5 was rolled back")
    assert "write default: 4" in said
    assert asked == [{5}]
    assert why_still_held("default", route, parse_target(wish), lambda _versions: ()) == ""


@pytest.mark.parametrize("wish", [parse_target(4), Label((3, 4)), Split(((3, 10), (4, 90)))])
def test_a_number_is_a_word_of_its_own(wish: RouteTarget) -> None:
    """It ends the hold from wherever, and nothing is asked; nor is anything where no hold is."""

    def never(_versions: Collection[int]) -> Sequence[Release]:
        raise AssertionError("nothing is to be asked")

    held = Route(holders=(holder("agent", 4),), hold=Hold(left=(holder("agent", 5),)))
    assert why_still_held("default", held, wish, never) == ""
    free = held.model_copy(update={"hold": None})
    assert why_still_held("default", free, parse_target("head"), never) == ""


# --- over a real repository and store ---------------------------------------------------------------------------------


@pytest.fixture
def stale(repository: Repository, own_world: Path) -> Repository:
    """Ann applied v1, then the bad v2, and rolled back; Bob's clone stands at v1's commit. Both use Ann's store."""
    repository.apply()
    bob = repository.clone(own_world / "bob")
    new_version(repository, "bad")
    repository.apply()
    kitaru("rollback", "agent", "-m", "bad", cwd=repository.folder).must()
    return bob


def theirs(repository: Repository, bob: Repository) -> KitaruClient:
    return bob.client(store=f"file://{repository.store_folder}")


def route_of(repository: Repository, tag: str = "default") -> Route:
    return repository.client().project.releases.head().flows["agent"].routes[tag]


def test_an_apply_from_a_stale_clone_moves_nothing(repository: Repository, stale: Repository) -> None:
    """The hold stays, and says why in one line; so Ann's next apply does not bring the bad release back."""
    bad = git(repository.folder, "rev-parse", "HEAD")[:12]
    before = everything(repository.store_folder)
    client = theirs(repository, stale)
    plan = client.plan()
    assert plan.is_empty
    (held,) = plan.flows[0].held
    assert (held.tag, held.wanted, held.reason) == ("default", held.holders, "bad")
    assert held.why.startswith(f"this commit does not contain {bad}, whose v2 was rolled back")
    place = ("--store", f"file://{repository.store_folder}")
    done = kitaru("apply", "--yes", *place, cwd=stale.folder).must().out
    (line,) = [one for one in done.splitlines() if "route default held at v1" in one]
    assert f"(bad); this commit does not contain {bad}" in line
    assert "write default: 1" in line
    assert everything(repository.store_folder) == before
    repository.apply()
    assert route_of(repository).versions == (1,)
    assert route_of(repository).hold is not None


def test_drift_and_comments_say_the_same(repository: Repository, stale: Repository) -> None:
    """The held route is drift with that reason, and the way forward names no version that it leads to already."""
    plan = theirs(repository, stale).plan()
    (drift,) = plan.drift
    assert drift.text.startswith("default is held at v1 by a rollback; this commit does not contain")
    assert "whose v2 was rolled back" in plan_markdown(plan)
    assert "does not contain" in drift_markdown(plan)
    place = ("--store", f"file://{repository.store_folder}")
    shown = kitaru("plan", "--drift", *place, cwd=stale.folder).must(2).out
    assert "does not contain" in shown
    assert "--version N --exclusive" in shown


def test_after_a_pull_the_revert_ends_the_hold(repository: Repository, stale: Repository) -> None:
    """The commit that reverts the bad one contains it."""
    git(repository.folder, "revert", "--no-edit", "HEAD")
    git(stale.folder, "pull", "-q")
    client = theirs(repository, stale)
    (move,) = client.plan().flows[0].moves
    assert move.reason == "the manifest agrees: the rollback's hold ends"
    client.apply()
    assert route_of(repository).hold is None


def test_a_number_ends_the_hold_from_a_stale_clone(repository: Repository, stale: Repository) -> None:
    """``default: 1`` is no accident."""
    stale.manifest(routed("{default: 1}"))
    stale.commit()
    theirs(repository, stale).apply()
    assert route_of(repository).hold is None


def test_a_commit_that_a_shallow_clone_does_not_know_is_not_contained(
    repository: Repository, stale: Repository, own_world: Path
) -> None:
    """The revert alone, without its history, proves nothing; with the history fetched it does."""
    git(repository.folder, "revert", "--no-edit", "HEAD")
    git(own_world, "clone", "-q", "--depth", "1", f"file://{repository.folder}", "shallow")
    shallow = Repository(own_world / "shallow")
    (held,) = theirs(repository, shallow).plan().flows[0].held
    assert "fetch the whole history" in held.why
    git(shallow.folder, "fetch", "-q", "--unshallow")
    assert theirs(repository, shallow).plan().flows[0].held == ()
    assert theirs(repository, stale).plan().flows[0].held != ()


def test_a_saved_plan_does_not_end_a_hold_from_another_history(repository: Repository, stale: Repository) -> None:
    """The same files in a clone that does not hold the bad commit: what was planned after the revert is refused."""
    git(repository.folder, "revert", "--no-edit", "HEAD")
    plan = read_plan(repository.plan().canonical(), "plan.json")
    assert plan.moves
    client = theirs(repository, stale)
    with pytest.raises(KitaruConflictError, match=r"out of date: it was made at commit \w+; at \w+ this differs"):
        client.apply(plan=plan, saved=True)
    assert route_of(repository).hold is not None
    old = client.plan()
    assert old == Plan.parse(old.canonical())
    assert not client.apply(plan=old, saved=True).changed


def test_only_an_agreement_by_head_costs_a_read(repository: Repository, stale: Repository) -> None:
    """One version table, where a hold is and head agrees; a quiet plan without a hold reads none."""

    def reads(bob: Repository) -> int:
        watched = Watched(repository.store())
        client = theirs(repository, bob)
        client.session.store = watched  # type: ignore[assignment]
        client.plan()
        return watched.count("read")

    held = reads(stale)
    kitaru("flow", "tag", "agent", "default", "--version", "1", "--exclusive", "--no-manifest", cwd=repository.folder)
    assert route_of(repository).hold is None
    assert reads(stale) == held - 1
