"""(lockfile, edits) → next lockfile, or the broken requirement of each subject. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kitaru.errors import KitaruIntegrityError
from kitaru.model.lockfile import Edit, FlowState, Generation, Lockfile, Manage, Mint, Move, Retire, Untag
from kitaru.model.route import Holder, Route, describe_holders


@dataclass(frozen=True, slots=True)
class Broken:
    """An edit whose requirement no longer holds: whose, and how it is now."""

    flow: str
    tag: str | None
    message: str
    generation: int = 0
    by: str = ""
    at: str = ""


def next_lockfile(lock: Lockfile, edits: Sequence[Edit], *, at: str, by: str) -> Lockfile | tuple[Broken, ...]:
    """The state after ``edits``, one generation on, with ``entry`` still open; or all the requirements that are broken.

    Every edit is checked against the state before the first of them, save that a route may lead to a version minted
    in the same list.
    """
    broken = tuple(problem for edit in edits if (problem := _broken(lock, edit)) is not None)
    if broken:
        return broken
    flows = dict(lock.flows)
    number = lock.generation + 1
    for edit in edits:
        flows[edit.flow] = _changed(flows.get(edit.flow), edit, number, at, by)
    return lock.model_copy(update={"generation": number, "entry": "", "flows": flows})


def fold(lock: Lockfile, entry: Generation, entry_digest: str) -> Lockfile:
    """The state after ``entry``. Raises ``KitaruIntegrityError`` when the entry does not follow, or leads elsewhere."""
    if entry.generation != lock.generation + 1 or entry.parent != lock.entry:
        raise KitaruIntegrityError(
            f"generation {entry.generation} of project {entry.project} does not follow generation {lock.generation}",
            hint="the lock log was changed by hand; restore the store from a backup",
        )
    following = next_lockfile(lock, entry.edits, at=entry.at, by=entry.by)
    if isinstance(following, tuple) or following.state_digest != entry.state_digest:
        raise KitaruIntegrityError(
            f"generation {entry.generation} of project {entry.project} does not lead to the state it claims",
            hint="the lock log was changed by hand; restore the store from a backup",
        )
    return following.model_copy(update={"entry": entry_digest})


def _broken(lock: Lockfile, edit: Edit) -> Broken | None:
    flow = lock.flows.get(edit.flow)
    match edit:
        case Mint(expects=expects) | Retire(expects=expects):
            latest = flow.latest if flow else 0
            if latest != expects:
                wanted = f"v{expects}" if expects else "no version yet"
                return Broken(edit.flow, None, f"expected {wanted}, found v{latest}")
        case Move(tag=tag, expects=expects) | Untag(tag=tag, expects=expects):
            return _broken_route(edit.flow, flow, tag, expects)
        case Manage() if flow is None:
            return Broken(edit.flow, None, "the flow is gone")
    return None


def _broken_route(name: str, flow: FlowState | None, tag: str, expects: tuple[Holder, ...] | None) -> Broken | None:
    route = flow.routes.get(tag) if flow and not flow.retired else None
    found = route.holders if route else None
    if found == expects:
        return None
    message = f"expected {describe_holders(expects)}, found {describe_holders(found)}"
    if route is None:
        return Broken(name, tag, message)
    return Broken(name, tag, message, route.generation, route.by, route.at)


def _changed(flow: FlowState | None, edit: Edit, number: int, at: str, by: str) -> FlowState:
    match edit:
        case Mint():
            fresh = FlowState(latest=edit.version, snapshot=edit.snapshot, table=edit.table, managed=edit.managed)
            if flow is None:
                return fresh
            kept = {} if flow.retired else flow.routes
            return fresh.model_copy(update={"routes": kept, "managed": edit.managed or flow.managed})
        case Move():
            state = _present(flow, edit)
            route = Route(
                holders=edit.holders, exclusive=edit.exclusive, managed=edit.managed, generation=number, at=at, by=by
            )
            previous = state.routes.get(edit.tag)
            if previous and previous.holders == edit.holders and previous.exclusive == edit.exclusive:
                route = previous.model_copy(update={"managed": edit.managed})
            return state.model_copy(update={"routes": {**state.routes, edit.tag: route}})
        case Untag():
            state = _present(flow, edit)
            left = {tag: route for tag, route in state.routes.items() if tag != edit.tag}
            return state.model_copy(update={"routes": left})
        case Manage():
            return _present(flow, edit).model_copy(update={"managed": True, "retired": False})
        case Retire():
            return _present(flow, edit).model_copy(update={"routes": {}, "managed": False, "retired": True})


def _present(flow: FlowState | None, edit: Edit) -> FlowState:
    if flow is None:
        raise KitaruIntegrityError(f"an edit of {edit.flow} stands before the flow's first version")
    return flow
