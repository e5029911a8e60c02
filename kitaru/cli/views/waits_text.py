"""Waits and replays for a person at a terminal."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Any

from kitaru.cli.views.words import Style, ago, bare, columns
from kitaru.model.execution import Execution
from kitaru.model.replay import ReplayPlan
from kitaru.model.wait import Wait, told_apart

ACTIONS = {"reuse_if_same": "reuse if same", "rerun": "run", "ask": "ask again"}
"""What a replay does, where a word of its own says it better."""

WIDTH = 80
"""Characters of a line, where nothing says how many there is room for."""

LEAST_REASON = 24
"""Characters that a reason has beside its row; where there is less room it stands below."""

YES = ("y", "yes", "true")
NO = ("n", "no", "false")


def wait_lines(waits: Sequence[Wait], style: Style = bare) -> list[str]:
    """What is asked: name, id where several have that name, question, schema, notes."""
    lines = []
    for wait in waits:
        asked = f": {wait.question}" if wait.question else ""
        name = told_apart(wait, waits)
        shown = style(wait.name, "bold") + (f" ({name})" if name != wait.name else "")
        lines.append(f"  {shown}{asked}  {style('asked ' + ago(wait.opened_at), 'dim')}")
        if wait.schema:
            lines.append(f"    expects {json.dumps(wait.schema, ensure_ascii=False)}")
        if wait.refused:
            lines.append(f"    {refused_line(wait)}")
        for name, value in (wait.metadata or {}).items():
            lines.append(f"    {name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    return lines


def refused_line(wait: Wait) -> str:
    """That the last answer was put aside, whose it was, and why."""
    last = wait.refused[-1]
    again = f", as were {len(wait.refused) - 1} before" if len(wait.refused) > 1 else ""
    return f"an answer by {last.by or 'somebody'} was put aside{again}: {last.reason}"


def waiting_lines(execution: Execution, style: Style = bare) -> list[str]:
    """What an execution asks, and how to answer."""
    waits = execution.open_waits
    if not waits:
        return []
    several = len(waits) > 1
    chosen = f" --wait {told_apart(waits[0], waits)}" if several else ""
    return [
        f"{execution.exec_id} waits for {f'{len(waits)} answers' if several else 'an answer'}:",
        *wait_lines(waits, style),
        f"  answer it: kitaru executions input {execution.exec_id}{chosen} --interactive",
    ]


def prompt(wait: Wait) -> str:
    """What stands before the cursor."""
    kind = (wait.schema or {}).get("type")
    options = (wait.schema or {}).get("enum")
    if kind == "boolean":
        return f"{wait.name} [y/n]"
    if options:
        return f"{wait.name} [{'/'.join(map(str, options))}]"
    return wait.name if kind == "string" else f"{wait.name} (JSON)"


def read_typed(text: str, wait: Wait) -> Any:
    """What a person means by ``text``: y and n where a yes or no is asked, bare text where a text is, else JSON."""
    schema = wait.schema or {}
    if schema.get("type") == "boolean" and text.lower() in (*YES, *NO):
        return text.lower() in YES
    if schema.get("type") == "string" or text in schema.get("enum", ()):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def replay_rows(plan: ReplayPlan, style: Style = bare, *, width: int = WIDTH) -> list[str]:
    """What a replay does with each recorded call, and with each question; reasons are broken to fit ``width``."""
    rows = [
        [f"  {call.call_id or '-'}", call.name, ACTIONS.get(call.action, call.action), call.reason]
        for call in plan.calls
    ]
    lines = _reasoned(rows, ["  CALL", "CHECKPOINT", "REPLAY", "WHY"], style, width)
    asked = [
        [f"  {wait.wait_id}", wait.name, ACTIONS.get(wait.action, wait.action), wait.reason] for wait in plan.waits
    ]
    return [*lines, *_reasoned(asked, ["  WAIT", "NAME", "REPLAY", "WHY"], style, width)] if asked else lines


def _reasoned(rows: Sequence[Sequence[str]], head: Sequence[str], style: Style, width: int) -> list[str]:
    """A table whose last column, the reasons, goes on in further lines; below its row where it is too narrow."""
    taken = sum(max(len(row[at]) for row in [head, *rows]) + 2 for at in range(len(head) - 1))
    if width - taken < LEAST_REASON:
        lines = columns([row[:-1] for row in rows], head[:-1], style)
        broken = [[f"      {part}" for part in textwrap.wrap(row[-1], max(width - 6, LEAST_REASON))] for row in rows]
        return [lines[0], *(line for row, parts in zip(lines[1:], broken, strict=True) for line in (row, *parts))]
    whole: list[list[str]] = []
    for *cells, reason in rows:
        first, *more = textwrap.wrap(reason, width - taken) or [""]
        whole += [[*cells, first], *([*("" for _ in cells), part] for part in more)]
    return columns(whole, head, style)
