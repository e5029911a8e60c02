"""Hints are commands that exist: each command in a text of the code is one of the real command line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from kitaru.cli import assemble
from kitaru.cli.options import Options
from kitaru.cli.terminal import Terminal
from tests.test_layers import PACKAGE

ROOT = typer.main.get_command(assemble())
FIELD = "\x00"


def texts() -> Iterator[tuple[str, str]]:
    """Place and text of every string in the package that is no docstring; a field of an f-string is one letter."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.stem == "address":  # a list of modules, not of commands
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        inner |= {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if id(node) in inner:
                continue
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node.value
            elif isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else FIELD for part in node.values]
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", "".join(parts)


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command in a text, up to its end: a comma, a bracket, a word that is prose."""
    if text.startswith("kitaru host\n"):  # the key of a digest
        return
    for found in re.finditer(r"(?<![\w./-])kitaru (?=[a-z\x00-])", text):
        rest = re.split(r"[,;:()\n`]| && | and | or | then | to | of | with ", text[found.end() :])[0]
        yield [word.rstrip(f".{FIELD}") or FIELD for word in rest.split()]


def wrong(words: list[str]) -> str:
    """Why the command line does not have this command; empty if it has."""
    command: Any = ROOT
    while hasattr(command, "commands") and words:
        name = words[0]
        if name == FIELD or name.startswith("-"):
            break
        if name not in command.commands:
            return f"no command {name!r} in {command.name}"
        command, words = command.commands[name], words[1:]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    options |= {"--help", "-h"}
    unknown = [word for word in words if re.match(r"--?[a-z]", word) and word.split("=")[0] not in options]
    return f"{command.name} has no option {', '.join(unknown)}" if unknown else ""


@pytest.mark.parametrize(("text", "problem"), [
    ("kitaru plan --out FILE makes one", ""),
    ("kitaru flow tag \x00 default --version N --exclusive", ""),
    ("kitaru flow move \x00", "no command 'move' in flow"),
    ("kitaru executions get \x00 --all", "get has no option --all"),
])  # fmt: skip
def test_a_wrong_command_is_seen(text: str, problem: str) -> None:
    """The test itself tells a command that exists from one that does not."""
    assert [wrong(words) for words in commands(text)] == [problem]


def test_every_hint_names_a_command_that_exists() -> None:
    """No text of the code names a command, or an option of one, that the command line does not have."""
    problems = {place: why for place, text in texts() for words in commands(text) if words and (why := wrong(words))}
    assert problems == {}


def test_a_hint_leads_to_the_same_place() -> None:
    """Options of a place that a command had are in its hints, after the command's name, and once."""
    terminal = Terminal()
    terminal.placed = {"plan", "executions get", "flow tag"}
    terminal.place = Options(store="s3://bucket/a b", overlay="prod").place
    options = "--store 's3://bucket/a b' --target prod"
    assert terminal.located("kitaru plan, then repeat") == f"kitaru plan {options}, then repeat"
    assert terminal.located("see kitaru executions get ex-1") == f"see kitaru executions get {options} ex-1"
    twice = terminal.located("kitaru flow tag a b && kitaru flow tag c d")
    assert twice == f"kitaru flow tag {options} a b && kitaru flow tag {options} c d"
    for text in ("kitaru init", "kitaru plan --target prod", "/opt/kitaru plan", "names a kitaru store"):
        assert terminal.located(text) == text


def test_the_package_is_read() -> None:
    """The hints of the deepest rooms are among the texts."""
    assert Path(PACKAGE / "release").is_dir()
    assert sum("kitaru " in text for _, text in texts()) > 100
