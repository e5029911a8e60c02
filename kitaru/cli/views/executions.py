"""Executions, their waits, logs, cache and replays, for a person at a terminal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

from kitaru.cli.views.timeline import Read, timeline
from kitaru.cli.views.words import (
    ago,
    brief,
    columns,
    count,
    drawn,
    duration,
    first_line,
    json_text,
    seconds_between,
    shortened,
    size_text,
    style,
    took,
)
from kitaru.model.event import Value
from kitaru.model.execution import Execution, LogLine, ReplayPlan, Wait, told_apart

CACHE_STYLES = {"hit": "good", "miss": "warn", "unknown": "dim", "off": "dim", "opaque": "warn"}
STATUS_STYLES = {"completed": "good", "failed": "bad", "lost": "bad", "cancelled": "warn", "waiting": "warn"}
ACTIONS = {"reuse_if_same": "reuse if same", "rerun": "run", "ask": "ask again"}
LAST_CALLED = 2
SHOWN_ATTEMPTS = 10
TRACE_LINES = 8
LONGEST_LINE = 160
LONGEST_MESSAGE = 500
NARROWEST_FLOW = 12


def cache_lines(reports: Sequence[Any]) -> list[str]:
    """A line for each call, and how many were taken."""
    if not reports:
        return ["No checkpoint has been called yet."]
    rows = [[one.call_id, one.name, style(one.word, CACHE_STYLES.get(one.word, "bold")), one.why] for one in reports]
    hits = sum(one.word == "hit" for one in reports)
    return [*columns(rows, ["CALL", "CHECKPOINT", "CACHE", "WHY"]), "", f"{hits} of {len(reports)} taken"]


def progress_line(execution: Execution, now: datetime | None = None, *, width: int = 80) -> str:
    """Finished calls of those that began, in at most ``width`` characters.

    Example: ``  fetch 400 of 400, outline 12 of 15 · 3 running · 4 s``.
    """
    calls = execution.checkpoints
    names = list(dict.fromkeys(call.name for call in reversed(calls)))[:LAST_CALLED][::-1]
    begun = Counter(call.name for call in calls)
    done = Counter(call.name for call in calls if call.status == "completed")
    parts = [", ".join(f"{name} {done[name]:,} of {begun[name]:,}" for name in names)]
    if len(begun) > len(names):
        parts.append(f"{sum(done.values()):,} done in all")
    statuses = Counter(call.status for call in calls)
    parts += [f"{statuses[status]:,} {status}" for status in ("running", "failed") if statuses[status]]
    parts += [f"waits for {wait.name}" for wait in execution.open_waits[:1]]
    seconds = seconds_between(execution.started_at or execution.created_at, now or datetime.now(UTC))
    parts.append(duration(seconds) if seconds >= 60 else f"{seconds:.0f} s")
    return shortened(f"  {' · '.join(part for part in parts if part)}", width)


def log_line(line: LogLine, *, verbose: bool = False) -> str:
    """One line as it was printed; ``verbose`` adds its time (UTC), stream, call and attempt."""
    text = f"{line.level} {line.text}" if line.level else line.text
    if not verbose:
        return text
    place = f"{line.checkpoint}, call {line.call}, attempt {line.attempt or 1}:" if line.checkpoint else "flow"
    return f"{line.at[:23]}Z  {line.stream:<6}  {place}  {text}"


def silence(execution: Execution, checkpoint: str | None) -> str:
    """The sentence for an empty log, and the command that shows the output elsewhere."""
    calls = [call for call in execution.checkpoints if checkpoint in (call.name, call.call_id)]
    origins = [call.cached_from.partition("/")[0] for call in calls if call.cached_from]
    if calls and len(origins) == len(calls):
        command = f"kitaru executions logs {origins[0]} --checkpoint {calls[0].name}"
        return f"{checkpoint} was not run here: its result was there already. What it printed then: {command}"
    return f"{checkpoint or execution.exec_id} printed nothing" + ("" if execution.ended else " so far")


def grouped(lines: Sequence[LogLine], *, verbose: bool = False) -> list[str]:
    """One block a checkpoint call, in the order in which they first printed something."""
    blocks: dict[str, list[str]] = {}
    for line in lines:
        head = f"{line.checkpoint} ({line.call})" if line.checkpoint else "flow"
        blocks.setdefault(head, []).append(f"  {log_line(line, verbose=verbose)}")
    return [text for head, block in blocks.items() for text in (style(head, "bold"), *block)]


def wait_lines(waits: Sequence[Wait]) -> list[str]:
    """Open questions: name, id if several share the name, question, schema, metadata."""
    lines = []
    for wait in waits:
        asked = f": {wait.question}" if wait.question else ""
        name = told_apart(wait, waits)
        shown = style(wait.name, "bold") + (f" ({name})" if name != wait.name else "")
        lines.append(f"  {shown}{asked}  {style('asked ' + ago(wait.opened_at), 'dim')}")
        if wait.schema:
            lines.append(f"    expects {json.dumps(wait.schema, ensure_ascii=False)}")
        if wait.refused:
            last = wait.refused[-1]
            again = f", as were {len(wait.refused) - 1} before" if len(wait.refused) > 1 else ""
            lines.append(f"    an answer by {last.by or 'somebody'} was put aside{again}: {last.reason}")
        for name, value in (wait.metadata or {}).items():
            lines.append(f"    {name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    return lines


def waiting_lines(execution: Execution) -> list[str]:
    """The open questions of an execution, and the command that answers."""
    waits = execution.open_waits
    if not waits:
        return []
    answers, chosen = "an answer", ""
    if len(waits) > 1:
        answers, chosen = f"{len(waits)} answers", f" --wait {told_apart(waits[0], waits)}"
    return [
        f"{execution.exec_id} waits for {answers}:",
        *wait_lines(waits),
        f"  answer it: kitaru executions input {execution.exec_id}{chosen} --interactive",
    ]


def prompt(wait: Wait) -> str:
    """The prompt: ``approve [y/n]``, ``size [small/large]``, ``note``, ``plan (JSON)``."""
    kind = (wait.schema or {}).get("type")
    options = (wait.schema or {}).get("enum")
    if kind == "boolean":
        return f"{wait.name} [y/n]"
    if options:
        return f"{wait.name} [{'/'.join(map(str, options))}]"
    return wait.name if kind == "string" else f"{wait.name} (JSON)"


def read_typed(text: str, wait: Wait) -> Any:
    """A typed answer as a value: y and n for a boolean, bare text for a string, JSON otherwise."""
    schema = wait.schema or {}
    if schema.get("type") == "boolean" and text.lower() in ("y", "yes", "n", "no"):
        return text.lower() in ("y", "yes")
    if schema.get("type") == "string" or text in schema.get("enum", ()):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def replay_rows(plan: ReplayPlan, *, width: int = 80) -> list[str]:
    """The dry run: the fate of each recorded call and question; reasons are broken to fit ``width``."""
    calls = [[f"  {one.call_id or '-'}", one.name, _action(one), one.reason] for one in plan.calls]
    waits = [[f"  {one.wait_id}", one.name, _action(one), one.reason] for one in plan.waits]
    lines = columns(calls, ["  CALL", "CHECKPOINT", "REPLAY", "WHY"], width)
    return [*lines, *columns(waits, ["  WAIT", "NAME", "REPLAY", "WHY"], width)] if waits else lines


def _action(planned: Any) -> str:
    return ACTIONS.get(planned.action, str(planned.action))


def execution_rows(
    executions: Sequence[Execution], filters: Sequence[str], *, width: int | None = None, answered: Collection[str] = ()
) -> list[str]:
    """A table of executions. ``width`` cuts the names of flows; None cuts nothing.

    ``filters`` are options that leave out all there are, ``("--flow agent",)``; ``answered``: ids of those that wait
    only to be resumed.
    """
    if filters:
        return [f"No execution matches {' '.join(filters)}. All of them: kitaru executions list"]
    if not executions:
        return ["No executions yet. Start one: kitaru invoke FLOW"]
    head = ["EXECUTION", "FLOW", "VERSION", "STATUS", "STARTED", "TOOK"]

    def cells(one: Execution, most: int | None) -> list[str]:
        return [
            one.exec_id,
            one.flow_name if most is None else shortened(one.flow_name, most),
            _version(one, usual="default"),
            f"{one.status} (answered)" if one.exec_id in answered else one.status,
            ago(one.created_at),
            took(one.started_at or one.created_at, one.ended_at),
        ]

    most = None
    if width is not None:
        others = [head, *(cells(one, 0) for one in executions)]
        taken = sum(max(len(row[at]) for row in others) + 2 for at in range(len(head)) if at != 1)
        most = max(width - taken, NARROWEST_FLOW)
    return columns([cells(one, most) for one in executions], head)


def execution_lines(
    execution: Execution,
    read: Read,
    *,
    width: int = 100,
    plain: bool = False,
    alone: bool = False,
    silent: float | None = None,
) -> list[str]:
    """One execution with its checkpoints, its result or failure, and the next command.

    ``alone``: its runner is gone. ``silent``: seconds since the runner's last sign of life, if that is late.
    """
    status = execution.status
    room = max(width - 12, 40)
    began, length = execution.started_at or execution.created_at, ""
    if execution.ended_at:
        length = f", took {took(began, execution.ended_at)}"
    elif status in ("running", "waiting"):
        length = f", {duration(seconds_between(began, datetime.now(UTC)))} so far"
    facts = {
        "flow": f"{execution.flow_name} {_version(execution)}",
        "route": f"{execution.tag}: v{execution.version} ({drawn(execution.draw)})" if execution.draw else "",
        "target": execution.target,
        "stack": execution.stack_name,
        "started": f"{ago(execution.created_at)} by {execution.actor or 'unknown'}{length}",
        "replays": execution.original_exec_id,
        "unused": unused_line(execution) if execution.unused_overrides else "",
        "inputs": _stored(execution.inputs, read, room),
        "metadata": brief(execution.metadata, room) if execution.metadata else "",
    }
    lines = [f"{style(execution.exec_id, 'bold')}  {style(status, STATUS_STYLES.get(status, 'bold'))}"]
    lines += [f"  {name:<9} {value}" for name, value in facts.items() if value]
    lines += [*under_way_lines(execution, silent), *attempt_lines(execution, room)]
    if picture := timeline(execution, width=width, plain=plain, alone=alone):
        lines += ["", *picture]
    if status == "completed":
        lines += ["", f"  result    {_stored(execution.output, read, 400)}"]
    if execution.failure is not None and status in ("failed", "lost"):
        lines += ["", *failure_lines(execution)]
    if status == "cancelled":
        lines += ["", style(f"  {cancelled_line(execution)}", "warn")]
    if status == "waiting" and execution.open_waits:
        lines += ["", *(f"  {line}" for line in waiting_lines(execution))]
        lines += ["    its runner is gone; with the answer it goes on from what finished"] if alone else []
    following = next_lines(execution)
    return [*lines, "", *(style(f"  {line}", "dim") for line in following)] if following else lines


def under_way_lines(execution: Execution, silent: float | None) -> list[str]:
    """The calls under way, or the time since the last record: a living process may hang."""
    if execution.status != "running":
        return []
    now = datetime.now(UTC)
    running = [call for call in execution.checkpoints if call.status == "running"]
    if running:
        shown = [f"in {call.name} for {duration(seconds_between(call.started_at, now))}" for call in running[:3]]
        more = f" and {len(running) - len(shown)} more" if len(running) > len(shown) else ""
        lines = [f"  now       {', '.join(shown)}{more}"]
    else:
        times = [one for call in execution.checkpoints for one in (call.started_at, call.ended_at) if one]
        last = max([execution.runner_since or execution.created_at, *times])
        lines = [f"  now       in the flow's body; nothing was recorded for {duration(seconds_between(last, now))}"]
    if silent is not None:
        note = "its process lives; a call in C may hold Python's lock"
        lines.append(style(f"            no sign of life for {duration(silent)} ({note})", "warn"))
    return lines


FOLLOW = ("follow it: kitaru executions logs {0} --follow", "end it:    kitaru executions cancel {0}")
PRINTED = "what it printed: kitaru executions logs {0}"
NEXT = {
    "pending": FOLLOW,
    "running": FOLLOW,
    "failed": (PRINTED, "go on with it:   kitaru executions retry {0}"),
    "lost": ("its runner is gone; what finished is kept", PRINTED, "go on with it:   kitaru executions resume {0}"),
}


def next_lines(execution: Execution) -> list[str]:
    """The next commands; none if nothing is left to do."""
    lines = [line.format(execution.exec_id) for line in NEXT.get(execution.status, ())]
    if execution.status == "failed" and execution.failure and execution.failure.type.endswith("KitaruDivergenceError"):
        lines[-1] += "  (once the code is back)"
    if execution.status == "waiting" and not execution.open_waits:
        lines = [f"answered; go on with it: kitaru executions resume {execution.exec_id}"]
    stopped = [call for call in execution.checkpoints if call.status == "cancelled"]
    if execution.status == "cancelled" and stopped:
        first = min(stopped, key=lambda call: call.started_at)
        lines = [f"run the rest anew: kitaru executions replay {execution.exec_id} --from {first.name}"]
    return lines


def unused_line(execution: Execution) -> str:
    """Overrides of a replay that had no effect."""
    names = ", ".join(execution.unused_overrides)
    return f"{names}: given, and nothing in this execution asked for it"


def cancelled_line(execution: Execution) -> str:
    """By whom it was cancelled, and the time."""
    by = f" by {execution.cancelled_by}" if execution.cancelled_by else ""
    return f"cancelled{by} {ago(execution.ended_at or '')}; a cancelled execution does not go on"


def attempt_lines(execution: Execution, width: int = 100) -> list[str]:
    """The attempts at the flow's body, if there were several."""
    attempts = execution.attempts
    if len(attempts) < 2:
        return []
    shown = attempts[-SHOWN_ATTEMPTS:]
    lines = [f"  attempts  {len(attempts)}" + (f", the last {len(shown)}:" if len(attempts) > len(shown) else "")]
    times = [took(one.started_at, one.ended_at) for one in shown]
    longest, digits = max(map(len, times)), len(str(shown[-1].number))
    for one, time in zip(shown, times, strict=True):
        under_way = one is attempts[-1] and not execution.ended
        status = "cut off" if one.status == "running" and not under_way else one.status
        why = shortened(f"  {first_line(one.failure)}", max(width - 20 - longest, 20)) if one.failure else ""
        coloured = style(f"{status:<9}", STATUS_STYLES.get(status, "bold"))
        lines.append(f"    {one.number:>{digits}}  {coloured}  {time:>{longest}}{why}".rstrip())
    return lines


def _version(execution: Execution, *, usual: str = "") -> str:
    """``source``, ``v3``, ``v3 (canary)``; the route called ``usual`` goes without saying."""
    if execution.version is None:
        return "source"
    return f"v{execution.version}" + (f" ({execution.tag})" if execution.tag and execution.tag != usual else "")


def result_text(value: Any) -> str:
    """A result for people: text as text, anything else as JSON."""
    if isinstance(value, bytes):
        return brief(value)
    return value if isinstance(value, str) else json_text(value, indent=2)


def failure_lines(execution: Execution) -> list[str]:
    """The cause of a failure, and the end of its traceback."""
    failure = execution.failure
    if failure is None:
        return []
    kind = failure.type.rpartition(":")[2]
    message = f"{kind}: {failure.message}" if failure.message else kind
    more = count(len(message) - LONGEST_MESSAGE, "more character")
    shown = message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}... {more}"
    trace = failure.traceback.rstrip()
    for ending in (f"{failure.type.replace(':', '.')}: {failure.message}", message):
        # The message stands above already; notes and hints may follow it here.
        before, found, notes = f"\n{trace}\n".rpartition(f"\n{ending.rstrip()}\n")
        trace = f"{before}\n{notes}".strip("\n") if found else trace
    last = [line for line in trace.splitlines() if line.strip(" ^~")][-TRACE_LINES:]
    return [
        *(style(f"  {line}", "bad") for line in shown.splitlines()),
        *(style(f"    {shortened(line, LONGEST_LINE)}", "dim") for line in last),
    ]


def _stored(value: Value | None, read: Read, most: int) -> str:
    """A stored value on one line; bytes are not read for that."""
    if value is not None and value.format == "bytes":
        return f"bytes, {size_text(value.size)}"
    return brief(read(value), most)
