"""The command line's help: every command in a line that fits, the same options in the same order everywhere."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from kitaru.cli import assemble
from tests.repository import Repository, kitaru

PLACE = ["--store", "--project", "--manifest", "--target", "--output", "--help"]
ELSEWHERE = {
    "init",  # there is no manifest yet
    "validate",  # needs no store
    "schema",
    "version",
    "ci init",  # needs no store
    "ci comment",
    "ci issue",
    "ci reviewed",
}
"""Commands that work in no store."""


def commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, one in group.commands.items():
        where = f"{path} {name}".strip()
        if hasattr(one, "commands"):
            yield from commands(one, where)
        else:
            yield where, one


EVERY = dict(commands(typer.main.get_command(assemble())))


def shown(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "kitaru", *arguments, "--help"],
        env={"COLUMNS": "80", "PATH": "", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("group", ["", "flow", "flow deployments", "executions", "store", "ci"])
def test_what_a_command_does_fits_its_line(group: str) -> None:
    """At 80 columns the list of commands cuts no sentence."""
    lines = shown(*group.split()).partition("Commands:\n")[2].splitlines()
    assert len(lines) >= 2
    assert [line for line in lines if line.endswith("...") or len(line) > 80] == []


def test_every_command_that_works_in_a_store_says_which() -> None:
    """The options of a place, and -o, stand last, in one order, whatever else a command takes."""
    assert len(EVERY) > 30
    for name, command in EVERY.items():
        options = [
            max(one.opts, key=len) for one in command.get_params(command.make_context(name, [], resilient_parsing=True))
        ]
        if name in ELSEWHERE:
            assert "--store" not in options, name
        else:
            assert options[-len(PLACE) :] == PLACE, name


def test_every_command_answers_machines() -> None:
    """Each command has -o, and takes json there."""
    for name, command in EVERY.items():
        options = {one.name: one for one in command.get_params(command.make_context(name, [], resilient_parsing=True))}
        assert "-o" in options["output"].opts, name
        assert "json" in command.get_help(command.make_context(name, [], resilient_parsing=True)), name


def test_no_option_is_explained_by_a_type_of_python() -> None:
    """An option says what it takes in words: a URL, a FILE, N."""
    for name, command in EVERY.items():
        text = command.get_help(command.make_context(name, [], resilient_parsing=True))
        assert not re.search(r"^  (-\w, )?--[a-z-]+ <(str|int|path|float|list)", text, re.MULTILINE), text


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_wrong_option_is_told_in_the_form_that_was_asked_for(repository: Repository, form: str) -> None:
    """Options that a command did not spell itself are checked as its own."""
    done = kitaru("flow", "list", "--nope", "-o", form, cwd=repository.folder).must(2)
    assert "No such option" in done.err
    assert (done.out != "") == (form == "json")
    kitaru("flow", "list", "-o", "yaml", cwd=repository.folder).refused("yaml")
