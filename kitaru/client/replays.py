"""Replays: a new execution on a version, or from source, that takes over the finished calls of another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kitaru import wiring
from kitaru.client.handle import FlowHandle
from kitaru.client.session import Session
from kitaru.client.values import plain_value, read_value
from kitaru.core.replay import Changes, plan_replay
from kitaru.errors import KitaruInputError, KitaruUsageError, Problem
from kitaru.model import address
from kitaru.model.address import canonical_json, timestamp
from kitaru.model.event import Event, Opened, Value
from kitaru.model.execution import Execution, ReplayPlan, fold
from kitaru.run.journal import read_entries, read_events
from kitaru.run.replay import (
    check_answers,
    check_results,
    failed_returns,
    given_value,
    offers,
    open_replay,
    split_overrides,
)
from kitaru.stacks.port import RunOrder
from kitaru.values import stored
from kitaru.values.codec import Encoded, encode

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
    """A replay that is settled and not begun: ``plan`` says which calls it takes over.

    ``inputs``: None if they are the recorded ones. ``same_code``: it is known to run the code of the original.
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
    """The replays of ``client.executions``."""

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
        """Check everything; nothing is written."""
        session = self._session
        entries = read_entries(session.store, session.project, session.executions.full_id(exec_id))
        if not entries:
            session.executions.get(exec_id)
        events = read_events(entries, exec_id)
        original = fold(events)
        results, answers = split_overrides(overrides)
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
            check_answers(original, answers, wiring.check_answer)
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
        check_results(
            original,
            results,
            flow,
            changes.there,
            returned,
            read=lambda value, subject: plain_value(session, value, subject),
            check=wiring.check_answer,
        )
        return Replay(original, plan, events, results, answers, inputs, released, flow, same_code)

    def _gone(self, original: Execution, released: Released) -> set[str]:
        """The checkpoints that the version replayed was seen to have, and the one to run is not.

        A checkpoint that ran and was not seen there either says nothing: it stands outside the flow's own module.
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
            opener=wiring.this_process() if released is None else None,
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
        order = RunOrder(store=store.url, project=project, exec_id=opened.exec_id, snapshot=released.body)
        from kitaru.run.invoker import launch  # Late: it brings pydantic, which a run from source needs not.

        return FlowHandle(session, opened.exec_id, launch(runner, order, store, session.clock, entries))

    def _released(self, original: Execution, version: int | None, tag: str | None) -> Released | None:
        """The version to run; None if the original ran from source and nothing else is asked for."""
        if version is None and tag is None:
            if original.snapshot is None:
                return None
            body = self._session.snapshot_body(original)
            return Released(original.version, original.snapshot, body, _parsed(body))
        from kitaru.client.deployments import Deployments

        found = Deployments(self._session).get(original.flow_name, tag=tag, version=version)
        body = self._session.get_object(found.snapshot, f"snapshot of {found.flow} v{found.version}")
        return Released(found.version, found.snapshot, body, _parsed(body))

    def _inputs(
        self,
        original: Execution,
        args: Mapping[str, Any] | None,
        released: Released | None,
        flow: Flow[..., Any] | None,
    ) -> Mapping[str, Any] | None:
        """The inputs if they differ from the recorded ones; ``KitaruInputError`` if they don't fit."""
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
        """Whether the inputs are those of the original, in any order."""
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
        stored.put(self._session.store, self._session.project, encoded)
        return encoded.value


def _there(released: Released | None, flow: Flow[..., Any] | None) -> list[str]:
    """The checkpoints that the code to run is seen to have; it may have others, in other modules."""
    if released is not None:
        return list(released.snapshot.checkpoints)
    if flow is None:
        return []
    from kitaru.flows.describe import reached_checkpoints

    return reached_checkpoints(flow.func)


def _defaults(schema: Mapping[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties", {})
    return {name: one["default"] for name, one in properties.items() if "default" in one}


def _encoded(inputs: Mapping[str, Any], *, typed: bool) -> Encoded:
    return encode(dict(inputs), subject="the inputs", typed=typed)


def _parsed(body: bytes) -> Snapshot:
    from kitaru.model.snapshot import Snapshot

    return Snapshot.parse(body)


def _code(released: Released | None) -> str:
    if released is None:
        return "the source as it is now"
    return f"v{released.version}" if released.version else "the code to run"
