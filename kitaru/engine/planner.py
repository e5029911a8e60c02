"""Gather the facts that a plan needs, from as few reads as it takes, and let the core decide."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kitaru.core.consequences import STORED_INPUTS, InUse, Stored, asks_for_inputs, asks_for_use, consequences
from kitaru.core.drift import find_drift
from kitaru.core.planning import Desired, Draft, Known, Place, needs, plan_absent, plan_flow
from kitaru.core.protection import guards
from kitaru.core.renaming import plan_renames
from kitaru.engine.records import read_object, read_snapshot, read_table
from kitaru.engine.releases import Releases
from kitaru.engine.workshop import MANIFEST, Workshop
from kitaru.errors import KitaruManifestError, Problem
from kitaru.model.lockfile import FlowState, Lockfile
from kitaru.model.plan import FlowPlan, Plan
from kitaru.ports import InputCheck, Store

UsedBy = Callable[[str], Sequence[InUse]]
"""(flow) → its executions that have not ended."""

StoredInputs = Callable[[str, int], Sequence[Stored]]
"""(flow, n) → what its n newest executions were started with."""


@dataclass(frozen=True, slots=True)
class Planner:
    """Plans for one project in one store."""

    store: Store
    project: str
    releases: Releases
    check_inputs: InputCheck
    used_by: UsedBy
    stored_inputs: StoredInputs

    def plan(
        self, workshop: Workshop, *, only: Sequence[str] = (), prune: bool = False, head: Lockfile | None = None
    ) -> Plan:
        """What apply would do now, on ``head`` where that was read already.

        Reads the lockfile (three requests), and for a flow whose content or pins the lockfile does not know also its
        version table and what it is compared with. Writes nothing. Raises ``KitaruManifestError`` with all problems.
        """
        loaded = workshop.loaded
        desired = workshop.desired(only)
        head = head if head is not None else self.releases.head(verified=True)
        draft = Draft(owner=workshop.owner, protect=loaded.manifest.protect)
        lock = plan_renames(draft, loaded.manifest, head, loaded.problem)
        for flow in desired:
            known, filled = self._known(flow, lock, workshop)
            plan_flow(draft, filled, lock, known, loaded.problem, prune=prune)
        if not only:
            plan_absent(draft, loaded.manifest, lock, loaded.problem, prune=prune)
        building = [flow for flow, plan in zip(desired, draft.flows, strict=False) if plan.build]
        draft.problems += self.input_problems(building, loaded.problem)
        draft.problems += self._retired_in_use(draft, loaded.problem)
        draft.problems += _declared_twice(draft, lock, workshop)
        if draft.problems:
            raise KitaruManifestError(draft.problems)
        return Plan(
            project=self.project,
            store=self.store.url,
            base=head.generation,
            base_entry=head.entry,
            manifest=loaded.digest,
            target=loaded.target,
            commit=workshop.commit,
            tree=workshop.tree,
            flows=tuple(self._with_consequences(flow) for flow in draft.flows),
            unmanaged=tuple(draft.unmanaged),
            drift=find_drift(loaded.manifest, draft.flows, lock, whole=not only),
            warnings=workshop.warnings(flow.spec for flow in building),
            guards=guards(loaded.manifest.protect, draft.edits, lock, workshop.commit),
            edits=tuple(draft.edits),
        )

    def _with_consequences(self, flow: FlowPlan) -> FlowPlan:
        """Reads executions only where a route leaves a version, or the inputs of a flow change."""
        name = flow.renamed_from or flow.flow
        in_use = self.used_by(name) if asks_for_use(flow) else ()
        stored = self.stored_inputs(name, STORED_INPUTS) if asks_for_inputs(flow) else ()
        found = consequences(flow, in_use, stored, self.check_inputs)
        return flow.model_copy(update={"consequences": found}) if found else flow

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

    def _known(self, flow: Desired, lock: Lockfile, workshop: Workshop) -> tuple[Known, Desired]:
        wanted = needs(flow, lock)
        state = lock.flows.get(flow.name)
        if state is None:
            return Known(), flow
        table = read_table(self.store, self.project, state.table, flow.name) if wanted.table else None
        seen_before = table is not None and table.newest_with(flow.snapshot.digest) is not None
        if not wanted.previous or seen_before:
            return Known(table=table), flow
        return self._compared(flow, state, Known(table=table), workshop)

    def _compared(self, flow: Desired, state: FlowState, known: Known, workshop: Workshop) -> tuple[Known, Desired]:
        previous = read_snapshot(self.store, self.project, state.snapshot, flow.name)
        known = replace(known, previous=previous)
        if previous.source == flow.snapshot.source:
            return known, flow
        body = read_object(self.store, self.project, previous.source, f"source listing of {flow.name}")
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


def _declared_twice(draft: Draft, lock: Lockfile, workshop: Workshop) -> list[Problem]:
    """Flows of this manifest that another manifest of the repository declares as well."""
    problems = []
    for plan in draft.flows:
        state = lock.flow(plan.flow)
        if state is None or not state.managed or state.owner == workshop.owner or plan.action == "retire":
            continue
        if workshop.is_declared_by(state.owner, plan.flow):
            other = state.owner or MANIFEST
            problems.append(
                workshop.loaded.problem(
                    f"{plan.flow} is declared by {other} of this repository, and by {workshop.loaded.path.name} here",
                    *("flows", plan.flow),
                    hint="remove it from one of them, or give this manifest a project of its own",
                )
            )
    return problems
