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
from dataclasses import asdict, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import typer

from kitaru.cli.job import remarks
from kitaru.errors import KitaruError, KitaruManifestError, KitaruUsageError, Problem
from kitaru.model.jsonable import shown_line
from kitaru.ports import Step

INTERRUPTED = "interrupted; nothing that was not yet committed has changed"
NOT_APPLIED = "interrupted; no route has moved"
LIVE_EVERY = 0.2
"""Seconds between two changes of a line that changes."""

COLOURS = {
    "add": {"fg": "green"},
    "change": {"fg": "yellow"},
    "remove": {"fg": "red"},
    "warn": {"fg": "yellow"},
    "bad": {"fg": "red", "bold": True},
    "good": {"fg": "green"},
    "dim": {"dim": True},
    "bold": {"bold": True},
}

_OURS = chr(0xF0000 + int.from_bytes(os.urandom(2), "big") % 0xFFFE)
"""Stands for Escape in our own styling until it is printed; each process chooses it anew: no recorded text has it."""


class Output(StrEnum):
    """``-o``: words for people, or stable JSON on standard output alone."""

    text = "text"
    json = "json"


class Terminal:
    """One command's output. ``chosen`` is the value of ``-o``; errors need it, too."""

    def __init__(self) -> None:
        self.chosen = Output.text
        self.command = ""
        self.detailed = False
        """Whether exit code 2 means "there are changes", so that every error must be 1."""
        self.interrupted = False
        """Whether the command has said already what its interruption left."""
        self.left = INTERRUPTED
        """The words for an interruption, unless the command itself finds some."""
        self.place: list[str] = []
        """The options that lead another command to the same place: ``["--store", "s3://b/p"]``."""
        self.placed: set[str] = set()
        """The commands that take these options: ``{"plan", "executions get"}``."""

    def begin(self, command: str, output: Output) -> None:
        """A command begins: its name in the JSON, and its form of output."""
        self.command, self.chosen = command, output
        self.left = NOT_APPLIED if command == "apply" else INTERRUPTED

    def located(self, text: str) -> str:
        """A hint, each of its commands with this command's place: ``kitaru plan --store s3://b/p, then repeat``."""
        options = shlex.join(self.place)
        if not options:
            return text
        parts = re.split(r"(?<![\w/-])kitaru (?=[a-z])", text)
        for number, part in enumerate(parts[1:], 1):
            words = re.match(r"[a-z-]+(?: [a-z-]+){0,2}", part)
            names = words[0].split() if words else []
            for size in range(len(names), 0, -1):
                name = " ".join(names[:size])
                if name in self.placed and not any(f" {option} " in part for option in self.place[::2]):
                    parts[number] = f"{name} {options}{part[len(name) :]}"
                    break
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
        return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100

    @property
    def room(self) -> int | None:
        """The width that a table has to fit; None if standard output is no terminal: nothing is cut then."""
        return self.width if sys.stdout.isatty() else None

    @property
    def plain(self) -> bool:
        """Whether standard output takes ASCII only."""
        return "utf" not in (sys.stdout.encoding or "utf-8").lower()

    def style(self, text: str, kind: str) -> str:
        """``text`` in the colour of its kind, if standard output is a terminal that shows colours."""
        return _styled(text, kind) if colours(sys.stdout) else text

    def dim(self, text: str) -> str:
        """``text`` dimmed, for standard error, if that is a terminal that shows colours."""
        return _styled(text, "dim") if colours(sys.stderr) else text

    def item(self, item: Any, lines: Sequence[str] = ()) -> None:
        """One result: ``{"command", "item"}``, or its lines."""
        if self.json:
            self._emit({"command": self.command, "item": plain_data(item)})
        else:
            self.lines(lines)

    def items(self, items: Sequence[Any], lines: Sequence[str], **beside: Any) -> None:
        """Several results: ``{"command", "items", "count"}`` and the keys of ``beside``; or their lines."""
        if self.json:
            listed = [plain_data(one) for one in items]
            self._emit({"command": self.command, "items": listed, "count": len(listed), **beside})
        else:
            self.lines(lines)

    def lines(self, lines: Sequence[str]) -> None:
        """Lines on standard output; no name or remark in them ends its line, styles it, or commands a CI runner."""
        for line in lines:
            print(_printed(line))

    def raw(self, text: str) -> None:
        """The text of a program or a file on standard output, as it is, but for our own styling."""
        print(text.replace(_OURS, "\x1b"))

    def note(self, text: str) -> None:
        """A word for people, on standard error, whatever the output is; of several lines, each is as in ``lines``."""
        print("\n".join(map(_printed, text.split("\n"))), file=sys.stderr)

    def advise(self, text: str) -> None:
        """A word with the next command, on standard error: it leads to the same place."""
        self.note(self.located(text))

    def error(self, error: KitaruError) -> None:
        """An error: all its problems, and the next command to type."""
        if self.json:
            data = error_data(error)
            if error.hint:
                data["hint"] = self.located(error.hint)
            self._emit({"command": self.command, "error": data})
        for line in error_lines(error, self.located):
            self.note(line)
        for command in remarks(error):
            print(command, file=sys.stderr)

    def _emit(self, data: dict[str, Any]) -> None:
        print(json_text(data, indent=2))


def write_whole(path: Path, body: bytes) -> None:
    """Write a file so that it is there whole, and on the disk, or not at all. Raises ``OSError``."""
    if path.exists() and not path.is_file():
        path.write_bytes(body)  # a pipe or a device
        return
    path = path.resolve()
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as stream:
            stream.write(body)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _styled(text: str, kind: str) -> str:
    begun = typer.style("", **COLOURS[kind], reset=False)  # type: ignore[arg-type]
    return f"{begun.replace(chr(27), _OURS)}{text}{_OURS}[0m"


def _printed(line: str) -> str:
    return shown_line(line).replace(_OURS, "\x1b")


def json_text(data: Any, indent: int | None = None) -> str:
    """``data`` as JSON that standard output can take: characters outside its encoding are escaped."""
    text = json.dumps(data, ensure_ascii=False, indent=indent, default=str)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(data, indent=indent, default=str)
    return text


def colours(stream: Any) -> bool:
    """Whether ``stream`` is a terminal, and NO_COLOR is not set (https://no-color.org)."""
    return bool(stream.isatty()) and not os.environ.get("NO_COLOR")


def error_lines(error: KitaruError, located: Callable[[str], str] = str) -> list[str]:
    """An error in words; ``located`` completes its hints."""
    red = _styled("error:", "bad") if colours(sys.stderr) else "error:"
    problems: tuple[Problem, ...] = getattr(error, "problems", ()) if isinstance(error, KitaruManifestError) else ()
    if not problems:
        lines = [f"{red} {error.message}"]
    else:
        lines = []
        for problem in problems:
            lines.append(f"{red} {problem}")
            if problem.hint:
                lines.append(f"  hint: {located(problem.hint)}")
    if error.hint and error.hint not in [problem.hint for problem in problems]:
        lines.append(f"hint: {located(error.hint)}")
    return lines


def error_data(error: KitaruError) -> dict[str, Any]:
    """An error for machines."""
    data: dict[str, Any] = {"code": error.code, "type": type(error).__name__, "message": error.message}
    if error.hint:
        data["hint"] = error.hint
    problems = getattr(error, "problems", ())
    if problems:
        data["problems"] = [asdict(problem) for problem in problems]
    for name in ("exec_id", "status", "failure_origin"):
        if hasattr(error, name):
            data[name] = getattr(error, name)
    return data


def plain_data(value: Any) -> Any:
    """A result as JSON data."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain_data(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_data(item) for item in value]
    return value


class Progress:
    """A reporter that prints: one line that changes on a terminal, one line a phase elsewhere."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._phase = ""
        self._open = False

    def step(self, step: Step) -> None:
        """Show a step."""
        if self._quiet:
            return
        counted = f" [{step.done}/{step.total}]" if step.total > 1 else ""
        text = shown_line(f"{step.phase}: {step.message}{counted}")
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{text[:100]}")
            sys.stderr.flush()
            self._open = True
        elif step.phase != self._phase or step.done == step.total > 1:
            print(text, file=sys.stderr)
        self._phase = step.phase

    def close(self) -> None:
        """Leave the line that changed, empty."""
        if self._open:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._open = False


class LiveLine:
    """A line on standard error that changes while a command waits; nothing if that is no terminal.

    It gives way to other output, and stays away from a line that has begun.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.on = not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._guard = threading.Lock()
        self._open = False
        self._line_begun = False
        self._due = 0.0

    @property
    def room(self) -> int:
        """Characters that it may have: one less than the terminal, which would begin a new line else."""
        return shutil.get_terminal_size((80, 24)).columns - 1

    def show(self, text: Callable[[], str]) -> None:
        """Show this text instead; a few times a second at most."""
        with self._guard:
            if not self.on or self._line_begun or time.monotonic() < self._due:
                return
            self._due = time.monotonic() + LIVE_EVERY
            self._open = True
            encoding = sys.stderr.encoding or "utf-8"
            self._write(shown_line(text()).encode(encoding, "replace").decode(encoding))

    def give_way(self, printed: str = "\n") -> None:
        """Somebody else is about to print this on the same terminal."""
        with self._guard:
            if self._open:
                self._open = False
                self._write("")
            if printed:
                self._line_begun = not printed.endswith("\n")

    def _write(self, text: str) -> None:
        # Not through sys.stderr where that notes what a run prints: this is the command's own.
        stream = getattr(sys.stderr, "real", sys.stderr)
        stream.write(f"\r\x1b[K{text}")
        stream.flush()


terminal = Terminal()
progress = Progress()
