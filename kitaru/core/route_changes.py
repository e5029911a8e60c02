"""How a plan tells what becomes of one route: it moves, it stays where it is, or a rollback keeps it there. Pure."""

from __future__ import annotations

from kitaru.core.holding import Return, barred_words
from kitaru.model.plan import Held, RouteMove
from kitaru.model.route import Head, Holder, Route, RouteWish

Holders = tuple[Holder, ...]


def settled(route: Route, holders: Holders, managed: bool, exclusive: bool) -> bool:
    """Whether nothing is to be done to the route: it is there, under the manifest's care, and free."""
    there = same(route.holders, holders) and route.exclusive == exclusive
    return there and route.managed >= managed and route.hold is None


def same(before: Holders, after: Holders) -> bool:
    """Whether they are the same in any order; ``after`` is ascending."""
    return tuple(sorted(before, key=lambda holder: holder.version)) == after


def held_at(tag: str, route: Route, wanted: Holders, why: str = "") -> Held:
    """A route that a rollback holds, whatever is wanted; ``why`` it does so where that is where it is."""
    reason = route.hold.reason if route.hold else ""
    return Held(tag=tag, holders=route.holders, wanted=wanted, reason=reason, at=route.at, by=route.by, why=why)


def barred_at(tag: str, route: Route | None, wanted: Holders, stop: Return) -> Held:
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


def move_reason(wish: RouteWish, managed: bool, route: Route | None, holders: Holders, exclusive: bool) -> str:
    """Why the plan moves the route, or touches it where it is."""
    if route is not None and same(route.holders, holders) and route.exclusive != exclusive:
        return f"the manifest makes it {'an exclusive route' if exclusive else 'a shared label'}"
    if route is not None and route.holders == holders:
        return "the manifest agrees: the rollback's hold ends" if route.hold else "now managed by the manifest"
    if not managed:
        return "the first version gets default"
    return "head is the version that this commit builds" if isinstance(wish, Head) else "the manifest says so"
