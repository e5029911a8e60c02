"""The written GitLab pipeline, played: its own scripts, a real repository and store, and GitLab's API on loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kitaru.client import ci
from kitaru.errors import KitaruStateError
from tests.applying import generation
from tests.ci_jobs import INSTALL, load, run, tools
from tests.ci_servers import TOKEN, GitLabState, gitlab
from tests.repository import MANIFEST, Done, Repository, git, kitaru

FILE = ".gitlab/kitaru.gitlab-ci.yml"
PLAN = ".kitaru/ci/plan.json"
REQUEST = {"iid": 5, "state": "merged", "target_branch": "main", "source_project_id": 7, "target_project_id": 7}


@dataclass
class Stage:
    """A repository with a store beside it, and the jobs that run for it."""

    repository: Repository
    lab: GitLabState
    world: Path

    def play(self, job: str, **environ: str) -> Done:
        """A job's script, after what its before_script does beside installing."""
        content = load(self.repository.folder / FILE)
        before = [line for line in content[".kitaru"]["before_script"] if "pip install" not in line]
        given = {
            "PATH": tools(self.world),
            "HOME": os.environ["HOME"],
            "KITARU_HOME": os.environ["KITARU_HOME"],
            "GIT_CONFIG_GLOBAL": os.environ["GIT_CONFIG_GLOBAL"],
            "RUNNER_TEMP": str(self.world),
            "CI_COMMIT_SHA": self.sha,
            "CI_COMMIT_BRANCH": "main",
            "CI_JOB_NAME": job,
            "CI_JOB_ID": "31",
            "GITLAB_USER_LOGIN": "ann",
            **self.lab.environ(),
            **environ,
        }
        done = run("\n".join([*before, *content[job]["script"]]), self.repository.folder, given)
        assert TOKEN not in done.said
        return done

    @property
    def sha(self) -> str:
        return git(self.repository.folder, "rev-parse", "HEAD")

    @property
    def plan(self) -> Path:
        return self.repository.folder / PLAN

    def fresh(self) -> None:
        """The next job's checkout holds nothing of the last one's."""
        for path in (self.repository.folder / ".kitaru/ci/reviewed").glob("*"):
            path.unlink()

    def show(self) -> None:
        """The merge request's pipeline: plan, then comment, whose artifact is the plan once more."""
        at = {"CI_MERGE_REQUEST_IID": "5", "CI_COMMIT_BRANCH": "", "CI_MERGE_REQUEST_PROJECT_ID": "7"}
        self.play("kitaru-plan", CI_MERGE_REQUEST_SOURCE_PROJECT_ID="7", **at).must()
        self.play("kitaru-comment", **at).must()
        self.lab.merge_pipelines[5] = [{"id": 20, "sha": self.sha, "ref": "refs/merge-requests/5/head"}]
        self.lab.jobs[20] = [{"id": 30, "name": "kitaru-comment", "ref": "refs/merge-requests/5/head"}]
        self.lab.files[f"30/{PLAN}"] = self.plan.read_bytes()
        self.lab.requests[self.sha] = [{**REQUEST, "sha": self.sha}]


@pytest.fixture
def stage(own_world: Path) -> Iterator[Stage]:
    manifest = MANIFEST.replace("file://.kitaru/store", f"file://{own_world / 'store'}")
    repository = Repository.make(own_world / "repository", manifest=manifest)
    # Nothing here keeps what the jobs leave out of Git's sight but the jobs themselves.
    repository.write(".gitignore", "__pycache__/\n")
    kitaru("ci", "init", *INSTALL, "gitlab", cwd=repository.folder).must()
    repository.commit("pipeline")
    with gitlab() as lab:
        yield Stage(repository, lab, own_world)


def test_from_merge_request_to_live(stage: Stage) -> None:
    """Plan, note, merge, apply: what the note showed is live; a second apply has nothing to do."""
    stage.show()
    (note,) = stage.lab.notes
    assert note["body"].startswith("<!-- kitaru plan research -->")
    done = stage.play("kitaru-apply").must()
    assert "Applied: generation 1" in done.out
    stage.fresh()
    stage.play("kitaru-apply").must()
    assert generation(stage.repository) == 1


def test_what_was_not_shown_waits_for_approval(stage: Stage) -> None:
    """Without a review nothing is applied; a pipeline run by hand with the failed job's number applies that plan."""
    done = stage.play("kitaru-apply").refused("no reviewed plan was found", code=1)
    assert "KITARU_APPROVED_JOB set to 31" in done.out
    stage.lab.jobs[21] = [{"id": 31, "name": "kitaru-apply", "ref": "main"}]
    stage.lab.files[f"31/{PLAN}"] = stage.plan.read_bytes()
    stage.fresh()
    stage.play("kitaru-apply", KITARU_APPROVED_JOB="31").must()
    assert generation(stage.repository) == 1


def test_what_nobody_was_shown_is_no_review(stage: Stage) -> None:
    """A fork's request, an open one, one onto another branch, an older commit's pipeline: each reviews nothing."""
    stage.lab.merge_pipelines[5] = [{"id": 20, "sha": stage.sha, "ref": "x"}]
    stage.lab.jobs[20] = [{"id": 30, "name": "kitaru-comment", "ref": "x"}]
    stage.lab.files[f"30/{PLAN}"] = b"{}"
    stage.lab.requests[stage.sha] = [{**REQUEST, "sha": stage.sha}]
    request, pipeline, job = stage.lab.requests[stage.sha][0], stage.lab.merge_pipelines[5][0], stage.lab.jobs[20][0]
    assert labels(stage) == ["merge request !5"]
    lies: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (request, {"source_project_id": 8}),
        (request, {"state": "opened"}),
        (request, {"target_branch": "develop"}),
        (pipeline, {"sha": "0" * 40}),
        (job, {"name": "kitaru-plan"}),
        (job, {"id": 32}),
    ]
    for where, lie in lies:
        truth = dict(where)
        where |= lie
        assert labels(stage) == [], lie
        where |= truth
    # A newer one of the push itself has no such job.
    stage.lab.merge_pipelines[5].append({"id": 25, "sha": stage.sha, "ref": "x", "source": "push"})
    pipeline |= {"sha": "0" * 40, "ref": "refs/merge-requests/5/merge", "source": "merge_request_event"}
    assert labels(stage) == ["merge request !5"]


def labels(stage: Stage, run_of: str | None = None) -> list[str]:
    into = stage.world / f"reviewed-{len(list(stage.world.glob('reviewed-*')))}"
    at = {"CI_COMMIT_SHA": stage.sha, "CI_COMMIT_BRANCH": "main", "CI_JOB_NAME": "kitaru-apply"}
    found = ci.fetch_reviewed(into, artifact=f"kitaru-comment/{PLAN}", run=run_of, environ=stage.lab.environ(**at))
    return [one.label for one in found]


def test_only_an_apply_of_this_branch_can_be_approved(stage: Stage) -> None:
    """A job of another name or branch is no apply whose plan can be approved."""
    stage.lab.files[f"31/{PLAN}"] = b"{}"
    for job in ({"name": "kitaru-plan", "ref": "main"}, {"name": "kitaru-apply", "ref": "mallory"}):
        stage.lab.jobs[21] = [{"id": 31, **job}]
        with pytest.raises(KitaruStateError, match="no apply of this branch"):
            labels(stage, "31")


def test_a_fork_is_validated_and_told(stage: Stage) -> None:
    """A fork's project has no secrets: the job succeeds and says so; ours would fail."""
    unreachable = {
        "KITARU_STORE": "s3://bucket/prefix",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_EC2_METADATA_DISABLED": "true",
        "CI_MERGE_REQUEST_PROJECT_ID": "7",
    }
    done = stage.play("kitaru-plan", CI_MERGE_REQUEST_SOURCE_PROJECT_ID="8", **unreachable).must()
    assert "the plan is skipped" in done.out
    stage.play("kitaru-plan", CI_MERGE_REQUEST_SOURCE_PROJECT_ID="7", **unreachable).must(1)


def test_drift_fails_the_scheduled_pipeline(stage: Stage) -> None:
    """A route moved by hand fails the job; until then it succeeds."""
    stage.repository.apply()
    stage.play("kitaru-drift").must()
    stage.repository.change("flows/work.py", "hello", "good day")
    stage.repository.commit()
    stage.repository.apply()
    stage.repository.client().deployments.tag("agent", "default", version=1, exclusive=True, manifest="leave")
    assert "default leads to v1" in stage.play("kitaru-drift").must(2).out
