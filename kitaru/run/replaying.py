"""Opening an execution that replays another: the outcomes that it may take over are recorded first, as offers.

The body takes an offer by making the call, and then that is recorded; the rest leaves no trace in the execution.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from kitaru.core.replay import RecordedCall
from kitaru.errors import KitaruStateError
from kitaru.model.event import (
    AnswerOffered,
    ArtifactSaved,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointOffered,
    Event,
    MetadataLogged,
    Opened,
    Value,
    WaitAnswered,
    WaitOpened,
    encode_entry,
    read_event,
)
from kitaru.model.execution import digest_question
from kitaru.model.replay import REUSED, ReplayPlan
from kitaru.ports import Clock
from kitaru.run.journal import log_of, open_execution
from kitaru.store.port import Store, Taken
from kitaru.values import stored
from kitaru.values.codec import encode

OFFERS = 2
"""The number of the entry that holds what may be taken over."""

SOMEBODY = "somebody"
"""Who gave what no name stands beside."""


def offers(
    events: Iterable[Event],
    plan: ReplayPlan,
    results: Mapping[str, Value],
    answers: Mapping[str, Value],
    *,
    by: str,
    at: str,
    movable: bool,
) -> list[Event]:
    """The first events of a replay: each outcome and answer that it may take over, with the call's notes and artifacts.

    ``results`` (by checkpoint) and ``answers`` (by wait) are given by the person ``by`` who replays. ``movable``: calls
    may be made at other places. Made at ``at``.
    """
    reused = {call.call_id for call in plan.calls if call.action in REUSED}
    taken = {wait.wait_id for wait in plan.waits if wait.action in REUSED}
    outcomes: dict[str, CheckpointCompleted | CheckpointFailed] = {}
    asked: dict[str, str] = {}
    notes: dict[str, list[dict[str, Any]]] = {}
    order = {call.call_id: place for place, call in enumerate(plan.calls)}
    offered: list[Event] = []
    for event in events:
        if isinstance(event, CheckpointCompleted) or (isinstance(event, CheckpointFailed) and not event.retry):
            if event.call in reused:
                outcomes[event.call] = event
        elif isinstance(event, (MetadataLogged, ArtifactSaved)) and event.call in reused:
            notes.setdefault(event.call or "", []).append(event.to_json())
        elif isinstance(event, WaitOpened):
            asked[event.wait] = digest_question(event.question, event.schema, event.metadata)
        elif isinstance(event, WaitAnswered) and event.wait in taken:
            question = asked.get(event.wait)
            offered.append(
                AnswerOffered(at=at, wait=event.wait, name=event.name, value=event.value, by=event.by, asked=question)
            )
    for call, outcome in sorted(outcomes.items(), key=lambda item: order[item[0]]):
        offered.append(_offer(outcome, at, movable, notes.get(call, [])))
    first = {call.name: call.call_id for call in reversed(plan.calls)}
    offered += [
        CheckpointOffered(at=at, call=first.get(name, ""), name=name, input_digest="", output=value, by=by or SOMEBODY)
        for name, value in results.items()
    ]
    waits = {wait.name: wait.wait_id for wait in reversed(plan.waits)}
    offered += [
        AnswerOffered(at=at, wait=waits.get(name, ""), name=name, value=value, by=by, given=True)
        for name, value in answers.items()
    ]
    return offered


def _offer(
    event: CheckpointCompleted | CheckpointFailed, at: str, movable: bool, notes: list[dict[str, Any]]
) -> CheckpointOffered:
    return CheckpointOffered(
        at=at,
        call=event.call,
        name=event.name,
        input_digest=event.input_digest,
        args=event.args,
        output=None if isinstance(event, CheckpointFailed) else event.output,
        error=event.error if isinstance(event, CheckpointFailed) else None,
        returns=event.returns if isinstance(event, CheckpointFailed) else None,
        movable=movable,
        notes=notes,
    )


def taken_events(
    offer: CheckpointOffered, call: str, taken: RecordedCall, at: str
) -> tuple[list[Event], CheckpointCompleted | CheckpointFailed]:
    """The events of a call that takes the offer: its notes, and its outcome."""
    read = [event for event in map(read_event, offer.notes) if isinstance(event, (MetadataLogged, ArtifactSaved))]
    notes: list[Event] = [replace(note, at=at, call=call) for note in read]
    if offer.error is not None:
        return notes, CheckpointFailed(
            at=at,
            started=at,
            call=call,
            name=offer.name,
            attempt=1,
            input_digest=offer.input_digest,
            args=offer.args,
            error=offer.error,
            retry=False,
            original_call_id=offer.call,
            returns=offer.returns,
        )
    assert taken.output is not None
    return notes, CheckpointCompleted(
        at=at,
        started=at,
        call=call,
        name=offer.name,
        attempt=1,
        input_digest=taken.input_digest,
        args=offer.args,
        output=taken.output,
        original_call_id=offer.call or None,
        given_by=None if offer.input_digest else offer.by or SOMEBODY,
    )


def given_value(store: Store, project: str, value: Any, subject: str) -> Value:
    """A JSON value that somebody gave, stored."""
    encoded = encode(value, subject=subject, typed=False)
    stored.put(store, project, encoded)
    return encoded.value


def open_replay(store: Store, clock: Clock, opened: Opened, offered: list[Event]) -> tuple[bytes, ...]:
    """Create the execution with what it may take over; its entries.

    The second entry is written first: from the first one on the execution exists, and it must not exist without it.
    """
    write = clock.token(26)
    entries: tuple[bytes, ...] = ()
    if offered:
        body = encode_entry(OFFERS, f"{write}.{OFFERS}", offered)
        outcome = log_of(store, opened.project, opened.exec_id).append(OFFERS, body)
        if isinstance(outcome, Taken):
            raise KitaruStateError(f"{opened.exec_id} exists already", hint="try again")
        entries = (body,)
    entry = open_execution(store, opened, write)
    if isinstance(entry, Taken):
        raise KitaruStateError(f"{opened.exec_id} exists already", hint="try again")
    return (entry, *entries)
