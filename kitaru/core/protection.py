"""Routes that only a branch may move: by the manifest's rules, and by those that were applied. Pure.

The next apply writes the manifest's rules into the lockfile, flow by flow. From then on they bind every verb, with or
without a manifest, until an apply that they let through lifts them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from kitaru.core.renames import did_you_mean
from kitaru.errors import KitaruStateError
from kitaru.model.lockfile import Edit, FlowState, Lockfile, Move, Protect, Rename, Retire, Untag
from kitaru.model.manifest import Manifest, is_branch
from kitaru.model.plan import Consequence
from kitaru.model.route import DEFAULT_TAG, Protection, describe_holders
from kitaru.model.snapshot import Commit

Rules = Mapping[str, Protection]
"""Tag → the rule of its route."""

Author = Callable[[int], str]
"""(generation) → ``by Ann from 1a2b3c4d5e6f on main``; empty if the log does not have it."""


# --- rules ------------------------------------------------------------------------------------------------------------


def protected(flow: str, wanted: Rules, state: FlowState | None) -> tuple[Protect, ...]:
    """The edit that makes the manifest's rules the applied ones; none if they are."""
    applied = state.protect if state else {}
    if applied == dict(wanted):
        return ()
    return (Protect(kind="protect", flow=flow, rules=dict(wanted), expects=applied),)


def tightened(flow: str, wanted: Rules, state: FlowState | None) -> tuple[Protect, ...]:
    """As ``protected``, for a verb that is no apply: it adds rules and makes them stricter, and takes none away."""
    applied = state.protect if state else {}

    def is_stricter(rule: Protection, other: Protection) -> bool:
        return (not other.branch or rule.branch == other.branch) and (rule.clean or not other.clean)

    stricter = {tag: rule for tag, rule in wanted.items() if tag not in applied or is_stricter(rule, applied[tag])}
    return protected(flow, {**applied, **stricter}, state)


def protect_words(edit: Protect) -> tuple[str, ...]:
    """One sentence for each tag: ``stable is protected from now on: branch main, clean commit``."""
    sentences = []
    for tag in _changed_tags(edit):
        before, after = edit.expects.get(tag), edit.rules.get(tag)
        was = f" (was: {_rule_words(before)})" if before else ""
        now = f"{'otherwise' if before else 'from now on'}: {_rule_words(after)}" if after else "no longer"
        sentences.append(f"{tag} is protected {now}{was}")
    return tuple(sentences)


def _rule_words(rule: Protection) -> str:
    """``branch main, clean commit``"""
    branch = [f"branch {rule.branch}"] if rule.branch else []
    return ", ".join([*branch, "clean commit"] if rule.clean else branch) or "only by apply"


def _changed_tags(edit: Protect) -> list[str]:
    return [tag for tag in sorted({*edit.expects, *edit.rules}) if edit.expects.get(tag) != edit.rules.get(tag)]


def shut_out(edit: Protect, state: FlowState | None) -> tuple[Consequence, ...]:
    """Routes in use that a single branch moves from now on: the others are shut out, and can't take that back."""
    found = []
    for tag in _changed_tags(edit):
        before, rule = edit.expects.get(tag), edit.rules.get(tag)
        if state is None or tag not in state.routes or rule is None or not rule.branch:
            continue
        if before is None or before.branch != rule.branch:
            text = f"{tag} moves only from branch {rule.branch} from now on; no other branch can move it, or lift that"
            found.append(Consequence(kind="protected", text=text, severe=True, routes=(tag,)))
    return tuple(found)


def unplaced(manifest: Manifest, lock: Lockfile | None = None) -> tuple[str, ...]:
    """Protected tags without a route in the manifest, its overlays and the store, one sentence each."""
    if not manifest.protect:
        return ()
    overlays = [flow for overlay in manifest.targets.values() for flow in (overlay.flows or {}).values()]
    routes = {
        DEFAULT_TAG,
        *(tag for flow in manifest.flows.values() for tag in flow.routes),
        *(str(tag) for flow in overlays for tag in flow.get("routes") or {}),
        *(tag for state in (lock.flows.values() if lock else ()) for tag in state.routes),
    }
    return tuple(
        f"protect: no flow has a route {tag!r} yet{did_you_mean(tag, sorted(routes))}"
        for tag in manifest.protect
        if tag not in routes
    )


# --- refusals ---------------------------------------------------------------------------------------------------------


def guards(
    wanted: Rules, edits: Sequence[Edit], lock: Lockfile, commit: Commit, author: Author = lambda _generation: ""
) -> tuple[str, ...]:
    """Why a plan's edits may not be carried out from ``commit``; empty if they may.

    ``wanted`` are the manifest's rules, ``lock`` the state in which the renames are made. A protected route moves,
    goes, or gets its flow's new name only as its rules say, and an applied rule changes only as it says itself. A new
    rule binds only later moves.
    """
    found: list[str] = []
    for edit in edits:
        state = lock.flows.get(edit.flow)
        for tag in _led_elsewhere(edit, state):
            for rule, generation in _rules(tag, state, wanted):
                for only, here in _refusals(rule, commit):
                    found.append(f"{edit.flow}: route {tag} moves {only}, {_origin(generation, author)}; {here}")
        if not isinstance(edit, Protect) or state is None:
            continue
        for tag in _changed_tags(edit):
            before, verb = edit.expects.get(tag), "changed" if tag in edit.rules else "lifted"
            for only, here in _refusals(before, commit) if before else ():
                origin = _origin(state.protect_generation, author)
                found.append(f"{edit.flow}: protection of {tag}, {origin}, is {verb} {only}; {here}")
    return tuple(dict.fromkeys(found))


def handed_over(wanted: Rules, move: Move, state: FlowState | None, commit: Commit) -> str:
    """The sentence that says that the move of a live flow's route is left to another branch; empty if it is not.

    The branch that an applied rule names may give the route to another one. The new rule binds it already: so the rule
    changes, the route stays, and the branch that has it from now on moves it.
    """
    applied, said = state.protect.get(move.tag) if state else None, wanted.get(move.tag)
    if not (applied and applied.branch and said and said.branch) or not _led_elsewhere(move, state):
        return ""
    if _refusals(applied, commit) or said.branch == commit.branch or not is_branch(said.branch):
        return ""
    route = state.routes.get(move.tag) if state else None
    stays = f"stays at {describe_holders(route.holders)}" if route else "is not placed yet"
    return f"{move.tag} {stays}: branch {said.branch} has it from now on, and apply there moves it"


def check_protected(wanted: Rules, flow: str, tag: str, state: FlowState | None) -> None:
    """Raise ``KitaruStateError`` for a route that moves only by apply. ``state``: the flow's, retired or not."""
    for rule, generation in _rules(tag, state, wanted):
        ways = [f"from branch {rule.branch}"] if rule.branch else []
        ways += ["from a clean commit"] if rule.clean else []
        raise KitaruStateError(
            f"route {tag} of {flow} is protected: it moves only {', '.join(['by apply', *ways])} "
            f"({_origin(generation)})",
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


def _origin(generation: int, author: Author = lambda _generation: "") -> str:
    if not generation:
        return "as the manifest says"
    return f"as applied in generation {generation} {author(generation)}".rstrip()


def _led_elsewhere(edit: Edit, state: FlowState | None) -> Sequence[str]:
    """The tags that callers find elsewhere, or otherwise, after the edit."""
    routes = state.routes if state else {}
    match edit:
        case Move(tag=tag, holders=holders, exclusive=exclusive):
            route = routes.get(tag)
            stays = route is not None and (set(route.holders), route.exclusive) == (set(holders), exclusive)
            return () if stays else (tag,)
        case Untag(tag=tag):
            return (tag,)
        case Retire() | Rename():
            return tuple(routes)
        case _:
            return ()


def _refusals(rule: Protection, commit: Commit) -> list[tuple[str, str]]:
    """The rule's demands that ``commit`` does not meet: ``("only from branch main", "this commit is on side")``."""
    found = []
    if rule.branch and commit.branch != rule.branch:
        here = f"on {commit.branch}" if commit.branch else "not on a branch"
        found.append((f"only from branch {rule.branch}", f"this commit is {here}"))
    if rule.clean and commit.dirty:
        found.append(("only from a clean commit", "there are changes"))
    return found
