"""Drift of the store from the manifest, and the entries that ``import`` writes for it. Pure."""

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
    """Routes that were moved, removed, added or held past the manifest, in the order of the plan.

    A route that apply itself moved last and the manifest now wants elsewhere is no drift: that change is to be applied.
    With ``whole`` the plan is about all flows: then one that was deployed by hand, and is in no manifest, is drift too.
    """
    found: list[Drift] = []
    for plan in flows:
        state, spec = lock.flow(plan.flow), manifest.flows.get(plan.flow)
        if state is not None and spec is not None:
            found += _past_the_manifest(plan, state, spec)
    # Flows that no manifest ever declared. One that was taken out of a manifest is to be pruned, which is no drift.
    for name, state in sorted(lock.flows.items()) if whole else ():
        if state.retired or state.managed or name in manifest.flows:
            continue
        last = max(state.routes.values(), key=lambda route: route.generation, default=Route(holders=(), via=""))
        tags = ", ".join(f"{tag} at {describe_holders(route.holders)}" for tag, route in sorted(state.routes.items()))
        text = f"the flow is in no manifest ({tags or f'v{state.latest}, without a route'})"
        found.append(_drift(name, "", text, last))
    return tuple(found)


def _past_the_manifest(plan: FlowPlan, state: FlowState, spec: FlowSpec) -> Iterator[Drift]:
    for held in plan.held:
        says = f"says {describe_holders(held.wanted)}" if held.wanted else "does not name it"
        text = f"{held.tag} is held at {describe_holders(held.holders)} by a rollback; "
        text += held.why or f"the manifest {says}"
        yield Drift(flow=plan.flow, tag=held.tag, text=text, via="rollback", by=held.by, at=held.at)
    for move in plan.moves:
        route = state.routes.get(move.tag)
        if route is None or route.via == APPLY or move.adopts or move.after is None:
            continue
        at, wanted = describe_holders(route.holders), describe_holders(move.after)
        if move.converts:
            kinds = "exclusively", "as a shared label"
            at, wanted = f"{at} {kinds[not route.exclusive]}", f"{wanted} {kinds[not move.exclusive]}"
        yield _drift(plan.flow, move.tag, f"{move.tag} leads to {at}; the manifest says {wanted}", route)
    new = {move.tag: move.after for move in plan.moves if move.before is None}
    for tag, route in state.untagged.items():
        if tag in new:
            yield _drift(plan.flow, tag, f"{tag} was removed; the manifest says {describe_holders(new[tag])}", route)
    for tag, route in state.routes.items():
        if tag not in spec.routes and route.via != APPLY and route.hold is None:
            text = f"{tag} leads to {describe_holders(route.holders)}; the manifest does not name it"
            yield _drift(plan.flow, tag, text, route)


def _drift(flow: str, tag: str, text: str, route: Route) -> Drift:
    return Drift(flow=flow, tag=tag, text=text, via=route.via, by=route.by, at=route.at)


# --- import -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Missing:
    """The part of one flow that the manifest lacks: all of it if not ``declared``, else these routes.

    ``dropped`` are routes that it names and that were removed.
    """

    flow: str
    declared: bool
    routes: Mapping[str, RouteTarget]
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


Heads = Callable[[str], tuple[int | None, str]]
"""(flow) → the version that ``head`` is for it now, and its snapshot; (None, "") if none was built yet.

Asked only if a route that the manifest leads to head was moved past it.
"""


def missing(
    manifest: Manifest, lock: Lockfile, owner: str, only: Sequence[str] = (), *, heads: Heads
) -> tuple[Missing, ...]:
    """The flows (all, if ``only`` is empty) and routes of the store that the manifest does not say, by name.

    Not those that are to be applied, that another manifest declares, or that ``moved:`` renames.
    Raises ``KitaruSelectorError`` for a flow that the store does not have, ``KitaruUsageError`` for one of these.
    """
    for name in only:
        state = live_flow(lock, name)
        if why := _not_ours(manifest, name, state, owner):
            there = f"kitaru import {name}, typed beside {state.owner or 'kitaru.yaml at the root'}"
            hint = "kitaru plan" if name in manifest.moved else there
            raise KitaruUsageError(f"{name} can't be imported: {why}", hint=hint)
    found = []
    for name, state in sorted(lock.flows.items()):
        if state.retired or (only and name not in only) or _not_ours(manifest, name, state, owner):
            continue
        spec = manifest.flows.get(name)
        if spec is not None:
            entry = _differences(name, spec, state, heads)
            found += [entry] if entry.routes or entry.dropped or entry.notes else []
            continue
        once = (f"{name} was once in the manifest",) if state.managed else ()
        targets = {tag: target for tag in _ordered(state.routes) if (target := wish_of(state.routes[tag]))}
        found.append(Missing(name, declared=False, routes=targets, notes=once))
    return tuple(found)


def _not_ours(manifest: Manifest, name: str, state: FlowState, owner: str) -> str:
    if name in manifest.moved:
        return f"the manifest renames it to {manifest.moved[name]}; kitaru apply does that"
    if state.managed and state.owner != owner and name not in manifest.flows:
        return f"{state.owner or 'kitaru.yaml at the root'} declares it"
    return ""


def _differences(flow: str, spec: FlowSpec, state: FlowState, heads: Heads) -> Missing:
    """The routes of a declared flow that its entry does not name, or names otherwise than they were led by hand."""
    routes: dict[str, RouteTarget] = {}
    dropped, notes = [], []
    for tag in _ordered(state.routes):
        route, said = state.routes[tag], spec.routes.get(tag)
        target = wish_of(route)
        follows = said is not None and None in versions_named(said)
        now, snapshot = heads(flow) if follows and route.via != APPLY else (None, "")
        head = head_of(said, route, now, snapshot) if said is not None and now is not None else None
        if target is None or (said is not None and (route.via == APPLY or agrees(said, route, head))):
            continue
        moved = f"route {tag} of {flow} was led to {describe_holders(route.holders)} by {route.by} ({route.via})"
        if said is None:
            notes += [f"route {tag} of {flow} was once in the manifest"] if route.managed else []
        elif follows and now is None and route.hold is None:
            notes.append(f"{moved}, and stays so: the manifest leads it to head, which is not built yet")
            continue
        else:
            notes.append(moved)
        routes[tag] = target
    for tag, route in sorted(state.untagged.items()):
        said = spec.routes.get(tag)
        # A number that differs from where the route was is newer than its removal.
        if said and tag not in state.routes and (None in versions_named(said) or agrees(said, route, None)):
            dropped.append(tag)
            notes.append(f"route {tag} of {flow} was removed by {route.by} ({route.via})")
    return Missing(flow, True, routes, tuple(dropped), tuple(notes))


def _ordered(routes: Mapping[str, Route]) -> list[str]:
    return sorted(routes, key=lambda tag: (tag != DEFAULT_TAG, tag))


def described_by(state: FlowState, table: VersionTable | None) -> str | None:
    """The digest of the snapshot that describes a flow: that of ``default``, else of its newest version.

    None if every version was deleted, or ``table`` has to be read to tell.
    """
    route = state.routes.get(DEFAULT_TAG)
    if route is not None and route.holders:
        return max(route.holders, key=lambda holder: (holder.weight, holder.version)).snapshot
    if not state.latest_deleted:
        return state.snapshot
    releases = [release for release in table.releases if not release.deleted] if table else []
    return releases[-1].snapshot if releases else None


def bare(manifest: Manifest, snapshot: Snapshot) -> Snapshot:
    """The snapshot of a flow that is declared by its target alone, if the code can't be asked."""
    spec = FlowSpec(target=snapshot.target)
    stack = manifest.stack_named(None) or snapshot.stack
    return snapshot.model_copy(
        update={"image": manifest.image_of(spec), "stack": stack, "options": Options(), "inputs": {}}
    )


def keys_of(snapshot: Snapshot, plain: Snapshot) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The keys of a flow's entry that lead to ``snapshot``, if its target alone leads to ``plain``.

    Besides, the names of inherited settings that the version was built without, which no key can say:
    ``({"inputs": {"topic": "x"}}, ("timeout",))``.
    """
    keys: dict[str, Any] = {}
    if snapshot.inputs != plain.inputs:
        keys["inputs"] = dict(snapshot.inputs)
    if snapshot.stack.name != plain.stack.name:
        keys["stack"] = snapshot.stack.name
    changed = [name for name in Options.model_fields if getattr(snapshot.options, name) != getattr(plain.options, name)]
    options = {name: getattr(snapshot.options, name) for name in changed}
    keys |= {name: value for name, value in options.items() if value is not None}
    unset = [name for name, value in options.items() if value is None]
    image, inherited = snapshot.image.data(), plain.image.data()
    own = {name: value for name, value in image.items() if value != inherited.get(name)}
    if own:
        keys["image"] = own
    unset += [f"image.{name}" for name in inherited if name not in image]
    return keys, tuple(unset)
