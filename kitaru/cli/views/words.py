"""Small words that several views use."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from kitaru.model.address import parse_timestamp

Style = Callable[[str, str], str]
"""(text, kind) → text. Kinds: ``add``, ``change``, ``remove``, ``warn``, ``bad``, ``good``, ``dim``, ``bold``."""


def bare(text: str, kind: str) -> str:  # noqa: ARG001 - the same shape as a style that colours
    """No colour at all."""
    return text


def count(number: int, noun: str, plural: str = "") -> str:
    """``1 flow``, ``2 flows``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {plural or noun + 's'}"


def ago(timestamp: str, now: datetime | None = None) -> str:
    """``3 min ago``; after a day and a half the date, ``2026-11-30``; ``-`` for no time."""
    if not timestamp:
        return "-"
    moment = parse_timestamp(timestamp)
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds >= 129_600:
        return moment.strftime("%Y-%m-%d")
    for size, unit, until in ((1, "s", 90), (60, "min", 5400), (3600, "h", 129_600)):
        if seconds < until:
            return f"{max(0, int(seconds / size))} {unit} ago"
    return "-"


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
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # 25 ms, for tables with wide characters alone

    return cell_len(text)


def columns(rows: Sequence[Sequence[str]], head: Sequence[str], style: Style = bare) -> list[str]:
    """A table: left-aligned columns, two spaces apart, the head dimmed. Wide characters take two places."""
    widths = [max(_width(row[at]) for row in [head, *rows]) for at in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = (cell + " " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=True))
        return "  ".join(padded).rstrip()

    return [style(line(head), "dim"), *(line(row) for row in rows)]
