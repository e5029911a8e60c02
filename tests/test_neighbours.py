"""Several manifests of one repository: who has a flow that goes from one to the other, and who may not."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kitaru import KitaruClient
from kitaru.core.renames import taken_over
from kitaru.errors import KitaruManifestError, KitaruUsageError
from kitaru.manifest.reading import read_leniently
from kitaru.model.manifest import Neighbour, Neighbours
from kitaru.source import git_process
from kitaru.source.neighbours import Wanted, find_neighbours
from tests.repository import FLOWS, Done, Repository, git, kitaru

ALPHA, BETA = "alpha/kitaru.yaml", "beta/kitaru.yaml"
LISTING = "ls-tree -r -z"


def manifest(*flows: str, moved: str = "", project: str = "research", store: str = "file://../store") -> str:
    lines = [f"kitaru: 1\nproject: {project}\nstore: {store}\nsource: {{include: ['flows/**']}}"]
    lines += ["flows:"] if flows else []
    lines += [f"  {flow}: {{target: 'flows/work.py:agent', inputs: {{topic: a}}}}" for flow in flows]
    return "\n".join([*lines, *([f"moved: {moved}"] if moved else []), ""])


@dataclass(frozen=True)
class Monorepo:
    """alpha/ has keep, x and y, beta/ has b1; one project, one store, both applied."""

    repository: Repository

    def write(self, folder: str, *flows: str, **given: str) -> None:
        self.repository.write(f"{folder}/kitaru.yaml", manifest(*flows, **given))

    def commit(self) -> str:
        return self.repository.commit()

    def client(self, folder: str) -> KitaruClient:
        return KitaruClient(manifest=self.repository.folder / folder / "kitaru.yaml")

    def run(self, folder: str, *arguments: str) -> Done:
        return kitaru(*arguments, cwd=self.repository.folder / folder)

    @property
    def flows(self) -> dict[str, str]:
        """The flows that are there, each with the manifest that has it."""
        lock = self.client("beta").session.releases.head()
        return {name: state.owner for name, state in lock.flows.items() if not state.retired}


@pytest.fixture
def monorepo(own_world: Path) -> Monorepo:
    files = {"alpha/flows/work.py": FLOWS, "beta/flows/work.py": FLOWS, ".gitignore": "store/\n__pycache__/\n"}
    made = Repository.make(own_world / "repository", files, manifest=manifest("root", project="other"))
    both = Monorepo(made)
    both.write("alpha", "keep", "x", "y")
    both.write("beta", "b1")
    both.commit()
    for folder in ("alpha", "beta"):
        both.client(folder).apply()
    return both


# --- flows that go from one manifest to the other ---------------------------------------------------------------------


def move_both(monorepo: Monorepo) -> None:
    """In one commit x goes to beta, and y goes there under another name."""
    monorepo.write("alpha", "keep")
    monorepo.write("beta", "b1", "x", "y2", moved="{y: y2}")
    monorepo.commit()


@pytest.mark.parametrize("order", [("alpha", "beta"), ("beta", "alpha")])
def test_flows_go_to_another_manifest_in_any_order(monorepo: Monorepo, order: tuple[str, str]) -> None:
    """Pruning where they were leaves what the same commit declares elsewhere: routes are never gone, numbers go on."""
    handle = monorepo.client("alpha").deployments.invoke("y", {"topic": "a"}, idempotency_key="order 1")
    move_both(monorepo)
    for folder in order:
        monorepo.run(folder, "apply", "--yes", "--prune").must()
        flows = monorepo.client("beta").session.releases.head().flows
        assert "default" in flows["x"].routes
        assert "default" in {**flows, "y2": flows.get("y2", flows["y"])}["y2"].routes
    assert monorepo.flows == {"keep": ALPHA, "b1": BETA, "x": BETA, "y2": BETA}
    again = monorepo.client("beta").deployments.invoke("y2", {"topic": "a"}, idempotency_key="order 1")
    assert (again.exec_id, again.reused) == (handle.exec_id, True)
    for folder in order:
        assert monorepo.client(folder).plan(prune=True).is_empty


def test_a_plan_says_who_has_the_flows_now(monorepo: Monorepo) -> None:
    """One line each, with the other file; nothing is removed, with or without --prune."""
    move_both(monorepo)
    for options in ((), ("--prune",)):
        said = monorepo.run("alpha", "plan", *options).must().out
        assert f"x is declared by {BETA} now; apply there takes it over" in said
        assert f"y is renamed to y2 by {BETA} now; apply there takes it over" in said
        assert "removed" not in said


def test_the_commit_counts_and_not_the_file(monorepo: Monorepo) -> None:
    """A manifest that is changed and not committed elsewhere says nothing of what a clean commit is planned from."""
    monorepo.write("alpha", "keep", "y")
    monorepo.commit()
    monorepo.write("beta", "b1", "x")
    assert [one.flow for one in monorepo.client("alpha").plan(prune=True).flows if one.action == "retire"] == ["x"]


def test_prune_removes_what_nobody_declares(monorepo: Monorepo) -> None:
    """Neither a manifest of another project, nor one of another store, nor one that says the name in passing."""
    monorepo.write("alpha", "keep")
    monorepo.write("beta", "b1", moved="{b0: b1}")
    text = manifest("z").replace("topic: a", "topic: 'x'")
    monorepo.repository.write("third/kitaru.yaml", text + "# was x: and y\n")
    monorepo.write("fourth", "x", "y", project="another")
    monorepo.write("fifth", "x", "y", store="file://store")
    monorepo.commit()
    retired = {one.flow for one in monorepo.client("alpha").plan(prune=True).flows if one.action == "retire"}
    assert retired == {"x", "y"}


def test_a_manifest_that_is_left_without_flows_removes_none_that_went(monorepo: Monorepo) -> None:
    """All its flows are another one's now: that is no prune of everything."""
    monorepo.write("alpha")
    monorepo.write("beta", "b1", "keep", "x", "y")
    monorepo.commit()
    assert monorepo.client("alpha").plan(prune=True).is_empty


def test_a_manifest_that_is_broken_is_told_of(monorepo: Monorepo) -> None:
    """Which flows it has can't be known; one that can't have any of those in question is not even parsed."""
    monorepo.write("alpha", "keep", "x")
    monorepo.repository.write("third/kitaru.yaml", manifest("y") + "flows: [\n")
    monorepo.repository.write("fourth/kitaru.yaml", "project: research\nflows: [\n")
    monorepo.commit()
    (warning,) = monorepo.client("alpha").plan().warnings
    assert warning.startswith("third/kitaru.yaml can't be read (line ")
    assert warning.endswith("so which flows it declares is not known")


# --- a flow that was removed before it got its new name ---------------------------------------------------------------


def test_a_flow_that_was_removed_takes_its_numbers_to_its_new_name(monorepo: Monorepo) -> None:
    """moved: of a flow whose routes a prune took is a rename: numbers, keys and history go on, routes are made anew."""
    started = monorepo.client("alpha").deployments.invoke("y", {"topic": "a"}, idempotency_key="order 1")
    started.wait(60)
    monorepo.write("alpha", "keep", "x")
    monorepo.commit()
    monorepo.run("alpha", "apply", "--yes", "--prune").must()
    monorepo.write("beta", "b1", "y2", moved="{y: y2}")
    monorepo.commit()
    said = monorepo.run("beta", "plan").must().out
    assert "y2  renamed from y; v1 → v2" in said
    assert "y was removed; its versions, keys and executions go on under this name, its routes are gone" in said
    monorepo.run("beta", "apply", "--yes").must()
    state = monorepo.client("beta").session.releases.head().flows["y2"]
    assert (state.latest, state.retired, state.owner, state.routes["default"].versions) == (2, False, BETA, (2,))
    again = monorepo.client("beta").deployments.invoke("y2", {"topic": "a"}, idempotency_key="order 1")
    assert (again.exec_id, again.reused) == (started.exec_id, True)
    assert "renamed from y" in monorepo.run("beta", "history", "y2").must().out
    monorepo.run("beta", "invoke", "y").refused("y was renamed to y2")
    assert monorepo.client("beta").plan().is_empty
    monorepo.run("beta", "store", "verify", "--deep").must()


def test_a_deploy_waits_for_the_rename_of_a_flow_that_was_removed(monorepo: Monorepo) -> None:
    """A new version under the new name would begin at 1: refused, with the apply that comes first."""
    monorepo.write("alpha", "keep", "x")
    monorepo.commit()
    monorepo.run("alpha", "apply", "--yes", "--prune").must()
    monorepo.write("beta", "b1", "y2", moved="{y: y2}")
    monorepo.commit()
    monorepo.run("beta", "deploy", "y2").refused("the manifest renames y to y2", "kitaru apply", code=1)


def test_a_new_name_that_has_versions_keeps_them(monorepo: Monorepo) -> None:
    """Where the flow of the new name came to be without the old one's numbers, the plan says so and goes on."""
    monorepo.write("alpha", "keep", "x")
    monorepo.write("beta", "b1", "y2")
    monorepo.commit()
    monorepo.run("alpha", "apply", "--yes", "--prune").must()
    monorepo.run("beta", "apply", "--yes").must()
    monorepo.write("beta", "b1", "y2", moved="{y: y2}")
    monorepo.commit()
    plan = monorepo.client("beta").plan()
    assert plan.is_empty
    assert plan.warnings == (
        "moved: y was removed, and y2 has versions of its own; nothing to rename. "
        "Those of y stay where they are; take the line out",
    )


# --- a flow that two manifests declare --------------------------------------------------------------------------------


def declare_twice(monorepo: Monorepo, flow: str) -> tuple[str, str]:
    monorepo.write("alpha", *dict.fromkeys(["keep", "x", "y", flow]))
    monorepo.write("beta", "b1", flow)
    monorepo.commit()
    return ALPHA, BETA


@pytest.mark.parametrize("folder", ["alpha", "beta"])
@pytest.mark.parametrize("verb", [["validate"], ["plan"], ["apply", "--yes"], ["deploy", "fresh"]])
def test_a_new_flow_of_two_manifests_is_refused_in_both(monorepo: Monorepo, folder: str, verb: list[str]) -> None:
    """Whichever is asked first, with whichever verb: both files are named, and nothing is released."""
    here, there = declare_twice(monorepo, "fresh")[:: 1 if folder == "alpha" else -1]
    before = monorepo.flows
    said = monorepo.run(folder, *verb).refused(
        f"fresh of project research is declared by {there}" * (verb[0] == "deploy")
    )
    if verb[0] != "deploy":
        assert f"fresh is declared by {there} of this repository, and by {here} here" in said.err
    assert monorepo.flows == before


def test_validate_tells_of_a_flow_that_was_released_long_ago(monorepo: Monorepo) -> None:
    """The quiet plan of the one that has the flow looks at no other file; validate does, and the other's plan."""
    declare_twice(monorepo, "x")
    monorepo.run("alpha", "validate").refused(f"x is declared by {BETA} of this repository, and by {ALPHA} here")
    monorepo.run("beta", "validate").refused(f"x is declared by {ALPHA} of this repository, and by {BETA} here")
    with pytest.raises(KitaruManifestError, match=f"x is declared by {ALPHA}"):
        monorepo.client("beta").plan()


def test_validate_reads_what_is_not_committed(monorepo: Monorepo) -> None:
    """Whoever mends it sees that it is mended before the commit, also where the other file is new."""
    declare_twice(monorepo, "x")
    monorepo.write("beta", "b1")
    monorepo.run("alpha", "validate").must()
    monorepo.write("new", "y")
    monorepo.run("alpha", "validate").refused("y is declared by new/kitaru.yaml")


def test_a_flow_that_one_renames_and_another_declares(monorepo: Monorepo) -> None:
    """moved: claims the old name: told by validate in both folders, each at its own line."""
    monorepo.write("beta", "b1", "y2", moved="{y: y2}")
    monorepo.commit()
    said = monorepo.run("beta", "validate").refused(f"y is declared by {ALPHA} of this repository, and {BETA} here").err
    assert "kitaru.yaml:8:12: y is declared" in said
    monorepo.run("alpha", "validate").refused(f"y becomes y2 in {BETA} of this repository; {ALPHA} here declares it")


def test_a_plan_of_one_flow_renames_no_other(monorepo: Monorepo) -> None:
    """Nor does it take one from another manifest on the way: what was not asked for is not done."""
    monorepo.write("beta", "b1", "y2", moved="{y: y2}")
    monorepo.commit()
    assert monorepo.client("beta").plan(["b1"]).is_empty
    with pytest.raises(KitaruManifestError, match=f"y is declared by {ALPHA}"):
        monorepo.client("beta").plan(["y2"])
    monorepo.write("alpha", "keep", "x")
    monorepo.commit()
    monorepo.client("beta").apply(["b1"])
    assert "y" in monorepo.flows
    monorepo.client("beta").apply(["y2"])
    assert monorepo.flows == {"keep": ALPHA, "x": ALPHA, "b1": BETA, "y2": BETA}


def test_another_project_or_store_or_target_is_another_flow(monorepo: Monorepo) -> None:
    """Manifests that keep their flows apart may use the same names."""
    monorepo.write("third", "x", project="another")
    monorepo.write("fourth", "x", store="file://store")
    monorepo.write("sixth", "x", store="s3://bucket/research")
    text = manifest("z") + "targets: {live: {flows: {x: {target: 'flows/work.py:agent'}}}}\n"
    monorepo.repository.write("fifth/kitaru.yaml", text)
    monorepo.commit()
    monorepo.run("alpha", "validate").must()
    there = monorepo.repository.folder / ALPHA
    there.write_text(there.read_text() + "targets: {live: {}}\n")
    monorepo.run("alpha", "validate", "--target", "live").refused("x is declared by fifth/kitaru.yaml")


@pytest.mark.parametrize("spelling", ["../store", "file://../beta/../store", "file://{root}/store"])
def test_one_place_has_many_names(monorepo: Monorepo, spelling: str) -> None:
    """A folder may be given from anywhere: what it leads to counts."""
    monorepo.write("third", "x", store=spelling.format(root=monorepo.repository.folder))
    monorepo.run("alpha", "validate").refused("x is declared by third/kitaru.yaml")


def test_one_store_for_all_is_one_place(monorepo: Monorepo, monkeypatch: pytest.MonkeyPatch) -> None:
    """KITARU_STORE goes for every manifest, whatever store each names."""
    monorepo.write("fourth", "x", store="file://store")
    monkeypatch.setenv("KITARU_STORE", f"file://{monorepo.repository.folder / 'store'}")
    monorepo.run("alpha", "validate").refused("x is declared by fourth/kitaru.yaml")


def test_a_deploy_of_anothers_flow_is_refused_before_its_first_apply(monorepo: Monorepo) -> None:
    """The other manifest only declares it: that is enough, in the working tree as it is."""
    monorepo.write("beta", "b1", "greeter")
    with pytest.raises(KitaruUsageError, match=f"greeter of project research is declared by {BETA}"):
        monorepo.client("alpha").deployments.deploy("flows/work.py:greeter")


# --- what it costs ----------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands of Git that were run since, by their first words."""
    started: list[str] = []
    start: Callable[..., subprocess.Popen[bytes]] = git_process.start

    def noted(folder: Path, *arguments: str, **given: object) -> subprocess.Popen[bytes]:
        started.append(" ".join(arguments[:3]))
        return start(folder, *arguments, **given)

    monkeypatch.setattr(git_process, "start", noted)
    return started


def test_a_quiet_plan_looks_at_no_other_manifest(monorepo: Monorepo, asked: list[str]) -> None:
    """Nor does one that only builds a new version of a flow that is its own."""
    assert monorepo.client("alpha").plan().is_empty
    assert LISTING not in asked
    declare_twice(monorepo, "fresh")
    asked.clear()
    with pytest.raises(KitaruManifestError):
        monorepo.client("alpha").plan()
    assert asked.count(LISTING) == 1


def test_hundreds_of_manifests_are_read_by_one_process(own_world: Path, asked: list[str]) -> None:
    """Of 300 manifests only those are parsed that can have one of the flows."""
    many = Repository.make(own_world / "many", {}, manifest("agent", "own"))
    for number in range(300):
        many.write(f"services/s{number}/kitaru.yaml", manifest(f"flow{number}", store="file://../../../store"))
    many.write("services/s7/kitaru.yaml", manifest("own", store="file://../../../store"))
    sha = many.commit()
    parsed: list[bytes] = []

    def noted(body: bytes, target: str | None) -> tuple[dict[str, Any] | None, str]:
        parsed.append(body)
        return read_leniently(body, target)

    asked.clear()
    wanted = Wanted("kitaru.yaml", ("agent", "own"), project="research", store="file://../store")
    (found,) = find_neighbours(many.folder, wanted, sha, noted).found
    assert found == Neighbour("services/s7/kitaru.yaml", frozenset({"own"}), {})
    assert (len(parsed), asked) == (1, [LISTING, "cat-file --batch --buffer"])
    assert find_neighbours(many.folder, wanted, None, noted).found == (found,)


@pytest.mark.parametrize(
    "text",
    [
        'flows: {"own": {}}',
        "flows: {'own' : {}}",
        "flows:\n  ? own\n  : {}",
        'flows: {"\\u006fwn": {}}',
        "flows:\n  &name own: {}",
    ],
)
def test_a_name_is_found_however_it_is_spelled(repository: Repository, text: str) -> None:
    """Quoted, escaped, as an explicit key: what YAML reads as the flow is the flow."""
    repository.write("other/kitaru.yaml", f"project: research\n{text}\n")
    sha = repository.commit()
    wanted = Wanted("kitaru.yaml", ("own",), project="research")
    assert [one.flows for one in find_neighbours(repository.folder, wanted, sha, read_leniently).found] == [{"own"}]


def test_links_and_folders_are_no_manifests(repository: Repository) -> None:
    """A link is read where it leads to; what is no file has no flows."""
    repository.write("a/kitaru.yaml", manifest("own"))
    (repository.folder / "b").mkdir()
    (repository.folder / "b/kitaru.yaml").symlink_to("../a/kitaru.yaml")
    repository.write("c/kitaru.yaml/own:", "project: research")
    git(repository.folder, "add", "-A")
    sha = repository.commit()
    for commit in (sha, None):
        found = find_neighbours(
            repository.folder, Wanted("kitaru.yaml", ("own",), any_store=True), commit, read_leniently
        ).found
        assert [one.path for one in found] == ["a/kitaru.yaml"]


def test_who_declares_a_flow_comes_before_who_renames_it() -> None:
    """In words, for a flow that this manifest no longer has; none for one that nobody has."""
    one = Neighbour("a/kitaru.yaml", frozenset({"x"}), {})
    two = Neighbour("b/kitaru.yaml", frozenset(), {"y": "y2"})
    beside = Neighbours((one, two))
    assert taken_over("x", beside) == "x is declared by a/kitaru.yaml now; apply there takes it over"
    assert taken_over("y", beside) == "y is renamed to y2 by b/kitaru.yaml now; apply there takes it over"
    assert taken_over("z", beside) == ""
