"""Runtime logs for a person at a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from kitaru.model.log_line import LogLine
from kitaru.surfaces.views.words import Style, bare


def log_line(line: LogLine, *, verbose: bool = False) -> str:
    """One line, as it was printed; ``verbose`` says when, where and in which checkpoint."""
    text = f"{line.level} {line.text}" if line.level and line.stream == "logging" else line.text
    if not verbose:
        return text
    return f"{line.at[11:23]} {line.stream:<7} {line.checkpoint or 'flow'}: {text}"


def grouped(lines: Sequence[LogLine], style: Style = bare) -> list[str]:
    """One block a checkpoint call, in the order in which they first printed something."""
    blocks: dict[str, list[str]] = {}
    for line in lines:
        head = f"{line.checkpoint} ({line.call})" if line.checkpoint else "flow"
        blocks.setdefault(head, []).append(f"  {log_line(line)}")
    return [text for head, block in blocks.items() for text in (style(head, "bold"), *block)]
