"""Waits: a running flow records its question and polls for the answer, an idle runner leaves; answers of people.

The answer is an object of its own, which the first answer creates. Only the runner writes the journal.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Coroutine, Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kitaru.core.replay import AGAIN, place_of
from kitaru.errors import (
    KitaruConflictError,
    KitaruDivergenceError,
    KitaruIntegrityError,
    KitaruStateError,
    KitaruUsageError,
    KitaruWaitValidationError,
)
from kitaru.manifest.port import AnswerCheck
from kitaru.masking import mask_tree
from kitaru.model import address
from kitaru.model.address import canonical_json, timestamp
from kitaru.model.event import (
    AnswerRefused,
    AttemptFailed,
    Event,
    Failed,
    Started,
    Suspended,
    WaitAnswered,
    WaitOpened,
)
from kitaru.model.execution import Execution, Wait, digest_question, told_apart
from kitaru.run.cancel import record_cancelled
from kitaru.run.journal import Fenced, RunSuspended
from kitaru.store.log import claim, withdraw
from kitaru.store.port import Taken
from kitaru.values import stored
from kitaru.values.stored import encode

if TYPE_CHECKING:
    from kitaru.flows.waiting import Question
    from kitaru.run.executions import Executions
    from kitaru.run.state import RunState

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 2.0
"""Seconds between two looks for an answer, growing with each."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a wait: a JSON value, or the wish to end it all."""

    value: Any
    abort: bool
    by: str
    at: str


def read_answer(body: bytes, where: str) -> Answer:
    """The answer in an object of the store. ``KitaruIntegrityError`` for anything else."""
    try:
        content = json.loads(body)
        return Answer(content.get("value"), bool(content.get("abort")), str(content["by"]), str(content["at"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KitaruIntegrityError(f"{where} is no answer to a wait: {error}", hint="kitaru store verify") from error


def check_fits(wait: Wait, value: Any, check: AnswerCheck) -> None:
    """``KitaruWaitValidationError`` for an answer that doesn't fit the wait's schema."""
    try:
        canonical_json(value)
    except (TypeError, ValueError) as error:
        raise KitaruWaitValidationError(f"the answer to {wait.name!r} has no JSON form: {error}") from error
    wrong = check(wait.schema, value)
    if wrong:
        lines = "\n".join(f"  {text}" for text in wrong)
        raise KitaruWaitValidationError(
            f"the answer doesn't fit {wait.name!r}, which waits on:\n{lines}",
            hint=f"expected, as JSON Schema: {json.dumps(wait.schema)}",
        )


@dataclass(frozen=True, slots=True)
class RecordedWait:
    """The record of a wait that the body comes to, under the id ``wait``; empty if it was not asked before."""

    wait: str
    opened: WaitOpened | None = None
    answered: WaitAnswered | None = None


class WaitBook:
    """The record of an execution's waits, by their ids, and those that this run polls for.

    As for calls, an attempt after a failure takes each answer to the same question once, best at its own place.
    """

    def __init__(self, events: Sequence[Event]) -> None:
        self.opened: dict[str, WaitOpened] = {}
        """Questions that stand, with an answer or without one."""
        self.answered: dict[str, WaitAnswered] = {}
        self.polled: dict[str, float] = {}
        """Waits that are being polled → until when (on the monotonic clock) at least."""
        self.leaving = threading.RLock()
        """Held while it is decided that the run halts."""
        self._guard = threading.Lock()
        self._here: dict[str, str] = {}
        """Place → wait, of this attempt at the body."""
        self._earlier: list[str] = []
        """Answered waits of earlier attempts that this one has not come to yet."""
        self.withdrawn: dict[str, WaitOpened] = {}
        """Questions of earlier attempts that have no answer."""
        self._attempt = 1
        failed = False
        for event in events:
            if isinstance(event, WaitOpened):
                self.open(event)
            elif isinstance(event, WaitAnswered):
                self.answer(event)
            elif isinstance(event, (AttemptFailed, Failed)):
                failed = True
            elif isinstance(event, Started):
                if failed:
                    self.begin_again()
                failed = False
                self._attempt = event.attempt
        if failed:
            self.begin_again()

    @property
    def asks(self) -> bool:
        """Whether a question is open."""
        return len(self.opened) > len(self.answered)

    def begin_again(self) -> None:
        """The body begins once more: it asks again the questions that it still comes to."""
        self._attempt += 1
        self.polled, self._here = {}, {}
        self.withdrawn |= {wait: event for wait, event in self.opened.items() if wait not in self.answered}
        self._earlier = list(self.answered)
        self.opened = {wait: event for wait, event in self.opened.items() if wait in self.answered}

    def find(self, place: str, name: str, question: str | None, schema: dict[str, Any] | None) -> RecordedWait:
        """The record of the wait at that place. ``opened`` may be of another name: then the body diverged."""

        def is_same(opened: WaitOpened | None) -> bool:
            return opened is not None and (opened.name, opened.question, opened.schema) == (name, question, schema)

        with self._guard:
            wait = self._here.get(place)
            if wait is None:
                same = [wait for wait in self._earlier if is_same(self.opened.get(wait))]
                if same:
                    wait = min(same, key=lambda wait: place_of(wait) != place)
                    self._earlier.remove(wait)
            if wait is not None:
                return RecordedWait(wait, self.opened.get(wait), self.answered.get(wait))
        before = self.withdrawn.get(place) or self.opened.get(place)
        return RecordedWait(place if before is None or is_same(before) else f"{place}{AGAIN}{self._attempt}")

    def open(self, event: WaitOpened) -> None:
        """It is asked."""
        self.withdrawn.pop(event.wait, None)
        self.opened[event.wait] = event
        self._here[place_of(event.wait)] = event.wait

    def answer(self, event: WaitAnswered) -> None:
        """It is answered."""
        self.answered[event.wait] = event
        self.polled.pop(event.wait, None)


class Poll:
    """One wait of this run, from its question to its answer."""

    def __init__(self, run: RunState, wait: str, question: Question) -> None:
        self._run = run
        self._place = self._wait = wait
        self._question = question
        self._name = question.name or wait
        self._pause = FIRST_PAUSE
        self._refused: list[AnswerRefused] = []
        self.found: list[Any] = []
        """The answer, once it is there."""

    def open(self) -> None:
        """Take the recorded answer, or record the question. ``KitaruDivergenceError`` if another one is recorded."""
        run = self._run
        run.check()
        question = self._question
        text, metadata = mask_tree(question.text, run.mask), mask_tree(question.metadata, run.mask)
        known = run.waits.find(self._place, self._name, text, question.schema)
        opened, answered, self._wait = known.opened, known.answered, known.wait
        if opened is not None and opened.name != self._name:
            run.diverged = KitaruDivergenceError(
                f"flow {run.flow.name!r} no longer asks what execution {run.exec_id} recorded: "
                f"wait {self._wait} was {opened.name!r} then, and is {self._name!r} now",
                exec_id=run.exec_id,
                failure_origin="divergence",
                hint="Bring back the code and inputs that began it, or start a new execution.",
            )
            raise run.diverged
        if answered is not None:
            subject = f"the answer to {self._name!r}"
            recorded = stored.get(run.store, run.project, answered.value, subject=subject, home=run.home)
            self.found = [question.answer(recorded)]
            return
        asking = WaitOpened(
            at=run.now(),
            wait=self._wait,
            name=self._name,
            question=text,
            schema=question.schema,
            timeout=question.timeout,
            metadata=metadata,
        )
        if opened is None and self._take_over(asking):
            return
        if opened is None:
            run.journal.commit(asking, *self._refused)
            run.waits.open(asking)
        enough = float("inf") if question.timeout is None else time.monotonic() + question.timeout
        run.waits.polled[self._wait] = enough

    def _take_over(self, asking: WaitOpened) -> bool:
        """Whether the execution that this one replays has an answer to ``asking``; it is the answer here."""
        run, question = self._run, self._question
        asked = digest_question(asking.question, asking.schema, asking.metadata)
        for offered in run.offers.answers(self._place, self._name, asked):
            subject = f"the answer to {self._name!r}"
            try:
                value = stored.get(run.store, run.project, offered.value, subject=subject, home=run.home)
                if offered.given:
                    self._check_schema(value)
                found = question.answer(value)
            except KitaruWaitValidationError as error:
                # Other code asks for something else: then it is asked. What was given for it is spoken of.
                if offered.given:
                    self._refused.append(self._refusal(error, offered.by, offered.at))
                continue
            if not run.offers.take_answer(offered):
                continue
            opened = replace(asking, timeout=None)
            answered = WaitAnswered(at=run.now(), wait=self._wait, name=self._name, value=offered.value, by=offered.by)
            run.journal.buffer(opened)
            run.journal.buffer(answered)
            run.waits.open(opened)
            run.waits.answer(answered)
            self.found = [found]
            return True
        return False

    def _check_schema(self, value: Any) -> None:
        """``KitaruWaitValidationError`` if a value that was given for other code doesn't fit this wait."""
        check, question = self._run.check_answer, self._question
        wrong = check(question.schema, value) if check is not None and question.annotation is None else ()
        if wrong:
            raise KitaruWaitValidationError(f"the answer to {self._name} doesn't fit: {'; '.join(wrong)}")

    def look(self) -> None:
        """Look for the answer once. Raises ``Fenced`` for an abort, ``RunSuspended`` if the runner leaves."""
        run = self._run
        run.check()
        # Decided before the look: an answer that comes in between is then still seen.
        long_enough = self._all_idle()
        if not self._take() and long_enough:
            self._leave()

    @property
    def pause(self) -> float:
        """Seconds until the next look."""
        enough = self._run.waits.polled.get(self._wait, 0.0) - time.monotonic()
        pause, self._pause = self._pause, min(self._pause * 1.3, LONGEST_PAUSE)
        return min(pause, max(enough, FIRST_PAUSE))

    def _take(self) -> bool:
        run = self._run
        key = address.wait_answer(run.project, run.exec_id, self._wait)
        body = run.store.read(key)
        if body is None:
            return False
        answer = read_answer(body, key)
        if answer.abort:
            record_cancelled(run, run.exec_id, answer.by, wait=self._wait)
            run.halt(Fenced(f"{run.exec_id} was cancelled", cancelled_by=answer.by))
            run.check()
        try:
            value = self._question.answer(answer.value)
        except KitaruWaitValidationError as error:
            # The schema let it pass and the type does not: whoever answered is asked again.
            # Recorded first: who runs on after a crash between the two finds the answer, and says it again.
            run.journal.commit(self._refusal(error, answer.by, answer.at))
            print(f"{error.message}; it was put aside, and {self._name!r} waits on", file=sys.stderr)
            withdraw(run.store, key)
            return False
        encoded = encode(answer.value, subject=f"the answer to {self._name!r}", typed=False)
        stored.put(run.store, run.project, encoded)
        event = WaitAnswered(at=run.now(), wait=self._wait, name=self._name, value=encoded.value, by=answer.by)
        run.journal.commit(event)
        run.waits.answer(event)
        self.found = [value]
        return True

    def _refusal(self, error: KitaruWaitValidationError, by: str, answered: str) -> AnswerRefused:
        reason = mask_tree(error.message.partition(" doesn't fit: ")[2] or error.message, self._run.mask)
        at = self._run.now()
        return AnswerRefused(at=at, wait=self._wait, name=self._name, reason=reason, answered=answered, by=by)

    def _all_idle(self) -> bool:
        """Whether every wait was polled for long enough, and nothing else goes on."""
        run = self._run
        now = time.monotonic()
        waits = list(run.waits.polled.values())
        return (
            all(enough <= now for enough in waits)
            and not run.under_way
            and all(future.done() for future in list(run.futures))
        )

    def _leave(self) -> None:
        """Record that the runner leaves, unless an answer came meanwhile: a later answer resumes it."""
        run = self._run
        with run.waits.leaving:
            run.check()
            if not self._all_idle():
                return
            run.journal.commit(Suspended(at=run.now()))
            keys = [address.wait_answer(run.project, run.exec_id, wait) for wait in list(run.waits.polled)]
            if any(run.store.read(key) is not None for key in keys):
                # Who answered may have resumed it already: the next entry shows who goes on.
                return
            run.halt(RunSuspended())
        run.check()


class PendingAnswer:
    """The value of ``wait()`` in an async flow: ``await`` it for the answer."""

    def __init__(self, answer: Coroutine[Any, Any, Any]) -> None:
        self._answer = answer

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer.__await__()

    def __bool__(self) -> bool:
        self._answer.close()
        raise KitaruUsageError("wait() in an async flow must be awaited", hint="Write: answer = await wait(...)")


def until_answered(run: RunState, poll: Poll) -> Any:
    """The answer, for which this thread waits."""
    poll.open()
    while not poll.found:
        poll.look()
        if not poll.found:
            run.sleep(poll.pause)
    return poll.found[0]


# --- answers ----------------------------------------------------------------------------------------------------------


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
        exec_id, ended = execution.exec_id, execution.ended
        named = [wait for wait in execution.waits if name is None or name in (wait.wait_id, wait.name)]
        waits = self.pending(execution)
        fitting = [wait for wait in waits if wait in named]
        if len(fitting) == 1:
            return fitting[0]
        if len(fitting) > 1:
            raise KitaruUsageError(
                f"{exec_id} waits for {len(fitting)} answers: {_listed(fitting)}",
                hint=f"kitaru executions input {exec_id} --wait {told_apart(fitting[0], waits)} --value JSON",
            )
        before = [] if ended else named if name is not None else list(execution.open_waits)
        if before:
            raise self._answered_before(execution, before[0])
        if waits:
            raise KitaruUsageError(
                f"{exec_id} has no wait {name!r}; it waits for: {_listed(waits)}", hint="--wait NAME"
            )
        raise self._too_late(execution, name, named)

    def give(self, execution: Execution, wait: Wait, value: Any) -> None:
        """Leave ``value`` for the runner, once it fits: ``KitaruWaitValidationError``."""
        check_fits(wait, value, self._check)
        self._leave(execution, wait, {"value": value})

    def decline(self, execution: Execution, wait: Wait) -> None:
        """Refuse to answer: the execution is cancelled. Its runner records that, should this process end before."""
        self._leave(execution, wait, {"abort": True})
        record_cancelled(self._executions, execution.exec_id, self._actor, wait=wait.wait_id)

    def _names(self, execution: Execution) -> set[str]:
        return set(self._store.names(address.wait_answers(execution.project, execution.exec_id)))

    def _leave(self, execution: Execution, wait: Wait, content: dict[str, Any]) -> None:
        clock = self._executions.clock
        whole = {**content, "by": self._actor, "at": timestamp(clock.now()), "write": clock.token(26)}
        if isinstance(claim(self._store, _key(execution, wait), canonical_json(whole)), Taken):
            raise self._answered_before(execution, wait)

    def _too_late(self, execution: Execution, name: str | None, named: list[Wait]) -> KitaruStateError:
        """Nothing waits any more; the answers that counted, if there are any."""
        exec_id = execution.exec_id
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
