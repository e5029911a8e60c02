"""``client.deployments``: released versions, and executions of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic_core import PydanticSerializationError, to_jsonable_python

from kitaru import wiring
from kitaru.client.arguments import PREVIOUS, chosen, tag_name, version_back, version_number, version_or_none, yes_or_no
from kitaru.client.handle import FlowHandle
from kitaru.client.session import Session
from kitaru.core.resolving import Resolved
from kitaru.errors import KitaruInputError, KitaruSelectorError
from kitaru.model.lockfile import FlowState, Lockfile, Release
from kitaru.model.route import DEFAULT_TAG, ByTag
from kitaru.model.snapshot import Snapshot
from kitaru.release.releases import Releases
from kitaru.run.invoker import Invoked, Invoker
from kitaru.store.objects import read_snapshot, read_table

if TYPE_CHECKING:
    from kitaru.flows.flow import Flow
    from kitaru.model.image import ImageSettings
    from kitaru.release.manifest_sync import Mode
    from kitaru.release.releasing import Released
    from kitaru.release.routing import Rerouted, Routing


@dataclass(frozen=True, slots=True)
class Deployment:
    """One released version of a flow. ``tags`` says of each tag that leads here whether it is exclusive.

    ``weights`` has the percent of each divided route that leads here.
    """

    flow: str
    version: int
    tags: Mapping[str, bool]
    snapshot: str
    created_at: str
    by: str
    commit_sha: str | None = None
    commit_dirty: bool = False
    weights: Mapping[str, int] = field(default_factory=dict)
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
    """One flow of the project: its highest version and where its tags lead; of divided routes also the percents."""

    flow: str
    latest: int
    routes: Mapping[str, tuple[int, ...]]
    exclusive: Mapping[str, bool]
    managed: bool
    weights: Mapping[str, Mapping[int, int]] = field(default_factory=dict)


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
            chosen(tag, version),
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
                weights={
                    tag: {holder.version: holder.weight for holder in route.holders}
                    for tag, route in state.routes.items()
                    if route.divided
                },
            )
            for name, state in sorted(lock.flows.items())
            if not state.retired
        ]

    def list(self, flow: str) -> list[Deployment]:
        """The flow's versions, ascending, without those that were deleted."""
        lock, state = self._state(flow)
        table = read_table(self._session.store, lock.project, state.table, flow)
        return [_deployment(flow, release, state) for release in table.releases if not release.deleted]

    def get(self, flow: str, *, tag: str | None = None, version: int | None = None) -> Deployment:
        """The version that the selector leads to, with its snapshot."""
        selector = chosen(tag, version)
        lock, state = self._state(flow)
        resolved: Resolved = self._invoker.resolve(flow, selector)
        table = read_table(self._session.store, lock.project, state.table, flow)
        release = table.release(resolved.version)
        if release is None:
            raise KitaruSelectorError(f"{flow} has no version {resolved.version}", hint="kitaru flow list")
        snapshot = read_snapshot(self._session.store, lock.project, resolved.snapshot, flow)
        return _deployment(flow, release, state, snapshot)

    # --- verbs that change them ---------------------------------------------------------------------------------------

    def deploy(
        self,
        target: str | Flow[..., Any],
        inputs: Mapping[str, Any] | None = None,
        *,
        tag: str | None = None,
        exclusive: bool = False,
        image: str | Mapping[str, Any] | ImageSettings | None = None,
        stack: str | None = None,
        manifest: Literal["edit", "leave"] = "edit",
        message: str = "",
    ) -> Deployment:
        """A new version of ``target`` (``path/to/file.py:flow``, ``module:flow``, a flow), with one route.

        From the working tree as it is. ``tag`` is ``default`` unless it is given, exclusive as ``default`` always is;
        a flow's first deploy gets ``default`` besides. ``inputs`` are representative: an invoke may override each.
        What is not given is as the manifest and the decorator say. The manifest in reach is edited so that it agrees,
        unless ``manifest="leave"``. For a flow from a file that is not below the folder of the manifest in reach, that
        is the manifest around its file, with its store and project, unless the client was given one.
        """
        asked = {"tag": tag, "exclusive": exclusive, "image": image, "stack": stack, "message": message}
        there = self._around(target)
        done = there.release(target, "deploy", asked, inputs=inputs, mode=manifest)
        return there.get(done.flow, version=done.version)

    def build(
        self,
        target: str | Flow[..., Any],
        inputs: Mapping[str, Any] | None = None,
        *,
        image: str | Mapping[str, Any] | ImageSettings | None = None,
        stack: str | None = None,
        manifest: Literal["edit", "leave"] = "edit",
        message: str = "",
    ) -> Deployment:
        """As ``deploy``, without a route: nobody gets there but by ``version=``."""
        asked = {"image": image, "stack": stack, "message": message}
        there = self._around(target)
        done = there.release(target, "build", asked, inputs=inputs, mode=manifest)
        return there.get(done.flow, version=done.version)

    def release(
        self,
        target: str | Flow[..., Any],
        verb: Literal["deploy", "build"],
        asked: Mapping[str, Any],
        *,
        inputs: Mapping[str, Any] | None = None,
        mode: Mode = "edit",
    ) -> Released:
        """As ``deploy`` and ``build`` with these arguments, but says all that was done.

        ``mode="only"`` edits the manifest alone.
        """
        if asked.get("tag") is not None:
            tag_name(asked["tag"])
        yes_or_no("exclusive", asked.get("exclusive", False))
        # Late: who invokes a version needs none of what makes one.
        from kitaru.release import releasing

        given = None if inputs is None else _jsonable(target if isinstance(target, str) else target.name, inputs)
        asking = releasing.Asking(inputs=given, **asked)
        made = releasing.Releasing(self._session, self.releases)
        done: Released = made.release(target, asking, verb=verb, mode=mode)
        return done

    def tag(
        self,
        flow: str,
        tag: str,
        *,
        version: int,
        exclusive: bool = False,
        manifest: Mode = "edit",
        message: str = "",
    ) -> Rerouted:
        """Lead ``tag`` to ``version``: to it alone when ``exclusive``, else as a label that others may share.

        Raises ``KitaruUsageError`` for a shared label where the tag is exclusive (``default`` always is),
        ``KitaruSelectorError`` for a flow or a version that is not there, ``KitaruStateError`` for a protected route.
        """
        number, alone = version_number(version), yes_or_no("exclusive", exclusive)
        return self._routing.tag(flow, tag_name(tag), number, exclusive=alone, mode=manifest, message=message)

    def untag(
        self, flow: str, tag: str, *, version: int | None = None, manifest: Mode = "edit", message: str = ""
    ) -> Rerouted:
        """Take ``tag`` off ``version``, or remove it altogether. Never ``default``."""
        return self._routing.untag(flow, tag_name(tag), version_or_none(version), mode=manifest, message=message)

    def promote(self, flow: str, source: str, *, to: str, manifest: Mode = "edit", message: str = "") -> Rerouted:
        """Lead ``to`` exclusively to the version that the tag ``source`` leads to."""
        return self._routing.promote(flow, tag_name(source), tag_name(to), mode=manifest, message=message)

    def rollback(
        self,
        flow: str,
        tag: str = DEFAULT_TAG,
        *,
        to: int = PREVIOUS,
        write: bool = False,
        manifest: Mode = "edit",
        message: str = "",
    ) -> Rerouted:
        """Lead ``tag`` to version ``to`` at once, and hold it there.

        -1: where it led before; a second rollback goes one further back, and none to a version that a rollback left.

        Plan and apply leave it alone until the manifest agrees: the result tells the edit, ``write`` makes it.
        """
        back, writes = version_back(to), yes_or_no("write", write)
        return self._routing.rollback(flow, tag_name(tag), to=back, write=writes, mode=manifest, message=message)

    def delete(
        self, flow: str, *, version: int, manifest: Literal["edit", "leave"] = "edit", message: str = ""
    ) -> Rerouted:
        """Delete a version: its number stays taken, its labels go, executions of it go on.

        Raises ``KitaruStateError`` while an exclusive tag leads there.
        """
        return self._routing.delete(flow, version_number(version), mode=manifest, message=message)

    def _around(self, target: str | Flow[..., Any]) -> Deployments:
        """These verbs, where the flow's file is at home."""
        if isinstance(target, str):
            return self
        session = self._session.around(Path(target.func.__code__.co_filename))
        return self if session is self._session else Deployments(session)

    @cached_property
    def _routing(self) -> Routing:
        from kitaru.release.routing import Routing

        return Routing(self._session, self.releases)

    def _state(self, flow: str) -> tuple[Lockfile, FlowState]:
        lock = self.releases.head()
        state = lock.flows.get(flow)
        if state is None:
            self._invoker.resolve(flow, ByTag("default"))
            raise KitaruSelectorError(f"{flow} has no deployments", hint="kitaru flow list")
        return lock, state


def _deployment(flow: str, release: Release, state: FlowState, snapshot: Snapshot | None = None) -> Deployment:
    tags = {tag: route.exclusive for tag, route in state.routes.items() if release.version in route.versions}
    weights = {
        tag: holder.weight
        for tag, route in state.routes.items()
        if route.divided
        for holder in route.holders
        if holder.version == release.version
    }
    return Deployment(
        flow=flow,
        version=release.version,
        tags=tags,
        weights=weights,
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


def _jsonable(flow: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(inputs, Mapping) or not all(isinstance(name, str) for name in inputs):
        raise KitaruInputError(f"the inputs of {flow} must be a mapping of names to values")
    try:
        data: dict[str, Any] = to_jsonable_python(dict(inputs))
    except (PydanticSerializationError, ValueError) as error:
        raise KitaruInputError(f"the inputs of {flow} have no JSON form: {error}") from error
    return data
