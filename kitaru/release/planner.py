"""Gather the facts of a plan, and plan: (manifest, commit, store) → Facts → Plan."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache

from kitaru.core.consequences import (
    STORED_INPUTS,
    InputCheck,
    InUse,
    Stored,
    asks_for_inputs,
    asks_for_use,
    consequences,
    passages,
)
from kitaru.core.drift import find_drift
from kitaru.core.planning import Desired, Facts, draft_plan, left_out, newcomers
from kitaru.core.protection import guards, unplaced
from kitaru.core.renames import Place, plan_renames
from kitaru.core.rollback import refusals
from kitaru.errors import KitaruIntegrityError, KitaruManifestError, KitaruStoreFormatError, Problem
from kitaru.model.address import short
from kitaru.model.lockfile import Lockfile
from kitaru.model.manifest import Neighbours
from kitaru.model.plan import FlowPlan, Plan
from kitaru.model.snapshot import Snapshot
from kitaru.release.releases import Releases
from kitaru.release.workshop import Workshop
from kitaru.store.objects import get_object, read_snapshot, read_table
from kitaru.store.port import Store

UsedBy = Callable[[str], Sequence[InUse]]
"""(flow) → its executions that have not ended."""

StoredInputs = Callable[[str, int], Sequence[Stored]]
"""(flow, n) → the inputs of its n newest executions."""


def author_of(releases: Releases) -> Callable[[int], str]:
    """(generation) → ``by Ann from 1a2b3c4d5e6f on main``; empty if the log does not have it. One read for each."""

    @cache
    def author(generation: int) -> str:
        read = releases.entry(generation)
        if read is None:
            return ""
        entry, _ = read
        place = f" from {short(entry.commit.sha)}" if entry.commit else ""
        branch = f" on {entry.commit.branch}" if entry.commit and entry.commit.branch else ""
        return f"by {entry.by}{place}{branch}"

    return author


@dataclass(frozen=True, slots=True)
class Planner:
    """Plans for one project in one store. ``snapshots`` are those that were read already, by digest.

    ``store_id`` goes into the plan, for the machine that applies it later.
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
        """The plan of an apply now, on ``head`` if that was read already. Writes nothing.

        Raises ``KitaruManifestError`` with all problems.
        """
        facts = self.gather(workshop, only, prune, force, head)
        draft = draft_plan(facts)
        building = [flow for flow, plan in zip(facts.desired, draft.flows, strict=False) if plan.build]
        problems = [*draft.problems, *self.input_problems(building, facts.place)]
        for name in (flow.flow for flow in draft.flows if flow.action == "retire"):
            if busy := [one.exec_id for one in self.used_by(name)]:
                verb = f"{len(busy)} running or waiting {'execution uses' if len(busy) == 1 else 'executions use'}"
                message = f"--prune would remove {name}, which {verb}: {', '.join(busy[:3])}"
                problems.append(facts.place(message, "flows", hint=f"kitaru executions list --flow {name}"))
        if problems:
            raise KitaruManifestError(problems)
        doubts = (*draft.warnings, *workshop.doubts, *unplaced(facts.manifest, draft.lock))
        protect = facts.manifest.protect
        return Plan(
            project=self.project,
            store=self.store.url,
            store_id=self.store_id,
            base=facts.lock.generation,
            base_entry=facts.lock.entry,
            manifest=workshop.loaded.digest,
            target=workshop.loaded.target,
            commit=facts.commit,
            tree=workshop.tree,
            force=force,
            flows=tuple(map(self.with_consequences, draft.flows)),
            unmanaged=tuple(draft.unmanaged),
            drift=find_drift(facts.manifest, draft.flows, draft.lock, whole=not only),
            warnings=(*doubts, *workshop.warnings(flow.spec for flow in building)),
            guards=(
                *refusals(draft.edits, facts.contains.get),
                *guards(protect, draft.edits, draft.lock, facts.commit, author_of(self.releases)),
            ),
            edits=tuple(draft.edits),
        )

    def gather(self, workshop: Workshop, only: Sequence[str], prune: bool, force: bool, head: Lockfile | None) -> Facts:
        """Read the facts of the plan of this manifest at this commit.

        For a flow whose content or pins that does not know: its version table and the snapshot that it is compared
        with; Git's word on commits that routes were set from; and the repository's other manifests if flows come or go.
        """
        desired, loaded = workshop.desired(only), workshop.loaded
        lock = self.releases.newest(head)
        facts = Facts(
            manifest=loaded.manifest,
            place=loaded.problem,
            commit=workshop.commit,
            lock=lock,
            desired=desired,
            owner=workshop.owner,
            path=workshop.path,
            contains=_ancestry(desired, lock, workshop),
            only=tuple(only),
            prune=prune,
            force=force,
        )
        named = plan_renames(facts.manifest, lock, facts.place, facts.contains.get, only, force=force).lock
        facts = replace(facts, desired=tuple(self._compared(flow, named, workshop) for flow in desired))
        return replace(facts, beside=_beside(facts, named, workshop))

    def input_problems(self, flows: Sequence[Desired], place: Place) -> list[Problem]:
        """Sample inputs that don't fit the flow's parameters. A parameter may be left to the caller."""
        return [
            place(f"inputs of {flow.name}: {text}", "flows", flow.name, "inputs")
            for flow in flows
            if flow.spec.inputs
            for text in self.check_inputs({**flow.snapshot.input_schema, "required": []}, flow.spec.inputs)
        ]

    def with_consequences(self, flow: FlowPlan) -> FlowPlan:
        """The flow's plan with its consequences for callers and for executions under way.

        Reads the snapshots on both ends of its moves, and executions only if a route leaves a version.
        """
        name = flow.renamed_from or flow.flow
        snapshots: dict[str, Snapshot | None] = {}
        for digest in dict.fromkeys(one.snapshot for way in passages(flow) for one in (way.left, way.reached)):
            if flow.build and flow.build.snapshot_digest == digest:
                snapshots[digest] = flow.build.snapshot
                continue
            snapshots[digest] = None
            # A route must be able to leave a version that is damaged.
            with suppress(KitaruIntegrityError, KitaruStoreFormatError):
                snapshots[digest] = self._snapshot(digest, flow.flow)
        in_use = self.used_by(name) if asks_for_use(flow) else ()
        stored = self.stored_inputs(name, STORED_INPUTS) if asks_for_inputs(flow, snapshots) else ()
        found = consequences(flow, in_use, stored, self.check_inputs, snapshots)
        return flow.model_copy(update={"consequences": found}) if found else flow

    def _snapshot(self, digest: str, flow: str) -> Snapshot:
        if digest not in self.snapshots:
            self.snapshots[digest] = read_snapshot(self.store, self.project, digest, flow)
        return self.snapshots[digest]

    def _compared(self, flow: Desired, lock: Lockfile, workshop: Workshop) -> Desired:
        """The flow with the objects that it is compared with: none if the lockfile alone knows enough."""
        state, digest = lock.flows.get(flow.name), flow.snapshot.digest
        if state is None or flow.is_told_by(state):
            return flow
        known = state.known_version(digest) is not None
        table = read_table(self.store, self.project, state.table, flow.name)
        flow = replace(flow, table=table)
        if known or table.newest_with(digest) is not None:
            return flow
        previous = self._snapshot(state.snapshot, flow.name)
        flow = replace(flow, previous=previous)
        if previous.source == flow.snapshot.source:
            return flow
        body = get_object(self.store, self.project, previous.source, f"source listing of {flow.name}")
        files = workshop.selection(flow.spec).tree.listing()
        return replace(flow, files=files, previous_files=json.loads(body))


def _ancestry(desired: Sequence[Desired], lock: Lockfile, workshop: Workshop) -> dict[str, bool | None]:
    """Whether the commit contains those from which routes that may move were last set, and renames undone."""
    moved = workshop.loaded.manifest.moved
    commits = {state.renamed_commit for state in lock.flows.values()} if moved else set()
    was = {name: old for old, name in moved.items()}
    for flow in desired:
        state, digest = lock.flow(flow.name) or lock.flow(was.get(flow.name, "")), flow.snapshot.digest
        commits |= {
            route.floor
            for route in (state.routes.values() if state else ())
            if route.hold or any(one.snapshot != digest for one in route.holders)
        }
    return {commit: workshop.contains(commit) for commit in commits if commit}


def _beside(facts: Facts, lock: Lockfile, workshop: Workshop) -> Neighbours:
    """The repository's other manifests, if flows come or go. A plan without any looks at no other file."""
    taken = newcomers(facts, lock)
    moved = {name: was for was, name in facts.manifest.moved.items()}
    names = {name for flow in taken for name in (flow, moved.get(flow)) if name}
    if not facts.only:
        names.update(left_out(facts.manifest, lock, facts.owner))
    states = (lock.flow(flow) for flow in taken)
    return workshop.beside(names, owners={one.owner for one in states if one is not None and one.managed})
