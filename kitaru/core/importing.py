"""``import``: what a manifest would have to say of flows and routes that only the store has. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kitaru.core.resolving import live_flow
from kitaru.core.tagging import wish_of
from kitaru.errors import KitaruUsageError
from kitaru.model.lockfile import FlowState, Lockfile, VersionTable
from kitaru.model.manifest import FlowSpec, Manifest
from kitaru.model.route import DEFAULT_TAG, RouteWish
from kitaru.model.snapshot import Options, Snapshot


@dataclass(frozen=True, slots=True)
class Missing:
    """What the manifest lacks of one flow: the whole of it where ``declared`` is False, else these routes."""

    flow: str
    declared: bool
    routes: Mapping[str, RouteWish]
    notes: tuple[str, ...] = ()


def missing(manifest: Manifest, lock: Lockfile, owner: str, only: Sequence[str] = ()) -> tuple[Missing, ...]:
    """The flows (all, when ``only`` names none) and routes of the store that the manifest does not name, by name.

    Without those that another manifest of the repository declares, and those that ``moved:`` gives another name.
    Raises ``KitaruSelectorError`` for a flow that the store does not have, ``KitaruUsageError`` for one of these.
    """
    for name in only:
        why = _not_ours(manifest, name, live_flow(lock, name), owner)
        if why:
            raise KitaruUsageError(f"{name} can't be imported: {why}", hint="kitaru flow list")
    found = []
    for name, state in sorted(lock.flows.items()):
        if state.retired or (only and name not in only) or _not_ours(manifest, name, state, owner):
            continue
        spec = manifest.flows.get(name)
        routes, notes = _routes(name, state, spec)
        if spec is None or routes:
            once = (f"{name} was once in the manifest",) if spec is None and state.managed else ()
            found.append(Missing(name, spec is not None, routes, (*once, *notes)))
    return tuple(found)


def _not_ours(manifest: Manifest, name: str, state: FlowState, owner: str) -> str:
    if name in manifest.moved:
        return f"the manifest renames it to {manifest.moved[name]}; kitaru apply does that"
    if state.managed and state.owner != owner and name not in manifest.flows:
        return f"{state.owner or 'kitaru.yaml at the root'} declares it"
    return ""


def _routes(name: str, state: FlowState, spec: FlowSpec | None) -> tuple[dict[str, RouteWish], list[str]]:
    declared = spec.routes if spec else {}
    routes, notes = {}, []
    for tag in sorted(state.routes, key=lambda tag: (tag != DEFAULT_TAG, tag)):
        route = state.routes[tag]
        wish = wish_of(route)
        if tag in declared or wish is None:
            continue
        routes[tag] = wish
        if spec is not None and route.managed:
            notes.append(f"route {tag} of {name} was once in the manifest")
    return routes, notes


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
