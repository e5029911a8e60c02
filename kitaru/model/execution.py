"""An execution, its calls, waits and artifacts; the fold of events that tells of it; the plan of a replay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, replace
from typing import Any, Final, Literal, get_args

from kitaru.errors import KitaruIntegrityError
from kitaru.model.address import canonical_json, digest
from kitaru.model.event import (
    AnswerOffered,
    AnswerRefused,
    ArtifactSaved,
    AttemptFailed,
    Cancelled,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointLost,
    CheckpointOffered,
    CheckpointStarted,
    Completed,
    Event,
    ExecutionOptions,
    Failed,
    Failure,
    Handle,
    MetadataLogged,
    Opened,
    SourcePlace,
    Started,
    Suspended,
    Value,
    WaitAborted,
    WaitAnswered,
    WaitOpened,
)
from kitaru.model.jsonable import Record, record


@record()
class LogLine(Record):
    """``stream`` is ``stdout``, ``stderr`` or ``log``; ``level`` a logging level's name, for ``log`` only.

    ``checkpoint``, ``call`` and ``attempt`` name the call that printed it; absent for the flow body.
    """

    at: str
    stream: str
    text: str
    level: str | None = None
    checkpoint: str | None = None
    call: str | None = None
    attempt: int | None = None


WaitStatus = Literal["open", "answered", "aborted", "cancelled"]
"""``cancelled``: the execution was cancelled, or the attempt at the body failed that asked, before anybody answered."""


@record(kw_only=True)
class RefusedAnswer(Record):
    """An answer that was put aside, as it didn't fit: its author and time, and the reason."""

    by: str
    answered_at: str
    refused_at: str
    reason: str


@record(kw_only=True)
class Wait(Record):
    """One wait of an execution. ``wait_id`` is its place in the flow body: ``w1``, or ``2/w1`` in a branch.

    ``schema`` is a JSON Schema of the answer, None if any JSON will do. ``timeout``: for how many seconds the
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


def digest_question(question: str | None, schema: Mapping[str, Any] | None, metadata: Mapping[str, Any] | None) -> str:
    """The digest of a question, its name aside, as it is recorded: 64 hexadecimal digits."""
    return digest(canonical_json({"question": question, "schema": schema, "metadata": metadata}))


def told_apart(wait: Wait, among: Sequence[Wait]) -> str:
    """The name of this wait, or its id if another one of ``among`` has that name."""
    others = {name for one in among if one.wait_id != wait.wait_id for name in (one.name, one.wait_id)}
    return wait.wait_id if wait.name in others else wait.name


FLOW = "flow"
"""Stands in an artifact's id in place of the call: it was saved in the flow body."""


@record(kw_only=True)
class Artifact(Record):
    """A named value of an execution. ``call`` is the checkpoint call that saved it, None for the flow body.

    ``kind`` is the author's word for it: ``output`` by default.
    """

    artifact_id: str
    exec_id: str
    name: str
    kind: str
    created_at: str
    value: Value
    call: str | None = None
    checkpoint: str | None = None
    tags: list[str] = field(default_factory=list)


def artifact_id(exec_id: str, call: str | None, name: str) -> str:
    """``ex-…:3:report``; ``ex-…:flow:report`` if the flow body saved it. A name may hold colons, the rest can't."""
    return f"{exec_id}:{call or FLOW}:{name}"


def split_artifact_id(text: str) -> tuple[str, str | None, str] | None:
    """Execution, call and name; None for any other text."""
    parts = text.split(":", 2)
    if len(parts) != 3 or not all(parts):
        return None
    exec_id, call, name = parts
    return exec_id, None if call == FLOW else call, name


def merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """``old`` with ``new`` over it: objects merge, key by key and at every depth; everything else is replaced.

    Shares no object with either that a later merge would change.
    """
    merged = dict(old)
    for key, value in new.items():
        before = merged.get(key)
        if isinstance(value, Mapping):
            merged[key] = merge(before if isinstance(before, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


CheckpointStatus = Literal["running", "completed", "failed", "cancelled"]
"""``cancelled``: stopped by the flow, or under way when the execution was cancelled or failed for another reason."""


@record()
class Attempt(Record):
    """One try, of a checkpoint call or of the flow body.

    ``ended_at`` is None while it runs, or if its process died and no other went on yet; afterwards such an attempt has
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
    if the second attempt at the body made another call there than the first.

    ``given_by``: the person that gave its result, in a replay; ``original_call_id`` is then the call it stands in for.
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


ExecutionStatus = Literal["pending", "running", "waiting", "completed", "failed", "cancelled", "lost"]
"""The fold never says ``lost``: that is for readers that look for the runner of a running execution, and miss it."""

STATUSES: tuple[ExecutionStatus, ...] = get_args(ExecutionStatus)

ENDED: frozenset[str] = frozenset({"completed", "failed", "cancelled"})


@record(kw_only=True)
class Execution(Record):
    """One run of one snapshot.

    Times are RFC 3339 in UTC; ``stack_name``, ``tag`` and so on are as they were when it was opened.
    ``unused_overrides``, of a replay that has ended: the given results and answers (``checkpoint.NAME``,
    ``wait.NAME``) that were never asked for.
    """

    exec_id: str
    project: str
    flow_name: str
    status: ExecutionStatus
    created_at: str
    started_at: str | None = None
    ended_at: str | None = None
    stack_name: str
    target: str
    origin: Literal["invoke", "run"]
    version: int | None = None
    tag: str | None = None
    snapshot: str | None = None
    commit: str | None = None
    actor: str | None = None
    idempotency_key: str | None = None
    original_exec_id: str | None = None
    source: SourcePlace | None = None
    opener: Handle | None = None
    draw: dict[str, Any] | None = None
    options: ExecutionOptions
    runner: Handle | None = None
    runner_since: str | None = None
    suspended_at: str | None = None
    cancelled_by: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    failure: Failure | None = None
    inputs: Value
    output: Value | None = None
    attempts: tuple[Attempt, ...] = ()
    checkpoints: tuple[CheckpointCall, ...] = ()
    waits: tuple[Wait, ...] = ()
    artifacts: tuple[str, ...] = ()
    unused_overrides: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        version = f" v{self.version}" if self.version is not None else ""
        return f"<Execution {self.exec_id} of {self.flow_name}{version}: {self.status}>"

    @property
    def ended(self) -> bool:
        """Whether a terminal event was recorded."""
        return self.status in ENDED

    @property
    def open_waits(self) -> tuple[Wait, ...]:
        """The waits that have no recorded answer, in the order in which they were opened."""
        return tuple(wait for wait in self.waits if wait.status == "open")

    def summary(self) -> dict[str, Any]:
        """The row of a list, as JSON: all but the checkpoints, waits, attempts and artifacts."""
        written = self.to_json()
        for key in ("checkpoints", "attempts", "artifacts", "waits"):
            del written[key]
        return written


Action = Literal["reuse", "reuse_if_same", "override", "rerun", "incompatible"]
"""``reuse``: its result, or the failure that the body went on from, is taken over. ``reuse_if_same``: that too, if
the body makes the call with the recorded inputs; else it runs anew. ``override``: its result is given. ``rerun``: it
runs anew. ``incompatible``: the code to run has no such checkpoint.
"""

WaitAction = Literal["reuse", "reuse_if_same", "override", "ask"]
"""``ask``: the question is asked again. The others as for calls."""

REUSED: Final = ("reuse", "reuse_if_same")


@record()
class PlannedCall(Record):
    """One recorded call. ``call_id`` is empty for a given result of a checkpoint that was not called."""

    call_id: str
    name: str
    action: Action
    reason: str = ""


@record()
class PlannedWait(Record):
    """One recorded question. ``wait_id`` is empty for a given answer to one that was not asked."""

    wait_id: str
    name: str
    action: WaitAction
    reason: str = ""


@record()
class ReplayPlan(Record):
    """The recorded calls and waits, each in the order in which they began."""

    calls: tuple[PlannedCall, ...]
    waits: tuple[PlannedWait, ...]


_OPENED = sorted({*Opened._names} & {*Execution._names})
"""Fields that an execution has from the event that opened it, under the same names."""


def fold(events: Iterable[Event]) -> Execution:
    """The execution that ``events`` tell of; the first one is ``Opened``, and unknown kinds change nothing.

    ``KitaruIntegrityError`` if it was never opened.
    """
    return Fold(events).execution()


class Fold:
    """The fold of events, and the notes in them.

    Notes come before, between or after the events of their call, None standing for the flow body, and stay even if the
    call fails.
    """

    def __init__(self, events: Iterable[Event]) -> None:
        self._opened: Opened | None = None
        self._fields: dict[str, Any] = {"status": "pending"}
        self._attempts: dict[int, Attempt] = {}
        self._calls: dict[str, dict[str, Any]] = {}
        self._tries: dict[str, dict[int, Attempt]] = {}
        self._waits: dict[str, Wait] = {}
        self._given: dict[str, str] = {}
        self._metadata: dict[str | None, dict[str, Any]] = {}
        self._artifacts: dict[tuple[str | None, str], ArtifactSaved] = {}
        for event in events:
            step: Callable[[Event], None] | None = getattr(self, f"_on_{event.kind}", None)
            if step is not None:
                step(event)

    def execution(self) -> Execution:
        """The execution. ``KitaruIntegrityError`` if it was never opened."""
        opened, status = self._opened, self._fields["status"]
        if opened is None:
            raise KitaruIntegrityError("The journal does not begin with the event that opens an execution.")
        saved: dict[str | None, tuple[str, ...]] = {}
        for call, name in self._artifacts:
            saved[call] = (*saved.get(call, ()), artifact_id(opened.exec_id, call, name))
        if status == "running" and any(wait.status == "open" for wait in self._waits.values()):
            status = "waiting"
        return Execution(
            **{name: getattr(opened, name) for name in _OPENED},
            flow_name=opened.flow,
            created_at=opened.at,
            stack_name=opened.stack,
            attempts=tuple(self._attempts.values()),
            checkpoints=tuple(
                [
                    CheckpointCall(
                        **fields,
                        attempts=tuple(self._tries[call].values()),
                        metadata=self._metadata.get(call, {}),
                        artifacts=saved.get(call, ()),
                    )
                    for call, fields in self._calls.items()
                ]
            ),
            waits=tuple(self._waits.values()),
            metadata=self._metadata.get(None, {}),
            artifacts=saved.get(None, ()),
            unused_overrides=list(self._given) if status in ENDED else [],
            **{**self._fields, "status": status},
        )

    def artifacts(self, exec_id: str) -> list[Artifact]:
        """All artifacts, oldest first; the newest of a name in one call is the one that counts."""
        return [
            Artifact(
                artifact_id=artifact_id(exec_id, event.call, event.name),
                exec_id=exec_id,
                name=event.name,
                kind=event.type,
                created_at=event.at,
                value=event.value,
                call=event.call,
                checkpoint=self._calls[event.call]["name"] if event.call in self._calls else None,
                tags=event.tags,
            )
            for event in self._artifacts.values()
        ]

    # --- the flow ---

    def _on_opened(self, event: Opened) -> None:
        self._opened = self._opened or event

    def _on_started(self, event: Started) -> None:
        self._fields.setdefault("started_at", event.at)
        self._fields.update(status="running", runner=event.runner, ended_at=None, failure=None)
        self._fields.update(runner_since=event.at, suspended_at=None)
        if event.attempt not in self._attempts:
            self._attempts[event.attempt] = Attempt(event.attempt, "running", event.at)
            self._close_waits()  # those of the attempt before; the body asks again what it still needs

    def _on_attempt_failed(self, event: AttemptFailed) -> None:
        self._end_attempt(event.attempt, "failed", event.at, event.error)
        self._stop_calls(event.at)

    def _on_completed(self, event: Completed) -> None:
        self._fields.update(status="completed", ended_at=event.at, output=event.output, failure=None)
        self._end_attempt(max(self._attempts, default=0), "completed", event.at)

    def _on_failed(self, event: Failed) -> None:
        self._fields.update(status="failed", ended_at=event.at, failure=event.error)
        self._end_attempt(max(self._attempts, default=0), "failed", event.at, event.error)
        self._stop_calls(event.at)

    def _on_cancelled(self, event: Cancelled) -> None:
        self._fields.update(status="cancelled", ended_at=event.at, cancelled_by=event.by or None)
        last = max(self._attempts, default=0)
        if last and self._attempts[last].status == "running":
            self._end_attempt(last, "cancelled", event.at)
        self._stop_calls(event.at)
        self._close_waits()

    def _on_suspended(self, event: Suspended) -> None:
        self._fields["suspended_at"] = event.at

    def _end_attempt(self, number: int, status: CheckpointStatus, at: str, failure: Failure | None = None) -> None:
        if number:
            begun = self._attempts.get(number)
            self._attempts[number] = Attempt(number, status, begun.started_at if begun else at, at, failure)

    def _stop_calls(self, at: str) -> None:
        """The attempt at the body has ended: calls under way go no further."""
        for key, call in self._calls.items():
            if call["status"] == "running":
                call.update(status="cancelled", ended_at=at)
                tries = self._tries[key]
                last = tries[max(tries)]
                if last.status == "running":
                    tries[last.number] = replace(last, status="cancelled", ended_at=at)

    def _close_waits(self) -> None:
        for key, wait in self._waits.items():
            if wait.status == "open":
                self._waits[key] = replace(wait, status="cancelled")

    # --- its calls ---

    def _call(self, key: str, name: str, started: str, attempt: Attempt) -> dict[str, Any]:
        """The fields of a call, of which ``attempt`` is the newest state of an attempt."""
        call = self._calls.get(key)
        if call is None:
            call = self._calls[key] = {"call_id": key, "name": name, "status": "running", "started_at": started}
            self._tries[key] = {}
        elif call["status"] != "completed" or call.get("original_call_id"):
            call.update(name=name, status="running", ended_at=None, failure=None)
        self._tries[key][attempt.number] = attempt
        return call

    def _on_checkpoint_started(self, event: CheckpointStarted) -> None:
        self._call(event.call, event.name, event.at, Attempt(event.attempt, "running", event.at))

    def _on_checkpoint_completed(self, event: CheckpointCompleted) -> None:
        attempt = Attempt(event.attempt, "completed", event.started, event.at)
        self._call(event.call, event.name, event.started, attempt).update(
            status="completed",
            ended_at=event.at,
            output=event.output,
            failure=None,
            input_digest=event.input_digest,
            args=event.args,
            original_call_id=event.original_call_id,
            cached_from=event.cached_from,
            cache_key=event.cache_key,
            given_by=event.given_by,
        )
        if event.given_by is not None:
            self._given.pop(f"checkpoint.{event.name}", None)

    def _on_checkpoint_failed(self, event: CheckpointFailed) -> None:
        attempt = Attempt(event.attempt, "failed", event.started, event.at, event.error)
        call = self._call(event.call, event.name, event.started, attempt)
        if call["status"] != "completed":
            call.update(input_digest=event.input_digest, args=event.args, failure=event.error)
            call.update(original_call_id=event.original_call_id)
            if not event.retry:
                call.update(status="failed", ended_at=event.at)

    def _on_checkpoint_lost(self, event: CheckpointLost) -> None:
        status: CheckpointStatus = "cancelled" if event.stopped else "failed"
        attempt = Attempt(event.attempt, status, event.started, event.seen, event.error)
        call = self._call(event.call, event.name, event.started, attempt)
        if event.stopped and call["status"] == "running":
            call.update(status=status, ended_at=event.seen)

    def _on_checkpoint_offered(self, event: CheckpointOffered) -> None:
        if not event.input_digest and event.output is not None:
            self._given[f"checkpoint.{event.name}"] = event.output.sha256

    def _on_metadata(self, event: MetadataLogged) -> None:
        self._metadata[event.call] = merge(self._metadata.get(event.call, {}), event.values)

    def _on_artifact_saved(self, event: ArtifactSaved) -> None:
        self._artifacts.pop((event.call, event.name), None)
        self._artifacts[event.call, event.name] = event

    # --- its waits ---

    def _on_waiting_for(self, event: WaitOpened) -> None:
        self._waits[event.wait] = Wait(
            wait_id=event.wait,
            name=event.name,
            status="open",
            opened_at=event.at,
            question=event.question,
            schema=event.schema,
            timeout=event.timeout,
            metadata=event.metadata,
        )

    def _on_wait_answered(self, event: WaitAnswered) -> None:
        asked = self._waits.get(event.wait) or Wait(
            wait_id=event.wait, name=event.name, status="open", opened_at=event.at
        )
        self._waits[event.wait] = replace(
            asked, status="answered", answered_at=event.at, by=event.by or None, value=event.value
        )
        self._fields["suspended_at"] = None
        if self._given.get(f"wait.{event.name}") == event.value.sha256:  # another answer: the given one didn't do
            del self._given[f"wait.{event.name}"]

    def _on_answer_refused(self, event: AnswerRefused) -> None:
        if asked := self._waits.get(event.wait):
            refused = RefusedAnswer(by=event.by, answered_at=event.answered, refused_at=event.at, reason=event.reason)
            self._waits[event.wait] = replace(asked, refused=(*asked.refused, refused))

    def _on_wait_aborted(self, event: WaitAborted) -> None:
        if asked := self._waits.get(event.wait):
            self._waits[event.wait] = replace(asked, status="aborted", answered_at=event.at, by=event.by or None)

    def _on_answer_offered(self, event: AnswerOffered) -> None:
        if event.given:
            self._given[f"wait.{event.name}"] = event.value.sha256
