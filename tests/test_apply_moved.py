"""Flows that change their names, and several manifests that share one project."""

from __future__ import annotations

import pytest

from kitaru import KitaruClient
from kitaru.client.project import read_plan
from kitaru.errors import KitaruManifestError, KitaruSelectorError
from tests.applying import TWO, problems, routes_of
from tests.repository import MANIFEST, Repository

RENAMED = MANIFEST.replace("  agent:\n", "  researcher:\n") + "moved: {agent: researcher}\n"


def rename(repository: Repository) -> None:
    repository.manifest(RENAMED)
    repository.commit("rename")


def test_versions_and_routes_go_with_the_new_name(repository: Repository) -> None:
    """The new name goes on counting, the old one says where it went, and the next plan is quiet."""
    repository.apply()
    rename(repository)
    plan = repository.plan()
    assert [(flow.flow, flow.renamed_from, flow.action) for flow in plan.flows] == [("researcher", "agent", "update")]
    repository.apply()
    assert repository.plan().is_empty
    deployments = repository.client().deployments
    assert [(one.version, dict(one.tags)) for one in deployments.list("researcher")] == [
        (1, {}),
        (2, {"default": True}),
    ]
    with pytest.raises(KitaruSelectorError, match="agent was renamed to researcher"):
        deployments.invoke("agent", {"topic": "a"})
    assert deployments.invoke("researcher", {"topic": "a"}, version=1).wait(60) == "HELLO A"


def test_a_saved_rename_does_what_it_shows(repository: Repository) -> None:
    """A plan from a file carries the rename out; one that hides a rename is refused."""
    repository.apply()
    rename(repository)
    plan = read_plan(repository.plan().canonical(), "plan.json")
    hidden = plan.model_copy(
        update={"flows": tuple(flow.model_copy(update={"renamed_from": ""}) for flow in plan.flows)}
    )
    with pytest.raises(Exception, match="changed after it was made: what it shows of researcher"):
        repository.client().apply(plan=hidden, saved=True)
    assert repository.client().apply(plan=plan, saved=True).changed
    assert routes_of(repository, "researcher") == {"default": (2,)}


def test_a_name_that_was_used_is_no_new_name(repository: Repository) -> None:
    """Numbers of two flows can't be told apart under one name: refused, at the line of the rename."""
    repository.manifest(TWO)
    repository.commit()
    repository.apply()
    repository.manifest(
        TWO.replace("  agent:\n    target: flows/work.py:agent\n    routes:\n      default: head\n", "")
        + "moved: {agent: greeter}\n"
    )
    repository.commit()
    (problem,) = problems(repository)
    assert "agent can't become greeter: project research has used that name already" in problem
    assert "kitaru.yaml:" in problem


def test_a_chain_of_renames_ends_at_its_last_name(repository: Repository) -> None:
    """Whoever skipped a release gets both renames at once."""
    repository.apply()
    repository.manifest(MANIFEST.replace("  agent:\n", "  third:\n") + "moved: {agent: second, second: third}\n")
    repository.commit()
    repository.apply()
    assert routes_of(repository, "third") == {"default": (2,)}


# --- several manifests ------------------------------------------------------------------------------------------------

GREETER = MANIFEST.replace("  agent:\n    target: flows/work.py:agent", "  greeter:\n    target: flows/work.py:greeter")


@pytest.fixture
def monorepo(repository: Repository) -> tuple[Repository, KitaruClient, KitaruClient]:
    """Two manifests of one repository, in folders of their own, that share a project and a store."""
    flows = (repository.folder / "flows/work.py").read_text()
    store = f"store: file://{repository.store_folder}"
    for folder, manifest in (("services/a", MANIFEST), ("services/b", GREETER)):
        repository.write(f"{folder}/flows/work.py", flows)
        repository.write(f"{folder}/kitaru.yaml", manifest.replace("store: file://.kitaru/store", store))
    repository.commit()
    one, two = (KitaruClient(manifest=repository.folder / f"services/{name}/kitaru.yaml") for name in "ab")
    return repository, one, two


def test_a_plan_touches_only_its_own_flows(monorepo: tuple[Repository, KitaruClient, KitaruClient]) -> None:
    """Neither listed nor pruned is what another manifest of the repository declares."""
    _, one, two = monorepo
    one.apply()
    two.apply()
    plan = two.plan(prune=True)
    assert (plan.is_empty, plan.unmanaged) == (True, ())
    assert [flow.flow for flow in plan.flows] == ["greeter"]
    assert set(one.project.releases.head().flows) == {"agent", "greeter"}


def test_a_flow_has_one_manifest(monorepo: tuple[Repository, KitaruClient, KitaruClient]) -> None:
    """A flow that another manifest of the repository declares too is refused, and both files are named."""
    repository, one, two = monorepo
    one.apply()
    text = (repository.folder / "services/b/kitaru.yaml").read_text()
    repository.write("services/b/kitaru.yaml", text.replace("greeter", "agent"))
    repository.commit()
    with pytest.raises(KitaruManifestError) as refused:
        two.plan()
    assert "agent is declared by services/a/kitaru.yaml" in str(refused.value.problems[0])


def test_a_manifest_that_moved_takes_its_flows_along(
    monorepo: tuple[Repository, KitaruClient, KitaruClient],
) -> None:
    """Where the other manifest is gone, the flow comes to this one, and the plan says so."""
    repository, one, _ = monorepo
    one.apply()
    for name in ("kitaru.yaml", "flows/work.py"):
        text = (repository.folder / "services/a" / name).read_text()
        repository.write(f"services/c/{name}", text)
        (repository.folder / "services/a" / name).unlink()
    repository.commit()
    moved = KitaruClient(manifest=repository.folder / "services/c/kitaru.yaml")
    plan = moved.plan()
    assert "services/a/kitaru.yaml" in " ".join(plan.flows[0].notes)
    moved.apply()
    assert moved.plan().is_empty
    assert moved.project.releases.head().flows["agent"].owner == "services/c/kitaru.yaml"
