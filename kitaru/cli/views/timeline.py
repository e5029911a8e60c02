"""From moments to places on a line: what a picture of an execution is drawn along. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import accumulate, pairwise
from typing import Literal

from kitaru.cli.views.words import Style, bare, count
from kitaru.model.address import parse_timestamp
from kitaru.model.execution import CheckpointCall, Execution, Wait

LONG_GAP = 0.25
"""A time in which nothing was under way is shortened where it is more than this part of all the rest."""

SHORT_GAP = 0.06
"""What is left of it: this part of the rest. One in which an answer was awaited is a bar in the picture, too, and stays
at least as long as the longest stretch that is not shortened: a bar is never longer than one that took more time.
"""

SHORTEST_GAP = 1.0
"""Seconds: a picture of milliseconds shows its rests as long as they were."""

Kind = Literal["done", "failed", "running", "stopped", "cached", "replayed", "waiting"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of one line. Seconds since the beginning of the picture."""

    start: float
    end: float
    kind: Kind


@dataclass(frozen=True, slots=True)
class Line:
    """One call or wait, with its attempts.

    ``status`` is the subject's, but what is recorded as under way in an execution that goes no further is
    ``cancelled``, or ``lost`` with the execution's runner.
    """

    subject: CheckpointCall | Wait
    segments: tuple[Segment, ...]
    status: str

    @property
    def superseded(self) -> bool:
        """Whether it is of an earlier attempt at the flow's body alone."""
        return bool(self.subject.superseded)

    @property
    def start(self) -> float:
        """When it began."""
        return self.segments[0].start

    @property
    def end(self) -> float:
        """When it ended; for one under way, when it was looked at."""
        return self.segments[-1].end


@dataclass(frozen=True, slots=True)
class Gap:
    """A shortened time: where it is on the line (0 to 1), and how many seconds it stands for."""

    start: float
    end: float
    seconds: float


class Scale:
    """Seconds → places from 0 to 1, times of rest shortened."""

    def __init__(self, lines: Sequence[Line], length: float) -> None:
        """``length`` in seconds, from the beginning to the end of the picture."""
        knots = [(0.0, 0.0)]
        gaps: list[tuple[float, float, float]] = []
        rests = list(_rests(lines, length))
        busy = max(length - sum(end - start for start, end, _ in rests), 1e-9)
        most = max(LONG_GAP * busy, SHORTEST_GAP)
        kept = [end - start for start, end, _ in rests if end - start <= most]
        work = [part.end - part.start for line in lines for part in line.segments if part.kind != "waiting"]
        short = SHORT_GAP * (busy + sum(kept))
        long = max([short, *kept, *work])
        place = 0.0
        for start, end, waited in rests:
            left = long if waited else short
            if end - start <= max(most, left):
                continue
            place += start - knots[-1][0]
            knots.append((start, place))
            gaps.append((place, place + left, end - start))
            place += left
            knots.append((end, place))
        whole = place + max(length - knots[-1][0], 0.0) or 1e-9
        knots.append((max(length, knots[-1][0]), whole))
        self._times = [time for time, _ in knots]
        self._places = [place / whole for _, place in knots]
        self.gaps = tuple(Gap(start / whole, end / whole, seconds) for start, end, seconds in gaps)

    def place(self, seconds: float) -> float:
        """Where on the line, from 0 to 1."""
        at = min(max(bisect_right(self._times, seconds) - 1, 0), len(self._times) - 2)
        begin, end = self._times[at], self._times[at + 1]
        part = min(max((seconds - begin) / (end - begin), 0.0), 1.0) if end > begin else 0.0
        return self._places[at] + part * (self._places[at + 1] - self._places[at])


def _rests(lines: Sequence[Line], length: float) -> Iterable[tuple[float, float, bool]]:
    """The times in which no checkpoint was under way, and whether an answer was awaited in them; one ends where an
    answer begins to be awaited, or is there.
    """
    reached = 0.0
    work = sorted((part.start, part.end) for line in lines for part in line.segments if part.kind != "waiting")
    waits = sorted((part.start, part.end) for line in lines for part in line.segments if part.kind == "waiting")
    edges = sorted({edge for wait in waits for edge in wait})
    for start, end in [*work, (length, length)] if lines else []:
        if start > reached:
            inner = edges[bisect_right(edges, reached) : bisect_left(edges, start)]
            for begin, until in pairwise((reached, *inner, start)):
                yield begin, until, any(first <= begin and until <= last for first, last in waits)
        reached = max(reached, end)


def draw(execution: Execution, now: datetime, *, alone: bool = False) -> tuple[list[Line], float]:
    """The lines of an execution in the order in which they began, and its length in seconds.

    ``alone``: its runner is gone, as that of a lost one is, though it may still wait for an answer.
    """
    zero = parse_timestamp(execution.started_at or execution.created_at)
    moments = [parse_timestamp(call.started_at) for call in execution.checkpoints if not _elsewhere(call)]
    zero = min([zero, *moments])
    lost = alone or execution.status == "lost"
    stopped = _last_record(execution) if lost else None
    end = parse_timestamp(execution.ended_at) if execution.ended_at else now
    if execution.status == "lost" and stopped is not None:
        end = stopped  # Nobody knows more.

    def after(moment: datetime) -> float:
        return max((moment - zero).total_seconds(), 0.0)

    def until_end(text: str | None) -> float:
        return after(parse_timestamp(text) if text else end)

    def until_stopped(text: str | None) -> float:
        return after(parse_timestamp(text) if text else stopped or end)

    lines = [_of_call(call, until_stopped, lost=lost) for call in execution.checkpoints]
    for wait in execution.waits:
        waited = Segment(until_end(wait.opened_at), until_end(_asked_until(wait, execution)), "waiting")
        over = wait.status == "open" and execution.ended
        lines.append(Line(wait, (waited,), "cancelled" if over else wait.status))
    lines.sort(key=lambda line: line.start)
    return lines, max([(end - zero).total_seconds(), *(line.end for line in lines)])


def _asked_until(wait: Wait, execution: Execution) -> str | None:
    """When it was answered; of one that nobody asks any more, when the attempt ended that had asked it."""
    if wait.status != "cancelled":
        return wait.answered_at
    ends = (one.ended_at for one in execution.attempts if one.ended_at and one.ended_at >= wait.opened_at)
    return next(ends, execution.ended_at)


def _last_record(execution: Execution) -> datetime:
    """When its runner was last heard of in the journal."""
    moments = [execution.created_at, execution.runner_since]
    for call in execution.checkpoints:
        if not _elsewhere(call):
            moments += [call.ended_at, *(one.started_at for one in call.attempts)]
    moments += [wait.opened_at for wait in execution.waits]
    return max(parse_timestamp(moment) for moment in moments if moment)


def _elsewhere(call: CheckpointCall) -> bool:
    """Whether nothing was computed here: the result was taken from another execution, or given by hand."""
    return call.original_call_id is not None or call.given_by is not None


def _of_call(call: CheckpointCall, seconds: Callable[[str | None], float], *, lost: bool) -> Line:
    status = "lost" if lost and call.status == "running" else call.status
    if _elsewhere(call):
        return Line(call, (Segment(0.0, 0.0, "replayed"),), status)
    kinds: dict[str, Kind] = {"completed": "done", "failed": "failed", "running": "running", "cancelled": "stopped"}
    if lost:
        kinds["running"] = "stopped"
    if call.cached_from is not None:
        kinds["completed"] = "cached"
    parts = [
        Segment(seconds(one.started_at), max(seconds(one.ended_at), seconds(one.started_at)), kinds[one.status])
        for one in call.attempts
    ]
    for place, (one, after) in enumerate(pairwise(parts)):
        if one.kind in ("running", "stopped"):  # its process died; the next one began when it was taken up again
            parts[place] = Segment(one.start, min(one.end, after.start), "failed")
    whole = Segment(seconds(call.started_at), seconds(call.ended_at), kinds[call.status])
    return Line(call, tuple(parts) or (whole,), status)


MOST_CALLS = 20
"""Calls of one checkpoint that are drawn one by one; more have one line together."""

MOST_LINES = 60
"""Lines of a picture; where there are more, every checkpoint that was called more than once has one line."""

WORST = ("failed", "running", "open", "lost", "cancelled")
"""Of many calls the first of these that one of them has is shown."""

NARROWEST, WIDEST = 40, 160
LONGEST_NAME = 32
SHOWN_FAILURES = 10


@dataclass(frozen=True, slots=True)
class Signs:
    """The characters that pictures are made of."""

    done: str
    failed: str
    running: str
    stopped: str
    cached: str
    replayed: str
    superseded: str
    waiting: str
    half: str
    gap: str
    rest: str
    dense: str
    marks: dict[str, str]
    cut: str


UNICODE = Signs(
    done="█",
    failed="▒",
    running="▓",
    stopped="░",
    cached="◆",
    replayed="◇",
    superseded="↷",
    waiting="┄",
    half="▌",
    gap="≈",
    rest=" ",
    dense="░▒▓█",
    marks={"completed": "✓", "failed": "✗", "running": "…", "open": "?", "answered": "✓"},
    cut="…",
)
ASCII = Signs(
    done="#",
    failed="x",
    running=">",
    stopped="-",
    cached="o",
    replayed="o",
    superseded="/",
    waiting=".",
    half="",
    gap="~",
    rest=" ",
    dense=".:+#",
    marks={"completed": "+", "failed": "x", "running": ">", "open": "?", "answered": "+"},
    cut="~",
)
COLOURS = {
    "done": "good",
    "failed": "bad",
    "running": "warn",
    "stopped": "dim",
    "cached": "dim",
    "replayed": "dim",
    "waiting": "warn",
}
MARK_COLOURS = {
    "completed": "good",
    "answered": "good",
    "failed": "bad",
    "aborted": "bad",
    "lost": "bad",
    "running": "warn",
    "open": "warn",
    "cancelled": "dim",
}
ENDED_BADLY = "-"
"""The mark of what was cancelled, declined or lost."""

MEANINGS = {
    "failed": "failed attempt",
    "running": "under way",
    "stopped": "cut off",
    "cached": "from the cache",
    "replayed": "taken over from the replayed execution, or given",
    "waiting": "waiting for an answer",
}
"""What the signs of bars stand for; those of what was done speak for themselves."""

NOTES = {"cancelled": "cancelled", "lost": "its runner is gone"}

SUPERSEDED = "superseded"
PASSED_BY = "superseded: the last attempt took another way"


def timeline(
    execution: Execution,
    style: Style = bare,
    *,
    width: int = 100,
    plain: bool = False,
    now: datetime | None = None,
    alone: bool = False,
) -> list[str]:
    """The picture: one line a call in the order in which they began, as wide as ``width`` characters at most.

    ``plain``: in ASCII. ``now`` is where what is still under way ends; ``alone``: nothing is, its runner is gone.
    Empty where there is nothing to draw.
    """
    if not execution.checkpoints and not execution.waits:
        return []
    signs = ASCII if plain else UNICODE
    lines, length = draw(execution, now or datetime.now(UTC), alone=alone)
    scale = Scale(lines, length)
    width = min(max(width, NARROWEST), WIDEST)
    groups = _grouped(lines)
    shown = groups[:MOST_LINES]
    rows = [_row(group[0], signs) if len(group) == 1 else _row_of_many(group, signs) for group in shown]
    bars: list[Bar] = [
        Drawn(group[0], scale, signs, style) if len(group) == 1 else Dense(group, scale, signs, style)
        for group in shown
    ]
    drawn = _table(rows, bars, length, scale, signs, style, width)
    if len(groups) > MOST_LINES:
        drawn.append(style(f"    and {count(len(groups) - MOST_LINES, 'more checkpoint')}", "dim"))
    drawn += _failed_of_many(groups, signs, style, width)
    return drawn + [style(text, "dim") for text in _legend(shown, scale.gaps, signs, width)]


def _grouped(lines: Sequence[Line]) -> list[list[Line]]:
    """What has a line of the picture: a call or wait alone, or all the calls of one name."""
    calls = Counter(line.subject.name for line in lines)
    most = MOST_CALLS
    if sum(1 if number > most else number for number in calls.values()) > MOST_LINES:
        most = 1
    groups: dict[tuple[str, int], list[Line]] = {}
    for place, line in enumerate(lines):
        name = line.subject.name
        groups.setdefault((name, -1 if calls[name] > most else place), []).append(line)
    return list(groups.values())


@dataclass(frozen=True, slots=True)
class _Row:
    mark: str
    mark_colour: str
    name: str
    took: str
    note: str
    name_colour: str = ""


def _row(line: Line, signs: Signs) -> _Row:
    subject = line.subject
    mark, colour = signs.marks.get(line.status, ENDED_BADLY), MARK_COLOURS[line.status]
    took = duration(line.end - line.start)
    if not isinstance(subject, CheckpointCall):
        by = f" by {subject.by}" if subject.by else ""
        said = {"open": "waits for an answer", "cancelled": "not answered"}
        return _passed_by(
            _Row(mark, colour, subject.name, took, said.get(line.status, f"{line.status}{by}")), line, signs
        )
    notes = [NOTES[line.status]] if line.status in NOTES else []
    if line.status == "lost":
        took = "-"
    if subject.cached_from is not None:
        mark, colour = signs.cached, "dim"
        notes.append("cached")
    if subject.given_by is not None:
        mark, colour, took = signs.replayed, "dim", "-"
        notes.append(f"given by {subject.given_by}")
    elif subject.original_call_id is not None:
        mark, colour, took = signs.replayed, "dim", "-"
        notes.append("replayed")
    if len(subject.attempts) > 1:
        notes.append(f"{len(subject.attempts)} attempts")
    return _passed_by(_Row(mark, colour, subject.name, took, ", ".join(notes)), line, signs)


def _passed_by(row: _Row, line: Line, signs: Signs) -> _Row:
    """The row as it is, or marked as one of an earlier attempt alone."""
    if not line.superseded:
        return row
    note = ", ".join(part for part in (SUPERSEDED, row.note) if part)
    return replace(row, mark=signs.superseded, mark_colour="dim", note=note, name_colour="dim")


def _table(
    rows: Sequence[_Row],
    bars: Sequence[Bar],
    length: float,
    scale: Scale,
    signs: Signs,
    style: Style,
    width: int,
) -> list[str]:
    names = min(max([len(row.name) for row in rows] + [10]), max(10, min(LONGEST_NAME, width // 3)))
    times = max(len(row.took) for row in rows)
    notes = max(len(row.note) for row in rows) if width >= 70 else 0
    room = max(width - names - times - notes - 8 - (2 if notes else 0), 8)
    lines = [style(f"    {'':<{names}} {axis(length, room, scale.gaps, signs)}", "dim")]
    for row, bar in zip(rows, bars, strict=True):
        name = f"{fitted(row.name, names, signs):<{names}}"
        name = style(name, row.name_colour) if row.name_colour else name
        text = f"  {style(row.mark, row.mark_colour)} {name} {bar(room)}  {row.took:>{times}}"
        lines.append(f"{text}  {style(row.note, 'dim')}".rstrip() if notes and row.note else text)
    return lines


class Drawn:
    """A bar that is drawn once it is known how much room there is."""

    def __init__(self, line: Line, scale: Scale, signs: Signs, style: Style) -> None:
        self._line, self._scale, self._signs, self._style = line, scale, signs, style

    def __call__(self, room: int) -> str:
        signs = self._signs
        cells = _resting(self._scale, signs, room)
        for part in self._line.segments:
            begin, end = self._scale.place(part.start) * room, self._scale.place(part.end) * room
            first = min(int(begin), room - 1)
            last = min(max(int(end), first + 1), room)
            sign, colour = getattr(signs, part.kind), "dim" if self._line.superseded else COLOURS[part.kind]
            for at in range(first, last):
                cells[at] = (sign, colour)
            if part.kind == "done" and signs.half and last < room and end - last >= 0.5:
                cells[last] = (signs.half, colour)
        return _coloured(cells, self._style)


class Dense:
    """A bar of many calls: in each cell, how many were under way at once, against the most there were in any."""

    def __init__(self, group: Sequence[Line], scale: Scale, signs: Signs, style: Style) -> None:
        self._group, self._scale, self._signs, self._style = group, scale, signs, style

    def __call__(self, room: int) -> str:
        signs = self._signs
        cells = _resting(self._scale, signs, room)
        changes = [0] * (room + 1)
        for line in self._group:
            first = _cell(self._scale.place(line.start), room)
            changes[first] += 1
            changes[max(_cell(self._scale.place(line.end), room), first) + 1] -= 1
        heights = list(accumulate(changes[:room]))
        most, steps, colour = max(max(heights), 1), len(signs.dense), MARK_COLOURS[_worst(self._group)]
        for at, height in enumerate(heights):
            if height:
                cells[at] = (signs.dense[-(-height * steps // most) - 1], colour)
        return _coloured(cells, self._style)


Bar = Drawn | Dense


def _resting(scale: Scale, signs: Signs, room: int) -> list[tuple[str, str]]:
    cells: list[tuple[str, str]] = [(signs.rest, "")] * room
    for gap in scale.gaps:
        for at in range(_cell(gap.start, room), max(_cell(gap.end, room), _cell(gap.start, room) + 1)):
            cells[at] = (signs.gap, "dim")
    return cells


def _cell(place: float, room: int) -> int:
    return min(int(place * room), room - 1)


def _coloured(cells: Sequence[tuple[str, str]], style: Style) -> str:
    """The cells, neighbours of one colour together."""
    parts: list[str] = []
    text, colour = "", ""
    for sign, wanted in [*cells, ("", "end")]:
        if wanted != colour and text:
            parts.append(style(text, colour) if colour else text)
            text = ""
        text, colour = text + sign, wanted
    return "".join(parts)


def axis(length: float, room: int, gaps: Sequence[Gap], signs: Signs) -> str:
    """``0 s`` at the left, the length at the right, what is shortened said in between."""
    cells = [" "] * room
    right = duration(length)
    marks = [(0, "0"), (room - len(right), right)]
    for gap in gaps:
        text = f"{signs.gap}{duration(gap.seconds)}"
        # Beside the length, at the right end, there is room to the left.
        marks.append((min(_cell(gap.start, room), room - len(right) - len(text) - 1), text))
    for start, text in marks:
        place = max(min(start, room - len(text)), 0)
        if all(cell == " " for cell in cells[max(place - 1, 0) : place + len(text) + 1]):
            cells[place : place + len(text)] = text
    return "".join(cells)[:room]


def fitted(name: str, room: int, signs: Signs) -> str:
    """The name, its middle left out where it is too long: long names often differ in their ends."""
    if len(name) <= room:
        return name
    end = room // 3
    return name[: room - end - 1] + signs.cut + name[len(name) - end :]


def duration(seconds: float) -> str:
    """``0 ms``, ``3.4 s``, ``2 min 5 s``, ``3 h 12 min``, ``2 d 4 h``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    return f"{whole} s"


def _row_of_many(group: Sequence[Line], signs: Signs) -> _Row:
    """How many, how long the middle one took, and what came of them."""
    worst = _worst(group)
    statuses = Counter(line.status for line in group)
    statuses["running"] += statuses.pop("open", 0)
    times = sorted(line.end - line.start for line in group)
    notes = [f"{statuses[what]:,} {what}" for what in ("failed", "running", "cancelled", "lost") if statuses[what]]
    for what in ("cached_from", "original_call_id"):
        if number := sum(getattr(line.subject, what, None) is not None for line in group):
            notes.append(f"{number:,} {'cached' if what == 'cached_from' else 'replayed'}")
    if number := sum(line.superseded for line in group):
        notes.append(f"{number:,} {SUPERSEDED}")
    mark, colour = signs.marks.get(worst, ENDED_BADLY), MARK_COLOURS[worst]
    took = f"{len(group):,} x {duration(times[len(times) // 2])}"
    return _Row(mark, colour, group[0].subject.name, took, ", ".join(notes))


def _worst(group: Sequence[Line]) -> str:
    statuses = {line.status for line in group if not line.superseded} or {line.status for line in group}
    return next((one for one in WORST if one in statuses), "completed")


def _failed_of_many(groups: Sequence[Sequence[Line]], signs: Signs, style: Style, width: int) -> list[str]:
    """The failures that have no line of their own."""
    lines = [line for group in groups if len(group) > 1 for line in group if not line.superseded]
    failed = [line.subject for line in lines if line.status == "failed"]
    drawn = []
    for call in failed[:SHOWN_FAILURES]:
        reason = getattr(call, "failure", None)
        text = f"{reason.type}: {reason.message}".splitlines()[0] if reason else ""
        where = call.call_id if isinstance(call, CheckpointCall) else call.wait_id
        drawn.append(f"  {style(signs.marks['failed'], 'bad')} {call.name} ({where})  {text[: width - 10]}".rstrip())
    if len(failed) > SHOWN_FAILURES:
        drawn.append(style(f"    and {len(failed) - SHOWN_FAILURES} more failed", "dim"))
    return drawn


def _legend(groups: Sequence[Sequence[Line]], gaps: Sequence[Gap], signs: Signs, width: int) -> list[str]:
    """What the signs mean that stand in this picture, as far as they do not speak for themselves."""
    kinds = {part.kind for group in groups if len(group) == 1 for part in group[0].segments}
    said = [(getattr(signs, kind), meaning) for kind, meaning in MEANINGS.items() if kind in kinds]
    if signs.cached == signs.replayed and {"cached", "replayed"} <= kinds:
        said = [(sign, meaning) for sign, meaning in said if sign != signs.cached]
        said.append((signs.cached, "taken over: cached or replayed"))
    if any(group[0].superseded for group in groups if len(group) == 1):
        said.append((signs.superseded, PASSED_BY))
    if any(len(group) > 1 for group in groups):
        said.append((signs.dense, "few to many at once"))
    if gaps:
        said.append((signs.gap, f"{duration(sum(gap.seconds for gap in gaps))} without a checkpoint, drawn shorter"))
    lines: list[str] = []
    for text in (f"{sign} {meaning}" for sign, meaning in said):
        if lines and len(lines[-1]) + len(text) + 3 <= width:
            lines[-1] += f"   {text}"
        else:
            lines.append(f"    {text}"[:width])
    return lines
