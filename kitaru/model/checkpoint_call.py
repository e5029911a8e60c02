"""A durable call of an execution as people see it, and its attempts."""

from __future__ import annotations

from dataclasses import field
from typing import Any, Literal

from kitaru.model.record import record
from kitaru.model.recorded import Failure, Record, Value

CheckpointStatus = Literal["running", "completed", "failed", "cancelled"]
"""``cancelled``: stopped by the flow, or under way when the execution was cancelled or failed for another reason."""


@record()
class Attempt(Record):
    """One try, of a checkpoint call or of the flow body.

    ``ended_at`` is None while it runs, or where its process died and nobody went on yet; afterwards such an attempt has
    failed with ``RunnerLost``, at its runner's last sign of life.
    """

    number: int
    status: CheckpointStatus
    started_at: str
    ended_at: str | None = None
    failure: Failure | None = None


@record(kw_only=True)
class CheckpointCall(Record):
    """One durable call. ``call_id`` is its place in the flow body: ``3``, or ``1.2/3`` in a concurrent branch; ``3@2``
    where the second attempt at the body made another call there than the first.

    ``given_by``: who gave its result by hand, in a replay; ``original_call_id`` is then the call it stands in for.
    ``superseded``: an earlier attempt at the body made it, and the last one took a way without it.
    """

    call_id: str
    name: str
    status: CheckpointStatus
    started_at: str
    ended_at: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    original_call_id: str | None = None
    cached_from: str | None = None
    cache_key: str | None = None
    given_by: str | None = None
    parent_call_ids: tuple[str, ...] = ()
    failure: Failure | None = None
    attempts: tuple[Attempt, ...] = ()
    artifacts: tuple[str, ...] = ()
    input_digest: str | None = None
    args: Any = None
    output: Value | None = None
    superseded: bool | None = None
