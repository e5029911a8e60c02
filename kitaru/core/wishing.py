"""What a manifest's wish for a route names, and which version ``head`` is for it. Pure."""

from __future__ import annotations

from kitaru.model.route import Head, Label, Pin, Route, RouteTarget, Split


def asked(wish: RouteTarget) -> tuple[int | None, ...]:
    """The versions that a wish names; None is head."""
    match wish:
        case Head():
            return (None,)
        case Pin(version):
            return (version,)
        case Label(versions):
            return versions
        case Split(weights):
            return tuple(version for version, _ in weights)


def numbers(wish: RouteTarget) -> tuple[int, ...]:
    """The versions that a wish names by their numbers."""
    return tuple(version for version in asked(wish) if version is not None)


def head_of(wish: RouteTarget, route: Route | None, version: int, snapshot: str) -> int:
    """The version that head is for a route: ``version``, of that snapshot, or one of the same that holds it already.

    A build that nobody asked for in the manifest may give the same content a higher number; no route moves for that.
    """
    same = {holder.version for holder in route.holders if holder.snapshot == snapshot} if route is not None else set()
    named = same & set(numbers(wish))
    free = same - named
    if not free and isinstance(wish, Label):
        free = named
    return max(free, default=version)
