"""Small words, colours and tables that several views use."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from kitaru.model.address import parse_timestamp

if TYPE_CHECKING:
    from kitaru.model.event import Failure

GREEN, YELLOW, RED, BOLD_RED, DIM, BOLD = "32", "33", "31", "31;1", "2", "1"
CODES = {"add": GREEN, "good": GREEN, "change": YELLOW, "warn": YELLOW, "remove": RED, "bad": BOLD_RED}
CODES |= {"dim": DIM, "bold": BOLD}
"""Kinds of text, and their colours."""

_OURS = chr(0xF0000 + int.from_bytes(os.urandom(2), "big") % 0xFFFE)
"""Stands for Escape in our own styling until it is printed; each process chooses it anew: no recorded text has it."""

_STYLING = re.compile(rf"{_OURS}\[[\d;]*m")


def colours(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal, and NO_COLOR is not set (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def style(text: str, kind: str, stream: TextIO | None = None) -> str:
    """``text`` in the colour of its kind, of ``CODES``, if ``stream`` (standard output) shows colours."""
    return f"{_OURS}[{CODES[kind]}m{text}{_OURS}[0m" if kind and colours(stream or sys.stdout) else text


def printed(text: str, stream: TextIO) -> str:
    """``text`` with its styling as ``stream`` takes it."""
    return text.replace(_OURS, "\x1b") if colours(stream) else _STYLING.sub("", text)


def edit_line(line: str) -> str:
    """A line of a unified diff in its colour."""
    if line.startswith(("--- ", "+++ ")):
        return style(line, "dim")
    return style(line, {"+": "add", "-": "remove", "@": "change"}.get(line[:1], ""))


def command_line(command: str, *words: object) -> str:
    """``command`` and its words, quoted for a shell: ``kitaru invoke 'a b'``."""
    return " ".join([command, *(shlex.quote(str(word)) for word in words)])


def count(number: int, noun: str) -> str:
    """``1 flow``, ``2 flows``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def few(lines: Sequence[str], most: int, more: str) -> list[str]:
    """The first lines, and a dim one with the number of the others: ``few(lines, 20, "and {} more flows")``."""
    return [*lines[:most], *([style(more.format(f"{len(lines) - most:,}"), "dim")] if len(lines) > most else [])]


def listed(names: Sequence[str], most: int = 3) -> str:
    """``a, b, c and 17 more``."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def ago(timestamp: str, now: datetime | None = None) -> str:
    """``3 min ago``; after a day and a half the date, ``2026-11-30``; ``-`` for no time."""
    if not timestamp:
        return "-"
    moment = parse_timestamp(timestamp)
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    for size, unit, until in ((1, "s", 90), (60, "min", 5400), (3600, "h", 129_600)):
        if seconds < until:
            return f"{max(0, int(seconds / size))} {unit} ago"
    return moment.strftime("%Y-%m-%d")


def duration(seconds: float) -> str:
    """``0 ms``, ``3.4 s``, ``2 min 5 s``, ``3 h 12 min``, ``2 d 4 h``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    return f"{whole // 60} min {whole % 60} s"


def seconds_between(timestamp: str, moment: datetime) -> float:
    """From a recorded time to a moment; never negative."""
    return max((moment - parse_timestamp(timestamp)).total_seconds(), 0.0)


def took(started: str | None, ended: str | None) -> str:
    """A duration, ``3.4 s``; ``-`` if one end is open."""
    return duration(seconds_between(started, parse_timestamp(ended))) if started and ended else "-"


def first_line(failure: Failure) -> str:
    """``ConnectionError: no answer``: the type without its module, and the first line of the message."""
    kind = failure.type.rpartition(":")[2]
    message = failure.message.strip().partition("\n")[0]
    return f"{kind}: {message}" if message else kind


def drawn(draw: Mapping[str, Any]) -> str:
    """``drawn from v1 90 %, v2 10 % by the key``: the choice of a divided route."""
    weights = ", ".join(f"v{version} {weight} %" for version, weight in draw["weights"].items())
    return f"drawn from {weights} by {draw['by']}"


def size_text(size: int) -> str:
    """``812 B``, ``1.5 MB``, ``300 MB``: three digits at most."""
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= one:
            return f"{size / one:.3g} {unit}" if size < 999.5 * one else f"{size / one:,.0f} {unit}"
    return f"{size} B"


def shortened(text: str, most: int) -> str:
    """The text; if it is longer than ``most`` characters, its beginning and ``...``."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def json_text(value: Any, indent: int | None = None) -> str:
    """A value as JSON for people: ``{"topic": "a"}``; bytes by their size, anything else without JSON by its repr."""
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent, default=_plain)
    except (TypeError, ValueError):
        return repr(value)


def brief(value: Any, most: int = 120) -> str:
    """A value on one line of at most ``most`` characters."""
    return shortened(_plain(value) if isinstance(value, bytes) else json_text(value), most)


def _plain(value: Any) -> str:
    return f"bytes, {size_text(len(value))}" if isinstance(value, bytes) else repr(value)


def _width(text: str) -> int:
    if text.isascii() or (text := _STYLING.sub("", text)).isascii():
        return len(text)
    from rich.cells import cell_len  # 25 ms, for tables with wide characters alone

    return cell_len(text)


def columns(rows: Sequence[Sequence[str]], head: Sequence[str], room: int | None = None) -> list[str]:
    """A table: left-aligned columns, two spaces apart, the head dimmed. Wide characters take two places.

    ``room``: the last column goes on in further lines so that no line has more characters; where less than 24 are left
    for it, it stands below its row.
    """
    if room is not None:
        rest = room - sum(max(_width(row[at]) for row in [head, *rows]) + 2 for at in range(len(head) - 1))
        if rest < 24:
            top, *lines = columns([row[:-1] for row in rows], head[:-1])
            below = [textwrap.wrap(row[-1], room, initial_indent="    ", subsequent_indent="    ") for row in rows]
            return [top, *(part for line, texts in zip(lines, below, strict=True) for part in (line, *texts))]
        parted = [(row, textwrap.wrap(row[-1], rest) or [""]) for row in rows]
        rows = [
            [*(row[:-1] if part == 0 else [""] * (len(head) - 1)), text]
            for row, texts in parted
            for part, text in enumerate(texts)
        ]
    widths = [max(_width(row[at]) for row in [head, *rows]) for at in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = (cell + " " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=True))
        return "  ".join(padded).rstrip()

    return [style(line(head), "dim"), *map(line, rows)]
