"""Executions for a person at a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Any

from kitaru.cli.views.timeline_text import duration, timeline
from kitaru.cli.views.waits_text import waiting_lines
from kitaru.cli.views.words import Style, ago, bare, columns, count, seconds_between, shortened, took
from kitaru.model.event import Failure, Value
from kitaru.model.execution import Execution

KINDS = {"completed": "good", "failed": "bad", "lost": "bad", "cancelled": "warn", "waiting": "warn"}

SHOWN_ATTEMPTS = 10
TRACE_LINES = 8
LONGEST_LINE = 160
LONGEST_MESSAGE = 500
"""Characters of a failure's message; what is cut off is in ``-o json`` and in the page."""

NARROWEST_FLOW = 12

Read = Callable[[Value | None], Any]
"""A stored value → plain data."""


def execution_rows(
    executions: Sequence[Execution],
    style: Style = bare,
    *,
    width: int | None = None,
    answered: Collection[str] = (),
) -> list[str]:
    """A table of executions. ``width``: the names of flows are cut so that it fits; None cuts nothing. ``answered``:
    ids of those that wait for nothing but to be resumed.
    """
    names = [one.flow_name for one in executions]
    rows = [
        [
            one.exec_id,
            _version(one, usual="default"),
            f"{one.status} (answered)" if one.exec_id in answered else one.status,
            ago(one.created_at),
            took(one.started_at or one.created_at, one.ended_at),
        ]
        for one in executions
    ]
    head = ["EXECUTION", "VERSION", "STATUS", "STARTED", "TOOK"]
    if width is not None:
        others = sum(max(len(row[at]) for row in [head, *rows]) + 2 for at in range(len(head)))
        names = [shortened(name, max(width - others, NARROWEST_FLOW)) for name in names]
    table = [[row[0], name, *row[1:]] for row, name in zip(rows, names, strict=True)]
    return columns(table, [head[0], "FLOW", *head[1:]], style)


def none_found(*, flow: str | None, status: str | None) -> list[str]:
    """What a list says that has nothing in it: nobody has run anything yet, or nothing fits the filter."""
    asked = [f"--{name} {value}" for name, value in (("flow", flow), ("status", status)) if value is not None]
    if not asked:
        return ["No executions yet. Start one: kitaru invoke FLOW"]
    return [f"No execution matches {' '.join(asked)}. All of them: kitaru executions list"]


def execution_lines(
    execution: Execution,
    read: Read,
    style: Style = bare,
    *,
    width: int = 100,
    plain: bool = False,
    alone: bool = False,
    silent: float | None = None,
) -> list[str]:
    """One execution with its checkpoints, its result or its failure, and what to type next.

    ``alone``: its runner is gone, though it may still wait for an answer. ``silent``: the seconds for which its runner,
    which is late, gave no sign of life.
    """
    status = style(execution.status, KINDS.get(execution.status, "bold"))
    lines = [
        f"{style(execution.exec_id, 'bold')}  {status}",
        f"  flow      {execution.flow_name} {_version(execution)}",
        *_drawn(execution),
        f"  target    {execution.target}",
        f"  stack     {execution.stack_name}",
        f"  started   {ago(execution.created_at)} by {execution.actor or 'unknown'}{_length(execution)}",
    ]
    if execution.original_exec_id:
        lines.append(f"  replays   {execution.original_exec_id}")
    if execution.unused_overrides:
        lines.append(f"  unused    {unused_line(execution)}")
    room = max(width - 12, 40)
    lines.append(f"  inputs    {_stored(execution.inputs, read, room)}")
    if execution.metadata:
        lines.append(f"  metadata  {brief(execution.metadata, room)}")
    lines += under_way_lines(execution, silent, style)
    lines += attempt_lines(execution, style, room)
    picture = timeline(execution, style, width=width, plain=plain, alone=alone)
    if picture:
        lines += ["", *picture]
    if execution.status == "completed":
        lines += ["", f"  result    {_stored(execution.output, read, 400)}"]
    if execution.failure is not None and execution.status == "failed":
        lines += ["", *failure_lines(execution, style)]
    if execution.status == "cancelled":
        lines += ["", style(f"  {cancelled_line(execution)}", "warn")]
    if execution.status == "waiting" and execution.open_waits:
        lines += ["", *(f"  {line}" for line in waiting_lines(execution, style))]
        if alone:
            lines.append("    its runner is gone; with the answer it goes on from what finished")
    following = next_lines(execution)
    return [*lines, "", *(style(f"  {line}", "dim") for line in following)] if following else lines


def under_way_lines(execution: Execution, silent: float | None, style: Style = bare) -> list[str]:
    """What a running execution is at, and for how long nothing was recorded: a living process may yet hang."""
    if execution.status != "running":
        return []
    lines = []
    now = datetime.now(UTC)
    running = [call for call in execution.checkpoints if call.status == "running"]
    if running:
        shown = [f"in {call.name} for {duration(seconds_between(call.started_at, now))}" for call in running[:3]]
        more = len(running) - len(shown)
        lines.append(f"  now       {', '.join(shown)}{f' and {more} more' if more else ''}")
    else:
        times = [one for call in execution.checkpoints for one in (call.started_at, call.ended_at) if one]
        last = max([execution.runner_since or execution.created_at, *times])
        lines.append(f"  now       in the flow's body; nothing was recorded for {duration(seconds_between(last, now))}")
    if silent is not None:
        note = "its process lives; a call in C may hold Python's lock"
        lines.append(style(f"            no sign of life for {duration(silent)} ({note})", "warn"))
    return lines


def next_lines(execution: Execution) -> list[str]:
    """What to type next; nothing where all is said."""
    command, exec_id = "kitaru executions", execution.exec_id
    if execution.status == "failed":
        printed, again = f"what it printed: {command} logs {exec_id}", f"go on with it:   {command} retry {exec_id}"
        diverged = execution.failure is not None and execution.failure.type.endswith("KitaruDivergenceError")
        return [printed, f"{again}  (once the code is back)" if diverged else again]
    if execution.status == "lost":
        return [
            "its runner is gone; what finished is kept",
            f"what it printed: {command} logs {exec_id}",
            f"go on with it:   {command} resume {exec_id}",
        ]
    if execution.status == "waiting" and not execution.open_waits:
        return [f"answered; go on with it: {command} resume {exec_id}"]
    if execution.status in ("pending", "running"):
        return [f"follow it: {command} logs {exec_id} --follow", f"end it:    {command} cancel {exec_id}"]
    stopped = [call for call in execution.checkpoints if call.status == "cancelled" and not call.superseded]
    if execution.status == "cancelled" and stopped:
        first = min(stopped, key=lambda call: call.started_at)
        return [f"run the rest anew: {command} replay {exec_id} --from {first.name}"]
    return []


def unused_line(execution: Execution) -> str:
    """That what was given to a replay had no effect."""
    names = ", ".join(execution.unused_overrides)
    return f"{names}: given, and nothing in this execution asked for it"


def cancelled_line(execution: Execution) -> str:
    """That it was cancelled, by whom and when."""
    by = f" by {execution.cancelled_by}" if execution.cancelled_by else ""
    return f"cancelled{by} {ago(execution.ended_at or '')}; a cancelled execution does not go on"


def attempt_lines(execution: Execution, style: Style = bare, width: int = 100) -> list[str]:
    """The attempts at the flow's body, where there was more than one."""
    attempts = execution.attempts
    if len(attempts) < 2:
        return []
    shown = attempts[-SHOWN_ATTEMPTS:]
    left = len(attempts) - len(shown)
    said = [f"  attempts  {len(attempts)}" + (f", the last {len(shown)}:" if left else "")]
    times = [took(one.started_at, one.ended_at) for one in shown]
    longest = max(map(len, times))
    digits = len(str(shown[-1].number))
    for one, time in zip(shown, times, strict=True):
        status = one.status if one.status != "running" or (one is attempts[-1] and not execution.ended) else "cut off"
        why = f"  {first_line(one.failure)}" if one.failure else ""
        text = f"{one.number:>{digits}}  {style(f'{status:<9}', KINDS.get(status, 'bold'))}  {time:>{longest}}"
        said.append(f"    {text}{shortened(why, max(width - 20 - longest, 20))}".rstrip())
    return said


def _length(execution: Execution) -> str:
    began = execution.started_at or execution.created_at
    if execution.ended_at:
        return f", took {took(began, execution.ended_at)}"
    if execution.status in ("running", "waiting"):
        return f", {duration(seconds_between(began, datetime.now(UTC)))} so far"
    return ""


def _version(execution: Execution, *, usual: str = "") -> str:
    """``source``, ``v3``, ``v3 (canary)``; the route called ``usual`` goes without saying."""
    if execution.version is None:
        return "source"
    return f"v{execution.version}" + (f" ({execution.tag})" if execution.tag and execution.tag != usual else "")


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
        return f"bytes, {size_text(len(value))}"
    try:
        return json.dumps(value, ensure_ascii=False, indent=2, default=repr)
    except (TypeError, ValueError):
        return repr(value)


def first_line(failure: Failure) -> str:
    """``ConnectionError: no answer``: the failure's type without its module, and the first line of its message."""
    kind = failure.type.rpartition(":")[2]
    message = failure.message.strip().partition("\n")[0]
    return f"{kind}: {message}" if message else kind


def failure_lines(execution: Execution, style: Style = bare) -> list[str]:
    """Why an execution failed: the cause, and the end of its traceback."""
    failure = execution.failure
    if failure is None:
        return []
    kind = failure.type.rpartition(":")[2]
    message = f"{kind}: {failure.message}" if failure.message else kind
    said = (
        message
        if len(message) <= LONGEST_MESSAGE
        else (f"{message[:LONGEST_MESSAGE]}... {count(len(message) - LONGEST_MESSAGE, 'more character')}")
    )
    first, *rest = said.splitlines()
    lines = [style(f"  {first}", "bad"), *(style(f"  {line}", "bad") for line in rest)]
    trace = failure.traceback.rstrip()
    for ending in (f"{failure.type.replace(':', '.')}: {failure.message}", message):
        # It stands above already; what may follow it here are notes and hints.
        before, found, notes = f"\n{trace}\n".rpartition(f"\n{ending.rstrip()}\n")
        trace = f"{before}\n{notes}".strip("\n") if found else trace
    shown = [line for line in trace.splitlines() if line.strip(" ^~")][-TRACE_LINES:]
    return lines + [style(f"    {shortened(line, LONGEST_LINE)}", "dim") for line in shown]


def _stored(value: Value | None, read: Read, most: int) -> str:
    """A stored value on one line; bytes are not read for that."""
    if value is not None and value.format == "bytes":
        return f"bytes, {size_text(value.size)}"
    return brief(read(value), most)


def size_text(size: int) -> str:
    """``300 MB``; of three digits at most, but for bytes."""
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= one:
            return f"{size / one:.3g} {unit}" if size < 999.5 * one else f"{size / one:,.0f} {unit}"
    return f"{size} B"


def _bare(value: Any) -> str:
    return f"bytes, {size_text(len(value))}" if isinstance(value, bytes) else repr(value)


def brief(value: Any, most: int = 120) -> str:
    """A value on one line as JSON, cut where it is long."""
    if isinstance(value, bytes):
        return _bare(value)
    try:
        text = json.dumps(value, ensure_ascii=False, default=_bare)
    except (TypeError, ValueError):
        text = repr(value)
    return shortened(text, most)
