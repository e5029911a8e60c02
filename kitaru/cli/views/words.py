"""Small words that several views use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from kitaru.model.address import parse_timestamp

Style = Callable[[str, str], str]
"""(text, what it is: ``add``, ``change``, ``remove``, ``warn``, ``bad``, ``good``, ``dim`` or ``bold``) → text."""


def bare(text: str, kind: str) -> str:  # noqa: ARG001 - the same shape as a style that colours
    """No colour at all."""
    return text


def count(number: int, noun: str, plural: str = "") -> str:
    """``1 flow``, ``2 flows``."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"


def ago(timestamp: str, now: datetime | None = None) -> str:
    """``3 min ago``; the day itself where it is long ago; ``-`` for no time."""
    if not timestamp:
        return "-"
    moment = parse_timestamp(timestamp)
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds < 90:
        return f"{max(0, int(seconds))} s ago"
    if seconds < 5400:
        return f"{int(seconds / 60)} min ago"
    if seconds < 129_600:
        return f"{int(seconds / 3600)} h ago"
    return moment.strftime("%Y-%m-%d")


def shortened(text: str, most: int) -> str:
    """The text, cut to ``most`` characters where it is longer, three dots at its end then."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def seconds_between(timestamp: str, moment: datetime) -> float:
    """From a recorded time to a moment; never negative."""
    return max((moment - parse_timestamp(timestamp)).total_seconds(), 0.0)


def took(started: str | None, ended: str | None) -> str:
    """``12 ms``, ``3.4 s``, ``2 min 5 s``; ``-`` where one end is open."""
    if not started or not ended:
        return "-"
    seconds = (parse_timestamp(ended) - parse_timestamp(started)).total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def columns(rows: Sequence[Sequence[str]], head: Sequence[str], style: Style = bare) -> list[str]:
    """A table: left-aligned columns, two spaces apart, the head dimmed."""
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    return [style(line(head), "dim"), *(line(row) for row in rows)]
