"""Answers to the waits of executions: which wait is meant, whether a value fits, and leaving it for the runner."""

from __future__ import annotations

from typing import Any

from kitaru.errors import KitaruConflictError, KitaruStateError, KitaruUsageError
from kitaru.manifest.port import AnswerCheck
from kitaru.model import address
from kitaru.model.address import canonical_json, timestamp
from kitaru.model.execution import Execution, Wait, told_apart
from kitaru.run.cancel import record_cancelled
from kitaru.run.executions import Executions
from kitaru.run.waits import check_fits, read_answer
from kitaru.store.log import claim
from kitaru.store.port import Taken


class Answers:
    """Answers of one person to the executions of one project."""

    def __init__(self, executions: Executions, actor: str, check: AnswerCheck) -> None:
        self._executions = executions
        self._store = executions.store
        self._actor = actor
        self._check = check

    def pending(self, execution: Execution) -> list[Wait]:
        """The waits without an answer, in the order in which they were opened."""
        opened = [] if execution.ended else list(execution.open_waits)
        names = self._names(execution) if opened else set()
        return [wait for wait in opened if _key(execution, wait).rpartition("/")[2] not in names]

    def all_answered(self, execution: Execution) -> bool:
        """Whether it waits though every question has an answer: it is to be resumed.

        One listing, and a few reads if there is an answer.
        """
        if execution.status != "waiting" or not self._names(execution):
            return False
        whole = self._executions.get(execution.exec_id)  # a list's summary has no waits
        return whole.status == "waiting" and not self.pending(whole)

    def choose(self, execution: Execution, name: str | None) -> Wait:
        """The wait of that name or id (``approve``, ``w1``); without one, the only pending one.

        ``KitaruStateError`` if nothing waits, ``KitaruUsageError`` if the choice is not clear, ``KitaruConflictError``
        if it was answered before.
        """
        exec_id = execution.exec_id
        if execution.ended:
            raise self._too_late(execution, name)
        waits = self.pending(execution)
        fitting = waits if name is None else [wait for wait in waits if name in (wait.wait_id, wait.name)]
        if len(fitting) == 1:
            return fitting[0]
        if not fitting:
            answered = execution.open_waits if name is None else execution.waits
            for wait in answered:
                if name is None or name in (wait.wait_id, wait.name):
                    raise self._answered_before(execution, wait)
        if not waits:
            raise self._too_late(execution, name)
        if not fitting:
            raise KitaruUsageError(
                f"{exec_id} has no wait {name!r}; it waits for: {_listed(waits)}", hint="--wait NAME"
            )
        raise KitaruUsageError(
            f"{exec_id} waits for {len(fitting)} answers: {_listed(fitting)}",
            hint=f"kitaru executions input {exec_id} --wait {told_apart(fitting[0], waits)} --value JSON",
        )

    def give(self, execution: Execution, wait: Wait, value: Any) -> None:
        """Leave ``value`` for the runner, once it fits: ``KitaruWaitValidationError``."""
        check_fits(wait, value, self._check)
        self._leave(execution, wait, {"value": value})

    def decline(self, execution: Execution, wait: Wait) -> None:
        """Refuse to answer: the execution is cancelled, by its runner, or here if it has none."""
        self._leave(execution, wait, {"abort": True})
        if not self._executions.held(self._executions.get(execution.exec_id)):
            record_cancelled(
                self._store,
                self._executions.clock,
                execution.project,
                execution.exec_id,
                self._actor,
                wait=wait.wait_id,
            )

    def _names(self, execution: Execution) -> set[str]:
        return set(self._store.names(address.wait_answers(execution.project, execution.exec_id)))

    def _leave(self, execution: Execution, wait: Wait, content: dict[str, Any]) -> None:
        clock = self._executions.clock
        whole = {**content, "by": self._actor, "at": timestamp(clock.now()), "write": clock.token(26)}
        outcome = claim(self._store, _key(execution, wait), canonical_json(whole))
        if isinstance(outcome, Taken):
            raise self._answered_before(execution, wait)

    def _too_late(self, execution: Execution, name: str | None) -> KitaruStateError:
        """Nothing waits any more; the answers that counted, if there are any."""
        exec_id = execution.exec_id
        named = [wait for wait in execution.waits if name is None or name in (wait.wait_id, wait.name)]
        answered = [wait for wait in named if wait.status in ("answered", "aborted")]
        if len(answered) == 1:
            return self._answered_before(execution, answered[0])
        nothing = f"{exec_id} is {execution.status}: it waits for nothing"
        if answered:
            lines = "".join(f"\n  {self._answer_words(execution, wait)}" for wait in answered)
            return KitaruConflictError(f"{nothing} any more{lines}", hint=f"kitaru executions get {exec_id}")
        if name is not None and not named:
            nothing += f", and never asked {name!r}"
        return KitaruStateError(nothing, hint=f"kitaru executions get {exec_id}")

    def _answered_before(self, execution: Execution, wait: Wait) -> KitaruStateError:
        hint = f"kitaru executions get {execution.exec_id}"
        if wait.status == "cancelled":
            return KitaruStateError(
                f"{wait.name!r} of {execution.exec_id} is not asked any more: that attempt at the flow failed",
                hint=hint,
            )
        ended = f"; that is {execution.status}" if execution.ended else ""
        return KitaruConflictError(self._answer_words(execution, wait, f" of {execution.exec_id}") + ended, hint=hint)

    def _answer_words(self, execution: Execution, wait: Wait, of: str = "") -> str:
        """The person that answered the wait, or declined to, and the time."""
        key = _key(execution, wait)
        body = self._store.read(key)
        by, when, verb = wait.by or "somebody", wait.answered_at, "declined" if wait.status == "aborted" else "answered"
        if body is not None:
            answer = read_answer(body, key)
            by, when, verb = answer.by or by, answer.at, "declined" if answer.abort else "answered"
        return f"{wait.name!r}{of} was {verb} by {by}" + (f" at {when}" if when else "")


def _key(execution: Execution, wait: Wait) -> str:
    return address.wait_answer(execution.project, execution.exec_id, wait.wait_id)


def _listed(waits: list[Wait]) -> str:
    names = ((wait, told_apart(wait, waits)) for wait in waits)
    return ", ".join(name if name == wait.name else f"{name} ({wait.name})" for wait, name in names)
