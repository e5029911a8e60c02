"""Parity: the table of operations, the client and the command line say the same."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import typer

from kitaru.cli import assemble
from kitaru.client import KitaruClient
from kitaru.client.operations import OPERATIONS, Operation
from tests.repository import Repository, kitaru

ROOT: Any = typer.main.get_command(assemble())
PLACE = {"--store", "--project", "--manifest", "--target", "--output"}
WITHOUT_CLIENT = {"init", "schema", "version", "ci init", "ci comment", "ci issue", "ci reviewed"}
"""Commands about this machine or a forge, not about a project in a store."""


def command(words: str) -> Any:
    found = ROOT
    for word in words.split():
        found = found.commands[word]
    return found


def all_commands(group: Any = ROOT, path: tuple[str, ...] = ()) -> set[str]:
    return {
        name
        for word, inner in group.commands.items()
        for name in (all_commands(inner, (*path, word)) if hasattr(inner, "commands") else {" ".join((*path, word))})
    }


def method(operation: Operation, tmp_path: Path) -> Any:
    found: Any = KitaruClient(store=f"file://{tmp_path}/store", project="ai")
    for name in operation.method.split("."):
        found = getattr(found, name)
    return found


def test_every_command_is_an_operation() -> None:
    """Each command has one line in the table, and each line a command."""
    assert {one.command for one in OPERATIONS} | WITHOUT_CLIENT == all_commands()
    assert len({one.command for one in OPERATIONS}) == len(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.command.replace(" ", "-"))
def test_the_client_has_the_operation(operation: Operation, tmp_path: Path) -> None:
    """The client's method takes the arguments of the table, no others, and returns its type."""
    signature = inspect.signature(method(operation, tmp_path))
    assert set(signature.parameters) == set(operation.arguments)
    assert signature.return_annotation == operation.result


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.command.replace(" ", "-"))
def test_the_command_line_offers_the_operation(operation: Operation) -> None:
    """The command has the options of the table, no others, and its help begins with the summary."""
    params = [one for one in command(operation.command).params if one.name not in ("help", "overlay")]
    offered = {one.opts[0] if one.param_type_name == "option" else one.metavar for one in params} - PLACE
    named = {name for names in operation.arguments.values() for name in names.split("+") if name}
    assert offered == named | set(operation.shown)
    help_text = " ".join(command(operation.command).help.split())
    assert help_text.startswith(operation.summary)


def test_exit_codes_follow_from_the_errors() -> None:
    """Nothing that a command can end with is unknown: done, failed, wrong usage."""
    codes = {one.command: one.exit_codes for one in OPERATIONS}
    assert all({0} <= found <= {0, 1, 2} for found in codes.values())
    assert codes["flow tag"] == {0, 1, 2} and codes["flow deployments list"] == {0, 2}


def test_json_has_the_keys_of_the_table(repository: Repository) -> None:
    """The item of each command's JSON has exactly the keys of the table; a list has them in each item."""
    repository.commit()
    commands = {
        "validate": (),
        "apply": ("--yes",),
        "deploy": ("flows/work.py:agent", "--tag", "canary", "--exclusive"),
        "build": ("flows/work.py:agent",),
        "flow tag": ("agent", "beta", "--version", "1"),
        "flow untag": ("agent", "beta"),
        "promote": ("agent", "canary", "--to", "stable"),
        "rollback": ("agent", "stable", "--to", "1"),
        "flow deployments delete": ("agent", "--version", "3", "--yes"),
        "import": ("--dry-run",),
        "flow list": (),
        "flow deployments list": ("agent",),
    }
    table = {one.command: one for one in OPERATIONS}
    assert set(commands) | {"invoke"} == {one.command for one in OPERATIONS if one.item}
    for words, arguments in commands.items():
        data = kitaru(*words.split(), *arguments, "-o", "json", cwd=repository.folder).must().json
        items = data["items"] if table[words].listed else [data["item"]]
        for item in items:
            assert set(item) == set(table[words].item), words
