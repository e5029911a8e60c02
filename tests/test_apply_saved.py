"""A plan that was saved is carried out as it was shown to people, on the ground that it was made on, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kitaru.client.project import Applied
from kitaru.core.review import unreviewed
from kitaru.errors import (
    KitaruConflictError,
    KitaruIntegrityError,
    KitaruStateError,
    KitaruUsageError,
)
from kitaru.model import address
from kitaru.model.plan import Plan
from tests.applying import TWO, generation, new_version, routes_of
from tests.repository import MANIFEST, Repository, git

# --- saved plans -----------------------------------------------------------------------------------------------------


def apply_saved(repository: Repository, plan: Plan) -> Applied:
    return repository.client().apply(plan=Plan.parse(plan.canonical()), saved=True)


def test_a_saved_plan_is_carried_out(repository: Repository) -> None:
    """A plan that went through a file does what it says."""
    assert apply_saved(repository, repository.plan()).generation == 1
    assert repository.plan().is_empty


@pytest.mark.parametrize("what", ["generation", "manifest", "commit"])
def test_a_saved_plan_is_refused_when_its_ground_moved(repository: Repository, what: str) -> None:
    """Whatever of generation, manifest and source is another than planned: refused, with what moved."""
    repository.manifest(TWO)
    repository.commit()
    plan = repository.plan("agent")
    if what == "generation":
        repository.apply("greeter")
    elif what == "manifest":
        repository.manifest(TWO + "# a comment\n")
        repository.commit()
    else:
        repository.change("flows/work.py", "hello", "good day")
        repository.commit()
    before = generation(repository)
    with pytest.raises(KitaruConflictError) as refused:
        apply_saved(repository, plan)
    said = {
        "generation": "Ann wrote generation 1",
        "manifest": "kitaru.yaml has changed since",
        "commit": "the source has changed since",
    }
    assert said[what] in refused.value.message
    assert "kitaru plan --out" in refused.value.hint
    assert generation(repository) == before


def test_a_saved_plan_of_another_store_is_refused(repository: Repository, own_world: Path) -> None:
    """A plan for a later history, or for another one, is not carried out on this one."""
    repository.apply()
    new_version(repository, "second")
    plan = repository.plan()
    elsewhere = repository.client(store=f"file://{own_world / 'elsewhere'}")
    with pytest.raises(KitaruConflictError, match="the plan was made on generation 1; this store has 0"):
        elsewhere.apply(plan=plan, saved=True)
    assert not (own_world / "elsewhere").exists()


def test_a_tampered_plan_is_refused(repository: Repository) -> None:
    """A snapshot, an edit or a number changed by hand: refused, and the store is as it was."""
    plan = json.loads(repository.plan().canonical())

    def changed(**what: Any) -> Plan:
        copy = json.loads(json.dumps(plan))
        build = copy["flows"][0]["build"]
        build["snapshot"].update(what.get("snapshot", {}))
        build.update(what.get("build", {}))
        for edit in copy["edits"]:
            edit.update(what.get(edit["kind"], {}))
        return Plan.parse(address.canonical_json(copy))

    for tampered in (
        changed(snapshot={"target": "flows/evil.py:agent"}),
        changed(build={"snapshot_digest": "0" * 64}),
        changed(mint={"snapshot": "0" * 64}),
        changed(mint={"version": 7}),
        changed(move={"holders": [{"version": 1, "snapshot": "0" * 64}]}),
        changed(move={"holders": [{"version": 9, "snapshot": "0" * 64}]}),
        changed(move={"tag": "stable"}),
    ):
        with pytest.raises(KitaruIntegrityError, match="was changed after it was made"):
            apply_saved(repository, tampered)
        assert generation(repository) == 0


def test_a_flow_that_the_manifest_does_not_declare(repository: Repository) -> None:
    """Planning a name that is not there says what is declared."""
    with pytest.raises(KitaruUsageError, match="declares no flow nope; it declares: agent"):
        repository.plan("nope")


def test_one_flow_can_be_applied_alone(repository: Repository) -> None:
    """apply FLOW touches that flow and leaves the other for later."""
    repository.manifest(TWO)
    repository.commit()
    repository.apply("greeter")
    lock = repository.client().project.releases.head()
    assert sorted(lock.flows) == ["greeter"]
    assert [flow for flow, _ in repository.plan().builds] == ["agent"]


def test_a_saved_plan_proves_nothing_about_where_it_is_applied(repository: Repository) -> None:
    """Guards and commit are those of the checkout, whatever stands in the file: protection can't be edited away."""
    repository.manifest(MANIFEST + "protect: {default: {branch: main}}\n")
    repository.commit()
    repository.apply()
    git(repository.folder, "checkout", "-q", "-b", "side")
    new_version(repository, "second")
    plan = repository.plan()
    assert plan.guards
    forged = plan.model_copy(
        update={"guards": (), "commit": plan.commit.model_copy(update={"branch": "main", "sha": "0" * 40})}
    )
    with pytest.raises(KitaruStateError, match="moves only from branch main"):
        repository.client().apply(plan=forged, saved=True)
    assert routes_of(repository) == {"default": (1,)}


def test_what_a_saved_plan_hides_is_found(repository: Repository) -> None:
    """A plan whose breaking changes were taken out of the file is refused, and so is a review of it."""
    repository.apply()
    text = (repository.folder / "flows/work.py").read_text()
    repository.write("flows/work.py", text.replace("def agent(topic: str)", "def agent(topic: int)"))
    repository.commit()
    plan = repository.plan()
    flow = plan.flows[0]
    assert flow.build is not None
    quiet = flow.model_copy(update={"build": flow.build.model_copy(update={"changes": ()}), "consequences": ()})
    hidden = plan.model_copy(update={"flows": (quiet,)})
    with pytest.raises(KitaruIntegrityError, match="what it shows of agent"):
        repository.client().apply(plan=hidden, saved=True)
    assert any("breaks callers" in line for line in unreviewed(plan, [hidden]))
    assert unreviewed(plan, [plan]) == ()
