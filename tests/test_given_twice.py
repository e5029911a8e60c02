"""Options that are given twice: where they say what a command is about, none of the two is taken by guess."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.repository import Repository, kitaru

REPLAY = ("executions", "replay", "ex-1", "--from", "write")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            (*REPLAY, "--override", "checkpoint.a=3", "--override", "checkpoint.a=4"),
            "checkpoint.a is given twice, as 3",
        ),
        ((*REPLAY, "--override", "wait.a=true", "--override", "wait.a=1"), "wait.a is given twice, as true and as 1"),
        ((*REPLAY, "--from", "read"), "--from is given twice, as write and as read"),
        ((*REPLAY, "--args", '{"n": 1}', '--args={"m": 1}'), "--args is given twice, with different values"),
        ((*REPLAY, "--version", "1", "--version", "2"), "--version is given twice, as 1 and as 2"),
        (("invoke", "agent", "--input", '{"n": 1}', "--input", '{"m": 1}'), "--input is given twice"),
        (("invoke", "agent", "--tag", "a", "--tag", "b"), "--tag is given twice, as a and as b"),
        (("flow", "tag", "agent", "stable", "--version", "1", "--version", "2"), "--version is given twice"),
        (("flow", "deployments", "show", "agent", "--tag", "a", "--tag", "b"), "--tag is given twice"),
        (("executions", "input", "ex-1", "--value", "true", "--value", "false"), "--value is given twice"),
        (("promote", "agent", "a", "--to", "b", "--to", "c"), "--to is given twice"),
        (("deploy", "agent", "--image", "a", "--image", "b"), "--image is given twice, with different values"),
        (("build", "agent", "--image", "a", "--image={}"), "--image is given twice, with different values"),
        (("flow", "list", "--project", "q", "--project", "p"), "--project is given twice, as q and as p"),
        (("history", "--project", "q", "--project", "p"), "--project is given twice, as q and as p"),
    ],
)
def test_two_values_for_what_a_command_is_about_are_refused(
    repository: Repository, words: tuple[str, ...], says: str
) -> None:
    """The command says which option, with both values, before it does anything."""
    kitaru(*words, cwd=repository.folder).refused(says)
    said = kitaru(*words, "-o", "json", cwd=repository.folder)
    assert says in said.must(2).json["error"]["message"]


def test_the_same_value_twice_is_one(repository: Repository, own_world: Path) -> None:
    """Nothing is lost then; and of where and how, the last option counts, as wrappers rely on."""
    repository.apply()
    words = ("--tag", "default", "--tag", "default", "--store", f"file://{own_world}/elsewhere")
    own = ("--store", f"file://{repository.store_folder}")
    done = kitaru("invoke", "agent", "--input", '{"topic": "tea"}', "--wait", *words, *own, cwd=repository.folder)
    assert done.must().out.strip() == "HELLO TEA"
    exec_id = kitaru("executions", "list", "-o", "json", cwd=repository.folder).json["items"][0]["exec_id"]
    same = ("--override", 'checkpoint.collect="a"', "--override", 'checkpoint.collect= "a"')
    given = ("executions", "replay", exec_id, "--from", "write", "--dry-run", *same, "-o", "text", "-o", "json")
    plan = json.loads(kitaru(*given, cwd=repository.folder).must().out)["item"]
    assert [call["action"] for call in plan["calls"]] == ["override", "rerun"]
