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

Told = Callable[[int], str]
"""(generation) → ``by Ann from 1a2b3c4d5e6f on main``; empty if the log does not have it."""


def untold(_generation: int) -> str:
    """No author, for a question that needs none."""
    return ""


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
    stricter = {tag: rule for tag, rule in wanted.items() if tag not in applied or _implies(rule, applied[tag])}
    return protected(flow, {**applied, **stricter}, state)


def _implies(rule: Protection, other: Protection) -> bool:
    """Whether ``other`` lets everything through that ``rule`` does."""
    return (not other.branch or rule.branch == other.branch) and (rule.clean or not other.clean)


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
    wanted: Rules, edits: Sequence[Edit], lock: Lockfile, commit: Commit, told: Told = untold
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
                    found.append(f"{edit.flow}: route {tag} moves {only}, {_origin(generation, told)}; {here}")
        if isinstance(edit, Protect) and state is not None:
            found += _liftings(edit, state, commit, told)
    return tuple(dict.fromkeys(found))


def _liftings(edit: Protect, state: FlowState, commit: Commit, told: Told) -> Iterator[str]:
    """Why the rules that ``edit`` takes away, or changes, stay."""
    for tag in _changed_tags(edit):
        before = edit.expects.get(tag)
        for only, here in _refusals(before, commit) if before else ():
            verb = "changed" if tag in edit.rules else "lifted"
            origin = _origin(state.protect_generation, told)
            yield f"{edit.flow}: protection of {tag}, {origin}, is {verb} {only}; {here}"


def handed_over(wanted: Rules, edits: Sequence[Edit], state: FlowState | None, commit: Commit | None) -> dict[str, str]:
    """Tag → sentence, for routes of a live flow whose moves are left to another branch.

    The branch that an applied rule names may give the route to another one. The new rule binds it already: so the rule
    changes, the route stays, and the branch that has it from now on moves it.
    """
    found: dict[str, str] = {}
    for edit in edits:
        if state is None or commit is None or not isinstance(edit, Move) or not _led_elsewhere(edit, state):
            continue
        applied, said = state.protect.get(edit.tag), wanted.get(edit.tag)
        if not (applied and applied.branch and said and said.branch) or _refusals(applied, commit):
            continue
        if applied.branch == commit.branch != said.branch and is_branch(said.branch):
            route = state.routes.get(edit.tag)
            stays = f"stays at {describe_holders(route.holders)}" if route else "is not placed yet"
            found[edit.tag] = f"{edit.tag} {stays}: branch {said.branch} has it from now on, and apply there moves it"
    return found


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
    if not generation:
        return "as the manifest says"
    author = told(generation)
    return f"as applied in generation {generation}{f' {author}' if author else ''}"


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
