"""Rollback and the order of deploys: holds, floors, and the way back of a route. Pure.

A rollback leaves a hold. It keeps the route until the manifest names numbers that no rollback took off it, or until
``head`` builds the version that it leads to. Each apply records the commit from which it set a route, its floor.
``head`` moves the route only from a commit that contains the floor, as Git moves a branch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from kitaru.model.address import short
from kitaru.model.lockfile import AddVersion, Edit, FlowState, Move
from kitaru.model.plan import Consequence, Held
from kitaru.model.route import (
    DEFAULT_TAG,
    Assignment,
    Hold,
    Route,
    RouteTarget,
    ascending,
    describe_holders,
    versions_named,
)

ROLLBACK = "rollback"
"""The verb of a generation that led a route back."""

Holders = tuple[Assignment, ...]

Contains = Callable[[str], bool | None]
"""(commit) → whether the commit at hand contains it; None where a shallow clone can't tell."""


def why_not_after(commit: str, contains: Contains) -> str:
    """Why the commit at hand does not count as later than ``commit``; empty if it contains it.

    ``this commit does not contain 1a2b3c4d5e6f``
    """
    contained = contains(commit) if commit else True
    if contained is None:
        return f"this clone is too shallow to tell whether the commit contains {short(commit)} (fetch-depth: 0)"
    return "" if contained else f"this commit does not contain {short(commit)}"


# --- holds ------------------------------------------------------------------------------------------------------------


def hold_of(route: Route, holders: Holders, reason: str) -> Hold:
    """The hold that a rollback of ``route`` to ``holders`` leaves: all versions that were left since the last one."""
    left = (*(route.hold.left if route.hold else ()), *route.holders)
    kept = {one.version: one for one in left if one.version not in {other.version for other in holders}}
    return Hold(left=tuple(kept.values()), reason=reason)


def rollback_words(route: Route | None, holders: Holders) -> tuple[str, ...]:
    """One sentence for each of ``holders`` that the route's hold keeps off it, by number or by content.

    ``v2 was rolled back by Ann on 2026-11-22: it loses orders``
    """
    if route is None or route.hold is None:
        return ()
    reason = f": {route.hold.reason}" if route.hold.reason else ""
    event = f"rolled back by {route.by} on {route.at[:10]}{reason}"
    sentences = []
    for one in holders:
        same = [left.version for left in route.hold.left if one.snapshot == left.snapshot]
        if one.version in (left.version for left in route.hold.left):
            sentences.append(f"v{one.version} was {event}")
        elif same and one not in route.holders:
            sentences.append(f"v{one.version} has the content of v{same[-1]}, which was {event}")
    return tuple(sentences)


def held_versions(state: FlowState) -> frozenset[int]:
    """The versions that a hold keeps off a route now: no hint suggests one of them."""
    return frozenset(one.version for route in state.routes.values() if route.hold for one in route.hold.left)


def held(tag: str, target: RouteTarget, route: Route | None, wanted: Holders, contains: Contains) -> Held | None:
    """The hold that keeps the route in its place; None if there is none, or it ends."""
    if route is None or route.hold is None:
        return None
    why = ""
    if None not in versions_named(target):
        if not rollback_words(route, wanted):
            return None
    elif ascending(route.holders) == wanted:
        why = why_not_after(route.floor, contains)
        if not why:
            return None
    last = {"reason": route.hold.reason, "at": route.at, "by": route.by}
    return Held(tag=tag, holders=route.holders, wanted=wanted, why=why, way=_way_out(tag, route, wanted), **last)


def _way_out(tag: str, route: Route, wanted: Holders) -> str:
    """The manifest edit that ends the hold; empty for a route that is divided."""
    if len(wanted) != 1 or len(route.holders) != 1:
        return ""
    here, there = route.holders[0].version, wanted[0].version
    keep = f"to keep v{here}: write {tag}: {here}"
    if here == there or rollback_words(route, wanted):
        return f"{keep}, or revert the bad commit, and merge"
    return f"to release v{there}: write {tag}: {there} and merge, or kitaru apply --force; {keep}"


# --- the order of deploys ---------------------------------------------------------------------------------------------


def backward(tag: str, before: Holders | None, floor: str, after: Holders, contains: Contains) -> str:
    """Why a move of the route is no step forward from its ``floor``; empty if it is one.

    ``default would move from v3 to v1: this commit does not contain 1a2b3c4d5e6f, from which it was last set``
    """
    if before is None or ascending(before) == ascending(after):
        return ""
    why = why_not_after(floor, contains)
    move = f"{tag} would move from {describe_holders(before)} to {describe_holders(after)}"
    return f"{move}: {why}, from which it was last set" if why else ""


def refusals(edits: Sequence[Edit], contains: Contains) -> tuple[str, ...]:
    """Why moves that go forward only may not be made from the commit at hand, each with the ways out."""
    found = []
    for edit in edits:
        if not isinstance(edit, Move) or edit.expects_floor is None:
            continue
        if why := backward(edit.tag, edit.expects, edit.expects_floor, edit.holders, contains):
            back = f"kitaru rollback {edit.flow}{'' if edit.tag == DEFAULT_TAG else f' {edit.tag}'}"
            ways = f"pull or merge it; to go back: {back}; to move it all the same: kitaru apply --force"
            ways = ways if contains(edit.expects_floor) is False else "fetch the whole history"
            found.append(f"{edit.flow}: {why}; {ways}")
    return tuple(found)


def override(tag: str, route: Route | None, wanted: Holders, back: str) -> Consequence | None:
    """The rollback, or the order of commits (``back``), that a forced move passes over; None if neither."""
    texts = [back] if back else []
    if route is not None and route.hold is not None:
        texts = [*(rollback_words(route, wanted) or rollback_words(route, route.hold.left)), *texts]
    if not texts:
        return None
    text = "; ".join(texts)
    text = f"{text if text.startswith(f'{tag} ') else f'{tag}: {text}'} (--force)"
    reached = tuple(one.version for one in wanted)
    return Consequence(kind="override", text=text, severe=True, routes=(tag,), reached=reached)


# --- the way back -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """One move of a route: its holders before and after, and whether it was a rollback."""

    before: Holders
    after: Holders
    rollback: bool = False


@dataclass(frozen=True, slots=True)
class WayBack:
    """The place that a rollback leads a route to; no holders if there is none left.

    ``skipped``: the places that it passes over, in words, newest first. ``label``: the route was a shared label before.
    """

    holders: Holders = ()
    skipped: tuple[str, ...] = ()
    label: bool = False


def steps(entries: Iterable[tuple[Sequence[Edit], str]], names: Collection[str], tag: str) -> Iterator[Step]:
    """The moves of a route, newest first, from ``(edits, verb)`` of generations, newest first.

    ``names`` are all names that the flow ever had. No entry before the flow's first version is asked for.
    """
    for edits, verb in entries:
        own = [edit for edit in edits if edit.flow in names]
        for edit in own:
            if isinstance(edit, Move) and edit.tag == tag and ascending(edit.expects or ()) != ascending(edit.holders):
                yield Step(ascending(edit.expects or ()), ascending(edit.holders), verb == ROLLBACK)
        if any(isinstance(edit, AddVersion) and edit.expects == 0 for edit in own):
            return


def way_back(history: Iterable[Step], here: Holders, versions: Collection[int]) -> WayBack:
    """The place of the route before ``here``; ``versions`` are those that are not deleted.

    A second rollback goes one step further back, never to a version that a rollback left. One to a version that the
    route never led to undid the newest step alone.
    """
    here = place = ascending(here)
    left: list[Holders] = []
    deleted: list[Holders] = []
    beside: Holders = ()
    for step in history:
        if step.rollback:
            left.append(step.before)
            continue
        fresh = step.before not in (here, *left)
        usable = bool(step.before) and fresh and all(one.version in versions for one in step.before)
        beside = beside or (step.before if usable else ())
        if step.after != place:
            continue
        place = step.before
        if not place or sum(one.weight for one in place) != 100:
            return WayBack((), _skipped(left, deleted), label=bool(place))
        if usable:
            return WayBack(place, _skipped(left, deleted))
        if fresh:
            deleted.append(place)
    return WayBack(beside if place == here else (), _skipped(left, deleted))


def _skipped(left: Sequence[Holders], deleted: Sequence[Holders]) -> tuple[str, ...]:
    texts = [f"{describe_holders(one)}, which a rollback left" for one in left]
    return tuple(dict.fromkeys([*texts, *(f"{describe_holders(one)}, which was deleted" for one in deleted)]))
