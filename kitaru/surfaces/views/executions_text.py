"""Executions for a person at a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from kitaru.model.event import Value
from kitaru.model.execution import Execution
from kitaru.surfaces.views.timeline_text import timeline
from kitaru.surfaces.views.waits_text import waiting_lines
from kitaru.surfaces.views.words import Style, ago, bare, columns, took

KINDS = {"completed": "good", "failed": "bad", "lost": "bad", "cancelled": "warn", "waiting": "warn"}

Read = Callable[[Value | None], Any]
"""A stored value → plain data."""


def execution_rows(executions: Sequence[Execution], style: Style = bare) -> list[str]:
    """A table of executions."""
    rows = [
        [
            one.exec_id,
            one.flow_name,
            _version(one),
            one.status,
            ago(one.created_at),
            took(one.started_at or one.created_at, one.ended_at),
        ]
        for one in executions
    ]
    return columns(rows, ["EXECUTION", "FLOW", "VERSION", "STATUS", "STARTED", "TOOK"], style)


def execution_lines(
    execution: Execution, read: Read, style: Style = bare, *, width: int = 100, plain: bool = False
) -> list[str]:
    """One execution with its checkpoints, its result or its failure, and what to type next."""
    status = style(execution.status, KINDS.get(execution.status, "bold"))
    lines = [
        f"{style(execution.exec_id, 'bold')}  {status}",
        f"  flow      {execution.flow_name} {_version(execution)}",
        *_drawn(execution),
        f"  target    {execution.target}",
        f"  stack     {execution.stack_name}",
        f"  started   {ago(execution.created_at)} by {execution.actor or 'unknown'}, "
        f"took {took(execution.started_at or execution.created_at, execution.ended_at)}",
        f"  inputs    {brief(read(execution.inputs))}",
    ]
    if execution.metadata:
        lines.append(f"  metadata  {brief(execution.metadata)}")
    picture = timeline(execution, style, width=width, plain=plain)
    if picture:
        lines += ["", *picture]
    if execution.status == "completed":
        lines += ["", f"  result    {brief(read(execution.output), 400)}"]
    if execution.failure is not None and execution.status == "failed":
        lines += ["", *failure_lines(execution, style)]
    if execution.status == "waiting":
        lines += ["", *(f"  {line}" for line in waiting_lines(execution, style))]
    if execution.status in ("failed", "lost"):
        lines += ["", style(f"  go on with it: kitaru executions resume {execution.exec_id}", "dim")]
    return lines


def _version(execution: Execution) -> str:
    if execution.version is None:
        return "source"
    return f"v{execution.version}" + (f" ({execution.tag})" if execution.tag else "")


def _drawn(execution: Execution) -> list[str]:
    """Which version a divided route gave, and by what."""
    if execution.draw is None:
        return []
    weights = ", ".join(f"v{version} {weight} %" for version, weight in execution.draw["weights"].items())
    route = f"{execution.tag}: v{execution.version} (drawn from {weights} by {execution.draw['by']})"
    return [f"  route     {route}"]


def result_text(value: Any) -> str:
    """A result as it is best read: text as text, all else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    try:
        return json.dumps(value, ensure_ascii=False, indent=2, default=repr)
    except (TypeError, ValueError):
        return repr(value)


def failure_lines(execution: Execution, style: Style = bare) -> list[str]:
    """Why an execution failed: the cause, and the end of its traceback."""
    failure = execution.failure
    if failure is None:
        return []
    lines = [style(f"  {failure.type}: {failure.message}", "bad")]
    trace = failure.traceback.rstrip().splitlines()
    return lines + [style(f"    {line}", "dim") for line in trace[-8:]]


def brief(value: Any, most: int = 120) -> str:
    """A value on one line, cut where it is long."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
