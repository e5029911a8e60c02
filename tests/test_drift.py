"""What plan --drift sees beside moved routes: whole flows, and routes that changed their kind."""

from __future__ import annotations

import pytest

from kitaru.cli.views.plan import drift_markdown
from tests.applying import routed
from tests.repository import MANIFEST, Repository, kitaru

GREETER = "flows/work.py:greeter"


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("deploy", "greeter: the flow is in no manifest (default at v1) (deploy by "),
        ("build", "greeter: the flow is in no manifest (v1, without a route)"),
    ],
)
def test_a_flow_that_is_in_no_manifest(repository: Repository, verb: str, words: str) -> None:
    """Deployed by hand it is drift, with or without a route; import ends that. A plan of one flow is silent."""
    repository.apply()
    kitaru(verb, GREETER, "--no-manifest", cwd=repository.folder).must()
    (drift,) = repository.plan().drift
    assert (drift.flow, drift.tag, drift.via) == ("greeter", "", "deploy" if verb == "deploy" else "")
    assert repository.plan("agent").drift == ()
    shown = kitaru("plan", "--drift", cwd=repository.folder).must(2).out
    assert "1 change made by hand" in shown
    assert words in shown
    assert "keep it: kitaru import greeter" in shown
    assert "- `greeter`: " in drift_markdown(repository.plan())
    kitaru("import", "greeter", cwd=repository.folder).must()
    repository.commit()
    assert "No drift" in kitaru("plan", "--drift", cwd=repository.folder).must().out


def test_a_flow_that_was_taken_out_of_the_manifest_is_no_drift(repository: Repository) -> None:
    """It is still to be pruned: nobody changed the store."""
    repository.manifest(MANIFEST + f"  greeter:\n    target: {GREETER}\n")
    repository.commit()
    repository.apply()
    repository.manifest(MANIFEST)
    repository.commit()
    assert repository.plan().drift == ()


def test_a_route_that_became_a_label(repository: Repository) -> None:
    """The version is the same, and yet it is another route: what it was, and what the manifest says."""
    repository.manifest(routed("{default: 1, stable: 1}"))
    repository.commit()
    repository.apply()
    deployments = repository.client().deployments
    deployments.untag("agent", "stable", manifest="leave")
    deployments.tag("agent", "stable", version=1, manifest="leave")
    assert [one.text for one in repository.plan().drift] == [
        "stable leads to v1 as a shared label; the manifest says v1 exclusively"
    ]
    repository.apply()
    assert repository.plan().drift == ()
    assert repository.client().session.releases.head().flows["agent"].routes["stable"].exclusive


def test_a_build_of_the_same_content_is_no_drift(repository: Repository) -> None:
    """head stays at the version that it has: the plan is empty, and nothing drifted."""
    repository.apply()
    kitaru("build", "agent", "--no-manifest", cwd=repository.folder).must()
    plan = repository.plan()
    assert (plan.is_empty, plan.drift) == (True, ())
    assert repository.client().session.releases.head().flows["agent"].latest == 2


@pytest.mark.parametrize(
    "words",
    [("--drift", "--nope"), ("--detailed-exitcode", "--nope"), ("--drift", "-o", "yaml"), ("--nope", "--drift")],
)
def test_a_mistake_in_the_options_is_no_drift(repository: Repository, words: tuple[str, ...]) -> None:
    """Where 2 means drift, or changes, an option that there is not ends with 1, and nothing on standard output."""
    repository.apply()
    assert kitaru("plan", *words, cwd=repository.folder).refused(code=1).out == ""
    kitaru("plan", "--nope", cwd=repository.folder).refused(code=2)


def test_drift_is_not_saved_as_a_plan(repository: Repository) -> None:
    """--out beside --drift is refused rather than passed over: no file would be written."""
    repository.apply()
    path = repository.folder.parent / "plan.json"
    done = kitaru("plan", "--drift", "--out", path, cwd=repository.folder)
    done.refused("--out is not used with --drift", "kitaru plan --out FILE", code=1)
    assert not path.exists()
