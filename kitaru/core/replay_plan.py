"""What a replay takes from the execution that it replays, and what it runs anew. Pure.

``reuse`` is said only where it is sure: the same code, the same inputs of the flow, and nothing given before that call.
Then the body makes the call again with the inputs that were recorded. Where any of these changed, whether a call's own
inputs are the same is known when the body makes it: ``reuse_if_same``.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from kitaru.errors import KitaruUsageError
from kitaru.model.execution import CheckpointCall
from kitaru.model.replay import Action, PlannedCall, PlannedWait, ReplayPlan
from kitaru.model.wait import Wait

CHECKPOINT = "checkpoint."
WAIT = "wait."


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs from the execution that is replayed.

    ``code``: what runs now, in words (``v2``), where it is or may be other code. ``inputs``: whether the flow's inputs
    are others. ``results`` and ``answers``: the checkpoints and waits for which one is given. ``gone``: checkpoints
    that the code to run is known not to have; ``there``: those that it is known to have.
    """

    code: str = ""
    inputs: bool = False
    results: Collection[str] = ()
    answers: Collection[str] = ()
    gone: Collection[str] = ()
    there: Collection[str] = ()

    @property
    def doubt(self) -> str:
        """Why a recorded call may come with other inputs, or not at all; empty where it can't."""
        if self.code:
            return f"if {self.code} calls it with the same inputs"
        return "if its inputs are the same" if self.inputs else ""


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where the replay begins: at that call or wait, which began at ``at``. ``place`` is the call's, in their order."""

    at: str
    place: int | None = None
    wait: Wait | None = None

    def is_before(self, place: int, started: str) -> bool:
        """Whether a call began before it."""
        return place < self.place if self.place is not None else started < self.at


def in_order(calls: Sequence[CheckpointCall]) -> list[CheckpointCall]:
    """The calls in the order in which they began."""
    return sorted(calls, key=lambda call: call.started_at)


def plan_replay(
    calls: Sequence[CheckpointCall], waits: Sequence[Wait], *, cut: str, changes: Changes = Changes()
) -> ReplayPlan:
    """Take over what finished before ``cut`` began: a call's id, the name of a checkpoint or wait (the first of that
    name), a wait's id, or a call's position from 1.

    Raises ``KitaruUsageError`` for a cut or a name that leads nowhere.
    """
    ordered = in_order(calls)
    questions = sorted(waits, key=lambda wait: wait.opened_at)
    called = [call.name for call in ordered]
    for name in changes.results:
        if name in changes.gone:
            code = changes.code or "the code to run"
            raise KitaruUsageError(
                f"{code} has no checkpoint {name}: what is given for it would have no effect",
                hint=f"it has: {_listed(changes.there)}" if changes.there else "leave that override out",
            )
    must_be_known(changes.results, [*called, *changes.there], "call of checkpoint", CHECKPOINT)
    must_be_known(changes.answers, [wait.name for wait in questions], "wait", WAIT)
    begins = _cut(ordered, questions, cut)
    given = _first_given(ordered, questions, changes)
    planned = []
    for place, call in enumerate(ordered):
        action, reason = _fate(call, place, begins, changes)
        if action == "reuse":
            doubt = changes.doubt or _unless(given, call.started_at)
            action, reason = ("reuse_if_same", doubt) if doubt else (action, reason)
        planned.append(PlannedCall(call.call_id, call.name, action, reason))
    new = [name for name in dict.fromkeys(changes.results) if name not in called]
    planned += [PlannedCall("", name, "override", "its result is given to each call of it") for name in new]
    asked = [_planned_wait(wait, begins, changes, given) for wait in questions]
    return ReplayPlan(tuple(planned), tuple(asked))


def must_be_known(names: Iterable[str], there: Sequence[str], what: str, prefix: str) -> None:
    """``KitaruUsageError`` for a name to override that no call or wait has."""
    for name in names:
        if name not in there:
            close = difflib.get_close_matches(name, there, n=1)
            raise KitaruUsageError(
                f"there is no {what} {name!r} to override"
                + (f"; did you mean {close[0]}?" if close else f"; there are: {_listed(there)}"),
                hint=f"--override {prefix}{close[0] if close else 'NAME'}=JSON",
            )


def _first_given(calls: Sequence[CheckpointCall], waits: Sequence[Wait], changes: Changes) -> tuple[str, str]:
    """When the first call began, or wait was opened, whose outcome is given, and its name; what came before can't
    hang on it.
    """
    moments = [(call.started_at, call.name) for call in calls if call.name in changes.results]
    moments += [(wait.opened_at, wait.name) for wait in waits if wait.name in changes.answers]
    return min(moments, default=("", ""))


def _unless(given: tuple[str, str], started: str) -> str:
    moment, name = given
    return f"unless what is given for {name} changes its inputs" if moment and started >= moment else ""


def _fate(call: CheckpointCall, place: int, begins: _Cut, changes: Changes) -> tuple[Action, str]:
    if call.name in changes.gone:
        return "incompatible", f"{changes.code or 'the code to run'} has no checkpoint {call.name}"
    if call.name in changes.results:
        sure = call.name in changes.there or not changes.code
        return "override", "its result is given" if sure else f"its result is given, if {changes.code} calls it"
    if place == begins.place:
        return "rerun", "the replay begins here"
    if not begins.is_before(place, call.started_at):
        return "rerun", "it began after that" if begins.wait is None else f"it began after {begins.wait.name} was asked"
    if call.status != "completed" or call.output is None:
        return "rerun", f"it {'failed' if call.status == 'failed' else 'did not finish'}"
    return "reuse", ""


def _planned_wait(wait: Wait, begins: _Cut, changes: Changes, given: tuple[str, str]) -> PlannedWait:
    if wait.name in changes.answers:
        return PlannedWait(wait.wait_id, wait.name, "override", "its answer is given")
    if wait is begins.wait:
        return PlannedWait(wait.wait_id, wait.name, "ask", "the replay begins here")
    if wait.value is None or wait.answered_at is None:
        return PlannedWait(wait.wait_id, wait.name, "ask", "nobody answered it")
    if wait.answered_at > begins.at:
        return PlannedWait(wait.wait_id, wait.name, "ask", "it was answered after that")
    doubt = f"if {changes.code} asks it" if changes.code else "if it is asked" if changes.inputs else ""
    doubt = doubt or ("if it is asked" if _unless(given, wait.opened_at) else "")
    return PlannedWait(wait.wait_id, wait.name, "reuse_if_same" if doubt else "reuse", doubt)


def _cut(calls: Sequence[CheckpointCall], waits: Sequence[Wait], cut: str) -> _Cut:
    """``checkpoint.NAME`` and ``wait.NAME`` tell a checkpoint and a wait of one name apart."""
    wanted = cut.removeprefix(CHECKPOINT)
    for known in ([call.call_id for call in calls], [call.name for call in calls]):
        if wanted in known:
            place = known.index(wanted)
            return _Cut(calls[place].started_at, place)
    for wait in waits:
        if cut.removeprefix(WAIT) in (wait.wait_id, wait.name):
            return _Cut(wait.opened_at, wait=wait)
    if cut.isdecimal() and 1 <= int(cut) <= len(calls):
        return _Cut(calls[int(cut) - 1].started_at, int(cut) - 1)
    if not calls and not waits:
        raise KitaruUsageError("it made no call that a replay could begin from", hint="start a new execution")
    names = list(dict.fromkeys([call.name for call in calls] + [wait.name for wait in waits]))
    close = difflib.get_close_matches(cut, names, n=1)
    raise KitaruUsageError(
        f"there is no call or wait {cut!r} to begin from"
        + (f"; did you mean {close[0]}?" if close else f"; there are: {_listed(names)}"),
        hint="give the name of a checkpoint or wait, the id of a call, or its position from 1",
    )


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(set(names))) or "none"
