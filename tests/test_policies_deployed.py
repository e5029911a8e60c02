"""Cache, timeouts, policies and isolation where flows really run: in a worker, from a released version."""

from __future__ import annotations

from pathlib import Path

from tests.repository import Repository, kitaru

CODE = """
import os, time
from kitaru import Retry, checkpoint, flow

@checkpoint
def collect(topic: str) -> str:
    print("collecting", topic)
    return topic.upper()

@checkpoint(runtime="isolated", retries=Retry(attempts=2, backoff=0.1))
def alone(parent: int) -> bool:
    print("in a process of its own")
    return os.getpid() != parent

@flow
def agent(topic: str = "x") -> list:
    return [collect(topic), alone(os.getpid())]

@flow
def slow() -> None:
    time.sleep(60)
"""

MANIFEST = """\
kitaru: 1
project: research
store: file://.kitaru/store
flows:
  agent: {target: flows/work.py:agent, routes: {default: head}}
  slow: {target: flows/work.py:slow, timeout: 0.5, retries: 1, routes: {default: head}}
"""


def test_a_released_version_has_all_of_it(own_world: Path) -> None:
    """A second invoke takes what the first computed, unless told not to; the manifest's timeout ends a stuck flow."""
    repository = Repository.make(own_world / "r", {"flows/work.py": CODE}, MANIFEST)
    repository.apply()

    def run(*arguments: str) -> str:
        done = kitaru("invoke", "agent", "--wait", "-o", "json", *arguments, cwd=repository.folder).must()
        item = done.json["item"]
        assert item["result"] == ["X", True]
        return str(item["exec_id"])

    def explained(exec_id: str) -> list[tuple[str, str]]:
        done = kitaru("executions", "get", exec_id, "--explain-cache", "-o", "json", cwd=repository.folder).must()
        return [(call["name"], call["word"]) for call in done.json["item"]["calls"]]

    first = run()
    second = run()
    third = run("--no-cache")
    assert explained(first) == [("collect", "miss"), ("alone", "miss")]
    assert explained(second) == [("collect", "hit"), ("alone", "miss")]
    assert explained(third) == [("collect", "off"), ("alone", "off")]
    text = kitaru("executions", "get", second, "--explain-cache", cwd=repository.folder).must().out
    assert f"computed by {first}, call 1" in text
    assert "parent changed" in text and "1 of 2 taken" in text
    logs = kitaru("executions", "logs", first, "-v", cwd=repository.folder).must().out.splitlines()
    (printed,) = [line for line in logs if "in a process of its own" in line]
    assert "alone" in printed
    assert "collecting" not in kitaru("executions", "logs", second, cwd=repository.folder).must().out

    failed = kitaru("invoke", "slow", "--wait", cwd=repository.folder).must(1)
    assert "flow 'slow' was stopped after 0.5 seconds" in failed.err
