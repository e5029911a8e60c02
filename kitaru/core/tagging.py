"""What ``flow tag``, ``untag``, ``promote``, ``rollback`` and ``delete`` do to the lockfile: edits, or why not. Pure.

Each function gives the edits for the state that it is given; none where everything is so already. Whoever loses the
race for the next generation asks again with the new state, so that no other writer's move is ever lost.
"""

from __future__ import annotations

from collections.abc import Mapping

from kitaru.core.commit import move_of
from kitaru.core.resolving import live_flow, route_of
from kitaru.core.rollback import held_versions, hold_of
from kitaru.errors import KitaruSelectorError, KitaruStateError, KitaruUsageError
from kitaru.model.address import is_tag
from kitaru.model.jsonable import recorded_line
from kitaru.model.lockfile import Drop, Edit, FlowState, Lockfile, Untag, VersionTable
from kitaru.model.route import (
    DEFAULT_TAG,
    Assignment,
    Head,
    Hold,
    Label,
    Pin,
    Route,
    RouteTarget,
    Split,
    describe_holders,
)

Edits = tuple[Edit, ...]


def tagged(
    lock: Lockfile, flow: str, tag: str, holder: Assignment, *, exclusive: bool, managed: bool | None = None
) -> Edits:
    """``tag`` leads to the version of ``holder``: to it alone when ``exclusive``, else as one more label.

    ``managed``: whether a manifest says so from now on; None leaves that as it is. A hold that a rollback left ends.
    Raises ``KitaruUsageError`` for a shared label where the tag is exclusive, ``default`` always.
    """
    check_tag(tag)
    state = live_flow(lock, flow)
    route = state.routes.get(tag)
    alone = (holder.model_copy(update={"weight": 100}),)
    if exclusive:
        return _moved(flow, tag, state, alone, exclusive=True, managed=managed)
    check_shared(flow, tag, route, holder.version)
    others = tuple(one for one in (route.holders if route else ()) if one.version != holder.version)
    return _moved(flow, tag, state, _ascending((*others, *alone)), exclusive=False, managed=managed)


def check_tag(tag: str) -> None:
    """Raise ``KitaruUsageError`` for what can't be a tag."""
    if not isinstance(tag, str) or not is_tag(tag):
        raise KitaruUsageError(
            f"{tag!r} can't be a tag: expected lower-case letters, digits, '.', '_' and '-'; not head, and nothing "
            "like a version",
            hint="kitaru flow tag FLOW canary --version 2",
        )


def check_shared(flow: str, tag: str, route: Route | None, version: int) -> None:
    """Raise ``KitaruUsageError`` where ``tag`` can't be a shared label of ``version``."""
    command = f"kitaru flow tag {flow} {tag} --version {version} --exclusive"
    if tag == DEFAULT_TAG:
        raise KitaruUsageError("default is reserved and always exclusive; pass --exclusive to move it", hint=command)
    if route is not None and route.exclusive:
        raise KitaruUsageError(
            f"{tag} of {flow} is an exclusive route to {describe_holders(route.holders)}; pass --exclusive to move it, "
            f"or make it a shared label: kitaru flow untag {flow} {tag} first",
            hint=command,
        )


def untagged(lock: Lockfile, flow: str, tag: str, version: int | None = None) -> Edits:
    """``tag`` is taken off ``version``, or off every version that holds it.

    Raises ``KitaruUsageError`` for ``default``, ``KitaruSelectorError`` for a version that does not hold the tag.
    """
    state = live_flow(lock, flow)
    if tag == DEFAULT_TAG:
        raise KitaruUsageError(
            "default is reserved: it can't be removed, only moved to another version",
            hint=f"kitaru flow tag {flow} default --version N --exclusive",
        )
    route = route_of(flow, state, tag)
    if version is not None and version not in route.versions:
        raise KitaruSelectorError(
            f"v{version} of {flow} does not hold {tag}: it leads to {describe_holders(route.holders)}",
            hint=f"kitaru flow deployments list {flow}",
        )
    left = tuple(holder for holder in route.holders if version is not None and holder.version != version)
    if left and route.exclusive:
        raise KitaruUsageError(
            f"{tag} of {flow} is divided: {describe_holders(route.holders)}; without v{version} it would not add up",
            hint=f"kitaru flow untag {flow} {tag} removes it whole",
        )
    if left:
        return _moved(flow, tag, state, left, exclusive=False, managed=None)
    return (Untag(kind="untag", flow=flow, tag=tag, expects=route.holders),)


def promoted(lock: Lockfile, flow: str, source: str, tag: str, *, managed: bool | None = None) -> Edits:
    """``tag`` leads exclusively to the version that ``source`` leads to."""
    return tagged(lock, flow, tag, promotable(lock, flow, source, tag), exclusive=True, managed=managed)


def promotable(lock: Lockfile, flow: str, source: str, tag: str) -> Assignment:
    """The one version that ``source`` leads to. Raises ``KitaruSelectorError`` where it leads to several."""
    route = route_of(flow, live_flow(lock, flow), source)
    if source == tag:
        raise KitaruUsageError(f"{source} can't be promoted to itself", hint=f"kitaru promote {flow} {source} --to TAG")
    if len(route.holders) > 1:
        raise KitaruSelectorError(
            f"{source} of {flow} leads to several versions: {describe_holders(route.holders)}",
            hint=f"choose one: kitaru flow tag {flow} {tag} --version {route.versions[-1]} --exclusive",
        )
    if not route.holders:
        raise KitaruSelectorError(
            f"{source} of {flow} leads to head, which is not applied yet: there is no version to promote",
            hint="kitaru apply, then repeat",
        )
    return route.holders[0]


def rollable(lock: Lockfile, flow: str, tag: str) -> Route:
    """The route that a rollback moves. Raises ``KitaruUsageError`` for a shared label."""
    route = route_of(flow, live_flow(lock, flow), tag)
    if not route.exclusive:
        raise KitaruUsageError(
            f"{tag} of {flow} is a shared label on {describe_holders(route.holders)}; only exclusive routes are "
            "rolled back",
            hint=f"kitaru flow untag {flow} {tag} --version {route.versions[-1]}",
        )
    return route


def rolled_back(
    lock: Lockfile,
    flow: str,
    tag: str,
    holders: tuple[Assignment, ...],
    reason: str = "",
    *,
    said: RouteTarget | None = None,
) -> Edits:
    """``tag`` leads to ``holders`` again, with a hold that plan and apply honour until the manifest agrees.

    ``said`` is what the manifest says already: where it leads there too, nothing needs to be held. Where the route is
    there already nothing is done, and its hold stays as it is.
    """
    route, reason = rollable(lock, flow, tag), recorded_line(reason)
    if route.holders == holders:
        return ()
    agreed = agrees(said, route.model_copy(update={"holders": holders}), None)
    hold = None if agreed else hold_of(route, holders, reason)
    return _moved(flow, tag, live_flow(lock, flow), holders, exclusive=True, managed=None, hold=hold)


def check_deletable(state: FlowState, table: VersionTable, version: int) -> None:
    """Raise ``KitaruStateError`` where an exclusive tag leads to ``version``, with the command that moves each."""
    flow = table.flow
    held = sorted(tag for tag, route in state.routes.items() if route.exclusive and version in route.versions)
    if not held:
        return
    bad = held_versions(state)
    others = [one.version for one in table.releases if one.version not in {version, *bad} and not one.deleted]
    target = others[-1] if others else "N"
    moves = [f"kitaru flow tag {flow} {tag} --version {target} --exclusive" for tag in held]
    noun = "tag" if len(held) == 1 else "tags"
    tail = "" if others else "; there is no other version to move it to"
    raise KitaruStateError(
        f"v{version} of {flow} holds the exclusive {noun} {', '.join(held)} and can't be deleted{tail}",
        hint=f"move it first: {' && '.join(moves)}",
    )


def dropped(lock: Lockfile, flow: str, version: int, table: str) -> Edits:
    """``version`` is deleted, and ``table`` is the digest of the version table that says so."""
    state = live_flow(lock, flow)
    return (Drop(kind="drop", flow=flow, version=version, table=table, expects=state.table),)


def wish_of(route: Route | None) -> RouteTarget | None:
    """What a manifest says that agrees with the route; None where there is none."""
    if route is None:
        return None
    if not route.exclusive:
        return Label(route.versions)
    if len(route.holders) == 1:
        return Pin(route.holders[0].version)
    return Split(tuple((holder.version, holder.weight) for holder in _ascending(route.holders)))


def agrees(wish: RouteTarget | None, route: Route | None, head: int | None) -> bool:
    """Whether a manifest that says ``wish`` leaves the route where it is, ``head`` being that version."""
    if wish is None or route is None:
        return wish is None and route is None
    match wish:
        case Head():
            filled: RouteTarget | None = Pin(head) if head else None
        case Label(versions):
            filled = Label(tuple(sorted({version or head or 0 for version in versions})))
        case Split(weights):
            filled = Split(tuple(sorted((version or head or 0, weight) for version, weight in weights)))
        case _:
            filled = wish
    return filled == wish_of(route)


def described(lock: Lockfile, flow: str, wishes: Mapping[str, RouteTarget], table: VersionTable) -> Lockfile:
    """The state that a manifest describes which says ``wishes`` of the flow: as it is once that is applied.

    What it leads to head, and what it does not name, is as in ``lock``; a route to head that is not there yet has no
    holders. ``table``: the flow's versions.
    """
    state = live_flow(lock, flow)
    routes = {**state.routes, **{tag: _described(wish, state.routes.get(tag), table) for tag, wish in wishes.items()}}
    return lock.model_copy(update={"flows": {**lock.flows, flow: state.model_copy(update={"routes": routes})}})


def _described(wish: RouteTarget, there: Route | None, table: VersionTable) -> Route:
    if there is not None and agrees(wish, there, None):
        return there
    match wish:
        case Pin(version):
            weights: tuple[tuple[int | None, int], ...] = ((version, 100),)
        case Label(versions):
            weights = tuple((version, 100) for version in versions)
        case Split(parts):
            weights = parts
        case Head():
            weights = ((None, 100),)
    exclusive = not isinstance(wish, Label)
    if exclusive and any(version is None for version, _ in weights):
        return there if there is not None and there.exclusive else Route(holders=(), managed=True)
    holders = tuple(
        Assignment(version=version, snapshot=release.snapshot if release else "", weight=weight)
        for version, weight in weights
        if version is not None
        for release in [table.release(version)]
    )
    return Route(holders=_ascending(holders), exclusive=exclusive, managed=True)


def led_with_head(said: RouteTarget | None, wish: RouteTarget | None) -> RouteTarget | None:
    """``wish``, a shared label's, with the head that the manifest's own word ``said`` has besides."""
    if not (isinstance(said, Label) and None in said.versions) or not isinstance(wish, Label | None):
        return wish
    whole = Label((*(wish.versions if wish else ()), None))
    return said if frozenset(whole.versions) == frozenset(said.versions) else whole


def _moved(
    flow: str,
    tag: str,
    state: FlowState,
    holders: tuple[Assignment, ...],
    *,
    exclusive: bool,
    managed: bool | None,
    hold: Hold | None = None,
) -> Edits:
    route = state.routes.get(tag)
    kept = route.managed if route else False
    declared = kept if managed is None else managed
    if route and (route.holders, route.exclusive, route.managed, route.hold) == (holders, exclusive, declared, hold):
        return ()
    return (move_of(flow, tag, state, holders, exclusive=exclusive, managed=declared, hold=hold),)


def _ascending(holders: tuple[Assignment, ...]) -> tuple[Assignment, ...]:
    return tuple(sorted(holders, key=lambda holder: holder.version))
