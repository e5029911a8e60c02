"""(manifest, what this commit makes of each flow, lockfile) → plan, or all the problems. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kitaru.core.claims import taken_over
from kitaru.core.commit import move_of
from kitaru.core.diffing import snapshot_changes
from kitaru.core.protection import Rules, handed_over, protect_words, protected, shut_out
from kitaru.core.rollback import backward, held, override
from kitaru.errors import Problem
from kitaru.model.lockfile import AddVersion, Edit, FlowState, Lockfile, Manage, Move, Retire, Untag, VersionTable
from kitaru.model.manifest import FlowSpec, Manifest, Neighbours
from kitaru.model.plan import Build, Change, Consequence, FlowPlan, Held, RouteMove
from kitaru.model.route import (
    DEFAULT_TAG,
    Assignment,
    Head,
    Label,
    Route,
    RouteTarget,
    Split,
    ascending,
    describe_holders,
    versions_named,
)
from kitaru.model.snapshot import Commit, Snapshot

Place = Callable[..., Problem]
"""(message, *path of keys, hint=) → the problem with the manifest's file, line and column."""


_BACK = "{} was removed; its versions, keys and executions go on under this name, its routes are gone"


@dataclass(frozen=True, slots=True)
class Desired:
    """One flow as the manifest and this commit want it; ``files`` lists its source: path, mode, SHA-256."""

    name: str
    spec: FlowSpec
    snapshot: Snapshot
    files: Sequence[Sequence[str]] = ()


@dataclass(frozen=True, slots=True)
class StoredFlow:
    """What the store holds of one flow beyond the lockfile, read only where ``needs`` said so."""

    table: VersionTable | None = None
    previous: Snapshot | None = None
    previous_files: Sequence[Sequence[str]] | None = None


@dataclass(frozen=True, slots=True)
class Needs:
    """What must be read before a flow can be planned."""

    table: bool = False
    previous: bool = False


@dataclass
class Draft:
    """A plan while it is made: flows and edits so far, every problem, and what is worth a look.

    ``owner`` is the manifest's own path, ``protect`` its rules, ``commit`` the one that is planned for. ``contains``
    tells whether that contains the floors of routes and the ends of renames; ``force`` passes over these and over
    rollbacks, ``forward`` False turns the order of commits into warnings. ``renamed``: new name → the one until now.
    """

    owner: str = ""
    commit: Commit | None = None
    contains: Mapping[str, bool | None] = field(default_factory=dict)
    force: bool = False
    forward: bool = True
    protect: Rules = field(default_factory=dict)
    flows: list[FlowPlan] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    unmanaged: list[str] = field(default_factory=list)


def needs(desired: Desired, lock: Lockfile) -> Needs:
    """What to read of a flow: nothing at all when its content and its routes are those of the lockfile."""
    state = lock.flows.get(desired.name)
    if state is None:
        return Needs()
    built = state.known_version(desired.snapshot.digest)
    pins = [number for wish in desired.spec.routes.values() for number in versions_named(wish) if number]
    open_pin = any(state.known_snapshot(number) is None and number <= state.latest for number in pins)
    return Needs(table=built is None or open_pin, previous=built is None)


def plan_flow(draft: Draft, desired: Desired, lock: Lockfile, known: StoredFlow, place: Place, *, prune: bool) -> None:
    """Add one flow to ``draft``: its build, its route moves, and what is wrong with them. ``lock``: after renames."""
    state = lock.flows.get(desired.name)
    live = state if state is not None and not state.retired else None
    version, build = _version(desired, desired.snapshot.digest, state, known)
    moves, edits, held, told = _route_moves(draft, desired, state, known, version, place)
    left = handed_over(draft.protect, edits, live, draft.commit)
    awaited = [move.tag for move in moves if move.tag in left and version in {one.version for one in move.after or ()}]
    moves = [move for move in moves if move.tag not in left]
    edits = [edit for edit in edits if not (isinstance(edit, Move) and edit.tag in left)]
    told = [one for one in told if left.keys().isdisjoint(one.routes)]
    unmanaged, pruned = _leftovers(desired, live, prune)
    moves += [move for move, _ in pruned]
    rules = protected(desired.name, draft.protect, state)
    draft.edits += [*_opening(desired, state, build, draft.owner), *edits, *(edit for _, edit in pruned), *rules]
    was = draft.renamed.get(desired.name, "")
    taken_over = _former_owner(live, draft.owner) is not None
    quiet = live and not (build or moves or was or taken_over or rules)
    draft.flows.append(
        FlowPlan(
            flow=desired.name,
            action="keep" if quiet else "update" if live else "create",
            version=version,
            build=build,
            moves=tuple(moves),
            held=(*held, *_held_besides(desired, live, [move for move, _ in pruned])),
            consequences=(*told, *(one for edit in rules for one in shut_out(edit, live))),
            renamed_from=was,
            unmanaged=unmanaged,
            notes=(
                *([_BACK.format(was)] if was and not live else []),
                *_notes(version, build, moves, held, awaited, _former_owner(live, draft.owner)),
                *left.values(),
                *(text for edit in rules for text in protect_words(edit)),
            ),
        )
    )


def _route_moves(
    draft: Draft, desired: Desired, state: FlowState | None, known: StoredFlow, version: int, place: Place
) -> tuple[list[RouteMove], list[Edit], list[Held], list[Consequence]]:
    """What becomes of the routes that the manifest names: they move, or a rollback holds them.

    And what is to be said of those that come back to a version that was rolled back.
    """
    live = state is not None and not state.retired
    routes = state.routes if state is not None and live else {}
    moves: list[RouteMove] = []
    edits: list[Edit] = []
    holds: list[Held] = []
    told: list[Consequence] = []
    for tag, wish in _wishes(desired.spec, first=not live).items():
        managed = tag in desired.spec.routes
        route = routes.get(tag)
        exclusive = not isinstance(wish, Label)
        head = head_of(wish, route, version, desired.snapshot.digest)
        holders = _holders(draft, desired, tag, wish, state, known, (head, version), place)
        if holders is None or (route and settled(route, holders, managed, exclusive)):
            continue
        contains = draft.contains.get if draft.forward else _any
        hold = None if draft.force else held(tag, wish, route, holders, contains)
        if hold is not None:
            holds.append(hold)
            continue
        reason = move_reason(wish, managed, route, holders, exclusive)
        follows = None in versions_named(wish)
        back = backward(desired.name, tag, route, holders, draft.contains.get)
        if back and follows and not draft.forward:
            draft.warnings.append(f"{back} (forward: false)")
        elif back and not follows:
            reason += f", though {back.partition(': ')[2].partition(': ')[2]}"
        if draft.force and (over := override(tag, route, holders, back if follows else "")):
            told.append(over)
        moves.append(route_move(tag, route, holders, exclusive, reason))
        edits.append(
            move_of(
                desired.name,
                tag,
                state,
                holders,
                exclusive=exclusive,
                managed=managed,
                floor=draft.commit.sha if draft.commit else "",
                forward=follows and draft.forward and not draft.force,
            )
        )
    return moves, edits, holds, told


def _any(_commit: str) -> bool:
    return True


def _held_besides(desired: Desired, state: FlowState | None, pruned: Sequence[RouteMove]) -> list[Held]:
    """Holds on routes that the manifest does not name: they stay, and nobody would know."""
    going = {move.tag for move in pruned}
    routes = state.routes.items() if state is not None else ()
    return [
        Held(tag=tag, holders=route.holders, wanted=(), reason=route.hold.reason, at=route.at, by=route.by)
        for tag, route in routes
        if route.hold is not None and tag not in desired.spec.routes and tag not in going
    ]


def plan_absent(
    draft: Draft, manifest: Manifest, lock: Lockfile, place: Place, *, beside: Neighbours, prune: bool
) -> None:
    """Add the flows that the store has and the manifest has not: left alone, or retired by ``prune``.

    What another manifest claims of the flows that were this one's is left to that one.
    """
    absent = []
    for name, state in lock.flows.items():
        if name in manifest.flows or state.retired or _belongs_elsewhere(state, draft.owner):
            continue
        if state.managed and (told := taken_over(name, beside)):
            draft.unmanaged.append(told)
        else:
            absent.append((name, state))
    if prune and not manifest.flows and any(state.managed for _, state in absent):
        draft.problems.append(
            place("--prune would remove every flow of this project", "flows", hint="keep at least one flow")
        )
        return
    for name, state in absent:
        if prune and state.managed:
            moves = tuple(
                RouteMove(tag=tag, before=route.holders, reason="pruned", moved_at=route.at, moved_by=route.by)
                for tag, route in state.routes.items()
            )
            draft.flows.append(FlowPlan(flow=name, action="retire", version=state.latest, moves=moves))
            draft.edits.append(Retire(kind="retire", flow=name, expects=state.latest))
        else:
            once = "once in the manifest; --prune removes it" if state.managed else "never in the manifest"
            draft.unmanaged.append(f"{name} ({once})")


def left_out(manifest: Manifest, lock: Lockfile, owner: str) -> list[str]:
    """The flows that were this manifest's, and are in it no longer."""
    flows = lock.flows.items()
    return [name for name, one in flows if name not in manifest.flows and one.managed and one.owner == owner]


def _belongs_elsewhere(state: FlowState, owner: str) -> bool:
    """Whether another manifest of the repository declares the flow: it is none of this one's business."""
    return state.managed and state.owner != owner


def _version(desired: Desired, digest: str, state: FlowState | None, known: StoredFlow) -> tuple[int, Build | None]:
    """The version of this content, and the build that makes it where there is none yet."""
    if state is not None:
        version = state.known_version(digest)
        if version is None and known.table is not None and (release := known.table.newest_with(digest)):
            version = release.version
        if version is not None:
            return version, None
    latest = state.latest if state else 0
    changes: tuple[Change, ...] = ()
    if known.previous is not None:
        changes = snapshot_changes(known.previous, desired.snapshot, known.previous_files, desired.files)
    return latest + 1, Build(
        version=latest + 1,
        snapshot_digest=digest,
        snapshot=desired.snapshot,
        previous=latest if known.previous is not None else None,
        changes=changes,
    )


def _opening(desired: Desired, state: FlowState | None, build: Build | None, owner: str) -> list[Edit]:
    """The edit that a flow's other edits build on: its new version, or the manifest's word that the flow is its own."""
    if build is not None:
        latest = state.latest if state else 0
        mint = AddVersion(
            kind="mint",
            flow=desired.name,
            version=build.version,
            snapshot=build.snapshot_digest,
            owner=owner,
            expects=latest,
        )
        return [mint]
    if state is not None and (state.retired or not state.managed or state.owner != owner):
        return [Manage(kind="manage", flow=desired.name, owner=owner)]
    return []


def _wishes(spec: FlowSpec, *, first: bool) -> Mapping[str, RouteTarget]:
    """The manifest's routes; the first version of a flow gets ``default`` where the manifest does not place it."""
    if first and DEFAULT_TAG not in spec.routes:
        return {DEFAULT_TAG: Head(), **spec.routes}
    return spec.routes


def _holders(
    draft: Draft,
    desired: Desired,
    tag: str,
    wish: RouteTarget,
    state: FlowState | None,
    known: StoredFlow,
    head: tuple[int, int],
    place: Place,
) -> tuple[Assignment, ...] | None:
    """Who is to hold the tag; None, and a problem in ``draft``, where a number names no version.

    ``head``: the version that head is for this route, and the newest one of the same content.
    """
    version, newest = head
    path = ("flows", desired.name, "routes", tag)
    if tag == DEFAULT_TAG and isinstance(wish, Label):
        draft.problems.append(place("default is always exclusive: it leads to one version", *path))
        return None
    weights = {number or version: weight for number, weight in wish.weights} if isinstance(wish, Split) else {}
    if isinstance(wish, Split) and len(weights) < len(wish.weights):
        draft.problems.append(place(f"head is v{version}, which has a weight of its own beside it", *path))
        return None
    holders = []
    for number in dict.fromkeys(number or version for number in versions_named(wish)):
        snapshot = desired.snapshot.digest if number in head else _snapshot_of(number, state, known)
        if snapshot is None:
            draft.problems.append(place(_no_such_version(number, desired.name, tag, state, known, newest), *path))
            return None
        holders.append(Assignment(version=number, snapshot=snapshot, weight=weights.get(number, 100)))
    return tuple(sorted(holders, key=lambda holder: holder.version))


def _snapshot_of(number: int, state: FlowState | None, known: StoredFlow) -> str | None:
    if state is None:
        return None
    found = state.known_snapshot(number)
    if found is None and known.table is not None and (release := known.table.release(number)):
        return None if release.deleted else release.snapshot
    return found


def _no_such_version(number: int, flow: str, tag: str, state: FlowState | None, known: StoredFlow, version: int) -> str:
    latest = state.latest if state else 0
    if known.table is not None and (release := known.table.release(number)) and release.deleted:
        return f"route {tag} of {flow} names version {number}, which {release.deleted_by} deleted"
    have = "it has no version yet" if latest == 0 else "it has v1" if latest == 1 else f"it has v1 to v{latest}"
    built = f", and this apply builds v{version}" if version > latest else ""
    return f"route {tag} of {flow} names version {number}, which does not exist: {have}{built}"


def _leftovers(
    desired: Desired, state: FlowState | None, prune: bool
) -> tuple[tuple[str, ...], list[tuple[RouteMove, Untag]]]:
    """Routes that the manifest does not name: listed, or removed by ``prune`` where it once named them."""
    unmanaged, pruned = [], []
    for tag, route in (state.routes if state else {}).items():
        if tag in desired.spec.routes:
            continue
        if prune and route.managed and tag != DEFAULT_TAG:
            move = RouteMove(tag=tag, before=route.holders, reason="pruned", moved_at=route.at, moved_by=route.by)
            untag = Untag(kind="untag", flow=desired.name, tag=tag, expects=route.holders)
            pruned.append((move, untag))
            continue
        why = ""
        if route.managed:
            why = (
                " (once in the manifest; default can only be moved)" if tag == DEFAULT_TAG else " (--prune removes it)"
            )
        unmanaged.append(f"{tag} at {describe_holders(route.holders)}{why}")
    return tuple(unmanaged), pruned


def _former_owner(state: FlowState | None, owner: str) -> str | None:
    """The manifest that declared the flow until now, where that was another one."""
    return state.owner if state is not None and state.managed and state.owner != owner else None


def _notes(
    version: int,
    build: Build | None,
    moves: Sequence[RouteMove],
    held: Sequence[Held],
    awaited: Sequence[str],
    former: str | None,
) -> tuple[str, ...]:
    notes = []
    if former is not None:
        notes.append(f"declared by {former or 'kitaru.yaml'} until now, by this manifest from now on")
    led_to = {holder.version for move in moves for holder in move.after or ()}
    if build is not None and version not in led_to:
        waiting = [one.tag for one in held if version in {holder.version for holder in one.wanted}]
        why = f"a rollback keeps {', '.join(waiting)} back" if waiting else "no route of the manifest leads to it"
        why = f"another branch has {', '.join(awaited)}" if awaited and not waiting else why
        notes.append(f"v{version} is built and left unrouted: {why}")
    return tuple(notes)


def head_of(target: RouteTarget, route: Route | None, version: int, snapshot: str) -> int:
    """The version that head is for a route: ``version``, of that snapshot, or one of the same that holds it already.

    A version that was added by hand may give the same content a higher number; no route moves for that.
    """
    same = {holder.version for holder in route.holders if holder.snapshot == snapshot} if route is not None else set()
    named = same & set(versions_named(target))
    free = same - named
    if not free and isinstance(target, Label):
        free = named
    return max(free, default=version)


def settled(route: Route, holders: tuple[Assignment, ...], managed: bool, exclusive: bool) -> bool:
    """Whether the route is as the manifest wants it: there, under its care, and not on hold."""
    there = ascending(route.holders) == holders and route.exclusive == exclusive
    return there and route.managed >= managed and route.hold is None


def route_move(tag: str, route: Route | None, after: tuple[Assignment, ...], exclusive: bool, reason: str) -> RouteMove:
    """The route leads to ``after``; None: it is a new one."""
    return RouteMove(
        tag=tag,
        before=route.holders if route else None,
        after=after,
        exclusive=exclusive,
        converts=route is not None and route.exclusive != exclusive,
        reason=reason,
        moved_at=route.at if route else "",
        moved_by=route.by if route else "",
    )


def move_reason(
    target: RouteTarget, managed: bool, route: Route | None, holders: tuple[Assignment, ...], exclusive: bool
) -> str:
    """Why the plan moves the route, or touches it where it is."""
    there = route is not None and ascending(route.holders) == holders
    if there and route and route.exclusive != exclusive:
        return f"the manifest makes it {'an exclusive route' if exclusive else 'a shared label'}"
    if there and route:
        return "the manifest agrees: the rollback's hold ends" if route.hold else "now managed by the manifest"
    if not managed:
        return "the first version gets default"
    if None in versions_named(target):
        return "head is the version that this commit builds"
    return "the manifest names it: the rollback's hold ends" if route and route.hold else "the manifest says so"
