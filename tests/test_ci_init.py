"""ci init writes a pipeline that linters pass, is safe to run again, and never writes over anybody's work unasked."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from kitaru.ci import files as ci_files
from tests.ci_jobs import EXPRESSION, INSTALL, load, scripts
from tests.repository import MANIFEST, Done, Repository, git, kitaru

WORKFLOWS = [f".github/workflows/kitaru-{one}.yml" for one in ("apply", "drift", "plan")]
GITLAB = [".gitlab-ci.yml", ".gitlab/kitaru.gitlab-ci.yml"]
S3 = MANIFEST.replace("file://.kitaru/store", "s3://bucket/prefix") + "targets:\n  production: {store: 's3://b/prod'}\n"


def ci_init(repository: Repository, *arguments: str) -> Done:
    return kitaru("ci", "init", *INSTALL, *arguments, cwd=repository.folder)


def files(folder: Path) -> dict[str, str]:
    found = [*folder.glob(".github/**/*"), *folder.glob(".gitlab*"), *folder.glob(".gitlab/*")]
    return {str(one.relative_to(folder)): one.read_text("utf-8") for one in sorted(found) if one.is_file()}


def tool(name: str, *arguments: str | Path) -> Done:
    place = Path(sys.executable).parent / name
    found = str(place) if place.exists() else shutil.which(name)
    assert found is not None, f"{name} is not installed: pip install -e '.[test]'"
    done = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(params=["plain", "everything"])
def pipelines(request: pytest.FixtureRequest, repository: Repository) -> Repository:
    """Both providers' files, for a plain manifest and for one in a folder, with a bucket, a target and requirements."""
    if request.param == "plain":
        ci_init(repository, "github").must()
        ci_init(repository, "gitlab").must()
        return repository
    folder = "team a's/flöws"
    repository.write(f"{folder}/kitaru.yaml", S3)
    repository.write(f"{folder}/requirements.txt", "httpx\n")
    for provider in ("github", "gitlab"):
        command = (
            "ci",
            "init",
            *INSTALL,
            provider,
            "--target",
            "production",
            "--branch",
            "release/1.0",
            "--python",
            "3.13",
        )
        kitaru(*command, cwd=repository.folder / folder).must()
    return repository


def places(repository: Repository) -> list[Path]:
    return [repository.folder / name for name in files(repository.folder)]


def test_workflows_pass_their_linters(pipelines: Repository) -> None:
    """jactionlint with shellcheck, zizmor at its most pedantic, and the published schemas have nothing to say."""
    github = [path for path in places(pipelines) if ".github" in path.parts]
    gitlab = [path for path in places(pipelines) if ".github" not in path.parts]
    assert (len(github), len(gitlab)) == (3, 2)
    if sys.platform == "linux":
        shell = Path(sys.executable).parent / "shellcheck"
        tool("jactionlint", f"--shellcheck={shell}", *github).must()
    tool("zizmor", "--offline", "--no-progress", "--persona", "pedantic", *github).must()
    tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *github).must()
    transform = ("--data-transform", "gitlab-ci")
    tool("check-jsonschema", "--builtin-schema", "vendor.gitlab-ci", *transform, *gitlab).must()


@pytest.mark.parametrize(
    ("old", "new", "by"),
    [
        ("run: kitaru validate", "run: echo ${{ github.event.pull_request.title }}", "jactionlint"),
        ("run: kitaru validate", "run: echo ${{ github.head_ref }}", "zizmor"),
        ("permissions:\n      contents: read", "permissions: write-all", "zizmor"),
        ("pull_request:", "pull_request_target:", "zizmor"),
        ("timeout-minutes: 30", "timeout-minutes: soon", "check-jsonschema"),
        ('"$code"', "$cod*e", "jactionlint"),
    ],
)
def test_the_linters_see_what_they_are_there_for(repository: Repository, old: str, new: str, by: str) -> None:
    """Each linter finds a mistake of its kind put into our own workflow: a clean report means something."""
    ci_init(repository, "github").must()
    path = repository.folder / WORKFLOWS[2]
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    shell = f"--shellcheck={Path(sys.executable).parent / 'shellcheck'}"
    options = {
        "jactionlint": [shell],
        "zizmor": ["--offline", "--no-progress"],
        "check-jsonschema": ["--builtin-schema", "vendor.github-workflows"],
    }
    assert tool(by, *options[by], path).code != 0


def test_scripts_are_shell_and_take_nothing_from_outside(pipelines: Repository) -> None:
    """Every script parses, passes shellcheck, and holds no expression: values come in by the environment."""
    found = [script for path in places(pipelines) for script in scripts(path)]
    assert len(found) >= 17
    for script in found:
        assert not EXPRESSION.search(script.text), script.where
        done = subprocess.run(["bash", "-n"], input=script.text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{script.where}: {done.stderr}"
        file = pipelines.folder.parent / "script.sh"
        file.write_text(script.text)
        # A folder that is not there yet, and a variable that the runner sets, are no mistakes here.
        tool("shellcheck", "--shell=bash", "--exclude=SC2164", file).must()


def test_forks_meet_no_secret(pipelines: Repository) -> None:
    """No trigger gives a fork's code our secrets; a secret is seen by single steps, and never beside a write token."""
    for path in (one for one in places(pipelines) if ".github" in one.parts):
        workflow = load(path)
        assert "pull_request_target" not in workflow[True if True in workflow else "on"]
        assert workflow["permissions"] == {}
        for job in workflow["jobs"].values():
            assert "env" not in job
            assert job["timeout-minutes"] <= 60
            writes = [name for name, access in job["permissions"].items() if access == "write"]
            runs_their_code = "pull_request" in str(workflow.get("on") or workflow.get(True)) and any(
                "checkout" in str(step.get("uses")) for step in job["steps"]
            )
            assert not (writes and runs_their_code)
            for step in job["steps"]:
                if "checkout" in str(step.get("uses")):
                    assert step["with"]["persist-credentials"] is False
                if "uses" in step:
                    assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])


def test_applies_queue_and_plans_give_way(repository: Repository) -> None:
    """A newer push cancels an older plan; an apply is never cancelled, and none that waits is dropped."""
    ci_init(repository, "github").must()
    plan, apply = (load(repository.folder / WORKFLOWS[at])["concurrency"] for at in (2, 0))
    assert plan["cancel-in-progress"] is True
    assert plan["group"] == "kitaru-plan-${{ github.event.pull_request.number || github.ref }}"
    assert apply == {"group": "kitaru-apply", "cancel-in-progress": False, "queue": "max"}


def test_a_merge_queue_gets_its_answer(pipelines: Repository) -> None:
    """Required checks run on the queue's commits, too: the plan by the same name, and what belongs to a request is
    skipped. Nothing that is kept there could pass for reviewed.
    """
    (path,) = [one for one in places(pipelines) if one.name.endswith("plan.yml")]
    workflow = load(path)
    triggers = workflow.get("on") or workflow[True]
    assert (
        triggers["merge_group"] == triggers["pull_request"] == {"branches": [triggers["pull_request"]["branches"][0]]}
    )
    plan, comment = workflow["jobs"]["plan"], workflow["jobs"]["comment"]
    assert "if" not in plan
    assert comment["if"].startswith("github.event_name == 'pull_request' && ")
    by_name = {step.get("name"): step for step in plan["steps"]}
    assert by_name["Keep the plan"]["if"].endswith("&& github.event_name == 'pull_request'")
    assert by_name["Plan"]["env"]["UNTRUSTED"].startswith("${{ github.event_name == 'pull_request' && (")
    assert all("if" not in by_name[name] for name in ("Validate", "Plan"))


def test_it_says_what_it_wrote_and_what_is_next(repository: Repository) -> None:
    """The files, the warning that a local store is out of a job's reach, the secrets, and the branch to protect."""
    done = ci_init(repository, "github").must()
    assert sorted(files(repository.folder)) == WORKFLOWS
    for word in (*WORKFLOWS, "jobs can't reach", "environment kitaru", "protect main", "open a pull request"):
        assert word in done.out
    assert INSTALL[1] in files(repository.folder)[WORKFLOWS[0]]
    listed = ci_init(repository, "github", "-o", "json").must().json["item"]["files"]
    assert {one["action"] for one in listed} == {"unchanged"}


def test_safe_to_run_again(repository: Repository) -> None:
    """The second run changes nothing; a changed file is shown as a diff and kept, together with all others."""
    ci_init(repository, "github").must()
    before = files(repository.folder)
    assert "unchanged" in ci_init(repository, "github").must().out
    assert files(repository.folder) == before
    changed = repository.folder / WORKFLOWS[2]
    changed.write_text(before[WORKFLOWS[2]].replace("timeout-minutes: 30", "timeout-minutes: 5"))
    (repository.folder / WORKFLOWS[0]).unlink()
    done = ci_init(repository, "github").refused(
        "-    timeout-minutes: 5", "+    timeout-minutes: 30", "--force", code=1
    )
    assert "kitaru-drift" not in done.err
    assert not (repository.folder / WORKFLOWS[0]).exists()
    assert "overwritten" in ci_init(repository, "github", "--force").must().out
    assert files(repository.folder) == before


def test_an_existing_gitlab_file_is_never_written_over(repository: Repository) -> None:
    """A .gitlab-ci.yml stays byte for byte, with --force too; what to paste is printed until it is there."""
    theirs = "stages: [test, deploy]\n\njob:\n  script: ['true']\n"
    repository.write(".gitlab-ci.yml", theirs)
    done = ci_init(repository, "--force").must()
    assert "left as it is: .gitlab-ci.yml" in done.out
    assert "  - local: /.gitlab/kitaru.gitlab-ci.yml" in done.out
    assert (repository.folder / ".gitlab-ci.yml").read_text() == theirs
    repository.write(".gitlab-ci.yml", theirs + "include:\n  - local: /.gitlab/kitaru.gitlab-ci.yml\n")
    assert "paste" not in ci_init(repository).must().out


@pytest.mark.parametrize(
    ("remote", "there", "expected"),
    [
        ("git@github.com:acme/x.git", None, WORKFLOWS),
        ("https://user:pass@gitlab.example.org/acme/github.git", None, GITLAB),
        ("ssh://git@github.example.org/acme/gitlab.git", None, WORKFLOWS),
        (None, ".github/dependabot.yml", WORKFLOWS),
        ("/srv/git/gitlab.git", ".github/dependabot.yml", WORKFLOWS),
    ],
)
def test_the_provider_is_found(
    repository: Repository, remote: str | None, there: str | None, expected: list[str]
) -> None:
    """The remote's host says who runs pipelines, never its path; else files that are there already."""
    if remote is not None:
        git(repository.folder, "remote", "add", "origin", remote)
    if there is not None:
        repository.write(there, "")
    ci_init(repository).must()
    assert set(expected) <= set(files(repository.folder))


def test_the_branch_is_the_remotes(repository: Repository) -> None:
    """Where the remote calls another branch its own, that is the one."""
    git(repository.folder, "branch", "-m", "trunk")
    clone = repository.clone(repository.folder.parent / "clone")
    kitaru("ci", "init", *INSTALL, "github", cwd=clone.folder).must()
    assert 'branches: ["trunk"]' in files(clone.folder)[WORKFLOWS[0]]


def test_what_can_not_be_written_down_is_refused(repository: Repository) -> None:
    """Names that would mean something to YAML, a glob or a shell; no repository, no manifest, no provider."""
    for arguments in (
        ("--branch", "main]"),
        ("--branch", "*"),
        ("--branch", "$(id)"),
        ("--python", "3.12 && id"),
        ("--target", "nope"),
    ):
        ci_init(repository, "github", *arguments).refused()
    ci_init(repository, "jenkins").refused("expected github or gitlab")
    ci_init(repository).refused("name its forge", "kitaru ci init github")
    assert files(repository.folder) == {}
    (repository.folder / "kitaru.yaml").unlink()
    ci_init(repository, "github").refused("there is no kitaru.yaml", "kitaru init")


def test_a_manifest_without_a_repository(own_world: Path) -> None:
    """Outside Git there is nothing to run a pipeline for."""
    (own_world / "kitaru.yaml").write_text(MANIFEST)
    kitaru("ci", "init", *INSTALL, "github", cwd=own_world).refused("not in a Git repository")


def test_the_wheel_carries_the_templates(installed: Path, repository: Repository) -> None:
    """An installed Kitaru writes the same files as the checkout."""
    ci_init(repository, "github").must()
    before = files(repository.folder)
    for name in before:
        (repository.folder / name).unlink()
    done = subprocess.run(
        [installed, "-m", "kitaru", "ci", "init", *INSTALL, "github"],
        cwd=repository.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert files(repository.folder) == before


def test_a_name_of_the_public_index_is_never_written(repository: Repository) -> None:
    """Jobs install what is pinned: a checkout has no address that they could reach, so the option is asked for."""
    kitaru("ci", "init", "github", cwd=repository.folder).refused("kitaru ci init --install")
    assert not (repository.folder / ".github").exists()


@pytest.mark.parametrize(
    ("record", "requirement"),
    [
        (
            {"url": "https://git.example.org/kitaru", "vcs_info": {"vcs": "git", "commit_id": "0" * 40}},
            f"kitaru-gitops[s3] @ git+https://git.example.org/kitaru@{'0' * 40}",
        ),
        (
            {"url": "https://example.org/k.whl", "archive_info": {"hashes": {"sha256": "1" * 64}}},
            f"kitaru-gitops[s3] @ https://example.org/k.whl#sha256={'1' * 64}",
        ),
        ({"url": "file:///home/ann/kitaru", "dir_info": {"editable": True}}, ""),
        ({"url": "file:///home/ann/k.whl", "archive_info": {"hashes": {"sha256": "1" * 64}}}, ""),
        ({}, ""),
    ],
)
def test_the_running_installation_as_a_requirement(
    record: dict[str, Any], requirement: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Git commit or a wheel with an address is a pinned requirement; a folder of this machine is none."""
    info = tmp_path / "kitaru_gitops-9.9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kitaru-gitops\nVersion: 9.9.9\n")
    (info / "direct_url.json").write_text(json.dumps(record))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert ci_files.own_requirement("[s3]") == requirement


def test_folders_and_targets_never_share_a_name() -> None:
    """Folders that differ in a separator, a space or case alone have pipelines of their own."""
    folders = ["", "svc/a", "svc_a", "svc-a", "SVC-a", "svc a", "a/b-c", "a-b/c", "svc-a.production", "ünï", "[x]*"]
    choices = [
        ci_files.Choices("p", "s3://b", "main", "3.12", target=target, folder=folder)
        for folder in folders
        for target in (None, "production", "Production")
    ]
    names = [one.name for one in choices]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9._-]+", name) for name in names)


def test_force_leaves_the_pipeline_of_another_folder(repository: Repository) -> None:
    """A file that names another manifest is kept, also with --force."""
    ci_init(repository, "github").must()
    path = repository.folder / WORKFLOWS[0]
    path.write_text(path.read_text().replace("# Pipeline of kitaru.yaml", "# Pipeline of other/kitaru.yaml"))
    ci_init(repository, "github", "--force").refused("the pipeline of other/kitaru.yaml", code=1)
    assert "other/kitaru.yaml" in path.read_text()


def test_a_folder_that_looks_like_an_expression_stays_text(repository: Repository) -> None:
    """GitHub evaluates what stands between ${{ and }}; a folder's name must not be evaluated."""
    choices = ci_files.Choices(
        "p", "s3://b", "main", "3.12", folder="svc/${{ github.actor }}", requirement="k @ git+https://x@0"
    )
    for text in ci_files.render("github", choices).values():
        workflow = YAML(typ="safe").load(text)
        places = [job["defaults"]["run"]["working-directory"] for job in workflow["jobs"].values() if "defaults" in job]
        assert places and set(places) == {"svc/${{ '${{' }} github.actor }}"}
