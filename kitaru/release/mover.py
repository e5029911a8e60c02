"""Move routes one at a time: decide on the newest state, append, and decide again where another writer was first."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

from kitaru.core.deploying import Order, plan_release
from kitaru.core.naming import names_of
from kitaru.core.resolving import Resolved, in_table, live_flow, resolve
from kitaru.core.rollback import steps, way_back
from kitaru.core.tagging import Edits, check_deletable, dropped, rollable
from kitaru.errors import KitaruSelectorError
from kitaru.model.address import timestamp
from kitaru.model.lockfile import Edit, Lockfile, VersionTable
from kitaru.model.plan import Plan
from kitaru.model.route import Assignment, ByVersion
from kitaru.model.snapshot import Snapshot
from kitaru.ports import Clock, Step
from kitaru.release.applier import Applier
from kitaru.release.releases import Releases, Turns
from kitaru.release.workshop import Workshop
from kitaru.store.objects import put_object, read_table
from kitaru.store.port import Store

Decide = Callable[[Lockfile], Edits]

READS_AT_ONCE = 16
MOST_READ = 4096
"""How far back the log is read for where a route led before. The newest move is known, so that one read is the rule."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """Where a route led before. ``skipped``: what lay between that no rollback goes to, and why, in words."""

    holders: tuple[Assignment, ...]
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Changed:
    """``before`` and ``after`` are the states around the generation; the same where there was nothing to do."""

    before: Lockfile
    after: Lockfile

    @property
    def wrote(self) -> bool:
        """Whether a generation was written."""
        return self.before.generation != self.after.generation


@dataclass(frozen=True, slots=True)
class Tagger:
    """Moves routes of one project in one store."""

    store: Store
    project: str
    releases: Releases
    clock: Clock

    def change(
        self, decide: Decide, lock: Lockfile, *, by: str, verb: str, message: str = "", edits: Edits | None = None
    ) -> Changed:
        """Write what ``decide`` makes of the newest state, as one generation; nothing where it gives no edits.

        ``lock`` is the state as it was seen a moment ago, ``edits`` what ``decide`` made of it where it was asked.
        Where another writer takes that generation, ``decide`` is asked again: its word is always about the state that
        it changes, so no move of anybody else is lost. Raises what ``decide`` raises.
        """
        edits = decide(lock) if edits is None else edits
        turns = Turns(self.releases)
        while edits:
            outcome = self.releases.write(lock, edits, by=by, message=message, verb=verb)
            if isinstance(outcome, Lockfile):
                return Changed(lock, outcome)
            lock = turns.again(outcome)
            edits = decide(lock)
        return Changed(lock, lock)

    def holder(self, lock: Lockfile, flow: str, version: int) -> Assignment:
        """That version of a flow, as what holds a tag. Raises ``KitaruSelectorError`` where it is not there."""
        live_flow(lock, flow)
        found = resolve(lock, flow, ByVersion(version))
        if not isinstance(found, Resolved):
            found = in_table(self.table(lock, flow), found, version)
        return Assignment(version=version, snapshot=found.snapshot)

    def table(self, lock: Lockfile, flow: str) -> VersionTable:
        """The flow's version table, under the name that it has now: an older one says how it was called then."""
        table = read_table(self.store, self.project, live_flow(lock, flow).table, flow)
        return table.model_copy(update={"flow": flow})

    def drop(self, lock: Lockfile, flow: str, version: int, *, by: str) -> Edits:
        """The edits that delete a version; its version table is written. Raises as ``check_deletable`` does."""
        state = live_flow(lock, flow)
        table = self.table(lock, flow)
        in_table(table, state, version)
        check_deletable(state, table, version)
        gone = table.deleting(version, at=timestamp(self.clock.now()), by=by)
        return dropped(lock, flow, version, put_object(self.store, self.project, gone.canonical()))

    def earlier(self, lock: Lockfile, flow: str, tag: str) -> Earlier:
        """Where the route led before, from the log: not where a rollback left it, and no version deleted since.

        Raises ``KitaruSelectorError`` where nothing of that kind is left, or it was a shared label then.
        """
        route = rollable(lock, flow, tag)
        there = [release.version for release in self.table(lock, flow).releases if not release.deleted]
        with closing(self._entries(route.generation or lock.generation)) as entries:
            way = way_back(steps(entries, names_of(lock.flows, flow), tag), route.holders, there)
        if way.holders:
            return Earlier(way.holders, way.skipped)
        past = f" but {', and '.join(way.skipped)}" if way.skipped else ""
        why = "was a shared label before" if way.label else f"has led nowhere else before{past}"
        raise KitaruSelectorError(
            f"{tag} of {flow} {why}; name the version with --to N", hint=f"kitaru flow deployments list {flow}"
        )

    def _entries(self, newest: int) -> Generator[tuple[Sequence[Edit], str]]:
        """Edits and verb of generations, newest first, read ahead after the first: nearly always that one tells."""
        oldest = max(newest - MOST_READ, 0)
        step = 1
        with ThreadPoolExecutor(max_workers=READS_AT_ONCE) as pool:
            while newest > oldest:
                numbers = range(newest, max(newest - step, oldest), -1)
                for entry in pool.map(self.releases.entry, numbers):
                    if entry is not None:
                        yield entry[0].edits, entry[0].verb
                newest, step = newest - len(numbers), READS_AT_ONCE


@dataclass(frozen=True, slots=True)
class Deployer:
    """Deploys with an applier's means."""

    applier: Applier

    def deploy(
        self, order: Order, snapshot: Snapshot, workshop: Workshop, *, by: str, verb: str, message: str = ""
    ) -> tuple[Plan, Lockfile]:
        """Add a version of ``snapshot`` and lead the order's route to it; what was done, and the new state.

        Where another writer takes the generation first, the deploy is planned again on what that one left: it may get
        another number, and never fails for it. Each round that is lost is one that another writer won.
        """
        releases, reporter = self.applier.releases, self.applier.reporter
        lock, turns = releases.head(verified=True), Turns(releases)
        plan, prepared = self.plan(order, snapshot, lock, workshop), None
        while True:
            if prepared is None or not prepared.fits(lock.flows):
                prepared = self.applier.prepared(plan, lock, workshop, by)
            reporter.step(Step("commit", f"writing generation {lock.generation + 1}"))
            outcome = releases.write(lock, prepared.edits, by=by, commit=plan.commit, message=message, verb=verb)
            if isinstance(outcome, Lockfile):
                prepared.settle()
                return plan, outcome
            lock = turns.again(outcome)
            before, plan = plan, self.plan(order, snapshot, lock, workshop)
            if plan.edits != before.edits:
                prepared = None

    def plan(self, order: Order, snapshot: Snapshot, lock: Lockfile, workshop: Workshop) -> Plan:
        """The deploy as a plan, on the state that it was given."""
        flow, edits = plan_release(order, snapshot, lock)
        return Plan(
            project=self.applier.project,
            store=self.applier.store.url,
            base=lock.generation,
            base_entry=lock.entry,
            manifest=workshop.loaded.digest,
            target=workshop.loaded.target,
            commit=workshop.commit,
            tree=workshop.tree,
            flows=(flow,),
            edits=edits,
        )
