"""``deploy`` and ``build``: which flow a target is, the version to mint, what the manifest says then. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kitaru.core.commit import move_of
from kitaru.core.naming import present_name
from kitaru.core.protection import Rules, check_protected, protect_words, tightened
from kitaru.core.rollback import rolled_back
from kitaru.core.tagging import agrees, check_shared, check_tag, wish_of
from kitaru.errors import KitaruStateError, KitaruUsageError
from kitaru.model.image import ImageSettings, is_base_image
from kitaru.model.jsonable import parse_json
from kitaru.model.lockfile import AddVersion, Edit, FlowState, Lockfile, Move
from kitaru.model.manifest import FlowSpec, Manifest
from kitaru.model.plan import Build, FlowPlan, RouteMove
from kitaru.model.route import DEFAULT_TAG, Assignment, Head, Label, Pin, Route, RouteTarget, Split, target_data
from kitaru.model.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for. ``tag`` None: a version without a route. ``owner`` is None where no manifest declares it.

    ``protect``: what that manifest says of protected routes, to be recorded with the version.
    """

    flow: str
    tag: str | None = None
    exclusive: bool = False
    owner: str | None = None
    protect: Rules = field(default_factory=dict)

    @property
    def managed(self) -> bool:
        """Whether a manifest says so from now on."""
        return self.owner is not None


@dataclass(frozen=True, slots=True)
class ManifestEdit:
    """What the manifest is to say of one flow: keys of its entry, and routes; a wish that is None goes."""

    flow: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    routes: Mapping[str, RouteTarget | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


# --- which flow -------------------------------------------------------------------------------------------------------


def flow_name(manifest: Manifest, target: str) -> str:
    """The manifest's name for ``target``, else the function's own.

    Raises ``KitaruUsageError`` where the manifest uses that name for another target, or has two names for this one.
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
        place = ".".join(_plain(place[: -len(".py")])).removesuffix(".__init__")
    return f"{place}:{name}"


def _plain(path: str) -> list[str]:
    """The parts of a path, without ``.`` and ``..``."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return parts


def changed_keys(
    spec: FlowSpec | None,
    target: str,
    *,
    inputs: Mapping[str, Any] | None,
    image: ImageSettings | None,
    stack: str | None,
) -> dict[str, Any]:
    """The keys of a flow's entry that a deploy gives: those that are new, or another value than there."""
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


def read_image(text: str) -> str | dict[str, Any]:
    """An image as a text says it: a base image, or image settings as JSON. ``ValueError`` for what is neither."""
    text = text.strip()
    try:
        found = parse_json(text)
    except ValueError:
        if text[:1] in ("{", "[", '"'):
            raise
        check_base_image(text)
        return text
    if not isinstance(found, dict):
        raise ValueError(f"expected python:3.12-slim or an object of image settings, found the JSON value {text[:80]}")
    return found


def check_base_image(text: str) -> None:
    """Raise ``ValueError`` for what can't be the name of a container image, such as ``ghcr.io/acme/base:1.2``."""
    if not is_base_image(text):
        raise ValueError(f"base_image: expected a container image such as python:3.12-slim, found {text[:80]!r}")


def changed_spec(spec: FlowSpec | None, keys: Mapping[str, Any]) -> FlowSpec:
    """The flow's entry with those keys."""
    return FlowSpec.model_validate({**(spec.data() if spec else {}), **keys})


def check_not_renamed(manifest: Manifest, lock: Lockfile, flow: str) -> None:
    """Raise ``KitaruStateError`` where the manifest gives ``flow`` the versions of another name, and apply has not.

    So it does for a flow that has another name by now.
    """
    check_name(lock, flow)
    for was, name in manifest.moved.items():
        old = lock.flows.get(was)
        if name == flow and old is not None and not old.renamed_to and flow not in lock.flows:
            raise KitaruStateError(
                f"the manifest renames {was} to {flow}, and that is still to be done", hint="kitaru apply, then repeat"
            )


def check_name(lock: Lockfile, flow: str) -> None:
    """Raise ``KitaruStateError`` for a flow that has another name by now: its numbers went along."""
    now = present_name(lock.flows, flow)
    if now != flow:
        raise KitaruStateError(
            f"{flow} was renamed to {now}",
            hint=f"to take the name back: moved: {{{now}: {flow}}}, then kitaru apply; else deploy it as {now}",
        )


# --- the version and its route ----------------------------------------------------------------------------------------


def tags_of(order: Order, lock: Lockfile) -> dict[str, bool]:
    """The tags that the new version gets, and whether each is exclusive.

    The tag of the order, and ``default`` for the very first deploy of a flow, whatever the order says. A version that
    is only built gets none.
    """
    if order.tag is None:
        return {}
    first = {DEFAULT_TAG: True} if lock.flow(order.flow) is None else {}
    return {**first, order.tag: order.exclusive or order.tag == DEFAULT_TAG}


def plan_release(order: Order, snapshot: Snapshot, lock: Lockfile) -> tuple[FlowPlan, tuple[Edit, ...]]:
    """A new version of that snapshot, whatever there is, with its route.

    Raises ``KitaruUsageError`` for a shared label where the tag is exclusive, and for what can't be a tag;
    ``KitaruStateError`` for a route that is protected as it was applied, or a flow that was renamed meanwhile.
    """
    check_name(lock, order.flow)
    state = lock.flows.get(order.flow)
    live = lock.flow(order.flow)
    latest = state.latest if state else 0
    holder = Assignment(version=latest + 1, snapshot=snapshot.digest)
    edits: list[Edit] = [
        AddVersion(
            kind="mint",
            flow=order.flow,
            version=holder.version,
            snapshot=holder.snapshot,
            managed=order.managed,
            owner=order.owner or "",
            expects=latest,
        )
    ]
    moves = []
    notes: list[str] = []
    for tag, exclusive in tags_of(order, lock).items():
        move, edit = _led(order, tag, exclusive, holder, state, live)
        moves.append(move)
        edits.append(edit)
        back = rolled_back(live.routes.get(tag) if live else None, edit.holders)
        notes += [f"{tag}: {text}" for text in back]
    rules = tightened(order.flow, order.protect, state)
    build = Build(version=holder.version, snapshot_digest=holder.snapshot, snapshot=snapshot)
    plan = FlowPlan(
        flow=order.flow,
        action="update" if live else "create",
        version=holder.version,
        build=build,
        moves=tuple(moves),
        notes=(*notes, *(text for edit in rules for text in protect_words(edit))),
    )
    return plan, (*edits, *rules)


def _led(
    order: Order, tag: str, exclusive: bool, holder: Assignment, state: FlowState | None, live: FlowState | None
) -> tuple[RouteMove, Move]:
    check_tag(tag)
    check_protected({}, order.flow, tag, state)
    route = live.routes.get(tag) if live else None
    holders: tuple[Assignment, ...] = (holder,)
    if not exclusive:
        check_shared(order.flow, tag, route, holder.version)
        holders = (*sorted(route.holders if route else (), key=lambda one: one.version), holder)
    before = route.holders if route else None
    managed = order.managed or bool(route and route.managed)
    move = move_of(order.flow, tag, state, holders, exclusive=exclusive, managed=managed)
    shown = RouteMove(
        tag=tag,
        before=before,
        after=holders,
        exclusive=exclusive,
        moved_at=route.at if route else "",
        moved_by=route.by if route else "",
    )
    return shown, move


# --- what the manifest says then --------------------------------------------------------------------------------------


def agreeing(spec: FlowSpec | None, lock: Lockfile, flow: str, tags: frozenset[str], *, built: int) -> ManifestEdit:
    """What the manifest's routes are to say after version ``built``, which the routes ``tags`` were moved to.

    A route that is not to move, and that the manifest leads to the newest version, is written down as it is now: else
    the next apply would move it. One that the store does not have yet is taken out after a ``build``, which leaves its
    version unrouted; after a deploy it stays, for the next apply.
    """
    state = lock.flow(flow)
    routes = state.routes if state else {}
    wishes = spec.routes if spec else {}
    changed: dict[str, RouteTarget | None] = {
        tag: wish_of(routes.get(tag)) for tag in sorted(tags) if not agrees(wishes.get(tag), routes.get(tag), built)
    }
    notes = []
    for tag, wish in wishes.items():
        if tag in tags or not _names(wish, built):
            continue
        route = routes.get(tag)
        if agrees(wish, route, built):
            continue
        if route is not None:
            changed[tag] = wish_of(route)
            notes.append(f"{tag} stays where it is, so the manifest now says so: it followed the newest version")
        elif not tags:
            changed[tag] = None
            notes.append(f"{tag} was taken out of the manifest: a build leaves its version without a route")
        else:
            notes.append(f"the manifest leads {tag} to v{built} as well; kitaru apply does that")
    return ManifestEdit(flow, routes=changed, notes=tuple(notes))


def proposed(spec: FlowSpec | None, lock: Lockfile, order: Order) -> ManifestEdit:
    """What a manifest says that asks for this deploy: the order's tag leads to head, the others stay where they are."""
    state = lock.flow(order.flow)
    routes = state.routes if state else {}
    wishes = spec.routes if spec else {}
    tags = tags_of(order, lock)
    changed: dict[str, RouteTarget | None] = {}
    for tag, exclusive in tags.items():
        check_tag(tag)
        changed[tag] = Head()
        if not exclusive:
            _check_shared_there(order.flow, tag, wishes.get(tag), routes.get(tag), (state.latest if state else 0) + 1)
            changed[tag] = _with_head(wishes.get(tag), routes[tag].versions if tag in routes else ())
    for tag, wish in wishes.items():
        if tag not in tags and _names(wish, None) and tag in routes:
            changed[tag] = wish_of(routes[tag])
    return ManifestEdit(order.flow, routes={tag: wish for tag, wish in changed.items() if wish != wishes.get(tag)})


def _check_shared_there(flow: str, tag: str, wish: RouteTarget | None, route: Route | None, version: int) -> None:
    """As ``check_shared``, by the manifest's own word where it has one."""
    if wish is None or tag == DEFAULT_TAG:
        check_shared(flow, tag, route, version)
    elif not isinstance(wish, Label):
        raise KitaruUsageError(
            f"the manifest makes {tag} of {flow} an exclusive route: {target_data(wish)}; pass --exclusive to move it",
            hint=f"or make it a shared label: kitaru flow untag {flow} {tag} --manifest-only",
        )


def _with_head(wish: RouteTarget | None, held: tuple[int, ...]) -> Label:
    """A shared label as it is, and head besides."""
    versions: tuple[int | None, ...] = wish.versions if isinstance(wish, Label) else held
    return Label(versions if None in versions else (*versions, None))


def _names(wish: RouteTarget, version: int | None) -> bool:
    """Whether the wish leads to head, or to that version by its number."""
    match wish:
        case Head():
            return True
        case Pin(number):
            return number == version
        case Label(versions):
            return None in versions or version in versions
        case Split(weights):
            return any(number is None or number == version for number, _ in weights)
