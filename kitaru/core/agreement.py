"""Whether a plan that was read from a file does what it shows: its edits against its builds and its moves. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kitaru.core.commit import renamed
from kitaru.model.lockfile import Drop, Lockfile, Manage, Mint, Move, Rename, Retire, Untag, VersionTable
from kitaru.model.plan import Plan
from kitaru.model.route import Holder

Shown = tuple[tuple[Holder, ...] | None, tuple[Holder, ...] | None]
"""A route before and after."""


def tables_needed(plan: Plan, lock: Lockfile) -> tuple[str, ...]:
    """Flows whose version table must be read, because a route is to lead to a version that the lockfile can't tell."""
    found = []
    flows = named(plan, lock).flows
    for edit in plan.edits:
        state = flows.get(edit.flow)
        if not isinstance(edit, Move) or state is None:
            continue
        if any(1 <= one.version <= state.latest and not state.known_snapshot(one.version) for one in edit.holders):
            found.append(edit.flow)
    return tuple(dict.fromkeys(found))


def disagreements(plan: Plan, lock: Lockfile, tables: Mapping[str, VersionTable]) -> tuple[str, ...]:
    """What the plan's edits do otherwise than the plan shows, or to versions that are not what they say; empty if none.

    ``lock`` is the state that the plan was made on, ``tables`` the version tables of ``tables_needed``.
    """
    held = _holders(plan, named(plan, lock), tables)
    found = [*_builds(plan), *_moves(plan), *_removals(plan), *_renames(plan), *held]
    return tuple(dict.fromkeys(found))


def named(plan: Plan, lock: Lockfile) -> Lockfile:
    """The state in which flows have the names that the plan gives them."""
    made = renamed(lock, plan.edits)
    return made if isinstance(made, Lockfile) else lock


def _builds(plan: Plan) -> Iterator[str]:
    minted = {edit.flow: (edit.version, edit.snapshot) for edit in plan.edits if isinstance(edit, Mint)}
    built = {flow: (build.version, build.snapshot_digest) for flow, build in plan.builds}
    for flow in minted.keys() | built.keys():
        if minted.get(flow) != built.get(flow):
            yield f"the version of {flow} that it makes is not the one that it shows"
    for edit in plan.edits:
        if isinstance(edit, Mint) and edit.version != edit.expects + 1:
            yield f"it makes v{edit.version} of {edit.flow} after v{edit.expects}"
    for flow, build in plan.builds:
        if build.snapshot.flow != flow or build.snapshot.digest != build.snapshot_digest:
            yield f"the snapshot of {flow} is not what its digest says"


def _moves(plan: Plan) -> Iterator[str]:
    shown: dict[tuple[str, str], Shown] = {
        (flow.flow, move.tag): (move.before, move.after)
        for flow in plan.flows
        if flow.action != "retire"
        for move in flow.moves
    }
    done: dict[tuple[str, str], Shown] = {
        (edit.flow, edit.tag): (edit.expects, edit.holders if isinstance(edit, Move) else None)
        for edit in plan.edits
        if isinstance(edit, Move | Untag)
    }
    for flow, tag in shown.keys() | done.keys():
        if shown.get((flow, tag)) != done.get((flow, tag)):
            yield f"what it does to route {tag} of {flow} is not what it shows"


def _removals(plan: Plan) -> Iterator[str]:
    shown = {flow.flow for flow in plan.flows if flow.action == "retire"}
    for flow in shown ^ {edit.flow for edit in plan.edits if isinstance(edit, Retire)}:
        yield f"the removal of {flow} is not what it shows"
    for edit in plan.edits:
        if isinstance(edit, Manage) and edit.flow not in {flow.flow for flow in plan.flows}:
            yield f"it shows nothing of {edit.flow}"
        if isinstance(edit, Drop):
            yield f"it deletes v{edit.version} of {edit.flow}, which no plan does"
        if isinstance(edit, Move) and edit.hold:
            yield f"it leaves a hold on route {edit.tag} of {edit.flow}, which no plan does"


def _renames(plan: Plan) -> Iterator[str]:
    shown = {(flow.renamed_from, flow.flow) for flow in plan.flows if flow.renamed_from}
    done = {(edit.was, edit.flow) for edit in plan.edits if isinstance(edit, Rename)}
    for was, name in shown ^ done:
        yield f"the rename of {was} to {name} is not what it shows"


def _holders(plan: Plan, lock: Lockfile, tables: Mapping[str, VersionTable]) -> Iterator[str]:
    minted = {(edit.flow, edit.version): edit.snapshot for edit in plan.edits if isinstance(edit, Mint)}
    for edit in (edit for edit in plan.edits if isinstance(edit, Move)):
        for one in edit.holders:
            state, table = lock.flows.get(edit.flow), tables.get(edit.flow)
            known = minted.get((edit.flow, one.version)) or (state.known_snapshot(one.version) if state else None)
            if known is None and table is not None and (release := table.release(one.version)):
                known = release.snapshot
            if known != one.snapshot:
                yield f"route {edit.tag} of {edit.flow} is to lead to v{one.version}, which is not that version"
