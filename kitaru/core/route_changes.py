"""How a plan tells what becomes of one route: it moves, it stays where it is, or a rollback keeps it there. Pure."""

from __future__ import annotations

from kitaru.core.holding import Behind, Return, barred_words
from kitaru.model.plan import Held, RouteMove
from kitaru.model.route import Assignment, Head, Route, RouteTarget

Holders = tuple[Assignment, ...]


def settled(route: Route, holders: Holders, managed: bool, exclusive: bool) -> bool:
    """Whether nothing is to be done to the route: it is there, under the manifest's care, and free."""
    there = same(route.holders, holders) and route.exclusive == exclusive
    return there and route.managed >= managed and route.hold is None


def same(before: Holders, after: Holders) -> bool:
    """Whether they are the same in any order; ``after`` is ascending."""
    return tuple(sorted(before, key=lambda holder: holder.version)) == after


def held_at(tag: str, route: Route, wanted: Holders, why: str = "", way: str = "") -> Held:
    """A route that a rollback holds, whatever is wanted; ``why`` it does so where that is where it is."""
    reason = route.hold.reason if route.hold else ""
    return Held(
        tag=tag, holders=route.holders, wanted=wanted, reason=reason, at=route.at, by=route.by, why=why, way=way
    )


def way_out_of_hold(flow: str, tag: str, route: Route, wanted: Holders, *, protected: bool) -> str:
    """How a held route comes to what the manifest wants; empty where it wants no single version."""
    left = route.hold.left if route.hold else ()
    if len(wanted) != 1:
        return ""
    version = wanted[0].version
    by_hand = "" if protected else f"kitaru flow tag {flow} {tag} --version {version} --exclusive"
    if version > max((one.version for one in left), default=0):
        return f"to release v{version}: {', or '.join([f'write {tag}: {version} and merge', *_some(by_hand)])}"
    here = route.holders[0].version
    kept = f"to keep v{here}: write {tag}: {here}, or revert the bad commit, and merge"
    return "; ".join([kept, *_some(by_hand and f"to release v{version} all the same: {by_hand}")])


def way_past_end(flow: str, tag: str, wanted: Holders, stop: Return | Behind, *, protected: bool) -> str:
    """What helps where the commit with which a rollback ended is on no branch any more."""
    version = str(wanted[0].version) if len(wanted) == 1 else "N"
    by_hand = "" if protected else f"kitaru flow tag {flow} {tag} --version {version} --exclusive"
    # A number that was rolled back is refused wherever it is written.
    written = f"write {tag}: {version} and merge" if isinstance(stop, Behind) else ""
    if isinstance(stop, Return) and not by_hand:
        written = f"build another version, and write its number for {tag}"
    ways = ", or ".join([*_some(written), *_some(by_hand)])
    return f"or, where that commit was squashed or rebased away: {ways}"


def _some(text: str) -> list[str]:
    return [text] if text else []


def barred_at(tag: str, route: Route | None, wanted: Holders, stop: Return | Behind, way: str) -> Held:
    """A route that stays where it is, since this commit knows nothing of how the rollback of ``wanted`` ended."""
    mark = stop.mark
    there = route.holders if route else ()
    return Held(
        tag=tag,
        holders=there,
        wanted=wanted,
        reason=mark.reason,
        at=mark.at,
        by=mark.by,
        why=barred_words(stop),
        ended=mark.commit,
        way=way,
    )


def route_move(tag: str, route: Route | None, after: Holders, exclusive: bool, reason: str) -> RouteMove:
    """The route leads to ``after``; None: it is a new one."""
    return RouteMove(
        tag=tag,
        before=route.holders if route else None,
        after=after,
        exclusive=exclusive,
        converts=route is not None and route.exclusive != exclusive,
        reason=reason,
        moved_at=route.at if route else "",
        moved_by=route.by if route else "",
    )


def move_reason(wish: RouteTarget, managed: bool, route: Route | None, holders: Holders, exclusive: bool) -> str:
    """Why the plan moves the route, or touches it where it is."""
    if route is not None and same(route.holders, holders) and route.exclusive != exclusive:
        return f"the manifest makes it {'an exclusive route' if exclusive else 'a shared label'}"
    if route is not None and route.holders == holders:
        return "the manifest agrees: the rollback's hold ends" if route.hold else "now managed by the manifest"
    if not managed:
        return "the first version gets default"
    return "head is the version that this commit builds" if isinstance(wish, Head) else "the manifest says so"
