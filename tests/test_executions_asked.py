"""What is asked of the commands about executions, and what they advise: each hint, typed as it stands, works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from kitaru import KitaruClient
from kitaru.errors import KitaruUsageError
from tests.repository import Done, kitaru

FLOWS = """
import asyncio
import time
from kitaru import checkpoint, flow, wait


@checkpoint
def draft(topic: str) -> str:
    return f"a draft on {topic}"


@flow
async def three(topic: str = "x") -> list:
    asked = [wait(name="same", question=f"number {n}?", schema=int, timeout=0) for n in range(2)]
    return await asyncio.gather(*asked, wait(name="other", schema=int, timeout=0))


@flow
def plain(topic: str = "x") -> str:
    return draft(topic)


@flow(timeout=0.2)
async def blocks() -> int:
    time.sleep(0.9)
    return 1
"""


@pytest.fixture(autouse=True)
def folder(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (own_world / "work.py").write_text(FLOWS)
    monkeypatch.chdir(own_world)
    return own_world


def begun(flow: str) -> str:
    """An execution from source that has ended, or waits."""
    done = kitaru("run", f"work.py:{flow}")
    found = re.search(r"ex-\w+", done.err)
    assert found is not None, done.err
    return found[0]


def typed(line: str, *more: str, stdin: str = "") -> Done:
    """What a hint says, typed as it stands."""
    words = shlex.split(line[line.index("kitaru executions") :])
    return kitaru(*words[1:], *more, stdin=stdin)


def test_waits_of_one_name_are_told_by_their_ids() -> None:
    """The picture lists an id wherever a name would not do, and the command that it advises takes the answer."""
    exec_id = begun("three")
    for answers in (2, 1):
        shown = kitaru("executions", "get", exec_id).must().out
        assert f"waits for {answers + 1} answers" in shown
        assert "other: " not in shown and re.search(r"^ +other  asked", shown, re.MULTILINE)
        advice = next(line for line in shown.splitlines() if "answer it:" in line)
        if answers == 2:
            assert "same (w1): number 0?" in shown and "same (w2): number 1?" in shown
            assert advice.endswith("--wait w1 --interactive")
        else:
            assert "(w" not in shown.partition("waits for")[2] and advice.endswith("--wait same --interactive")
        typed(advice, "--no-resume", stdin=f"{answers}\n").must()
    kitaru("executions", "input", exec_id, "--value", "0", "--no-resume").must()
    assert kitaru("executions", "resume", exec_id).must().out.split() == ["[", "2,", "1,", "0", "]"]


def test_an_answer_that_was_left_out_is_asked_for_by_a_name_that_works() -> None:
    """With several waits open the hint names one, and so does what says that nothing was typed."""
    exec_id = begun("three")
    missing = kitaru("executions", "input", exec_id)
    missing.refused("no answer was given", "same (w1): number 0?", f"{exec_id} --wait w1 --value JSON")
    nothing = kitaru("executions", "input", exec_id, "--wait", "w2", "--interactive")
    nothing.refused("'same' got no answer", f"{exec_id} --wait w2 --interactive")
    unclear = kitaru("executions", "input", exec_id, "--value", "1")
    unclear.refused("waits for 3 answers: w1 (same), ", "w2 (same)", "other", "--wait w1 --value JSON")


def test_a_status_that_there_is_not_is_refused_everywhere() -> None:
    """By the command and by Python, one and several; an empty list would say that all is well."""
    kitaru("executions", "list", "--status", "failed,bogus").refused(
        "bogus", "expected one of pending, running", hint=False
    )
    executions = KitaruClient().executions
    asked: list[Any] = ["bogus", ["failed", "bogus"], ("bogus",)]
    for wrong in asked:
        with pytest.raises(KitaruUsageError, match=r"'bogus': expected one of pending, running, .*lost"):
            executions.list(status=wrong)
    with pytest.raises(KitaruUsageError, match="'bogus': expected one of"):
        executions.latest(status="bogus")
    exec_id = begun("plain")
    assert [one.exec_id for one in executions.list(status=iter(["completed", "failed", "completed"]))] == [exec_id]


def test_a_failure_is_told_once() -> None:
    """Its message stands above its traceback and not in it again, also where a hint comes after it there."""
    exec_id = begun("blocks")
    shown = kitaru("executions", "get", exec_id).must().out
    assert shown.count("flow 'blocks'") == 1
    assert "    hint: Give it a longer timeout=" in shown


def test_a_replay_is_told_of_its_own_options() -> None:
    """What is wrong with --args and --override is said of them, and the hints can be typed."""
    exec_id = begun("plain")

    def replay(*options: str) -> Done:
        return kitaru("executions", "replay", exec_id, "--from", "draft", "--dry-run", *options)

    for wrong in ("[1]", "{"):
        done = replay("--args", wrong)
        done.refused("--args", "--args '{")
        assert "--input" not in done.err
    replay("--args", "@nowhere.json").refused("nowhere.json can't be read", "--args @file.json")
    done = replay("--override", "checkpoint.draft=yes, go on")
    done.refused("--override checkpoint.draft is not JSON", """--override checkpoint.draft='"yes, go on"'""")
    hint = done.err[done.err.index("--override checkpoint.draft=") :].strip()
    plan = replay(*shlex.split(hint), "-o", "json").must().json["item"]
    assert [(call["name"], call["action"]) for call in plan["calls"]] == [("draft", "override")]
