"""What happens to waits: the events of questions and answers."""

from __future__ import annotations

from typing import Any, Literal

from kitaru.model.jsonable import Event, Value, record


@record(kw_only=True)
class WaitOpened(Event):
    """The flow asked a question. ``wait`` is its place in the body: ``w1``, or ``2/w1`` in a concurrent branch.

    ``schema`` is the JSON Schema of an answer; ``timeout``, in seconds, bounds only how long the runner polls.
    """

    kind: Literal["waiting_for"] = "waiting_for"
    at: str
    wait: str
    name: str
    question: str | None = None
    schema: dict[str, Any] | None = None
    timeout: float | None = None
    metadata: dict[str, Any] | None = None


@record(kw_only=True)
class WaitAnswered(Event):
    """The answer to a wait, for ever."""

    kind: Literal["wait_answered"] = "wait_answered"
    at: str
    wait: str
    name: str
    value: Value
    by: str = ""


@record(kw_only=True)
class AnswerRefused(Event):
    """An answer fitted the wait's JSON Schema and not its type: it was put aside, and the wait goes on.

    ``answered``: when ``by`` gave it. ``reason`` is for people.
    """

    kind: Literal["answer_refused"] = "answer_refused"
    at: str
    wait: str
    name: str
    reason: str
    answered: str
    by: str = ""


@record(kw_only=True)
class AnswerOffered(Event):
    """An answer that a replay may take over: to the wait ``wait`` of the replayed execution. ``given``: by whoever
    replays, and then for every wait of that name. ``asked``: the digest of what was asked, see ``digest_question``;
    where it is None, the answer is to whatever that wait asks.
    """

    kind: Literal["answer_offered"] = "answer_offered"
    at: str
    wait: str
    name: str
    value: Value
    by: str = ""
    given: bool = False
    asked: str | None = None


@record(kw_only=True)
class WaitAborted(Event):
    """Somebody declined to answer; the execution is cancelled."""

    kind: Literal["wait_aborted"] = "wait_aborted"
    at: str
    wait: str
    by: str = ""
