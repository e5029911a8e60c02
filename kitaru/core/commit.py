"""(lockfile, edits) → next lockfile, or the broken requirement of each subject. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kitaru.core.naming import first_name, present_name
from kitaru.errors import KitaruIntegrityError
from kitaru.model.lockfile import (
    AddVersion,
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
from kitaru.model.route import APPLY, Assignment, Hold, Route, describe_holders


@dataclass(frozen=True, slots=True)
class Broken:
    """An edit whose requirement no longer holds: whose, and how it is now."""

    flow: str
    tag: str | None
    message: str
    generation: int = 0
    by: str = ""
    at: str = ""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a generation writes on the routes that it moves: its number, its time, who wrote it, and with which verb."""

    number: int
    at: str
    by: str
    via: str


def next_lockfile(
    lock: Lockfile, edits: Sequence[Edit], *, at: str, by: str, via: str = APPLY
) -> Lockfile | tuple[Broken, ...]:
    """The state after ``edits``, one generation on, with ``entry`` still open; or all the requirements that are broken.

    Renames come first. Every other edit is checked against the state after them and before the first of the others,
    save that a route may lead to a version minted in the same list.
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


def renamed(lock: Lockfile, edits: Sequence[Edit]) -> Lockfile | tuple[Broken, ...]:
    """The state in which the flows that ``edits`` rename have their new names, in the same generation."""
    flows = dict(lock.flows)
    broken = []
    for edit in edits:
        if not isinstance(edit, Rename):
            continue
        old = flows.get(edit.was)
        if old is None or old.renamed_to or (old.retired, old.latest) != (edit.retired, edit.expects):
            found = "no such flow" if old is None or old.renamed_to or old.retired else f"v{old.latest}"
            broken.append(Broken(edit.was, None, f"expected v{edit.expects}, found {found}"))
        elif edit.flow in flows and present_name(flows, edit.flow) != edit.was:
            broken.append(Broken(edit.flow, None, "expected a name that was never used"))
        else:
            back = edit.flow in flows
            flows[edit.flow] = old.model_copy(update={"first_name": first_name(flows, edit.was)}) if back else old
            gone = {
                "routes": {},
                "untagged": {},
                "managed": False,
                "owner": "",
                "retired": True,
                "renamed_to": edit.flow,
                "renamed_commit": edit.commit,
                "first_name": "",
            }
            flows[edit.was] = old.model_copy(update=gone)
    return tuple(broken) if broken else lock.model_copy(update={"flows": flows})


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
    """The edit that leads ``tag`` from where it is in ``state`` to ``holders``; a hold that is not given ends."""
    route = state.routes.get(tag) if state and not state.retired else None
    return Move(
        kind="move",
        flow=flow,
        tag=tag,
        holders=holders,
        exclusive=exclusive,
        managed=managed,
        expects=route.holders if route else None,
        deletions=state.deletions if state else 0,
        hold=hold,
        ends_hold=hold is None and route is not None and route.hold is not None,
        floor=floor,
        forward=forward,
        converts=route is not None and route.exclusive != exclusive,
    )


def fold(lock: Lockfile, entry: Generation, entry_digest: str) -> Lockfile:
    """The state after ``entry``. Raises ``KitaruIntegrityError`` when the entry does not follow, or leads elsewhere."""
    if entry.generation != lock.generation + 1 or entry.parent != lock.entry:
        raise KitaruIntegrityError(
            f"generation {entry.generation} of project {entry.project} does not follow generation {lock.generation}",
            hint="the lock log was changed by hand; restore the store from a backup",
        )
    following = next_lockfile(lock, entry.edits, at=entry.at, by=entry.by, via=entry.verb)
    if isinstance(following, tuple) or following.state_digest != entry.state_digest:
        raise KitaruIntegrityError(
            f"generation {entry.generation} of project {entry.project} does not lead to the state it claims",
            hint="the lock log was changed by hand; restore the store from a backup",
        )
    return following.model_copy(update={"entry": entry_digest})


def _broken(lock: Lockfile, edit: Edit) -> Broken | None:
    flow = lock.flows.get(edit.flow)
    match edit:
        case AddVersion(expects=expects) | Retire(expects=expects):
            latest = flow.latest if flow else 0
            if latest != expects:
                wanted = f"v{expects}" if expects else "no version yet"
                return Broken(edit.flow, None, f"expected {wanted}, found v{latest}")
        case Move(deletions=seen) if flow and flow.deletions != seen:
            return Broken(edit.flow, edit.tag, "a version was deleted in the meantime")
        case Move(tag=tag, hold=None, ends_hold=False) if flow and (route := flow.routes.get(tag)) and route.hold:
            return Broken(edit.flow, tag, "a rollback holds it", route.generation, route.by, route.at)
        case Move(tag=tag, expects=expects) | Untag(tag=tag, expects=expects):
            return _broken_route(edit.flow, flow, tag, expects)
        case Drop():
            return _broken_drop(flow, edit)
        case Manage() if flow is None:
            return Broken(edit.flow, None, "the flow is gone")
        case Protect(expects=expects) if (flow.protect if flow else {}) != expects:
            return Broken(edit.flow, None, "its routes are protected otherwise by now")
    return None


def _broken_route(name: str, flow: FlowState | None, tag: str, expects: tuple[Assignment, ...] | None) -> Broken | None:
    route = flow.routes.get(tag) if flow and not flow.retired else None
    found = route.holders if route else None
    if found == expects:
        return None
    message = f"expected {describe_holders(expects)}, found {describe_holders(found)}"
    if route is None:
        return Broken(name, tag, message)
    return Broken(name, tag, message, route.generation, route.by, route.at)


def _broken_drop(flow: FlowState | None, edit: Drop) -> Broken | None:
    if flow is None or flow.table != edit.expects:
        return Broken(edit.flow, None, "the flow has other versions by now")
    for tag, route in flow.routes.items():
        if route.exclusive and edit.version in route.versions:
            return Broken(
                edit.flow, tag, f"v{edit.version} holds an exclusive tag", route.generation, route.by, route.at
            )
    return None


def _changed(
    flow: FlowState | None, edit: AddVersion | Move | Untag | Manage | Retire | Drop | Protect, stamp: Stamp
) -> FlowState:
    match edit:
        case AddVersion():
            return _minted(flow, edit)
        case Move():
            state = _present(flow, edit)
            moved = _moved(state.routes.get(edit.tag), edit, stamp)
            return state.model_copy(
                update={
                    "routes": {**state.routes, edit.tag: moved},
                    "untagged": _without(state.untagged, edit.tag),
                }
            )
        case Untag():
            return _untagged(_present(flow, edit), edit, stamp)
        case Manage():
            back = {"managed": True, "retired": False, "renamed_to": "", "renamed_commit": "", "owner": edit.owner}
            return _present(flow, edit).model_copy(update=back)
        case Retire():
            gone = {"routes": {}, "untagged": {}, "managed": False, "owner": "", "retired": True}
            return _present(flow, edit).model_copy(update=gone)
        case Drop():
            return _dropped(_present(flow, edit), edit)
        case Protect():
            bound = {"protect": edit.rules, "protect_generation": stamp.number if edit.rules else 0}
            return _present(flow, edit).model_copy(update=bound)


def _minted(flow: FlowState | None, edit: AddVersion) -> FlowState:
    fresh = FlowState(
        latest=edit.version, snapshot=edit.snapshot, table=edit.table, managed=edit.managed, owner=edit.owner
    )
    if flow is None:
        return fresh
    kept = {
        "routes": {} if flow.retired else flow.routes,
        "managed": edit.managed or flow.managed,
        "owner": edit.owner if edit.managed else flow.owner,
        "untagged": {} if flow.retired else flow.untagged,
        "deletions": flow.deletions,
        "first_name": flow.first_name,
        "protect": flow.protect,
        "protect_generation": flow.protect_generation,
    }
    return fresh.model_copy(update=kept)


def _moved(previous: Route | None, edit: Move, stamp: Stamp) -> Route:
    floor = edit.floor if edit.floor is not None else previous.floor if previous else ""
    if previous and (previous.holders, previous.exclusive) == (edit.holders, edit.exclusive):
        # Nothing moves: who moved it last stays true.
        return previous.model_copy(update={"managed": edit.managed, "hold": edit.hold, "floor": floor})
    return Route(
        holders=edit.holders,
        exclusive=edit.exclusive,
        managed=edit.managed,
        generation=stamp.number,
        at=stamp.at,
        by=stamp.by,
        via=stamp.via,
        hold=edit.hold,
        floor=floor,
    )


def _without(routes: Mapping[str, Route], tag: str) -> dict[str, Route]:
    return {name: route for name, route in routes.items() if name != tag}


def _untagged(state: FlowState, edit: Untag, stamp: Stamp) -> FlowState:
    """Without the route; what the manifest manages is remembered, unless it is the manifest that removes it."""
    tag = edit.tag
    gone = _without(state.untagged, tag)
    route = state.routes.get(tag)
    if route is None:  # Another edit of the same generation took it away.
        return state
    if route.managed and stamp.via != APPLY:
        mark = {"generation": stamp.number, "at": stamp.at, "by": stamp.by, "via": stamp.via, "hold": None}
        gone[tag] = route.model_copy(update=mark)
    return state.model_copy(update={"routes": _without(state.routes, tag), "untagged": gone})


def _dropped(state: FlowState, edit: Drop) -> FlowState:
    """Without the version; a label that it held loses it, and one that it alone held is gone."""
    routes = {}
    for tag, route in state.routes.items():
        left = tuple(holder for holder in route.holders if holder.version != edit.version)
        if left:
            routes[tag] = route if left == route.holders else route.model_copy(update={"holders": left})
    return state.model_copy(
        update={
            "table": edit.table,
            "routes": routes,
            "deletions": state.deletions + 1,
            "latest_deleted": state.latest_deleted or edit.version == state.latest,
        }
    )


def _present(flow: FlowState | None, edit: Edit) -> FlowState:
    if flow is None:
        raise KitaruIntegrityError(f"an edit of {edit.flow} stands before the flow's first version")
    return flow
