"""The picture of an execution, one bar a call along the time in which something ran: in a terminal, and as a page."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from typing import Any, Literal

from kitaru._version import __version__
from kitaru.cli.views.words import brief, count, duration, few, first_line, json_text, shortened, size_text, style, took
from kitaru.data_files import template
from kitaru.model.address import parse_timestamp
from kitaru.model.event import Value
from kitaru.model.execution import Artifact, Attempt, CheckpointCall, Execution, LogLine, Wait

IDLE = 0.06
"""The length at which a stretch is drawn in which no call ran, as a part of all the others."""

SHORTEST_CUT = 1.0
"""Seconds: shorter stretches are drawn as they are."""

MOST_CALLS = 20
"""Calls of one checkpoint that have a line each; more have one line together."""

MOST_LINES = 60
MOST_FAILURES = 10
NARROWEST, WIDEST, WIDEST_NAME = 40, 160, 36

Kind = Literal["done", "failed", "cut", "wait"]
SIGNS: dict[Kind, str] = {"done": "█", "failed": "▒", "cut": "░", "wait": "·"}
ASCII_SIGNS: dict[Kind, str] = {"done": "#", "failed": "x", "cut": "-", "wait": "."}
KIND_STYLES: dict[Kind, str] = {"done": "good", "failed": "bad", "cut": "warn", "wait": "dim"}
MARKS = {"completed": "✓", "answered": "✓", "failed": "✗", "aborted": "✗", "lost": "✗", "running": "…", "open": "?"}
ASCII_MARKS = MARKS | {"completed": "+", "answered": "+", "failed": "x", "aborted": "x", "lost": "x", "running": ">"}
MARK_STYLES = {"completed": "good", "answered": "good", "running": "warn", "open": "warn", "cancelled": "dim"}


@dataclass(frozen=True, slots=True)
class Bar:
    """An attempt, or a wait. Seconds since the picture begins; ``cut``: it has not finished."""

    start: float
    end: float
    kind: Kind


@dataclass(frozen=True, slots=True)
class Row:
    """A call or a wait with its bars; none if the result came from elsewhere."""

    subject: CheckpointCall | Wait
    status: str
    note: str
    bars: tuple[Bar, ...]

    @property
    def seconds(self) -> float:
        """How long it took, its attempts and the pauses between them included."""
        return self.bars[-1].end - self.bars[0].start if self.bars else 0.0

    @property
    def took(self) -> str:
        """``3.4 s``; ``-`` if the result came from elsewhere, or its end is not known."""
        return duration(self.seconds) if self.bars and self.status != "lost" else "-"

    @property
    def label(self) -> str:
        """``3 fetch("durable")``: the number of a call, its name and its first argument; a wait's name."""
        subject = self.subject
        if isinstance(subject, Wait):
            return subject.name
        first = next(iter(subject.args.values()), None) if isinstance(subject.args, Mapping) else None
        return f"{subject.call_id} {subject.name}({brief(first, 24) if first is not None else ''})"


class Axis:
    """Seconds → places from 0 to 1, with idle stretches drawn short.

    >>> Axis([(0.0, 1.0), (3601.0, 3602.0)], 3602.0).place(3601.0)
    0.528...
    """

    def __init__(self, busy: Sequence[tuple[float, float]], length: float) -> None:
        """``busy``: when calls ran. ``length``: seconds from the beginning to the end of the picture."""
        idle, reached = [], 0.0
        for start, end in [*sorted(busy), (length, length)]:
            if start > reached:
                idle.append((reached, start))
            reached = max(reached, end)
        most = IDLE * max(length - sum(end - start for start, end in idle), 0.0) or length
        self.cuts = [(start, end) for start, end in idle if end - start > max(most, SHORTEST_CUT)]
        knots = [(0.0, 0.0)]
        for start, end in self.cuts:
            at = knots[-1][1] + start - knots[-1][0]
            knots += [(start, at), (end, at + most)]
        knots.append((max(length, knots[-1][0]), knots[-1][1] + max(length - knots[-1][0], 0.0)))
        whole = knots[-1][1] or 1.0
        self._times = [time for time, _ in knots]
        self._places = [place / whole for _, place in knots]

    def place(self, seconds: float) -> float:
        """The place of a moment, from 0 to 1."""
        at = min(max(bisect_right(self._times, seconds) - 1, 0), len(self._times) - 2)
        start, end = self._times[at], self._times[at + 1]
        part = min(max((seconds - start) / (end - start), 0.0), 1.0) if end > start else 0.0
        return self._places[at] + part * (self._places[at + 1] - self._places[at])


def rows(execution: Execution, now: datetime, *, alone: bool = False) -> tuple[list[Row], float]:
    """The rows of an execution in the order in which they began, and its length in seconds.

    ``alone``: its runner is gone, so that nothing is under way any more.
    """
    lost = alone or execution.status == "lost"
    zero = parse_timestamp(execution.started_at or execution.created_at)
    zero = min([zero, *(parse_timestamp(call.started_at) for call in execution.checkpoints if not _elsewhere(call))])
    end = parse_timestamp(execution.ended_at) if execution.ended_at else _last_record(execution) if lost else now

    def seconds(text: str | None) -> float:
        return max(((parse_timestamp(text) if text else end) - zero).total_seconds(), 0.0)

    result = [_call_row(call, seconds, lost=lost) for call in execution.checkpoints]
    for wait in execution.waits:
        asked = Bar(seconds(wait.opened_at), seconds(_asked_until(wait, execution)), "wait")
        status = "cancelled" if wait.status == "open" and execution.ended else wait.status
        said = {"open": "waits for an answer", "cancelled": "not answered"}
        by = f"{status} by {wait.by}" if wait.by else status
        result.append(Row(wait, status, said.get(status, by), (asked,)))
    result.sort(key=lambda row: row.bars[0].start if row.bars else 0.0)
    return result, max([(end - zero).total_seconds(), *(row.bars[-1].end for row in result if row.bars)])


def axis_of(drawn: Sequence[Row], length: float) -> Axis:
    """The axis along which these rows are drawn."""
    return Axis([(bar.start, bar.end) for row in drawn for bar in row.bars if bar.kind != "wait"], length)


def _call_row(call: CheckpointCall, seconds: Any, *, lost: bool) -> Row:
    status = "lost" if lost and call.status == "running" else call.status
    given = call.given_by is not None
    notes = [
        {"lost": "its runner is gone", "cancelled": "cancelled"}.get(status, ""),
        f"{len(call.attempts)} attempts" if len(call.attempts) > 1 else "",
        "cached" if call.cached_from is not None else "",
        f"given by {call.given_by}" if given else "reused" if call.original_call_id is not None else "",
    ]
    note = ", ".join(filter(None, notes))
    if _elsewhere(call):
        return Row(call, status, note, ())
    kinds: dict[str, Kind] = {"completed": "done", "failed": "failed"}
    parts = [(one.started_at, one.ended_at, one.status) for one in call.attempts]
    bars = [
        Bar(seconds(start), max(seconds(end), seconds(start)), kinds.get(what, "cut"))
        for start, end, what in parts or [(call.started_at, call.ended_at, call.status)]
    ]
    for at, (one, after) in enumerate(pairwise(bars)):
        if one.kind == "cut":  # Its process died; the next attempt began when another runner took over.
            bars[at] = Bar(one.start, min(one.end, after.start), "failed")
    return Row(call, status, note, tuple(bars))


def _elsewhere(call: CheckpointCall) -> bool:
    """Whether the result was taken from another execution, or given by hand."""
    return call.original_call_id is not None or call.given_by is not None


def _asked_until(wait: Wait, execution: Execution) -> str | None:
    if wait.status != "cancelled":
        return wait.answered_at
    ends = (one.ended_at for one in execution.attempts if one.ended_at and one.ended_at >= wait.opened_at)
    return next(ends, execution.ended_at)


def _last_record(execution: Execution) -> datetime:
    moments = [execution.created_at, execution.runner_since, *(wait.opened_at for wait in execution.waits)]
    for call in execution.checkpoints:
        if not _elsewhere(call):
            moments += [call.ended_at, *(one.started_at for one in call.attempts)]
    return max(parse_timestamp(moment) for moment in moments if moment)


def timeline(
    execution: Execution, *, width: int = 100, plain: bool = False, now: datetime | None = None, alone: bool = False
) -> list[str]:
    """The picture as lines of at most ``width`` characters: a mark, the call, its bar, how long it took, a note.

    ``plain``: in ASCII. ``now`` is the end of calls under way. Empty if there is nothing to draw.
    """
    drawn, length = rows(execution, now or datetime.now(UTC), alone=alone)
    if not drawn:
        return []
    marks, signs = (ASCII_MARKS, ASCII_SIGNS) if plain else (MARKS, SIGNS)
    groups = _grouped(drawn)
    lines = [_line(group) for group in groups[:MOST_LINES]]
    axis = axis_of(drawn, length)
    width = min(max(width, NARROWEST), WIDEST)
    names = min(max(len(name) for name, *_ in lines), max(12, min(WIDEST_NAME, width // 3)))
    times = max(len(time) for *_, time, _ in lines)
    notes = max(len(note) for *_, note in lines) if width >= 70 else 0
    room = max(width - names - times - (notes + 2 if notes else 0) - 7, 8)
    picture = [style(f"    {'':<{names}} 0{duration(length):>{room - 1}}", "dim")]
    for name, status, bars, time, note in lines:
        bar = _drawn(bars, axis, room, signs)
        text = f"  {_mark(status, marks)} {shortened(name, names):<{names}} {bar}  {time:>{times}}"
        picture.append(f"{text}  {style(note, 'dim')}" if notes and note else text.rstrip())
    if len(groups) > MOST_LINES:
        picture.append(style(f"    and {count(len(groups) - MOST_LINES, 'more checkpoint')}", "dim"))
    if cut := sum(end - start for start, end in axis.cuts):
        text = f"    {duration(cut)} in which no checkpoint ran is drawn short"
        picture.append(style(shortened(text, width), "dim"))
    return picture + _failures(groups, marks, width)


def _grouped(drawn: Sequence[Row]) -> list[list[Row]]:
    """The rows that share a line: all calls of a checkpoint that was called often, else each alone."""
    calls = Counter(row.subject.name for row in drawn)
    lines = sum(1 if number > MOST_CALLS else number for number in calls.values())
    most = MOST_CALLS if lines <= MOST_LINES else 1
    groups: dict[tuple[str, int], list[Row]] = {}
    for place, row in enumerate(drawn):
        groups.setdefault((row.subject.name, -1 if calls[row.subject.name] > most else place), []).append(row)
    return list(groups.values())


def _line(group: Sequence[Row]) -> tuple[str, str, tuple[Bar, ...], str, str]:
    """Name, status, bars, time and note of the line of these rows."""
    if len(group) == 1:
        row = group[0]
        return row.label, row.status, row.bars, row.took, row.note
    statuses = Counter(row.status for row in group)
    worst = next((one for one in ("failed", "running", "open", "lost", "cancelled") if statuses[one]), "completed")
    sources = Counter(source for row in group for source in ("cached", "reused") if source in row.note)
    notes = [f"{number:,} {note}" for note, number in (statuses + sources).items() if note != "completed"]
    times = sorted(row.seconds for row in group)
    bars = [bar for row in group for bar in row.bars]
    kind: Kind = "failed" if statuses["failed"] else "cut" if worst != "completed" else "done"
    whole = (Bar(min(bar.start for bar in bars), max(bar.end for bar in bars), kind),) if bars else ()
    name = f"{group[0].subject.name} x {len(group):,}"
    return name, worst, whole, f"median {duration(times[len(times) // 2])}", ", ".join(notes)


def _mark(status: str, marks: Mapping[str, str]) -> str:
    return style(marks.get(status, "-"), MARK_STYLES.get(status, "bad"))


def _drawn(bars: Sequence[Bar], axis: Axis, room: int, signs: Mapping[Kind, str]) -> str:
    """The bars of one line in ``room`` characters; each is one character wide at least."""
    text, reached = "", 0
    for bar in bars:
        first = max(min(round(axis.place(bar.start) * room), room - 1), reached)
        last = min(max(round(axis.place(bar.end) * room), first + 1), room)
        if last > first:
            text += " " * (first - reached) + style(signs[bar.kind] * (last - first), KIND_STYLES[bar.kind])
            reached = last
    return text + " " * (room - reached)


def _failures(groups: Sequence[Sequence[Row]], marks: Mapping[str, str], width: int) -> list[str]:
    """The failures that have no line of their own."""
    failed = [row for group in groups if len(group) > 1 for row in group if row.status == "failed"]
    lines = []
    for row in failed:
        failure = getattr(row.subject, "failure", None)
        text = shortened(f"{row.label}  {first_line(failure) if failure else ''}", width - 4)
        lines.append(f"  {_mark('failed', marks)} {text}")
    return few(lines, MOST_FAILURES, "    and {} more failed")


# --- the page ---------------------------------------------------------------------------------------------------------

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
    read: Read,
    logs: Iterable[LogLine] = (),
    artifacts: Sequence[Artifact] = (),
    now: datetime | None = None,
    alone: bool = False,
) -> str:
    """One HTML page that needs no server, no network and no other file.

    ``alone``: the runner is gone. Values that are objects of their own are named, not shown: a page stays small.
    """
    # Late: only this view needs it, and the picture in a terminal is drawn far more often.
    from jinja2 import Environment, StrictUndefined

    now = now or datetime.now(UTC)
    drawn, length = rows(execution, now, alone=alone)
    axis = axis_of(drawn, length)
    saved: dict[str | None, list[Artifact]] = {}
    for artifact in artifacts:
        saved.setdefault(artifact.call, []).append(artifact)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"text": _text, "shown": partial(_shown, read=read), "size": size_text}
    flow_attempts = [
        _attempt(one, _moment(one.started_at), took(one.started_at, one.ended_at), place or execution.ended)
        for place, one in enumerate(reversed(execution.attempts))
    ]
    return environment.from_string(template("execution.html.j2")).render(
        execution=execution,
        release=__version__,
        drawn=now.strftime("%Y-%m-%d %H:%M UTC"),
        facts=_facts(execution, length),
        attempts=flow_attempts[::-1] if len(flow_attempts) > 1 else [],
        rows=[_shown_row(row, axis) for row in drawn],
        most_rows=SHOWN_ROWS,
        statuses=sorted({row.status for row in drawn}),
        length=duration(length),
        cuts=[_span(axis, *cut) | {"text": f"{duration(cut[1] - cut[0])} without a call"} for cut in axis.cuts],
        saved=saved,
        printed=_by_call(logs),
    )


def _facts(execution: Execution, length: float) -> dict[str, str]:
    version = "from source" if execution.version is None else f"v{execution.version}"
    so_far = "" if execution.ended else " until its last record" if execution.status == "lost" else " so far"
    facts = {
        "Version": version + (f" ({execution.tag})" if execution.tag else ""),
        "Started": _moment(execution.started_at or execution.created_at),
        "Took": duration(length) + so_far,
        "Cancelled by": execution.cancelled_by,
        "By": execution.actor,
        "Stack": execution.stack_name,
        "Target": execution.target,
        "Commit": (execution.commit or "")[:12],
        "Snapshot": (execution.snapshot or "")[:12],
        "Replay of": execution.original_exec_id,
        "Idempotency key": execution.idempotency_key,
    }
    return {name: value for name, value in facts.items() if value}


def _moment(timestamp: str) -> str:
    return timestamp[:19].replace("T", " ") + " UTC"


def _attempt(attempt: Attempt, began: str, time: str, over: object) -> dict[str, Any]:
    """``over``: nothing runs it any more."""
    status = "cut off" if attempt.status == "running" and over else attempt.status
    failure = attempt.failure
    return {
        "number": attempt.number,
        "status": status,
        "began": began,
        "took": time,
        "why": f"{failure.type.rpartition(':')[2]}: {failure.message}" if failure else "",
        "traceback": failure.traceback if failure else "",
    }


def _shown_row(row: Row, axis: Axis) -> dict[str, Any]:
    call = row.subject
    bars = [_span(axis, bar.start, bar.end) | {"kind": bar.kind} for bar in row.bars]
    if isinstance(call, Wait):
        return {"row": row, "wait": call, "bars": bars, "attempts": [], "foot": f"wait {call.wait_id}"}
    several = len(call.attempts) > 1 or call.failure is not None
    attempts = [
        _attempt(one, f"+{duration(bar.start)}", duration(bar.end - bar.start), row.status == "lost")
        for one, bar in zip(call.attempts, row.bars, strict=False)
    ]
    replayed = call.original_call_id if not call.given_by else None
    foot = [
        f"call {call.call_id}",
        f"result computed by {call.cached_from}" if call.cached_from else "",
        f"result of call {replayed} of the execution that this one replays" if replayed else "",
        f"inputs {call.input_digest[:12]}" if call.input_digest else "",
    ]
    shown = {"bars": bars, "attempts": attempts if several else [], "foot": " · ".join(filter(None, foot))}
    return {"row": row, "wait": None, **shown}


def _by_call(logs: Iterable[LogLine]) -> dict[str | None, str]:
    """The last lines of each call; no more are ever in memory."""
    kept: dict[str | None, deque[str]] = {}
    counts: Counter[str | None] = Counter()
    for line in logs:
        mark = "" if line.stream == "stdout" else f"{line.level or line.stream}: "
        counts[line.call] += 1
        kept.setdefault(line.call, deque(maxlen=SHOWN_LINES)).append(f"{line.at[11:23]}  {mark}{_text(line.text)}")
    before = {call: f"… {number - SHOWN_LINES:,} lines before these\n" for call, number in counts.items()}
    return {call: (before[call] if counts[call] > SHOWN_LINES else "") + "\n".join(kept[call]) for call in kept}


def _shown(value: Value, read: Read) -> str:
    if value.stored == "object":
        kind = f"{value.type}, " if value.type else ""
        return f"{kind}{value.format}, {size_text(value.size)}; stored as an object of its own"
    return _text(read(value))


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json_text(value, indent=2)
    rest = len(text) - SHOWN_TEXT
    return text if rest <= 0 else f"{text[:SHOWN_TEXT]}\n… {rest:,} more characters"


def _span(axis: Axis, start: float, end: float) -> dict[str, str]:
    """Left edge and width in percent: ``{"at": "12.5", "width": "30"}``."""
    left, right = axis.place(start) * 100, axis.place(end) * 100
    return {"at": f"{left:.5g}", "width": f"{right - left:.5g}"}
