"""One imperative verb: decide on the newest state, append, decide again after a lost race, sync the manifest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Literal

from kitaru.core.commit import next_lockfile
from kitaru.core.renames import names_of
from kitaru.core.resolving import Resolved, in_table, live_flow, resolve
from kitaru.core.rollback import ROLLBACK, WayBack, rollback_words, steps, way_back
from kitaru.core.routing import (
    Edits,
    ManifestEdit,
    Order,
    after_release,
    check_deletable,
    deployed,
    described,
    flow_plan,
    labels_of,
    order_tags,
    promoted,
    proposed,
    rollable,
    rolled_back,
    routes_to_write,
    tagged,
    untagged,
)
from kitaru.errors import KitaruSelectorError
from kitaru.model.address import timestamp
from kitaru.model.lockfile import AddVersion, Drop, Edit, Lockfile, Move, VersionTable
from kitaru.model.manifest import FlowSpec, Manifest
from kitaru.model.plan import Build, Consequence, FlowPlan
from kitaru.model.route import DEFAULT_TAG, Assignment, ByVersion, Route, describe_holders
from kitaru.model.snapshot import Commit, Snapshot
from kitaru.ports import Clock, Step
from kitaru.release.applier import Applier
from kitaru.release.manifest_sync import Draw, ManifestSync, Synced
from kitaru.release.releases import Releases, Turns
from kitaru.release.workshop import Workshop
from kitaru.store.objects import put_object, read_table
from kitaru.store.port import Store

PREVIOUS = -1
"""``rollback(to=-1)``: the version that the route led to before."""

READS_AT_ONCE = 16
MOST_READ = 4096
"""How many generations a rollback reads back. The route's own last move is known, so that one read is the rule."""


@dataclass(frozen=True, slots=True)
class RouteChange:
    """One route that a deploy moved, in words: ``before`` is ``nothing`` for a new one."""

    tag: str
    before: str
    after: str
    exclusive: bool


@dataclass(frozen=True, slots=True)
class Released:
    """The result of a deploy or a build; ``version`` is None if the manifest alone was edited.

    ``changed`` are the files that were built without being committed.
    """

    flow: str
    target: str
    version: int | None
    generation: int
    moves: tuple[RouteChange, ...] = ()
    snapshot: Snapshot | None = None
    changed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    manifest: Synced = field(default_factory=Synced)


@dataclass(frozen=True, slots=True)
class Rerouted:
    """The result of a verb on one route, or on one version; ``changed`` is False if it was so already.

    ``before`` and ``after`` are the holders of the route: ``v2``, ``nothing``. ``held``: a rollback left a hold;
    ``hold_ended``: the verb took one away. ``lost`` are the labels of a deleted version, ``skipped`` versions that a
    rollback passed over, ``rolled_back`` earlier rollbacks of the version that the route leads to now. ``converted``:
    a shared label became an exclusive route, or the other way round.
    """

    flow: str
    tag: str
    before: str
    after: str
    exclusive: bool
    changed: bool
    generation: int
    version: int | None = None
    held: bool = False
    lost: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    manifest: Synced = field(default_factory=Synced)
    hold_ended: bool = False
    rolled_back: tuple[str, ...] = ()
    converted: bool = False


@dataclass(frozen=True, slots=True)
class Release:
    """A deploy or a build, ready: everything about it but the state of the store.

    ``keys`` are those of the flow's entry that the verb changes, ``changed`` the files that are not committed.
    """

    order: Order
    target: str
    snapshot: Snapshot
    workshop: Workshop
    keys: dict[str, object]
    changed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb on one flow: its edits in a state, the routes that it moves there, and the edit of the manifest.

    ``prepared`` stores the objects of the edits, just before they are appended. ``keeps_head``: a shared label that the
    manifest leads to head as well still has it. ``asks``: a person confirms it always, or if it has consequences.
    """

    name: str
    flow: str
    decide: Callable[[Lockfile], Edits]
    tags: Callable[[Lockfile], Collection[str]]
    message: str = ""
    draw: Draw | None = None
    prepared: Callable[[Lockfile, Edits], Edits] = lambda _lock, edits: edits
    snapshot: Snapshot | None = None
    commit: Commit | None = None
    keeps_head: bool = False
    asks: Literal["never", "news", "always"] = "news"

    def drawn(self, before: Lockfile, *, keeps_head: bool = False) -> Draw:
        """The edit of the manifest once the routes were moved from the state ``before``."""
        if self.draw is not None:
            return self.draw
        tags = self.tags(before)

        def draw(lock: Lockfile, manifest: Manifest) -> ManifestEdit:
            spec, routes = manifest.flows.get(self.flow), live_flow(lock, self.flow).routes
            return ManifestEdit(
                self.flow, routes=routes_to_write(spec.routes if spec else {}, routes, tags, keeps_head=keeps_head)
            )

        return draw


@dataclass(frozen=True, slots=True)
class Done:
    """The states around the generation that a verb wrote; the same if it wrote none."""

    before: Lockfile
    after: Lockfile
    edits: Edits = ()
    manifest: Synced = field(default_factory=Synced)


@dataclass(frozen=True, slots=True)
class Mover:
    """The imperative verbs on one project. ``by`` acts; ``sync`` is the manifest in reach.

    ``consequences`` adds to a plan those for callers; ``confirm`` is asked before anything is written, and
    raises to stop the verb.
    """

    store: Store
    project: str
    releases: Releases
    clock: Clock
    sync: ManifestSync
    by: str
    consequences: Callable[[FlowPlan], FlowPlan]
    confirm: Callable[[FlowPlan], None] | None = None

    # --- the verbs ----------------------------------------------------------------------------------------------------

    def tag(self, flow: str, tag: str, version: int, *, exclusive: bool = False, message: str = "") -> Rerouted:
        """Lead ``tag`` to ``version``: to it alone if ``exclusive``, else as a shared label."""
        managed = self.sync.declares(flow) or None

        def decide(lock: Lockfile) -> Edits:
            return tagged(lock, flow, tag, self.holder(lock, flow, version), exclusive=exclusive, managed=managed)

        return self._rerouted(Verb("tag", flow, decide, _only(tag), message, keeps_head=not exclusive), tag)

    def untag(self, flow: str, tag: str, version: int | None = None, *, message: str = "") -> Rerouted:
        """Take ``tag`` off ``version``, or off every version."""

        def decide(lock: Lockfile) -> Edits:
            return untagged(lock, flow, tag, version)

        return self._rerouted(Verb("untag", flow, decide, _only(tag), message, keeps_head=version is not None), tag)

    def promote(self, flow: str, source: str, to: str, *, message: str = "") -> Rerouted:
        """Lead ``to`` exclusively to the version that ``source`` leads to."""
        managed = self.sync.declares(flow) or None

        def decide(lock: Lockfile) -> Edits:
            return promoted(lock, flow, source, to, managed=managed)

        return self._rerouted(Verb("promote", flow, decide, _only(to), message), to)

    def rollback(
        self, flow: str, tag: str = DEFAULT_TAG, *, to: int = PREVIOUS, write: bool = False, message: str = ""
    ) -> Rerouted:
        """Lead ``tag`` back at once, with a hold that plan and apply honour until the manifest agrees.

        ``to``: a version, or -1 for the one before. The result shows the manifest's edit; ``write`` makes it.
        """
        manifest = self.sync.manifest
        spec = manifest.flows.get(flow) if manifest is not None and self.sync.declares(flow) else None
        said = spec.routes.get(tag) if spec else None
        skipped: tuple[str, ...] = ()

        def decide(lock: Lockfile) -> Edits:
            nonlocal skipped
            way = self._back(lock, flow, tag, to)
            skipped = way.skipped
            return rolled_back(lock, flow, tag, way.holders, message, said=said)

        done = self._rerouted(Verb(ROLLBACK, flow, decide, _only(tag), message, asks="never"), tag, write=write)
        return replace(done, skipped=skipped)

    def delete(self, flow: str, version: int, *, message: str = "") -> Rerouted:
        """Delete a version with its shared labels. ``KitaruStateError`` while an exclusive tag leads to it."""

        def decide(lock: Lockfile) -> Edits:
            state, table = live_flow(lock, flow), self.table(lock, flow)
            in_table(table, state, version)
            check_deletable(state, table, version)
            return (Drop(kind="drop", flow=flow, version=version, table="", expects=state.table),)

        def prepared(lock: Lockfile, edits: Edits) -> Edits:
            rest = self.table(lock, flow).deleting(version, at=timestamp(self.clock.now()), by=self.by)
            sha = put_object(self.store, self.project, rest.canonical())
            return tuple(edit.model_copy(update={"table": sha}) for edit in edits if isinstance(edit, Drop))

        def labels(lock: Lockfile) -> Collection[str]:
            return labels_of(lock, flow, version)

        done = self._carry_out(Verb("delete", flow, decide, labels, message, prepared=prepared, asks="always"))
        return Rerouted(
            flow=flow,
            tag="",
            before=f"v{version}",
            after="nothing",
            exclusive=False,
            changed=True,
            generation=done.after.generation,
            version=version,
            lost=tuple(sorted(labels(done.before))),
            manifest=done.manifest,
        )

    def deploy(self, release: Release, applier: Applier, *, message: str = "") -> Released:
        """Add a version of the release's snapshot, and lead the order's routes to it; a build has none.

        A lost race gives it another number, and never fails it.
        """
        order, workshop, flow = release.order, release.workshop, release.order.flow
        version, moved = 0, frozenset[str]()
        asked: Edits = ()
        ready: Edits = ()

        def decide(lock: Lockfile) -> Edits:
            nonlocal version, moved
            moved, edits = frozenset(order_tags(order, lock)), deployed(order, release.snapshot, lock)
            version = next(edit.version for edit in edits if isinstance(edit, AddVersion))
            return edits

        def prepared(lock: Lockfile, edits: Edits) -> Edits:
            nonlocal asked, ready
            if asked != edits:
                build = Build(version=version, snapshot_digest=release.snapshot.digest, snapshot=release.snapshot)
                asked, ready = edits, applier.prepared(((flow, build),), edits, lock, workshop, self.by)
            applier.reporter.step(Step("commit", f"writing generation {lock.generation + 1}"))
            return ready

        def draw(lock: Lockfile, manifest: Manifest) -> ManifestEdit:
            return after_release(manifest.flows.get(flow), lock, flow, moved, release.keys, built=version)

        verb = Verb(
            "build" if order.tag is None else "deploy",
            flow,
            decide,
            lambda lock: order_tags(order, lock),
            message,
            draw,
            prepared,
            release.snapshot,
            workshop.commit,
        )
        done = self._carry_out(verb, writes=self.sync.writes)
        plan = flow_plan(flow, done.edits, done.before, release.snapshot)
        manifest = self.sync.manifest
        notes = draw(done.after, manifest).notes if manifest is not None and self.sync.writes else ()
        return Released(
            flow=flow,
            target=release.target,
            version=version,
            generation=done.after.generation,
            moves=tuple(
                RouteChange(move.tag, describe_holders(move.before), describe_holders(move.after), move.exclusive)
                for move in plan.moves
            ),
            snapshot=release.snapshot,
            changed=release.changed,
            warnings=release.warnings,
            notes=(*plan.notes, *notes),
            manifest=done.manifest,
        )

    def propose(self, order: Order, target: str, before: FlowSpec | None, keys: dict[str, object]) -> Released:
        """The manifest alone: the order's tag leads to head, for the pull request that asks for this deploy."""
        lock = self.releases.head(verified=True)
        edit = proposed(before, lock, order, keys)
        self.sync.rehearse(edit)
        synced = self.sync.write_alone(lambda _lock, _manifest: edit, lock)
        return Released(order.flow, target, None, lock.generation, manifest=synced)

    # --- one verb -----------------------------------------------------------------------------------------------------

    def _rerouted(self, verb: Verb, tag: str, *, write: bool = True) -> Rerouted:
        alone = self.sync.mode == "only"
        done = self._alone(verb) if alone else self._carry_out(verb, write=write)
        before, after = _route(done.before, verb.flow, tag), _route(done.after, verb.flow, tag)
        return Rerouted(
            flow=verb.flow,
            tag=tag,
            before=describe_holders(before.holders if before else None),
            after=describe_holders(after.holders if after else None),
            exclusive=bool(after.exclusive if after else before and before.exclusive),
            changed=done.before is not done.after,
            generation=done.before.generation if alone else done.after.generation,
            version=after.versions[-1] if after and len(after.versions) == 1 else None,
            held=bool(after and after.hold),
            manifest=done.manifest,
            hold_ended=not alone and bool(before and before.hold and not (after and after.hold)),
            rolled_back=rollback_words(before, after.holders if after else ()),
            converted=bool(before and after and before.exclusive != after.exclusive),
        )

    def _carry_out(self, verb: Verb, *, write: bool = True, writes: bool | None = None) -> Done:
        """Move in the store, then in the manifest; all refusals come before either."""
        lock = self.releases.head(verified=True)
        edits = self._decide(verb, lock)
        syncs = self.sync.declares(verb.flow) if writes is None else writes
        shown = Synced()
        if syncs and self.sync.manifest is not None:
            shown = self.sync.rehearse(verb.drawn(lock)(_foreseen(lock, edits), self.sync.manifest))
        confirmed = self._confirm(verb, lock, edits, None)
        turns, after = Turns(self.releases), lock
        while edits:
            ready = verb.prepared(lock, edits)
            outcome = self.releases.append(
                lock, ready, by=self.by, commit=verb.commit, message=verb.message, verb=verb.name
            )
            if isinstance(outcome, Lockfile):
                after = outcome
                break
            lock = after = turns.again(outcome)
            # Another verb may have applied a rule, moved the route, or taken the number.
            edits = self._decide(verb, lock)
            confirmed = self._confirm(verb, lock, edits, confirmed)
        if not syncs:
            shown = self.sync.untouched(verb.flow, after)
        elif write:
            shown = self.sync.follow(verb.drawn(lock), after, self.releases)
        return Done(lock, after, edits, shown)

    def _decide(self, verb: Verb, lock: Lockfile) -> Edits:
        if verb.snapshot is None:
            live_flow(lock, verb.flow)
        self.sync.check_free(lock, verb.flow, *sorted(verb.tags(lock)))
        return verb.decide(lock)

    def _confirm(
        self, verb: Verb, lock: Lockfile, edits: Edits, confirmed: tuple[Consequence, ...] | None
    ) -> tuple[Consequence, ...]:
        """The consequences of the edits for callers; ``confirmed`` are those that a person has seen, None at first."""
        if self.confirm is None or verb.asks == "never":
            return ()
        plan = flow_plan(verb.flow, edits, lock, verb.snapshot)
        if any(move.exclusive and move.before for move in plan.moves):
            plan = self.consequences(plan)
        if plan.consequences != (confirmed or ()) if verb.asks == "news" else confirmed is None:
            self.confirm(plan)
        return plan.consequences

    def _alone(self, verb: Verb) -> Done:
        """Move in the manifest alone, from the state that its own text describes; the store has the versions."""
        flow, lock = verb.flow, self.releases.head(verified=True)
        manifest = self.sync.declaring(flow, lock)
        table = self.table(lock, flow)

        def foresee(manifest: Manifest) -> Done:
            spec = manifest.flows.get(flow)
            before = described(lock, flow, spec.routes if spec else {}, table)
            edits = verb.decide(before)
            for version in {one.version for edit in edits if isinstance(edit, Move) for one in edit.holders}:
                self.holder(lock, flow, version)
            return Done(before, _foreseen(before, edits), edits)

        def draw(_lock: Lockfile, manifest: Manifest) -> ManifestEdit:
            return verb.drawn(lock, keeps_head=verb.keeps_head)(foresee(manifest).after, manifest)

        done = foresee(manifest)
        self.sync.rehearse(draw(lock, manifest))
        return replace(done, manifest=self.sync.write_alone(draw, lock))

    # --- versions -----------------------------------------------------------------------------------------------------

    def holder(self, lock: Lockfile, flow: str, version: int) -> Assignment:
        """That version of a flow, for a route. Raises ``KitaruSelectorError`` with the versions that there are."""
        live_flow(lock, flow)
        found = resolve(lock, flow, ByVersion(version))
        if not isinstance(found, Resolved):
            found = in_table(self.table(lock, flow), found, version)
        return Assignment(version=version, snapshot=found.snapshot)

    def table(self, lock: Lockfile, flow: str) -> VersionTable:
        """The flow's version table, under its present name: an older table has the name of its time."""
        table = read_table(self.store, self.project, live_flow(lock, flow).table, flow)
        return table.model_copy(update={"flow": flow})

    def _back(self, lock: Lockfile, flow: str, tag: str, to: int) -> WayBack:
        """The place of the route before, from the log: none that a rollback left, and no deleted version; or ``to``.

        Raises ``KitaruSelectorError`` if there is nothing of that kind, or it was a shared label then.
        """
        route = rollable(lock, flow, tag)
        if to != PREVIOUS:
            return WayBack((self.holder(lock, flow, to),))
        there = _route(self.releases.head(), flow, tag) if route.generation == 0 else None
        if there is not None and there.exclusive and there.holders != route.holders:
            # The manifest alone is edited, and leads elsewhere than the store: back is to the store's own state.
            return WayBack(there.holders)
        with closing(self._entries(route.generation or lock.generation)) as entries:
            moves = steps(entries, names_of(lock.flows, flow), tag)
            way = way_back(moves, route.holders, self.table(lock, flow).versions)
        if way.holders:
            return way
        past = f" but {', and '.join(way.skipped)}" if way.skipped else ""
        why = "was a shared label before" if way.label else f"has led nowhere else before{past}"
        raise KitaruSelectorError(
            f"{tag} of {flow} {why}; name the version with --to N", hint=f"kitaru flow deployments list {flow}"
        )

    def _entries(self, newest: int) -> Generator[tuple[Sequence[Edit], str]]:
        """Edits and verb of generations, newest first, read ahead after the first: nearly always that one is enough."""
        oldest, step = max(newest - MOST_READ, 0), 1
        with ThreadPoolExecutor(max_workers=READS_AT_ONCE) as pool:
            while newest > oldest:
                numbers = range(newest, max(newest - step, oldest), -1)
                for entry in pool.map(self.releases.entry, numbers):
                    if entry is not None:
                        yield entry[0].edits, entry[0].verb
                newest, step = newest - len(numbers), READS_AT_ONCE


def _foreseen(lock: Lockfile, edits: Edits) -> Lockfile:
    following = next_lockfile(lock, edits, at="", by="") if edits else lock
    return following if isinstance(following, Lockfile) else lock


def _only(tag: str) -> Callable[[Lockfile], Collection[str]]:
    return lambda _lock: (tag,)


def _route(lock: Lockfile, flow: str, tag: str) -> Route | None:
    state = lock.flow(flow)
    return state.routes.get(tag) if state else None
