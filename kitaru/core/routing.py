"""Edits of one flow: deploy, build, tag, untag, promote, rollback, delete; and of its entry in the manifest. Pure.

Each function gives the edits for the state that it is given, and none if the state is so already. A writer that loses
the race for a generation asks again with the new state: no other writer's move is lost.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from kitaru.core import rollback
from kitaru.core.commit import add_version, move_of, route_move
from kitaru.core.protection import Rules, protect_words, tightened
from kitaru.core.renames import present_name
from kitaru.core.resolving import live_flow, route_of
from kitaru.errors import KitaruSelectorError, KitaruStateError, KitaruUsageError
from kitaru.model.address import is_tag
from kitaru.model.jsonable import recorded_line
from kitaru.model.lockfile import AddVersion, Edit, FlowState, Lockfile, Move, Protect, Untag, VersionTable
from kitaru.model.manifest import FlowSpec, Manifest
from kitaru.model.plan import Build, FlowPlan
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
    ascending,
    describe_holders,
    target_data,
    versions_named,
)
from kitaru.model.snapshot import ImageSettings, Snapshot

Edits = tuple[Edit, ...]
Holders = tuple[Assignment, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """A deploy: ``tag`` None adds a version without a route. ``owner`` is None if no manifest declares the flow.

    ``protect`` are that manifest's rules, recorded with the version.
    """

    flow: str
    tag: str | None = None
    exclusive: bool = False
    owner: str | None = None
    protect: Rules = field(default_factory=dict)


# --- a new version ----------------------------------------------------------------------------------------------------


def order_tags(order: Order, lock: Lockfile) -> dict[str, bool]:
    """The tags of the new version → exclusive: ``{"default": True, "canary": False}`` for a flow's first deploy."""
    if order.tag is None:
        return {}
    first = {DEFAULT_TAG: True} if lock.flow(order.flow) is None else {}
    return {**first, order.tag: order.exclusive or order.tag == DEFAULT_TAG}


def deployed(order: Order, snapshot: Snapshot, lock: Lockfile) -> Edits:
    """A new version of the snapshot, with the order's routes.

    Raises ``KitaruUsageError`` for a tag that can't be one, or that is exclusive; ``KitaruStateError`` for a flow that
    has another name by now.
    """
    check_name(lock, order.flow)
    state, managed = lock.flows.get(order.flow), order.owner is not None
    new = add_version(order.flow, state, snapshot.digest, order.owner)
    holder = Assignment(version=new.version, snapshot=new.snapshot)
    edits: list[Edit] = [new]
    for tag, exclusive in order_tags(order, lock).items():
        holders = _joined(order.flow, tag, lock.flow(order.flow), holder, exclusive)
        edits += _led(order.flow, tag, state, holders, exclusive=exclusive, managed=managed or None)
    return (*edits, *tightened(order.flow, order.protect, state))


def check_name(lock: Lockfile, flow: str) -> None:
    """Raise ``KitaruStateError`` for a flow that has another name by now: its numbers went along."""
    now = present_name(lock.flows, flow)
    if now != flow:
        raise KitaruStateError(
            f"{flow} was renamed to {now}",
            hint=f"to take the name back: moved: {{{now}: {flow}}}, then kitaru apply; else deploy it as {now}",
        )


def flow_plan(flow: str, edits: Edits, lock: Lockfile, snapshot: Snapshot | None = None) -> FlowPlan:
    """The edits of one verb in the form that a plan shows, for the same consequences."""
    state, build = lock.flow(flow), None
    notes: list[str] = []
    moves = []
    for edit in edits:
        match edit:
            case AddVersion() if snapshot is not None:
                build = Build(version=edit.version, snapshot_digest=edit.snapshot, snapshot=snapshot)
            case Move():
                route = state.routes.get(edit.tag) if state else None
                notes += [f"{edit.tag}: {text}" for text in rollback.rollback_words(route, edit.holders)]
                moves.append(route_move(edit, route))
            case Protect():
                notes += protect_words(edit)
    action = "update" if state else "create"
    version = build.version if build else None
    return FlowPlan(flow=flow, action=action, version=version, build=build, moves=tuple(moves), notes=tuple(notes))


# --- routes -----------------------------------------------------------------------------------------------------------


def tagged(
    lock: Lockfile, flow: str, tag: str, holder: Assignment, *, exclusive: bool, managed: bool | None = None
) -> Edits:
    """``tag`` leads to the holder's version: to it alone if ``exclusive``, else as one more label.

    ``managed``: the manifest declares it from now on; None leaves that as it is. A rollback's hold ends.
    Raises ``KitaruUsageError`` for a shared label if the tag is exclusive; ``default`` always is.
    """
    state = live_flow(lock, flow)
    holders = _joined(flow, tag, state, holder, exclusive)
    return _led(flow, tag, state, holders, exclusive=exclusive, managed=managed)


def check_tag(tag: str) -> None:
    """Raise ``KitaruUsageError`` unless ``tag`` can be one, such as ``canary`` or ``team-a.beta``."""
    if not isinstance(tag, str) or not is_tag(tag):
        raise KitaruUsageError(
            f"{tag!r} can't be a tag: expected lower-case letters, digits, '.', '_' and '-'; not head, and nothing "
            "like a version",
            hint="kitaru flow tag FLOW canary --version 2",
        )


def check_shared(flow: str, tag: str, route: Route | None, version: int) -> None:
    """Raise ``KitaruUsageError`` unless ``tag`` can be a shared label of ``version``."""
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
    """``tag`` is taken off ``version``, or off every version.

    Raises ``KitaruUsageError`` for ``default``, ``KitaruSelectorError`` for a version without the tag.
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
        return _led(flow, tag, state, left, exclusive=False)
    return (Untag(kind="untag", flow=flow, tag=tag, expects=route.holders),)


def promoted(lock: Lockfile, flow: str, source: str, tag: str, *, managed: bool | None = None) -> Edits:
    """``tag`` leads exclusively to the one version that ``source`` leads to.

    Raises ``KitaruSelectorError`` if there are several, or none yet.
    """
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
    return tagged(lock, flow, tag, route.holders[0], exclusive=True, managed=managed)


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
    """``tag`` leads to ``holders`` again, with a hold until the manifest agrees.

    No hold if the manifest leads the route there already; no edit if the route is there.
    """
    route, reason = rollable(lock, flow, tag), recorded_line(reason)
    if route.holders == holders:
        return ()
    agreed = agrees(said, route.model_copy(update={"holders": holders}), None)
    hold = None if agreed else rollback.hold_of(route, holders, reason)
    return _led(flow, tag, live_flow(lock, flow), holders, exclusive=True, hold=hold)


def check_deletable(state: FlowState, table: VersionTable, version: int) -> None:
    """Raise ``KitaruStateError`` if an exclusive tag leads to ``version``, with the command that moves each tag."""
    flow = table.flow
    held = sorted(tag for tag, route in state.routes.items() if route.exclusive and version in route.versions)
    if not held:
        return
    bad = {version, *rollback.held_versions(state)}
    others = [release.version for release in table.releases if release.version not in bad and not release.deleted]
    target = others[-1] if others else "N"
    moves = [f"kitaru flow tag {flow} {tag} --version {target} --exclusive" for tag in held]
    noun = "tag" if len(held) == 1 else "tags"
    tail = "" if others else "; there is no other version to move it to"
    raise KitaruStateError(
        f"v{version} of {flow} holds the exclusive {noun} {', '.join(held)} and can't be deleted{tail}",
        hint=f"move it first: {' && '.join(moves)}",
    )


def labels_of(lock: Lockfile, flow: str, version: int) -> frozenset[str]:
    """The shared labels of a version."""
    routes = live_flow(lock, flow).routes.items()
    return frozenset(tag for tag, route in routes if not route.exclusive and version in route.versions)


def _joined(flow: str, tag: str, state: FlowState | None, holder: Assignment, exclusive: bool) -> Holders:
    """The assignments of the tag once it leads to ``holder``, beside the others of a shared label."""
    check_tag(tag)
    route = state.routes.get(tag) if state else None
    holder = holder.model_copy(update={"weight": 100})
    if exclusive:
        return (holder,)
    check_shared(flow, tag, route, holder.version)
    others = (other for other in (route.holders if route else ()) if other.version != holder.version)
    return ascending((*others, holder))


def _led(
    flow: str,
    tag: str,
    state: FlowState | None,
    holders: Holders,
    *,
    exclusive: bool,
    managed: bool | None = None,
    hold: Hold | None = None,
) -> Edits:
    route = state.routes.get(tag) if state and not state.retired else None
    declared = bool(route and route.managed) if managed is None else managed
    if route and (route.holders, route.exclusive, route.managed, route.hold) == (holders, exclusive, declared, hold):
        return ()
    return (move_of(flow, tag, state, holders, exclusive=exclusive, managed=declared, hold=hold),)


# --- routes and the manifest ------------------------------------------------------------------------------------------


def wish_of(route: Route | None) -> RouteTarget | None:
    """The manifest's target that leads to the route as it is; None for no route."""
    if route is None:
        return None
    if not route.exclusive:
        return Label(route.versions)
    if len(route.holders) == 1:
        return Pin(route.holders[0].version)
    return Split(tuple((holder.version, holder.weight) for holder in ascending(route.holders)))


def agrees(wish: RouteTarget | None, route: Route | None, head: int | None) -> bool:
    """Whether a manifest with the target ``wish`` leaves the route as it is; ``head`` is the version that it builds."""
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
    """The state once a manifest with the targets ``wishes`` is applied; ``table`` has its versions.

    Routes that it leads to head, or does not name, are as in ``lock``; a new route to head has no holders.
    """
    state = live_flow(lock, flow)
    routes = {**state.routes, **{tag: _described(wish, state.routes.get(tag), table) for tag, wish in wishes.items()}}
    return lock.model_copy(update={"flows": {**lock.flows, flow: state.model_copy(update={"routes": routes})}})


def _described(wish: RouteTarget, route: Route | None, table: VersionTable) -> Route:
    if route is not None and agrees(wish, route, None):
        return route
    exclusive, numbers = not isinstance(wish, Label), versions_named(wish)
    if exclusive and None in numbers:
        return route if route is not None and route.exclusive else Route(holders=(), managed=True)
    weights = dict(wish.weights) if isinstance(wish, Split) else {}
    holders = (
        Assignment(version=one, snapshot=release.snapshot if release else "", weight=weights.get(one, 100))
        for one in numbers
        if one is not None
        for release in [table.release(one)]
    )
    return Route(holders=ascending(holders), exclusive=exclusive, managed=True)


def routes_to_write(
    wishes: Mapping[str, RouteTarget],
    routes: Mapping[str, Route],
    tags: Collection[str],
    *,
    head: int | None = None,
    keeps_head: bool = False,
) -> dict[str, RouteTarget | None]:
    """The targets that make the manifest agree on ``tags``: ``{"stable": Pin(3), "beta": None}``; None: no route.

    ``head`` is the version that the manifest builds. ``keeps_head``: a shared label on head as well keeps it.
    """
    changed: dict[str, RouteTarget | None] = {}
    for tag in sorted(tags):
        said, wish = wishes.get(tag), wish_of(routes.get(tag))
        if keeps_head and isinstance(said, Label) and None in said.versions and isinstance(wish, Label | None):
            whole = Label((*(wish.versions if wish else ()), None))
            wish = said if frozenset(whole.versions) == frozenset(said.versions) else whole
        if wish != said and not agrees(said, routes.get(tag), head):
            changed[tag] = wish
    return changed


# --- the entry of a flow in the manifest ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ManifestEdit:
    """Keys of one flow's entry, and its routes: ``{"stable": Pin(3), "beta": None}``; None removes the route."""

    flow: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    routes: Mapping[str, RouteTarget | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def flow_name(manifest: Manifest, target: str) -> str:
    """The manifest's name for a target such as ``flows/work.py:agent``, else the function's own.

    Raises ``KitaruUsageError`` if the manifest uses that name for another target, or has two names for this one.
    """
    function = target.rpartition(":")[2]
    named = [name for name, spec in manifest.flows.items() if same_target(spec.target, target)]
    if len(named) == 1 or function in named:
        return function if function in named else named[0]
    if named:
        raise KitaruUsageError(
            f"{target} is declared more than once: {', '.join(named)}", hint=f"name one: kitaru deploy {named[0]}"
        )
    other = manifest.flows.get(function)
    if other is not None:
        raise KitaruUsageError(
            f"the manifest declares {function} already, with target {other.target}, not {target}",
            hint="declare this one there under a name of its own, then: kitaru deploy NAME",
        )
    return function


def same_target(one: str, other: str) -> bool:
    """Whether two targets are the same flow: ``flows/work.py:agent`` and ``flows.work:agent`` are."""
    return _module(one) == _module(other)


def _module(target: str) -> str:
    place, _, name = target.rpartition(":")
    if place.endswith(".py"):
        place = posixpath.normpath(place.removesuffix(".py")).replace("/", ".").removesuffix(".__init__")
    return f"{place}:{name}"


def changed_keys(
    spec: FlowSpec | None,
    target: str,
    *,
    inputs: Mapping[str, Any] | None,
    image: ImageSettings | None,
    stack: str | None,
) -> dict[str, Any]:
    """The keys that a deploy gives the entry, if they are new or have another value: ``{"stack": "prod"}``."""
    whole = image.over(spec.image) if image is not None and spec and spec.image else image
    given = {"target": None if spec else target, "inputs": inputs, "stack": stack, "image": whole}
    changed = {name: one for name, one in given.items() if one is not None and one != getattr(spec, name, None)}
    return {name: one.data() if isinstance(one, ImageSettings) else one for name, one in changed.items()}


def changed_spec(spec: FlowSpec | None, keys: Mapping[str, Any]) -> FlowSpec:
    """The entry with those keys."""
    return FlowSpec.model_validate({**(spec.data() if spec else {}), **keys})


def check_not_renamed(manifest: Manifest, lock: Lockfile, flow: str) -> None:
    """Raise ``KitaruStateError`` for a flow that has another name by now, or gets one's versions by the next apply."""
    check_name(lock, flow)
    for was, name in manifest.moved.items():
        old = lock.flows.get(was)
        if name == flow and old is not None and not old.renamed_to and flow not in lock.flows:
            raise KitaruStateError(
                f"the manifest renames {was} to {flow}, and that is still to be done", hint="kitaru apply, then repeat"
            )


def after_release(
    spec: FlowSpec | None, lock: Lockfile, flow: str, tags: frozenset[str], keys: Mapping[str, Any], *, built: int
) -> ManifestEdit:
    """The entry after version ``built``, to which the routes ``tags`` were led.

    Another route that the manifest leads to head is written down as it is: else the next apply would move it. A route
    that the store does not have yet goes after a build, which leaves its version without a route; after a deploy it
    stays, for the next apply.
    """
    state = lock.flow(flow)
    routes, wishes = state.routes if state else {}, spec.routes if spec else {}
    changed = routes_to_write(wishes, routes, tags, head=built)
    notes = []
    for tag, wish in wishes.items():
        if tag in tags or not {None, built} & set(versions_named(wish)) or agrees(wish, routes.get(tag), built):
            continue
        if tag in routes:
            changed[tag] = wish_of(routes[tag])
            notes.append(f"{tag} stays where it is, so the manifest now says so: it followed the newest version")
        elif not tags:
            changed[tag] = None
            notes.append(f"{tag} was taken out of the manifest: a build leaves its version without a route")
        else:
            notes.append(f"the manifest leads {tag} to v{built} as well; kitaru apply does that")
    return ManifestEdit(flow, keys, changed, tuple(notes))


def proposed(spec: FlowSpec | None, lock: Lockfile, order: Order, keys: Mapping[str, Any]) -> ManifestEdit:
    """The entry that asks for this deploy: the order's tag leads to head, the others stay where they are."""
    flow, state = order.flow, lock.flow(order.flow)
    routes, wishes = state.routes if state else {}, spec.routes if spec else {}
    tags = order_tags(order, lock)
    changed: dict[str, RouteTarget | None] = {}
    for tag, exclusive in tags.items():
        check_tag(tag)
        changed[tag] = Head()
        if exclusive:
            continue
        wish = wishes.get(tag)
        if wish is None or tag == DEFAULT_TAG:
            check_shared(flow, tag, routes.get(tag), (state.latest if state else 0) + 1)
        elif not isinstance(wish, Label):
            raise KitaruUsageError(
                f"the manifest makes {tag} of {flow} an exclusive route: {target_data(wish)}; "
                "pass --exclusive to move it",
                hint=f"or make it a shared label: kitaru flow untag {flow} {tag} --manifest-only",
            )
        versions = wish.versions if isinstance(wish, Label) else routes[tag].versions if tag in routes else ()
        changed[tag] = Label(versions if None in versions else (*versions, None))
    for tag, wish in wishes.items():
        if tag not in tags and None in versions_named(wish) and tag in routes:
            changed[tag] = wish_of(routes[tag])
    return ManifestEdit(flow, keys, {tag: wish for tag, wish in changed.items() if wish != wishes.get(tag)})
