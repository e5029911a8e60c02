"""Results and answers that whoever replays gives: told apart, and checked before anything is opened."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kitaru import wiring
from kitaru.client.handle import FlowHandle
from kitaru.client.session import Session
from kitaru.client.values import plain_value, read_value
from kitaru.core.replay import CHECKPOINT, WAIT, Changes, must_be_known, plan_replay
from kitaru.errors import KitaruError, KitaruInputError, KitaruUsageError, KitaruWaitValidationError, Problem
from kitaru.model import address
from kitaru.model.address import canonical_json, timestamp
from kitaru.model.event import CheckpointFailed, Event, Failed, Failure, Opened, Value
from kitaru.model.execution import Execution, fold
from kitaru.model.jsonable import JSON_FORMATS
from kitaru.model.replay import ReplayPlan
from kitaru.run.answers import check_fits
from kitaru.run.journal import Journal, read_entries, read_events
from kitaru.run.replaying import given_value, offers, open_replay
from kitaru.stacks.port import RunOrder

if TYPE_CHECKING:
    from kitaru.client.running import Running
    from kitaru.flows.flow import Flow
    from kitaru.model.snapshot import Snapshot


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
    found = import_module("kitaru.flows.describe").checkpoints_of(flow.func)
    return {one.name: one.parameters.annotations.get("return", Any) for one in found}


def _mismatch(value: Any, annotation: Any) -> str:
    conversion = import_module("kitaru.flows.signature")
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


@dataclass(frozen=True)
class Released:
    """The version that a replay runs: its snapshot, as it is stored and as data."""

    version: int | None
    sha: str
    body: bytes
    snapshot: Snapshot


@dataclass(frozen=True)
class Replay:
    """A replay that is settled and not begun: ``plan`` says what it takes over.

    ``inputs``: None where they are the recorded ones. ``same_code``: it is known to run what the original ran.
    """

    original: Execution
    plan: ReplayPlan
    events: list[Event]
    results: Mapping[str, Any]
    answers: Mapping[str, Any]
    inputs: Mapping[str, Any] | None
    released: Released | None
    flow: Flow[..., Any] | None
    same_code: bool


class Replays:
    """What ``client.executions`` does to replay."""

    def __init__(self, session: Session, running: Running) -> None:
        self._session = session
        self._running = running

    def prepare(
        self,
        exec_id: str,
        *,
        cut: str,
        args: Mapping[str, Any] | None,
        overrides: Mapping[str, Any],
        version: int | None,
        tag: str | None,
        flow: Flow[..., Any] | None,
    ) -> Replay:
        """Everything that can be wrong is said here; nothing is written."""
        session = self._session
        entries = read_entries(session.store, session.project, session.executions.full_id(exec_id))
        if not entries:
            session.executions.get(exec_id)
        events = read_events(entries, exec_id)
        original = fold(events)
        results, answers = told_apart(overrides)
        if flow is not None and (version is not None or tag is not None):
            raise KitaruUsageError("a replay runs a flow from source, or a version: not both", hint="leave one out")
        released = None if flow is not None else self._released(original, version, tag)
        if released is None and flow is None:
            flow = self._running.source_of(original)
        if flow is not None and flow.name != original.flow_name:
            raise KitaruUsageError(
                f"{original.exec_id} is an execution of {original.flow_name}, not of {flow.name}",
                hint=f"kitaru executions list --flow {flow.name}",
            )
        inputs = self._inputs(original, args, released, flow)
        same_code = released is not None and released.sha == original.snapshot
        if same_code:
            check_answers(original, answers)
        changes = Changes(
            code="" if same_code else _code(released),
            inputs=inputs is not None,
            results=results,
            answers=answers,
            gone=self._gone(original, released) if released is not None and not same_code else (),
            there=_there(released, flow),
        )
        plan = plan_replay(original, cut=cut, changes=changes)
        returned = failed_returns(events) if same_code else {}
        check_results(session, original, results, flow, changes.there, returned)
        return Replay(original, plan, events, results, answers, inputs, released, flow, same_code)

    def _gone(self, original: Execution, released: Released) -> set[str]:
        """The checkpoints that the version replayed was seen to have, and the one to run is not.

        What was not seen there either, though it ran, says nothing: its call stands outside the flow's own module.
        """
        if original.snapshot is None:
            return set()
        before = _parsed(self._session.snapshot_body(original))
        return set(before.checkpoints) - set(released.snapshot.checkpoints)

    def start(self, settled: Replay) -> FlowHandle:
        """Open the new execution, and begin with it."""
        session = self._session
        original, released = settled.original, settled.released
        store, project = session.store, session.project
        runner = None
        if released is not None:
            runner = wiring.runner_of(session.settings, released.snapshot.stack, session.reporter)
            runner.check(released.body)
        source, target = self._running.place_of(settled.flow) if settled.flow is not None else (None, "")
        moment = session.clock.now()
        at = timestamp(moment)
        results = {name: given_value(store, project, one, name) for name, one in settled.results.items()}
        answers = {name: given_value(store, project, one, name) for name, one in settled.answers.items()}
        opened = Opened(
            at=at,
            project=project,
            exec_id=address.exec_id(moment, session.clock.token(8)),
            flow=original.flow_name,
            target=released.snapshot.target if released else target,
            inputs=self._stored(settled),
            origin="invoke" if released else "run",
            stack=released.snapshot.stack.name if released else "local",
            # What comes after the cut is to run, and not to be taken from the very execution that is replayed.
            options=replace(original.options, cache_asked=False),
            version=released.version if released else None,
            snapshot=released.sha if released else None,
            commit=original.commit if released and released.sha == original.snapshot else None,
            actor=session.actor,
            original_exec_id=original.exec_id,
            source=source,
            opener=session.this_process() if released is None else None,
        )
        offered = offers(
            settled.events,
            settled.plan,
            results,
            answers,
            by=session.actor,
            at=at,
            movable=not settled.same_code or len(original.attempts) > 1,
        )
        entries = open_replay(store, session.clock, opened, offered)
        if runner is None or released is None:
            assert settled.flow is not None
            return self._running.in_thread(settled.flow, opened.exec_id, entries)
        order = RunOrder(store=store.url, project=project, exec_id=opened.exec_id, entries=len(entries))
        try:
            runner.launch(order, released.body)
        except KitaruError as error:
            journal = Journal(store, project, opened.exec_id, written=len(entries), write_id=session.clock.token(26))
            failure = Failure(type=type(error).__name__, message=error.message, origin="runtime")
            journal.commit(Failed(at=timestamp(session.clock.now()), error=failure))
            raise
        return FlowHandle(session, opened.exec_id)

    def _released(self, original: Execution, version: int | None, tag: str | None) -> Released | None:
        """The version to run; None where the original ran from source and nothing else is asked for."""
        if version is None and tag is None:
            if original.snapshot is None:
                return None
            body = self._session.snapshot_body(original)
            return Released(original.version, original.snapshot, body, _parsed(body))
        deployments = import_module("kitaru.client.deployments").Deployments(self._session)
        found = deployments.get(original.flow_name, tag=tag, version=version)
        body = self._session.get_object(found.snapshot, f"snapshot of {found.flow} v{found.version}")
        return Released(found.version, found.snapshot, body, _parsed(body))

    def _inputs(
        self,
        original: Execution,
        args: Mapping[str, Any] | None,
        released: Released | None,
        flow: Flow[..., Any] | None,
    ) -> Mapping[str, Any] | None:
        """The inputs where they differ from the recorded ones; ``KitaruInputError`` where they don't fit."""
        session = self._session
        subject = f"the inputs of {original.exec_id}"
        if released is None:
            assert flow is not None
            if args is None:
                return None
            bound = flow.bind((), {**read_value(session, original.inputs, subject), **args})
            return None if self._are_recorded(original, bound, typed=True) else bound
        merged = {**plain_value(session, original.inputs, subject), **(args or {})}
        wrong = session.check_inputs(released.snapshot.input_schema, merged)
        if wrong:
            lines = "\n".join(f"  {text}" for text in wrong)
            which = f" v{released.version}" if released.version else ""
            raise KitaruInputError(
                f"the inputs don't fit {original.flow_name}{which}:\n{lines}",
                problems=tuple(Problem(text) for text in wrong),
                hint="""--args '{"name": "value"}' gives others""",
            )
        if args is None or self._are_recorded(original, merged, typed=False):
            return None
        if released.sha == original.snapshot:
            defaults = _defaults(released.snapshot.input_schema)
            recorded = {**defaults, **plain_value(session, original.inputs, subject)}
            if canonical_json(recorded) == canonical_json({**defaults, **merged}):
                return None
        return merged

    def _are_recorded(self, original: Execution, inputs: Mapping[str, Any], *, typed: bool) -> bool:
        """Whether the inputs are those of the original, in whatever order."""
        encoded = _encoded(inputs, typed=typed)
        value = original.inputs
        if encoded.value.sha256 == value.sha256 or "object" in (encoded.value.stored, value.stored):
            return bool(encoded.value.sha256 == value.sha256)
        same_form = encoded.value.format == value.format
        return same_form and canonical_json(encoded.value.inline) == canonical_json(value.inline)

    def _stored(self, settled: Replay) -> Value:
        if settled.inputs is None:
            return settled.original.inputs
        encoded = _encoded(settled.inputs, typed=settled.released is None)
        import_module("kitaru.values.stored").put(self._session.store, self._session.project, encoded)
        found: Value = encoded.value
        return found


def _there(released: Released | None, flow: Flow[..., Any] | None) -> list[str]:
    """The checkpoints that the code to run is seen to have; it may have others, in other modules."""
    if released is not None:
        return list(released.snapshot.checkpoints)
    found: list[str] = import_module("kitaru.flows.describe").reached_checkpoints(flow.func) if flow else []
    return found


def _defaults(schema: Mapping[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties", {})
    return {name: one["default"] for name, one in properties.items() if "default" in one}


def _encoded(inputs: Mapping[str, Any], *, typed: bool) -> Any:
    return import_module("kitaru.values.codec").encode(dict(inputs), subject="the inputs", typed=typed)


def _parsed(body: bytes) -> Snapshot:
    model = import_module("kitaru.model.snapshot").Snapshot
    parsed: Snapshot = model.parse(body)
    return parsed


def _code(released: Released | None) -> str:
    if released is None:
        return "the source as it is now"
    return f"v{released.version}" if released.version else "the code to run"
