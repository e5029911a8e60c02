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
from kitaru.model.event import Event, Failed
from kitaru.model.execution import CheckpointCall, Execution, Wait
from kitaru.model.replay import Action, PlannedCall, PlannedWait, ReplayPlan
from kitaru.model.standing import Standing

CHECKPOINT = "checkpoint."
WAIT = "wait."


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs from the execution that is replayed.

    ``code``: what runs now, in words (``v2``), where it is or may be other code. ``inputs``: whether the flow's inputs
    are others. ``results`` and ``answers``: the checkpoints and waits for which one is given. ``gone``: checkpoints
    that the code to run is known not to have; ``there``: those that it is known to have. ``failing``: calls by whose
    failures the execution failed, see ``failing_calls``: these are run anew wherever the replay begins.
    """

    code: str = ""
    inputs: bool = False
    results: Collection[str] = ()
    answers: Collection[str] = ()
    gone: Collection[str] = ()
    there: Collection[str] = ()
    failing: Collection[str] = ()

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


def in_order(calls: Iterable[CheckpointCall]) -> list[CheckpointCall]:
    """The calls in the order in which they began."""
    return sorted(calls, key=lambda call: call.started_at)


def failing_calls(events: Iterable[Event], execution: Execution) -> set[str]:
    """The calls by whose failures ``execution``, which ``events`` tell of, has failed.

    Where its end does not say: those after whose failure the body made no other call, so that nobody caught it.
    """
    end = next((event for event in reversed(list(events)) if isinstance(event, Failed)), None)
    if end is None or execution.status != "failed":
        return set()
    if end.calls is not None:
        return set(end.calls)
    last = max((call.started_at for call in execution.checkpoints), default="")
    failed = [call for call in execution.checkpoints if call.status == "failed" and call.ended_at is not None]
    return {call.call_id for call in failed if (call.ended_at or "") > last}


def on_its_way(events: Iterable[Event], execution: Execution) -> tuple[list[CheckpointCall], list[Wait]]:
    """The calls and waits on the way that the body takes, of ``execution``, which ``events`` tell of.

    What only an earlier attempt at the body finished is not among them, also where the last one may yet come to it.
    """
    standing = Standing()
    for event in events:
        standing.add(event)
    calls = [call for call in execution.checkpoints if not call.superseded and call.call_id not in standing.loose]
    return calls, [wait for wait in execution.waits if not wait.superseded and wait.wait_id not in standing.loose_waits]


def plan_replay(
    calls: Sequence[CheckpointCall], waits: Sequence[Wait], *, cut: str, changes: Changes = Changes()
) -> ReplayPlan:
    """Take over what finished before ``cut`` began, failures that the body went on from among it: a call's id, the
    name of a checkpoint or wait (the first of that name), a wait's id, or a call's position from 1.

    ``calls`` and ``waits`` are those of ``on_its_way``. Raises ``KitaruUsageError`` for a cut or a name that
    leads nowhere.
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
    asked = list(dict.fromkeys(wait.name for wait in questions))
    if not changes.code:  # other code may ask what nobody asked before
        must_be_known(changes.answers, asked, "wait", WAIT)
    begins = _cut(ordered, questions, cut)
    given = _first_given(ordered, questions, changes)
    planned = []
    tried: CheckpointCall | None = None
    for place, call in enumerate(ordered):
        action, reason = _fate(call, place, begins, changes)
        if action == "reuse":
            doubt = changes.doubt or _unless(given, call.started_at) or _unless_other(tried, call.started_at)
            action = "reuse_if_same" if doubt else action
            reason = "; ".join(part for part in (reason, doubt) if part)
        elif call.status == "failed" and action == "rerun" and begins.is_before(place, call.started_at):
            tried = min(tried or call, call, key=_ended)
        planned.append(PlannedCall(call.call_id, call.name, action, reason))
    new = [name for name in dict.fromkeys(changes.results) if name not in called]
    planned += [PlannedCall("", name, "override", "its result is given to each call of it") for name in new]
    answers = [_planned_wait(wait, begins, changes, given, tried) for wait in questions]
    if_asked = f"its answer is given, if {changes.code} asks it"
    answers += [PlannedWait("", name, "override", if_asked) for name in changes.answers if name not in asked]
    return ReplayPlan(tuple(planned), tuple(answers))


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


def _unless_other(tried: CheckpointCall | None, started: str) -> str:
    """``tried``: the first failed call before the cut that is run anew: what began after it may hang on its failure."""
    if tried is None or started < _ended(tried):
        return ""
    return f"if the body comes to it: {tried.name}, which failed before it, is run anew"


def _ended(call: CheckpointCall) -> str:
    return call.ended_at or call.started_at


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
    if call.status == "failed" and call.failure is not None:
        if call.call_id in changes.failing:
            return "rerun", "the execution failed by it"
        return ("reuse", "its failure is met again") if _ended(call) <= begins.at else ("rerun", "it failed after that")
    if call.status != "completed" or call.output is None:
        return "rerun", "it did not finish"
    return "reuse", ""


def _planned_wait(
    wait: Wait, begins: _Cut, changes: Changes, given: tuple[str, str], tried: CheckpointCall | None
) -> PlannedWait:
    if wait.name in changes.answers:
        return PlannedWait(wait.wait_id, wait.name, "override", "its answer is given")
    if wait is begins.wait:
        return PlannedWait(wait.wait_id, wait.name, "ask", "the replay begins here")
    if wait.value is None or wait.answered_at is None:
        return PlannedWait(wait.wait_id, wait.name, "ask", "nobody answered it")
    if wait.answered_at > begins.at:
        return PlannedWait(wait.wait_id, wait.name, "ask", "it was answered after that")
    doubt = f"if {changes.code} asks the same" if changes.code else "if the same is asked" if changes.inputs else ""
    changed = _unless(given, wait.opened_at) or _unless_other(tried, wait.opened_at)
    doubt = doubt or ("if the same is asked" if changed else "")
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
