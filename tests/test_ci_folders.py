"""Several manifests in one repository: nothing that a forge tells apart by name has the name of another manifest's."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kitaru.ci.files import Choices
from kitaru.cli import ci as commands
from kitaru.client import ci
from tests.ci_jobs import INSTALL, load
from tests.ci_servers import GitHubState, github
from tests.repository import MANIFEST, Repository, kitaru

FOLDERS = ("", "team_a", "team a", "services/search")
ROOT = ".gitlab-ci.yml"


@pytest.fixture
def several(repository: Repository) -> Repository:
    """A repository with a manifest at its root and in three folders, and the files of both providers for each."""
    for folder in FOLDERS:
        if folder:
            repository.write(f"{folder}/kitaru.yaml", MANIFEST)
        for provider in ("github", "gitlab"):
            kitaru("ci", "init", *INSTALL, provider, cwd=repository.folder / folder).must()
    return repository


def workflows(repository: Repository, kind: str) -> list[Any]:
    found = sorted(repository.folder.glob(f".github/workflows/*-{kind}.yml"))
    assert len(found) == len(FOLDERS)
    return [load(path) for path in found]


def distinct(found: Iterator[str]) -> bool:
    names = list(found)
    return len(names) >= len(FOLDERS) and len(set(names)) == len(names)


def test_checks_and_workflows_have_names_of_their_own(several: Repository) -> None:
    """A check is known by its job's name alone: a required one must be that of one manifest."""
    plans, applies, drifts = (workflows(several, kind) for kind in ("plan", "apply", "drift"))
    everything = [*plans, *applies, *drifts]
    assert distinct(one["name"] for one in everything)
    assert distinct(job["name"] for one in everything for job in one["jobs"].values())
    assert "kitaru plan" in {one["jobs"]["plan"]["name"] for one in plans}


def test_queues_artifacts_and_environments_too(several: Repository) -> None:
    """One manifest's apply waits for no other's, and takes no other's plan or credentials."""
    everything = [one for kind in ("plan", "apply", "drift") for one in workflows(several, kind)]
    assert distinct(str(one["concurrency"]["group"]) for one in everything)
    kept = [
        step["with"]["name"]
        for one in workflows(several, "plan")
        for step in one["jobs"]["plan"]["steps"]
        if "upload-artifact" in str(step.get("uses"))
    ]
    assert distinct(iter(kept))
    assert distinct(one["jobs"]["apply"]["environment"] for one in workflows(several, "apply"))
    for one, artifact in zip(workflows(several, "apply"), kept, strict=True):
        scripts = "\n".join(str(step.get("run")) for step in one["jobs"]["apply"]["steps"])
        assert f"--artifact {artifact} " in scripts


def test_jobs_of_gitlab_too(several: Repository) -> None:
    """All included files together have each job, queue and environment once, and the entry includes them all."""
    included = [one["local"] for one in load(several.folder / ROOT)["include"]]
    assert sorted(f"/{path.relative_to(several.folder)}" for path in several.folder.glob(".gitlab/*")) == sorted(
        included
    )
    files = [load(several.folder / path[1:]) for path in included]
    assert distinct(name for one in files for name in one)
    applies = [job for one in files for name, job in one.items() if name.endswith("-apply")]
    assert distinct(job["resource_group"] for job in applies)
    assert distinct(job["environment"]["name"] for job in applies)


@pytest.mark.parametrize("folder", ["", "team_a"])
def test_two_targets_of_one_manifest_have_two_pipelines(repository: Repository, folder: str) -> None:
    """Each target plans, applies and looks for drift under names of its own, beside the manifest without a target."""
    targets = "targets:\n  staging: {project: research-staging}\n  production: {project: research-live}\n"
    repository.write(f"{folder}/kitaru.yaml" if folder else "kitaru.yaml", MANIFEST + targets)
    pipelines = ((), ("--target", "staging"), ("--target", "production"))
    for provider in ("github", "gitlab"):
        for words in (*pipelines, *pipelines):  # a second time, nothing is to be written
            done = kitaru("ci", "init", *INSTALL, provider, *words, cwd=repository.folder / folder).must()
        assert {line.partition(":")[0] for line in done.out.splitlines() if line.endswith(".yml")} == {"unchanged"}
    for kind in ("plan", "apply", "drift"):
        paths = sorted(repository.folder.glob(f".github/workflows/*-{kind}.yml"))
        found = [load(path) for path in paths]
        assert len({one["name"] for one in found}) == len(pipelines)
        assert len({one["concurrency"]["group"] for one in found}) == len(pipelines)
        for target in ("staging", "production"):
            (own,) = [path for path in paths if path.name.endswith(f".{target}-{kind}.yml")]
            assert f"kitaru plan --target {target} " in own.read_text()
            if kind != "apply":
                assert f" --as {own.name.removesuffix(f'-{kind}.yml')} " in own.read_text()
    included = [one["local"] for one in load(repository.folder / ROOT)["include"]]
    jobs = [name for path in included for name in load(repository.folder / path[1:])]
    assert (len(included), len(jobs)) == (3, len(set(jobs)))


def test_an_entry_with_more_in_it_is_left_alone(repository: Repository) -> None:
    """Only a .gitlab-ci.yml that Kitaru wrote gets another line; a third run changes nothing."""
    kitaru("ci", "init", *INSTALL, "gitlab", cwd=repository.folder).must()
    theirs = (repository.folder / ROOT).read_text() + "job:\n  script: ['true']\n"
    repository.write(ROOT, theirs)
    repository.write("a/kitaru.yaml", MANIFEST)
    done = kitaru("ci", "init", *INSTALL, "gitlab", cwd=repository.folder / "a").must()
    assert "left as it is: .gitlab-ci.yml" in done.out
    assert "under its include:" in done.out
    assert (repository.folder / ROOT).read_text() == theirs


def test_names_that_can_not_be_spelled_differ() -> None:
    """Folders that come to the same letters, or to none, still have pipelines of their own."""
    folders = ["", "流", "流れ", "team a", "team_a", "team-a", "team  a", "A/b"]
    names = [Choices(project="p", store="", branch="main", python="3.12", folder=one).name for one in folders]
    assert len(set(names)) == len(folders)
    assert (names[0], names[5], names[7]) == ("kitaru", "kitaru-team-a", "kitaru-a-559aea_b")


def test_folders_and_targets_do_not_meet() -> None:
    """A target is told from a folder of its name, from one in a folder, and from one that differs in small letters."""
    places = [("", None), ("live", None), ("", "live"), ("live", "live"), ("", "Live"), ("", "li.ve"), ("", "li-ve")]
    names = [
        Choices(project="p", store="", branch="main", python="3.12", folder=folder, target=target).name
        for folder, target in places
    ]
    assert len({name.lower() for name in names}) == len(places)
    assert names[:4] == ["kitaru", "kitaru-live", "kitaru.live", "kitaru-live.live"]


@pytest.fixture
def hub() -> Iterator[GitHubState]:
    with github() as found:
        yield found


def test_each_manifest_keeps_its_own_comment_and_issue(repository: Repository, hub: GitHubState) -> None:
    """Two manifests that share a project have two comments and two issues; closing one leaves the other open."""
    plan = repository.folder.parent / "plan.json"
    kitaru("plan", "--out", plan, cwd=repository.folder).must()
    drift = repository.folder.parent / "drift.md"
    drift.write_text(kitaru("plan", "--drift", "-o", "markdown", cwd=repository.folder).out)
    for name in (None, "kitaru-a", "kitaru-b", "kitaru-a"):
        ci.comment(commands._markdown(plan, name), 7, hub.environ())
        ci.issue("drift", commands._markdown(drift, name), hub.environ())
    heads = [one["body"].splitlines()[:2] for one in hub.comments]
    assert heads == [
        ["<!-- kitaru plan research -->", "### Kitaru plan: `research`"],
        ["<!-- kitaru plan research kitaru-a -->", "### Kitaru plan: `research` (kitaru-a)"],
        ["<!-- kitaru plan research kitaru-b -->", "### Kitaru plan: `research` (kitaru-b)"],
    ]
    assert len(hub.issues) == 3
    ci.close_issue(commands._markdown(drift, "kitaru-b"), hub.environ())
    assert [one["state"] for one in hub.issues] == ["open", "open", "closed"]


def test_a_name_that_would_end_the_comment_is_refused(repository: Repository) -> None:
    """``--as`` becomes part of an HTML comment."""
    plan = repository.folder.parent / "plan.json"
    kitaru("plan", "--out", plan, cwd=repository.folder).must()
    kitaru("ci", "comment", plan, "--as", "a --> b", cwd=repository.folder).refused("--as a --> b: expected letters")


def test_the_jobs_say_which_manifest_they_are_for(several: Repository) -> None:
    """A folder's scripts name it where they comment and where they keep an issue; the root's need not."""
    for kind, command in (("plan", "kitaru ci comment"), ("drift", "kitaru ci issue")):
        for one in workflows(several, kind):
            name = one["name"].removesuffix(f" {kind}")
            lines = [
                line
                for job in one["jobs"].values()
                for step in job["steps"]
                for line in str(step.get("run")).splitlines()
                if command in line
            ]
            assert lines
            assert all((f"{command} --as {name} " in line) == (name != "kitaru") for line in lines)


def test_the_scripts_are_still_shell(several: Repository) -> None:
    """A folder's name in a script can't end it."""
    for path in sorted(several.folder.glob(".github/workflows/*.yml")):
        for job in load(path)["jobs"].values():
            for step in job["steps"]:
                done = subprocess.run(["bash", "-n"], input=str(step.get("run", "")), text=True, check=False)
                assert done.returncode == 0, Path(path).name
