"""What others changed in the store since a manifest was applied, as against what is only not applied yet. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kitaru.model.lockfile import FlowState, Lockfile
from kitaru.model.manifest import FlowSpec, Manifest
from kitaru.model.plan import Drift, FlowPlan
from kitaru.model.route import APPLY, Route, describe_holders


def find_drift(manifest: Manifest, flows: Sequence[FlowPlan], lock: Lockfile) -> tuple[Drift, ...]:
    """Routes that somebody moved, removed, added or holds otherwise than the manifest says, in the order of the plan.

    A route that apply itself moved last and the manifest now wants elsewhere is no drift: that change is to be applied.
    """
    found: list[Drift] = []
    for plan in flows:
        state = lock.flow(plan.flow)
        if state is not None and plan.flow in manifest.flows:
            found += [
                *_moved(plan, state),
                *_removed(plan, state),
                *_added(manifest.flows[plan.flow], plan.flow, state),
            ]
    return tuple(found)


def _moved(plan: FlowPlan, state: FlowState) -> Iterator[Drift]:
    for held in plan.held:
        at, wanted = describe_holders(held.holders), describe_holders(held.wanted)
        yield Drift(
            flow=plan.flow,
            tag=held.tag,
            text=f"{held.tag} is held at {at} by a rollback; the manifest says {wanted}",
            via="rollback",
            by=held.by,
            at=held.at,
        )
    for move in plan.moves:
        route = state.routes.get(move.tag)
        if route is None or route.via == APPLY or move.adopts or move.after is None:
            continue
        at, wanted = describe_holders(route.holders), describe_holders(move.after)
        yield _drift(plan.flow, move.tag, f"{move.tag} leads to {at}; the manifest says {wanted}", route)


def _removed(plan: FlowPlan, state: FlowState) -> Iterator[Drift]:
    wanted = {move.tag: move.after for move in plan.moves if move.before is None}
    for tag, route in state.untagged.items():
        if tag in wanted:
            text = f"{tag} was removed; the manifest says {describe_holders(wanted[tag])}"
            yield _drift(plan.flow, tag, text, route)


def _added(spec: FlowSpec, flow: str, state: FlowState) -> Iterator[Drift]:
    for tag, route in state.routes.items():
        if tag not in spec.routes and route.via != APPLY:
            text = f"{tag} leads to {describe_holders(route.holders)}; the manifest does not name it"
            yield _drift(flow, tag, text, route)


def _drift(flow: str, tag: str, text: str, route: Route) -> Drift:
    return Drift(flow=flow, tag=tag, text=text, via=route.via, by=route.by, at=route.at)
