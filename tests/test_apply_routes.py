"""What the manifest says of routes, what prune removes, and what a guard holds back, over a real store."""

from __future__ import annotations

import pytest

from kitaru.errors import (
    KitaruSourceError,
    KitaruStateError,
)
from kitaru.model import address
from tests.applying import TWO, new_version, problems, routed, routes_of
from tests.repository import MANIFEST, Repository

# --- routes ----------------------------------------------------------------------------------------------------------


def test_a_number_may_be_the_version_that_this_apply_builds(repository: Repository) -> None:
    """``default: 1`` works on an empty store, and goes on meaning v1 when v2 is built."""
    repository.manifest(routed("{default: 1, canary: head}"))
    repository.commit()
    repository.apply()
    new_version(repository, "second")
    repository.apply()
    assert routes_of(repository) == {"default": (1,), "canary": (2,)}
    repository.manifest(routed("{default: 2, canary: head}"))
    repository.commit()
    done = repository.apply()
    assert (done.plan.builds, routes_of(repository)) == ((), {"default": (2,), "canary": (2,)})


def test_a_label_may_be_on_several_versions(repository: Repository) -> None:
    """A list is a shared label; head may be among its versions."""
    repository.apply()
    new_version(repository, "second")
    repository.manifest(routed("{default: 1, benchmark: [1, head]}"))
    repository.commit()
    repository.apply()
    assert routes_of(repository)["benchmark"] == (1, 2)
    assert repository.plan().is_empty
    state = repository.client().session.releases.head().flow("agent")
    assert state is not None
    assert (state.routes["benchmark"].exclusive, state.routes["default"].exclusive) == (False, True)


def test_an_old_version_can_be_routed_again(repository: Repository) -> None:
    """A number that only the version table knows is found there; content that was built before is not again."""
    repository.apply()
    original = (repository.folder / "flows/work.py").read_text()
    for word in ("second", "third"):
        new_version(repository, word)
        repository.apply()
    assert routes_of(repository) == {"default": (3,)}
    repository.manifest(routed("{default: 3, stable: 1}"))
    repository.commit()
    assert repository.apply().plan.builds == ()
    assert routes_of(repository) == {"default": (3,), "stable": (1,)}
    repository.write("flows/work.py", original)
    repository.manifest(routed("{default: head}"))
    repository.commit()
    done = repository.apply()
    assert done.plan.builds == ()
    assert routes_of(repository)["default"] == (1,)


def test_the_first_version_gets_default(repository: Repository) -> None:
    """A manifest that routes something else, or nothing, gets default for the flow's first version, and only then."""
    repository.manifest(routed("{canary: head}"))
    repository.commit()
    repository.apply()
    assert routes_of(repository) == {"default": (1,), "canary": (1,)}
    new_version(repository, "second")
    repository.apply()
    assert routes_of(repository) == {"default": (1,), "canary": (2,)}
    assert repository.plan().is_empty


def test_a_version_without_a_route_is_noted(repository: Repository) -> None:
    """A build that no route leads to is made, and the plan says that it is left unrouted."""
    repository.manifest(routed("{default: 1}"))
    repository.commit()
    repository.apply()
    new_version(repository, "second")
    (flow,) = repository.plan().flows
    assert flow.notes == ("v2 is built and left unrouted: no route of the manifest leads to it",)


def test_an_unknown_version_lists_what_there_is(repository: Repository) -> None:
    """A route to a number that is neither there nor built now: file, line, column, and the versions there are."""
    repository.manifest(routed("\n      default: head\n      stable: 7"))
    repository.commit()
    (problem,) = problems(repository)
    assert problem.endswith(
        "route stable of agent names version 7, which does not exist: it has no version yet, and this apply builds v1"
    )
    assert ":10:15: " in problem
    repository.manifest(routed("{default: head}"))
    repository.commit()
    repository.apply()
    repository.manifest(routed("{default: head, stable: 7}"))
    repository.commit()
    assert "which does not exist: it has v1" in problems(repository)[0]


def test_default_is_never_a_label(repository: Repository) -> None:
    """A list behind default is refused where it stands."""
    repository.manifest(routed("{default: [1]}"))
    repository.commit()
    (problem,) = problems(repository)
    assert "default is always exclusive" in problem
    assert "kitaru.yaml:8:" in problem


def test_a_route_may_be_divided_by_weights(repository: Repository) -> None:
    """Weights name versions, or head; the plan after the apply is quiet, and new weights move the route."""
    repository.apply()
    new_version(repository, "second")
    repository.manifest(routed("{default: 1, beta: {1: 90, head: 10}}"))
    repository.commit()
    repository.apply()
    assert repository.plan().is_empty
    state = repository.client().session.releases.head().flow("agent")
    assert state is not None
    assert [(one.version, one.weight) for one in state.routes["beta"].holders] == [(1, 90), (2, 10)]
    assert state.routes["beta"].exclusive
    repository.manifest(routed("{default: 1, beta: {1: 50, 2: 50}}"))
    repository.commit()
    (moved,) = repository.plan().moves
    assert moved[1].tag == "beta"


def test_a_weighted_version_must_exist(repository: Repository) -> None:
    """A number that names no version is refused where it stands, and nothing is applied."""
    repository.manifest(routed("{default: head, beta: {1: 90, 2: 10}}"))
    repository.commit()
    (problem,) = problems(repository)
    assert "kitaru.yaml:8:" in problem
    assert "route beta of agent names version 2, which does not exist" in problem


def test_a_route_that_is_there_already_is_adopted(repository: Repository) -> None:
    """The manifest takes a route into its care without moving it; who moved it last stays on record."""
    repository.manifest(routed("{canary: head}"))
    repository.commit()
    repository.apply()
    repository.manifest(routed("{canary: head, default: 1}"))
    repository.commit()
    ((_, move),) = repository.plan().moves
    assert (move.tag, move.adopts) == ("default", True)
    repository.apply()
    state = repository.client().session.releases.head().flow("agent")
    assert state is not None
    assert (state.routes["default"].managed, state.routes["default"].generation) == (True, 1)
    assert repository.plan().is_empty


def test_what_the_manifest_does_not_name_is_left_alone(repository: Repository) -> None:
    """An absent route and an absent flow are listed as unmanaged and not touched."""
    repository.manifest(TWO.replace("default: head\n  greeter", "default: head\n      stable: 1\n  greeter"))
    repository.commit()
    repository.apply()
    repository.manifest(MANIFEST)
    repository.commit()
    plan = repository.plan()
    assert plan.is_empty
    assert plan.flows[0].unmanaged == ("stable at v1 (--prune removes it)",)
    assert plan.unmanaged == ("greeter (once in the manifest; --prune removes it)",)
    assert not repository.apply().changed
    assert routes_of(repository, "greeter") == {"default": (1,)}


# --- prune -----------------------------------------------------------------------------------------------------------


def test_prune_removes_what_the_manifest_once_named(repository: Repository) -> None:
    """A route and a flow go, as the plan showed; the flow's numbers are not used again."""
    repository.manifest(TWO.replace("default: head\n  greeter", "default: head\n      stable: 1\n  greeter"))
    repository.commit()
    repository.apply()
    repository.manifest(MANIFEST)
    repository.commit()
    plan = repository.plan(prune=True)
    assert [(flow, move.tag, move.after) for flow, move in plan.moves] == [
        ("agent", "stable", None),
        ("greeter", "default", None),
    ]
    repository.apply(prune=True)
    lock = repository.client().session.releases.head()
    assert lock.flow("greeter") is None
    assert routes_of(repository) == {"default": (1,)}
    assert repository.plan(prune=True).is_empty
    repository.manifest(TWO)
    repository.change("flows/work.py", "times: int = 1", "times: int = 2")
    repository.commit()
    repository.apply()
    assert routes_of(repository, "greeter") == {"default": (2,)}


def test_prune_never_touches_what_it_did_not_make(repository: Repository) -> None:
    """Default, which the manifest never named, is not pruned; nor is it when the manifest named it once."""
    repository.manifest(routed("{canary: head}"))
    repository.commit()
    repository.apply()
    assert repository.plan(prune=True).is_empty
    repository.manifest(routed("{canary: head, default: 1}"))
    repository.commit()
    repository.apply()
    repository.manifest(routed("{canary: head}"))
    repository.commit()
    assert repository.plan(prune=True).is_empty
    assert "can only be moved" in repository.plan().flows[0].unmanaged[0]


def test_prune_refuses_to_empty_a_project(repository: Repository) -> None:
    """A manifest without flows and --prune: no."""
    repository.apply()
    repository.manifest("kitaru: 1\nproject: research\nstore: file://.kitaru/store\n")
    repository.commit()
    assert any("would remove every flow" in problem for problem in problems(repository, prune=True))
    assert repository.plan().is_empty


def test_prune_refuses_a_flow_that_still_runs(repository: Repository) -> None:
    """An execution that has not ended keeps its flow; the error names it."""
    from kitaru.model.event import ExecutionOptions, Opened, Value
    from kitaru.run.journal import open_execution

    repository.manifest(TWO)
    repository.commit()
    repository.apply()
    session = repository.client().session
    opened = Opened(
        at=address.timestamp(session.clock.now()),
        project="research",
        exec_id=address.exec_id(session.clock.now(), "00000000"),
        flow="greeter",
        target="flows/work.py:greeter",
        inputs=Value("json", 2, address.digest(b"{}"), None, {}, None),
        origin="invoke",
        stack="local",
        options=ExecutionOptions(retries=0, cache=True),
        version=1,
    )
    assert isinstance(open_execution(session.store, opened, "w"), bytes)
    repository.manifest(MANIFEST)
    repository.commit()
    (problem,) = problems(repository, prune=True)
    assert opened.exec_id in problem


# --- guards ----------------------------------------------------------------------------------------------------------

PROTECTED = routed("{default: head}", "protect:\n  default: {branch: main, clean: true}\n")


def test_a_protected_route_moves_from_its_branch_only(repository: Repository) -> None:
    """From another branch the plan can be made and says why it can't be applied; nothing moves. From main it can."""
    from tests.repository import git

    repository.manifest(PROTECTED)
    repository.commit()
    git(repository.folder, "switch", "-q", "-c", "feature")
    assert repository.plan().guards == (
        "agent: route default moves only from branch main, as the manifest says; this commit is on feature",
    )
    with pytest.raises(KitaruStateError, match="only from branch main"):
        repository.apply()
    assert not repository.store_folder.exists()
    git(repository.folder, "switch", "-q", "--detach")
    assert "this commit is not on a branch" in repository.plan().guards[0]
    git(repository.folder, "switch", "-q", "main")
    assert repository.apply().changed


def test_ci_may_name_the_branch(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout without a branch, as CI makes it, counts as the branch that CI names for that very commit."""
    from tests.repository import git

    repository.manifest(PROTECTED)
    sha = repository.commit()
    git(repository.folder, "switch", "-q", "--detach")
    monkeypatch.setenv("GITHUB_SHA", sha)
    monkeypatch.setenv("GITHUB_REF_NAME", "main")
    assert repository.plan().guards == ()
    monkeypatch.setenv("GITHUB_SHA", "0" * 40)
    assert repository.plan().guards != ()


def test_a_protected_route_needs_a_clean_commit(repository: Repository) -> None:
    """With --allow-dirty a plan can be made, but no protected route moves by it."""
    repository.manifest(PROTECTED)
    repository.commit()
    repository.change("flows/work.py", "hello", "good day")
    with pytest.raises(KitaruSourceError):
        repository.plan()
    plan = repository.plan(allow_dirty=True)
    assert plan.commit.dirty
    assert "only from a clean commit" in plan.guards[0]
    with pytest.raises(KitaruStateError):
        repository.apply(allow_dirty=True)


def test_a_dirty_build_is_on_record(repository: Repository) -> None:
    """What --allow-dirty built says so in the version table, and a clean commit of the same content changes nothing."""
    repository.change("flows/work.py", "hello", "good day")
    repository.apply(allow_dirty=True)
    (deployment,) = repository.client().deployments.list("agent")
    assert deployment.commit_dirty
    repository.commit()
    assert repository.plan().is_empty
