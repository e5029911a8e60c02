"""An execution as one HTML page that needs no server, no network and no other file."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, StrictUndefined

from kitaru._version import __version__
from kitaru.cli.views.timeline import Axis, Row, axis_of, label, rows
from kitaru.cli.views.words import duration, json_text, size_text, took
from kitaru.model.event import Failure, Value
from kitaru.model.execution import Artifact, Attempt, CheckpointCall, Execution, LogLine, Wait

SHOWN_TEXT = 6_000
"""Characters of one value."""

SHOWN_LINES = 300
"""Lines of output of one call: the last ones."""

SHOWN_ROWS = 200
"""Calls that are shown until the reader asks for all."""

Read = Callable[[Value | None], Any]
"""A stored value → plain data."""


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
    """The page. ``template`` is the text of ``execution.html.j2``; ``alone``: the runner is gone.

    Values that are objects of their own are named, not shown: a page stays small.
    """
    now = now or datetime.now(UTC)
    drawn, length = rows(execution, now, alone=alone)
    axis = axis_of(drawn, length)
    printed = _by_call(logs)
    saved: dict[str | None, list[dict[str, str]]] = {}
    for one in artifacts:
        item = {"artifact_id": one.artifact_id, "kind": one.kind, "size": size_text(one.value.size)}
        saved.setdefault(one.call, []).append(item)
    failure = execution.failure
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
        failure=failure.to_json() | {"traceback": failure.traceback} if failure else None,
        waits=[] if execution.ended else execution.open_waits,
        inputs=_shown(execution.inputs, read),
        result=_shown(execution.output, read) if execution.output is not None else None,
        no_result="None." if execution.ended else "None yet.",
        attempts=_flow_attempts(execution),
        metadata=_text(execution.metadata) if execution.metadata else "",
        rows=[_row(row, axis, read, printed, saved) | {"late": place >= SHOWN_ROWS} for place, row in enumerate(drawn)],
        asked=len(execution.waits),
        most_rows=SHOWN_ROWS,
        statuses=sorted({row.status for row in drawn}),
        length=duration(length),
        cuts=[_span(axis, *cut) | {"text": f"{duration(cut[1] - cut[0])} without a call"} for cut in axis.cuts],
        artifacts=saved.get(None, []),
        logs=printed.get(None, ""),
    )


def _facts(execution: Execution, length: float) -> list[tuple[str, str]]:
    version = "from source" if execution.version is None else f"v{execution.version}"
    so_far = "" if execution.ended else " until its last record" if execution.status == "lost" else " so far"
    facts: list[tuple[str, str | None]] = [
        ("Version", version + (f" ({execution.tag})" if execution.tag else "")),
        ("Started", _moment(execution.started_at or execution.created_at)),
        ("Took", duration(length) + so_far),
        ("Cancelled by", execution.cancelled_by),
        ("By", execution.actor),
        ("Stack", execution.stack_name),
        ("Target", execution.target),
        ("Commit", (execution.commit or "")[:12]),
        ("Snapshot", (execution.snapshot or "")[:12]),
        ("Replay of", execution.original_exec_id),
        ("Idempotency key", execution.idempotency_key),
    ]
    return [(name, value) for name, value in facts if value]


def _moment(timestamp: str) -> str:
    return timestamp[:19].replace("T", " ") + " UTC"


def _flow_attempts(execution: Execution) -> list[dict[str, Any]]:
    """The attempts at the flow's body, if there were several. The last failure is the execution's own."""
    if len(execution.attempts) < 2:
        return []
    last = execution.attempts[-1]
    return [
        _attempt(
            attempt,
            began=_moment(attempt.started_at),
            seconds=took(attempt.started_at, attempt.ended_at),
            cut=attempt is not last or execution.ended,
            traceback=attempt is not last,
        )
        for attempt in execution.attempts
    ]


def _attempt(attempt: Attempt, *, began: str, seconds: str, cut: bool, traceback: bool = True) -> dict[str, Any]:
    failure = attempt.failure
    return {
        "number": attempt.number,
        "status": "cut off" if attempt.status == "running" and cut else attempt.status,
        "began": began,
        "took": seconds,
        "why": _reason(failure),
        "traceback": failure.traceback if failure and traceback else "",
    }


def _reason(failure: Failure | None) -> str:
    return f"{failure.type.rpartition(':')[2]}: {failure.message}" if failure else ""


def _row(
    row: Row, axis: Axis, read: Read, printed: dict[str | None, str], saved: dict[str | None, list[dict[str, str]]]
) -> dict[str, Any]:
    subject = row.subject
    shown: dict[str, Any] = {
        "name": label(subject),
        "status": row.status,
        "note": row.note,
        "bars": [_span(axis, bar.start, bar.end) | {"kind": bar.kind} for bar in row.bars],
        "took": duration(row.seconds) if row.bars and row.status != "lost" else "-",
        "question": "",
        "error": None,
        "attempts": [],
        "artifacts": [],
        "logs": "",
        "find": f"{label(subject)} {row.note}".lower(),
    }
    if isinstance(subject, Wait):
        values = [("Schema", subject.schema), ("Metadata", subject.metadata)]
        answer = [("Answer", _shown(subject.value, read))] if subject.value is not None else []
        texts = [(name, _text(value)) for name, value in values if value]
        return shown | {"question": subject.question or "", "shown": texts + answer, "foot": f"wait {subject.wait_id}"}
    return (
        shown
        | _of_call(subject, row)
        | {
            "shown": _values(subject, read),
            "artifacts": saved.get(subject.call_id, []),
            "logs": printed.get(subject.call_id, ""),
        }
    )


def _values(call: CheckpointCall, read: Read) -> list[tuple[str, str]]:
    values = [("Arguments", _text(call.args))] if call.args is not None else []
    if call.output is not None:
        values.append(("Output", _shown(call.output, read)))
    return [*values, ("Metadata", _text(call.metadata))] if call.metadata else values


def _of_call(call: CheckpointCall, row: Row) -> dict[str, Any]:
    foot = [f"call {call.call_id}"]
    if call.cached_from:
        foot.append(f"result computed by {call.cached_from}")
    if call.original_call_id and not call.given_by:
        foot.append(f"result of call {call.original_call_id} of the execution that this one replays")
    if call.input_digest:
        foot.append(f"inputs {call.input_digest[:12]}")
    attempts = [
        _attempt(
            attempt, began=f"+{duration(bar.start)}", seconds=duration(bar.end - bar.start), cut=row.status == "lost"
        )
        for attempt, bar in zip(call.attempts, row.bars, strict=False)
    ]
    several = len(call.attempts) > 1 or call.failure is not None
    return {"error": call.failure, "attempts": attempts if several else [], "foot": " · ".join(foot)}


def _by_call(logs: Iterable[LogLine]) -> dict[str | None, str]:
    """The last lines of each call; no more are ever in memory."""
    kept: dict[str | None, deque[str]] = {}
    counts: Counter[str | None] = Counter()
    for line in logs:
        mark = "" if line.stream == "stdout" else f"{line.level or line.stream}: "
        counts[line.call] += 1
        kept.setdefault(line.call, deque(maxlen=SHOWN_LINES)).append(f"{line.at[11:23]}  {mark}{_cut(line.text)}")
    return {call: "\n".join([*_before(counts[call]), *lines]) for call, lines in kept.items()}


def _before(number: int) -> list[str]:
    return [f"… {number - SHOWN_LINES:,} lines before these"] if number > SHOWN_LINES else []


def _shown(value: Value, read: Read) -> str:
    if value.stored == "object":
        kind = f"{value.type}, " if value.type else ""
        return f"{kind}{value.format}, {size_text(value.size)}; stored as an object of its own"
    return _text(read(value))


def _text(value: Any) -> str:
    return _cut(value if isinstance(value, str) else json_text(value, indent=2))


def _cut(text: str) -> str:
    rest = len(text) - SHOWN_TEXT
    return text if rest <= 0 else f"{text[:SHOWN_TEXT]}\n… {rest:,} more characters"


def _span(axis: Axis, start: float, end: float) -> dict[str, str]:
    """Left edge and width in percent: ``{"at": "12.5", "width": "30"}``."""
    left, right = axis.place(start) * 100, axis.place(end) * 100
    return {"at": f"{left:.5g}", "width": f"{right - left:.5g}"}
