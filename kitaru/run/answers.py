"""Answers to the waits of executions."""

from __future__ import annotations

import json
from typing import Any

from kitaru import wiring
from kitaru.client.session import Session
from kitaru.errors import (
    KitaruConflictError,
    KitaruStateError,
    KitaruUsageError,
    KitaruWaitValidationError,
)
from kitaru.model import address
from kitaru.model.address import canonical_json, timestamp
from kitaru.model.execution import Execution, Wait, told_apart
from kitaru.run.cancel import record_cancelled
from kitaru.run.waits import read_answer
from kitaru.store.log import claim
from kitaru.store.port import Taken


def pending(session: Session, execution: Execution) -> list[Wait]:
    """The waits that nobody has answered yet, in the order in which they were opened."""
    opened = [] if execution.ended else list(execution.open_waits)
    if not opened:
        return []
    names = set(session.store.names(address.wait_answers(session.project, execution.exec_id)))
    return [wait for wait in opened if _key(session, execution, wait).rpartition("/")[2] not in names]


def all_answered(session: Session, execution: Execution) -> bool:
    """Whether it waits, and every question has an answer already: nobody has gone on with it. One listing, and a few
    reads where there is an answer.
    """
    if execution.status != "waiting":
        return False
    if not session.store.names(address.wait_answers(session.project, execution.exec_id)):
        return False
    whole = session.executions.get(execution.exec_id)  # a list's summary has no waits
    return whole.status == "waiting" and not pending(session, whole)


def chosen(session: Session, execution: Execution, name: str | None) -> Wait:
    """The wait of that name or id; without one, the only pending one.

    ``KitaruStateError`` where nothing waits, ``KitaruUsageError`` where the choice is not clear, and
    ``KitaruConflictError`` where somebody answered already.
    """
    exec_id = execution.exec_id
    if execution.ended:
        raise _too_late(session, execution, name)
    waits = pending(session, execution)
    if name is None:
        if len(waits) == 1:
            return waits[0]
        found = waits
    else:
        found = [wait for wait in waits if name in (wait.wait_id, wait.name)]
        if len(found) == 1:
            return found[0]
        for wait in () if found else execution.waits:
            if name in (wait.wait_id, wait.name):
                raise _asked_no_more(execution, wait) or _answered_before(session, execution, wait)
    if not waits:
        for wait in execution.open_waits:
            raise _answered_before(session, execution, wait)
        raise _too_late(session, execution, name)
    if name is not None and not found:
        raise KitaruUsageError(f"{exec_id} has no wait {name!r}; it waits for: {_listed(waits)}", hint="--wait NAME")
    raise KitaruUsageError(
        f"{exec_id} waits for {len(found)} answers: {_listed(found)}",
        hint=f"kitaru executions input {exec_id} --wait {told_apart(found[0], waits)} --value JSON",
    )


def answer(session: Session, execution: Execution, wait: Wait, value: Any) -> None:
    """Leave ``value`` for the runner, once it fits the wait's schema: ``KitaruWaitValidationError``."""
    check_fits(wait, value)
    _leave(session, execution, wait, {"value": value})


def check_fits(wait: Wait, value: Any) -> None:
    """``KitaruWaitValidationError`` for an answer that doesn't fit the wait's schema."""
    try:
        canonical_json(value)
    except (TypeError, ValueError) as error:
        raise KitaruWaitValidationError(f"the answer to {wait.name!r} has no JSON form: {error}") from error
    wrong = wiring.check_answer(wait.schema, value)
    if wrong:
        lines = "\n".join(f"  {text}" for text in wrong)
        raise KitaruWaitValidationError(
            f"the answer doesn't fit {wait.name!r}, which waits on:\n{lines}",
            hint=f"expected, as JSON Schema: {json.dumps(wait.schema)}",
        )


def abort(session: Session, execution: Execution, wait: Wait) -> None:
    """Decline to answer: the execution is cancelled, by its runner, or here where there is none."""
    _leave(session, execution, wait, {"abort": True})
    current = session.executions.get(execution.exec_id)
    if not session.executions.held(current):
        record_cancelled(
            session.store, session.clock, session.project, execution.exec_id, session.actor, wait=wait.wait_id
        )


def _leave(session: Session, execution: Execution, wait: Wait, content: dict[str, Any]) -> None:
    clock = session.clock
    whole = {**content, "by": session.actor, "at": timestamp(clock.now()), "write": clock.token(26)}
    outcome = claim(session.store, _key(session, execution, wait), canonical_json(whole))
    if isinstance(outcome, Taken):
        raise _answered_before(session, execution, wait)


def _asked_no_more(execution: Execution, wait: Wait) -> KitaruStateError | None:
    """Where the flow asked it in an attempt that failed, and has not come to it again."""
    if wait.status != "cancelled":
        return None
    return KitaruStateError(
        f"{wait.name!r} of {execution.exec_id} is not asked any more: the attempt at the flow failed that asked it",
        hint=f"kitaru executions get {execution.exec_id}",
    )


def _too_late(session: Session, execution: Execution, name: str | None) -> KitaruStateError:
    """Nothing waits any more: whose answer counted, where there was one."""
    exec_id = execution.exec_id
    answered = [wait for wait in execution.waits if wait.status in ("answered", "aborted")]
    meant = [wait for wait in answered if name is None or name in (wait.wait_id, wait.name)]
    if len(meant) == 1:
        return _answered_before(session, execution, meant[0])
    nothing = f"{exec_id} is {execution.status}: it waits for nothing"
    if not meant:
        if name is not None and name not in {one for wait in execution.waits for one in (wait.wait_id, wait.name)}:
            nothing += f", and never asked {name!r}"
        return KitaruStateError(nothing, hint=f"kitaru executions get {exec_id}")
    said = "".join(f"\n  {_answer_words(session, execution, wait)}" for wait in meant)
    return KitaruConflictError(f"{nothing} any more{said}", hint=f"kitaru executions get {exec_id}")


def _answered_before(session: Session, execution: Execution, wait: Wait) -> KitaruConflictError:
    ended = f"; that is {execution.status}" if execution.ended else ""
    return KitaruConflictError(
        _answer_words(session, execution, wait, f" of {execution.exec_id}") + ended,
        hint=f"kitaru executions get {execution.exec_id}",
    )


def _answer_words(session: Session, execution: Execution, wait: Wait, of: str = "") -> str:
    """Who answered the wait, or declined to, and when."""
    key = _key(session, execution, wait)
    body = session.store.read(key)
    who, when, how = wait.by or "somebody", wait.answered_at, "declined" if wait.status == "aborted" else "answered"
    if body is not None:
        found = read_answer(body, key)
        who, when, how = found.by or who, found.at, "declined" if found.abort else "answered"
    return f"{wait.name!r}{of} was {how} by {who}" + (f" at {when}" if when else "")


def _key(session: Session, execution: Execution, wait: Wait) -> str:
    return address.wait_answer(session.project, execution.exec_id, wait.wait_id)


def _listed(waits: list[Wait]) -> str:
    names = ((wait, told_apart(wait, waits)) for wait in waits)
    return ", ".join(name if name == wait.name else f"{name} ({wait.name})" for wait, name in names)
