"""When a rollback's hold ends by agreement, and what is remembered of it then. Pure.

A manifest that says ``head`` may agree only because it is old: the commit that went before the bad one says the same
``head``, and builds the very version that the route was led back to. Only a commit that came after the bad one, and
builds that version all the same, means it.

Git's own word that the bad commit was reverted means it as well, whatever else has changed since; so does a number that
is newer than the bad one.

Once the hold has ended, the bad commit itself, or one on top of it, is what a stale clone or an old job may still stand
at. So the version stays held off from every commit that does not contain the one at which the hold ended: who releases
it again from there on has seen that it was taken back. And so does whatever else is built from a commit that has the
bad one, and not the end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from kitaru.core.wishing import asked
from kitaru.model.address import short
from kitaru.model.lockfile import FlowState, Release
from kitaru.model.plan import Consequence
from kitaru.model.route import Assignment, HeldOff, Hold, Route, RouteTarget

REMEMBERED = 3
"""Rollbacks of one route that are remembered after their holds."""

Lacks = Callable[[Collection[int]], Sequence[Release]]
"""(versions) → those of them that were built from a commit which the one at hand does not contain."""


Contains = Callable[[str], bool]
"""(a commit's id) → whether the commit at hand is that one, or came after it."""

Origins = Callable[[Collection[int]], Sequence[Release]]
"""(versions) → their rows of the version table, those of deleted ones too."""

Marks = tuple[HeldOff, ...]


@dataclass(frozen=True, slots=True)
class Return:
    """A version that a move would release again, though a rollback took it, or its content, off the route."""

    version: int
    mark: HeldOff

    @property
    def left(self) -> int:
        """The number of the version that was rolled back: this one, or another of the same content."""
        numbers = [holder.version for holder in self.mark.left]
        return self.version if self.version in numbers else numbers[-1]

    @property
    def text(self) -> str:
        """``v2 was rolled back by Ann on 2026-11-22: it loses orders``."""
        why = f": {self.mark.reason}" if self.mark.reason else ""
        said = f"was rolled back by {self.mark.by} on {self.mark.at[:10]}{why}"
        if self.left == self.version:
            return f"v{self.version} {said}"
        return f"v{self.version} has the content of v{self.left}, which {said}"


@dataclass(frozen=True, slots=True)
class Behind:
    """The commit at hand has the release that was rolled back, and not the commit with which that ended."""

    mark: HeldOff
    release: Release

    @property
    def text(self) -> str:
        """Why the route stays, and what to do."""
        return f"{self.doubt}: git pull, or merge that"

    @property
    def doubt(self) -> str:
        """What speaks against whatever this commit builds."""
        mark, release = self.mark, self.release
        why = f" ({mark.reason})" if mark.reason else ""
        return (
            f"this commit has the release that {mark.by} rolled back{why}, v{release.version} from "
            f"{short(release.commit.sha) if release.commit else ''}, and not {short(mark.commit)}, with which the "
            "rollback ended"
        )


def lacks_none(_versions: Collection[int]) -> Sequence[Release]:
    """For a flow that nothing is held of."""
    return ()


def why_still_held(tag: str, route: Route, wish: RouteTarget, lacks: Lacks) -> str:
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


def newer(wish: RouteTarget, there: Sequence[int], left: Sequence[Assignment]) -> bool:
    """Whether the manifest names only versions that came after all of ``left``, beside those that are ``there``.

    Whoever wrote that knew of more than the bad release.
    """
    versions = asked(wish)
    newest = max((one.version for one in left), default=0)
    return all(version is not None and (version > newest or version in there) for version in versions)


def why_freed(
    route: Route, marks: Marks, wish: RouteTarget, after: Sequence[Assignment], origins: Origins, reverted: Contains
) -> str:
    """Why a hold ends though the route is to lead elsewhere than it was rolled back to; empty where it stays.

    Never for what any rollback took off. ``reverted``: whether Git says so of a commit's id; it is asked for head only.
    """
    if route.hold is None or returns(route, marks, after):
        return ""
    if newer(wish, route.versions, route.hold.left):
        return "the manifest names what came after the bad version: the rollback's hold ends"
    if None not in asked(wish):
        return ""
    going = [one for mark in marks if mark.goes_on for one in mark.left]
    left = {one.version for one in (*route.hold.left, *going)} - set(route.versions)
    before = {one.version for mark in marks if not mark.goes_on for one in mark.left}
    if not left or left & before:  # Rolled back before, and released again: a revert may be that of the first time.
        return ""
    shas = [row.commit.sha for row in origins(left) if row.commit is not None and not row.commit.dirty]
    if len(shas) < len(left) or not all(reverted(sha) for sha in shas):
        return ""
    return f"{', '.join(short(sha) for sha in shas)} was reverted: the rollback's hold ends"


# --- after the hold ---------------------------------------------------------------------------------------------------


def marks_of(state: FlowState | None, tag: str) -> Marks:
    """What is remembered of rollbacks of the route, oldest first."""
    return state.held_off.get(tag, ()) if state is not None else ()


def remembered(
    route: Route | None, marks: Marks, after: Sequence[Assignment], *, commit: str = "", hold: Hold | None = None
) -> Marks | None:
    """What is remembered of rollbacks once a route leads to ``after``; None where that is what was.

    ``marks`` is what was; ``hold`` the one that is left then, and ``commit`` the one by whose apply the former ends: no
    commit where nothing was applied, or not what the commit holds. A version that this very move leads to is no longer
    held off.
    """
    if route is None or route.hold is None:
        return None
    mark = _mark(route, route.hold).model_copy(update={"commit": "" if hold else commit, "goes_on": hold is not None})
    found = marks
    if hold is None:
        found = tuple(_ended(one, commit) if one.goes_on else one for one in marks)
    return _with(found, _without(mark, after))


def remembered_at_once(route: Route, marks: Marks, after: Sequence[Assignment], reason: str) -> Marks:
    """The same of a rollback that leaves no hold, since the manifest agrees with it already: nothing is to end.

    Who made it, and when, says the generation.
    """
    before = remembered(route, marks, after) or marks
    return _with(before, _without(HeldOff(left=route.holders, reason=reason), after))


def returns(route: Route | None, marks: Marks, after: Sequence[Assignment]) -> tuple[Return, ...]:
    """The versions of ``after`` that a rollback took off the route, newest rollback first, each told once.

    By number or by content; what the route leads to already does not come back. A hold that lives counts as well.
    """
    before = route.holders if route is not None else ()
    if route is not None and route.hold is not None:
        marks = (*marks, _mark(route, route.hold))
    there = {one.version for one in before} | {one.snapshot for one in before}
    found: dict[int, Return] = {}
    for mark in reversed(marks):
        left = {one.version for one in mark.left} | {one.snapshot for one in mark.left}
        for one in after:
            is_new = one.version not in there and one.snapshot not in there
            if is_new and (one.version in left or one.snapshot in left):
                found.setdefault(one.version, Return(one.version, mark))
    return tuple(found.values())


def barred(coming: Sequence[Return], contains: Contains) -> Return | None:
    """The first of them that this commit may not release: it does not contain the one at which the hold ended."""
    return next((one for one in coming if one.mark.commit and not contains(one.mark.commit)), None)


def behind(marks: Marks, origins: Origins, contains: Contains) -> Behind | None:
    """The newest rollback whose release this commit has, and whose end it has not.

    A version of no commit, or of changes that no commit has, is known by number and content only.
    """
    for mark in reversed(marks):
        if not mark.commit or contains(mark.commit):
            continue
        for row in origins({one.version for one in mark.left}):
            if row.commit is not None and not row.commit.dirty and contains(row.commit.sha):
                return Behind(mark, row)
    return None


def bound_anew(marks: Marks, commit: str, contains: Contains) -> Marks | None:
    """What is remembered once the manifest has named a newer version at ``commit``, which does not have all the ends.

    Where those were squashed away no commit ever would. None where that changes nothing.
    """
    if not commit:
        return None
    found = tuple(
        one if not one.commit or contains(one.commit) else one.model_copy(update={"commit": commit}) for one in marks
    )
    return found if found != marks else None


def barred_words(stop: Return | Behind) -> str:
    """Why the route stays, and what to do."""
    if isinstance(stop, Behind):
        return stop.text
    one = stop
    return (
        f"this commit does not contain {short(one.mark.commit)}, with which the rollback of v{one.left} ended "
        f"(git pull, or fetch the whole history); {one.text}"
    )


def return_consequence(tag: str, coming: Sequence[Return], unaware: Behind | None = None) -> Consequence:
    """What a reviewer must know of a move that brings back what was taken off, or may: its commit is ``unaware``."""
    doubt = [unaware.doubt] if unaware is not None else []
    return Consequence(
        kind="rolled_back",
        text=f"{tag}: {'; '.join([*(one.text for one in coming), *doubt])}",
        severe=True,
        routes=(tag,),
        reached=tuple(sorted(one.version for one in coming)),
    )


def _mark(route: Route, hold: Hold) -> HeldOff:
    return HeldOff(left=hold.left, by=route.by, at=route.at, reason=hold.reason)


def _ended(mark: HeldOff, commit: str) -> HeldOff:
    return mark.model_copy(update={"commit": commit or mark.commit, "goes_on": False})


def _without(mark: HeldOff, after: Sequence[Assignment]) -> HeldOff:
    led_to = {one.version for one in after} | {one.snapshot for one in after}
    left = tuple(one for one in mark.left if one.version not in led_to and one.snapshot not in led_to)
    return mark.model_copy(update={"left": left})


def _with(marks: Marks, mark: HeldOff) -> Marks:
    """One more, with the newest ``REMEMBERED`` kept. What is said of a version anew takes the place of what was.

    Except for the commit that it is bound to: an end without one frees nobody.
    """
    if not mark.left:
        return marks
    anew = {one.version for one in mark.left}
    bound = [one.commit for one in marks if one.commit and anew & {left.version for left in one.left}]
    if bound and not mark.commit:
        mark = mark.model_copy(update={"commit": bound[-1]})
    others = [one.model_copy(update={"left": tuple(o for o in one.left if o.version not in anew)}) for one in marks]
    return (*(one for one in others if one.left), mark)[-REMEMBERED:]
