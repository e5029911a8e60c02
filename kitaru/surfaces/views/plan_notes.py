"""What a plan says of many flows in the same words, said once: a rule of the manifest concerns all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kitaru.model.lockfile import Protect
from kitaru.model.plan import FlowPlan, Plan

NAMES_SHOWN = 3

Shared = Mapping[str, tuple[str, ...]]
"""Note → the flows that have it; more than one of them."""


def shared_notes(plan: Plan) -> Shared:
    """The notes on protection that several flows have. All others are about their flow's own version."""
    edits = {edit.flow: edit for edit in plan.edits if isinstance(edit, Protect)}
    pairs = [
        (flow.flow, note)
        for flow in plan.flows
        if (edit := edits.get(flow.flow)) is not None
        for note in flow.notes
        if note.startswith(tuple(f"{tag} is protected " for tag in {*edit.rules, *edit.expects}))
    ]
    return {note: flows for note, flows in _grouped(pairs).items() if len(flows) > 1}


def shared_lines(plan: Plan, shared: Shared) -> list[str]:
    """``protect: stable is protected from now on: branch main, in all 1,000 flows``."""
    return [f"protect: {note}, in {_flows(flows, len(plan.flows))}" for note, flows in shared.items()]


def own_notes(flow: FlowPlan, shared: Shared) -> tuple[str, ...]:
    """The notes that are left to say of the flow alone."""
    return tuple(note for note in flow.notes if note not in shared)


def is_told(flow: FlowPlan, shared: Shared) -> bool:
    """Whether the flow has nothing to show but what is said of several at once."""
    news = (flow.build, flow.moves, flow.held, flow.consequences, flow.renamed_from, own_notes(flow, shared))
    return flow.action == "update" and bool(flow.notes) and not any(news)


def told_together(guards: Iterable[str]) -> list[str]:
    """The reasons that forbid a plan; what is so of more than a few flows is one line, with how many these are."""
    pairs = [(flow, why) for flow, _, why in (text.partition(": ") for text in guards)]
    lines = []
    for why, flows in _grouped(pairs).items():
        if len(flows) > NAMES_SHOWN:
            lines.append(f"{_flows(flows)}: {why}")
        else:
            lines += [f"{flow}: {why}" for flow in flows]
    return lines


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for flow, text in pairs:
        found.setdefault(text, []).append(flow)
    return {text: tuple(flows) for text, flows in found.items()}


def _flows(flows: tuple[str, ...], every: int = 0) -> str:
    """``agent, greeter``; ``1,000 flows: a, b, c and 997 more``; ``all 1,000 flows`` where the plan has no more."""
    if len(flows) <= NAMES_SHOWN:
        return ", ".join(flows)
    if len(flows) == every:
        return f"all {every:,} flows"
    names = ", ".join(flows[:NAMES_SHOWN])
    return f"{len(flows):,} flows: {names} and {len(flows) - NAMES_SHOWN:,} more"
