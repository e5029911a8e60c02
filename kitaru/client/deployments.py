"""``client.deployments``: released versions, and executions of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from kitaru import wiring
from kitaru.client.handle import FlowHandle
from kitaru.client.session import Session
from kitaru.core.resolving import Resolved
from kitaru.engine.invoker import Invoked, Invoker
from kitaru.engine.records import read_snapshot, read_table
from kitaru.engine.releases import Releases
from kitaru.errors import KitaruInputError, KitaruSelectorError, KitaruUsageError
from kitaru.model.lockfile import FlowState, Lockfile, Release
from kitaru.model.route import ByTag, Selector, selector
from kitaru.model.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Deployment:
    """One released version of a flow. ``tags`` says of each tag that leads here whether it is exclusive."""

    flow: str
    version: int
    tags: Mapping[str, bool]
    snapshot: str
    created_at: str
    by: str
    commit_sha: str | None = None
    commit_dirty: bool = False
    target: str = ""
    stack: str = ""
    input_schema: Mapping[str, Any] | None = None
    details: Snapshot | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON data; the snapshot in full where it was asked for."""
        names = [name for name in self.__dataclass_fields__ if name != "details"]
        data = {name: getattr(self, name) for name in names}
        if self.details is not None:
            data["details"] = self.details.data()
        return {name: value for name, value in data.items() if value is not None}


@dataclass(frozen=True, slots=True)
class FlowSummary:
    """One flow of the project: its highest version and where its tags lead."""

    flow: str
    latest: int
    routes: Mapping[str, tuple[int, ...]]
    exclusive: Mapping[str, bool]
    managed: bool


class Deployments:
    """Verbs about released versions."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @cached_property
    def releases(self) -> Releases:
        """The project's lock log."""
        return Releases(self._session.store, self._session.project, self._session.clock)

    @cached_property
    def _invoker(self) -> Invoker:
        session = self._session
        return Invoker(
            store=session.store,
            project=session.project,
            releases=self.releases,
            clock=session.clock,
            check_inputs=session.check_inputs,
            runner_of=lambda stack: wiring.runner_of(session.settings, stack, session.reporter),
            stack_named=lambda name: wiring.stack_named(session.settings, name),
        )

    def invoke(
        self,
        flow: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        tag: str | None = None,
        version: int | None = None,
        stack: str | None = None,
        cache: bool | None = None,
        idempotency_key: str | None = None,
    ) -> FlowHandle:
        """Start an execution of the version that the selector leads to (``default`` where there is none).

        Raises ``KitaruSelectorError``, ``KitaruInputError``, ``KitaruStackError``: no execution exists then.
        """
        invoked = self.start(
            flow, inputs, tag=tag, version=version, stack=stack, cache=cache, idempotency_key=idempotency_key
        )
        return self.handle(invoked)

    def handle(self, invoked: Invoked) -> FlowHandle:
        """A handle on an execution that ``start`` began."""
        return FlowHandle(self._session, invoked.exec_id, invoked.launched)

    def start(
        self,
        flow: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        tag: str | None = None,
        version: int | None = None,
        stack: str | None = None,
        cache: bool | None = None,
        idempotency_key: str | None = None,
    ) -> Invoked:
        """As ``invoke``, but says which version was chosen, and whether the execution was there already."""
        return self._invoker.invoke(
            flow,
            _selector(tag, version),
            _jsonable(flow, inputs or {}),
            actor=self._session.actor,
            stack=stack,
            cache=cache,
            idempotency_key=idempotency_key,
        )

    def flows(self) -> list[FlowSummary]:
        """The project's flows, by name."""
        lock = self.releases.head()
        return [
            FlowSummary(
                flow=name,
                latest=state.latest,
                routes={tag: route.versions for tag, route in state.routes.items()},
                exclusive={tag: route.exclusive for tag, route in state.routes.items()},
                managed=state.managed,
            )
            for name, state in sorted(lock.flows.items())
            if not state.retired
        ]

    def list(self, flow: str) -> list[Deployment]:
        """The flow's versions, ascending."""
        lock, state = self._state(flow)
        table = read_table(self._session.store, lock.project, state.table, flow)
        return [_deployment(flow, release, state) for release in table.releases]

    def get(self, flow: str, *, tag: str | None = None, version: int | None = None) -> Deployment:
        """The version that the selector leads to, with its snapshot."""
        chosen = _selector(tag, version)
        lock, state = self._state(flow)
        resolved: Resolved = self._invoker.resolve(flow, chosen)
        table = read_table(self._session.store, lock.project, state.table, flow)
        release = table.release(resolved.version)
        if release is None:
            raise KitaruSelectorError(f"{flow} has no version {resolved.version}", hint="kitaru flow list")
        snapshot = read_snapshot(self._session.store, lock.project, resolved.snapshot, flow)
        return _deployment(flow, release, state, snapshot)

    def _state(self, flow: str) -> tuple[Lockfile, FlowState]:
        lock = self.releases.head()
        state = lock.flows.get(flow)
        if state is None:
            self._invoker.resolve(flow, ByTag("default"))
            raise KitaruSelectorError(f"{flow} has no deployments", hint="kitaru flow list")
        return lock, state


def _deployment(flow: str, release: Release, state: FlowState, snapshot: Snapshot | None = None) -> Deployment:
    tags = {tag: route.exclusive for tag, route in state.routes.items() if release.version in route.versions}
    return Deployment(
        flow=flow,
        version=release.version,
        tags=tags,
        snapshot=release.snapshot,
        created_at=release.at,
        by=release.by,
        commit_sha=release.commit.sha if release.commit else None,
        commit_dirty=release.commit.dirty if release.commit else False,
        target=snapshot.target if snapshot else "",
        stack=snapshot.stack.name if snapshot else "",
        input_schema=snapshot.input_schema if snapshot else None,
        details=snapshot,
    )


def _selector(tag: str | None, version: int | None) -> Selector:
    try:
        return selector(tag=tag, version=version)
    except ValueError as error:
        raise KitaruUsageError(str(error), hint="--tag T or --version N") from error


def _jsonable(flow: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(inputs, Mapping) or not all(isinstance(name, str) for name in inputs):
        raise KitaruInputError(f"the inputs of {flow} must be a mapping of names to values")
    try:
        data: dict[str, Any] = to_jsonable_python(dict(inputs))
    except (PydanticSerializationError, ValueError) as error:
        raise KitaruInputError(f"the inputs of {flow} have no JSON form: {error}") from error
    return data
