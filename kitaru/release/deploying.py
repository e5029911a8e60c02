"""Carry out a deploy: one flow's new version and its route, in one generation, whoever else is writing."""

from __future__ import annotations

from dataclasses import dataclass

from kitaru.core.deploying import Order, plan_release
from kitaru.model.lockfile import Lockfile
from kitaru.model.plan import Plan
from kitaru.model.snapshot import Snapshot
from kitaru.ports import Step
from kitaru.release.applier import Applier
from kitaru.release.workshop import Workshop
from kitaru.store.turns import Turns


@dataclass(frozen=True, slots=True)
class Deployer:
    """Deploys with an applier's means."""

    applier: Applier

    def deploy(
        self, order: Order, snapshot: Snapshot, workshop: Workshop, *, by: str, verb: str, message: str = ""
    ) -> tuple[Plan, Lockfile]:
        """Mint a version of ``snapshot`` and lead the order's route to it; what was done, and the new state.

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
