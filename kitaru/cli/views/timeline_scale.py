"""From moments to places on a line: what a picture of an execution is drawn along. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Literal

from kitaru.model.address import parse_timestamp
from kitaru.model.execution import CheckpointCall, Execution
from kitaru.model.wait import Wait

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
