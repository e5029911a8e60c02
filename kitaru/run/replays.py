"""Replays: a new execution that takes over what another one finished, and runs the rest anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kitaru import wiring
from kitaru.client.handle import FlowHandle
from kitaru.client.reading import plain_value, read_value
from kitaru.client.session import Session
from kitaru.core.replay_plan import Changes, failing_calls, on_its_way, plan_replay
from kitaru.errors import KitaruError, KitaruInputError, KitaruUsageError, Problem
from kitaru.model import address
from kitaru.model.address import canonical_json, timestamp
from kitaru.model.event import Event, Failed, Failure, Opened, Value
from kitaru.model.execution import Execution, fold
from kitaru.model.replay import ReplayPlan
from kitaru.ports import RunOrder
from kitaru.run.journal import Journal, read_entries, read_events
from kitaru.run.overrides import check_answers, check_results, failed_returns, told_apart
from kitaru.run.replaying import given_value, offers, open_replay

if TYPE_CHECKING:
    from kitaru.client.running import Running
    from kitaru.flows.flow import Flow
    from kitaru.model.snapshot import Snapshot


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
            failing=failing_calls(events, original),
        )
        plan = plan_replay(*on_its_way(events, original), cut=cut, changes=changes)
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
            options=replace(original.options, cache=False),
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
            movable=not settled.same_code,
        )
        entries = open_replay(store, session.clock, opened, offered)
        if runner is None or released is None:
            assert settled.flow is not None
            return self._running.in_thread(settled.flow, opened.exec_id, entries)
        order = RunOrder(project, opened.exec_id, store.url, released.body, entries)
        try:
            runner.launch(order)
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
        body = self._session.read_object(found.snapshot, f"snapshot of {found.flow} v{found.version}")
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
        import_module("kitaru.values.values").put(self._session.store, self._session.project, encoded)
        found: Value = encoded.value
        return found


def _there(released: Released | None, flow: Flow[..., Any] | None) -> list[str]:
    """The checkpoints that the code to run is seen to have; it may have others, in other modules."""
    if released is not None:
        return list(released.snapshot.checkpoints)
    found: list[str] = import_module("kitaru.flows.facts").reached_checkpoints(flow.func) if flow else []
    return found


def _defaults(schema: Mapping[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties", {})
    return {name: one["default"] for name, one in properties.items() if "default" in one}


def _encoded(inputs: Mapping[str, Any], *, typed: bool) -> Any:
    return import_module("kitaru.values.codecs").encode(dict(inputs), subject="the inputs", typed=typed)


def _parsed(body: bytes) -> Snapshot:
    model = import_module("kitaru.model.snapshot").Snapshot
    parsed: Snapshot = model.parse(body)
    return parsed


def _code(released: Released | None) -> str:
    if released is None:
        return "the source as it is now"
    return f"v{released.version}" if released.version else "the code to run"
