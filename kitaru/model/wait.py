"""A question that an execution asked, and the answer that came from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from kitaru.model.address import canonical_json, digest
from kitaru.model.record import record
from kitaru.model.recorded import Record, Value

WaitStatus = Literal["open", "answered", "aborted", "cancelled"]
"""``cancelled``: the execution was cancelled, or the attempt at the body failed that asked, before anybody answered."""


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
    last. ``superseded``: an earlier attempt at the body asked it, and the last one took a way without it.
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
    superseded: bool | None = None


def digest_question(question: str | None, schema: Mapping[str, Any] | None, metadata: Mapping[str, Any] | None) -> str:
    """What tells one question from another, whatever their names: 64 hexadecimal digits. All of it as recorded."""
    return digest(canonical_json({"question": question, "schema": schema, "metadata": metadata}))


def told_apart(wait: Wait, among: Sequence[Wait]) -> str:
    """What names this one alone of ``among``: its name, or its id where another one has that name."""
    others = {name for one in among if one.wait_id != wait.wait_id for name in (one.name, one.wait_id)}
    return wait.wait_id if wait.name in others else wait.name
