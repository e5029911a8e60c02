"""Answers that fit the JSON Schema and not the type, answers that come too late, and answers nobody went on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kitaru.errors import KitaruConflictError
from tests.repository import Repository, kitaru, until

FLOWS = """
from kitaru import flow, wait
from pydantic import BaseModel, field_validator


class Word(BaseModel):
    text: str

    @field_validator("text")
    @classmethod
    def is_magic(cls, text: str) -> str:
        if text != "xyzzy":
            raise ValueError("must be magic")
        return text


@flow
def door(patience: float = 0.0) -> str:
    return wait(schema=Word, name="word", question="Say it", timeout=patience).text


@flow
def two() -> bool:
    wait(schema=bool, name="first", timeout=0)
    return wait(schema=bool, name="second", timeout=0)
"""
MANIFEST = (
    "kitaru: 1\nproject: doors\nstore: file://.kitaru/store\nsource: {include: ['flows/**']}\nflows:\n"
    + "".join(f"  {name}: {{target: 'flows/work.py:{name}', routes: {{default: head}}}}\n" for name in ("door", "two"))
)
WRONG = ("--value", '{"text": "please"}')
RIGHT = ("--value", '{"text": "xyzzy"}')


@pytest.fixture
def house(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    repository = Repository.make(own_world / "repository", {"flows/work.py": FLOWS}, MANIFEST)
    repository.apply()
    monkeypatch.chdir(repository.folder)
    return repository


def asking(house: Repository, flow: str = "door", **inputs: object) -> str:
    """An execution whose first wait is open."""
    exec_id = kitaru("invoke", flow, "--input", json.dumps(inputs)).must().out.strip()
    until(lambda: house.client().executions.pending_waits(exec_id))
    return exec_id


def left(house: Repository, exec_id: str) -> bool:
    return house.client().executions.get(exec_id).suspended_at is not None


@pytest.mark.parametrize("patience", [60, 0])
def test_an_answer_that_the_type_refuses_is_told_and_the_next_one_counts(house: Repository, patience: int) -> None:
    """Whether a runner polls or one is started: rc 2 with the validator's words, also in get and its JSON."""
    exec_id = asking(house, patience=patience)
    if not patience:
        until(lambda: left(house, exec_id))
    done = kitaru("executions", "input", exec_id, *WRONG, "-o", "json" if patience else "text")
    assert done.code == 2, (done.out, done.err)
    assert "must be magic" in done.out + done.err
    assert "put aside" in done.out + done.err
    until(lambda: house.client().executions.pending_waits(exec_id))
    shown = kitaru("executions", "get", exec_id).must().out
    assert "was put aside: " in shown
    assert "must be magic" in shown
    (wait,) = kitaru("executions", "get", exec_id, "-o", "json").must().json["item"]["waits"]
    assert "must be magic" in wait["refused"][0]["reason"]
    assert wait["status"] == "open"
    if not patience:
        until(lambda: left(house, exec_id))
    kitaru("executions", "input", exec_id, *RIGHT).must()
    assert house.client().executions.handle(exec_id).wait(30) == "xyzzy"


def test_a_given_answer_that_the_type_refuses_is_told(house: Repository) -> None:
    """replay --override wait.word: the question is asked, and says whose answer was put aside and why."""
    exec_id = asking(house, patience=60)
    kitaru("executions", "input", exec_id, *RIGHT).must()
    house.client().executions.handle(exec_id).wait(30)
    override = 'wait.word={"text": "please"}'
    replayed = kitaru("executions", "replay", exec_id, "--from", "word", "--override", override).must().out.strip()
    until(lambda: house.client().executions.pending_waits(replayed))
    (wait,) = house.client().executions.get(replayed).waits
    assert "must be magic" in wait.refused[0].reason
    kitaru("executions", "input", replayed, *RIGHT).must()
    assert house.client().executions.handle(replayed).wait(30) == "xyzzy"
    assert house.client().executions.get(replayed).unused_overrides == ["wait.word"]


def test_who_comes_after_the_end_is_told_whose_answer_counted(house: Repository) -> None:
    """By the wait's name, and without one: who and when; a wait that was never there is no conflict."""
    exec_id = asking(house, patience=60)
    kitaru("executions", "input", exec_id, *RIGHT).must()
    house.client().executions.handle(exec_id).wait(30)
    for named in ([], ["--wait", "word"], ["--wait", "w1"]):
        done = kitaru("executions", "input", exec_id, *named, *RIGHT)
        done.refused("'word'", "was answered by", " at 2", "completed", code=1)
    kitaru("executions", "input", exec_id, "--wait", "nope", *RIGHT).refused("never asked 'nope'", code=1)
    with pytest.raises(KitaruConflictError):
        house.client().executions.input(exec_id, value={"text": "xyzzy"})


def test_of_several_answers_all_are_told(house: Repository) -> None:
    """Where an execution asked more than once, and nobody says which wait is meant."""
    exec_id = asking(house, "two")
    until(lambda: left(house, exec_id))
    kitaru("executions", "input", exec_id, "--wait", "first", "--value", "true").must()
    until(lambda: [one.name for one in house.client().executions.pending_waits(exec_id)] == ["second"])
    kitaru("executions", "input", exec_id, "--wait", "second", "--value", "true").must()
    house.client().executions.handle(exec_id).wait(30)
    done = kitaru("executions", "input", exec_id, "--value", "true")
    done.refused("'first' was answered by", "'second' was answered by", code=1)


def test_what_only_waits_to_be_resumed_says_so(house: Repository) -> None:
    """After input --no-resume, list says that it is answered, and get what is due."""
    exec_id = asking(house)
    until(lambda: left(house, exec_id))
    assert "(answered)" not in kitaru("executions", "list").must().out
    kitaru("executions", "input", exec_id, *RIGHT, "--no-resume").must()
    assert "waiting (answered)" in kitaru("executions", "list").must().out
    (row,) = kitaru("executions", "list", "-o", "json").must().json["items"]
    assert row["answered"] is True
    assert f"kitaru executions resume {exec_id}" in kitaru("executions", "get", exec_id).must().out
    kitaru("executions", "resume", exec_id).must()
    assert house.client().executions.handle(exec_id).wait(30) == "xyzzy"
    assert "(answered)" not in kitaru("executions", "list").must().out
