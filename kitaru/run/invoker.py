"""An execution of a released version: validate its inputs, open its journal, launch its worker."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from kitaru.core.resolving import Resolved
from kitaru.errors import (
    KitaruConflictError,
    KitaruError,
    KitaruInputError,
    KitaruStackError,
    KitaruUsageError,
    Problem,
)
from kitaru.manifest.port import InputCheck
from kitaru.model import address
from kitaru.model.address import canonical_json, digest, timestamp
from kitaru.model.event import ExecutionOptions, Failure, Opened
from kitaru.model.snapshot import NamedStack, Snapshot
from kitaru.ports import Clock
from kitaru.run.index import record_failed_start
from kitaru.run.journal import open_execution
from kitaru.stacks.port import Handle, Runner, RunOrder
from kitaru.store.log import claim
from kitaru.store.objects import get_object, parse
from kitaru.store.port import Store, Taken
from kitaru.values.stored import encode, put


@dataclass(frozen=True, slots=True)
class Launched:
    """The worker that was started, and the runner that started it, which knows why nothing came of it."""

    runner: Runner
    worker: Handle


@dataclass(frozen=True, slots=True)
class Invoked:
    """An execution that was started, or, under an idempotency key, had been already (``reused``)."""

    exec_id: str
    flow: str
    version: int | None = None
    tag: str | None = None
    reused: bool = False
    launched: Launched | None = None


@dataclass(frozen=True, slots=True)
class Invoker:
    """Starts executions of one project's released versions.

    ``runner_of`` gives the runner of a stack; ``stack_named`` finds the stack that a caller named instead of the
    version's own.
    """

    store: Store
    project: str
    clock: Clock
    check_inputs: InputCheck
    runner_of: Callable[[NamedStack], Runner]
    stack_named: Callable[[str], NamedStack]

    def check_store(self) -> None:
        """``KitaruStackError`` for a store that no worker could see."""
        if not self.store.durable_across_processes:
            raise KitaruStackError(
                f"{self.store.url} lives inside this process, and an invoked execution runs in a process of its own",
                hint="use a file:// or s3:// store, or my_flow.run() here",
            )

    def earlier(self, flow: str, names: Collection[str], key: str, inputs: Mapping[str, Any]) -> Invoked | None:
        """The execution that this idempotency key led to before, under any of the flow's names; None if there is none.

        ``KitaruUsageError`` for an empty key, ``KitaruConflictError`` for one that was used with other inputs.
        """
        if not key.strip():
            raise KitaruUsageError(
                "the idempotency key is empty",
                hint="give each request a key of its own, such as an order's number, or leave the key out",
            )
        for name in sorted(names, key=lambda name: name != flow):
            body = self.store.read(address.idempotency(self.project, name, key))
            if body is None:
                continue
            exec_id = _same_request(body, flow, key, inputs)
            # A caller that died between the two writes left the key alone: then this call opens the execution.
            if self.store.read(address.journal_entry(self.project, exec_id, 1)) is not None:
                return Invoked(exec_id, flow, reused=True)
        return None

    def invoke(
        self,
        resolved: Resolved,
        inputs: Mapping[str, Any],
        *,
        actor: str,
        stack: str | None = None,
        cache: bool | None = None,
        idempotency_key: str | None = None,
        first_name: str = "",
    ) -> Invoked:
        """Start an execution of that version, which goes on by itself. ``cache``: instead of the snapshot's own choice.

        ``first_name``: the name that the flow began with, under which the key is kept. Nothing exists when it raises:
        ``KitaruInputError`` (with all that is wrong), ``KitaruStackError``, others.
        """
        self.check_store()
        flow = resolved.flow
        subject = f"snapshot of {flow} v{resolved.version}"
        body = get_object(self.store, self.project, resolved.snapshot, subject)
        snapshot = parse(Snapshot, body, subject)
        merged = {**snapshot.inputs, **inputs}  # the caller's over the representative ones
        wrong = self.check_inputs(snapshot.input_schema, merged)
        if wrong:
            lines = "\n".join(f"  {text}" for text in wrong)
            raise KitaruInputError(
                f"the inputs don't fit {flow} v{resolved.version}:\n{lines}",
                problems=tuple(Problem(text) for text in wrong),
                hint=f"kitaru flow deployments show {flow} --version {resolved.version}",
            )
        place, options = self.stack_named(stack) if stack else snapshot.stack, snapshot.options
        runner = self.runner_of(place)
        runner.check(body, chosen=stack is not None)
        encoded = encode(merged, subject=f"the inputs of {flow}", typed=False)
        put(self.store, self.project, encoded)
        opened = Opened(
            at=timestamp(self.clock.now()),
            project=self.project,
            exec_id=self._exec_id(flow, idempotency_key, inputs, first_name or flow),
            flow=flow,
            target=snapshot.target,
            inputs=encoded.value,
            origin="invoke",
            stack=place.name,
            options=ExecutionOptions(options.retries, options.cache, cache, options.timeout),
            version=resolved.version,
            tag=resolved.tag,
            snapshot=resolved.snapshot,
            actor=actor,
            idempotency_key=idempotency_key,
            draw=_drawn(resolved, idempotency_key),
        )
        entry = open_execution(self.store, opened, self.clock.token(26))
        if isinstance(entry, Taken):
            # Another caller with the same key opened it between our look and our write.
            return Invoked(opened.exec_id, flow, reused=True)
        order = RunOrder(store=self.store.url, project=self.project, exec_id=opened.exec_id, snapshot=body)
        launched = launch(runner, order, self.store, self.clock, (entry,))
        return Invoked(opened.exec_id, flow, resolved.version, resolved.tag, launched=launched)

    def _exec_id(self, flow: str, key: str | None, inputs: Mapping[str, Any], first: str) -> str:
        """A new id, or the one that the key led to: it is kept under the name that the flow began with."""
        fresh = address.exec_id(self.clock.now(), self.clock.token(8))
        if key is None:
            return fresh
        record = canonical_json({"exec_id": fresh, "inputs": _digest(inputs), "write": self.clock.token(26)})
        outcome = claim(self.store, address.idempotency(self.project, first, key), record)
        return _same_request(outcome.existing, flow, key, inputs) if isinstance(outcome, Taken) else fresh


def launch(runner: Runner, order: RunOrder, store: Store, clock: Clock, entries: tuple[bytes, ...]) -> Launched:
    """Launch the worker of an execution that was opened with these entries; if that fails, so has the execution."""
    try:
        return Launched(runner, runner.launch(order))
    except KitaruError as error:
        failure = Failure(type=type(error).__name__, message=error.message, origin="runtime")
        record_failed_start(store, clock, order.project, order.exec_id, entries, failure)
        raise


def _drawn(resolved: Resolved, key: str | None) -> dict[str, Any] | None:
    """The draw of the version, for the journal; None if the route leads to one version.

    Example: ``{"weights": {"1": 90, "2": 10}, "by": "chance"}``.
    """
    if not resolved.weights:
        return None
    weights = {str(version): weight for version, weight in resolved.weights}
    return {"weights": weights, "by": "idempotency key" if key else "chance"}


def _digest(inputs: Mapping[str, Any]) -> str:
    return digest(canonical_json(dict(inputs)))


def _same_request(record: bytes, flow: str, key: str, inputs: Mapping[str, Any]) -> str:
    found = json.loads(record)
    exec_id = str(found["exec_id"])
    if found["inputs"] != _digest(inputs):
        raise KitaruConflictError(
            f"idempotency key {key!r} of {flow} was used with other inputs, by {exec_id}",
            hint=f"use another key, or look: kitaru executions get {exec_id}",
        )
    return exec_id
