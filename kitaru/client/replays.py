"""Replays: a new execution that takes over what another one finished, and runs the rest anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kitaru import wiring
from kitaru.client.answers import check_fits
from kitaru.client.handle import FlowHandle, plain_value, read_value
from kitaru.client.session import Session
from kitaru.core.replay_plan import plan_replay
from kitaru.engine.journal import Journal, read_entries, read_events
from kitaru.engine.replaying import given_value, open_replay, seeds
from kitaru.errors import KitaruError, KitaruInputError, KitaruUsageError, Problem
from kitaru.model import address
from kitaru.model.address import timestamp
from kitaru.model.event import Event, Failed, Failure, Opened, Value
from kitaru.model.execution import Execution, fold
from kitaru.model.replay import ReplayPlan
from kitaru.ports import RunOrder

if TYPE_CHECKING:
    from kitaru.authoring.flow import Flow
    from kitaru.client.running import Running
    from kitaru.model.snapshot import Snapshot

CHECKPOINT = "checkpoint."
WAIT = "wait."


@dataclass(frozen=True)
class Released:
    """The version that a replay runs: its snapshot, as it is stored and as data."""

    version: int | None
    sha: str
    body: bytes
    snapshot: Snapshot


@dataclass(frozen=True)
class Replay:
    """A replay that is settled and not begun: ``plan`` says what it takes over."""

    original: Execution
    plan: ReplayPlan
    events: list[Event]
    results: Mapping[str, Any]
    answers: Mapping[str, Any]
    inputs: Mapping[str, Any] | None
    released: Released | None
    flow: Flow[..., Any] | None


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
        results, answers = _sorted(original, overrides)
        if flow is not None and (version is not None or tag is not None):
            raise KitaruUsageError("a replay runs a flow from source, or a version: not both", hint="leave one out")
        released = None if flow is not None else self._released(original, version, tag)
        if released is None and flow is None:
            flow = self._running.load_source(original.target)
        if flow is not None and flow.name != original.flow_name:
            raise KitaruUsageError(
                f"{original.exec_id} is an execution of {original.flow_name}, not of {flow.name}",
                hint=f"kitaru executions list --flow {flow.name}",
            )
        known = released.snapshot.checkpoints if released is not None and released.snapshot.checkpoints else None
        plan = plan_replay(
            original.checkpoints, original.waits, cut=cut, overrides=results, new_inputs=args is not None, known=known
        )
        inputs = self._inputs(original, args, released, flow)
        return Replay(original, plan, events, results, answers, inputs, released, flow)

    def start(self, settled: Replay) -> FlowHandle:
        """Open the new execution, and begin with it."""
        session = self._session
        original, released = settled.original, settled.released
        store, project = session.store, session.project
        runner = None
        if released is not None:
            runner = wiring.runner_of(session.settings, released.snapshot.stack, session.reporter)
            runner.check(released.body)
        moment = session.clock.now()
        at = timestamp(moment)
        results = {name: given_value(store, project, one, name) for name, one in settled.results.items()}
        answers = {name: given_value(store, project, one, name) for name, one in settled.answers.items()}
        opened = Opened(
            at=at,
            project=project,
            exec_id=address.exec_id(moment, session.clock.token(8)),
            flow=original.flow_name,
            target=released.snapshot.target if released else original.target,
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
        )
        taken_over = seeds(settled.events, settled.plan, results, answers, at)
        entries = open_replay(store, session.clock, opened, taken_over)
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
            return None if args is None else flow.bind((), {**read_value(session, original.inputs, subject), **args})
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
        return None if args is None else merged

    def _stored(self, settled: Replay) -> Value:
        if settled.inputs is None:
            return settled.original.inputs
        encode = import_module("kitaru.core.codecs").encode
        encoded = encode(dict(settled.inputs), subject="the inputs", typed=settled.released is None)
        import_module("kitaru.engine.values").put(self._session.store, self._session.project, encoded)
        found: Value = encoded.value
        return found


def _parsed(body: bytes) -> Snapshot:
    model = import_module("kitaru.model.snapshot").Snapshot
    parsed: Snapshot = model.parse(body)
    return parsed


def _sorted(original: Execution, overrides: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Overrides by checkpoint, and by wait. ``KitaruUsageError`` for a name that says neither."""
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
    waits = {wait.name: wait for wait in original.waits}
    for name, value in answers.items():
        if name not in waits:
            raise KitaruUsageError(
                f"{original.exec_id} has no wait {name!r}; it has: {', '.join(waits) or 'none'}",
                hint="--override wait.NAME=JSON",
            )
        check_fits(waits[name], value)
    return results, answers
