"""Routes that only a branch may move: by the manifest, and by what was applied, which binds where no manifest is. Pure.

A rule of the manifest is written into the lockfile by the next apply, flow by flow. From then on it binds every verb,
wherever it runs, until an apply that the rule itself lets through lifts it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from kitaru.core.resolving import did_you_mean
from kitaru.errors import KitaruStateError
from kitaru.model.lockfile import Edit, FlowState, Lockfile, Move, Protect, Rename, Retire, Untag
from kitaru.model.manifest import Manifest, is_branch
from kitaru.model.plan import Consequence
from kitaru.model.route import DEFAULT_TAG, Protection, Route, describe_holders
from kitaru.model.snapshot import Commit

Rules = Mapping[str, Protection]
"""Tag → who may move the route."""

Told = Callable[[int], str]
"""(generation) → ``by Ann from 1a2b3c4d5e6f on main``: who wrote it; empty where that is not to be told."""


def untold(_generation: int) -> str:
    """For who only asks whether anything is forbidden."""
    return ""


def protected(flow: str, wanted: Rules, state: FlowState | None) -> tuple[Protect, ...]:
    """The edit that makes the manifest's rules the applied ones; none where they are."""
    applied = state.protect if state else {}
    if applied == dict(wanted):
        return ()
    return (Protect(kind="protect", flow=flow, rules=dict(wanted), expects=applied),)


def tightened(flow: str, wanted: Rules, state: FlowState | None) -> tuple[Protect, ...]:
    """As ``protected``, of a verb that is no apply: it adds rules and makes them stricter, and takes none away.

    A rule that asks for something else than the one that was applied waits for an apply: only that may lift what is.
    """
    applied = state.protect if state else {}
    stricter = {tag: rule for tag, rule in wanted.items() if tag not in applied or _implies(rule, applied[tag])}
    return protected(flow, {**applied, **stricter}, state)


def protect_words(edit: Protect) -> tuple[str, ...]:
    """What the edit changes, one sentence for each tag."""
    return tuple(_change_words(tag, edit.expects.get(tag), edit.rules.get(tag)) for tag in _changed_tags(edit))


def shut_out(edit: Protect, state: FlowState | None) -> tuple[Consequence, ...]:
    """Routes in use that a single branch moves from now on: all others are shut out, and can't take that back."""
    found = []
    for tag in _changed_tags(edit):
        before, rule = edit.expects.get(tag), edit.rules.get(tag)
        if state is None or tag not in state.routes or rule is None or not rule.branch:
            continue
        if before is None or before.branch != rule.branch:
            text = f"{tag} moves only from branch {rule.branch} from now on; no other branch can move it, or lift that"
            found.append(Consequence(kind="protected", text=text, severe=True, routes=(tag,)))
    return tuple(found)


def handed_over(wanted: Rules, edits: Sequence[Edit], state: FlowState | None, commit: Commit | None) -> dict[str, str]:
    """The routes of a live flow whose moves are left to another branch, each with the sentence that says so.

    The branch that an applied rule names may give the route to another one. It can't move it as well: the manifest's
    rule binds it already. So the rule changes, the route stays, and the branch that has it from now on moves it.
    """
    found: dict[str, str] = {}
    for edit in edits:
        if state is None or commit is None or not isinstance(edit, Move) or not _led_elsewhere(edit, state):
            continue
        applied, said = state.protect.get(edit.tag), wanted.get(edit.tag)
        if applied is None or said is None or _refuses(applied, commit) or not (applied.branch and said.branch):
            continue
        if applied.branch == commit.branch != said.branch and is_branch(said.branch):
            route = state.routes.get(edit.tag)
            stays = f"stays at {describe_holders(route.holders)}" if route else "is not placed yet"
            found[edit.tag] = f"{edit.tag} {stays}: branch {said.branch} has it from now on, and apply there moves it"
    return found


def unplaced(manifest: Manifest, lock: Lockfile | None = None) -> tuple[str, ...]:
    """Protected tags that no flow has a route for, one sentence each; in no overlay either, nor in the store.

    That may be meant: a route can be protected before it is placed.
    """
    if not manifest.protect:
        return ()
    overlays = [flow for overlay in manifest.targets.values() for flow in (overlay.flows or {}).values()]
    named = {
        DEFAULT_TAG,
        *(tag for flow in manifest.flows.values() for tag in flow.routes),
        *(str(tag) for flow in overlays for tag in flow.get("routes") or {}),
    }
    there = {tag for state in (lock.flows.values() if lock else ()) for tag in state.routes}
    return tuple(
        f"protect: no flow has a route {tag!r} yet{did_you_mean(tag, sorted(named | there))}"
        for tag in manifest.protect
        if tag not in named | there
    )


def guards(
    wanted: Rules, edits: Sequence[Edit], lock: Lockfile, commit: Commit, told: Told = untold
) -> tuple[str, ...]:
    """Why a plan's edits may not be carried out from ``commit``; empty when they may.

    ``wanted`` are the manifest's rules, ``lock`` the state in which the renames are made. A protected route moves,
    goes, or gets its flow's new name only as its rules say; a rule that was applied is lifted, or made another, only as
    it says itself. A rule that is new binds nobody before it. ``told`` is asked only of rules that refuse something.
    """
    found: list[str] = []
    for edit in edits:
        state = lock.flows.get(edit.flow)
        for tag in _led_elsewhere(edit, state):
            for rule, generation in _rules(tag, state, wanted):
                if _refuses(rule, commit):
                    origin = f", {_origin(generation, told)}"
                    found += _refusals(rule, commit, f"{edit.flow}: route {tag} moves", origin)
        if isinstance(edit, Protect):
            found += _liftings(edit, state, commit, told)
    return tuple(dict.fromkeys(found))


def check_protected(wanted: Rules, flow: str, tag: str, state: FlowState | None) -> None:
    """Raise ``KitaruStateError`` for a route that moves only by apply. ``state``: the flow's, retired or not."""
    for rule, generation in _rules(tag, state, wanted):
        ways = [f"from branch {rule.branch}"] if rule.branch else []
        ways += ["from a clean commit"] if rule.clean else []
        raise KitaruStateError(
            f"route {tag} of {flow} is protected: it moves only {', '.join(['by apply', *ways])} "
            f"({_origin(generation, untold)})",
            hint="in the repository: --manifest-only writes the move to the manifest; let that branch apply it",
        )


def _rules(tag: str, state: FlowState | None, wanted: Rules) -> Iterator[tuple[Protection, int]]:
    """Every rule that binds the route, and the generation that applied it, 0 for the manifest's; an equal one once."""
    applied = state.protect.get(tag) if state else None
    if state is not None and applied is not None:
        yield applied, state.protect_generation
    said = wanted.get(tag)
    if said is not None and said != applied:
        yield said, 0


def _origin(generation: int, told: Told) -> str:
    """Where a rule comes from, in words."""
    if not generation:
        return "as the manifest says"
    who = told(generation)
    return f"as applied in generation {generation}{f' {who}' if who else ''}"


def _led_elsewhere(edit: Edit, state: FlowState | None) -> Sequence[str]:
    """The tags that callers find elsewhere, or otherwise, after the edit."""
    routes = state.routes if state else {}
    match edit:
        case Move(tag=tag):
            return () if _stays(edit, routes.get(tag)) else (tag,)
        case Untag(tag=tag):
            return (tag,)
        case Retire() | Rename():
            return tuple(routes)
        case _:
            return ()


def _stays(edit: Move, route: Route | None) -> bool:
    """Whether the route is left where it is: it only comes under the manifest's care, or loses its hold."""
    return route is not None and (set(route.holders), route.exclusive) == (set(edit.holders), edit.exclusive)


def _liftings(edit: Protect, state: FlowState | None, commit: Commit, told: Told) -> Iterator[str]:
    """Why the rules that ``edit`` takes away, or makes others, stay."""
    for tag in _changed_tags(edit):
        rule = edit.expects.get(tag)
        if rule is not None and _refuses(rule, commit):
            verb = "changed" if tag in edit.rules else "lifted"
            origin = _origin(state.protect_generation, told) if state else ""
            yield from _refusals(rule, commit, f"{edit.flow}: protection of {tag}, {origin}, is {verb}", "")


def _implies(rule: Protection, other: Protection) -> bool:
    """Whether what ``rule`` lets through, ``other`` does."""
    return (not other.branch or rule.branch == other.branch) and (rule.clean or not other.clean)


def _changed_tags(edit: Protect) -> list[str]:
    return [tag for tag in sorted({*edit.expects, *edit.rules}) if edit.expects.get(tag) != edit.rules.get(tag)]


def _refuses(rule: Protection, commit: Commit) -> bool:
    return any(_refusals(rule, commit, "", ""))


def _refusals(rule: Protection, commit: Commit, subject: str, origin: str) -> Iterator[str]:
    """What ``commit`` lacks of what the rule asks for.

    Older stores may hold a rule with a branch that nothing can ever be on: of that, a clean commit is asked.
    """
    possible = not rule.branch or is_branch(rule.branch)
    if possible and rule.branch and commit.branch != rule.branch:
        here = f"on {commit.branch}" if commit.branch else "not on a branch"
        yield f"{subject} only from branch {rule.branch}{origin}; this commit is {here}"
    if (rule.clean or not possible) and commit.dirty:
        yield f"{subject} only from a clean commit{origin}; there are changes"


def _change_words(tag: str, before: Protection | None, after: Protection | None) -> str:
    was = f" (was: {_asks(before)})" if before else ""
    if after is None:
        return f"{tag} is protected no longer{was}"
    return f"{tag} is protected {'otherwise' if before else 'from now on'}: {_asks(after)}{was}"


def _asks(rule: Protection) -> str:
    """What a rule asks for, in few words: ``branch main, clean commit``."""
    asked = [f"branch {rule.branch}"] if rule.branch else []
    return ", ".join([*asked, "clean commit"] if rule.clean else asked) or "only by apply"
