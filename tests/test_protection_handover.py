"""A rule that gives a route to another branch: the branch that has it lets go, and the other one moves it."""

from __future__ import annotations

import pytest

from kitaru.core.protection import handed_over
from kitaru.errors import KitaruStateError
from kitaru.model.route import Protection
from kitaru.model.snapshot import Commit
from tests.applying import TWO, new_version, routed, routes_of
from tests.lock_strategies import move
from tests.repository import Repository, git, kitaru
from tests.test_protection import bound, head

DEV, MAIN = Protection(branch="dev"), Protection(branch="main")
ON_DEV, ON_MAIN = Commit(sha="1", branch="dev"), Commit(sha="1", branch="main")
ROUTES = "{default: head}"
OF_DEV, OF_MAIN = "protect: {default: {branch: dev}}\n", "protect: {default: {branch: main}}\n"
WORDS = "default stays at v1: branch main has it from now on, and apply there moves it"


@pytest.fixture
def claimed(repository: Repository) -> Repository:
    """Default at v1, by mistake branch dev's; main has a new version, and a manifest that gives default to main."""
    git(repository.folder, "switch", "-q", "-c", "dev")
    repository.manifest(routed(ROUTES, OF_DEV))
    repository.commit()
    repository.apply()
    git(repository.folder, "switch", "-q", "main")
    git(repository.folder, "merge", "-q", "--ff-only", "dev")
    new_version(repository, "second")
    repository.manifest(routed(ROUTES, OF_MAIN))
    repository.commit()
    return repository


def test_a_wrong_rule_is_taken_back_as_the_hint_says(claimed: Repository) -> None:
    """From a new branch of the old name the rule changes and the route waits; then main moves it."""
    done = kitaru("apply", "--yes", cwd=claimed.folder)
    done.refused("only from branch dev", "git switch to that branch (-c where it is gone), change protect:", code=1)
    git(claimed.folder, "branch", "-q", "-D", "dev")
    git(claimed.folder, "switch", "-q", "-c", "dev")
    plan = claimed.plan()
    assert (plan.guards, plan.moves, plan.drift) == ((), (), ())
    assert WORDS in plan.flows[0].notes
    assert "v2 is built and left unrouted: another branch has default" in plan.flows[0].notes
    assert WORDS in kitaru("plan", cwd=claimed.folder).must().out
    assert WORDS in kitaru("plan", "-o", "markdown", cwd=claimed.folder).must().out
    assert WORDS in kitaru("apply", "--yes", cwd=claimed.folder).must().said
    state = head(claimed).flows["agent"]
    assert (state.latest, state.protect, routes_of(claimed)) == (2, {"default": MAIN}, {"default": (1,)})
    with pytest.raises(KitaruStateError, match="only from branch main, as applied in generation 2"):
        claimed.apply()
    git(claimed.folder, "switch", "-q", "main")
    kitaru("apply", "--yes", cwd=claimed.folder).must()
    assert routes_of(claimed) == {"default": (2,)}
    assert claimed.plan().is_empty


def test_a_saved_plan_that_gives_a_route_away_is_carried_out(claimed: Repository) -> None:
    """What was reviewed on the branch that lets go is what happens: a rule, a version, and no move."""
    git(claimed.folder, "branch", "-q", "-f", "dev", "main")
    git(claimed.folder, "switch", "-q", "dev")
    kitaru("plan", "--out", "../saved.plan", cwd=claimed.folder).must()
    kitaru("apply", "../saved.plan", "--yes", cwd=claimed.folder).must()
    assert (head(claimed).flows["agent"].protect, routes_of(claimed)) == ({"default": MAIN}, {"default": (1,)})


def test_a_route_that_is_not_given_away_moves_beside_it(claimed: Repository) -> None:
    """Only the moves of the routes that another branch gets are left to it; one that is new waits as well."""
    git(claimed.folder, "branch", "-q", "-f", "dev", "main")
    git(claimed.folder, "switch", "-q", "dev")
    claimed.manifest(routed("{default: head, canary: head}", OF_MAIN))
    claimed.commit()
    claimed.apply()
    assert routes_of(claimed) == {"default": (1,), "canary": (2,)}


def test_a_flow_that_was_never_the_branch_s_is_not_given_away(claimed: Repository) -> None:
    """One that is new on main is main's to place; the apply of the other flow alone takes the wrong rule back."""
    git(claimed.folder, "branch", "-q", "-f", "dev", "main")
    git(claimed.folder, "switch", "-q", "dev")
    claimed.manifest(TWO + OF_MAIN)
    claimed.commit()
    assert claimed.plan().guards == (
        "greeter: route default moves only from branch main, as the manifest says; this commit is on dev",
    )
    kitaru("apply", "agent", "--yes", cwd=claimed.folder).must()
    git(claimed.folder, "switch", "-q", "main")
    git(claimed.folder, "merge", "-q", "dev")
    kitaru("apply", "--yes", cwd=claimed.folder).must()
    assert (routes_of(claimed), routes_of(claimed, "greeter")) == ({"default": (2,)}, {"default": (1,)})


@pytest.mark.parametrize(
    ("applied", "wanted", "commit", "waits"),
    [
        (DEV, MAIN, ON_DEV, True),
        (DEV, MAIN, ON_MAIN, False),
        (DEV, MAIN, Commit(sha="1"), False),
        (DEV, MAIN, Commit(sha="1", branch="dev", dirty=True), False),
        (Protection(branch="dev", clean=False), MAIN, Commit(sha="1", branch="dev", dirty=True), True),
        (DEV, Protection(branch="dev", clean=False), ON_DEV, False),
        (Protection(branch="dev", clean=False), DEV, Commit(sha="1", branch="dev", dirty=True), False),
        (DEV, Protection(), ON_DEV, False),
        (DEV, Protection(branch="release/*"), ON_DEV, False),
        (Protection(), MAIN, ON_DEV, False),
        (DEV, None, ON_DEV, False),
        (None, MAIN, ON_DEV, False),
    ],
)
def test_only_the_branch_that_has_a_route_gives_it_away(
    applied: Protection | None, wanted: Protection | None, commit: Commit, waits: bool
) -> None:
    """Where the applied rule lets this commit through, and the manifest's names another branch. Else all is as ever."""
    state = bound(**({"stable": applied} if applied else {})).flows["agent"]
    rules = {"stable": wanted} if wanted else {}

    moved = move("agent", "stable", 2, expects=(1,))
    assert bool(handed_over(rules, moved, state, commit)) == waits
    assert handed_over(rules, move("agent", "stable", 1, expects=(1,)), state, commit) == ""
    assert handed_over(rules, move("agent", "canary", 1), state, commit) == ""
    assert handed_over(rules, moved, None, commit) == ""


def test_a_route_that_is_not_placed_waits_too() -> None:
    """A rule may be there before its route: who has it from now on places it."""
    state = bound(canary=DEV).flows["agent"]
    told = handed_over({"canary": MAIN}, move("agent", "canary", 1), state, ON_DEV)
    assert told == "canary is not placed yet: branch main has it from now on, and apply there moves it"
