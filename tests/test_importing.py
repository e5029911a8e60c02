"""kitaru import: what was deployed past the manifest comes into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kitaru.errors import KitaruSelectorError, KitaruUsageError
from tests.applying import new_version
from tests.repository import FLOWS, MANIFEST, Repository, kitaru

EMPTY = MANIFEST.partition("flows:")[0] + "flows: {}\n"


def past_the_manifest(repository: Repository) -> None:
    """A second flow and a second route, in the store alone."""
    client = repository.client()
    client.deployments.deploy(
        "flows/work.py:greeter", {"name": "Ann"}, image={"environment": {"A": "b: c"}}, manifest="leave"
    )
    client.deployments.tag("agent", "stable", version=1, exclusive=True, manifest="leave")
    client.deployments.tag("agent", "bench", version=1, manifest="leave")


def test_what_was_deployed_past_the_manifest_is_written_into_it(repository: Repository) -> None:
    """Flows and routes stand there as a person would have written them; then plan shows only that they are adopted."""
    repository.apply()
    past_the_manifest(repository)
    done = repository.client().import_flows()
    assert (done.written, done.warnings, done.notes) == (True, (), ())
    assert (repository.folder / "kitaru.yaml").read_text() == MANIFEST + (
        "      bench: [1]\n"
        "      stable: 1\n"
        "  greeter:\n"
        "    target: flows/work.py:greeter\n"
        "    inputs: {name: Ann}\n"
        '    image: {environment: {A: "b: c"}}\n'
        "    routes:\n"
        "      default: 1\n"
    )
    repository.client().validate()
    repository.commit()
    plan = repository.plan()
    assert not plan.builds
    assert all(move.adopts for flow in plan.flows for move in flow.moves)
    assert {(flow.flow, move.tag) for flow in plan.flows for move in flow.moves} == {
        ("agent", "bench"),
        ("agent", "stable"),
        ("greeter", "default"),
    }
    repository.apply()
    assert repository.plan().is_empty
    assert not repository.client().import_flows().diff


def test_a_dry_run_writes_nothing(repository: Repository) -> None:
    """The edit is shown, and the file is what it was."""
    repository.apply()
    past_the_manifest(repository)
    before = (repository.folder / "kitaru.yaml").read_bytes()
    done = repository.client().import_flows(["greeter"], dry_run=True)
    assert (repository.folder / "kitaru.yaml").read_bytes() == before
    assert not done.written
    assert "+  greeter:" in done.diff
    assert not any("stable" in line for line in done.diff)


def test_a_flow_whose_code_is_gone_comes_with_a_warning(repository: Repository) -> None:
    """What is live is written down even where it can't be built again, and the warning names it."""
    repository.apply()
    past_the_manifest(repository)
    repository.write("flows/work.py", FLOWS.replace("def greeter(", "def welcome("))
    done = repository.client().import_flows()
    assert "greeter" in [one.flow for one in done.flows]
    (warning,) = done.warnings
    assert warning.startswith("greeter: its target flows/work.py:greeter is not here as it was")


def test_a_deploy_without_a_manifest_counts_from_the_folder_of_the_new_one(own_world: Path) -> None:
    """A target that was relative to the repository is relative to the manifest, once there is one."""
    repository = Repository.make(own_world / "work", {"sub/flows/work.py": FLOWS}, EMPTY)
    (repository.folder / "kitaru.yaml").rename(repository.folder / "sub" / "kitaru.yaml")
    repository.commit()
    inner = Repository(repository.folder / "sub")
    inner.client().deployments.deploy("flows/work.py:agent", manifest="leave")
    assert inner.client().import_flows().written
    assert "target: flows/work.py:agent" in (inner.folder / "kitaru.yaml").read_text()
    inner.client().validate()


def test_a_flow_that_the_store_has_not_is_refused(repository: Repository) -> None:
    """The error says what there is."""
    repository.apply()
    with pytest.raises(KitaruSelectorError, match=r"agnt has no deployments.*did you mean 'agent'"):
        repository.client().import_flows(["agnt"])


def test_another_project_is_refused(repository: Repository) -> None:
    """A manifest takes in what is of its own project alone."""
    with pytest.raises(KitaruUsageError, match="it is about project research, this is other"):
        repository.client(project="other").import_flows()


def test_flows_removed_from_the_manifest_come_back_with_a_note(repository: Repository) -> None:
    """Import undoes a removal that was not yet applied, and says so."""
    repository.apply()
    repository.manifest(EMPTY)
    done = repository.client().import_flows()
    assert done.notes == ("agent was once in the manifest",)
    assert "    routes:\n      default: 1\n" in (repository.folder / "kitaru.yaml").read_text()


def test_the_command_shows_the_edit_and_what_comes_next(repository: Repository) -> None:
    """On standard output: the diff, what was written, and the next command; with -o json, the same as data."""
    repository.apply()
    past_the_manifest(repository)
    shown = kitaru("import", "--dry-run", "-o", "json", cwd=repository.folder).must().json["item"]
    assert (shown["written"], [one["flow"] for one in shown["flows"]]) == (False, ["agent", "greeter"])
    done = kitaru("import", cwd=repository.folder).must()
    assert "+      stable: 1\n" in done.out
    assert "Wrote kitaru.yaml: 1 flow and 3 routes." in done.out
    assert "names every flow and route of the store already" in kitaru("import", cwd=repository.folder).must().out
    kitaru("import", "nobody", cwd=repository.folder).refused("nobody has no deployments")


def test_without_a_manifest_there_is_nothing_to_edit(own_world: Path) -> None:
    """Where there is no manifest, the error names the command that makes one."""
    kitaru("import", cwd=own_world).refused("there is no kitaru.yaml here to edit", "kitaru init")


# --- routes that the manifest names, and that were changed past it ----------------------------------------------------

ROUTES = MANIFEST.replace(
    "      default: head\n", "      default: head   # everybody\n      stable: 2\n      canary: head\n"
)


def text_of(repository: Repository) -> str:
    return (repository.folder / "kitaru.yaml").read_text()


def three_versions(repository: Repository) -> None:
    """v1 to v3, of which v3 is this commit's content: ``default`` and ``canary`` there, ``stable`` at v2."""
    for word in ("one", "two"):
        repository.apply()
        new_version(repository, word)
    repository.manifest(ROUTES)
    repository.commit()
    repository.apply()


def test_a_route_that_was_moved_past_the_manifest_is_written_down(repository: Repository) -> None:
    """The number comes into the manifest, the note says who moved it; what still agrees stays as it is, head too."""
    three_versions(repository)
    deployments = repository.client().deployments
    deployments.tag("agent", "stable", version=3, exclusive=True, manifest="leave")
    deployments.tag("agent", "canary", version=1, exclusive=True, manifest="leave")
    deployments.tag("agent", "canary", version=3, exclusive=True, manifest="leave")
    done = repository.client().import_flows(["agent"])
    assert text_of(repository) == ROUTES.replace("stable: 2", "stable: 3")
    (note,) = done.notes
    assert note.startswith("route stable of agent was led to v3 by ")
    assert note.endswith("(tag)")
    repository.commit()
    assert repository.plan().drift == ()


def test_a_held_route_is_written_where_the_rollback_put_it(repository: Repository) -> None:
    """head becomes the number that the hold says, so that apply ends the hold."""
    three_versions(repository)
    repository.client().deployments.rollback("agent", manifest="leave")
    new_version(repository, "three")
    assert repository.client().import_flows().written
    assert text_of(repository) == ROUTES.replace("default: head ", "default: 2 ")
    repository.commit()
    repository.apply()
    assert repository.client().session.releases.head().flows["agent"].routes["default"].hold is None


def test_a_route_that_was_removed_past_the_manifest_is_dropped(repository: Repository) -> None:
    """Unless the manifest wants it elsewhere by now: that is still to be applied."""
    three_versions(repository)
    deployments = repository.client().deployments
    deployments.untag("agent", "stable", manifest="leave")
    repository.manifest(ROUTES.replace("stable: 2", "stable: 1"))
    assert not repository.client().import_flows().diff
    repository.manifest(ROUTES)
    done = kitaru("import", cwd=repository.folder).must().out
    assert text_of(repository) == ROUTES.replace("      stable: 2\n", "")
    assert "note: route stable of agent was removed by" in done
    assert "Wrote kitaru.yaml: 1 route." in done


def test_what_apply_moved_last_is_still_to_be_applied(repository: Repository) -> None:
    """A manifest that is ahead of the store is not turned back."""
    three_versions(repository)
    repository.manifest(ROUTES.replace("stable: 2", "stable: 1").replace("canary: head", "canary: [1, 2]"))
    assert not repository.client().import_flows().diff


def test_a_route_that_follows_head_stays_while_head_is_not_built(repository: Repository) -> None:
    """Where its content is not in the store yet, nobody can say that a route does not follow head; a note does."""
    three_versions(repository)
    repository.client().deployments.tag("agent", "canary", version=1, exclusive=True, manifest="leave")
    new_version(repository, "three")
    done = kitaru("import", cwd=repository.folder).must().out
    assert text_of(repository) == ROUTES
    assert "route canary of agent was led to v1 by" in done
    assert "head, which is not built yet" in done
