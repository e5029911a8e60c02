"""Flows that change their names, and several manifests that share one project."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kitaru import KitaruClient
from kitaru.client.project import read_plan
from kitaru.errors import KitaruConflictError, KitaruManifestError, KitaruSelectorError
from kitaru.model import address
from tests.applying import TWO, new_version, problems, routes_of
from tests.repository import MANIFEST, Repository, Watched, kitaru

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


def test_a_name_that_was_given_up_meanwhile_does_not_come_back(repository: Repository, own_world: Path) -> None:
    """A plan that was made before a rename, and would mint under the old name, is refused at the flow's line."""
    repository.apply()
    theirs = repository.clone(own_world / "theirs")
    rename(theirs)
    repository.change("kitaru.yaml", "default: head", "default: 1")
    new_version(repository, "second")
    plan = repository.plan()
    assert not plan.moves
    client = theirs.client(store=f"file://{repository.store_folder}")
    client.apply()
    with pytest.raises(KitaruManifestError, match="agent was renamed to researcher"):
        repository.client().apply(plan=plan)
    assert [one.flow for one in client.deployments.flows()] == ["researcher"]


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


@pytest.mark.parametrize("moved", ["{aaa: researcher}", "{researchr: researcher}"])
def test_a_rename_of_a_flow_that_never_was(repository: Repository, moved: str) -> None:
    """A warning, with the name that was probably meant; none in a new project, which has no flow at all."""
    was = moved[1:].partition(":")[0]
    repository.manifest(f"{RENAMED.partition('moved:')[0]}moved: {moved}\n")
    repository.commit()
    assert repository.plan().warnings == ()
    repository.apply()
    (warning,) = repository.plan().warnings
    assert warning == f"moved: {was} is no flow of project research; nothing to rename"
    repository.manifest(
        MANIFEST.replace("  agent:\n", "  other:\n") + f"moved: {moved.replace('researcher}', 'other}')}\n"
    )
    repository.commit()
    (warning,) = repository.plan().warnings
    assert warning.endswith("; did you mean 'researcher'?") == (was == "researchr")
    assert f"warning: {warning}" in kitaru("plan", cwd=repository.folder).must().out


def test_a_rename_that_was_made_is_not_warned_of(repository: Repository) -> None:
    """Before it, after it, and in a chain whose middle the store never had."""
    repository.apply()
    repository.manifest(MANIFEST.replace("  agent:\n", "  third:\n") + "moved: {agent: second, second: third}\n")
    repository.commit()
    for _ in range(2):
        assert repository.plan().warnings == ()
        repository.apply()


# --- and back ---------------------------------------------------------------------------------------------------------


def rename_back(repository: Repository, moved: str = "moved: {researcher: agent}\n") -> None:
    repository.manifest(MANIFEST + moved)
    repository.commit("rename back")


def test_a_rename_can_be_taken_back(repository: Repository) -> None:
    """moved: the other way round gives the former name again, with all its numbers; the next plan is quiet."""
    repository.apply()
    rename(repository)
    repository.apply()
    rename_back(repository)
    (plan,) = repository.plan().flows
    assert (plan.flow, plan.renamed_from, plan.build) == ("agent", "researcher", None)
    repository.apply()
    assert repository.plan().is_empty
    deployments = repository.client().deployments
    assert [(one.version, dict(one.tags)) for one in deployments.list("agent")] == [(1, {"default": True}), (2, {})]
    with pytest.raises(KitaruSelectorError, match="researcher was renamed to agent"):
        deployments.invoke("researcher", {"topic": "a"})
    kitaru("store", "verify", "--deep", cwd=repository.folder).must()
    rename(repository)
    repository.apply()
    assert routes_of(repository, "researcher") == {"default": (2,)}


def test_a_plain_revert_says_how_the_name_comes_back(repository: Repository) -> None:
    """git revert of the rename alone would leave two flows of the same numbers: refused, with the line to write."""
    repository.apply()
    rename(repository)
    repository.apply()
    rename_back(repository, moved="")
    kitaru("plan", cwd=repository.folder).refused(
        "kitaru.yaml:6:3: agent was renamed to researcher", "moved: {researcher: agent}"
    )


def test_a_former_name_is_no_name_for_another_flow(repository: Repository) -> None:
    """Beside the renamed flow, its former name stays spent; so it does for a flow that never had it."""
    repository.manifest(TWO)
    repository.commit()
    repository.apply()
    renamed = TWO.replace("  agent:\n", "  researcher:\n")
    repository.manifest(f"{renamed}moved: {{agent: researcher}}\n")
    repository.commit()
    repository.apply()
    repository.manifest(renamed.replace("  greeter:\n", "  agent:\n") + "moved: {greeter: agent}\n")
    repository.commit()
    assert any("greeter can't become agent: project research has used" in one for one in problems(repository))
    repository.manifest(renamed + "  agent:\n    target: flows/work.py:agent\n")
    repository.commit()
    said = kitaru("plan", cwd=repository.folder).refused("agent was renamed to researcher", "never used").said
    assert "take the name back" not in said


def test_a_chain_of_renames_can_go_back_to_any_of_its_names(repository: Repository) -> None:
    """From the third name to the first: the second leads there as well."""
    repository.apply()
    rename(repository)
    repository.apply()
    repository.manifest(MANIFEST.replace("  agent:\n", "  third:\n") + "moved: {researcher: third}\n")
    repository.commit()
    repository.apply()
    rename_back(repository, moved="moved: {third: agent}\n")
    repository.apply()
    for name in ("researcher", "third"):
        with pytest.raises(KitaruSelectorError, match="renamed to"):
            repository.client().deployments.get(name)
    assert routes_of(repository) == {"default": (1,)}


def test_a_key_leads_to_its_execution_through_renames(repository: Repository) -> None:
    """The same key under the new name, and under the old one again, is the execution that it began; one read more."""
    repository.apply()
    invoke = repository.client().deployments.invoke
    first = invoke("agent", {"topic": "a"}, idempotency_key="order 1").exec_id
    rename(repository)
    repository.apply()
    again = repository.client().deployments.invoke("researcher", {"topic": "a"}, idempotency_key="order 1")
    assert (again.exec_id, again.reused) == (first, True)
    with pytest.raises(KitaruConflictError, match="was used with other inputs"):
        repository.client().deployments.invoke("researcher", {"topic": "b"}, idempotency_key="order 1")
    second = repository.client().deployments.invoke("researcher", {"topic": "a"}, idempotency_key="order 2").exec_id
    rename_back(repository)
    repository.apply()
    for key, exec_id in (("order 1", first), ("order 2", second)):
        again = repository.client().deployments.invoke("agent", {"topic": "a"}, idempotency_key=key)
        assert (again.exec_id, again.reused) == (exec_id, True)


def test_a_key_costs_no_more_where_nothing_was_renamed(repository: Repository) -> None:
    """A key costs one read more than none, used or not."""
    repository.apply()

    def reads(**given: str) -> int:
        watched = Watched(repository.store())
        repository.client(wrap=lambda _store: watched).deployments.invoke("agent", {"topic": "a"}, **given)
        return watched.count("read")

    bare = reads()
    assert reads(idempotency_key="order 1") == bare + 1
    assert reads(idempotency_key="order 1") <= bare + 1


def test_a_key_of_a_renamed_flow_goes_with_its_execution(repository: Repository) -> None:
    """What gc removes an execution with is its key too, under whichever name it was kept."""
    repository.apply()
    rename(repository)
    repository.apply()
    handle = repository.client().deployments.invoke("researcher", {"topic": "a"}, idempotency_key="order 1")
    handle.wait(60)
    keys = address.idempotency("research", "agent", "order 1").rpartition("/")[0] + "/"
    assert repository.store().names(keys)
    moment = timedelta(microseconds=1)
    found = repository.client().housekeeping.collect(delete=True, executions_older_than=moment, grace=timedelta(0))
    assert found.executions == (handle.exec_id,)
    assert not repository.store().names(keys)


# --- several manifests ------------------------------------------------------------------------------------------------

GREETER = MANIFEST.replace("  agent:\n    target: flows/work.py:agent", "  greeter:\n    target: flows/work.py:greeter")


@pytest.fixture
def monorepo(repository: Repository) -> tuple[Repository, KitaruClient, KitaruClient]:
    """Two manifests of one repository, in folders of their own, that share a project and a store."""
    flows = (repository.folder / "flows/work.py").read_text()
    repository.change("kitaru.yaml", "project: research", "project: another")
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
    assert set(one.session.releases.head().flows) == {"agent", "greeter"}


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


def test_a_rename_takes_no_flow_that_another_manifest_declares(
    monorepo: tuple[Repository, KitaruClient, KitaruClient],
) -> None:
    """moved: with the name of another manifest's flow is refused at its line, and both files are named."""
    repository, one, two = monorepo
    one.apply()
    text = (repository.folder / "services/b/kitaru.yaml").read_text()
    repository.write("services/b/kitaru.yaml", text.replace("  greeter:\n", "  taken:\n") + "moved: {agent: taken}\n")
    repository.commit()
    with pytest.raises(KitaruManifestError) as refused:
        two.apply()
    (problem,) = refused.value.problems
    assert "agent is declared by services/a/kitaru.yaml of this repository" in problem.message
    assert "services/b/kitaru.yaml here makes it taken" in problem.message
    assert problem.line == len(text.splitlines()) + 1
    assert set(one.session.releases.head().flows) == {"agent"}
    other = repository.folder / "services/a/kitaru.yaml"
    other.write_text(other.read_text().partition("flows:")[0])
    repository.commit()
    two.apply()
    assert one.session.releases.head().flows["taken"].owner == "services/b/kitaru.yaml"


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
    assert moved.session.releases.head().flows["agent"].owner == "services/c/kitaru.yaml"


def test_executions_are_listed_under_all_names_of_their_flow(repository: Repository) -> None:
    """Those from before a rename belong to the flow: by the new name, by the old one, and after a rename back."""
    repository.apply()
    executions, deployments = repository.client().executions, repository.client().deployments

    def ran(flow: str) -> str:
        handle = deployments.invoke(flow, {"topic": "a"})
        handle.wait(60)
        return handle.exec_id

    def listed(**asked: Any) -> list[str]:
        return [one.exec_id for one in executions.list(**asked)]

    first = ran("agent")
    rename(repository)
    repository.apply()
    second = ran("researcher")
    rename_back(repository)
    repository.apply()
    third = ran("agent")
    whole = [third, second, first]
    for name in ("agent", "researcher"):
        assert listed(flow=name) == listed(flow=name, status="completed") == whole
        assert listed(flow=name, limit=2) == whole[:2]
        assert listed(flow=name, status="failed") == []
    assert listed(flow="greeter") == []
    assert [one.flow_name for one in executions.list(flow="agent")] == ["agent", "researcher", "agent"]


def test_a_rename_is_noted_by_who_reads_it_first(repository: Repository) -> None:
    """Whoever renamed a flow and was killed before it said so to lists leaves that to the next who reads the entry."""
    repository.apply()
    executions = repository.client().executions
    handle = repository.client().deployments.invoke("agent", {"topic": "a"})
    handle.wait(60)
    hint = repository.store_folder / address.lock_hint("research")
    before = hint.read_bytes()
    rename(repository)
    repository.apply()
    (repository.store_folder / address.renamed_hint("research", "researcher", "agent")).unlink()
    hint.write_bytes(before)
    assert executions.list(flow="researcher") == []
    assert repository.plan().is_empty
    assert [one.exec_id for one in executions.list(flow="researcher")] == [handle.exec_id]
