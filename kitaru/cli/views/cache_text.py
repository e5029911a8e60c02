"""What the cache did for the calls of an execution, for a person at a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kitaru.cli.views.words import Style, bare, columns

KINDS = {"hit": "good", "miss": "warn", "unknown": "dim", "off": "dim", "opaque": "warn"}


def cache_lines(reports: Sequence[Any], style: Style = bare) -> list[str]:
    """A line for each call, and how many were taken."""
    if not reports:
        return ["No checkpoint has been called yet."]
    rows = [[one.call_id, one.name, style(one.word, KINDS.get(one.word, "bold")), one.why] for one in reports]
    hits = sum(one.word == "hit" for one in reports)
    return [*columns(rows, ["CALL", "CHECKPOINT", "CACHE", "WHY"], style), "", f"{hits} of {len(reports)} taken"]
