"""The written workflows, played: their own scripts, a real repository and store, and GitHub's API on loopback."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kitaru.client import ci
from kitaru.errors import KitaruStateError, KitaruUsageError
from tests.applying import generation, routes_of
from tests.ci_jobs import INSTALL, run, step, tools
from tests.ci_servers import PERSON, TOKEN, GitHubState, github
from tests.repository import MANIFEST, Done, Repository, git, kitaru

SECRET = "canary-secret-of-the-store"
PLAN = b"{}"
TEAM = (
    MANIFEST + "  greeter:\n    target: flows/work.py:greeter\n    inputs: {name: Ann}\n    routes: {default: head}\n"
)


@dataclass
class Stage:
    """A repository with a bare remote and a store beside it, and the jobs that run for it."""

    repository: Repository
    hub: GitHubState
    world: Path
    run_number: int = 100

    def play(self, workflow: str, job: str, name: str, **environ: str) -> Done:
        """One step's script, with what the runner gives it, in the place where its checkout is."""
        path = self.repository.folder / f".github/workflows/kitaru-{workflow}.yml"
        temp = self.world / "runner"
        given = {
            "PATH": tools(self.world),
            "HOME": os.environ["HOME"],
            "KITARU_HOME": os.environ["KITARU_HOME"],
            "GIT_CONFIG_GLOBAL": os.environ["GIT_CONFIG_GLOBAL"],
            "RUNNER_TEMP": str(temp),
            "GITHUB_OUTPUT": str(temp / "output"),
            "GITHUB_STEP_SUMMARY": str(temp / "summary.md"),
            "GITHUB_ACTOR": "ann",
            "GITHUB_REF_NAME": "main",
            "GITHUB_SHA": self.sha,
            "GITHUB_RUN_ID": str(self.run_number),
            "GITHUB_WORKFLOW_REF": f"acme/research/.github/workflows/kitaru-{workflow}.yml@refs/heads/main",
            **self.hub.environ(),
            **environ,
        }
        if "GITHUB_TOKEN" not in environ:
            del given["GITHUB_TOKEN"]
        done = run(step(path, job, name), self.repository.folder, given)
        assert TOKEN not in done.said
        assert SECRET not in done.said + self.summary
        return done

    @property
    def sha(self) -> str:
        return git(self.repository.folder, "rev-parse", "HEAD")

    @property
    def summary(self) -> str:
        path = self.world / "runner" / "summary.md"
        return path.read_text() if path.exists() else ""

    @property
    def outputs(self) -> str:
        path = self.world / "runner" / "output"
        return path.read_text() if path.exists() else ""

    def next_run(self) -> None:
        """A fresh runner."""
        self.run_number += 1
        temp = self.world / "runner"
        for path in sorted(temp.rglob("*"), reverse=True) if temp.exists() else ():
            path.rmdir() if path.is_dir() else path.unlink()
        temp.mkdir(exist_ok=True)

    def saved(self) -> bytes:
        return (self.world / "runner" / "kitaru-plan.json").read_bytes()

    def request(self, number: int, branch: str) -> str:
        """A pull request's run: plan at the merge of the branch, keep it, comment. The branch's last commit."""
        folder = self.repository.folder
        head = git(folder, "rev-parse", branch)
        git(folder, "checkout", "-q", "--detach", "main")
        git(folder, "merge", "-q", "--no-ff", "-m", "merge for the check", branch)
        self.next_run()
        event = self.world / "event.json"
        event.write_text(json.dumps({"pull_request": {"number": number}}))
        at = {"GITHUB_REF_NAME": f"{number}/merge", "GITHUB_EVENT_PATH": str(event)}
        self.play("plan", "plan", "Validate", **at).must()
        self.play("plan", "plan", "Plan", UNTRUSTED="false", AWS_SECRET_ACCESS_KEY=SECRET, **at).must()
        assert "plan<<" in self.outputs
        self.play("plan", "comment", "Comment", GITHUB_TOKEN=TOKEN, **at).must()
        self.hub.add_run(self.run_number, head, self.saved(), head_branch=branch)
        git(folder, "checkout", "-q", branch)
        return head

    def merge(self, number: int, branch: str) -> str:
        """Squash, as most teams do: a commit that never was on the branch."""
        folder = self.repository.folder
        head = git(folder, "rev-parse", branch)
        git(folder, "checkout", "-q", "main")
        before = self.sha
        git(folder, "merge", "-q", "--squash", branch)
        git(folder, "commit", "-q", "-m", f"merge #{number}")
        git(folder, "push", "-q", "origin", "main")
        self.hub.add_pull(number, self.sha, head)
        for shas in self.hub.compared.values():
            shas.append(self.sha)
        self.hub.compared[before] = [self.sha]
        return before

    def apply(self, before: str, *, approved: str = "") -> Done:
        """The run on the main branch; with its end recorded, as GitHub does."""
        self.next_run()
        event = self.world / "event.json"
        event.write_text(json.dumps({"before": before}))
        at = {"GITHUB_EVENT_PATH": str(event)}
        self.play("apply", "apply", "Plan", **at).must()
        self.play("apply", "apply", "Find what was reviewed", GITHUB_TOKEN=TOKEN, APPROVED_RUN=approved, **at).must()
        done = self.play("apply", "apply", "Apply", AWS_SECRET_ACCESS_KEY=SECRET, **at)
        ended = {"event": "workflow_dispatch" if approved else "push", "path": ".github/workflows/kitaru-apply.yml"}
        if done.code == 0:
            self.hub.add_run(self.run_number, self.sha, None, **ended)
        else:
            self.hub.add_run(self.run_number, self.sha, self.saved(), conclusion="failure", **ended)
        return done

    def branch(self, name: str, path: str, text: str) -> None:
        git(self.repository.folder, "checkout", "-q", "-b", name, "main")
        self.repository.write(path, text)
        self.repository.commit(name)


@pytest.fixture
def stage(own_world: Path) -> Iterator[Stage]:
    store = own_world / "store"
    repository = Repository.make(
        own_world / "repository", manifest=MANIFEST.replace("file://.kitaru/store", f"file://{store}")
    )
    bare = own_world / "remote.git"
    git(own_world, "init", "-q", "--bare", "-b", "main", str(bare))
    git(repository.folder, "remote", "add", "origin", str(bare))
    with github() as hub:
        made = Stage(repository, hub, own_world)
        made.next_run()
        kitaru("ci", "init", *INSTALL, "github", cwd=repository.folder).must()
        repository.commit("pipeline")
        git(repository.folder, "push", "-q", "origin", "main")
        yield made


def manifest_of(stage: Stage) -> str:
    return (stage.repository.folder / "kitaru.yaml").read_text()


def with_greeter(stage: Stage) -> str:
    return manifest_of(stage) + TEAM[len(MANIFEST) :]


def test_from_pull_request_to_live(stage: Stage) -> None:
    """Plan, comment, push again, merge by squash, apply: one comment, and what it showed is live."""
    stage.branch("add-greeter", "kitaru.yaml", with_greeter(stage))
    stage.hub.add_comment("nice", PERSON)
    stage.request(1, "add-greeter")
    stage.repository.change("flows/work.py", "hello", "good day")
    stage.repository.commit("better")
    stage.request(1, "add-greeter")
    (ours,) = [one["body"] for one in stage.hub.comments if one["user"] is not PERSON]
    assert "2 new flows" in ours or "greeter" in ours
    assert "### Kitaru plan" in stage.summary
    done = stage.apply(stage.merge(1, "add-greeter")).must()
    assert "Applied: generation 1" in done.out
    assert "### Applied: generation 1" in stage.summary
    assert routes_of(stage.repository, "greeter") == {"default": (1,)}
    entry = stage.repository.client().session.releases.entry(1)
    assert entry is not None
    assert (entry[0].by, entry[0].commit.sha if entry[0].commit else "") == ("ann", stage.sha)
    # The same run once more, by hand: nothing is left to do.
    stage.apply(stage.sha).must()
    assert generation(stage.repository) == 1


def test_two_merged_before_one_apply(stage: Stage) -> None:
    """The first apply never ran: the second finds both reviews, and applies both at once."""
    stage.apply(stage.sha).must(1)
    stage.branch("a", "kitaru.yaml", manifest_of(stage).replace("default: head", "default: head\n      stable: head"))
    stage.request(1, "a")
    before = stage.merge(1, "a")
    stage.branch("b", "kitaru.yaml", with_greeter(stage))
    stage.request(2, "b")
    stage.merge(2, "b")
    stage.apply(before).must()
    assert generation(stage.repository) == 1
    assert routes_of(stage.repository) == {"default": (1,), "stable": (1,)}


def test_a_merge_queue_merges_two_at_once(stage: Stage) -> None:
    """The queue's commits are planned, and push as one; the plans that the requests showed are found and applied."""
    stage.branch("a", "kitaru.yaml", manifest_of(stage).replace("default: head", "default: head\n      stable: head"))
    head_of_a = stage.request(1, "a")
    git(stage.repository.folder, "checkout", "-q", "main")
    # In front of the other flow: the two changes meet in no line.
    stage.branch("b", "kitaru.yaml", manifest_of(stage).replace("flows:\n", f"flows:\n{TEAM[len(MANIFEST) :]}"))
    head_of_b = stage.request(2, "b")
    folder = stage.repository.folder
    before = git(folder, "rev-parse", "main")
    queued: list[str] = []
    for number, branch in ((1, "a"), (2, "b")):
        ref = f"gh-readonly-queue/main/pr-{number}-{git(folder, 'rev-parse', 'HEAD')}"
        git(folder, "checkout", "-q", "-b", ref, queued[-1] if queued else "main")
        git(folder, "cherry-pick", "-n", branch)
        git(folder, "commit", "-q", "-m", f"the queue's commit for #{number}")
        queued.append(stage.sha)
        stage.next_run()
        event = stage.world / "event.json"
        event.write_text(json.dumps({"merge_group": {"head_ref": f"refs/heads/{ref}", "head_sha": stage.sha}}))
        at = {"GITHUB_REF_NAME": ref, "GITHUB_EVENT_NAME": "merge_group", "GITHUB_EVENT_PATH": str(event)}
        stage.play("plan", "plan", "Validate", **at).must()
        stage.play("plan", "plan", "Plan", UNTRUSTED="false", **at).must()
        # Such a run reviews nothing, even where it kept a plan under the name that counts.
        stage.hub.add_run(stage.run_number, (head_of_a, head_of_b)[number - 1], PLAN, event="merge_group")
    git(folder, "checkout", "-q", "main")
    git(folder, "merge", "-q", "--ff-only", queued[-1])
    for number, head in ((1, head_of_a), (2, head_of_b)):
        stage.hub.add_pull(number, queued[number - 1], head)
    stage.hub.compared[before] = queued
    stage.apply(before).must()
    assert generation(stage.repository) == 1
    assert routes_of(stage.repository) == {"default": (1,), "stable": (1,)}
    assert routes_of(stage.repository, "greeter") == {"default": (1,)}


def test_what_moved_after_the_review_waits_for_approval(stage: Stage) -> None:
    """Somebody changed the main branch in between: refused with the difference; approved by run, it is applied."""
    stage.branch("a", "kitaru.yaml", with_greeter(stage))
    stage.request(1, "a")
    git(stage.repository.folder, "checkout", "-q", "main")
    stage.repository.change("flows/work.py", "hello", "good day")
    stage.repository.commit("pushed past the review")
    refused = stage.apply(stage.merge(1, "a"))
    refused.refused("of other content than was reviewed", code=1)
    assert generation(stage.repository) == 0
    failed = stage.run_number
    assert "### Not applied" in stage.summary
    assert f"gh workflow run kitaru-apply.yml --ref main -f approved_run={failed}" in stage.summary
    stage.apply(stage.sha, approved=str(failed)).must()
    assert generation(stage.repository) == 1


def test_an_approval_covers_what_was_read_alone(stage: Stage) -> None:
    """The main branch moved on after the failed run: its approval does not cover what came later."""
    stage.apply(stage.sha).must(1)
    failed = stage.run_number
    stage.repository.change("flows/work.py", "hello", "good day")
    stage.repository.commit("later")
    stage.apply(stage.sha, approved=str(failed)).refused("of other content than was reviewed", code=1)
    assert generation(stage.repository) == 0


def labels(stage: Stage, *, run_of: str | None = None, artifact: str = "kitaru-plan") -> list[str]:
    """What ``kitaru ci reviewed`` finds on the main branch."""
    into = stage.world / f"reviewed-{len(list(stage.world.glob('reviewed-*')))}"
    at = {"GITHUB_SHA": stage.sha, "GITHUB_REF_NAME": "main"}
    at["GITHUB_WORKFLOW_REF"] = "acme/research/.github/workflows/kitaru-apply.yml@refs/heads/main"
    found = ci.fetch_reviewed(into, artifact=artifact, run=run_of, environ=stage.hub.environ(**at))
    assert [Path(one.path).read_bytes() for one in found] == [PLAN] * len(found)
    return [one.label for one in found]


def test_what_nobody_was_shown_is_no_review(stage: Stage) -> None:
    """A fork's plan, a failed run's, one of another workflow, request, branch or commit: each reviews nothing."""
    hub, head = stage.hub, "1" * 40
    hub.add_pull(1, stage.sha, head)
    hub.add_run(5, head, PLAN)
    assert labels(stage) == ["pull request #1"]
    pull, run_of_it, kept = hub.pulls[stage.sha][0], hub.runs[0], hub.artifacts[5][0][0]
    lies: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (run_of_it, {"head_repository": {"full_name": "mallory/research"}}),
        (run_of_it, {"head_repository": None}),
        (run_of_it, {"conclusion": "failure"}),
        (run_of_it, {"event": "push"}),
        (run_of_it, {"head_sha": "0" * 40}),
        (run_of_it, {"path": ".github/workflows/other.yml"}),
        (run_of_it, {"path": "elsewhere/kitaru-plan.yml"}),
        (run_of_it, {"repository": {"full_name": "mallory/research"}}),
        (kept, {"expired": True}),
        (kept, {"name": "other"}),
        (pull, {"merged_at": None}),
        (pull, {"base": {"ref": "develop"}}),
        (pull, {"user": {"login": "dependabot[bot]", "type": "Bot"}}),
        (pull, {"head": {"sha": head, "repo": {"full_name": "mallory/research"}}}),
        (pull, {"head": {"sha": head, "repo": None}}),
    ]
    for where, lie in lies:
        truth = dict(where)
        where |= lie
        assert labels(stage) == [], lie
        where |= truth
    assert labels(stage) == ["pull request #1"]


def test_a_later_run_of_another_workflow_changes_nothing(stage: Stage) -> None:
    """Whatever else keeps an artifact of that name for that commit, the plan that was shown counts."""
    stage.hub.add_pull(1, stage.sha, "1" * 40)
    stage.hub.add_run(5, "1" * 40, PLAN)
    stage.hub.add_run(6, "1" * 40, b"{}", path=".github/workflows/tests.yml")
    assert labels(stage) == ["pull request #1"]


def test_a_workflow_of_another_name_can_be_named(stage: Stage) -> None:
    """Who renamed the workflow says so with the artifact; a path behind its name is the ref that GitHub adds."""
    stage.hub.add_pull(1, stage.sha, "1" * 40)
    stage.hub.add_run(5, "1" * 40, PLAN, path=".github/workflows/deploys.yml@refs/heads/a")
    assert labels(stage) == []
    assert labels(stage, artifact="deploys.yml/kitaru-plan") == ["pull request #1"]


def test_the_newest_plan_of_a_request_counts(stage: Stage) -> None:
    """A run repeated for the same commit replaces the first; one that failed replaces nothing."""
    head = "1" * 40
    stage.hub.add_pull(1, stage.sha, head)
    stage.hub.add_run(5, head, b"older")
    stage.hub.add_run(6, head, PLAN)
    stage.hub.add_run(7, head, b"failed", conclusion="failure")
    assert labels(stage) == ["pull request #1"]


def test_the_token_stays_with_github(stage: Stage) -> None:
    """Artifacts lie at another host: it gets the request without the token."""
    stage.hub.add_pull(1, stage.sha, "1" * 40)
    stage.hub.add_run(5, "1" * 40, PLAN)
    labels(stage)
    assert all(one.headers["authorization"] == f"Bearer {TOKEN}" for one in stage.hub.server.requests)
    assert stage.hub.storage.requests
    assert all("authorization" not in one.headers for one in stage.hub.storage.requests)


def test_only_an_apply_of_this_branch_can_be_approved(stage: Stage) -> None:
    """The run of a pull request, a fork, another workflow or branch is no apply whose plan can be approved."""
    hub = stage.hub
    hub.add_run(7, stage.sha, PLAN, event="push", path=".github/workflows/kitaru-apply.yml", conclusion="failure")
    assert labels(stage, run_of="7") == ["run 7"]
    for lie in (
        {"event": "pull_request"},
        {"path": ".github/workflows/other.yml"},
        {"head_branch": "mallory"},
        {"head_repository": {"full_name": "mallory/research"}},
    ):
        truth = dict(hub.runs[0])
        hub.runs[0] |= lie
        with pytest.raises(KitaruStateError, match="no apply of this branch"):
            labels(stage, run_of="7")
        hub.runs[0] |= truth
    for number in ("7; id", "../7", "-7", ""):
        if number:
            with pytest.raises(KitaruUsageError, match="expected its number"):
                labels(stage, run_of=number)
    hub.artifacts.clear()
    with pytest.raises(KitaruStateError, match="keeps no plan"):
        labels(stage, run_of="7")


def test_drift_opens_an_issue_and_its_end_closes_it(stage: Stage) -> None:
    """A route moved by hand fails the scheduled run and opens one issue; once it agrees again, the issue is closed."""

    def night() -> int:
        stage.next_run()
        first = stage.play("drift", "drift", "Look for drift").must()
        assert "::error" not in first.said
        code = "2" if "code=2" in stage.outputs else "0"
        return stage.play("drift", "drift", "Keep one issue", GITHUB_TOKEN=TOKEN, CODE=code).code

    assert night() == 0  # before anything was applied
    stage.repository.apply()
    assert night() == 0
    assert stage.hub.issues == []
    stage.repository.change("flows/work.py", "hello", "good day")
    stage.repository.commit()
    stage.repository.apply()
    stage.repository.client().deployments.tag("agent", "default", version=1, exclusive=True, manifest="leave")
    assert night() == 1
    assert "### Kitaru drift" in stage.summary
    assert night() == 1
    assert [one["state"] for one in stage.hub.issues] == ["open"]
    assert "default leads to v1" in stage.hub.issues[0]["body"]
    assert "undo it: kitaru apply" in stage.hub.issues[0]["body"]
    stage.repository.client().deployments.tag("agent", "default", version=2, exclusive=True, manifest="leave")
    assert night() == 0
    assert [one["state"] for one in stage.hub.issues] == ["closed"]


def test_a_fork_is_validated_and_told(stage: Stage) -> None:
    """Without secrets the store can't be read: the job succeeds, and says why there is no plan; ours would fail."""
    unreachable = {"KITARU_STORE": "s3://bucket/prefix", "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_REGION": "x"}
    keys = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
    stage.play("plan", "plan", "Validate").must()
    stage.play("plan", "plan", "Plan", UNTRUSTED="true", **unreachable, **keys).must()
    assert "### Kitaru plan: skipped" in stage.summary
    assert "plan<<" not in stage.outputs
    stage.next_run()
    stage.play("plan", "plan", "Plan", UNTRUSTED="false", **unreachable, **keys).must(1)


def test_a_fork_with_a_mistake_fails(stage: Stage) -> None:
    """A manifest that is wrong is wrong in a fork too, and is shown at its line."""
    stage.repository.change("kitaru.yaml", "default: head", "default: 7")
    stage.repository.commit()
    done = stage.play("plan", "plan", "Plan", UNTRUSTED="true", GITHUB_WORKSPACE=str(stage.repository.folder)).must(2)
    assert "::error file=kitaru.yaml,line=9" in done.err


def test_a_fork_that_can_read_the_store_sees_its_plan(stage: Stage) -> None:
    """Where the store needs no secret to be read, a fork's plan is in the job's summary."""
    stage.play("plan", "plan", "Plan", UNTRUSTED="true").must()
    assert "### Kitaru plan: `research`" in stage.summary
    assert stage.hub.comments == []
