"""Whether a route goes where the manifest wants it, or a rollback keeps it where it is. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from kitaru.core.holding import (
    Behind,
    Contains,
    Lacks,
    Marks,
    Origins,
    Return,
    barred,
    behind,
    bound_anew,
    lacks_none,
    newer,
    returns,
    why_freed,
    why_still_held,
)
from kitaru.core.route_changes import Holders, barred_at, held_at, same, way_out_of_hold, way_past_end
from kitaru.model.plan import Held
from kitaru.model.route import Route, RouteTarget


@dataclass(frozen=True, slots=True)
class History:
    """What Git and the version table say, each asked for only where a rollback is or was."""

    lacks: Lacks = lacks_none
    origins: Origins = lacks_none
    contains: Contains = lambda _sha: True
    reverted: Contains = lambda _sha: False


@dataclass(frozen=True, slots=True)
class Turn:
    """One route, and what the manifest wants of it. ``commit``: the clean one that is planned for, or nothing."""

    flow: str
    tag: str
    wish: RouteTarget
    route: Route | None
    wanted: Holders
    protected: bool = False
    commit: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """``held`` where the route stays. Else what comes back to it, and why a hold ends.

    ``marks`` are what is remembered of rollbacks where the move itself changes that; None where it does not.
    ``unaware``: the move is to a number that the manifest names, from a commit that lacks the end of a rollback.
    """

    held: Held | None = None
    coming: tuple[Return, ...] = ()
    freed: str = ""
    marks: Marks | None = None
    unaware: Behind | None = None


def turn_of(turn: Turn, marks: Marks, history: History) -> Outcome:
    """What a rollback, now or once, makes of the turn."""
    tag, wish, route, wanted = turn.tag, turn.wish, turn.route, turn.wanted
    agrees = route is not None and same(route.holders, wanted)
    freed = ""
    if route is not None and route.hold is not None:
        why = why_still_held(tag, route, wish, history.lacks) if agrees else ""
        freed = "" if agrees else why_freed(route, marks, wish, wanted, history.origins, history.reverted)
        if why or not (agrees or freed):
            way = "" if agrees else way_out_of_hold(turn.flow, tag, route, wanted, protected=turn.protected)
            return Outcome(held_at(tag, route, wanted, why, way))
    coming = returns(route, marks, wanted)
    stop = barred(coming, history.contains)
    if stop is not None:
        return Outcome(_barred(turn, stop))
    if agrees:
        return Outcome(coming=coming, freed=freed)
    old = behind(marks, history.origins, history.contains)
    # A number that is newer than what was rolled back is a word of its own, and the next end to be contained.
    left = [one for mark in marks for one in mark.left]
    if marks and newer(wish, route.versions if route is not None else (), left):
        bound = bound_anew(marks, turn.commit, history.contains)
        return Outcome(coming=coming, freed=freed, marks=bound, unaware=old)
    return Outcome(_barred(turn, old)) if old is not None else Outcome(coming=coming, freed=freed)


def _barred(turn: Turn, stop: Return | Behind) -> Held:
    way = way_past_end(turn.flow, turn.tag, turn.wanted, stop, protected=turn.protected)
    return barred_at(turn.tag, turn.route, turn.wanted, stop, way)
