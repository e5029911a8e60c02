"""The story of a release, told by Git alone: branch, plan, review, merge, apply, canary, promote, a bad release,
rollback, revert.

A bare remote; Ann, who writes; Bob, who reviews and merges; CI, which plans pull requests and applies main; and a
consumer, who has no source at all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.repository import Done, Repository, git, kitaru, set_user

FLOW = """
from kitaru import checkpoint, flow

@checkpoint
def collect(topic: str) -> str:
    return f"notes on {topic}"

@flow
def agent(topic: str) -> str:
    return collect(topic)
"""

MANIFEST = """\
kitaru: 1
project: research
store: file://{store}
flows:
  agent:
    target: flows/work.py:agent
    routes:
      default: 1   # what everybody gets
      stable: 1
      canary: head
protect:
  stable: {{branch: main}}
"""


@dataclass(frozen=True)
class World:
    """Everybody's folder."""

    ann: Repository
    bob: Repository
    ci: Repository
    nowhere: Path
    store: str

    def branch(self, name: str) -> None:
        git(self.ann.folder, "checkout", "-q", "main")
        git(self.ann.folder, "pull", "-q")
        git(self.ann.folder, "checkout", "-q", "-b", name)

    def push(self, name: str) -> None:
        self.ann.commit(name)
        git(self.ann.folder, "push", "-q", "-u", "origin", name)

    def pull_request(self, name: str) -> tuple[Path, str]:
        """What CI does on a pull request: the saved plan, and the comment."""
        git(self.ci.folder, "fetch", "-q")
        git(self.ci.folder, "checkout", "-q", "--detach", f"origin/{name}")
        saved = self.nowhere / f"{name}.json"
        comment = self.do("plan", "-o", "markdown", "--out", saved)
        return saved, comment.out

    def merge(self, name: str) -> None:
        """Bob likes it."""
        git(self.bob.folder, "fetch", "-q")
        git(self.bob.folder, "checkout", "-q", "main")
        git(self.bob.folder, "pull", "-q")
        git(self.bob.folder, "merge", "-q", "--no-ff", "-m", f"Merge {name}", f"origin/{name}")
        git(self.bob.folder, "push", "-q")

    def on_main(self) -> None:
        git(self.ci.folder, "fetch", "-q")
        git(self.ci.folder, "checkout", "-q", "-B", "main", "origin/main")

    def release(self, *reviewed: Path) -> Done:
        """What CI does on a merge: just what was reviewed."""
        self.on_main()
        return self.do("apply", "--yes", *(word for path in reviewed for word in ("--reviewed", path)))

    def do(self, *words: str | Path, code: int = 0) -> Done:
        return kitaru(*words, cwd=self.ci.folder).must(code)

    def consume(self, *words: str, code: int = 0) -> Done:
        """A consumer has a store, a project and a flow's name."""
        where = ("--store", self.store, "--project", "research", "-o", "json")
        given = ("--input", '{"topic": "rivers"}', "--wait")
        return kitaru("invoke", "agent", *given, *words, *where, cwd=self.nowhere).must(code)

    def result(self, *words: str) -> str:
        return str(json.loads(self.consume(*words).out)["item"]["result"])

    def routes(self) -> dict[str, list[int]]:
        found = json.loads(self.do("flow", "list", "-o", "json").out)
        return dict(found["items"][0]["routes"])


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    for name in ("KITARU_STORE", "KITARU_PROJECT", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT"):
        monkeypatch.delenv(name, raising=False)
    bare, nowhere = tmp_path / "remote.git", tmp_path / "nowhere"
    nowhere.mkdir()
    git(tmp_path, "init", "-q", "--bare", "-b", "main", str(bare))
    store = f"file://{tmp_path / 'bucket'}"
    first = Repository.make(tmp_path / "first", {"flows/work.py": FLOW}, MANIFEST.format(store=tmp_path / "bucket"))
    git(first.folder, "remote", "add", "origin", str(bare))
    git(first.folder, "push", "-q", "-u", "origin", "main")
    people = []
    for name in ("ann", "bob", "ci"):
        git(tmp_path, "clone", "-q", str(bare), str(tmp_path / name))
        set_user(tmp_path / name, name.title())
        people.append(Repository(tmp_path / name))
    return World(*people, nowhere, store)


def test_the_story_of_a_release(world: World) -> None:
    """Every step of it, as its people type it."""
    # The first release.
    world.release()
    assert world.routes() == {"canary": [1], "default": [1], "stable": [1]}
    assert world.result() == "notes on rivers"

    # A branch: better notes. The pull request shows a new version and its canary, and moves nothing.
    world.branch("better")
    world.ann.change("flows/work.py", 'f"notes on {topic}"', 'f"better notes on {topic}"')
    world.push("better")
    reviewed, comment = world.pull_request("better")
    assert "1 version to build, 1 route to move" in comment
    assert "`canary`" in comment
    assert world.routes()["canary"] == [1]

    # Merged, and applied as it was reviewed: consumers of canary get it, nobody else.
    world.merge("better")
    world.release(reviewed)
    assert world.routes() == {"canary": [2], "default": [1], "stable": [1]}
    assert (world.result("--tag", "canary"), world.result()) == ("better notes on rivers", "notes on rivers")
    assert "No changes" in world.do("plan").out

    # The canary is good: promoted by a pull request that changes one number, and keeps its comment.
    world.branch("promote")
    kitaru("promote", "agent", "canary", "--to", "stable", cwd=world.ann.folder).refused(
        "protected", code=1, hint=False
    )
    kitaru("promote", "agent", "canary", "--to", "default", "--manifest-only", cwd=world.ann.folder).must()
    kitaru("promote", "agent", "canary", "--to", "stable", "--manifest-only", cwd=world.ann.folder).must()
    changed = git(world.ann.folder, "diff", "--numstat")
    assert changed.split() == ["2", "2", "kitaru.yaml"]
    assert "default: 2   # what everybody gets" in (world.ann.folder / "kitaru.yaml").read_text()
    assert world.routes()["default"] == [1]
    world.push("promote")
    reviewed, comment = world.pull_request("promote")
    assert "| `agent` | `default` | v1 | v2 |" in comment
    world.merge("promote")
    world.release(reviewed)
    assert world.routes() == {"canary": [2], "default": [2], "stable": [2]}

    # A bad release, that nobody noticed in review.
    world.branch("bad")
    world.ann.change("flows/work.py", 'return f"better notes on {topic}"', 'raise RuntimeError("no notes")')
    world.ann.change("kitaru.yaml", "default: 2 ", "default: head ")
    world.push("bad")
    reviewed, _ = world.pull_request("bad")
    world.merge("bad")
    world.release(reviewed)
    assert world.routes()["default"] == [3]
    failed = world.consume(code=1)
    assert "no notes" in failed.out + failed.err

    # Rolled back at once; Git still says otherwise, and neither plan nor apply undoes it.
    said = kitaru("rollback", "agent", "-m", "no notes at all", cwd=world.ann.folder).must().out
    assert "v3 → v2" in said
    assert world.result() == "better notes on rivers"
    world.release()
    assert world.routes()["default"] == [2]
    assert "held at v2" in world.do("plan").out
    assert "held at v2 by a rollback" in world.do("plan", "--drift", code=2).out

    # What ran, and who let it in.
    executions = json.loads(world.do("executions", "list", "--status", "failed", "-o", "json").out)["items"]
    blame = json.loads(world.do("blame", executions[0]["exec_id"], "-o", "json").out)["item"]
    merged = git(world.bob.folder, "rev-parse", "HEAD")
    assert merged in json.dumps(blame)

    # Reverted in Git: the manifest agrees with the rollback again, and the hold ends.
    world.branch("revert")
    git(world.ann.folder, "revert", "--no-edit", "-m", "1", merged)
    world.push("revert")
    reviewed, comment = world.pull_request("revert")
    assert "hold ends" in comment
    world.merge("revert")
    world.release(reviewed)
    assert world.routes() == {"canary": [2], "default": [2], "stable": [2]}
    assert "No changes" in world.do("plan").out
    assert "No drift" in world.do("plan", "--drift").out

    # The whole of it is in the log, and the log is sound.
    verbs = [one["verb"] for one in json.loads(world.do("history", "-o", "json").out)["items"]]
    assert verbs == ["apply", "rollback", "apply", "apply", "apply", "apply"]
    world.do("store", "verify", "--deep")


def test_what_was_not_reviewed_is_not_applied(world: World) -> None:
    """Two pull requests merged, one of them reviewed: nothing moves, and the difference is told."""
    world.release()
    world.branch("seen")
    world.ann.change("flows/work.py", "notes on", "seen notes on")
    world.push("seen")
    reviewed, _ = world.pull_request("seen")
    world.merge("seen")
    world.branch("unseen")
    world.ann.change("kitaru.yaml", "stable: 1", "stable: head")
    world.push("unseen")
    world.merge("unseen")
    world.on_main()
    refused = world.do("apply", "--yes", "--reviewed", reviewed, code=1)
    assert "stable" in refused.said
    assert world.routes() == {"canary": [1], "default": [1], "stable": [1]}
