"""Opening an execution that replays another: what it takes over is recorded before its first runner begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from kitaru.core.codecs import encode
from kitaru.engine import values
from kitaru.engine.journal import open_execution
from kitaru.errors import KitaruStateError
from kitaru.model import address
from kitaru.model.event import (
    ArtifactSaved,
    CheckpointCompleted,
    Event,
    MetadataLogged,
    Opened,
    Value,
    WaitAnswered,
    WaitOpened,
    encode_entry,
)
from kitaru.model.replay import ReplayPlan
from kitaru.ports import Clock, Store, Taken

SEEDS = 2
"""The number of the entry that holds what is taken over."""


def seeds(
    events: Iterable[Event], plan: ReplayPlan, overrides: Mapping[str, Value], answers: Mapping[str, Value], at: str
) -> list[Event]:
    """The events that a replay begins with: of each reused call its result, its notes and artifacts, and the answers.

    ``overrides``: results by checkpoint, ``answers``: answers by wait, both given by whoever replays. Made at ``at``.
    """
    fates = {call.call_id: call.action for call in plan.calls}
    names = {call.call_id: call.name for call in plan.calls}
    reused = {call for call, action in fates.items() if action == "reuse"}
    found: dict[Any, Event] = {}
    for event in events:
        if isinstance(event, CheckpointCompleted) and event.call in reused:
            found["call", event.call] = replace(event, at=at, started=at, original_call_id=event.call)
        elif isinstance(event, (MetadataLogged, ArtifactSaved)) and event.call in reused:
            found[id(event)] = event
        elif isinstance(event, WaitOpened) and (event.wait in plan.waits or event.name in answers):
            found["wait", event.wait] = replace(event, at=at)
            if event.name in answers:
                given = answers[event.name]
                found["answer", event.wait] = WaitAnswered(at=at, wait=event.wait, name=event.name, value=given)
        elif isinstance(event, WaitAnswered) and event.wait in plan.waits and event.name not in answers:
            found["answer", event.wait] = replace(event, at=at)
    for call, action in fates.items():
        if action == "override":
            found["call", call] = CheckpointCompleted(
                at=at,
                started=at,
                call=call,
                name=names[call],
                attempt=1,
                input_digest="",
                output=overrides[names[call]],
                original_call_id=call,
            )
    return list(found.values())


def given_value(store: Store, project: str, value: Any, subject: str) -> Value:
    """A JSON value that somebody gave, stored."""
    encoded = encode(value, subject=subject, typed=False)
    values.put(store, project, encoded)
    return encoded.value


def open_replay(store: Store, clock: Clock, opened: Opened, taken_over: list[Event]) -> tuple[bytes, ...]:
    """Create the execution with what it takes over; its entries.

    The second entry is written first: from the first one on the execution exists, and it must not exist without it.
    """
    write = clock.token(26)
    entries: tuple[bytes, ...] = ()
    if taken_over:
        body = encode_entry(SEEDS, f"{write}.{SEEDS}", taken_over)
        outcome = store.create(address.journal_entry(opened.project, opened.exec_id, SEEDS), body)
        if isinstance(outcome, Taken):
            raise KitaruStateError(f"{opened.exec_id} exists already", hint="try again")
        entries = (body,)
    entry = open_execution(store, opened, write)
    if isinstance(entry, Taken):
        raise KitaruStateError(f"{opened.exec_id} exists already", hint="try again")
    return (entry, *entries)
