"""What a replay takes from the execution that it replays, and what it runs anew. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from kitaru.errors import KitaruUsageError
from kitaru.model.execution import CheckpointCall
from kitaru.model.replay import Action, PlannedCall, ReplayPlan
from kitaru.model.wait import Wait


def in_order(calls: Sequence[CheckpointCall]) -> list[CheckpointCall]:
    """The calls in the order in which they began."""
    return sorted(calls, key=lambda call: call.started_at)


def plan_replay(
    calls: Sequence[CheckpointCall],
    waits: Sequence[Wait],
    *,
    cut: str,
    overrides: Collection[str] = (),
    new_inputs: bool = False,
    known: Collection[str] | None = None,
) -> ReplayPlan:
    """Take over what finished before ``cut`` began: a call's id, a checkpoint's name (its first call) or a position
    from 1.

    ``overrides``: names of checkpoints whose result is given. ``known``: the names of the checkpoints that the code to
    run has, None where that is not known. Raises ``KitaruUsageError`` for a cut or a name that leads nowhere.
    """
    ordered = in_order(calls)
    place = _place(ordered, cut)
    names = {call.name for call in ordered}
    strange = sorted(set(overrides) - names)
    if strange:
        raise KitaruUsageError(
            f"there is no call of checkpoint {', '.join(strange)} to override; there are: {_listed(names)}",
            hint="--override checkpoint.NAME=JSON",
        )
    planned = []
    doubtful = "its inputs may differ" if new_inputs else ""
    for at, call in enumerate(ordered):
        action, reason = _fate(call, at, place, overrides, known)
        planned.append(PlannedCall(call.call_id, call.name, action, reason or doubtful))
        if action == "override":
            doubtful = doubtful or f"unless {call.name} is among its inputs"
        elif action == "incompatible":
            doubtful = doubtful or "unless its place in the flow has moved"
    begins = ordered[place].started_at
    taken = tuple(
        wait.wait_id
        for wait in waits
        if wait.value is not None and wait.answered_at is not None and wait.answered_at <= begins
    )
    return ReplayPlan(tuple(planned), taken)


def _fate(
    call: CheckpointCall, at: int, place: int, overrides: Collection[str], known: Collection[str] | None
) -> tuple[Action, str]:
    if known is not None and call.name not in known:
        return "incompatible", f"the code to run has no checkpoint {call.name}"
    if call.name in overrides:
        return "override", "its result is given"
    if at == place:
        return "rerun", "the replay begins here"
    if at > place:
        return "rerun", "it began after that"
    if call.status != "completed" or call.output is None:
        return "rerun", f"it {'failed' if call.status == 'failed' else 'did not finish'}"
    return "reuse", ""


def _place(ordered: Sequence[CheckpointCall], cut: str) -> int:
    for known in ([call.call_id for call in ordered], [call.name for call in ordered]):
        if cut in known:
            return known.index(cut)
    if cut.isdecimal() and 1 <= int(cut) <= len(ordered):
        return int(cut) - 1
    if not ordered:
        raise KitaruUsageError("it made no call that a replay could begin from", hint="start a new execution")
    raise KitaruUsageError(
        f"there is no call {cut!r} to begin from; there are: {_listed({call.name for call in ordered})}",
        hint="give a checkpoint's name, the id of a call, or its position from 1",
    )


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"
