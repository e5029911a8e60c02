"""Resolve, validate, open, launch: an execution of a released version."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kitaru.core.renames import first_name, names_of, present_name
from kitaru.core.resolving import Resolved, in_table, resolve
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
from kitaru.model.event import ExecutionOptions, Failed, Failure, Opened
from kitaru.model.lockfile import Lockfile
from kitaru.model.route import Selector
from kitaru.model.snapshot import Snapshot
from kitaru.model.stack import NamedStack
from kitaru.ports import Clock
from kitaru.release.releases import Releases
from kitaru.run.index import note_state
from kitaru.run.journal import Journal, open_execution
from kitaru.stacks.port import Runner, RunnerInfo, RunOrder
from kitaru.store.log import claim
from kitaru.store.objects import get_object, parse, read_table
from kitaru.store.port import Store, Taken
from kitaru.values.codec import encode
from kitaru.values.stored import put


@dataclass(frozen=True, slots=True)
class Launched:
    """The process that was started, and the runner that started it: who waits asks it why nothing came."""

    runner: Runner
    process: RunnerInfo


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
    releases: Releases
    clock: Clock
    check_inputs: InputCheck
    runner_of: Callable[[NamedStack], Runner]
    stack_named: Callable[[str], NamedStack]

    def resolve(self, flow: str, selector: Selector) -> Resolved:
        """The version that the selector leads to now: two reads, three for a version that no route holds."""
        return self._resolved(self.releases.head(), flow, selector)

    def _resolved(self, lock: Lockfile, flow: str, selector: Selector, key: str | None = None) -> Resolved:
        """``key``: what a version is drawn by, where the route is divided by weights."""
        found = resolve(lock, flow, selector, key=key)
        if isinstance(found, Resolved):
            return found
        table = read_table(self.store, self.project, found.table, flow)
        return in_table(table, found, getattr(selector, "version", 0))

    def invoke(
        self,
        flow: str,
        selector: Selector,
        inputs: Mapping[str, Any],
        *,
        actor: str,
        stack: str | None = None,
        cache: bool | None = None,
        idempotency_key: str | None = None,
    ) -> Invoked:
        """Start an execution, which goes on by itself. ``cache``: instead of what the snapshot says.

        Nothing exists when it raises: ``KitaruSelectorError``, ``KitaruInputError`` (with all that is wrong), others.
        """
        if not self.store.durable_across_processes:
            raise KitaruStackError(
                f"{self.store.url} lives inside this process, and an invoked execution runs in a process of its own",
                hint="use a file:// or s3:// store, or my_flow.run() here",
            )
        _must_say_something(idempotency_key)
        found = self._looked_up(flow, selector, inputs, idempotency_key)
        if isinstance(found, Invoked):
            return found
        resolved, first = found
        what = f"snapshot of {flow} v{resolved.version}"
        body = get_object(self.store, self.project, resolved.snapshot, what)
        snapshot = parse(Snapshot, body, what)
        merged = self._fitting(flow, resolved.version, snapshot, inputs)
        place = self.stack_named(stack) if stack else snapshot.stack
        runner = self.runner_of(place)
        runner.check(body)
        encoded = encode(merged, subject=f"the inputs of {flow}", typed=False)
        put(self.store, self.project, encoded)
        opened = Opened(
            at=timestamp(self.clock.now()),
            project=self.project,
            exec_id=self._exec_id(flow, idempotency_key, inputs, first),
            flow=flow,
            target=snapshot.target,
            inputs=encoded.value,
            origin="invoke",
            stack=place.name,
            options=_options(snapshot, cache),
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
        launched = self._launch(runner, opened.exec_id, body, entry)
        return Invoked(opened.exec_id, flow, resolved.version, resolved.tag, launched=launched)

    def _launch(self, runner: Runner, exec_id: str, snapshot: bytes, entry: bytes) -> Launched:
        order = RunOrder(store=self.store.url, project=self.project, exec_id=exec_id)
        try:
            return Launched(runner, runner.launch(order, snapshot))
        except KitaruError as error:
            journal = Journal(self.store, self.project, exec_id, written=1, write_id=self.clock.token(26))
            failure = Failure(type=type(error).__name__, message=error.message, origin="runtime")
            journal.commit(Failed(at=timestamp(self.clock.now()), error=failure))
            note_state(self.store, self.project, exec_id, (entry,))
            raise

    def _fitting(self, flow: str, version: int, snapshot: Snapshot, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The representative inputs with the caller's over them, once they fit the snapshot's schema."""
        merged = {**snapshot.inputs, **inputs}
        wrong = self.check_inputs(snapshot.input_schema, merged)
        if wrong:
            lines = "\n".join(f"  {text}" for text in wrong)
            raise KitaruInputError(
                f"the inputs don't fit {flow} v{version}:\n{lines}",
                problems=tuple(Problem(text) for text in wrong),
                hint=f"kitaru flow deployments show {flow} --version {version}",
            )
        return merged

    def _looked_up(
        self, flow: str, selector: Selector, inputs: Mapping[str, Any], key: str | None
    ) -> Invoked | tuple[Resolved, str]:
        """What the key led to before, under any name of the flow; else the version, and the flow's first name.

        One that was never renamed has one name, and costs no more reads for that.
        """
        if key is not None:
            try:
                found = self._earlier(flow, key, inputs, flow)
            except KitaruConflictError:
                # What a caller of a former name must know first: the key is not what to look into.
                lock = self.releases.head()
                if present_name(lock.flows, flow) != flow:
                    resolve(lock, flow, selector)
                raise
            if found:
                return found
        lock = self.releases.head()
        if key is not None:
            for name in sorted(names_of(lock.flows, present_name(lock.flows, flow)) - {flow}):
                if found := self._earlier(flow, key, inputs, name):
                    return found
        resolved = self._resolved(lock, flow, selector, key or self.clock.token(26))
        return resolved, first_name(lock.flows, flow)

    def _earlier(self, flow: str, key: str, inputs: Mapping[str, Any], name: str) -> Invoked | None:
        """The execution that this key led to before, under that name of the flow, whatever became of it since."""
        body = self.store.read(address.idempotency(self.project, name, key))
        if body is None:
            return None
        exec_id = _same_request(body, flow, key, inputs)
        first = self.store.read(address.journal_entry(self.project, exec_id, 1))
        # A caller that died between the two writes left the key alone: then this call opens the execution.
        return Invoked(exec_id, flow, reused=True) if first is not None else None

    def _exec_id(self, flow: str, key: str | None, inputs: Mapping[str, Any], first: str) -> str:
        """A new id, or the one that the key led to: it is kept under the name that the flow began with."""
        fresh = address.exec_id(self.clock.now(), self.clock.token(8))
        if key is None:
            return fresh
        record = canonical_json({"exec_id": fresh, "inputs": _digest(inputs), "write": self.clock.token(26)})
        outcome = claim(self.store, address.idempotency(self.project, first, key), record)
        return _same_request(outcome.existing, flow, key, inputs) if isinstance(outcome, Taken) else fresh


def _must_say_something(key: str | None) -> None:
    if key is not None and not key.strip():
        raise KitaruUsageError(
            "the idempotency key is empty",
            hint="give each request a key of its own, such as an order's number, or leave the key out",
        )


def _drawn(resolved: Resolved, key: str | None) -> dict[str, Any] | None:
    """What the journal says of a version that was drawn; None where the route leads to one alone."""
    if not resolved.weights:
        return None
    weights = {str(version): weight for version, weight in resolved.weights}
    return {"weights": weights, "by": "idempotency key" if key else "chance"}


def _options(snapshot: Snapshot, cache: bool | None) -> ExecutionOptions:
    options = snapshot.options
    return ExecutionOptions(options.retries, options.cache, cache, options.timeout)


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
