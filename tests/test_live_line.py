"""While a command waits at a terminal, one line says how the execution goes; elsewhere nothing does."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from kitaru.cli.views.executions import progress_line
from kitaru.model.event import ExecutionOptions, Value
from kitaru.model.execution import CheckpointCall, Execution
from tests.repository import Repository, kitaru

FLOW = """
import logging
import subprocess
import time

from kitaru import checkpoint, flow

logging.basicConfig(level=logging.INFO)


@checkpoint
def outline(n: int) -> int:
    time.sleep(0.02)
    if n == 60:
        print("begun", end="")
        time.sleep(1.5)
        print(" and ended")
    if n == 65:
        subprocess.run(["echo", "a child says so"], check=True)
        logging.info("once")
    return n


@flow
def agent() -> int:
    return sum(outline(n) for n in range(120))
"""
RUN = (sys.executable, "-m", "kitaru")
LIVE = "\r\x1b[K"


def at_terminal(folder: Path, *arguments: str) -> tuple[str, str]:
    """Standard output, and what came to the terminal that standard error is."""
    ours, theirs = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "NO_COLOR": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(
        [*RUN, *arguments], cwd=folder, env=environ, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            body = os.read(ours, 65536)
        except OSError:  # how Linux says that nobody has the other end any more
            break
        if not body:
            break
        shown += body
    assert process.stdout is not None
    out = process.stdout.read()
    process.stdout.close()
    assert process.wait(60) == 0, shown
    os.close(ours)
    return out.decode(), shown.decode()


@pytest.fixture
def deployed(own_world: Path) -> Repository:
    return Repository.make(own_world / "deployed", {"flows/work.py": FLOW})


def test_a_run_says_how_far_it_is(deployed: Repository) -> None:
    """The line changes, keeps away from what the flow prints, is gone at the end, and is in no log; a record of a
    logging handler that was made at import is one line.
    """
    out, shown = at_terminal(deployed.folder, "run", "flows/work.py:agent")
    assert out.splitlines() == ["begun and ended", "a child says so", "7140"]
    live = [part for part in shown.split(LIVE)[1:] if "outline" in part]
    assert len(live) >= 2 and all(part.startswith("  outline ") and " s" in part for part in live)
    assert shown.rpartition(LIVE)[2].strip() == "" and shown.count("INFO:root:once") == 1
    exec_id = shown.split()[0]
    logs = kitaru("executions", "logs", exec_id, cwd=deployed.folder).must().out
    assert logs.splitlines() == ["begun and ended", "a child says so", "INFO root: once"]


def test_waiting_for_an_invoked_one_says_how_far_it_is(deployed: Repository) -> None:
    """It is polled then; with JSON, and where standard error is no terminal, nothing is said."""
    kitaru("apply", "--yes", cwd=deployed.folder).must()
    out, shown = at_terminal(deployed.folder, "invoke", "agent", "--wait", "--no-cache")
    assert out == "7140\n"
    assert "  outline " in shown and shown.rpartition(LIVE)[2].strip() == ""
    out, shown = at_terminal(deployed.folder, "invoke", "agent", "--wait", "-o", "json")
    assert "outline" not in shown and '"result": 7140' in out
    quiet = kitaru("invoke", "agent", "--wait", cwd=deployed.folder).must()
    assert "\x1b" not in quiet.err and "outline" not in quiet.err


def test_the_line_names_what_was_called_last_and_fits() -> None:
    """Of many checkpoints the last two are named; the line is as wide as the terminal at most."""
    calls = [
        CheckpointCall(
            call_id=f"{name}/{n}",
            name=name,
            status="running" if (name, n) == ("join", 2) else "completed",
            started_at="2026-11-22T12:00:00.000000Z",
            attempts=(),
        )
        for name in ("fetch", "outline", "join")
        for n in range(3)
    ]
    execution = Execution(
        exec_id="ex-000000000000000000",
        project="p",
        flow_name="f",
        status="running",
        created_at="2026-11-22T12:00:00.000000Z",
        stack_name="local",
        target="f.py:f",
        origin="run",
        options=ExecutionOptions(),
        inputs=Value("json", 4, "0" * 64, "inline", None),
        checkpoints=tuple(calls),
    )
    text = progress_line(execution, None, width=200)
    assert text.startswith("  outline 3 of 3, join 2 of 3 · 8 done in all · 1 running · ")
    assert len(progress_line(execution, width=30)) == 30
