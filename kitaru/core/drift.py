"""What others changed in the store since a manifest was applied, as against what is only not applied yet. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kitaru.model.lockfile import FlowState, Lockfile
from kitaru.model.manifest import FlowSpec, Manifest
from kitaru.model.plan import Drift, FlowPlan
from kitaru.model.route import APPLY, Route, describe_holders


def find_drift(
    manifest: Manifest, flows: Sequence[FlowPlan], lock: Lockfile, *, whole: bool = False
) -> tuple[Drift, ...]:
    """Routes that somebody moved, removed, added or holds otherwise than the manifest says, in the order of the plan.

    A route that apply itself moved last and the manifest now wants elsewhere is no drift: that change is to be applied.
    With ``whole`` the plan is about all flows: then one that was deployed by hand, and is in no manifest, is drift too.
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
    return (*found, *(_beside(manifest, lock) if whole else ()))


def _beside(manifest: Manifest, lock: Lockfile) -> Iterator[Drift]:
    """Flows that no manifest ever declared. One that was taken out of a manifest is to be pruned, which is no drift."""
    for name, state in sorted(lock.flows.items()):
        if state.retired or state.managed or name in manifest.flows:
            continue
        last = max(state.routes.values(), key=lambda route: route.generation, default=None)
        told = last or Route(holders=(), via="")
        tags = ", ".join(f"{tag} at {describe_holders(route.holders)}" for tag, route in sorted(state.routes.items()))
        text = f"the flow is in no manifest ({tags or f'v{state.latest}, without a route'})"
        yield _drift(name, "", text, told)


def _moved(plan: FlowPlan, state: FlowState) -> Iterator[Drift]:
    for held in plan.held:
        at, wanted = describe_holders(held.holders), describe_holders(held.wanted)
        says = held.why or f"the manifest {f'says {wanted}' if held.wanted else 'does not name it'}"
        yield Drift(
            flow=plan.flow,
            tag=held.tag,
            text=f"{held.tag} is held at {at} by a rollback; {says}",
            via="rollback",
            by=held.by,
            at=held.at,
        )
    for move in plan.moves:
        route = state.routes.get(move.tag)
        if route is None or route.via == APPLY or move.adopts or move.after is None:
            continue
        at, wanted = describe_holders(route.holders), describe_holders(move.after)
        if move.converts:
            at, wanted = _as(at, exclusive=route.exclusive), _as(wanted, exclusive=move.exclusive)
        yield _drift(plan.flow, move.tag, f"{move.tag} leads to {at}; the manifest says {wanted}", route)


def _removed(plan: FlowPlan, state: FlowState) -> Iterator[Drift]:
    wanted = {move.tag: move.after for move in plan.moves if move.before is None}
    for tag, route in state.untagged.items():
        if tag in wanted:
            text = f"{tag} was removed; the manifest says {describe_holders(wanted[tag])}"
            yield _drift(plan.flow, tag, text, route)


def _added(spec: FlowSpec, flow: str, state: FlowState) -> Iterator[Drift]:
    for tag, route in state.routes.items():
        if tag not in spec.routes and route.via != APPLY and route.hold is None:
            text = f"{tag} leads to {describe_holders(route.holders)}; the manifest does not name it"
            yield _drift(flow, tag, text, route)


def _as(holders: str, *, exclusive: bool) -> str:
    return f"{holders} {'exclusively' if exclusive else 'as a shared label'}"


def _drift(flow: str, tag: str, text: str, route: Route) -> Drift:
    return Drift(flow=flow, tag=tag, text=text, via=route.via, by=route.by, at=route.at)
