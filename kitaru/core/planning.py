"""(facts) → the draft of a plan, or all its problems. Pure: everything that is read is read before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kitaru.core.commit import add_version, move_of, route_move
from kitaru.core.diffing import snapshot_changes
from kitaru.core.protection import handed_over, protect_words, protected, shut_out
from kitaru.core.renames import Place, declared_twice, plan_renames, taken_over
from kitaru.core.resolving import version_words
from kitaru.core.rollback import backward, held, override
from kitaru.errors import Problem
from kitaru.model.lockfile import Edit, FlowState, Lockfile, Manage, Move, Retire, Untag, VersionTable
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

Holders = tuple[Assignment, ...]
Files = Sequence[Sequence[str]]
"""Rows of path, mode, SHA-256."""


@dataclass(frozen=True, slots=True)
class Desired:
    """One flow as the manifest and this commit want it, and the objects of the store that it is compared with.

    ``table`` has its versions, unless the lockfile alone knows enough; ``previous`` is the newest version's snapshot,
    unless this content has a version. ``files`` and ``previous_files`` list the sources if these differ.
    """

    name: str
    spec: FlowSpec
    snapshot: Snapshot
    table: VersionTable | None = None
    previous: Snapshot | None = None
    files: Files = ()
    previous_files: Files | None = None

    def is_told_by(self, state: FlowState) -> bool:
        """Whether the state alone knows the versions of this content and of each number of the manifest."""
        numbers = [number for target in self.spec.routes.values() for number in versions_named(target) if number]
        open_pin = any(state.known_snapshot(number) is None and number <= state.latest for number in numbers)
        return not open_pin and state.known_version(self.snapshot.digest) is not None


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that a plan is made from.

    ``owner`` is the manifest's path as the lockfile spells it, ``path`` as people do; ``place`` finds lines in it.
    ``lock`` is the newest state, ``contains`` tells of commits whether this one contains them (None: a shallow clone
    can't tell), ``only`` names the flows that are planned, all if empty. ``force`` passes over rollbacks and the order
    of commits.
    """

    manifest: Manifest
    place: Place
    commit: Commit
    lock: Lockfile
    desired: tuple[Desired, ...]
    owner: str = ""
    path: str = "kitaru.yaml"
    contains: Mapping[str, bool | None] = field(default_factory=dict)
    beside: Neighbours = field(default_factory=Neighbours)
    only: tuple[str, ...] = ()
    prune: bool = False
    force: bool = False


@dataclass(slots=True)
class Draft:
    """A plan while it is made. ``lock`` is the state in which the renames are made."""

    lock: Lockfile
    flows: list[FlowPlan] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unmanaged: list[str] = field(default_factory=list)


def draft_plan(facts: Facts) -> Draft:
    """Flows, edits, warnings and problems of the plan, without its consequences for callers."""
    renames = plan_renames(facts.manifest, facts.lock, facts.place, facts.contains.get, facts.only, force=facts.force)
    draft = Draft(renames.lock, [], list(renames.edits), list(renames.problems), list(renames.warnings))
    was = {edit.flow: edit.was for edit in renames.edits}
    for desired in facts.desired:
        _FlowDraft(facts, draft, desired, was.get(desired.name, "")).add()
    draft.warnings += facts.beside.unread
    taken = newcomers(facts, draft.lock)
    moved = {was[name]: name for name in taken if name in was}
    draft.problems += declared_twice(facts.path, taken, moved, facts.beside, facts.place)
    if not facts.only:
        _add_absent(facts, draft)
    return draft


def newcomers(facts: Facts, lock: Lockfile) -> list[str]:
    """The flows that were not this manifest's until now: new ones, renamed ones, and another manifest's."""
    names = []
    for desired in facts.desired:
        state, before = lock.flow(desired.name), facts.lock.flow(desired.name)
        if state is None or state is not before or not (state.managed and state.owner == facts.owner):
            names.append(desired.name)
    return names


def left_out(manifest: Manifest, lock: Lockfile, owner: str) -> list[str]:
    """The flows that were this manifest's, and are in it no longer."""
    flows = lock.flows.items()
    return [name for name, one in flows if name not in manifest.flows and one.managed and one.owner == owner]


# --- one flow ---------------------------------------------------------------------------------------------------------


class _FlowDraft:
    """One flow of the manifest: its build, its route moves, and their problems."""

    def __init__(self, facts: Facts, draft: Draft, desired: Desired, was: str) -> None:
        self._facts, self._draft, self._desired, self._was = facts, draft, desired, was
        self._name, self._spec, self._digest = desired.name, desired.spec, desired.snapshot.digest
        self._state = draft.lock.flows.get(desired.name)
        self._live = draft.lock.flow(desired.name)
        self._routes = self._live.routes if self._live else {}
        known = self._state.known_version(self._digest) if self._state else None
        if known is None and desired.table is not None and (release := desired.table.newest_with(self._digest)):
            known = release.version
        self._version = known or (self._state.latest if self._state else 0) + 1
        self._build = None if known else self._new_build()
        self._moves: list[RouteMove] = []
        self._edits: list[Edit] = []
        self._held: list[Held] = []
        self._overrides: list[Consequence] = []
        self._left: dict[str, str] = {}
        """Tag → sentence, of routes whose moves are left to another branch."""
        self._waiting: list[str] = []
        """Those of them that would lead to the new version."""

    def add(self) -> None:
        """Add the flow to the draft."""
        # The first version of a flow gets ``default`` unless the manifest places that.
        first = {DEFAULT_TAG: Head()} if self._live is None and DEFAULT_TAG not in self._spec.routes else {}
        for tag, target in {**first, **self._spec.routes}.items():
            self._add_route(tag, target)
        unmanaged = self._add_leftovers()
        rules = protected(self._name, self._facts.manifest.protect, self._state)
        self._draft.edits += [*self._opening(), *self._edits, *rules]
        live = self._live
        former = live.owner if live and live.managed and live.owner != self._facts.owner else None
        quiet = live and not (self._build or self._moves or self._was or former is not None or rules)
        back = f"{self._was} was removed; its versions, keys and executions go on under this name, its routes are gone"
        taken = f"declared by {former or 'kitaru.yaml'} until now, by this manifest from now on"
        self._draft.flows.append(
            FlowPlan(
                flow=self._name,
                action="keep" if quiet else "update" if live else "create",
                version=self._version,
                build=self._build,
                moves=tuple(self._moves),
                held=tuple(self._held),
                consequences=(*self._overrides, *(one for edit in rules for one in shut_out(edit, live))),
                renamed_from=self._was,
                unmanaged=unmanaged,
                notes=(
                    *([back] if self._was and not live else []),
                    *([taken] if former is not None else []),
                    *self._unrouted(),
                    *self._left.values(),
                    *(text for edit in rules for text in protect_words(edit)),
                ),
            )
        )

    # --- its version

    def _new_build(self) -> Build:
        desired, previous = self._desired, self._desired.previous
        changes: tuple[Change, ...] = ()
        if previous is not None:
            changes = snapshot_changes(previous, desired.snapshot, desired.previous_files, desired.files)
        return Build(
            version=self._version,
            snapshot_digest=self._digest,
            snapshot=desired.snapshot,
            previous=self._version - 1 if previous is not None else None,
            changes=changes,
        )

    def _opening(self) -> list[Edit]:
        """The edit that the others build on: a new version, or that the manifest declares the flow."""
        state, owner = self._state, self._facts.owner
        if self._build is not None:
            return [add_version(self._name, state, self._digest, owner)]
        if state is not None and (state.retired or not state.managed or state.owner != owner):
            return [Manage(kind="manage", flow=self._name, owner=owner)]
        return []

    def _unrouted(self) -> list[str]:
        """The reason why no route leads to the new version."""
        if self._build is None or any(self._version in _versions(move.after) for move in self._moves):
            return []
        kept = [one.tag for one in self._held if self._version in _versions(one.wanted)]
        why = f"another branch has {', '.join(self._waiting)}" if self._waiting else ""
        why = f"a rollback keeps {', '.join(kept)} back" if kept else why or "no route of the manifest leads to it"
        return [f"v{self._version} is built and left unrouted: {why}"]

    # --- its routes

    def _add_route(self, tag: str, target: RouteTarget) -> None:
        """The route moves, stays, or a rollback holds it."""
        facts, forward, route = self._facts, self._facts.manifest.forward, self._routes.get(tag)
        managed, exclusive = tag in self._spec.routes, not isinstance(target, Label)
        holders = self._assignments(tag, target, route)
        if holders is None:
            return
        there = route is not None and (ascending(route.holders), route.exclusive) == (holders, exclusive)
        if route is not None and there and route.managed >= managed and route.hold is None:
            return
        contains = facts.contains.get if forward else (lambda _commit: True)
        if not facts.force and (hold := held(tag, target, route, holders, contains)):
            self._held.append(hold)
            return
        follows = forward and None in versions_named(target)
        move = move_of(
            self._name,
            tag,
            self._state,
            holders,
            exclusive=exclusive,
            managed=managed,
            floor=facts.commit.sha,
            forward=follows and not facts.force,
        )
        if stays := handed_over(facts.manifest.protect, move, self._live, facts.commit):
            self._left[tag] = stays
            self._waiting += [tag] if self._version in _versions(holders) else []
            return
        back = backward(tag, move.expects, route.floor if route else "", holders, facts.contains.get)
        reason = _move_reason(target, managed, route, move)
        if back and None not in versions_named(target):
            reason += f", though {back.partition(': ')[2]}"
        elif back and not forward:
            self._draft.warnings.append(f"{self._name}: {back} (forward: false)")
        if facts.force and (over := override(tag, route, holders, back if follows else "")):
            self._overrides.append(over)
        self._edits.append(move)
        self._moves.append(route_move(move, route, reason))

    def _assignments(self, tag: str, target: RouteTarget, route: Route | None) -> Holders | None:
        """The versions that the manifest wants; None, and a problem in the draft, if a number names no version."""
        problems, path = self._draft.problems, ("flows", self._name, "routes", tag)
        place, head = self._facts.place, head_of(target, route, self._version, self._digest)
        if tag == DEFAULT_TAG and isinstance(target, Label):
            problems.append(place("default is always exclusive: it leads to one version", *path))
            return None
        weights = {number or head: weight for number, weight in target.weights} if isinstance(target, Split) else {}
        if isinstance(target, Split) and len(weights) < len(target.weights):
            problems.append(place(f"head is v{head}, which has a weight of its own beside it", *path))
            return None
        holders = []
        for number in dict.fromkeys(number or head for number in versions_named(target)):
            snapshot = self._digest if number in (head, self._version) else self._snapshot_of(number)
            if snapshot is None:
                hint = "" if self._state else f"to begin: {tag}: head, the version that this commit builds"
                problems.append(place(self._no_such_version(number, tag), *path, hint=hint))
                return None
            holders.append(Assignment(version=number, snapshot=snapshot, weight=weights.get(number, 100)))
        return ascending(holders)

    def _snapshot_of(self, number: int) -> str | None:
        snapshot, table = self._state.known_snapshot(number) if self._state else None, self._desired.table
        if snapshot is None and self._state and table and (release := table.release(number)) and not release.deleted:
            return release.snapshot
        return snapshot

    def _no_such_version(self, number: int, tag: str) -> str:
        state, table = self._state, self._desired.table
        subject = f"route {tag} of {self._name} names version {number}, which"
        if table is not None and (release := table.release(number)) and release.deleted:
            return f"{subject} {release.deleted_by} deleted"
        there = table.versions if table is not None else range(1, (state.latest if state else 0) + 1)
        have = f"it has {version_words(there)}" if there else "it has no version yet"
        built = f", and this apply builds v{self._version}" if self._build else ""
        return f"{subject} does not exist: {have}{built}"

    def _add_leftovers(self) -> tuple[str, ...]:
        """Routes that the manifest does not name: removed by ``prune`` if it once named them, else listed."""
        unmanaged = []
        for tag, route in self._routes.items():
            if tag in self._spec.routes:
                continue
            if self._facts.prune and route.managed and tag != DEFAULT_TAG:
                untag = Untag(kind="untag", flow=self._name, tag=tag, expects=route.holders)
                self._edits.append(untag)
                self._moves.append(route_move(untag, route, "pruned"))
                continue
            if route.hold is not None:
                reason, at, by = route.hold.reason, route.at, route.by
                self._held.append(Held(tag=tag, holders=route.holders, wanted=(), reason=reason, at=at, by=by))
            once = "once in the manifest; default can only be moved" if tag == DEFAULT_TAG else "--prune removes it"
            unmanaged.append(f"{tag} at {describe_holders(route.holders)}{f' ({once})' if route.managed else ''}")
        return tuple(unmanaged)


def _versions(holders: Holders | None) -> set[int]:
    return {one.version for one in holders or ()}


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


def _move_reason(target: RouteTarget, managed: bool, route: Route | None, move: Move) -> str:
    """Why the plan moves the route, or touches it in its place."""
    if route is not None and ascending(route.holders) == move.holders:
        if move.converts:
            return f"the manifest makes it {'an exclusive route' if move.exclusive else 'a shared label'}"
        return "the manifest agrees: the rollback's hold ends" if route.hold else "now managed by the manifest"
    if not managed:
        return "the first version gets default"
    if None in versions_named(target):
        return "head is the version that this commit builds"
    return "the manifest names it: the rollback's hold ends" if move.ends_hold else "the manifest says so"


# --- flows that the manifest does not name ----------------------------------------------------------------------------


def _add_absent(facts: Facts, draft: Draft) -> None:
    """Flows that the store has and the manifest has not: left alone, left to another manifest, or pruned."""
    manifest, absent = facts.manifest, []
    for name, state in draft.lock.flows.items():
        elsewhere = state.managed and state.owner != facts.owner
        if name in manifest.flows or state.retired or elsewhere:
            continue
        if state.managed and (owner := taken_over(name, facts.beside)):
            draft.unmanaged.append(owner)
        else:
            absent.append((name, state))
    if facts.prune and not manifest.flows and any(state.managed for _, state in absent):
        message = "--prune would remove every flow of this project"
        draft.problems.append(facts.place(message, "flows", hint="keep at least one flow"))
        return
    for name, state in absent:
        if facts.prune and state.managed:
            untags = [Untag(kind="untag", flow=name, tag=tag, expects=one.holders) for tag, one in state.routes.items()]
            moves = tuple(route_move(edit, state.routes[edit.tag], "pruned") for edit in untags)
            draft.flows.append(FlowPlan(flow=name, action="retire", version=state.latest, moves=moves))
            draft.edits.append(Retire(kind="retire", flow=name, expects=state.latest))
        else:
            once = "once in the manifest; --prune removes it" if state.managed else "never in the manifest"
            draft.unmanaged.append(f"{name} ({once})")
