"""Results and answers that whoever replays gives: told apart, and checked before anything is opened."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kitaru import wiring
from kitaru.client.reading import plain_value
from kitaru.client.session import Session
from kitaru.core.replay_plan import CHECKPOINT, WAIT, must_be_known
from kitaru.errors import KitaruInputError, KitaruUsageError, KitaruWaitValidationError
from kitaru.model.event import CheckpointFailed, Event, Value
from kitaru.model.execution import Execution
from kitaru.model.recorded import JSON_FORMATS
from kitaru.run.answers import check_fits

if TYPE_CHECKING:
    from kitaru.flows.flow import Flow

SHOWN = 200
"""Characters of a recorded result that an error shows."""


def told_apart(overrides: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Results by checkpoint, and answers by wait. ``KitaruUsageError`` for a name that says neither."""
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


def check_answers(original: Execution, answers: Mapping[str, Any]) -> None:
    """``KitaruUsageError`` for a wait that there is not, ``KitaruWaitValidationError`` for what does not answer it.

    For the code that asked, alone: what other code asks is known when it does.
    """
    must_be_known(answers, [wait.name for wait in original.waits], "wait", WAIT)
    for wait in original.waits:
        if wait.name not in answers:
            continue
        try:
            check_fits(wait, answers[wait.name])
        except KitaruWaitValidationError as error:
            raise KitaruWaitValidationError(f"--override {WAIT}{wait.name}: {error.message}", hint=error.hint) from None


def check_results(
    session: Session,
    original: Execution,
    results: Mapping[str, Any],
    flow: Flow[..., Any] | None,
    there: Collection[str],
    returned: Mapping[str, Mapping[str, Any]],
) -> None:
    """``KitaruInputError`` for a result that is not what the checkpoint returns.

    That is what its return annotation says, where ``flow`` runs from source. A version does not record annotations:
    there a result must be of the kind (text, number, object, …) of one that the execution recorded; null always may be.
    Of a checkpoint that has none, as it failed, ``returned`` says what its own code returns: see ``failed_returns``.
    Of a checkpoint that the execution did not call, and that the code to run has (``there``), nothing else is known.
    """
    names = [call.name for call in original.checkpoints]
    must_be_known(results, [*names, *there], "call of checkpoint", CHECKPOINT)
    if not results:
        return
    annotations = _annotations(flow) if flow is not None else {}
    for name, value in results.items():
        recorded = [call.output for call in original.checkpoints if call.name == name and call.output is not None]
        if name in annotations:
            wrong = _mismatch(value, annotations[name])
        elif name in returned and not recorded:
            wrong = _unlike(value, returned[name])
        else:
            wrong = _other_kind(session, name, value, recorded)
        if wrong:
            example = _example(session, name, recorded)
            other = f"its recorded result is: {example}" if example else f"--override {CHECKPOINT}{name}=JSON"
            raise KitaruInputError(f"--override {CHECKPOINT}{name}: {wrong}", hint=other)


def failed_returns(events: Iterable[Event]) -> dict[str, dict[str, Any]]:
    """By checkpoint, what a call that failed would have returned, as a JSON Schema, where its failure records that."""
    return {
        event.name: event.returns
        for event in events
        if isinstance(event, CheckpointFailed) and event.returns is not None
    }


def _annotations(flow: Flow[..., Any]) -> dict[str, Any]:
    """What each checkpoint that the flow is seen to reach returns."""
    found = import_module("kitaru.flows.facts").checkpoints_of(flow.func)
    return {one.name: one.parameters.annotations.get("return", Any) for one in found}


def _mismatch(value: Any, annotation: Any) -> str:
    conversion = import_module("kitaru.flows.conversion")
    try:
        conversion.convert(value, annotation)
    except conversion.Mismatch as mismatch:
        return str(mismatch)
    return ""


def _unlike(value: Any, schema: Mapping[str, Any]) -> str:
    if not wiring.check_answer(dict(schema), value):
        return ""
    return f"expected {schema.get('title', 'another')}, as its code returns it, got {_kind_of(value)} {_shown(value)}"


def _other_kind(session: Session, name: str, value: Any, recorded: list[Value]) -> str:
    if value is None or not recorded:
        return ""
    kinds = {_kind(session, name, one) for one in recorded}
    given = _kind_of(value)
    if given in kinds or "null" in kinds:
        return ""
    types = " or ".join(sorted({one.type.rpartition(":")[2].rpartition(".")[2] for one in recorded if one.type}))
    expected = " or ".join(sorted(kinds))
    named = f" ({types})" if types and types not in _PYTHON else ""
    return f"expected {expected}{named}, as the execution recorded it, got {given} {_shown(value)}"


_PYTHON = ("str", "int", "float", "bool", "dict", "list", "tuple", "NoneType")


def _kind(session: Session, name: str, output: Value) -> str:
    if output.format == "text":
        return "text"
    if output.format not in JSON_FORMATS:
        return f"a value stored as {output.format}, which JSON can't give"
    return _kind_of(plain_value(session, output, f"the result of {name}"))


def _kind_of(value: Any) -> str:
    """What JSON calls it: whole numbers and others are one kind, and an enum or a date is a text."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, (list, tuple)) else "text"


def _example(session: Session, name: str, recorded: list[Value]) -> str:
    for one in recorded:
        if one.format in (*JSON_FORMATS, "text"):
            return _shown(plain_value(session, one, f"the result of {name}"))
    return ""


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
