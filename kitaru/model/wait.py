"""A question that an execution asked, and the answer that came from outside."""

from __future__ import annotations

from typing import Any, Literal

from kitaru.model.record import record
from kitaru.model.recorded import Record, Value

WaitStatus = Literal["open", "answered", "aborted", "cancelled"]
"""``cancelled``: the execution was cancelled before anybody answered."""


@record(kw_only=True)
class RefusedAnswer(Record):
    """An answer that was put aside, as it didn't fit: who gave it and when, and why it did not do."""

    by: str
    answered_at: str
    refused_at: str
    reason: str


@record(kw_only=True)
class Wait(Record):
    """One wait of an execution. ``wait_id`` is its place in the flow body: ``w1``, or ``2/w1`` in a branch.

    ``schema`` is a JSON Schema of the answer, None where any JSON will do. ``timeout``: for how many seconds the
    runner polls before it leaves; the wait itself never expires. ``refused``: answers that were put aside, the newest
    last.
    """

    wait_id: str
    name: str
    status: WaitStatus
    opened_at: str
    question: str | None = None
    schema: dict[str, Any] | None = None
    timeout: float | None = None
    metadata: dict[str, Any] | None = None
    answered_at: str | None = None
    by: str | None = None
    value: Value | None = None
    refused: tuple[RefusedAnswer, ...] = ()
