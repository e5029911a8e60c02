"""What a plan means for those who use its flows: stored inputs refused, executions on what routes leave. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kitaru.model.plan import Consequence, FlowPlan

InputCheck = Callable[[Mapping[str, Any], Mapping[str, Any]], Sequence[str]]
"""(JSON Schema, inputs) → what doesn't fit."""

STORED_INPUTS = 20
"""How many of the newest executions a new version's input schema is tried on."""


@dataclass(frozen=True, slots=True)
class InUse:
    """An execution that has not ended: its version, and whether it runs or waits."""

    exec_id: str
    version: int | None
    status: str


@dataclass(frozen=True, slots=True)
class Stored:
    """What an execution was started with, in full."""

    exec_id: str
    inputs: Mapping[str, Any]


def asks_for_inputs(flow: FlowPlan) -> bool:
    """Whether stored inputs have anything to say: the flow gets a version with another input schema."""
    build = flow.build
    return build is not None and any(change.subject == "input_schema" for change in build.changes)


def asks_for_use(flow: FlowPlan) -> bool:
    """Whether executions under way have anything to say: a route leaves a version, or the flow goes."""
    return flow.action == "retire" or bool(flow.renamed_from) or any(_left(flow))


def consequences(
    flow: FlowPlan, in_use: Sequence[InUse], stored: Sequence[Stored], check: InputCheck
) -> tuple[Consequence, ...]:
    """All of them, the worst first. No input's value is in their words: they are read in public."""
    found = [*_refused(flow, stored, check), *_renamed(flow), *_under_way(flow, in_use)]
    return tuple(sorted(found, key=lambda one: not one.severe))


def _refused(flow: FlowPlan, stored: Sequence[Stored], check: InputCheck) -> list[Consequence]:
    build = flow.build
    if build is None or not stored or not asks_for_inputs(flow):
        return []
    schema, given = build.snapshot.input_schema, build.snapshot.inputs
    refused = [one.exec_id for one in stored if check(schema, {**given, **one.inputs})]
    tried = "the last stored input" if len(stored) == 1 else f"the last {len(stored)} stored inputs"
    if not refused:
        text = f"v{build.version} takes {tried}"
    elif len(refused) == len(stored):
        text = f"v{build.version} would refuse {tried}, such as that of {refused[0]}"
    else:
        text = f"v{build.version} would refuse {len(refused)} of {tried}, such as that of {refused[0]}"
    one = Consequence(
        kind="stored_inputs",
        text=text,
        severe=bool(refused),
        count=len(refused),
        of=len(stored),
        exec_ids=_few(refused),
    )
    return [one]


def _renamed(flow: FlowPlan) -> list[Consequence]:
    if not flow.renamed_from:
        return []
    text = f"callers of {flow.renamed_from} are told to use {flow.flow}"
    return [Consequence(kind="renamed", text=text, severe=True)]


def _under_way(flow: FlowPlan, in_use: Sequence[InUse]) -> list[Consequence]:
    found = []
    for version, tags in sorted(_left(flow).items()):
        on_it = [one for one in in_use if one.version == version]
        if not on_it:
            continue
        counts = Counter("wait" if one.status == "waiting" else "run" for one in on_it)
        parts = [
            f"{counts[word]} {word if counts[word] > 1 else word + 's'}" for word in ("run", "wait") if counts[word]
        ]
        routes = f"{', '.join(tags)} {'leaves' if len(tags) == 1 else 'leave'}"
        kind = f"{' and '.join(parts)} on v{version}, which {routes}; "
        text = kind + ("it goes on with it" if len(on_it) == 1 else "they go on with it")
        found.append(
            Consequence(
                kind="in_use",
                text=text,
                count=len(on_it),
                of=len(in_use),
                exec_ids=_few([one.exec_id for one in on_it]),
            )
        )
    return found


def _left(flow: FlowPlan) -> dict[int, list[str]]:
    """The versions that routes leave, with the tags of those routes."""
    found: dict[int, list[str]] = {}
    for move in flow.moves:
        after = {holder.version for holder in move.after or ()}
        for holder in move.before or ():
            if holder.version not in after:
                found.setdefault(holder.version, []).append(move.tag)
    return found


def _few(exec_ids: Sequence[str]) -> tuple[str, ...]:
    return tuple(exec_ids[:5])
