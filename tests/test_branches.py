"""A pipeline's variables name the branch of a commit that was checked out without one; Git has a say as well."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kitaru.errors import KitaruStateError
from kitaru.settings import ci_branch
from kitaru.source.git import can_be_of
from tests.applying import new_version, routed, routes_of
from tests.repository import Repository, git, kitaru

RULES = "protect: {default: {branch: main}}\n"


def head(folder: Path) -> str:
    return git(folder, "rev-parse", "HEAD").strip()


@pytest.fixture
def pipeline(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    """A protected default at v1; the working tree is at a commit that no main contains, without a branch."""
    repository.manifest(routed("{default: head}", RULES))
    repository.commit()
    repository.apply()
    git(repository.folder, "switch", "-q", "-c", "spoof")
    new_version(repository, "spoof")
    git(repository.folder, "switch", "-q", "--detach")
    for name, value in (("CI", "true"), ("GITLAB_CI", "true"), ("CI_COMMIT_BRANCH", "main")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CI_COMMIT_SHA", head(repository.folder))
    yield repository


def test_variables_alone_move_no_protected_route(pipeline: Repository) -> None:
    """A commit that is on no main here is on no branch, whatever the variables say; plan and apply say why."""
    plan = pipeline.plan()
    assert plan.commit.branch is None
    assert "this commit is not on a branch" in plan.guards[0]
    sha = head(pipeline.folder)[:12]
    assert f"the variables of CI say that {sha} is on main; main does not contain it here" in plan.warnings[0]
    kitaru("apply", "--yes", cwd=pipeline.folder).refused("protected routes stand in the way", code=1)
    with pytest.raises(KitaruStateError):
        pipeline.apply()
    git(pipeline.folder, "branch", "-f", "main", "HEAD")
    assert pipeline.apply().changed
    assert pipeline.plan().warnings == ()


def test_a_branch_of_any_remote_counts(pipeline: Repository) -> None:
    """As origin has it after a fetch, or another remote; one whose name only ends alike does not."""
    sha = head(pipeline.folder)
    assert not can_be_of(pipeline.folder, sha, "main")
    git(pipeline.folder, "update-ref", "refs/remotes/origin/team/main", sha)
    assert not can_be_of(pipeline.folder, sha, "main")
    git(pipeline.folder, "update-ref", "refs/remotes/upstream/main", sha)
    assert can_be_of(pipeline.folder, sha, "main")
    new_version(pipeline, "later")
    git(pipeline.folder, "update-ref", "refs/remotes/upstream/main", "HEAD")
    assert can_be_of(pipeline.folder, sha, "main")


@pytest.mark.parametrize("branch", ["release", "5/merge", "not a branch", "*"])
def test_a_branch_that_git_does_not_know_is_as_the_variable_says(pipeline: Repository, branch: str) -> None:
    """Many pipelines fetch a single commit and no branch at all."""
    assert can_be_of(pipeline.folder, head(pipeline.folder), branch)


def pipeline_clone(repository: Repository, folder: Path, sha: str, depth: int) -> Repository:
    """A checkout as GitLab makes it: the pipeline's commit and the branch, each with so many commits of history."""
    folder.mkdir()
    git(folder, "init", "-q")
    git(folder, "remote", "add", "origin", f"file://{repository.folder}")
    git(repository.folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    refs = (f"+{sha}:refs/pipelines/1", "+refs/heads/main:refs/remotes/origin/main")
    git(folder, "fetch", "-q", "--depth", str(depth), "origin", *refs)
    git(folder, "checkout", "-q", "--detach", sha)
    return Repository(folder)


@pytest.mark.parametrize("later", [0, 1, 8])
def test_a_shallow_pipeline_goes_on_while_main_moves(repository: Repository, own_world: Path, later: int) -> None:
    """Main may have moved on by less or more than what is fetched of it: the commit is still of main."""
    for number in range(6):
        repository.commit(f"before {number}")
    sha = head(repository.folder)
    for number in range(later):
        repository.commit(f"after {number}")
    job = pipeline_clone(repository, own_world / "job", sha, 4)
    assert git(job.folder, "rev-parse", "--is-shallow-repository").strip() == "true"
    assert can_be_of(job.folder, sha, "main")


def test_a_commit_ahead_of_main_is_not_on_it(repository: Repository, own_world: Path) -> None:
    """Also in a shallow clone, whose main ends before it; a whole history settles what a shallow one can't tell."""
    for number in range(6):
        repository.commit(f"work {number}")
    job = pipeline_clone(repository, own_world / "job", head(repository.folder), 4)
    git(job.folder, "-c", "user.name=Bob", "-c", "user.email=b@example.org", "commit", "-q", "--allow-empty", "-m", "x")
    assert not can_be_of(job.folder, head(job.folder), "main")
    git(job.folder, "fetch", "-q", "--unshallow")
    assert not can_be_of(job.folder, head(job.folder), "main")


SHA = "1" * 40
GITHUB = {"GITHUB_SHA": SHA, "GITHUB_REF_NAME": "main"}
GITLAB = {"CI_COMMIT_SHA": SHA, "CI_COMMIT_BRANCH": "main"}


@pytest.mark.parametrize(
    ("environ", "branch"),
    [
        (GITHUB, "main"),
        ({**GITHUB, "GITHUB_REF_TYPE": "branch"}, "main"),
        ({**GITHUB, "GITHUB_REF_TYPE": "branch", "GITHUB_REF": "refs/heads/main"}, "main"),
        ({**GITHUB, "GITHUB_REF_TYPE": "", "GITHUB_REF": ""}, "main"),
        ({**GITHUB, "GITHUB_REF_TYPE": "tag"}, None),
        ({**GITHUB, "GITHUB_REF": "refs/tags/main"}, None),
        ({**GITHUB, "GITHUB_REF_TYPE": "tag", "GITHUB_REF": "refs/heads/main"}, None),
        ({**GITHUB, "GITHUB_REF_TYPE": "branch", "GITHUB_REF": "refs/pull/5/merge"}, None),
        ({**GITHUB, "GITHUB_SHA": "2" * 40}, None),
        (GITLAB, "main"),
        ({**GITLAB, "CI_COMMIT_TAG": ""}, "main"),
        ({**GITLAB, "CI_COMMIT_TAG": "main"}, None),
        ({**GITHUB, "GITHUB_REF_TYPE": "tag", **GITLAB}, "main"),
    ],
)
def test_variables_name_a_branch_only_where_ci_runs_for_one(environ: dict[str, str], branch: str | None) -> None:
    """A tag or a pull request is none, however it is called; each service is asked by its own variables."""
    assert ci_branch(SHA, environ) == branch


@pytest.mark.parametrize(
    "variables",
    [
        {"GITHUB_REF_TYPE": "tag", "GITHUB_REF": "refs/tags/main", "GITHUB_REF_NAME": "main"},
        {"CI_COMMIT_TAG": "main", "CI_COMMIT_BRANCH": "main"},
    ],
    ids=["GitHub", "GitLab"],
)
def test_a_tag_named_like_the_branch_moves_no_protected_route(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    """A pipeline of tag main, checked out without a branch, is on no branch, though main contains the commit."""
    repository.manifest(routed("{default: head}", RULES))
    repository.commit()
    repository.apply()
    new_version(repository, "second")
    git(repository.folder, "tag", "main")
    git(repository.folder, "switch", "-q", "--detach")
    sha = head(repository.folder)
    for name, value in {**variables, "GITHUB_SHA": sha, "CI_COMMIT_SHA": sha}.items():
        monkeypatch.setenv(name, value)
    done = kitaru("apply", "--yes", cwd=repository.folder)
    done.refused("only from branch main", "this commit is not on a branch", code=1)
    assert routes_of(repository) == {"default": (1,)}
