"""Commands that ask: on a terminal a person answers, elsewhere ``--yes`` does."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repository import Repository, kitaru

STRICT = """
from kitaru import flow

@flow
def agent(topic: str, depth: int) -> str:
    return topic
"""


def answered(folder: Path, answer: str, *words: str) -> tuple[int, str]:
    """Exit code, and all that came to the terminal, of a command whose question got this answer."""
    ours, theirs = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "NO_COLOR": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "kitaru", *words]
    process = subprocess.Popen(command, cwd=folder, env=environ, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown, sent = b"", False
    while True:
        try:
            body = os.read(ours, 65536)
        except OSError:  # the end, as Linux has it
            break
        shown += body
        if b"[y/N]" in shown and not sent:
            os.write(ours, f"{answer}\n".encode())
            sent = True
    os.close(ours)
    return process.wait(60), shown.decode().replace("\r\n", "\n")


@pytest.fixture
def strict(repository: Repository) -> Repository:
    """Version 1 is default; version 2, on canary, has one more required input."""
    repository.apply()
    repository.write("flows/work.py", STRICT)
    words = ("deploy", "flows/work.py:agent", "--tag", "canary", "--exclusive", "--no-manifest")
    kitaru(*words, cwd=repository.folder).must()
    return repository


def led(repository: Repository, tag: str) -> tuple[int, ...]:
    (flow,) = repository.client().deployments.flows()
    return flow.routes[tag]


def test_a_declined_apply_applies_nothing(repository: Repository) -> None:
    """No is an answer, not an error: exit code 1, and nothing has moved."""
    code, shown = answered(repository.folder, "n", "apply")
    assert (code, repository.client().deployments.flows()) == (1, [])
    assert "nothing applied" in shown and "error:" not in shown


def test_a_promotion_that_breaks_callers_asks(strict: Repository) -> None:
    """The consequence of a plan is shown before the question; yes goes on, no leaves the route."""
    words = ("promote", "agent", "canary", "--to", "default", "--no-manifest")
    code, shown = answered(strict.folder, "n", *words)
    assert (code, led(strict, "default")) == (1, (1,))
    assert "depth" in shown and "nothing applied" in shown
    assert answered(strict.folder, "y", *words)[0] == 0
    assert led(strict, "default") == (2,)


def test_a_promotion_goes_on_without_a_terminal(strict: Repository) -> None:
    """A script is not asked; what breaks is said on standard error, and is in the result of the client."""
    done = kitaru("promote", "agent", "canary", "--to", "default", "--no-manifest", cwd=strict.folder).must()
    assert "warning:" in done.err and "depth" in done.err
    back = strict.client().deployments.tag("agent", "default", version=1, exclusive=True, manifest="leave")
    assert (back.after, led(strict, "default")) == ("v1", (1,))


def test_a_deletion_needs_a_yes(strict: Repository) -> None:
    """Without a terminal ``--yes`` is asked for; what can't be deleted is refused before that."""
    kitaru("flow", "untag", "agent", "canary", "--no-manifest", cwd=strict.folder).must()
    words = ("flow", "deployments", "delete", "agent", "--no-manifest", "--version")
    kitaru(*words, "1", cwd=strict.folder).refused("holds the exclusive tag default", code=1)
    kitaru(*words, "2", cwd=strict.folder).refused("there is nobody to ask")
    assert answered(strict.folder, "n", *words, "2")[0] == 1
    assert len(strict.client().deployments.list("agent")) == 2
    kitaru(*words, "2", "--yes", cwd=strict.folder).must()
    assert len(strict.client().deployments.list("agent")) == 1


def test_garbage_goes_with_a_yes(strict: Repository) -> None:
    """``gc --delete`` asks as well; without it nothing is asked, as nothing goes."""
    kitaru("store", "gc", cwd=strict.folder).must()
    kitaru("store", "gc", "--delete", cwd=strict.folder).refused("there is nobody to ask")
    kitaru("store", "gc", "--delete", "--yes", cwd=strict.folder).must()


def test_every_verb_has_one_actor(strict: Repository) -> None:
    """Who applied, who deployed and who starts an execution is the name that Git has."""
    client = strict.client()
    names = {client.session.actor, *(one.by for one in client.deployments.list("agent"))}
    assert len(names) == 1


def test_a_consumer_without_flows_is_told_the_place(strict: Repository) -> None:
    """The store and the project that were looked at, and the projects that the store has."""
    words = ("invoke", "agent", "--project", "other")
    done = kitaru(*words, cwd=strict.folder).refused("has no deployments")
    assert "looked for project other in store" in done.err and "it has research" in done.err
    assert "--project other" in done.err.split("hint:")[1]
