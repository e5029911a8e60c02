"""The fold: what people see is what the events say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from kitaru import errors
from kitaru.model.event import (
    KINDS,
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
    Started,
    Suspended,
    Value,
    WaitAborted,
    WaitAnswered,
    WaitOpened,
    decode_entry,
    encode_entry,
)
from kitaru.model.execution import Execution, fold

VALUE = Value("json", 1, "0" * 64, "inline", 1)
ERROR = Failure("ValueError", "no", "Traceback …", "user_code")


def at(second: int) -> str:
    return f"2026-11-21T00:00:{second:02d}.000000Z"


OPENED = Opened(
    at=at(0),
    project="p",
    exec_id="ex-1",
    flow="research",
    target="flows/research.py:research",
    inputs=VALUE,
    origin="invoke",
    stack="local",
    version=3,
    tag="default",
    snapshot="ab" * 32,
    options=ExecutionOptions(retries=1),
)
RUNNER = Handle("r1")


def call_events(call: str, status: str, *, start: int, end: int, attempt: int = 1) -> list[Event]:
    common: dict[str, Any] = {"call": call, "name": "step", "attempt": attempt}
    if status == "running":
        return [CheckpointStarted(at=at(start), **common)]
    common |= {"started": at(start), "at": at(end), "input_digest": "d", "args": {"n": 1}}
    if status == "completed":
        return [CheckpointCompleted(output=VALUE, **common)]
    return [CheckpointFailed(error=ERROR, retry=status == "retrying", **common)]


def test_status_follows_the_events() -> None:
    """pending, running, failed attempt, running again, completed: each is what the last event made it."""
    events: list[Event] = [OPENED]
    assert fold(events).status == "pending" and fold(events).started_at is None
    events.append(Started(at=at(1), runner=RUNNER, attempt=1))
    running = fold(events)
    assert (running.status, running.started_at, running.runner) == ("running", at(1), RUNNER)
    events.append(AttemptFailed(at=at(2), attempt=1, error=ERROR))
    events.append(Started(at=at(3), runner=RUNNER, attempt=2))
    assert fold(events).status == "running"
    events.append(Completed(at=at(4), output=VALUE))
    done = fold(events)
    assert (done.status, done.ended_at, done.output, done.failure) == ("completed", at(4), VALUE, None)
    assert [(one.number, one.status, one.started_at, one.ended_at) for one in done.attempts] == [
        (1, "failed", at(1), at(2)),
        (2, "completed", at(3), at(4)),
    ]
    assert (done.version, done.tag, done.flow_name, done.stack_name) == (3, "default", "research", "local")


def test_failed_and_cancelled_are_ends_and_a_failed_one_can_run_again() -> None:
    """A start after a failure takes the failure back."""
    failed = [OPENED, Started(at=at(1), runner=RUNNER, attempt=1), Failed(at=at(2), error=ERROR)]
    assert fold(failed).failure == ERROR and fold(failed).ended
    again = fold([*failed, Started(at=at(3), runner=RUNNER, attempt=2)])
    assert (again.status, again.failure, again.ended_at, again.started_at) == ("running", None, None, at(1))
    assert fold([OPENED, Cancelled(at=at(1), by="me")]).status == "cancelled"


def test_what_was_under_way_ends_with_the_execution() -> None:
    """Cancelled, or failed for another reason: its calls are cancelled then, and run when it is taken up again."""
    begun = [OPENED, Started(at=at(1), runner=RUNNER, attempt=1), *call_events("1", "completed", start=1, end=2)]
    begun += call_events("2", "running", start=2, end=2)
    asked = WaitOpened(at=at(3), wait="w1", name="approve")
    over = fold([*begun, asked, Cancelled(at=at(4), by="Ann")])
    assert (over.cancelled_by, over.ended_at, over.open_waits) == ("Ann", at(4), ())
    assert [one.status for one in over.waits] == ["cancelled"]
    assert [(one.status, one.ended_at) for one in over.checkpoints] == [("completed", at(2)), ("cancelled", at(4))]
    assert [one.status for one in over.checkpoints[1].attempts] == ["cancelled"]
    assert [one.status for one in over.attempts] == ["cancelled"]
    failed = [*begun, asked, Failed(at=at(4), error=ERROR)]
    assert [one.status for one in fold(failed).checkpoints] == ["completed", "cancelled"]
    assert [one.status for one in fold(failed).open_waits] == ["open"]
    again = [*failed, Started(at=at(5), runner=RUNNER, attempt=2), *call_events("2", "running", start=6, end=6)]
    assert [(one.status, one.ended_at) for one in fold(again).checkpoints][1] == ("running", None)


def test_a_call_tells_its_attempts() -> None:
    """Failed tries stay visible beside the one that worked; a call that only failed is failed."""
    events: list[Event] = [OPENED, *call_events("1", "retrying", start=1, end=2)]
    assert fold(events).checkpoints[0].status == "running"
    events += call_events("1", "running", start=3, end=3, attempt=2)
    events += call_events("1", "completed", start=3, end=4, attempt=2)
    events += call_events("2", "failed", start=5, end=6)
    first, second = fold(events).checkpoints
    assert (first.status, first.started_at, first.ended_at, first.output) == ("completed", at(1), at(4), VALUE)
    assert [one.status for one in first.attempts] == ["failed", "completed"]
    assert (second.status, second.failure, second.ended_at) == ("failed", ERROR, at(6))


statuses = st.lists(
    st.tuples(st.sampled_from(["1", "2"]), st.sampled_from(["running", "retrying", "failed", "completed"]))
)


@given(statuses)
def test_a_completed_call_never_becomes_anything_else(history: list[tuple[str, str]]) -> None:
    """Whatever is recorded after its completion, it stays completed, with its output."""
    events: list[Event] = [OPENED]
    done: set[str] = set()
    for number, (call, status) in enumerate(history, start=1):
        events += call_events(call, status, start=1, end=2, attempt=number)
        done |= {call} if status == "completed" else set()
    calls = {one.call_id: one for one in fold(events).checkpoints}
    for call in done:
        assert (calls[call].status, calls[call].output, calls[call].failure) == ("completed", VALUE, None)


def test_a_journal_without_its_beginning_is_damaged() -> None:
    """No execution is made up from events that nobody opened."""
    with pytest.raises(errors.KitaruIntegrityError):
        fold([Completed(at=at(1), output=VALUE)])


EVENTS: list[Event] = [
    OPENED,
    Started(at=at(1), runner=RUNNER, attempt=1),
    *call_events("1", "running", start=1, end=1),
    *call_events("1", "retrying", start=1, end=2),
    *call_events("1.2/3", "completed", start=1, end=2),
    AttemptFailed(at=at(3), attempt=1, error=ERROR),
    Completed(at=at(4), output=Value("bytes", 9, "1" * 64, "object")),
    Failed(at=at(5), error=ERROR),
    CheckpointOffered(at=at(5), call="1", name="fetch", input_digest="d", error=ERROR, movable=True),
    Cancelled(at=at(6), by="me"),
    WaitOpened(at=at(5), wait="w1", name="approve", question="?", schema={"type": "boolean"}, timeout=1.5, metadata={}),
    Suspended(at=at(6)),
    WaitAnswered(at=at(7), wait="w1", name="approve", value=VALUE, by="me"),
    WaitAborted(at=at(8), wait="w2", by="me"),
    CheckpointOffered(at=at(0), call="1", name="a", input_digest="d", output=VALUE, notes=[{"kind": "metadata"}]),
    CheckpointLost(at=at(8), started=at(1), seen=at(2), call="1", name="a", attempt=1, error=ERROR),
    AnswerRefused(at=at(9), wait="w1", name="approve", reason="must be magic", answered=at(8), by="Ann"),
    AnswerOffered(at=at(0), wait="w1", name="approve", value=VALUE, given=True),
    MetadataLogged(at=at(8), call="1", values={"n": 1}),
    ArtifactSaved(at=at(8), call="1", name="report", type="output", value=VALUE, tags=["a"]),
]


def test_every_kind_of_event_comes_back_from_its_entry() -> None:
    """Written and read, each event is equal to itself; every kind is among them."""
    entry = decode_entry(encode_entry(7, "w.7", EVENTS))
    assert (entry.number, entry.write, list(entry.events)) == (7, "w.7", EVENTS)
    assert {event.kind for event in EVENTS} == set(KINDS)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_no_damage_to_an_entry_is_a_traceback(data: st.DataObject) -> None:
    """Any key of any event replaced by anything: it reads and folds, or it is a KitaruStoreError."""
    content = json.loads(encode_entry(1, "w", EVENTS))
    place = data.draw(
        st.sampled_from([content, *content["events"], *[e["output"] for e in content["events"] if "output" in e]])
    )
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(json_like)
    try:
        execution = fold(decode_entry(json.dumps(content).encode()).events)
    except errors.KitaruStoreError:
        return
    json.dumps(execution.to_json())


@given(st.binary(max_size=40))
def test_garbage_is_refused(body: bytes) -> None:
    """Bytes that are no entry are an integrity error."""
    with pytest.raises(errors.KitaruStoreError):
        decode_entry(body)


def test_the_execution_has_a_json_schema() -> None:
    """The published schema is generated from these classes, and names every field."""
    schema = TypeAdapter(Execution).json_schema()
    assert set(schema["properties"]) == set(Execution.__slots__)
    assert {"exec_id", "status", "checkpoints", "failure", "original_exec_id"} <= set(schema["properties"])


def test_a_summary_is_the_execution_without_its_calls() -> None:
    """It is read back as the same execution, with nothing in the collections."""
    execution = fold([*EVENTS[:2], Completed(at=at(4), output=VALUE)])
    back = Execution.from_json(json.loads(json.dumps(execution.summary())))
    assert (back.exec_id, back.status, back.output) == ("ex-1", "completed", VALUE)
    assert back.checkpoints == () and back.options == ExecutionOptions(retries=1)
