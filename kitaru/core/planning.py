"""(facts) → the draft of a plan, or all its problems. Pure: everything that is read is read before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kitaru.core.commit import move_of
from kitaru.core.diffing import snapshot_changes
from kitaru.core.protection import handed_over, protect_words, protected, shut_out
from kitaru.core.renames import Place, declared_twice, plan_renames, taken_over
from kitaru.core.resolving import version_words
from kitaru.core.rollback import backward, held, override
from kitaru.errors import Problem
from kitaru.model.lockfile import AddVersion, Edit, Lockfile, Manage, Move, Retire, Untag, VersionTable
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


@dataclass(frozen=True, slots=True)
class Desired:
    """One flow as the manifest and this commit want it; ``files`` lists its source: path, mode, SHA-256."""

    name: str
    spec: FlowSpec
    snapshot: Snapshot
    files: Sequence[Sequence[str]] = ()


@dataclass(frozen=True, slots=True)
class StoredFlow:
    """One flow in the store beyond the lockfile, as far as ``needs`` asked for it."""

    table: VersionTable | None = None
    previous: Snapshot | None = None
    previous_files: Sequence[Sequence[str]] | None = None


@dataclass(frozen=True, slots=True)
class Needs:
    """The objects to read before a flow can be planned."""

    table: bool = False
    previous: bool = False


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
    stored: Mapping[str, StoredFlow] = field(default_factory=dict)
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


def needs(desired: Desired, lock: Lockfile) -> Needs:
    """The objects to read of a flow: none at all if its content and its routes are those of the lockfile."""
    state = lock.flows.get(desired.name)
    if state is None:
        return Needs()
    built = state.known_version(desired.snapshot.digest)
    pins = [number for target in desired.spec.routes.values() for number in versions_named(target) if number]
    open_pin = any(state.known_snapshot(number) is None and number <= state.latest for number in pins)
    return Needs(table=built is None or open_pin, previous=built is None)


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
        self._name, self._spec = desired.name, desired.spec
        self._state = draft.lock.flows.get(desired.name)
        self._live = draft.lock.flow(desired.name)
        self._stored = facts.stored.get(desired.name, StoredFlow())
        self._build: Build | None = None
        self._version = self._known_version() or self._new_version()
        self._moves: list[RouteMove] = []
        self._edits: list[Edit] = []
        self._held: list[Held] = []
        self._told: list[Consequence] = []

    def add(self) -> None:
        """Add the flow to the draft."""
        for tag, target in self._targets().items():
            self._add_route(tag, target)
        left = handed_over(self._facts.manifest.protect, self._edits, self._live, self._facts.commit)
        waits = [move.tag for move in self._moves if move.tag in left and self._version in _versions(move.after)]
        self._moves = [move for move in self._moves if move.tag not in left]
        self._edits = [edit for edit in self._edits if not (isinstance(edit, Move) and edit.tag in left)]
        self._told = [one for one in self._told if left.keys().isdisjoint(one.routes)]
        unmanaged = self._add_leftovers()
        rules = protected(self._name, self._facts.manifest.protect, self._state)
        self._draft.edits += [*self._opening(), *self._edits, *rules]
        former = self._former_owner()
        quiet = self._live and not (self._build or self._moves or self._was or former is not None or rules)
        back = f"{self._was} was removed; its versions, keys and executions go on under this name, its routes are gone"
        self._draft.flows.append(
            FlowPlan(
                flow=self._name,
                action="keep" if quiet else "update" if self._live else "create",
                version=self._version,
                build=self._build,
                moves=tuple(self._moves),
                held=tuple(self._held),
                consequences=(*self._told, *(one for edit in rules for one in shut_out(edit, self._live))),
                renamed_from=self._was,
                unmanaged=unmanaged,
                notes=(
                    *([back] if self._was and not self._live else []),
                    *self._notes(waits, former),
                    *left.values(),
                    *(text for edit in rules for text in protect_words(edit)),
                ),
            )
        )

    # --- its version

    def _known_version(self) -> int | None:
        """The version of this content, if there is one."""
        digest, table = self._desired.snapshot.digest, self._stored.table
        version = self._state.known_version(digest) if self._state else None
        if version is None and table is not None and (release := table.newest_with(digest)):
            version = release.version
        return version

    def _new_version(self) -> int:
        stored, snapshot = self._stored, self._desired.snapshot
        latest = self._state.latest if self._state else 0
        changes: tuple[Change, ...] = ()
        if stored.previous is not None:
            changes = snapshot_changes(stored.previous, snapshot, stored.previous_files, self._desired.files)
        self._build = Build(
            version=latest + 1,
            snapshot_digest=snapshot.digest,
            snapshot=snapshot,
            previous=latest if stored.previous is not None else None,
            changes=changes,
        )
        return latest + 1

    def _opening(self) -> list[Edit]:
        """The edit that the others build on: a new version, or that the manifest declares the flow."""
        state, owner = self._state, self._facts.owner
        if self._build is not None:
            return [
                AddVersion(
                    kind="mint",
                    flow=self._name,
                    version=self._build.version,
                    snapshot=self._build.snapshot_digest,
                    owner=owner,
                    expects=state.latest if state else 0,
                )
            ]
        if state is not None and (state.retired or not state.managed or state.owner != owner):
            return [Manage(kind="manage", flow=self._name, owner=owner)]
        return []

    def _former_owner(self) -> str | None:
        """The manifest that declared the flow until now, if that was another one."""
        live = self._live
        return live.owner if live is not None and live.managed and live.owner != self._facts.owner else None

    # --- its routes

    def _targets(self) -> Mapping[str, RouteTarget]:
        """The manifest's routes; the first version of a flow gets ``default`` unless the manifest places that."""
        first = self._live is None and DEFAULT_TAG not in self._spec.routes
        return {**({DEFAULT_TAG: Head()} if first else {}), **self._spec.routes}

    def _add_route(self, tag: str, target: RouteTarget) -> None:
        """The route moves, stays, or a rollback holds it."""
        facts, forward = self._facts, self._facts.manifest.forward
        managed, exclusive = tag in self._spec.routes, not isinstance(target, Label)
        route = self._live.routes.get(tag) if self._live else None
        holders = self._holders(tag, target, route)
        if holders is None or (route and settled(route, holders, managed, exclusive)):
            return
        contains = facts.contains.get if forward else (lambda _commit: True)
        hold = None if facts.force else held(tag, target, route, holders, contains)
        if hold is not None:
            self._held.append(hold)
            return
        follows = None in versions_named(target)
        before, floor = (route.holders, route.floor) if route else (None, "")
        back = backward(self._name, tag, before, floor, holders, facts.contains.get)
        reason = move_reason(target, managed, route, holders, exclusive)
        if back and not follows:
            reason += f", though {back.partition(': ')[2].partition(': ')[2]}"
        elif back and not forward:
            self._draft.warnings.append(f"{back} (forward: false)")
        if facts.force and (over := override(tag, route, holders, back if follows and forward else "")):
            self._told.append(over)
        move = move_of(
            self._name,
            tag,
            self._state,
            holders,
            exclusive=exclusive,
            managed=managed,
            floor=facts.commit.sha,
            forward=follows and forward and not facts.force,
        )
        self._edits.append(move)
        self._moves.append(
            RouteMove(
                tag=tag,
                before=move.expects,
                after=holders,
                exclusive=exclusive,
                converts=move.converts,
                reason=reason,
                moved_at=route.at if route else "",
                moved_by=route.by if route else "",
            )
        )

    def _holders(self, tag: str, target: RouteTarget, route: Route | None) -> Holders | None:
        """The holders that the manifest wants; None, and a problem in the draft, if a number names no version."""
        problems, path = self._draft.problems, ("flows", self._name, "routes", tag)
        place, digest = self._facts.place, self._desired.snapshot.digest
        head = head_of(target, route, self._version, digest)
        if tag == DEFAULT_TAG and isinstance(target, Label):
            problems.append(place("default is always exclusive: it leads to one version", *path))
            return None
        weights = {number or head: weight for number, weight in target.weights} if isinstance(target, Split) else {}
        if isinstance(target, Split) and len(weights) < len(target.weights):
            problems.append(place(f"head is v{head}, which has a weight of its own beside it", *path))
            return None
        holders = []
        for number in dict.fromkeys(number or head for number in versions_named(target)):
            snapshot = digest if number in (head, self._version) else self._snapshot_of(number)
            if snapshot is None:
                hint = "" if self._state else f"to begin: {tag}: head, the version that this commit builds"
                problems.append(place(self._no_such_version(number, tag), *path, hint=hint))
                return None
            holders.append(Assignment(version=number, snapshot=snapshot, weight=weights.get(number, 100)))
        return ascending(holders)

    def _snapshot_of(self, number: int) -> str | None:
        if self._state is None:
            return None
        snapshot, table = self._state.known_snapshot(number), self._stored.table
        if snapshot is None and table is not None and (release := table.release(number)):
            return None if release.deleted else release.snapshot
        return snapshot

    def _no_such_version(self, number: int, tag: str) -> str:
        state, table = self._state, self._stored.table
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
        for tag, route in (self._live.routes if self._live else {}).items():
            if tag in self._spec.routes:
                continue
            if self._facts.prune and route.managed and tag != DEFAULT_TAG:
                self._moves.append(_pruned(tag, route))
                self._edits.append(Untag(kind="untag", flow=self._name, tag=tag, expects=route.holders))
                continue
            if route.hold is not None:
                reason, at, by = route.hold.reason, route.at, route.by
                self._held.append(Held(tag=tag, holders=route.holders, wanted=(), reason=reason, at=at, by=by))
            once = "once in the manifest; default can only be moved" if tag == DEFAULT_TAG else "--prune removes it"
            unmanaged.append(f"{tag} at {describe_holders(route.holders)}{f' ({once})' if route.managed else ''}")
        return tuple(unmanaged)

    def _notes(self, waits: Sequence[str], former: str | None) -> list[str]:
        notes = []
        if former is not None:
            notes.append(f"declared by {former or 'kitaru.yaml'} until now, by this manifest from now on")
        if self._build is not None and not any(self._version in _versions(move.after) for move in self._moves):
            kept = [one.tag for one in self._held if self._version in _versions(one.wanted)]
            why = f"another branch has {', '.join(waits)}" if waits else "no route of the manifest leads to it"
            why = f"a rollback keeps {', '.join(kept)} back" if kept else why
            notes.append(f"v{self._version} is built and left unrouted: {why}")
        return notes


def _versions(holders: Holders | None) -> set[int]:
    return {one.version for one in holders or ()}


def _pruned(tag: str, route: Route) -> RouteMove:
    return RouteMove(tag=tag, before=route.holders, reason="pruned", moved_at=route.at, moved_by=route.by)


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


def settled(route: Route, holders: Holders, managed: bool, exclusive: bool) -> bool:
    """Whether the route is as the manifest wants it: there, under its care, and not on hold."""
    there = ascending(route.holders) == holders and route.exclusive == exclusive
    return there and route.managed >= managed and route.hold is None


def move_reason(target: RouteTarget, managed: bool, route: Route | None, holders: Holders, exclusive: bool) -> str:
    """Why the plan moves the route, or touches it in its place."""
    if route is not None and ascending(route.holders) == holders:
        if route.exclusive != exclusive:
            return f"the manifest makes it {'an exclusive route' if exclusive else 'a shared label'}"
        return "the manifest agrees: the rollback's hold ends" if route.hold else "now managed by the manifest"
    if not managed:
        return "the first version gets default"
    if None in versions_named(target):
        return "head is the version that this commit builds"
    return "the manifest names it: the rollback's hold ends" if route and route.hold else "the manifest says so"


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
            moves = tuple(_pruned(tag, route) for tag, route in state.routes.items())
            draft.flows.append(FlowPlan(flow=name, action="retire", version=state.latest, moves=moves))
            draft.edits.append(Retire(kind="retire", flow=name, expects=state.latest))
        else:
            once = "once in the manifest; --prune removes it" if state.managed else "never in the manifest"
            draft.unmanaged.append(f"{name} ({once})")
