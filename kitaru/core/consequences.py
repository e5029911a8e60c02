"""What a plan means for those who use its flows: where callers come to, and executions on what routes leave. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kitaru.core.compatibility import compare_inputs
from kitaru.model.address import canonical_json
from kitaru.model.plan import Consequence, FlowPlan
from kitaru.model.route import Assignment
from kitaru.model.snapshot import Snapshot

InputCheck = Callable[[Mapping[str, Any], Mapping[str, Any]], Sequence[str]]
"""(JSON Schema, inputs) → what doesn't fit."""

Snapshots = Mapping[str, Snapshot | None]
"""Digest → snapshot; None for one that can't be read."""

STORED_INPUTS = 20
"""How many of the newest executions the input schemas that routes come to are tried on."""

UNTOLD = "may break callers"
"""What is said of a move where one of the snapshots is damaged."""

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
    """What an execution was started with, in full."""

    exec_id: str
    inputs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Passage:
    """Callers of the route ``tag`` meet ``left`` until now, and ``reached`` once the plan is carried out."""

    tag: str
    left: Assignment
    reached: Assignment


@dataclass(slots=True)
class Turn:
    """All passages from one input schema to another one: the same for callers, whichever routes and versions."""

    before: Mapping[str, Any]
    after: Mapping[str, Any]
    tags: dict[str, None] = field(default_factory=dict)
    left: dict[int, Snapshot] = field(default_factory=dict)
    reached: dict[int, Snapshot] = field(default_factory=dict)


def passages(flow: FlowPlan) -> tuple[Passage, ...]:
    """From each version whose share of a route falls to each one whose share grows, where these are not the same.

    A new route has no callers yet, and one that goes has none any more.
    """
    found = []
    for move in flow.moves:
        was_exclusive = move.exclusive != move.converts
        if not (_can_be_called(move.before, was_exclusive) and _can_be_called(move.after, move.exclusive)):
            continue
        before, after = _shares(move.before), _shares(move.after)
        found += [
            Passage(move.tag, left, reached)
            for left in move.before or ()
            for reached in move.after or ()
            if left.weight > after.get(left.version, 0)
            and reached.weight > before.get(reached.version, 0)
            and left.snapshot != reached.snapshot
        ]
    return tuple(found)


def _can_be_called(holders: Sequence[Assignment] | None, exclusive: bool) -> bool:
    """A shared label is resolved only while a single version holds it."""
    return bool(holders) and (exclusive or len(holders or ()) == 1)


def _shares(holders: Sequence[Assignment] | None) -> dict[int, int]:
    return {holder.version: holder.weight for holder in holders or ()}


def turns(flow: FlowPlan, snapshots: Snapshots) -> tuple[Turn, ...]:
    """Where callers meet other inputs than until now. ``snapshots`` has those of all ``passages``."""
    found: dict[bytes, Turn] = {}
    for one in passages(flow):
        left, reached = snapshots[one.left.snapshot], snapshots[one.reached.snapshot]
        if left is None or reached is None:
            continue
        before, after = _asked(left), _asked(reached)
        if before == after:
            continue
        turn = found.setdefault(canonical_json([before, after]), Turn(before, after))
        turn.tags[one.tag] = None
        turn.left[one.left.version] = left
        turn.reached[one.reached.version] = reached
    return tuple(found.values())


def _asked(snapshot: Snapshot) -> dict[str, Any]:
    """What callers have to fit: the schema, where what the version fills in by itself need not be given."""
    schema = snapshot.input_schema
    required = [name for name in schema.get("required", ()) if name not in snapshot.inputs]
    return {**schema, "required": required}


def asks_for_use(flow: FlowPlan) -> bool:
    """Whether executions under way have anything to say: a route leaves a version, or the flow goes."""
    return flow.action == "retire" or bool(flow.renamed_from) or any(_left(flow))


def consequences(
    flow: FlowPlan, in_use: Sequence[InUse], stored: Sequence[Stored], check: InputCheck, snapshots: Snapshots
) -> tuple[Consequence, ...]:
    """All of them, those of ``flow`` itself among them, the worst first.

    No input's value is in their words: they are read in public.
    """
    met = turns(flow, snapshots)
    found = [
        *flow.consequences,
        *_unreadable(flow, snapshots),
        *_breaking(met),
        *_refused(met, stored, check),
        *_renamed(flow),
        *_under_way(flow, in_use),
    ]
    return tuple(sorted(found, key=lambda one: not one.severe))


def _unreadable(flow: FlowPlan, snapshots: Snapshots) -> Iterator[Consequence]:
    lost: dict[tuple[int, int, int], list[str]] = {}
    for one in passages(flow):
        for holder in (one.left, one.reached):
            if snapshots[holder.snapshot] is None:
                lost.setdefault((holder.version, one.left.version, one.reached.version), []).append(one.tag)
                break
    for (version, left, reached), tags in lost.items():
        text = (
            f"{_some(tags)}: v{left} → v{reached} {UNTOLD}: "
            f"the snapshot of v{version} can't be read (kitaru store verify)"
        )
        yield Consequence(
            kind="breaking_inputs", text=text, severe=True, routes=tuple(tags), left=(left,), reached=(reached,)
        )


def _breaking(met: Sequence[Turn]) -> Iterator[Consequence]:
    for turn in met:
        changes = tuple(one.text for one in compare_inputs(dict(turn.before), dict(turn.after)) if one.breaking)
        if not changes:
            continue
        found = Consequence(
            kind="breaking_inputs",
            text="",
            severe=True,
            routes=tuple(turn.tags),
            left=tuple(sorted(turn.left)),
            reached=tuple(sorted(turn.reached)),
            changes=changes,
        )
        yield found.model_copy(update={"text": breaking_words(found)})


def breaking_words(one: Consequence) -> str:
    """``default: v1 → v2 breaks callers: n added, required (integer)``."""
    move = f"{_some(one.routes)}: {_versions(one.left)} → {_versions(one.reached)}"
    return f"{move} breaks callers: {_some(one.changes, '; ')}"


def _refused(met: Sequence[Turn], stored: Sequence[Stored], check: InputCheck) -> Iterator[Consequence]:
    """What the schemas that routes come to say to stored inputs. Those that were refused all along are left out."""
    groups: dict[bytes, list[Turn]] = {}
    for turn in met:
        groups.setdefault(canonical_json(turn.after), []).append(turn)
    for group in groups.values():
        calls = [(one.exec_id, call) for one in stored if (call := _call(one, group, check)) is not None]
        if not calls:
            continue
        refused = [exec_id for exec_id, call in calls if check(group[0].after, call)]
        tags = tuple(dict.fromkeys(tag for turn in group for tag in turn.tags))
        left = tuple(sorted({version for turn in group for version in turn.left}))
        reached = tuple(sorted({version for turn in group for version in turn.reached}))
        taken = "" if len(calls) == len(stored) else f" that {_versions(left)} {'takes' if len(left) == 1 else 'take'}"
        yield Consequence(
            kind="stored_inputs",
            text=f"{_some(tags)}: {_verdict(reached, refused, len(calls), taken)}",
            severe=bool(refused),
            count=len(refused),
            of=len(calls),
            exec_ids=tuple(refused[:FEW]),
            routes=tags,
            left=left,
            reached=reached,
        )


def _call(one: Stored, group: Sequence[Turn], check: InputCheck) -> dict[str, Any] | None:
    """What its caller gave, as far as can be told: what a version fills in by itself is stored with the rest."""
    for turn in group:
        for left in turn.left.values():
            if not check(left.input_schema, one.inputs):
                given = left.inputs
                return {name: value for name, value in one.inputs.items() if name not in given or given[name] != value}
    return None


def _verdict(reached: Sequence[int], refused: Sequence[str], tried: int, taken: str) -> str:
    inputs = f"the last stored input{taken}" if tried == 1 else f"the last {tried} stored inputs{taken}"
    if not refused:
        return f"{_versions(reached)} {'takes' if len(reached) == 1 else 'take'} {inputs}"
    part = "" if len(refused) == tried else f"{len(refused)} of "
    return f"{_versions(reached)} would refuse {part}{inputs}, such as that of {refused[0]}"


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
                exec_ids=tuple(one.exec_id for one in on_it[:FEW]),
                routes=tuple(tags),
                left=(version,),
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


def _versions(numbers: Iterable[int]) -> str:
    return _some([f"v{number}" for number in sorted(numbers)])


def _some(names: Iterable[str], separator: str = ", ") -> str:
    """The first few of them, and how many more there are."""
    words = list(names)
    more = [f"and {len(words) - FEW} more"] if len(words) > FEW else []
    return separator.join([*words[:FEW], *more])
