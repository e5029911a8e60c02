"""The content of a journal: stored values, failures, and the events of one execution, with their JSON form.

One journal entry is the JSON object ``{"format": 1, "write": "<unique id>", "n": 5, "events": [...]}``. Each event
has a ``kind``. A reader skips kinds and keys that it does not know; an entry of a newer ``format`` it refuses. Plain
dataclasses rather than pydantic models: they are made for every checkpoint, and importing them must cost nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import field, fields
from typing import Any, Literal, cast

from kitaru.errors import KitaruIntegrityError, KitaruStoreFormatError
from kitaru.model.jsonable import Event as Event
from kitaru.model.jsonable import ExecutionOptions as ExecutionOptions
from kitaru.model.jsonable import Failure as Failure
from kitaru.model.jsonable import Handle as Handle
from kitaru.model.jsonable import Origin as Origin
from kitaru.model.jsonable import Record as Record
from kitaru.model.jsonable import SourcePlace as SourcePlace
from kitaru.model.jsonable import Value as Value
from kitaru.model.jsonable import record, text, whole

FORMAT = 1
"""The newest entry format that this release writes and reads."""


@record(kw_only=True)
class Opened(Event):
    """Entry 1: the request. From here on the execution exists, pinned to one snapshot and its inputs.

    ``source``: the folder of one that was run from source; ``target`` is relative to that folder. ``opener``: the
    process that opened such a one, and was to run it.
    ``draw``, if the route was divided: ``{"weights": {"1": 90, "2": 10}, "by": "idempotency key"}``, or by
    ``chance``.
    """

    kind: Literal["opened"] = "opened"
    at: str
    project: str
    exec_id: str
    flow: str
    target: str
    inputs: Value
    origin: Literal["invoke", "run"]
    stack: str
    options: ExecutionOptions = field(default_factory=ExecutionOptions)
    version: int | None = None
    tag: str | None = None
    snapshot: str | None = None
    actor: str | None = None
    commit: str | None = None
    idempotency_key: str | None = None
    original_exec_id: str | None = None
    source: SourcePlace | None = None
    opener: Handle | None = None
    draw: dict[str, Any] | None = None


@record(kw_only=True)
class Started(Event):
    """A runner began, or took up again, attempt ``attempt`` (from 1) of the flow body."""

    kind: Literal["started"] = "started"
    at: str
    runner: Handle
    attempt: int


@record(kw_only=True)
class CheckpointStarted(Event):
    """Attempt ``attempt`` (from 1) of a call began. Left out if the call ended before this was written."""

    kind: Literal["checkpoint_started"] = "checkpoint_started"
    at: str
    call: str
    name: str
    attempt: int


@record(kw_only=True)
class CheckpointCompleted(Event):
    """A call has its result, for ever.

    ``args`` is a readable copy of small arguments; ``input_digest`` covers all of them. ``original_call_id``: the call
    of the replayed execution that this result was taken from, or given in place of. ``cached_from``: the execution and
    call (``ex-…/3``) that computed the result, if no body was run for it; ``cache_key``: the key that the two calls
    share. ``given_by``: the person that gave the result, when the replay was opened; nothing computed it.
    """

    kind: Literal["checkpoint_completed"] = "checkpoint_completed"
    at: str
    started: str
    call: str
    name: str
    attempt: int
    input_digest: str
    args: Any = None
    output: Value
    original_call_id: str | None = None
    cached_from: str | None = None
    cache_key: str | None = None
    given_by: str | None = None


@record(kw_only=True)
class CheckpointOffered(Event):
    """An outcome that a replay may take over, recorded when it is opened: that of ``call`` in the replayed execution.

    When the body makes such a call, a ``CheckpointCompleted`` or ``CheckpointFailed`` follows. It is ``output``, or
    ``error`` of a call that failed for good, with ``returns`` as for ``CheckpointFailed``. ``input_digest`` is empty
    for a result that ``by`` gave as JSON: it fits whatever the inputs are; ``call`` is then empty if the replayed
    execution made no such call. ``movable``: the call may be made at another place. ``notes``: the call's metadata and
    artifacts, as events in their JSON form.
    """

    kind: Literal["checkpoint_offered"] = "checkpoint_offered"
    at: str
    call: str
    name: str
    input_digest: str
    args: Any = None
    output: Value | None = None
    error: Failure | None = None
    returns: dict[str, Any] | None = None
    movable: bool = False
    notes: list[dict[str, Any]] = field(default_factory=list)
    by: str = ""


@record(kw_only=True)
class CheckpointFailed(Event):
    """An attempt of a call failed; ``retry`` says whether another one follows by itself.

    ``original_call_id``: the call of the replayed execution that failed so; nothing was run. ``returns``: for one that
    failed for good, the JSON Schema of a result, with the return annotation as its title; None
    where that is not known.
    """

    kind: Literal["checkpoint_failed"] = "checkpoint_failed"
    at: str
    started: str
    call: str
    name: str
    attempt: int
    input_digest: str
    args: Any = None
    error: Failure
    retry: bool
    original_call_id: str | None = None
    returns: dict[str, Any] | None = None


@record(kw_only=True)
class CheckpointLost(Event):
    """An attempt of a call was under way when its runner ended without a word; written by the runner that took over.

    ``seen``: the last sign of life of the runner that had it. No retry is used up by it. ``stopped``: its own runner
    stopped it, and ``error`` says why; ``seen`` is when it ended.
    """

    kind: Literal["checkpoint_lost"] = "checkpoint_lost"
    at: str
    started: str
    seen: str
    call: str
    name: str
    attempt: int
    error: Failure
    stopped: bool | None = None


@record(kw_only=True)
class AttemptFailed(Event):
    """The flow body failed, and will be run again in this same execution."""

    kind: Literal["attempt_failed"] = "attempt_failed"
    at: str
    attempt: int
    error: Failure


@record(kw_only=True)
class Completed(Event):
    """The flow returned."""

    kind: Literal["completed"] = "completed"
    at: str
    output: Value


@record(kw_only=True)
class Failed(Event):
    """The flow failed for good, unless it is resumed."""

    kind: Literal["failed"] = "failed"
    at: str
    error: Failure


@record(kw_only=True)
class Cancelled(Event):
    """Somebody ended it."""

    kind: Literal["cancelled"] = "cancelled"
    at: str
    by: str = ""


@record(kw_only=True)
class MetadataLogged(Event):
    """``values`` (plain JSON) were logged: to the call ``call``, or to the execution if that is None."""

    kind: Literal["metadata"] = "metadata"
    at: str
    call: str | None = None
    values: dict[str, Any]


@record(kw_only=True)
class ArtifactSaved(Event):
    """A named value was kept, in the call ``call`` or in the flow body. A later one of that name there replaces it.

    ``type`` is the author's word for it; the value's Python type is its own.
    """

    kind: Literal["artifact_saved"] = "artifact_saved"
    at: str
    call: str | None = None
    name: str
    type: str
    value: Value
    tags: list[str] = field(default_factory=list)


@record(kw_only=True)
class Suspended(Event):
    """The runner left while the execution waits: nothing runs until somebody answers."""

    kind: Literal["suspended"] = "suspended"
    at: str


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
    """An answer that a replay may take over: to the wait ``wait`` of the replayed execution. ``given``: by the
    person that replays, and then for every wait of that name. ``asked``: the digest of the question, see
    ``digest_question``; if it is None, the answer is to any question of that wait.
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


_EVENTS: tuple[type[Event], ...] = (
    *(Opened, Started, Completed, Failed, Cancelled, AttemptFailed, Suspended),
    *(CheckpointStarted, CheckpointCompleted, CheckpointFailed, CheckpointLost, CheckpointOffered),
    *(WaitOpened, WaitAnswered, WaitAborted, AnswerRefused, AnswerOffered, MetadataLogged, ArtifactSaved),
)
KINDS: dict[str, type[Event]] = {str(fields(cast("Any", cls))[0].default): cls for cls in _EVENTS}
"""``opened``, ``checkpoint_completed``, … → the class of the event."""


@record()
class Entry:
    """One journal entry, read: its number, its write id, and those of its events that have a known kind."""

    number: int
    write: str
    events: tuple[Event, ...]


_ENTRY = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False)
_ASCII_ENTRY = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), allow_nan=False, check_circular=False)


def encode_entry(number: int, write: str, events: Iterable[Event]) -> bytes:
    """The bytes of entry ``number``; ``write`` tells them from every other writer's."""
    content = {"format": FORMAT, "write": write, "n": number, "events": [event.to_json() for event in events]}
    try:
        return (_ENTRY.encode(content) + "\n").encode()
    except UnicodeEncodeError:  # a lone surrogate in somebody's text: escape it, so that the file stays UTF-8
        return (_ASCII_ENTRY.encode(content) + "\n").encode()


def decode_entry(body: bytes, subject: str = "journal entry") -> Entry:
    """Read an entry.

    ``KitaruStoreFormatError`` for a newer format, ``KitaruIntegrityError`` if it is no entry at all.
    """
    try:
        content = json.loads(body)
        newest = whole(content["format"], "format")
        if newest > FORMAT:
            raise KitaruStoreFormatError(
                f"The {subject} has format {newest}; this release reads up to {FORMAT}.",
                hint="It was written by a newer Kitaru: install that; kitaru version shows this one",
            )
        events = [read_event(item) for item in content["events"]]
        return Entry(
            whole(content["n"], "n"), text(content["write"], "write"), tuple(event for event in events if event)
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise KitaruIntegrityError(
            f"The {subject} can't be read: {error}", hint="the store is damaged there: restore that key from a backup"
        ) from error


def read_event(data: Any) -> Event | None:
    """The event, or None if its kind is not known to this release. ``ValueError`` if it does not fit its kind."""
    if not isinstance(data, Mapping):
        raise ValueError(f"expected an event, got {type(data).__name__}")
    known = KINDS.get(text(data["kind"], "kind"))
    return known.from_json(data) if known else None
