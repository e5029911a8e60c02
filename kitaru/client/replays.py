"""Replays: a new execution on a version, or from source, that takes over the finished calls of another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from kitaru import wiring
from kitaru.client.deployments import Deployments
from kitaru.client.handle import FlowHandle
from kitaru.client.session import Session
from kitaru.core.replay import Changes, plan_replay
from kitaru.errors import KitaruInputError, KitaruUsageError, Problem
from kitaru.flows.describe import checkpoints_of
from kitaru.model import address
from kitaru.model.address import canonical_json, timestamp
from kitaru.model.event import Opened, Value
from kitaru.model.snapshot import Snapshot
from kitaru.run.invoker import launch
from kitaru.run.journal import read_events
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
from kitaru.store.objects import get_object
from kitaru.values import stored
from kitaru.values.stored import encode

if TYPE_CHECKING:
    from kitaru.client.executions import ExecutionsClient
    from kitaru.flows.flow import Flow


@dataclass(frozen=True)
class Released:
    """The version that a replay runs: its snapshot, as it is stored and as data."""

    version: int | None
    sha: str
    body: bytes
    snapshot: Snapshot

    @property
    def name(self) -> str:
        """``v2``, where the number is known."""
        return f"v{self.version}" if self.version else "the code to run"


class Replay:
    """A replay that is settled and not begun: ``plan`` says which calls it takes over."""

    def __init__(
        self,
        runs: ExecutionsClient,
        session: Session,
        exec_id: str,
        *,
        cut: str,
        args: Mapping[str, Any] | None,
        overrides: Mapping[str, Any],
        version: int | None,
        tag: str | None,
        flow: Flow[..., Any] | None,
    ) -> None:
        """Check everything; nothing is written."""
        self._runs, self._session = runs, session
        self._original, entries = session.executions.get_recorded(exec_id)
        self._events = read_events(entries, exec_id)
        original = self._original
        self._results, self._answers = split_overrides(overrides)
        if flow is not None and (version is not None or tag is not None):
            raise KitaruUsageError("a replay runs a flow from source, or a version: not both", hint="leave one out")
        self._released = None if flow is not None else self._version(version, tag)
        released = self._released
        self._flow = flow = flow if released is not None or flow is not None else runs.source_of(original)
        if flow is not None and flow.name != original.flow_name:
            raise KitaruUsageError(
                f"{original.exec_id} is an execution of {original.flow_name}, not of {flow.name}",
                hint=f"kitaru executions list --flow {flow.name}",
            )
        self._inputs = self._changed_inputs(args)
        self._same_code = released is not None and released.sha == original.snapshot
        if self._same_code:
            check_answers(original, self._answers, wiring.check_answer)
        there = released.snapshot.checkpoints if released is not None else ()
        changes = Changes(
            code="" if self._same_code else released.name if released is not None else "the source as it is now",
            inputs=self._inputs is not None,
            results=self._results,
            answers=self._answers,
            gone=self._gone(released) if released is not None and not self._same_code else (),
            there=there if flow is None else [one.name for one in checkpoints_of(flow.func)],
        )
        self.plan = plan_replay(original, cut=cut, changes=changes)
        check_results(
            original,
            self._results,
            flow,
            changes.there,
            failed_returns(self._events) if self._same_code else {},
            read=partial(session.value, as_plain=True),
            check=wiring.check_answer,
        )

    def start(self) -> FlowHandle:
        """Open the new execution, and begin with it."""
        session, original, released = self._session, self._original, self._released
        store, project, clock = session.store, session.project, session.clock
        if released is not None:
            runner = wiring.runner_of(session.settings, released.snapshot.stack, session.reporter)
            runner.check(released.body)
        moment = clock.now()
        at = timestamp(moment)
        opened = Opened(
            at=at,
            project=project,
            exec_id=address.exec_id(moment, clock.token(8)),
            flow=original.flow_name,
            target="",
            inputs=self._stored_inputs(),
            origin="run",
            stack="local",
            # What comes after the cut is to run, and not to be taken from the very execution that is replayed.
            options=replace(original.options, cache_asked=False),
            actor=session.actor,
            original_exec_id=original.exec_id,
        )
        if released is not None:
            opened = replace(
                opened,
                target=released.snapshot.target,
                origin="invoke",
                stack=released.snapshot.stack.name,
                version=released.version,
                snapshot=released.sha,
                commit=original.commit if self._same_code else None,
            )
        elif self._flow is not None:
            source, target = self._runs.place_of(self._flow)
            opened = replace(opened, target=target, source=source, opener=wiring.this_process())
        offered = offers(
            self._events,
            self.plan,
            {name: given_value(store, project, one, name) for name, one in self._results.items()},
            {name: given_value(store, project, one, name) for name, one in self._answers.items()},
            by=session.actor,
            at=at,
            movable=not self._same_code or len(original.attempts) > 1,
        )
        entries = open_replay(store, clock, opened, offered)
        if self._flow is not None:
            return self._runs.in_thread(self._flow, opened.exec_id, entries)
        assert released is not None
        order = RunOrder(store=store.url, project=project, exec_id=opened.exec_id, snapshot=released.body)
        return FlowHandle(session, opened.exec_id, launch(runner, order, store, clock, entries))

    def _version(self, version: int | None, tag: str | None) -> Released | None:
        """The version to run; None if the original ran from source and nothing else is asked for."""
        original = self._original
        if version is not None or tag is not None:
            found = Deployments(self._session).get(original.flow_name, tag=tag, version=version)
            number, sha, subject = found.version, found.snapshot, f"snapshot of {found.flow} v{found.version}"
            return self._parsed(number, sha, subject)
        if original.snapshot is None:
            return None
        return self._parsed(original.version, original.snapshot, f"snapshot of {original.exec_id}")

    def _parsed(self, version: int | None, sha: str, subject: str) -> Released:
        body = get_object(self._session.store, self._session.project, sha, subject)
        return Released(version, sha, body, Snapshot.parse(body))

    def _gone(self, released: Released) -> set[str]:
        """The checkpoints that the version replayed was seen to have, and the one to run is not.

        A checkpoint that ran and was not seen there either says nothing: it stands outside the flow's own module.
        """
        before = self._version(None, None)
        return set(before.snapshot.checkpoints) - set(released.snapshot.checkpoints) if before is not None else set()

    def _changed_inputs(self, args: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """The inputs if they differ from the recorded ones; ``KitaruInputError`` if they don't fit."""
        session, original, released = self._session, self._original, self._released
        subject = f"the inputs of {original.exec_id}"
        if released is None:
            assert self._flow is not None
            if args is None:
                return None
            bound = self._flow.bind((), {**session.value(original.inputs, subject), **args})
            new, old = encode(dict(bound), subject=subject).value, original.inputs
            same_form = (new.stored, new.format) == (old.stored, old.format) == ("inline", old.format)
            same = same_form and canonical_json(new.inline) == canonical_json(old.inline)
            return None if same or new.sha256 == old.sha256 else bound
        recorded = session.value(original.inputs, subject, as_plain=True)
        merged = {**recorded, **(args or {})}
        schema = released.snapshot.input_schema
        wrong = wiring.check_inputs(schema, merged)
        if wrong:
            lines = "\n".join(f"  {text}" for text in wrong)
            number = f" v{released.version}" if released.version else ""
            raise KitaruInputError(
                f"the inputs don't fit {original.flow_name}{number}:\n{lines}",
                problems=tuple(Problem(text) for text in wrong),
                hint="""--args '{"name": "value"}' gives others""",
            )
        filled = {}
        if released.sha == original.snapshot:
            properties = schema.get("properties", {})
            filled = {name: one["default"] for name, one in properties.items() if "default" in one}
        return None if canonical_json({**filled, **merged}) == canonical_json({**filled, **recorded}) else merged

    def _stored_inputs(self) -> Value:
        if self._inputs is None:
            return self._original.inputs
        encoded = encode(dict(self._inputs), subject="the inputs", typed=self._released is None)
        stored.put(self._session.store, self._session.project, encoded)
        return encoded.value
