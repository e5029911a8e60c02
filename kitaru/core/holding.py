"""When a rollback's hold ends by agreement: a manifest that says ``head`` may agree only because it is old. Pure.

The commit that went before the bad one says the same ``head``, and builds the very version that the route was led back
to. Only a commit that came after the bad one, and builds that version all the same, means it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from kitaru.core.wishing import asked
from kitaru.model.address import short
from kitaru.model.lockfile import Release
from kitaru.model.route import Route, RouteWish

Lacks = Callable[[Collection[int]], Sequence[Release]]
"""(versions) → those of them that were built from a commit which the one at hand does not contain."""


def lacks_none(_versions: Collection[int]) -> Sequence[Release]:
    """For a flow that nothing is held of."""
    return ()


def why_still_held(tag: str, route: Route, wish: RouteWish, lacks: Lacks) -> str:
    """Why the hold stays though the manifest agrees with the route; empty where it ends, or none is there.

    A number in the manifest is a word of its own, from whichever commit. ``lacks`` is asked for no other wish.
    """
    if route.hold is None or None not in asked(wish):
        return ""
    left = {holder.version for holder in route.hold.left} - set(route.versions)
    lacking = lacks(left) if left else ()
    if not lacking:
        return ""
    bad = max(lacking, key=lambda release: release.version)
    sha = short(bad.commit.sha) if bad.commit else ""
    number = f"{tag}: {route.versions[0]}" if len(route.versions) == 1 else f"the numbers of {tag}"
    return (
        f"this commit does not contain {sha}, whose v{bad.version} was rolled back "
        f"(pull, or fetch the whole history; or write {number})"
    )
