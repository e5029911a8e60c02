"""Opening an execution that replays another: the outcomes that it may take over are recorded first, as offers.

The body takes an offer by making the call, and then that is recorded; the rest leaves no trace in the execution.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kitaru.core.replay import CHECKPOINT, WAIT, RecordedCall, must_be_known
from kitaru.errors import KitaruInputError, KitaruStateError, KitaruUsageError, KitaruWaitValidationError
from kitaru.manifest.port import AnswerCheck
from kitaru.model.event import (
    JSON_FORMATS,
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
from kitaru.model.execution import REUSED, Execution, ReplayPlan, digest_question
from kitaru.ports import Clock
from kitaru.run.journal import log_of, open_execution
from kitaru.run.waits import check_fits
from kitaru.store.port import Store, Taken
from kitaru.values import stored
from kitaru.values.stored import encode

if TYPE_CHECKING:
    from kitaru.flows.flow import Flow

ReadPlain = Callable[[Value, str], Any]
"""From a stored value and its name in errors to plain data."""

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

    ``results`` (by checkpoint) and ``answers`` (by wait) are given by the person ``by``. ``movable``: calls
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
    """Create the execution with its offers; its entries.

    The second entry is written first: from the first one on the execution exists, and it must not exist without it.
    """
    write = clock.token(26)
    entries: tuple[bytes, ...] = ()
    taken = KitaruStateError(f"{opened.exec_id} exists already", hint="try again")
    if offered:
        entries = (encode_entry(OFFERS, f"{write}.{OFFERS}", offered),)
        if isinstance(log_of(store, opened.project, opened.exec_id).append(OFFERS, entries[0]), Taken):
            raise taken
    entry = open_execution(store, opened, write)
    if isinstance(entry, Taken):
        raise taken
    return (entry, *entries)


# --- overrides --------------------------------------------------------------------------------------------------------


SHOWN = 200
"""Characters of a recorded result that an error shows."""


def split_overrides(overrides: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Results by checkpoint, and answers by wait. ``KitaruUsageError`` for any other name.

    Example: ``{"checkpoint.research": 1, "wait.approve": True}`` gives ``{"research": 1}, {"approve": True}``.
    """
    results: dict[str, Any] = {}
    answers: dict[str, Any] = {}
    for name, value in overrides.items():
        if name.startswith(CHECKPOINT) and len(name) > len(CHECKPOINT):
            results[name.removeprefix(CHECKPOINT)] = value
        elif name.startswith(WAIT) and len(name) > len(WAIT):
            answers[name.removeprefix(WAIT)] = value
        else:
            raise KitaruUsageError(
                f"override {name!r}: expected checkpoint.NAME or wait.NAME", hint="--override checkpoint.research=JSON"
            )
    return results, answers


def check_answers(original: Execution, answers: Mapping[str, Any], check: AnswerCheck) -> None:
    """``KitaruUsageError`` for an unknown wait, ``KitaruWaitValidationError`` for an answer that doesn't fit.

    For the code that asked, alone: the questions of other code are known when it asks them.
    """
    must_be_known(answers, [wait.name for wait in original.waits], "wait", WAIT)
    for wait in original.waits:
        if wait.name not in answers:
            continue
        try:
            check_fits(wait, answers[wait.name], check)
        except KitaruWaitValidationError as error:
            raise KitaruWaitValidationError(f"--override {WAIT}{wait.name}: {error.message}", hint=error.hint) from None


def check_results(
    original: Execution,
    results: Mapping[str, Any],
    flow: Flow[..., Any] | None,
    there: Collection[str],
    returned: Mapping[str, Mapping[str, Any]],
    *,
    read: ReadPlain,
    check: AnswerCheck,
) -> None:
    """``KitaruInputError`` for a result that the checkpoint can't return.

    If ``flow`` runs from source, its return annotation decides. A version records no annotations: there a result must
    be of the kind (text, number, object, …) of a recorded one, or null. A call that failed has none: then ``returned``
    decides, see ``failed_returns``. Any result does for a checkpoint that only the code to run has (``there``).
    """
    names = [call.name for call in original.checkpoints]
    must_be_known(results, [*names, *there], "call of checkpoint", CHECKPOINT)
    if not results:
        return
    annotations: dict[str, Any] = {}
    if flow is not None:
        from kitaru.flows.describe import checkpoints_of

        # Of those that the flow is seen to reach.
        for checkpoint in checkpoints_of(flow.func):
            annotations[checkpoint.name] = checkpoint.parameters.annotations.get("return", Any)
    for name, value in results.items():
        recorded = [call.output for call in original.checkpoints if call.name == name and call.output is not None]
        if name in annotations:
            wrong = _mismatch(value, annotations[name])
        elif name in returned and not recorded:
            schema = returned[name]
            expected = f"expected {schema.get('title', 'another')}, as its code returns it"
            wrong = f"{expected}, got {_kind_of(value)} {_shown(value)}" if check(schema, value) else ""
        else:
            wrong = _other_kind(read, name, value, recorded)
        if wrong:
            example = _example(read, name, recorded)
            other = f"its recorded result is: {example}" if example else f"--override {CHECKPOINT}{name}=JSON"
            raise KitaruInputError(f"--override {CHECKPOINT}{name}: {wrong}", hint=other)


def failed_returns(events: Iterable[Event]) -> dict[str, dict[str, Any]]:
    """Checkpoint → the JSON Schema of the result of a call that failed, if its failure records that."""
    return {
        event.name: event.returns
        for event in events
        if isinstance(event, CheckpointFailed) and event.returns is not None
    }


def _mismatch(value: Any, annotation: Any) -> str:
    from kitaru.flows.signature import Mismatch, convert

    try:
        convert(value, annotation)
    except Mismatch as mismatch:
        return str(mismatch)
    return ""


def _other_kind(read: ReadPlain, name: str, value: Any, recorded: list[Value]) -> str:
    if value is None or not recorded:
        return ""
    kinds = {_kind(read, name, one) for one in recorded}
    given = _kind_of(value)
    if given in kinds or "null" in kinds:
        return ""
    types = " or ".join(sorted({one.type.rpartition(":")[2].rpartition(".")[2] for one in recorded if one.type}))
    expected = " or ".join(sorted(kinds))
    named = f" ({types})" if types and types not in _PYTHON else ""
    return f"expected {expected}{named}, as the execution recorded it, got {given} {_shown(value)}"


_PYTHON = ("str", "int", "float", "bool", "dict", "list", "tuple", "NoneType")


def _kind(read: ReadPlain, name: str, output: Value) -> str:
    if output.format == "text":
        return "text"
    if output.format not in JSON_FORMATS:
        return f"a value stored as {output.format}, which JSON can't give"
    return _kind_of(read(output, f"the result of {name}"))


_KINDS: tuple[tuple[tuple[type, ...], str], ...] = (
    ((type(None),), "null"),
    ((bool,), "true or false"),
    ((int, float), "a number"),
    ((dict,), "an object"),
    ((list, tuple), "a list"),
)


def _kind_of(value: Any) -> str:
    """Its kind in JSON: whole numbers and others are one kind, and an enum or a date is a text."""
    return next((kind for types, kind in _KINDS if isinstance(value, types)), "text")


def _example(read: ReadPlain, name: str, recorded: list[Value]) -> str:
    for one in recorded:
        if one.format in (*JSON_FORMATS, "text"):
            return _shown(read(one, f"the result of {name}"))
    return ""


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
