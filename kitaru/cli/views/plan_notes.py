"""What a plan says of many flows in the same words, said once: a rule of the manifest concerns all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from kitaru.cli.views.words import count
from kitaru.model.lockfile import Protect
from kitaru.model.plan import Consequence, FlowPlan, Plan

NAMES_SHOWN = 3

Shared = Mapping[str, tuple[str, ...]]
"""Note, or what a rule leads to → the flows that have it; more than one of them."""


def shared_notes(plan: Plan) -> Shared:
    """What several flows have of protection: notes, and routes shut out. All else is about a flow's own version."""
    edits = {edit.flow: edit for edit in plan.edits if isinstance(edit, Protect)}
    pairs = [
        (flow.flow, note)
        for flow in plan.flows
        if (edit := edits.get(flow.flow)) is not None
        for note in flow.notes
        if note.startswith(tuple(f"{tag} is protected " for tag in {*edit.rules, *edit.expects}))
    ]
    pairs += [(flow.flow, one.text) for flow in plan.flows for one in flow.consequences if one.kind == "protected"]
    return {note: flows for note, flows in _grouped(pairs).items() if len(flows) > 1}


def shared_lines(plan: Plan, shared: Shared) -> list[str]:
    """``protect: stable is protected from now on: branch main, in all 1,000 flows``."""
    return [f"protect: {note}, in {_flows(flows, len(plan.flows))}" for note, flows in shared.items()]


def own_notes(flow: FlowPlan, shared: Shared) -> tuple[str, ...]:
    """The notes that are left to say of the flow alone."""
    return tuple(note for note in flow.notes if note not in shared)


def own_consequences(flow: FlowPlan, shared: Shared) -> tuple[Consequence, ...]:
    """The consequences that are left to say of the flow alone."""
    return tuple(one for one in flow.consequences if one.kind != "protected" or one.text not in shared)


def is_told(flow: FlowPlan, shared: Shared) -> bool:
    """Whether the flow has nothing to show but what is said of several at once."""
    own = own_consequences(flow, shared)
    news = (flow.build, flow.moves, flow.held, own, flow.renamed_from, own_notes(flow, shared))
    return flow.action == "update" and bool(flow.notes) and not any(news)


def only_ruled(plan: Plan) -> dict[str, Protect]:
    """Flow → the rules that it comes to have, or loses, where nothing else of it changes."""
    edits = {edit.flow: edit for edit in plan.edits if isinstance(edit, Protect)}
    return {
        flow.flow: edits[flow.flow]
        for flow in plan.flows
        if flow.flow in edits
        and flow.action == "update"
        and not (flow.build or flow.moves or flow.held or flow.renamed_from)
    }


def rule_parts(plan: Plan) -> list[str]:
    """``protect stable in 300 flows``, ``lift the rule of canary in 1 flow``; of the flows that change no further."""
    pairs = [
        (flow, f"protect {tag}" if tag in edit.rules else f"lift the rule of {tag}")
        for flow, edit in only_ruled(plan).items()
        for tag in sorted({*edit.rules, *edit.expects})
        if edit.rules.get(tag) != edit.expects.get(tag)
    ]
    return [f"{text} in {count(len(flows), 'flow')}" for text, flows in _grouped(pairs).items()]


def gravity(flow: FlowPlan) -> int:
    """What must be seen first has the lowest number; flows that are alike stay in the manifest's order."""
    if any(one.kind == "breaking_inputs" and one.severe for one in flow.consequences):
        return 0
    if flow.action == "retire" or any(one.severe for one in flow.consequences):
        return 1
    return 2 if flow.consequences or flow.held else 3


def breaking_words(plan: Plan) -> str:
    """``3 flows break their callers: a, b, c``; empty where none does."""
    names = tuple(flow.flow for flow in plan.flows if gravity(flow) == 0)
    if not names:
        return ""
    verb = "1 flow breaks its" if len(names) == 1 else f"{len(names):,} flows break their"
    more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return f"{verb} callers: {', '.join(names[:NAMES_SHOWN])}{more}"


def grouped_lines(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[tuple[str, ...], int, str]]:
    """(flow, text) as (names to show, how many flows, text): what is so of more than a few flows is told once."""
    for text, flows in _grouped(pairs).items():
        if len(flows) > NAMES_SHOWN:
            yield flows[:NAMES_SHOWN], len(flows), text
        else:
            for flow in flows:
                yield (flow,), 1, text


def told_together(guards: Iterable[str]) -> list[str]:
    """The reasons that forbid a plan; what is so of more than a few flows is one line, with how many these are."""
    pairs = [(flow, why) for flow, _, why in (text.partition(": ") for text in guards)]
    return [f"{_named(names, every)}: {why}" for names, every, why in grouped_lines(pairs)]


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
    return _named(flows[:NAMES_SHOWN], len(flows))


def _named(names: tuple[str, ...], every: int) -> str:
    listed = ", ".join(names)
    return listed if every == len(names) else f"{every:,} flows: {listed} and {every - len(names):,} more"
