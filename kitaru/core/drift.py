"""What the store has and the manifest does not say: drift, and the entries that ``import`` writes for it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kitaru.core.planning import head_of
from kitaru.core.resolving import live_flow
from kitaru.core.routing import agrees, wish_of
from kitaru.errors import KitaruUsageError
from kitaru.model.lockfile import FlowState, Lockfile, VersionTable
from kitaru.model.manifest import FlowSpec, Manifest
from kitaru.model.plan import Drift, FlowPlan
from kitaru.model.route import APPLY, DEFAULT_TAG, Route, RouteTarget, describe_holders, versions_named
from kitaru.model.snapshot import Options, Snapshot


def find_drift(
    manifest: Manifest, flows: Sequence[FlowPlan], lock: Lockfile, *, whole: bool = False
) -> tuple[Drift, ...]:
    """Routes that somebody moved, removed, added or holds otherwise than the manifest says, in the order of the plan.

    A route that apply itself moved last and the manifest now wants elsewhere is no drift: that change is to be applied.
    With ``whole`` the plan is about all flows: then one that was deployed by hand, and is in no manifest, is drift too.
    """
    found: list[Drift] = []
    for plan in flows:
        state = lock.flow(plan.flow)
        if state is not None and plan.flow in manifest.flows:
            found += [
                *_moved(plan, state),
                *_removed(plan, state),
                *_added(manifest.flows[plan.flow], plan.flow, state),
            ]
    return (*found, *(_beside(manifest, lock) if whole else ()))


def _beside(manifest: Manifest, lock: Lockfile) -> Iterator[Drift]:
    """Flows that no manifest ever declared. One that was taken out of a manifest is to be pruned, which is no drift."""
    for name, state in sorted(lock.flows.items()):
        if state.retired or state.managed or name in manifest.flows:
            continue
        last = max(state.routes.values(), key=lambda route: route.generation, default=None)
        told = last or Route(holders=(), via="")
        tags = ", ".join(f"{tag} at {describe_holders(route.holders)}" for tag, route in sorted(state.routes.items()))
        text = f"the flow is in no manifest ({tags or f'v{state.latest}, without a route'})"
        yield _drift(name, "", text, told)


def _moved(plan: FlowPlan, state: FlowState) -> Iterator[Drift]:
    for held in plan.held:
        at, wanted = describe_holders(held.holders), describe_holders(held.wanted)
        says = held.why or f"the manifest {f'says {wanted}' if held.wanted else 'does not name it'}"
        yield Drift(
            flow=plan.flow,
            tag=held.tag,
            text=f"{held.tag} is held at {at} by a rollback; {says}",
            via="rollback",
            by=held.by,
            at=held.at,
        )
    for move in plan.moves:
        route = state.routes.get(move.tag)
        if route is None or route.via == APPLY or move.adopts or move.after is None:
            continue
        at, wanted = describe_holders(route.holders), describe_holders(move.after)
        if move.converts:
            at, wanted = _as(at, exclusive=route.exclusive), _as(wanted, exclusive=move.exclusive)
        yield _drift(plan.flow, move.tag, f"{move.tag} leads to {at}; the manifest says {wanted}", route)


def _removed(plan: FlowPlan, state: FlowState) -> Iterator[Drift]:
    wanted = {move.tag: move.after for move in plan.moves if move.before is None}
    for tag, route in state.untagged.items():
        if tag in wanted:
            text = f"{tag} was removed; the manifest says {describe_holders(wanted[tag])}"
            yield _drift(plan.flow, tag, text, route)


def _added(spec: FlowSpec, flow: str, state: FlowState) -> Iterator[Drift]:
    for tag, route in state.routes.items():
        if tag not in spec.routes and route.via != APPLY and route.hold is None:
            text = f"{tag} leads to {describe_holders(route.holders)}; the manifest does not name it"
            yield _drift(flow, tag, text, route)


def _as(holders: str, *, exclusive: bool) -> str:
    return f"{holders} {'exclusively' if exclusive else 'as a shared label'}"


def _drift(flow: str, tag: str, text: str, route: Route) -> Drift:
    return Drift(flow=flow, tag=tag, text=text, via=route.via, by=route.by, at=route.at)


# --- import -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Missing:
    """What the manifest lacks of one flow: the whole of it where ``declared`` is False, else these routes.

    ``dropped`` are routes that it names and that somebody removed.
    """

    flow: str
    declared: bool
    routes: Mapping[str, RouteTarget]
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HeadNow:
    """What ``head`` means for a flow at this moment: the version of that content, None where none was built yet."""

    version: int | None = None
    snapshot: str = ""


Heads = Callable[[str], HeadNow]
"""(flow) → what head is for it. Asked only where a route that the manifest leads to head was moved past it."""


def missing(
    manifest: Manifest, lock: Lockfile, owner: str, only: Sequence[str] = (), *, heads: Heads = lambda _flow: HeadNow()
) -> tuple[Missing, ...]:
    """What the manifest does not say of the flows (all, when ``only`` names none) and routes of the store, by name.

    Flows and routes that it does not name, and routes that it names and that somebody moved, holds or removed since;
    one that apply itself moved last, and the manifest wants elsewhere, is to be applied. Without the flows that another
    manifest of the repository declares, and those that ``moved:`` gives another name.
    Raises ``KitaruSelectorError`` for a flow that the store does not have, ``KitaruUsageError`` for one of these.
    """
    for name in only:
        state = live_flow(lock, name)
        why = _not_ours(manifest, name, state, owner)
        if why:
            there = f"kitaru import {name}, typed beside {state.owner or 'kitaru.yaml at the root'}"
            hint = "kitaru plan" if name in manifest.moved else there
            raise KitaruUsageError(f"{name} can't be imported: {why}", hint=hint)
    found = []
    for name, state in sorted(lock.flows.items()):
        if state.retired or (only and name not in only) or _not_ours(manifest, name, state, owner):
            continue
        spec = manifest.flows.get(name)
        if spec is None:
            once = (f"{name} was once in the manifest",) if state.managed else ()
            wishes = {tag: wish for tag in _ordered(state.routes) if (wish := wish_of(state.routes[tag]))}
            found.append(Missing(name, declared=False, routes=wishes, notes=once))
            continue
        one = _Differing(name, spec, state, heads)
        if one.routes or one.dropped or one.notes:
            found.append(Missing(name, True, one.routes, tuple(one.dropped), tuple(one.notes)))
    return tuple(found)


def _not_ours(manifest: Manifest, name: str, state: FlowState, owner: str) -> str:
    if name in manifest.moved:
        return f"the manifest renames it to {manifest.moved[name]}; kitaru apply does that"
    if state.managed and state.owner != owner and name not in manifest.flows:
        return f"{state.owner or 'kitaru.yaml at the root'} declares it"
    return ""


class _Differing:
    """The routes of one flow that the manifest is to say otherwise, or no more, and why."""

    def __init__(self, flow: str, spec: FlowSpec, state: FlowState, heads: Heads) -> None:
        self.routes: dict[str, RouteTarget] = {}
        self.dropped: list[str] = []
        self.notes: list[str] = []
        self._flow, self._heads = flow, heads
        for tag in _ordered(state.routes):
            self._there(tag, spec.routes.get(tag), state.routes[tag])
        for tag, route in sorted(state.untagged.items()):
            wish = spec.routes.get(tag)
            if wish is not None and tag not in state.routes and self._still_says(wish, route):
                self.dropped.append(tag)
                self.notes.append(f"route {tag} of {flow} was removed by {route.by} ({route.via})")

    def _there(self, tag: str, said: RouteTarget | None, route: Route) -> None:
        wish = wish_of(route)
        if wish is None:
            return
        if said is None:
            self.routes[tag] = wish
            if route.managed:
                self.notes.append(f"route {tag} of {self._flow} was once in the manifest")
            return
        if route.via == APPLY or agrees(said, route, self._head(said, route)):
            return
        at, by = describe_holders(route.holders), f"{route.by} ({route.via})"
        if None in versions_named(said) and self._heads(self._flow).version is None and route.hold is None:
            why = "stays so: the manifest leads it to head, which is not built yet"
            self.notes.append(f"route {tag} of {self._flow} was led to {at} by {by}, and {why}")
            return
        self.routes[tag] = wish
        self.notes.append(f"route {tag} of {self._flow} was led to {at} by {by}")

    def _head(self, wish: RouteTarget, route: Route) -> int | None:
        if None not in versions_named(wish):
            return None
        now = self._heads(self._flow)
        return None if now.version is None else head_of(wish, route, now.version, now.snapshot)

    def _still_says(self, wish: RouteTarget, gone: Route) -> bool:
        """Whether the manifest wants a removed route where it was. A number that differs was written since then."""
        return None in versions_named(wish) or agrees(wish, gone, None)


def _ordered(routes: Mapping[str, Route]) -> list[str]:
    return sorted(routes, key=lambda tag: (tag != DEFAULT_TAG, tag))


def told_by(state: FlowState, table: VersionTable | None) -> str | None:
    """The digest of the snapshot that a flow is described by: that of ``default``, else of its newest version.

    None where every version was deleted, or where ``table`` has to be read to tell.
    """
    route = state.routes.get(DEFAULT_TAG)
    if route is not None and route.holders:
        return max(route.holders, key=lambda holder: (holder.weight, holder.version)).snapshot
    if not state.latest_deleted:
        return state.snapshot
    releases = [release for release in table.releases if not release.deleted] if table else []
    return releases[-1].snapshot if releases else None


def bare(manifest: Manifest, snapshot: Snapshot) -> Snapshot:
    """What the manifest makes of a flow that it declares by its target alone, where the code can't be asked."""
    spec = FlowSpec(target=snapshot.target)
    stack = manifest.stack_named(None) or snapshot.stack
    plain = {"image": manifest.image_of(spec), "stack": stack, "options": Options(), "inputs": {}}
    return snapshot.model_copy(update=plain)


def keys_of(snapshot: Snapshot, plain: Snapshot) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The keys of a flow's entry that lead to ``snapshot`` where its target alone leads to ``plain``.

    Besides, the names of inherited settings that the version was built without, which no key can say.
    """
    keys: dict[str, Any] = {}
    if snapshot.inputs != plain.inputs:
        keys["inputs"] = dict(snapshot.inputs)
    if snapshot.stack.name != plain.stack.name:
        keys["stack"] = snapshot.stack.name
    unset = []
    for name in Options.model_fields:
        value = getattr(snapshot.options, name)
        if value == getattr(plain.options, name):
            continue
        if value is None:
            unset.append(name)
        else:
            keys[name] = value
    image, inherited = snapshot.image.data(), plain.image.data()
    own = {name: value for name, value in image.items() if value != inherited.get(name)}
    if own:
        keys["image"] = own
    unset += [f"image.{name}" for name in inherited if name not in image]
    return keys, tuple(unset)
