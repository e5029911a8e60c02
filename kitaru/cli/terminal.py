"""Output of the command line: results on standard output, words for people on standard error."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import typer

from kitaru.cli.views.words import printed, style
from kitaru.errors import KitaruError, KitaruManifestError, KitaruUsageError, Problem
from kitaru.model.jsonable import shown_line
from kitaru.ports import Step

LIVE_EVERY = 0.2
"""Seconds between two changes of a line that changes."""

Lines = Sequence[str] | Callable[[Any], Sequence[str]]
"""Lines of text, or the view that makes them of a result: called only if they are shown."""


class Output(StrEnum):
    """``-o``: words for people, or stable JSON on standard output alone."""

    text = "text"
    json = "json"


class LiveLine:
    """The line on standard error that changes while a command works; nothing if that is no terminal.

    It gives way to other output, and stays away from a line that has begun. As a reporter of a client it shows steps.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._open = False
        self._line_begun = False
        self._changed = 0.0
        self._phase = ""

    @property
    def on(self) -> bool:
        """Whether there is a terminal on which a line can change."""
        return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    @property
    def room(self) -> int:
        """Characters that it may have: one less than the terminal, which would begin a new line else."""
        return shutil.get_terminal_size((80, 24)).columns - 1

    def step(self, step: Step) -> None:
        """Show a step; where no line can change, each phase has a line."""
        counted = f" [{step.done}/{step.total}]" if step.total > 1 else ""
        text = shown_line(f"{step.phase}: {step.message}{counted}")
        if self.on:
            self.show(lambda: text[: self.room], every=0)
        elif step.phase != self._phase or step.done == step.total > 1:
            print(text, file=sys.stderr)
        self._phase = step.phase

    def show(self, text: Callable[[], str], every: float = LIVE_EVERY) -> None:
        """Show this text instead, unless another was shown within ``every`` seconds."""
        with self._guard:
            if not self.on or self._line_begun or time.monotonic() < self._changed + every:
                return
            self._changed = time.monotonic()
            self._open = True
            encoding = sys.stderr.encoding or "utf-8"
            self._write(shown_line(text()).encode(encoding, "replace").decode(encoding))

    def give_way(self, output: str = "\n") -> None:
        """Somebody else is about to print this on the same terminal."""
        with self._guard:
            if self._open:
                self._open = False
                self._write("")
            if output:
                self._line_begun = not output.endswith("\n")

    def _write(self, text: str) -> None:
        # Not through sys.stderr where that notes what a run prints: this is the command's own.
        stream = getattr(sys.stderr, "real", sys.stderr)
        stream.write(f"\r\x1b[K{text}")
        stream.flush()


class Terminal:
    """One command's output. ``chosen`` is the value of ``-o``; errors need it, too."""

    def __init__(self) -> None:
        self.chosen = Output.text
        self.command = ""
        self.detailed = False
        """Whether exit code 2 means "there are changes", so that every error must be 1."""
        self.interrupted = False
        """Whether the command has said already what its interruption left."""
        self.left = ""
        """The words for an interruption, unless the command itself finds some."""
        self.place: list[str] = []
        """The options that lead another command to the same place: ``["--store", "s3://b/p"]``."""
        self.placed: set[str] = set()
        """The commands that take these options: ``{"plan", "executions get"}``."""

    def begin(self, command: str, output: Output) -> None:
        """A command begins: its name in the JSON, and its form of output."""
        self.command, self.chosen = command, output

    def located(self, text: str) -> str:
        """A hint, each of its commands with this command's place: ``kitaru plan --store s3://b/p, then repeat``."""
        options = shlex.join(self.place)
        if not options:
            return text
        parts = re.split(r"(?<![\w/-])kitaru (?=[a-z])", text)
        for number, part in enumerate(parts[1:], 1):
            words = re.match(r"[a-z-]+(?: [a-z-]+){0,2}", part)
            names = words[0].split() if words else []
            prefixes = (" ".join(names[:size]) for size in range(len(names), 0, -1))
            name = next((one for one in prefixes if one in self.placed), "")
            if name and not any(f" {option} " in part for option in self.place[::2]):
                parts[number] = f"{name} {options}{part[len(name) :]}"
        return "kitaru ".join(parts)

    @property
    def asks(self) -> bool:
        """Whether a person can answer."""
        return not self.json and sys.stdin.isatty() and sys.stdout.isatty()

    def confirm(self, question: str, again: str, *, yes: bool) -> None:
        """Go on only if ``yes`` was given, or a person agrees.

        ``KitaruUsageError`` with the command ``again`` if there is no terminal.
        """
        if yes:
            return
        if not self.asks:
            raise KitaruUsageError("there is nobody to ask", hint=again)
        self.ask(question)

    def ask(self, question: str) -> None:
        """End the command, with exit code 1, unless the person says yes."""
        live_line.give_way()
        if not typer.confirm(f"\n{question}"):
            self.note("nothing applied")
            raise typer.Exit(1)

    @property
    def json(self) -> bool:
        """Whether standard output is for machines."""
        return self.chosen is Output.json

    @property
    def width(self) -> int:
        """How many characters a line of standard output takes; 100 if that is no terminal."""
        return self.room or 100

    @property
    def room(self) -> int | None:
        """The width that a table has to fit; None if standard output is no terminal: nothing is cut then."""
        return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else None

    @property
    def plain(self) -> bool:
        """Whether standard output takes ASCII only."""
        return "utf" not in (sys.stdout.encoding or "utf-8").lower()

    def dim(self, text: str) -> str:
        """``text`` dimmed, for standard error."""
        return style(text, "dim", sys.stderr)

    def item(self, item: Any, lines: Lines = (), **beside: Any) -> None:
        """One result: ``{"command", "item"}``, or its lines; ``beside``: keys of the item that the result lacks."""
        if self.json:
            self._emit(item=self._data(item, beside))
        else:
            self.lines(lines(item) if callable(lines) else lines)

    def items(self, items: Sequence[Any], lines: Lines, **beside: Any) -> None:
        """Several results: ``{"command", "items", "count"}`` and the keys of ``beside``; or their lines."""
        if self.json:
            self._emit(items=[self._data(one, {}) for one in items], count=len(items), **beside)
        else:
            self.lines(lines(items) if callable(lines) else lines)

    def _data(self, item: Any, beside: Mapping[str, Any]) -> Any:
        """A result with the keys that the table of operations promises for this command; else with all it has."""
        if isinstance(item, Mapping) or not is_dataclass(item) or hasattr(item, "to_json"):
            return {**plain_data(item), **plain_data(beside)} if beside else plain_data(item)
        from kitaru.client.operations import OPERATIONS

        words = self.command.replace(".", " ")
        keys = next((one.item for one in OPERATIONS if one.command == words), ()) or item.__dataclass_fields__
        return {key: plain_data(beside[key] if key in beside else getattr(item, key)) for key in keys}

    def lines(self, lines: Sequence[str]) -> None:
        """Lines on standard output; no name or remark in them ends its line, styles it, or commands a CI runner."""
        live_line.give_way()
        for line in lines:
            print(printed(shown_line(line), sys.stdout))

    def raw(self, text: str) -> None:
        """The text of a program or a file on standard output, as it is, but for our own styling."""
        live_line.give_way()
        print(printed(text, sys.stdout))

    def note(self, text: str) -> None:
        """A word for people, on standard error, whatever the output is; of several lines, each is as in ``lines``."""
        live_line.give_way()
        print("\n".join(printed(shown_line(line), sys.stderr) for line in text.split("\n")), file=sys.stderr)

    def advise(self, text: str) -> None:
        """A word with the next command, on standard error: it leads to the same place."""
        self.note(self.located(text))

    def error(self, error: KitaruError) -> None:
        """An error: all its problems, and the next command to type."""
        if self.json:
            hint = {"hint": self.located(error.hint)} if error.hint else {}
            self._emit(error=error_data(error) | hint)
        for line in error_lines(error, self.located):
            self.note(line)
        for command in remarks(error):
            print(command, file=sys.stderr)

    def _emit(self, **data: Any) -> None:
        live_line.give_way()
        print(json_text({"command": self.command, **data}, indent=2))


def write_whole(path: Path, body: bytes, option: str) -> None:
    """Write the file of ``option`` so that it is there whole, and on the disk, or not at all."""
    place = path.resolve()
    temporary = place.with_name(f".{place.name}.{os.urandom(6).hex()}.tmp")
    try:
        if place.exists() and not place.is_file():
            place.write_bytes(body)  # a pipe or a device
            return
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as stream:
            stream.write(body)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(place)
    except OSError as error:
        raise KitaruUsageError(
            f"{option}: {path} can't be written: {error.strerror or error}", hint="name a file in a folder that exists"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def json_text(data: Any, indent: int | None = None) -> str:
    """``data`` as JSON that standard output can take: characters outside its encoding are escaped."""
    text = json.dumps(data, ensure_ascii=False, indent=indent, default=str)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(data, indent=indent, default=str)
    return text


def plain_data(value: Any) -> Any:
    """A result as JSON data; of a plan, without the values of environment variables."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if hasattr(value, "model_dump"):
        return getattr(value, "redacted", value).model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain_data(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_data(item) for item in value]
    return value


# --- errors -----------------------------------------------------------------------------------------------------------

MOST_REMARKS = 10
"""Of one step: GitHub shows no more."""


def error_lines(error: KitaruError, located: Callable[[str], str] = str) -> list[str]:
    """An error in words; ``located`` completes its hints."""
    red = style("error:", "bad", sys.stderr)
    problems = error.problems if isinstance(error, KitaruManifestError) else ()
    lines = [] if problems else [f"{red} {error.message}"]
    for problem in problems:
        lines += [f"{red} {problem}", *([f"  hint: {located(problem.hint)}"] if problem.hint else [])]
    if error.hint and error.hint not in [problem.hint for problem in problems]:
        lines.append(f"hint: {located(error.hint)}")
    return lines


def error_data(error: KitaruError) -> dict[str, Any]:
    """An error for machines."""
    data: dict[str, Any] = {"code": error.code, "type": type(error).__name__, "message": error.message}
    if problems := getattr(error, "problems", ()):
        data["problems"] = [asdict(problem) for problem in problems]
    return data | {
        name: getattr(error, name) for name in ("exec_id", "status", "failure_origin") if hasattr(error, name)
    }


def remarks(error: KitaruError, environ: Mapping[str, str] = os.environ) -> list[str]:
    """The error as workflow commands, one for each problem with a place; nothing outside GitHub's jobs."""
    if environ.get("GITHUB_ACTIONS") != "true":
        return []
    problems: tuple[Problem, ...] = getattr(error, "problems", ())
    placed = [problem for problem in problems if problem.file][:MOST_REMARKS]
    root = environ.get("GITHUB_WORKSPACE", "")
    return [_remark(problem, root) for problem in placed] or [f"::error title=kitaru::{escaped(error.message)}"]


def _remark(problem: Problem, root: str) -> str:
    members = {"file": _below(problem.file, root)}
    if problem.line:
        members |= {"line": str(problem.line), "col": str(problem.column or 1)}
    words = problem.message + (f"\nhint: {problem.hint}" if problem.hint else "")
    place = [f"{name}={escaped(value).replace(':', '%3A').replace(',', '%2C')}" for name, value in members.items()]
    return f"::error {','.join(place)},title=kitaru::{escaped(words)}"


def _below(file: str, root: str) -> str:
    """The file relative to the repository, as GitHub wants it."""
    try:
        return Path(file).resolve().relative_to(Path(root or ".").resolve()).as_posix()
    except ValueError:
        return file


def escaped(text: str) -> str:
    """Text that ends no workflow command and begins none."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


live_line = LiveLine()
terminal = Terminal()
