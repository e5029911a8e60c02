"""Who wrote a generation, and from which commit: told where a rule that it applied refuses something."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from kitaru.core.claims import declared_twice
from kitaru.core.consequences import STORED_INPUTS, InUse, Stored, asks_for_use, consequences, passages, turns
from kitaru.core.drift import find_drift
from kitaru.core.planning import Desired, Draft, Place, StoredFlow, left_out, needs, plan_absent, plan_flow
from kitaru.core.protection import guards, unplaced
from kitaru.core.renaming import plan_renames
from kitaru.core.rollback import refusals
from kitaru.errors import KitaruIntegrityError, KitaruManifestError, KitaruStoreFormatError, Problem
from kitaru.manifest.port import InputCheck
from kitaru.model.address import short
from kitaru.model.lockfile import FlowState, Lockfile
from kitaru.model.manifest import Neighbours
from kitaru.model.plan import FlowPlan, Plan
from kitaru.model.snapshot import Snapshot
from kitaru.release.releases import Releases
from kitaru.release.workshop import Workshop
from kitaru.store.objects import get_object, read_snapshot, read_table
from kitaru.store.port import Store


def told_from(releases: Releases) -> Callable[[int], str]:
    """(generation) → ``by Ann from 1a2b3c4d5e6f on main``; empty where the log does not have it. One read for each."""

    @cache
    def told(generation: int) -> str:
        found = releases.entry(generation)
        if found is None:
            return ""
        entry, _ = found
        place = f" from {short(entry.commit.sha)}" if entry.commit else ""
        branch = f" on {entry.commit.branch}" if entry.commit and entry.commit.branch else ""
        return f"by {entry.by}{place}{branch}"

    return told


UsedBy = Callable[[str], Sequence[InUse]]
"""(flow) → its executions that have not ended."""

StoredInputs = Callable[[str, int], Sequence[Stored]]
"""(flow, n) → what its n newest executions were started with."""


@dataclass(frozen=True, slots=True)
class Planner:
    """Plans for one project in one store. ``snapshots`` are those that were read already, by digest.

    ``store_id`` goes into the plan, for who applies it later.
    """

    store: Store
    project: str
    releases: Releases
    check_inputs: InputCheck
    used_by: UsedBy
    stored_inputs: StoredInputs
    store_id: str = ""
    snapshots: dict[str, Snapshot] = field(default_factory=dict)

    def plan(
        self,
        workshop: Workshop,
        *,
        only: Sequence[str] = (),
        prune: bool = False,
        force: bool = False,
        head: Lockfile | None = None,
    ) -> Plan:
        """What apply would do now, on ``head`` where that was read already.

        Reads the lockfile (three requests), and for a flow whose content or pins the lockfile does not know also its
        version table and what it is compared with; the table, too, for a flow with a route that is held where the
        manifest's head is, or moves after a rollback. Writes nothing. Raises ``KitaruManifestError`` with all problems.
        """
        loaded = workshop.loaded
        desired = workshop.desired(only)
        head = self.releases.newest(head)
        commit = workshop.commit
        draft = self._empty(desired, head, workshop, force=force)
        lock = plan_renames(draft, loaded.manifest, head, loaded.problem, only)
        for flow in desired:
            known, filled = self._known(flow, lock, workshop)
            plan_flow(draft, filled, lock, known, loaded.problem, prune=prune)
        beside = _beside(draft, lock, workshop, whole=not only)
        draft.warnings += beside.unread
        draft.problems += _declared_twice(draft, lock, workshop, beside)
        if not only:
            plan_absent(draft, loaded.manifest, lock, loaded.problem, beside=beside, prune=prune)
        building = [flow for flow, plan in zip(desired, draft.flows, strict=False) if plan.build]
        draft.problems += self.input_problems(building, loaded.problem)
        draft.problems += self._retired_in_use(draft, loaded.problem)
        if draft.problems:
            raise KitaruManifestError(draft.problems)
        return Plan(
            project=self.project,
            store=self.store.url,
            store_id=self.store_id,
            base=head.generation,
            base_entry=head.entry,
            manifest=loaded.digest,
            target=loaded.target,
            commit=commit,
            tree=workshop.tree,
            force=force,
            flows=tuple(self.with_consequences(flow) for flow in draft.flows),
            unmanaged=tuple(draft.unmanaged),
            drift=find_drift(loaded.manifest, draft.flows, lock, whole=not only),
            warnings=(
                *draft.warnings,
                *workshop.doubts,
                *unplaced(loaded.manifest, lock),
                *workshop.warnings(flow.spec for flow in building),
            ),
            guards=(
                *refusals(draft.edits, lock, draft.contains.get),
                *guards(loaded.manifest.protect, draft.edits, lock, commit, told_from(self.releases)),
            ),
            edits=tuple(draft.edits),
        )

    def with_consequences(self, flow: FlowPlan) -> FlowPlan:
        """Reads what callers of a route meet now and then, and executions only where a route leaves a version.

        A flow none of whose routes moves costs nothing.
        """
        name = flow.renamed_from or flow.flow
        built = {flow.build.snapshot_digest: flow.build.snapshot} if flow.build else {}
        snapshots: dict[str, Snapshot | None] = {}
        for digest in dict.fromkeys(one.snapshot for way in passages(flow) for one in (way.left, way.reached)):
            snapshots[digest] = built.get(digest) or self._snapshot_if_readable(digest, flow.flow)
        in_use = self.used_by(name) if asks_for_use(flow) else ()
        stored = self.stored_inputs(name, STORED_INPUTS) if turns(flow, snapshots) else ()
        found = consequences(flow, in_use, stored, self.check_inputs, snapshots)
        return flow.model_copy(update={"consequences": found}) if found else flow

    def _snapshot_if_readable(self, digest: str, flow: str) -> Snapshot | None:
        """None for one that is damaged: a route must be able to leave it."""
        try:
            return self._snapshot(digest, flow)
        except (KitaruIntegrityError, KitaruStoreFormatError):
            return None

    def _snapshot(self, digest: str, flow: str) -> Snapshot:
        if digest not in self.snapshots:
            self.snapshots[digest] = read_snapshot(self.store, self.project, digest, flow)
        return self.snapshots[digest]

    def input_problems(self, flows: Sequence[Desired], place: Place) -> list[Problem]:
        """Representative inputs that don't fit the flow's parameters. A parameter may be left to the caller."""
        problems = []
        for flow in flows:
            schema = {**flow.snapshot.input_schema, "required": []}
            if not flow.spec.inputs:
                continue
            problems += [
                place(f"inputs of {flow.name}: {text}", "flows", flow.name, "inputs")
                for text in self.check_inputs(schema, flow.spec.inputs)
            ]
        return problems

    def _known(self, flow: Desired, lock: Lockfile, workshop: Workshop) -> tuple[StoredFlow, Desired]:
        wanted = needs(flow, lock)
        state = lock.flows.get(flow.name)
        if state is None:
            return StoredFlow(), flow
        table = read_table(self.store, self.project, state.table, flow.name) if wanted.table else None
        known = StoredFlow(table=table)
        seen_before = table is not None and table.newest_with(flow.snapshot.digest) is not None
        if not wanted.previous or seen_before:
            return known, flow
        return self._compared(flow, state, known, workshop)

    def _empty(self, desired: Sequence[Desired], head: Lockfile, workshop: Workshop, *, force: bool) -> Draft:
        return Draft(
            owner=workshop.owner,
            commit=workshop.commit,
            contains=self._ancestry(desired, head, workshop),
            force=force,
            forward=workshop.loaded.manifest.forward,
            protect=workshop.loaded.manifest.protect,
        )

    def _ancestry(self, desired: Sequence[Desired], lock: Lockfile, workshop: Workshop) -> dict[str, bool | None]:
        """Whether the commit contains those from which routes that may move were last set, and renames undone."""
        commits = {state.renamed_commit for state in lock.flows.values()} if workshop.loaded.manifest.moved else set()
        was = {name: old for old, name in workshop.loaded.manifest.moved.items()}
        for flow in desired:
            state = lock.flow(flow.name) or lock.flow(was.get(flow.name, ""))
            digest = flow.snapshot.digest
            commits |= {
                route.floor
                for route in (state.routes.values() if state else ())
                if route.hold or any(one.snapshot != digest for one in route.holders)
            }
        return {commit: workshop.contains(commit) for commit in commits if commit}

    def _compared(
        self, flow: Desired, state: FlowState, known: StoredFlow, workshop: Workshop
    ) -> tuple[StoredFlow, Desired]:
        previous = self._snapshot(state.snapshot, flow.name)
        known = replace(known, previous=previous)
        if previous.source == flow.snapshot.source:
            return known, flow
        body = get_object(self.store, self.project, previous.source, f"source listing of {flow.name}")
        files = workshop.selection(flow.spec).tree.listing()
        return replace(known, previous_files=json.loads(body)), replace(flow, files=files)

    def _retired_in_use(self, draft: Draft, place: Place) -> list[Problem]:
        problems = []
        for plan in draft.flows:
            if plan.action != "retire" or not (busy := [one.exec_id for one in self.used_by(plan.flow)]):
                continue
            problems.append(
                place(
                    f"--prune would remove {plan.flow}, which {len(busy)} running or waiting "
                    f"{'execution uses' if len(busy) == 1 else 'executions use'}: {', '.join(busy[:3])}",
                    "flows",
                    hint=f"kitaru executions list --flow {plan.flow}",
                )
            )
        return problems


def _taken(draft: Draft, lock: Lockfile) -> list[FlowPlan]:
    """The plans of flows that were not this manifest's until now: new ones, and another manifest's."""
    states = {plan.flow: lock.flow(plan.flow) for plan in draft.flows if plan.action != "retire"}
    ours = {flow for flow, one in states.items() if one is not None and one.managed and one.owner == draft.owner}
    return [plan for plan in draft.flows if plan.flow in states and (plan.renamed_from or plan.flow not in ours)]


def _beside(draft: Draft, lock: Lockfile, workshop: Workshop, *, whole: bool) -> Neighbours:
    """The repository's other manifests, asked of flows that come or go. A plan without any looks at no other file."""
    taken = _taken(draft, lock)
    names = {name for plan in taken for name in (plan.flow, plan.renamed_from) if name}
    if whole:
        names.update(left_out(workshop.loaded.manifest, lock, draft.owner))
    states = (lock.flow(plan.flow) for plan in taken)
    return workshop.beside(names, owners={one.owner for one in states if one is not None and one.managed})


def _declared_twice(draft: Draft, lock: Lockfile, workshop: Workshop, beside: Neighbours) -> Iterator[Problem]:
    """Flows of this manifest that another one of the repository declares too: by this name, or the one until now."""
    taken = _taken(draft, lock)
    moved = {plan.renamed_from: plan.flow for plan in taken if plan.renamed_from}
    flows = [plan.flow for plan in taken]
    return declared_twice(workshop.path, flows, moved, beside, workshop.loaded.problem)
