"""The picture of an execution: one bar a call, along the time in which something ran. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Literal

from kitaru.cli.views.words import Style, bare, brief, count, duration, shortened
from kitaru.model.address import parse_timestamp
from kitaru.model.execution import CheckpointCall, Execution, Wait

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
    begins = {id(row): row.bars[0].start if row.bars else 0.0 for row in result}
    result.sort(key=lambda row: begins[id(row)])
    return result, max([(end - zero).total_seconds(), *(row.bars[-1].end for row in result if row.bars)])


def axis_of(drawn: Sequence[Row], length: float) -> Axis:
    """The axis along which these rows are drawn."""
    return Axis([(bar.start, bar.end) for row in drawn for bar in row.bars if bar.kind != "wait"], length)


def _call_row(call: CheckpointCall, seconds: Any, *, lost: bool) -> Row:
    status = "lost" if lost and call.status == "running" else call.status
    notes = [{"lost": "its runner is gone", "cancelled": "cancelled"}.get(status, "")]
    notes.append(f"{len(call.attempts)} attempts" if len(call.attempts) > 1 else "")
    if call.cached_from is not None:
        notes.append("cached")
    if call.given_by is not None:
        notes.append(f"given by {call.given_by}")
    elif call.original_call_id is not None:
        notes.append("reused")
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


@dataclass(frozen=True, slots=True)
class _Line:
    mark: str
    mark_style: str
    name: str
    bars: tuple[Bar, ...]
    took: str
    note: str


def timeline(
    execution: Execution,
    style: Style = bare,
    *,
    width: int = 100,
    plain: bool = False,
    now: datetime | None = None,
    alone: bool = False,
) -> list[str]:
    """The picture as lines of at most ``width`` characters: a mark, the call, its bar, how long it took, a note.

    ``plain``: in ASCII. ``now`` is the end of calls under way. Empty if there is nothing to draw.
    """
    drawn, length = rows(execution, now or datetime.now(UTC), alone=alone)
    if not drawn:
        return []
    marks, signs = (ASCII_MARKS, ASCII_SIGNS) if plain else (MARKS, SIGNS)
    groups = _grouped(drawn)
    lines = [_line(group, marks) for group in groups[:MOST_LINES]]
    axis = axis_of(drawn, length)
    width = min(max(width, NARROWEST), WIDEST)
    names = min(max(len(line.name) for line in lines), max(12, min(WIDEST_NAME, width // 3)))
    times = max(len(line.took) for line in lines)
    notes = max(len(line.note) for line in lines) if width >= 70 else 0
    room = max(width - names - times - (notes + 2 if notes else 0) - 7, 8)
    picture = [style(f"    {'':<{names}} 0{duration(length):>{room - 1}}", "dim")]
    for line in lines:
        bar = _drawn(line.bars, axis, room, signs, style)
        text = (
            f"  {style(line.mark, line.mark_style)} {shortened(line.name, names):<{names}} {bar}  {line.took:>{times}}"
        )
        picture.append(f"{text}  {style(line.note, 'dim')}" if notes and line.note else text.rstrip())
    if len(groups) > MOST_LINES:
        picture.append(style(f"    and {count(len(groups) - MOST_LINES, 'more checkpoint')}", "dim"))
    cut = sum(end - start for start, end in axis.cuts)
    if cut:
        text = f"    {duration(cut)} in which no checkpoint ran is drawn short"
        picture.append(style(shortened(text, width), "dim"))
    return picture + _failures(groups, marks, style, width)


def _grouped(drawn: Sequence[Row]) -> list[list[Row]]:
    """The rows that share a line: all calls of a checkpoint that was called often, else each alone."""
    calls = Counter(row.subject.name for row in drawn)
    lines = sum(1 if number > MOST_CALLS else number for number in calls.values())
    most = MOST_CALLS if lines <= MOST_LINES else 1
    groups: dict[tuple[str, int], list[Row]] = {}
    for place, row in enumerate(drawn):
        groups.setdefault((row.subject.name, -1 if calls[row.subject.name] > most else place), []).append(row)
    return list(groups.values())


def _line(group: Sequence[Row], marks: Mapping[str, str]) -> _Line:
    if len(group) == 1:
        row = group[0]
        took = duration(row.seconds) if row.bars and row.status != "lost" else "-"
        return _Line(*_mark(row.status, marks), label(row.subject), row.bars, took, row.note)
    statuses = Counter(row.status for row in group)
    worst = next((one for one in ("failed", "running", "open", "lost", "cancelled") if statuses[one]), "completed")
    notes = [f"{number:,} {what}" for what, number in statuses.items() if what != "completed"]
    notes += [
        f"{number:,} {what}" for what in ("cached", "reused") if (number := sum(what in row.note for row in group))
    ]
    times = sorted(row.seconds for row in group)
    bars = [bar for row in group for bar in row.bars]
    kind: Kind = "failed" if statuses["failed"] else "cut" if worst != "completed" else "done"
    whole = (Bar(min(bar.start for bar in bars), max(bar.end for bar in bars), kind),) if bars else ()
    took = f"median {duration(times[len(times) // 2])}"
    return _Line(*_mark(worst, marks), f"{group[0].subject.name} x {len(group):,}", whole, took, ", ".join(notes))


def _mark(status: str, marks: Mapping[str, str]) -> tuple[str, str]:
    return marks.get(status, "-"), MARK_STYLES.get(status, "bad")


def label(subject: CheckpointCall | Wait) -> str:
    """``3 fetch("durable")``: the number of a call, its name and its first argument; a wait's name."""
    if isinstance(subject, Wait):
        return subject.name
    first = next(iter(subject.args.values()), None) if isinstance(subject.args, Mapping) else None
    return f"{subject.call_id} {subject.name}({brief(first, 24) if first is not None else ''})"


def _drawn(bars: Sequence[Bar], axis: Axis, room: int, signs: Mapping[Kind, str], style: Style) -> str:
    """The bars of one line in ``room`` characters; each is one character wide at least."""
    text, reached = "", 0
    for bar in bars:
        first = max(min(round(axis.place(bar.start) * room), room - 1), reached)
        last = min(max(round(axis.place(bar.end) * room), first + 1), room)
        if last > first:
            text += " " * (first - reached) + style(signs[bar.kind] * (last - first), KIND_STYLES[bar.kind])
            reached = last
    return text + " " * (room - reached)


def _failures(groups: Sequence[Sequence[Row]], marks: Mapping[str, str], style: Style, width: int) -> list[str]:
    """The failures that have no line of their own."""
    calls = [row.subject for group in groups if len(group) > 1 for row in group if row.status == "failed"]
    lines = []
    for call in calls[:MOST_FAILURES]:
        reason = getattr(call, "failure", None)
        text = f"{reason.type.rpartition(':')[2]}: {reason.message}".splitlines()[0] if reason else ""
        lines.append(f"  {style(marks['failed'], 'bad')} {shortened(f'{label(call)}  {text}', width - 4)}")
    if len(calls) > MOST_FAILURES:
        lines.append(style(f"    and {len(calls) - MOST_FAILURES} more failed", "dim"))
    return lines
