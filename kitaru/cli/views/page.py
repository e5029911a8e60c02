"""An execution as one page that needs nothing else: no server, no network, no other file."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, StrictUndefined

from kitaru._version import __version__
from kitaru.cli.views.timeline import NOTES, PASSED_BY, SUPERSEDED, Line, Scale, draw, duration
from kitaru.cli.views.words import took
from kitaru.model.event import Value
from kitaru.model.execution import Artifact, CheckpointCall, Execution, LogLine, Wait

SHOWN_TEXT = 6_000
"""Characters of one value that are shown."""

SHOWN_LINES = 300
"""Lines of output of one call that are shown: the last ones."""

SHOWN_ROWS = 200
"""Calls that are shown at first, and of those that are looked for; a click shows all."""

Read = Callable[[Value | None], Any]


def execution_page(
    execution: Execution,
    *,
    template: str,
    read: Read,
    logs: Iterable[LogLine] = (),
    artifacts: Sequence[Artifact] = (),
    now: datetime | None = None,
    alone: bool = False,
) -> str:
    """The page as HTML. ``template`` is the text of ``execution.html.j2``; ``read``: a stored value → plain data.

    ``alone``: its runner is gone. Values that are stored as objects of their own are named, not shown: a page must stay
    small.
    """
    now = now or datetime.now(UTC)
    lines, length = draw(execution, now, alone=alone)
    scale = Scale(lines, length)
    printed = _by_call(logs)
    saved: dict[str | None, list[dict[str, str]]] = {}
    for one in artifacts:
        saved.setdefault(one.call, []).append(
            {"artifact_id": one.artifact_id, "kind": one.kind, "size": _bytes(one.value.size)}
        )
    rows = _told_apart([_row(line, scale, read, printed, saved) for line in lines], lines)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        head={
            "flow": execution.flow_name,
            "status": execution.status,
            "exec_id": execution.exec_id,
            "release": __version__,
            "drawn": now.strftime("%Y-%m-%d %H:%M UTC"),
        },
        facts=_facts(execution, length),
        failure=execution.failure.to_json() | {"traceback": execution.failure.traceback} if execution.failure else None,
        waits=[wait for wait in execution.waits if wait.status == "open" and not execution.ended],
        inputs=_shown(execution.inputs, read),
        result=_shown(execution.output, read) if execution.output is not None else None,
        no_result="None." if execution.ended else "None yet.",
        attempts=_flow_attempts(execution),
        metadata=_text(execution.metadata) if execution.metadata else "",
        rows=rows,
        asked=len(execution.waits),
        passed_by=sum(line.superseded for line in lines),
        most_rows=SHOWN_ROWS,
        statuses=sorted({line.status for line in lines}),
        ticks=_ticks(length, scale),
        gaps=[{"at": _percent(gap.start), "width": _percent(gap.end - gap.start)} for gap in scale.gaps],
        artifacts=saved.get(None, []),
        logs=printed.get(None, ""),
    )


def _told_apart(rows: list[dict[str, Any]], lines: Sequence[Line]) -> list[dict[str, Any]]:
    """The rows, with what tells calls of one name apart, and those of an earlier attempt alone from the others."""
    names = Counter(line.subject.name for line in lines)
    for place, (row, line) in enumerate(zip(rows, lines, strict=True)):
        row["late"] = place >= SHOWN_ROWS
        if names[line.subject.name] > 1 and isinstance(line.subject, CheckpointCall):
            row["note"] = ", ".join(text for text in (line.subject.call_id, row["note"]) if text)
        if line.superseded:
            row["note"] = ", ".join(text for text in (row["note"], SUPERSEDED) if text)
            row["find"] += f" {SUPERSEDED}"
            row["foot"] += f" · {PASSED_BY}"
    return rows


def _facts(execution: Execution, length: float) -> list[tuple[str, str]]:
    version = "from source" if execution.version is None else f"v{execution.version}"
    known: list[tuple[str, str | None]] = [
        ("Version", version + (f" ({execution.tag})" if execution.tag else "")),
        ("Started", (execution.started_at or execution.created_at)[:19].replace("T", " ") + " UTC"),
        ("Took", _length(execution, length)),
        ("Cancelled by", execution.cancelled_by),
        ("By", execution.actor),
        ("Stack", execution.stack_name),
        ("Target", execution.target),
        ("Commit", execution.commit[:12] if execution.commit else None),
        ("Snapshot", execution.snapshot[:12] if execution.snapshot else None),
        ("Replay of", execution.original_exec_id),
        ("Idempotency key", execution.idempotency_key),
        ("Runner", f"{execution.runner.pid} on {execution.runner.host.split()[0]}" if execution.runner else None),
    ]
    return [(name, value) for name, value in known if value]


def _length(execution: Execution, length: float) -> str:
    if execution.ended_at:
        return duration(length)
    return f"{duration(length)} {'until its last record' if execution.status == 'lost' else 'so far'}"


def _flow_attempts(execution: Execution) -> list[dict[str, Any]]:
    """The attempts at the flow's body, where there was more than one. The last failure is the execution's own."""
    if len(execution.attempts) < 2:
        return []
    goes_on = execution.attempts[-1] if execution.status in ("running", "waiting") else None
    return [
        {
            "number": one.number,
            "status": one.status if one.status != "running" or one is goes_on else "cut off",
            "began": one.started_at[:19].replace("T", " ") + " UTC",
            "took": took(one.started_at, one.ended_at),
            "why": f"{one.failure.type.rpartition(':')[2]}: {one.failure.message}" if one.failure else "",
            "traceback": one.failure.traceback if one.failure and one is not execution.attempts[-1] else "",
        }
        for one in execution.attempts
    ]


def _row(
    line: Line,
    scale: Scale,
    read: Read,
    printed: dict[str | None, str],
    saved: dict[str | None, list[dict[str, str]]],
) -> dict[str, Any]:
    subject = line.subject
    bars = [
        {
            "kind": "done" if part.kind == "done" else f"{part.kind}-bar",
            "at": _percent(scale.place(part.start)),
            "width": _percent(scale.place(part.end) - scale.place(part.start)),
        }
        for part in line.segments
    ]
    row: dict[str, Any] = {
        "name": subject.name,
        "status": line.status,
        "bars": bars,
        "took": duration(line.end - line.start) if line.status != "lost" else "-",
        "question": "",
        "error": None,
        "attempts": [],
        "artifacts": [],
        "logs": "",
        "superseded": line.superseded,
        "dot": line.status,
    }
    if isinstance(subject, Wait):
        return row | _of_wait(subject, line.status, read)
    return row | _of_call(subject, line, read, printed, saved)


def _of_wait(wait: Wait, status: str, read: Read) -> dict[str, Any]:
    values = [("Schema", _text(wait.schema))] if wait.schema else []
    if wait.value is not None:
        values.append(("Answer", _shown(wait.value, read)))
    if wait.metadata:
        values.append(("Metadata", _text(wait.metadata)))
    by = f" by {wait.by}" if wait.by else ""
    return {
        "note": "wait",
        "shown": values,
        "question": wait.question or "",
        "find": f"{wait.name} {wait.wait_id}".lower(),
        "foot": f"wait {wait.wait_id}, {'not answered' if status == 'cancelled' else status}{by}",
    }


def _of_call(
    call: CheckpointCall,
    line: Line,
    read: Read,
    printed: dict[str | None, str],
    saved: dict[str | None, list[dict[str, str]]],
) -> dict[str, Any]:
    values = [("Arguments", _text(call.args))] if call.args is not None else []
    if call.output is not None:
        values.append(("Output", _shown(call.output, read)))
    if call.metadata:
        values.append(("Metadata", _text(call.metadata)))
    notes = [NOTES[line.status]] if line.status in NOTES else []
    foot = [f"call {call.call_id}"]
    row: dict[str, str] = {}
    if len(call.attempts) > 1:
        notes.append(f"{len(call.attempts)} attempts")
    if call.cached_from:
        notes.append("cached")
        foot.append(f"result computed by {call.cached_from}")
        row["dot"] = "cached"
    if call.given_by:
        notes.append(f"given by {call.given_by}")
        foot.append(f"result given by {call.given_by} when the replay was opened")
        row |= {"dot": "replayed", "took": "-"}
    elif call.original_call_id:
        notes.append("replayed")
        foot.append(f"result of call {call.original_call_id} of the execution that this one replays")
        row |= {"dot": "replayed", "took": "-"}
    if call.input_digest:
        foot.append(f"inputs {call.input_digest[:12]}")
    return {
        "note": ", ".join(notes),
        "shown": values,
        "error": call.failure,
        "attempts": _attempts(call, line) if len(call.attempts) > 1 or call.failure else [],
        "artifacts": saved.get(call.call_id, []),
        "logs": printed.get(call.call_id, ""),
        "find": f"{call.name} {call.call_id}".lower(),
        "foot": " · ".join(foot),
    } | row


def _attempts(call: CheckpointCall, line: Line) -> list[dict[str, Any]]:
    shown = []
    for one, part in zip(call.attempts, line.segments, strict=False):
        failure = one.failure
        shown.append(
            {
                "number": one.number,
                "status": "cut off" if one.status == "running" and part.kind != "running" else one.status,
                "began": f"+{duration(part.start)}",
                "took": duration(part.end - part.start),
                "why": f"{failure.type}: {failure.message}" if failure else "",
                "traceback": failure.traceback if failure else "",
            }
        )
    return shown


def _by_call(logs: Iterable[LogLine]) -> dict[str | None, str]:
    """Of each call the last lines. However many there are, no more are in memory at once."""
    kept: dict[str | None, deque[str]] = {}
    counts: Counter[str | None] = Counter()
    for line in logs:
        mark = "" if line.stream == "stdout" else f"{line.level or line.stream}: "
        counts[line.call] += 1
        last = kept.setdefault(line.call, deque(maxlen=SHOWN_LINES))
        last.append(f"{line.at[11:23]}  {mark}{_cut(line.text)}")
    return {call: "\n".join([*_before(counts[call]), *lines]) for call, lines in kept.items()}


def _before(number: int) -> list[str]:
    return [f"… {number - SHOWN_LINES:,} lines before these"] if number > SHOWN_LINES else []


def _shown(value: Value, read: Read) -> str:
    if value.stored == "object":
        kind = f"{value.type}, " if value.type else ""
        return f"{kind}{value.format}, {_bytes(value.size)}; stored as an object of its own"
    return _text(read(value))


def _text(value: Any) -> str:
    """Text as it is, everything else as JSON; cut where it is long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2, default=repr)
    return _cut(text)


def _cut(text: str) -> str:
    if len(text) <= SHOWN_TEXT:
        return text
    return f"{text[:SHOWN_TEXT]}\n… {len(text) - SHOWN_TEXT:,} more characters"


def _bytes(size: int) -> str:
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"


def _percent(part: float) -> str:
    return f"{part * 100:.3f}".rstrip("0").rstrip(".")


def _ticks(length: float, scale: Scale) -> list[dict[str, str]]:
    """Round times at even distances, the shortened ones named, and the end."""
    ticks = [{"at": "0", "text": "0", "kind": ""}]
    taken = [0.0, 1.0]
    for gap in scale.gaps:
        middle = (gap.start + gap.end) / 2
        if all(abs(middle - place) > 0.08 for place in taken):
            taken.append(middle)
            ticks.append({"at": _percent(middle), "text": f"≈ {duration(gap.seconds)}", "kind": "gap"})
    busy = length - sum(gap.seconds for gap in scale.gaps)
    step = _round_step(busy / 6)
    for number in range(1, min(int(length / step) + 1, 400)):
        place = scale.place(number * step)
        if all(abs(place - other) > 0.09 for other in taken):
            taken.append(place)
            ticks.append({"at": _percent(place), "text": duration(number * step), "kind": ""})
    return [*ticks, {"at": "100", "text": duration(length), "kind": "end"}]


def _round_step(seconds: float) -> float:
    for step in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800):
        if seconds <= step:
            return step
    hours: float = 3600
    while hours < seconds:
        hours *= 2
    return hours
