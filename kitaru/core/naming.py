"""A flow that was renamed, under all its names: which it has now, which it had, and which it began with. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from kitaru.model.lockfile import FlowState


def present_name(flows: Mapping[str, FlowState], flow: str) -> str:
    """The name that ``flow`` goes by now: its own, where it was never renamed."""
    while (state := flows.get(flow)) is not None and state.renamed_to:
        flow = state.renamed_to
    return flow


def way_to(flows: Mapping[str, FlowState], name: str, now: str) -> tuple[str, ...]:
    """The names by which ``name`` leads to the flow now called ``now``, without that one; none where it doesn't."""
    way = []
    while name != now:
        state = flows.get(name)
        if state is None or not state.renamed_to:
            return ()
        way.append(name)
        name = state.renamed_to
    return tuple(way)


def names_of(flows: Mapping[str, FlowState], flow: str) -> frozenset[str]:
    """The flow's name and every name that it had before."""
    names = {flow}
    while True:
        earlier = {name for name, state in flows.items() if state.renamed_to in names} - names
        if not earlier:
            return frozenset(names)
        names |= earlier


def first_name(flows: Mapping[str, FlowState], flow: str) -> str:
    """The name that the flow began with, whichever of its names ``flow`` is.

    What is to outlive a rename goes by it: which version a key draws, which execution an idempotency key led to.
    """
    name = present_name(flows, flow)
    state = flows.get(name)
    if state is not None and state.first_name:
        return state.first_name
    # Each name had one name before it, until the first rename back; that one records where the flow began.
    while (earlier := next((was for was, one in flows.items() if one.renamed_to == name), None)) is not None:
        name = earlier
    return name
