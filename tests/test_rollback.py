"""kitaru rollback, as it is typed in an emergency: twice, past deleted versions, after a rename, beside a bad file."""

from __future__ import annotations

from pathlib import Path

import pytest

from kitaru.errors import KitaruSelectorError
from kitaru.model.route import Pin, Route
from tests.applying import new_version, routed
from tests.repository import MANIFEST, Repository, Watched, kitaru

AGENT = "flows/work.py:agent"


def route_of(repository: Repository, flow: str = "agent", tag: str = "default") -> Route:
    return repository.client().session.releases.head().flows[flow].routes[tag]


def led(repository: Repository, *versions: int) -> None:
    """``default`` led to each of these, one after another; all of them are built first."""
    deployments = repository.client().deployments
    deployments.deploy(AGENT, manifest="leave")
    for _ in range(max(versions) - 1):
        deployments.build(AGENT, manifest="leave")
    for version in versions[1:]:
        deployments.tag("agent", "default", version=version, exclusive=True, manifest="leave")


def test_a_second_rollback_goes_one_further_back(repository: Repository) -> None:
    """Not to the bad version that the first one left, and it says so; with nothing left, the error says so too."""
    led(repository, 1, 2, 3)
    assert "default* v3 → v2" in kitaru("rollback", "agent", cwd=repository.folder).must().out
    done = kitaru("rollback", "agent", cwd=repository.folder).must().out
    assert "default* v2 → v1" in done
    assert "passed over v3, which a rollback left" in done
    kitaru("rollback", "agent", cwd=repository.folder).refused(
        "nowhere else before but v2, which a rollback left, and v3, which a rollback left; name the version",
        "kitaru flow deployments list agent",
    )
    assert route_of(repository).versions == (1,)


@pytest.mark.parametrize("tag", ["default", "stable"])
def test_the_printed_command_makes_the_edit_and_nothing_else(repository: Repository, tag: str) -> None:
    """It names the version: typed as it is, no route moves, the hold stays, and the manifest says so."""
    led(repository, 1, 2, 3)
    deployments = repository.client().deployments
    for version in (1, 2, 3):
        deployments.tag("agent", tag, version=version, exclusive=True, manifest="leave")
    repository.manifest(routed("{default: 3, stable: 3}"))
    repository.commit()
    words = ["agent", tag] if tag != "default" else ["agent"]
    done = kitaru("rollback", *words, "-m", "slow", cwd=repository.folder).must().out
    (line,) = [one for one in done.splitlines() if "The edit (" in one]
    command = line.partition("The edit (")[2].partition(" makes it)")[0]
    assert command == f"kitaru rollback {' '.join(words)} --to 2 --write"
    before = route_of(repository, tag=tag)
    typed = kitaru(*command.split()[1:], cwd=repository.folder).must().out
    assert f"{tag}* leads to v2 already, held there until the manifest says so and is applied" in typed
    assert "kitaru.yaml says so too; commit it" in typed
    assert route_of(repository, tag=tag) == before
    assert before.hold is not None and before.hold.reason == "slow"
    assert repository.client().session.manifest.manifest.flows["agent"].routes[tag] == Pin(2)


def test_deleted_versions_are_passed_over(repository: Repository) -> None:
    """-1 goes on to the version before, in JSON too."""
    led(repository, 1, 2, 3)
    repository.client().deployments.delete("agent", version=2)
    done = kitaru("rollback", "agent", "-o", "json", cwd=repository.folder).must().json["item"]
    assert (done["after"], done["skipped"]) == ("v1", ["v2, which was deleted"])


def test_the_usual_rollback_reads_one_generation(repository: Repository) -> None:
    """Head, hint and what is checked against it; one generation of the log; one version table."""
    led(repository, 1, 2, 3)
    watched = Watched(repository.store())
    client = repository.client(wrap=lambda _store: watched)
    client.deployments.rollback("agent", manifest="leave")
    assert watched.count("read") == 5
    assert watched.count("create", "overwrite") == 2


def renamed(repository: Repository, was: str, name: str) -> None:
    text = (repository.folder / "kitaru.yaml").read_text().partition("moved:")[0]
    repository.manifest(text.replace(f"  {was}:\n", f"  {name}:\n") + f"moved: {{{was}: {name}}}\n")
    repository.commit(f"rename {was}")


def test_history_and_rollback_go_on_under_a_new_name(repository: Repository) -> None:
    """-1, --to N and history look through a rename, and through the one that takes it back."""
    repository.apply()
    new_version(repository, "two")
    repository.apply()
    renamed(repository, "agent", "researcher")
    repository.apply()
    assert route_of(repository, "researcher").versions == (3,)
    for flow in ("researcher", "agent"):
        if flow == "agent":
            renamed(repository, "researcher", "agent")
            repository.apply()
        shown = kitaru("history", flow, "-o", "json", cwd=repository.folder).must().json["items"]
        assert shown[-1]["generation"] == 1
        repository.client().deployments.tag(flow, "default", version=3, exclusive=True, manifest="leave")
        assert "default* v3 → v2" in kitaru("rollback", flow, "--to", "2", cwd=repository.folder).must().out
        kitaru("rollback", flow, "--to", "9", cwd=repository.folder).refused(f"{flow} has no version 9")
        assert "default* v2 → v1" in kitaru("rollback", flow, cwd=repository.folder).must().out
    repository.client().deployments.delete("agent", version=2, manifest="leave")
    kitaru("rollback", "agent", "--to", "2", cwd=repository.folder).refused("v2 of agent was deleted")


def test_a_held_route_keeps_its_hold_through_a_rename(repository: Repository) -> None:
    """The plan of the rename shows the hold; after it the route is held under the new name, and apply leaves it."""
    repository.apply()
    new_version(repository, "bad")
    repository.apply()
    repository.client().deployments.rollback("agent", message="bad")
    renamed(repository, "agent", "researcher")
    (plan,) = repository.plan().flows
    assert (plan.renamed_from, plan.moves) == ("agent", ())
    assert plan.notes == ("v3 is built and left unrouted: a rollback keeps default back",)
    assert [(held.tag, held.holders[0].version, held.reason) for held in plan.held] == [("default", 1, "bad")]
    assert "route default held at v1" in kitaru("plan", cwd=repository.folder).must().out
    repository.apply()
    route = route_of(repository, "researcher")
    assert route.versions == (1,)
    assert route.hold is not None
    (again,) = repository.plan().flows
    assert [held.tag for held in again.held] == ["default"]


def test_a_hold_on_a_route_that_the_manifest_does_not_name(repository: Repository) -> None:
    """It is shown, as text and as drift, and it is counted once."""
    repository.manifest(routed("{stable: 1}"))
    repository.commit()
    repository.apply()
    deployments = repository.client().deployments
    deployments.build(AGENT, manifest="leave")
    deployments.tag("agent", "default", version=2, exclusive=True, manifest="leave")
    deployments.rollback("agent", message="slow", manifest="leave")
    plan = repository.plan()
    assert [(held.tag, held.wanted, held.reason) for held in plan.flows[0].held] == [("default", (), "slow")]
    assert [one.text for one in plan.drift] == ["default is held at v1 by a rollback; the manifest does not name it"]
    shown = kitaru("plan", cwd=repository.folder).must().out
    assert "route default held at v1, rolled back by" in shown
    assert "(slow); the manifest does not name it" in shown
    drift = kitaru("plan", "--drift", cwd=repository.folder).must(2).out
    assert "default is held at v1" in drift
    assert "N --exclusive" in drift


# --- a manifest that can't be read ------------------------------------------------------------------------------------


@pytest.fixture
def broken(repository: Repository) -> Repository:
    """Two versions, ``default`` at the second, and a manifest that says nothing any more."""
    led(repository, 1, 2)
    repository.manifest(MANIFEST + "oops: [\n")
    return repository


def place_of(repository: Repository) -> tuple[str, ...]:
    return ("--store", f"file://{repository.store_folder}", "--project", "research")


def test_an_emergency_needs_no_manifest(broken: Repository) -> None:
    """With --no-manifest, store and project a broken kitaru.yaml is not asked; without them its line is named."""
    kitaru("rollback", "agent", "--no-manifest", *place_of(broken), cwd=broken.folder).must()
    kitaru("rollback", "agent", "--no-manifest", cwd=broken.folder).refused("kitaru.yaml:", hint=False)


def test_a_consumer_needs_no_manifest(broken: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """invoke with store and project, given or in the environment, does not read the manifest in reach."""
    words = ("invoke", "agent", "--input", '{"topic": "a"}', "--wait")
    assert "HELLO A" in kitaru(*words, *place_of(broken), cwd=broken.folder).must().out
    store, project = place_of(broken)[1::2]
    monkeypatch.setenv("KITARU_STORE", store)
    kitaru(*words, cwd=broken.folder).refused("kitaru.yaml:", hint=False)
    monkeypatch.setenv("KITARU_PROJECT", project)
    assert "HELLO A" in kitaru(*words, cwd=broken.folder).must().out


def test_what_was_rolled_back_without_a_manifest(broken: Repository, own_world: Path) -> None:
    """The route leads there: another client sees it."""
    kitaru("rollback", "agent", "--no-manifest", *place_of(broken), cwd=broken.folder).must()
    seen = kitaru("flow", "list", "-o", "json", *place_of(broken), cwd=own_world).must().json
    assert seen["items"][0]["routes"] == {"default": [1]}
    with pytest.raises(KitaruSelectorError, match="has led nowhere else before"):
        broken.manifest(MANIFEST)
        broken.client().deployments.rollback("agent")


def test_a_deploy_under_a_former_name_is_refused(repository: Repository) -> None:
    """Else two flows would go on counting from the same versions; the error says how the name comes back."""
    repository.apply()
    renamed(repository, "agent", "researcher")
    repository.apply()
    repository.manifest(MANIFEST)
    repository.commit()
    for words in (("deploy", "agent"), ("build", "agent"), ("deploy", AGENT, "--no-manifest")):
        kitaru(*words, cwd=repository.folder).refused(
            "agent was renamed to researcher", "moved: {researcher: agent}", code=1
        )
    assert route_of(repository, "researcher").versions == (2,)
