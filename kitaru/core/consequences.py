"""A plan's consequences for callers of its routes, and for executions on versions that routes leave. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kitaru.core.diffing import compare_inputs
from kitaru.model.plan import Consequence, FlowPlan
from kitaru.model.route import Assignment
from kitaru.model.snapshot import Snapshot

InputCheck = Callable[[Mapping[str, Any], Mapping[str, Any]], Sequence[str]]
"""(JSON Schema, inputs) → one sentence for each problem."""

Snapshots = Mapping[str, Snapshot | None]
"""Digest → snapshot; None for one that can't be read."""

STORED_INPUTS = 20
"""How many of the newest executions' inputs are tried on a new input schema."""

UNTOLD = "may break callers"
"""Of a move if one of the snapshots is damaged."""

FEW = 5
"""Names of routes, versions, changes and executions in one sentence."""


@dataclass(frozen=True, slots=True)
class InUse:
    """An execution that has not ended: its version, and whether it runs or waits."""

    exec_id: str
    version: int | None
    status: str


@dataclass(frozen=True, slots=True)
class Stored:
    """The inputs of an execution, in full."""

    exec_id: str
    inputs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Passage:
    """Callers of the routes ``tags`` meet ``left`` until now, and ``reached`` after the plan."""

    left: Assignment
    reached: Assignment
    tags: list[str] = field(default_factory=list)


def passages(flow: FlowPlan) -> tuple[Passage, ...]:
    """From each version whose share of a route falls to each other one whose share grows.

    A new route has no callers yet, and one that goes has none any more.
    """
    found: dict[tuple[int, int], Passage] = {}
    for move in flow.moves:
        was_exclusive = move.exclusive != move.converts
        if not (_can_be_called(move.before, was_exclusive) and _can_be_called(move.after, move.exclusive)):
            continue
        before, after = ({one.version: one.weight for one in holders or ()} for holders in (move.before, move.after))
        for left in move.before or ():
            for reached in move.after or ():
                leaves = left.weight > after.get(left.version, 0)
                comes = reached.weight > before.get(reached.version, 0)
                if leaves and comes and left.snapshot != reached.snapshot:
                    passage = found.setdefault((left.version, reached.version), Passage(left, reached))
                    passage.tags.append(move.tag)
    return tuple(found.values())


def _can_be_called(holders: Sequence[Assignment] | None, exclusive: bool) -> bool:
    """A shared label is resolved only while a single version holds it."""
    return bool(holders) and (exclusive or len(holders or ()) == 1)


def asks_for_inputs(flow: FlowPlan, snapshots: Snapshots) -> bool:
    """Whether callers come to another input schema. ``snapshots`` has those of all ``passages``."""
    return any(_schemas(one, snapshots) for one in passages(flow))


def asks_for_use(flow: FlowPlan) -> bool:
    """Whether executions under way matter: a route leaves a version."""
    return bool(_left(flow))


def consequences(
    flow: FlowPlan, in_use: Sequence[InUse], stored: Sequence[Stored], check: InputCheck, snapshots: Snapshots
) -> tuple[Consequence, ...]:
    """All of them, those of ``flow`` itself among them, the worst first. No input's value is in their words."""
    ways = passages(flow)
    renamed = f"callers of {flow.renamed_from} are told to use {flow.flow}"
    found = [
        *flow.consequences,
        *(one for way in ways for one in _broken(way, snapshots)),
        *_refused(ways, stored, check, snapshots),
        *([Consequence(kind="renamed", text=renamed, severe=True)] if flow.renamed_from else []),
        *_under_way(flow, in_use),
    ]
    return tuple(sorted(found, key=lambda one: not one.severe))


def _schemas(way: Passage, snapshots: Snapshots) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The schemas that callers had to fit, and have to; None if they are the same, or one can't be read.

    A sample input of a version need not be given.
    """
    left, reached = snapshots[way.left.snapshot], snapshots[way.reached.snapshot]
    if left is None or reached is None:
        return None
    before, after = (
        {**schema, "required": [name for name in schema.get("required", ()) if name not in given]}
        for schema, given in ((one.input_schema, one.inputs) for one in (left, reached))
    )
    return None if before == after else (before, after)


def _broken(way: Passage, snapshots: Snapshots) -> Iterator[Consequence]:
    """The changes that break callers on the way, or may."""
    found = Consequence(
        kind="breaking_inputs",
        text="",
        severe=True,
        routes=tuple(way.tags),
        left=(way.left.version,),
        reached=(way.reached.version,),
    )
    lost = [one.version for one in (way.left, way.reached) if snapshots[one.snapshot] is None]
    if lost:
        why = f"the snapshot of v{lost[0]} can't be read (kitaru store verify)"
        yield found.model_copy(update={"text": f"{_move_words(found)} {UNTOLD}: {why}"})
    elif schemas := _schemas(way, snapshots):
        changes = tuple(one.text for one in compare_inputs(*schemas) if one.breaking)
        found = found.model_copy(update={"changes": changes})
        if changes:
            yield found.model_copy(update={"text": breaking_words(found)})


def breaking_words(one: Consequence) -> str:
    """``default: v1 → v2 breaks callers: n added, required (integer)``."""
    return f"{_move_words(one)} breaks callers: {_some(one.changes, '; ')}"


def _move_words(one: Consequence) -> str:
    return f"{_some(one.routes)}: {_versions(one.left)} → {_versions(one.reached)}"


def _refused(
    ways: Sequence[Passage], stored: Sequence[Stored], check: InputCheck, snapshots: Snapshots
) -> Iterator[Consequence]:
    """For each version with another schema: the stored inputs that it refuses, of those that the old ones took."""
    for version in dict.fromkeys(way.reached.version for way in ways):
        own = [way for way in ways if way.reached.version == version and _schemas(way, snapshots)]
        left = {way.left.version: snapshots[way.left.snapshot] for way in own}
        calls = [(one.exec_id, call) for one in stored if (call := _call(one, left.values(), check)) is not None]
        schemas = _schemas(own[0], snapshots) if own else None
        if not calls or schemas is None:
            continue
        refused = [exec_id for exec_id, call in calls if check(schemas[1], call)]
        taken = "" if len(calls) == len(stored) else f" that {_versions(left)} {'takes' if len(left) == 1 else 'take'}"
        inputs = f"the last stored input{taken}" if len(calls) == 1 else f"the last {len(calls)} stored inputs{taken}"
        part = "" if len(refused) == len(calls) else f"{len(refused)} of "
        verdict = f"would refuse {part}{inputs}, such as that of {refused[0]}" if refused else f"takes {inputs}"
        tags = tuple(dict.fromkeys(tag for way in own for tag in way.tags))
        yield Consequence(
            kind="stored_inputs",
            text=f"{_some(tags)}: v{version} {verdict}",
            severe=bool(refused),
            count=len(refused),
            of=len(calls),
            exec_ids=tuple(refused[:FEW]),
            routes=tags,
            left=tuple(sorted(left)),
            reached=(version,),
        )


def _call(one: Stored, lefts: Iterable[Snapshot | None], check: InputCheck) -> dict[str, Any] | None:
    """The caller's own inputs, as far as is known: sample inputs are stored with the rest."""
    for left in lefts:
        if left is not None and not check(left.input_schema, one.inputs):
            given = left.inputs
            return {name: value for name, value in one.inputs.items() if name not in given or given[name] != value}
    return None


def _under_way(flow: FlowPlan, in_use: Sequence[InUse]) -> Iterator[Consequence]:
    """Executions on versions that routes leave: they go on with them."""
    for version, tags in sorted(_left(flow).items()):
        on_it = [one for one in in_use if one.version == version]
        if not on_it:
            continue
        counts = Counter("wait" if one.status == "waiting" else "run" for one in on_it)
        parts = [f"{n} {verb}{'' if n > 1 else 's'}" for verb in ("run", "wait") if (n := counts[verb])]
        leave = f"{', '.join(tags)} {'leaves' if len(tags) == 1 else 'leave'}"
        go = "it goes on with it" if len(on_it) == 1 else "they go on with it"
        yield Consequence(
            kind="in_use",
            text=f"{' and '.join(parts)} on v{version}, which {leave}; {go}",
            count=len(on_it),
            of=len(in_use),
            exec_ids=tuple(one.exec_id for one in on_it[:FEW]),
            routes=tuple(tags),
            left=(version,),
        )


def _left(flow: FlowPlan) -> dict[int, list[str]]:
    """Version → tags of the routes that leave it."""
    found: dict[int, list[str]] = {}
    for move in flow.moves:
        after = {holder.version for holder in move.after or ()}
        for holder in move.before or ():
            if holder.version not in after:
                found.setdefault(holder.version, []).append(move.tag)
    return found


def _versions(numbers: Iterable[int]) -> str:
    return _some([f"v{number}" for number in sorted(numbers)])


def _some(names: Iterable[str], separator: str = ", ") -> str:
    """``a, b, c, d, e, and 2 more``"""
    words = list(names)
    more = [f"and {len(words) - FEW} more"] if len(words) > FEW else []
    return separator.join([*words[:FEW], *more])
