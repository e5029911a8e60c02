"""A flow's entry of the manifest: the one that a target means, and its edits after a deploy, a build, a move. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kitaru.core.routing import Order, agrees, check_name, check_shared, check_tag, order_tags, routes_to_write, wish_of
from kitaru.errors import KitaruStateError, KitaruUsageError
from kitaru.model.lockfile import Lockfile
from kitaru.model.manifest import FlowSpec, Manifest
from kitaru.model.route import DEFAULT_TAG, Head, Label, Route, RouteTarget, target_data, versions_named
from kitaru.model.snapshot import ImageSettings


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
        parts: list[str] = []
        for part in place.removesuffix(".py").split("/"):
            if part == ".." and parts:
                parts.pop()
            elif part not in ("", "."):
                parts.append(part)
        place = ".".join(parts).removesuffix(".__init__")
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
    given: dict[str, Any] = {}
    if spec is None:
        given["target"] = target
    if inputs is not None and (spec is None or inputs != spec.inputs):
        given["inputs"] = dict(inputs)
    if stack is not None and (spec is None or stack != spec.stack):
        given["stack"] = stack
    if image is not None:
        whole = image.over(spec.image) if spec and spec.image else image
        if spec is None or whole != spec.image:
            given["image"] = whole.data()
    return given


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
    routes = state.routes if state else {}
    wishes = spec.routes if spec else {}
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
    state = lock.flow(order.flow)
    routes = state.routes if state else {}
    wishes = spec.routes if spec else {}
    tags = order_tags(order, lock)
    changed: dict[str, RouteTarget | None] = {}
    for tag, exclusive in tags.items():
        check_tag(tag)
        changed[tag] = Head()
        if not exclusive:
            _check_shared_there(order.flow, tag, wishes.get(tag), routes.get(tag), (state.latest if state else 0) + 1)
            wish = wishes.get(tag)
            versions = wish.versions if isinstance(wish, Label) else routes[tag].versions if tag in routes else ()
            changed[tag] = Label(versions if None in versions else (*versions, None))
    for tag, wish in wishes.items():
        if tag not in tags and None in versions_named(wish) and tag in routes:
            changed[tag] = wish_of(routes[tag])
    return ManifestEdit(order.flow, keys, {tag: wish for tag, wish in changed.items() if wish != wishes.get(tag)})


def _check_shared_there(flow: str, tag: str, wish: RouteTarget | None, route: Route | None, version: int) -> None:
    """As ``check_shared``, by the manifest's own word if it has one."""
    if wish is None or tag == DEFAULT_TAG:
        check_shared(flow, tag, route, version)
    elif not isinstance(wish, Label):
        raise KitaruUsageError(
            f"the manifest makes {tag} of {flow} an exclusive route: {target_data(wish)}; pass --exclusive to move it",
            hint=f"or make it a shared label: kitaru flow untag {flow} {tag} --manifest-only",
        )
