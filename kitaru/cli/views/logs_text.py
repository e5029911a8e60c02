"""Runtime logs for a person at a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from kitaru.cli.views.words import Style, bare
from kitaru.model.execution import Execution
from kitaru.model.log_line import LogLine


def log_line(line: LogLine, *, verbose: bool = False) -> str:
    """One line, as it was printed; ``verbose`` says when (UTC), on which stream, in which call and attempt."""
    text = f"{line.level} {line.text}" if line.level else line.text
    if not verbose:
        return text
    return f"{line.at[:23]}Z  {line.stream:<6}  {_place(line)}  {text}"


def _place(line: LogLine) -> str:
    if not line.checkpoint:
        return "flow"
    return f"{line.checkpoint}, call {line.call}, attempt {line.attempt or 1}:"


def silence(execution: Execution, checkpoint: str | None) -> str:
    """What to say where nothing was printed: who printed nothing, and where else to look."""
    if checkpoint is None:
        return f"{execution.exec_id} printed nothing" + ("" if execution.ended else " so far")
    calls = [call for call in execution.checkpoints if checkpoint in (call.name, call.call_id)]
    origins = [call.cached_from.partition("/")[0] for call in calls if call.cached_from]
    if calls and len(origins) == len(calls):
        where = f"kitaru executions logs {origins[0]} --checkpoint {calls[0].name}"
        return f"{checkpoint} was not run here: its result was there already. What it printed then: {where}"
    return f"{checkpoint} printed nothing" + ("" if execution.ended else " so far")


def grouped(lines: Sequence[LogLine], style: Style = bare, *, verbose: bool = False) -> list[str]:
    """One block a checkpoint call, in the order in which they first printed something."""
    blocks: dict[str, list[str]] = {}
    for line in lines:
        head = f"{line.checkpoint} ({line.call})" if line.checkpoint else "flow"
        blocks.setdefault(head, []).append(f"  {log_line(line, verbose=verbose)}")
    return [text for head, block in blocks.items() for text in (style(head, "bold"), *block)]
