"""What the command line shows of an execution that a worker ran: picture, page, output as it comes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.repository import Done, Repository, finish, kitaru, start

FLOWS = """
import os
import subprocess
import threading
import time

import kitaru
from kitaru import checkpoint, flow


@checkpoint
def collect(n: int) -> int:
    kitaru.log(rows=n)
    kitaru.save("table", list(range(n)), type="dataset")
    print("collecting", n)
    subprocess.run("echo child says $HIDDEN_TOKEN", shell=True, check=True)
    thread = threading.Thread(target=print, args=("thread says hello",))
    thread.start()
    thread.join()
    return n


@checkpoint
def slow(path: str) -> str:
    print("begun", flush=True)
    while path and not os.path.exists(path):
        time.sleep(0.05)
    print("gone on")
    return "ok"


@flow
def agent(topic: str = "x", path: str = "") -> str:
    kitaru.log(stage="all")
    collect.map([1, 2]).results()
    return slow(path)
"""


@pytest.fixture
def deployed(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setenv("HIDDEN_TOKEN", "token-0123456789")
    repository = Repository.make(own_world / "deployed", {"flows/work.py": FLOWS})
    do(repository, "apply", "--yes").must()
    return repository


def do(repository: Repository, *arguments: str | Path) -> Done:
    return kitaru(*arguments, cwd=repository.folder)


def test_get_draws_and_writes_a_page(deployed: Repository, own_world: Path) -> None:
    """``get`` shows bars, metadata and the result; ``--html`` writes a page with output and artifacts in it."""
    done = do(deployed, "invoke", "agent", "--wait", "-o", "json").must()
    exec_id = json.loads(done.out)["item"]["exec_id"]
    shown = do(deployed, "executions", "get", exec_id).must().out
    assert "collect" in shown and ("█" in shown or "#" in shown) and '"stage": "all"' in shown
    page = own_world / "page.html"
    assert str(page) in do(deployed, "executions", "get", exec_id, "--html", page).must().out
    text = page.read_text()
    for part in ("collecting 1", "child says ***", "thread says hello", f"{exec_id}:1:table", "&#34;rows&#34;: 1"):
        assert part in text, part
    assert "token-0123456789" not in text
    failed = do(deployed, "executions", "get", exec_id, "--html", own_world / "nowhere" / "page.html")
    assert failed.code == 2 and "can't be written" in failed.err


def test_output_of_a_worker_by_call(deployed: Repository) -> None:
    """Lines of Python, of its threads and of its children are found by call; ``--limit`` gives the last ones."""
    do(deployed, "invoke", "agent", "--wait").must()
    exec_id = json.loads(do(deployed, "executions", "list", "-o", "json").must().out)["items"][0]["exec_id"]
    printed = do(deployed, "executions", "logs", exec_id, "-o", "json").must().out.splitlines()
    lines = [json.loads(line) for line in printed]
    assert {"collecting 1", "collecting 2", "thread says hello", "begun", "gone on"} <= {line["text"] for line in lines}
    assert sum(line["text"] == "child says ***" for line in lines) == 2
    assert [line["text"] for line in lines if line.get("checkpoint") == "slow"] == ["begun", "gone on"]
    only = do(deployed, "executions", "logs", exec_id, "--checkpoint", "slow", "--limit", "1").must()
    assert only.out == "gone on\n"
    assert do(deployed, "executions", "logs", exec_id, "--follow", "--limit", "1").code == 2


def test_following_prints_as_it_comes(deployed: Repository, own_world: Path) -> None:
    """``--follow`` shows a line while the checkpoint that printed it goes on, and ends with the execution."""
    gate = own_world / "gate"
    inputs = json.dumps({"path": str(gate)})
    done = do(deployed, "invoke", "agent", "--input", inputs, "-o", "json").must()
    exec_id = json.loads(done.out)["item"]["exec_id"]
    follower = start("executions", "logs", exec_id, "--follow", cwd=deployed.folder)
    seen: list[str] = []
    assert follower.stdout is not None
    while "begun" not in seen:
        seen.append(follower.stdout.readline().strip())
        assert seen[-1], "the follower ended too early"
    assert "gone on" not in seen
    gate.touch()
    rest = finish(follower)
    assert "gone on" in rest.out
    assert rest.code == 0
