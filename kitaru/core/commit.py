"""(lockfile, edits) → next lockfile, or each requirement that is broken; and edits in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kitaru.core.protection import protect_words
from kitaru.core.renames import GONE, renamed
from kitaru.errors import KitaruIntegrityError
from kitaru.model.lockfile import (
    AddVersion,
    Broken,
    Drop,
    Edit,
    FlowState,
    Generation,
    Lockfile,
    Manage,
    Move,
    Protect,
    Rename,
    Retire,
    Untag,
)
from kitaru.model.plan import RouteMove
from kitaru.model.route import APPLY, Assignment, Hold, Protection, Route, describe_holders

BACK = {"retired": False, "renamed_to": "", "renamed_commit": ""}


@dataclass(frozen=True, slots=True)
class Stamp:
    """The mark of a generation on the routes that it moves: its number and time, its author, and the verb."""

    number: int
    at: str
    by: str
    via: str


def next_lockfile(
    lock: Lockfile, edits: Sequence[Edit], *, at: str, by: str, via: str = APPLY
) -> Lockfile | tuple[Broken, ...]:
    """The state after ``edits``, one generation on, with ``entry`` still open; or all the requirements that are broken.

    Renames come first. Every other edit is checked against the state after them and before the first of the others,
    save that a route may lead to a version added in the same list.
    """
    stamp = Stamp(lock.generation + 1, at, by, via)
    named = renamed(lock, edits)
    if isinstance(named, tuple):
        return named
    others = [edit for edit in edits if not isinstance(edit, Rename)]
    broken = tuple(problem for edit in others if (problem := _broken(named, edit)) is not None)
    if broken:
        return broken
    flows = dict(named.flows)
    for edit in others:
        flows[edit.flow] = _changed(flows.get(edit.flow), edit, stamp)
    return lock.model_copy(update={"generation": stamp.number, "entry": "", "flows": flows})


def add_version(flow: str, state: FlowState | None, snapshot: str, owner: str | None) -> AddVersion:
    """The edit that gives that snapshot the next number; ``owner`` None: no manifest declares the flow."""
    return AddVersion(
        kind="add_version",
        flow=flow,
        version=(state.latest if state else 0) + 1,
        snapshot=snapshot,
        managed=owner is not None,
        owner=owner or "",
        expects=state.latest if state else 0,
        deletions=state.deletions if state else 0,
    )


def move_of(
    flow: str,
    tag: str,
    state: FlowState | None,
    holders: tuple[Assignment, ...],
    *,
    exclusive: bool,
    managed: bool,
    hold: Hold | None = None,
    floor: str | None = None,
    forward: bool = False,
) -> Move:
    """The edit that leads ``tag`` from its place in ``state`` to ``holders``; a hold that is not given ends.

    ``floor``: the commit that the route remembers. ``forward``: the edit is valid only above the present floor.
    """
    route = state.routes.get(tag) if state and not state.retired else None
    return Move(
        kind="move",
        flow=flow,
        tag=tag,
        holders=holders,
        exclusive=exclusive,
        managed=managed,
        expects=route.holders if route else None,
        expects_floor=route.floor if route and forward else None,
        deletions=state.deletions if state else 0,
        hold=hold,
        ends_hold=hold is None and route is not None and route.hold is not None,
        floor=floor,
        converts=route is not None and route.exclusive != exclusive,
    )


def route_move(edit: Move | Untag, route: Route | None, reason: str = "") -> RouteMove:
    """The edit of a route that is now ``route``, as a plan shows it."""
    last = {"moved_at": route.at, "moved_by": route.by} if route else {}
    if isinstance(edit, Untag):
        return RouteMove(tag=edit.tag, before=edit.expects, reason=reason, **last)
    after, kind = edit.holders, {"exclusive": edit.exclusive, "converts": edit.converts}
    return RouteMove(tag=edit.tag, before=edit.expects, after=after, reason=reason, **kind, **last)


def fold(lock: Lockfile, entry: Generation, entry_digest: str) -> Lockfile:
    """The state after ``entry``. Raises ``KitaruIntegrityError`` if the entry does not follow, or leads elsewhere."""
    hint = "the lock log was changed by hand; restore the store from a backup"
    name = f"generation {entry.generation} of project {entry.project}"
    if entry.generation != lock.generation + 1 or entry.parent != lock.entry:
        raise KitaruIntegrityError(f"{name} does not follow generation {lock.generation}", hint=hint)
    following = next_lockfile(lock, entry.edits, at=entry.at, by=entry.by, via=entry.verb)
    if isinstance(following, tuple) or following.state_digest != entry.state_digest:
        raise KitaruIntegrityError(f"{name} does not lead to the state it claims", hint=hint)
    return following.model_copy(update={"entry": entry_digest})


# --- requirements -----------------------------------------------------------------------------------------------------


def _broken(lock: Lockfile, edit: Edit) -> Broken | None:
    flow = lock.flows.get(edit.flow)
    match edit:
        case AddVersion(expects=expects) | Retire(expects=expects) if (flow.latest if flow else 0) != expects:
            wanted = f"v{expects}" if expects else "no version yet"
            return Broken(edit.flow, None, f"expected {wanted}, found v{flow.latest if flow else 0}")
        case AddVersion() | Move() if flow and flow.deletions != edit.deletions:
            tag = edit.tag if isinstance(edit, Move) else None
            return Broken(edit.flow, tag, "a version was deleted in the meantime")
        case Move() | Untag():
            return _broken_route(edit, flow)
        case Drop() if flow is None or flow.table != edit.expects:
            return Broken(edit.flow, None, "the flow has other versions by now")
        case Drop(version=version) if flow:
            routes = flow.routes.items()
            held = [(tag, route) for tag, route in routes if route.exclusive and version in route.versions]
            for tag, route in held[:1]:
                message = f"v{version} holds an exclusive tag"
                return Broken(edit.flow, tag, message, route.generation, route.by, route.at)
        case Manage() if flow is None:
            return Broken(edit.flow, None, "the flow is gone")
        case Protect(expects=rules) if (flow.protect if flow else {}) != rules:
            return Broken(edit.flow, None, "its routes are protected otherwise by now")
    return None


def _broken_route(edit: Move | Untag, flow: FlowState | None) -> Broken | None:
    route = flow.routes.get(edit.tag) if flow and not flow.retired else None
    holders = route.holders if route else None
    message = ""
    if holders != edit.expects:
        message = f"expected {describe_holders(edit.expects)}, found {describe_holders(holders)}"
    elif isinstance(edit, Move) and route is not None:
        if route.hold is not None and edit.hold is None and not edit.ends_hold:
            message = "a rollback holds it"
        elif edit.expects_floor not in (None, route.floor):
            message = "it was set from another commit in the meantime"
    if not message:
        return None
    return Broken(edit.flow, edit.tag, message, *((route.generation, route.by, route.at) if route else ()))


# --- changes ----------------------------------------------------------------------------------------------------------


def _changed(flow: FlowState | None, edit: Edit, stamp: Stamp) -> FlowState:
    if isinstance(edit, AddVersion):
        new = {"latest": edit.version, "snapshot": edit.snapshot, "table": edit.table}
        managed = {"managed": True, "owner": edit.owner} if edit.managed else {}
        if flow is None:
            return FlowState(**new, **managed)
        gone: dict[str, Any] = {"routes": {}, "untagged": {}} if flow.retired else {}
        return flow.model_copy(update={**new, **gone, **managed, **BACK, "latest_deleted": False})
    if flow is None:
        raise KitaruIntegrityError(f"an edit of {edit.flow} stands before the flow's first version")
    match edit:
        case Move(tag=tag):
            routes = {**flow.routes, tag: _moved(flow.routes.get(tag), edit, stamp)}
            untagged = {name: route for name, route in flow.untagged.items() if name != tag}
            return flow.model_copy(update={"routes": routes, "untagged": untagged})
        case Untag(tag=tag) if tag in flow.routes:  # Else another edit of the same generation took it away.
            routes = dict(flow.routes)
            untagged = {name: route for name, route in flow.untagged.items() if name != tag}
            route = routes.pop(tag)
            if route.managed and stamp.via != APPLY:
                # Remembered, unless the manifest itself removes it.
                mark = {"generation": stamp.number, "at": stamp.at, "by": stamp.by, "via": stamp.via, "hold": None}
                untagged[tag] = route.model_copy(update=mark)
            return flow.model_copy(update={"routes": routes, "untagged": untagged})
        case Manage():
            return flow.model_copy(update={**BACK, "managed": True, "owner": edit.owner})
        case Retire():
            return flow.model_copy(update=GONE)
        case Drop(version=version):
            kept = {
                tag: tuple(one for one in route.holders if one.version != version) for tag, route in flow.routes.items()
            }
            return flow.model_copy(
                update={
                    "table": edit.table,
                    # A label that the version alone held is gone.
                    "routes": {
                        tag: flow.routes[tag].model_copy(update={"holders": left}) for tag, left in kept.items() if left
                    },
                    "deletions": flow.deletions + 1,
                    "latest_deleted": flow.latest_deleted or version == flow.latest,
                }
            )
        case Protect():
            generation = stamp.number if edit.rules else 0
            return flow.model_copy(update={"protect": edit.rules, "protect_generation": generation})
    return flow


def _moved(previous: Route | None, edit: Move, stamp: Stamp) -> Route:
    floor = edit.floor if edit.floor is not None else previous.floor if previous else ""
    if previous and (previous.holders, previous.exclusive) == (edit.holders, edit.exclusive):
        # Nothing moves: the author of the last move stays the one.
        return previous.model_copy(update={"managed": edit.managed, "hold": edit.hold, "floor": floor})
    return Route(
        **{name: getattr(edit, name) for name in ("holders", "exclusive", "managed", "hold")},
        generation=stamp.number,
        at=stamp.at,
        by=stamp.by,
        via=stamp.via,
        floor=floor,
    )


# --- edits in words ---------------------------------------------------------------------------------------------------


def edit_words(edit: Edit) -> str:
    """The change that the edit makes to its flow: ``v3 built``, ``stable: v1 → v2``, ``canary removed (was v2)``."""
    match edit:
        case AddVersion(version=version):
            return f"v{version} built"
        case Move():
            return _move_words(edit)
        case Untag(tag=tag, expects=before):
            return f"{tag} removed (was {describe_holders(before)})"
        case Manage():
            return "declared by the manifest"
        case Retire():
            return "removed with its routes; its versions stay"
        case Rename(was=was):
            return f"renamed from {was}"
        case Drop(version=version):
            return f"v{version} deleted"
        case Protect():
            return "; ".join(protect_words(edit))


def _move_words(edit: Move) -> str:
    after = describe_holders(edit.holders)
    if edit.expects == edit.holders:
        text = f"{edit.tag} stays at {after}"
    elif edit.expects is None:
        text = f"{edit.tag} → {after}"
    else:
        text = f"{edit.tag}: {describe_holders(edit.expects)} → {after}"
    if edit.converts:
        text += f", now {'an exclusive route' if edit.exclusive else 'a shared label'}"
    elif not edit.exclusive:
        text += " (label)"
    return f"{text}{', the hold ends' if edit.ends_hold else ', on hold' if edit.hold is not None else ''}"


def edit_data(edit: Edit) -> dict[str, Any]:
    """The edit as JSON data: ``kind``, ``flow``, ``text``, and the fields of its kind.

    add_version, drop: ``version``. move, untag: ``tag``, ``before`` and ``after`` as lists of
    ``{"version", "weight"}``, null without a route. move: ``exclusive``, and if they apply ``hold``, ``ends_hold``,
    ``converts``, ``floor``. rename: ``was``. protect: ``rules`` and ``was`` by tag, ``{"branch", "clean"}`` each.
    """
    data: dict[str, Any] = {"kind": edit.kind, "flow": edit.flow, "text": edit_words(edit)}
    match edit:
        case AddVersion(version=version) | Drop(version=version):
            data["version"] = version
        case Move():
            data |= {"tag": edit.tag, "before": holders_data(edit.expects), "after": holders_data(edit.holders)}
            data["exclusive"] = edit.exclusive
            if edit.hold is not None:
                data["hold"] = {"left": holders_data(edit.hold.left), "reason": edit.hold.reason}
            data |= {name: value for name in ("ends_hold", "converts", "floor") if (value := getattr(edit, name))}
        case Untag(tag=tag, expects=before):
            data |= {"tag": tag, "before": holders_data(before), "after": None}
        case Rename(was=was):
            data["was"] = was
        case Protect(rules=rules, expects=expects):
            data |= {"rules": _rules_data(rules), "was": _rules_data(expects)}
        case _:
            pass
    return data


def holders_data(holders: Sequence[Assignment] | None) -> list[dict[str, int]] | None:
    """``[{"version": 2, "weight": 100}]``; None if there is no route."""
    return None if holders is None else [{"version": one.version, "weight": one.weight} for one in holders]


def _rules_data(rules: Mapping[str, Protection]) -> dict[str, Any]:
    return {tag: {"branch": rule.branch, "clean": rule.clean} for tag, rule in sorted(rules.items())}
