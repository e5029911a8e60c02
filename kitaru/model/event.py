"""The content of a journal: stored values, failures, and the events of one execution, with their JSON form.

One journal entry is the JSON object ``{"format": 1, "write": "<unique id>", "n": 5, "events": [...]}``. Each event
has a ``kind``. A reader skips kinds and keys that it does not know; an entry of a newer ``format`` it refuses. Plain
records rather than pydantic models: they are made for every checkpoint, and importing them must cost nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import Any, ClassVar, Literal, Self, TypeVar, dataclass_transform

from kitaru.errors import KitaruIntegrityError, KitaruStoreFormatError
from kitaru.model.jsonable import Record, expect, read_record, record

FORMAT = 1
"""The newest entry format that this release writes and reads."""

Origin = Literal["user_code", "runtime", "backend", "divergence", "unknown"]

JSON_FORMATS = ("json", "json+types")
"""Formats that are JSON: as it is, and with types tagged."""


@record()
class Value(Record):
    """A stored value.

    ``format`` names the codec. ``stored`` says how the bytes are kept: ``inline`` is the value itself as JSON (readable
    JSON for ``json``, a string for ``text``, base64 otherwise), or the bytes are the object named by ``sha256``.
    ``size`` (in bytes) and ``sha256`` describe the encoded bytes either way. ``type`` is the Python type, if the
    value fitted its annotation.
    """

    format: str
    size: int
    sha256: str
    stored: Literal["inline", "object"] = "object"
    inline: Any = None
    type: str = ""

    def to_json(self) -> dict[str, Any]:
        """As every record, but the key ``inline`` is present exactly if the value is, also when it is null."""
        written: dict[str, Any] = {"format": self.format, "size": self.size, "sha256": self.sha256}
        if self.type:
            written["type"] = self.type
        if self.stored == "inline":
            written["inline"] = self.inline
        return written

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The inverse of ``to_json``."""
        inline = isinstance(data, Mapping) and "inline" in data
        return read_record(cls, {**data, "stored": "inline"} if inline else data)


@record()
class Failure(Record):
    """Why something ended badly:

    the exception's qualified type, its message, its traceback as text, and its origin.
    """

    type: str
    message: str
    traceback: str = ""
    origin: Origin = "unknown"


@record()
class Handle(Record):
    """A worker of an execution, as its stack recorded it: ``id`` tells workers apart, ``shown`` names it to people
    (``process 4711 on laptop``), and only the stack reads ``data``.
    """

    id: str
    shown: str = ""
    data: dict[str, Any] = field(default_factory=dict)


@record()
class SourcePlace(Record):
    """The source of a run from source: the absolute folder, and the host as ``stacks.process`` names it."""

    folder: str
    host: str


@record()
class ExecutionOptions(Record):
    """The options of an execution, as it was opened.

    ``cache`` is the flow's word; ``cache_asked`` the call's, which wins over that of flow and checkpoint.
    ``timeout`` is in seconds, for each attempt at the flow's body. ``retry`` is the policy of its retries, if one
    was given with the call; else the flow's own counts, with ``retries`` as the number of further attempts.
    """

    retries: int = 0
    cache: bool = True
    cache_asked: bool | None = None
    timeout: float | None = None
    retry: dict[str, Any] | None = None


KINDS: dict[str, type[Event]] = {}
"""``opened``, ``checkpoint_completed``, … → the class of the event."""

Kind = TypeVar("Kind", bound="type[Event]")


@record(kw_only=True)
class Event(Record):
    """Something that happened, at ``at`` (RFC 3339, UTC)."""

    kind: ClassVar[str]
    at: str


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def event(kind: str) -> Callable[[Kind], Kind]:
    """A record that journals hold under that ``kind``."""

    def decorate(cls: Kind) -> Kind:
        KINDS[kind] = made = record(kw_only=True)(cls)
        made.kind, made._names = kind, ("kind", *made._names)
        return made

    return decorate


@event("opened")
class Opened(Event):
    """Entry 1: the request. From here on the execution exists, pinned to one snapshot and its inputs.

    ``source``: the folder of one that was run from source; ``target`` is relative to that folder. ``opener``: the
    process that opened such a one, and was to run it.
    ``draw``, if the route was divided: ``{"weights": {"1": 90, "2": 10}, "by": "idempotency key"}``, or by
    ``chance``.
    """

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


@event("started")
class Started(Event):
    """A runner began, or took up again, attempt ``attempt`` (from 1) of the flow body."""

    runner: Handle
    attempt: int


@event("checkpoint_started")
class CheckpointStarted(Event):
    """Attempt ``attempt`` (from 1) of a call began. Left out if the call ended before this was written."""

    call: str
    name: str
    attempt: int


@event("checkpoint_completed")
class CheckpointCompleted(Event):
    """A call has its result, for ever.

    ``args`` is a readable copy of small arguments; ``input_digest`` covers all of them. ``original_call_id``: the call
    of the replayed execution that this result was taken from, or given in place of. ``cached_from``: the execution and
    call (``ex-…/3``) that computed the result, if no body was run for it; ``cache_key``: the key that the two calls
    share. ``given_by``: the person that gave the result, when the replay was opened; nothing computed it.
    """

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


@event("checkpoint_offered")
class CheckpointOffered(Event):
    """An outcome that a replay may take over, recorded when it is opened: that of ``call`` in the replayed execution.

    When the body makes such a call, a ``CheckpointCompleted`` or ``CheckpointFailed`` follows. It is ``output``, or
    ``error`` of a call that failed for good, with ``returns`` as for ``CheckpointFailed``. ``input_digest`` is empty
    for a result that ``by`` gave as JSON: it fits all inputs; ``call`` is then empty if the replayed
    execution made no such call. ``movable``: the call may be made at another place. ``notes``: the call's metadata and
    artifacts, as events in their JSON form.
    """

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


@event("checkpoint_failed")
class CheckpointFailed(Event):
    """An attempt of a call failed; ``retry`` says whether another one follows by itself.

    ``original_call_id``: the call of the replayed execution that failed so; nothing was run. ``returns``: for one that
    failed for good, the JSON Schema of a result, with the return annotation as its title; None
    if that is not known.
    """

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


@event("checkpoint_lost")
class CheckpointLost(Event):
    """An attempt of a call was under way when its runner ended without a word; written by the runner that took over.

    ``seen``: the last sign of life of the runner that had it. No retry is used up by it. ``stopped``: its own runner
    stopped it, and ``error`` says why; ``seen`` is when it ended.
    """

    started: str
    seen: str
    call: str
    name: str
    attempt: int
    error: Failure
    stopped: bool | None = None


@event("attempt_failed")
class AttemptFailed(Event):
    """The flow body failed, and will be run again in this same execution."""

    attempt: int
    error: Failure


@event("completed")
class Completed(Event):
    """The flow returned."""

    output: Value


@event("failed")
class Failed(Event):
    """The flow failed for good, unless it is resumed."""

    error: Failure


@event("cancelled")
class Cancelled(Event):
    """Somebody ended it."""

    by: str = ""


@event("metadata")
class MetadataLogged(Event):
    """``values`` (plain JSON) were logged: to the call ``call``, or to the execution if that is None."""

    call: str | None = None
    values: dict[str, Any]


@event("artifact_saved")
class ArtifactSaved(Event):
    """A named value was kept, in the call ``call`` or in the flow body. A later one of that name there replaces it.

    ``type`` is the author's word for it; the value's Python type is its own.
    """

    call: str | None = None
    name: str
    type: str
    value: Value
    tags: list[str] = field(default_factory=list)


@event("suspended")
class Suspended(Event):
    """The runner left while the execution waits: nothing runs until somebody answers."""


@event("waiting_for")
class WaitOpened(Event):
    """The flow asked a question. ``wait`` is its place in the body: ``w1``, or ``2/w1`` in a concurrent branch.

    ``schema`` is the JSON Schema of an answer; ``timeout``, in seconds, bounds only how long the runner polls.
    """

    wait: str
    name: str
    question: str | None = None
    schema: dict[str, Any] | None = None
    timeout: float | None = None
    metadata: dict[str, Any] | None = None


@event("wait_answered")
class WaitAnswered(Event):
    """The answer to a wait, for ever."""

    wait: str
    name: str
    value: Value
    by: str = ""


@event("answer_refused")
class AnswerRefused(Event):
    """An answer fitted the wait's JSON Schema and not its type: it was put aside, and the wait goes on.

    ``answered``: when ``by`` gave it. ``reason`` is for people.
    """

    wait: str
    name: str
    reason: str
    answered: str
    by: str = ""


@event("answer_offered")
class AnswerOffered(Event):
    """An answer that a replay may take over: to the wait ``wait`` of the replayed execution. ``given``: by the
    person that replays, and then for every wait of that name. ``asked``: the digest of the question, see
    ``digest_question``; if it is None, the answer is to any question of that wait.
    """

    wait: str
    name: str
    value: Value
    by: str = ""
    given: bool = False
    asked: str | None = None


@event("wait_aborted")
class WaitAborted(Event):
    """Somebody declined to answer; the execution is cancelled."""

    wait: str
    by: str = ""


@record()
class Entry:
    """One journal entry, read: its number, its write id, and those of its events that have a known kind."""

    number: int
    write: str
    events: tuple[Event, ...]


def encode_entry(number: int, write: str, events: Iterable[Event]) -> bytes:
    """The bytes of entry ``number``; ``write`` tells them from every other writer's."""
    content = {"format": FORMAT, "write": write, "n": number, "events": [event.to_json() for event in events]}
    try:
        return (_ENTRY.encode(content) + "\n").encode()
    except UnicodeEncodeError:  # a lone surrogate in somebody's text: escape it, so that the file stays UTF-8
        return (json.dumps(content, separators=(",", ":"), allow_nan=False) + "\n").encode()


_ENTRY = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False)


def decode_entry(body: bytes, subject: str = "journal entry") -> Entry:
    """Read an entry.

    ``KitaruStoreFormatError`` for a newer format, ``KitaruIntegrityError`` if it is no entry at all.
    """
    try:
        content = json.loads(body)
        newest = expect(int, content["format"], "format")
        if newest > FORMAT:
            raise KitaruStoreFormatError(
                f"The {subject} has format {newest}; this release reads up to {FORMAT}.",
                hint="It was written by a newer Kitaru: install that; kitaru version shows this one",
            )
        events = tuple(event for event in map(read_event, content["events"]) if event)
        return Entry(expect(int, content["n"], "n"), expect(str, content["write"], "write"), events)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise KitaruIntegrityError(
            f"The {subject} can't be read: {error}", hint="the store is damaged there: restore that key from a backup"
        ) from error


def read_event(data: Any) -> Event | None:
    """The event, or None if its kind is not known to this release. ``ValueError`` if it does not fit its kind."""
    if not isinstance(data, Mapping):
        raise ValueError(f"expected an event, got {type(data).__name__}")
    known = KINDS.get(expect(str, data["kind"], "kind"))
    return read_record(known, data) if known else None
