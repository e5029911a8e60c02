"""``client.deployments``: released versions, and executions of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic_core import PydanticSerializationError, to_jsonable_python

from kitaru import wiring
from kitaru.client.arguments import (
    PREVIOUS,
    asked_image,
    chosen,
    tag_name,
    typed,
    version_back,
    version_number,
    version_or_none,
)
from kitaru.client.handle import FlowHandle
from kitaru.client.session import Session
from kitaru.core.renames import first_name, names_of, present_name
from kitaru.core.resolving import Resolved, in_table, resolve
from kitaru.errors import KitaruConflictError, KitaruInputError, KitaruSelectorError, KitaruUsageError
from kitaru.model.lockfile import FlowState, Lockfile, Release
from kitaru.model.route import DEFAULT_TAG, ByTag, Selector
from kitaru.model.snapshot import Snapshot
from kitaru.run.invoker import Invoked, Invoker
from kitaru.store.objects import read_snapshot, read_table

if TYPE_CHECKING:
    from kitaru.flows.flow import Flow
    from kitaru.model.plan import FlowPlan
    from kitaru.model.snapshot import ImageSettings
    from kitaru.release.manifest_sync import ManifestSync, Mode
    from kitaru.release.mover import Mover
    from kitaru.release.mover import Released as Released
    from kitaru.release.mover import Rerouted as Rerouted

Confirm = Callable[["FlowPlan"], None]
"""Is given the consequences of a verb for callers, before anything is written; raises to stop it."""


@dataclass(frozen=True, slots=True, repr=False)
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

    def __repr__(self) -> str:
        tags = ", ".join(f"{tag}{'*' if exclusive else ''}" for tag, exclusive in sorted(self.tags.items()))
        return f"<Deployment {self.flow} v{self.version}{f': {tags}' if tags else ''}>"

    def to_json(self) -> dict[str, Any]:
        """As JSON data; the snapshot in full if it was asked for."""
        names = [name for name in self.__dataclass_fields__ if name != "details"]
        data = {name: getattr(self, name) for name in names}
        if self.details is not None:
            data["details"] = self.details.data()
        return {name: value for name, value in data.items() if value is not None}


@dataclass(frozen=True, slots=True)
class FlowSummary:
    """One flow of the project: its highest version and its routes; of divided routes also the percents."""

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
    def _invoker(self) -> Invoker:
        session = self._session
        return Invoker(
            store=session.store,
            project=session.project,
            clock=session.clock,
            check_inputs=wiring.check_inputs,
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
        """Start an execution of the version that the selector leads to (``default`` without one).

        The handle's ``invoked`` says which version that is, and whether the execution was there already.
        Raises ``KitaruSelectorError``, ``KitaruInputError``, ``KitaruStackError``: no execution exists then.
        """
        self._invoker.check_store()
        selector, given = chosen(tag, version), _jsonable(flow, inputs or {})
        lock = self._session.releases.head()
        invoked = self._earlier(lock, flow, selector, idempotency_key, given) if idempotency_key is not None else None
        if invoked is None:
            invoked = self._invoker.invoke(
                self._resolve(lock, flow, selector, idempotency_key or self._session.clock.token(26)),
                given,
                actor=self._session.actor,
                stack=stack,
                cache=cache,
                idempotency_key=idempotency_key,
                first_name=first_name(lock.flows, flow),
            )
        return FlowHandle(self._session, invoked.exec_id, invoked.launched, invoked=invoked)

    def _earlier(
        self, lock: Lockfile, flow: str, selector: Selector, key: str, inputs: Mapping[str, Any]
    ) -> Invoked | None:
        names = {flow, *names_of(lock.flows, present_name(lock.flows, flow))}
        try:
            return self._invoker.earlier(flow, names, key, inputs)
        except KitaruConflictError:
            self._resolve(lock, flow, selector)  # that the flow was renamed comes first
            raise

    def _resolve(self, lock: Lockfile, flow: str, selector: Selector, key: str | None = None) -> Resolved:
        """The version that the selector leads to: no read, or one for a version that no route holds.

        ``key``: by which a version is drawn if the route is divided by weights.
        """
        with self._session.placed():
            found = resolve(lock, flow, selector, key=key)
            if isinstance(found, Resolved):
                return found
            table = read_table(self._session.store, self._session.project, found.table, flow)
            return in_table(table, found, getattr(selector, "version", 0))

    def flows(self) -> list[FlowSummary]:
        """The project's flows, by name."""
        lock = self._session.releases.head()
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
        resolved = self._resolve(lock, flow, selector)
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

        It is built from the working tree as it is. ``tag`` is ``default`` unless it is given; a flow's first deploy
        gets ``default`` as well. ``inputs`` are representative: an invoke may override each. The rest is as the
        manifest and the decorator say. The manifest in reach is edited to agree, unless ``manifest="leave"``; for a
        flow from a file outside that manifest's folder, it is the one around the file.
        """
        given = DEFAULT_TAG if tag is None else tag
        return self._made(
            target, inputs, tag=given, exclusive=exclusive, image=image, stack=stack, manifest=manifest, message=message
        )

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
        """As ``deploy``, without a route: only ``version=`` leads there."""
        return self._made(target, inputs, image=image, stack=stack, manifest=manifest, message=message)

    def _made(self, target: str | Flow[..., Any], inputs: Mapping[str, Any] | None, **given: Any) -> Deployment:
        """The new version, for the manifest around the flow's file."""
        there, session = self, self._session
        if not isinstance(target, str):
            session = session.around(Path(target.func.__code__.co_filename))
            there = self if session is self._session else Deployments(session)
        done = there.release(target, inputs, **given)
        return there.get(done.flow, version=done.version)

    def release(
        self,
        target: str | Flow[..., Any],
        inputs: Mapping[str, Any] | None = None,
        *,
        tag: str | None = None,
        exclusive: bool = False,
        image: str | Mapping[str, Any] | ImageSettings | None = None,
        stack: str | None = None,
        manifest: Mode = "edit",
        message: str = "",
        confirm: Confirm | None = None,
    ) -> Released:
        """As ``deploy``, or as ``build`` without a ``tag``, but returns all that was done.

        ``manifest="only"`` edits the manifest alone. ``confirm`` is given the consequences, and raises to stop it.
        """
        # Late: a consumer that invokes a version needs nothing that makes one.
        from kitaru.client.working_tree import applier, build, deploy_job, manifest_sync
        from kitaru.core.routing import check_not_renamed, order_tags

        session = self._session
        given = None if inputs is None else _jsonable(target if isinstance(target, str) else target.name, inputs)
        sync = manifest_sync(session, manifest)
        job = deploy_job(
            session,
            sync,
            target,
            None if tag is None else tag_name(tag),
            exclusive=typed("exclusive", exclusive, bool, "True"),
            inputs=given,
            image=asked_image(image),
            stack=stack,
        )
        head = session.releases.head(verified=True)
        check_not_renamed(job.loaded.manifest, head, job.order.flow)
        sync.check_free(head, job.order.flow, *order_tags(job.order, head))
        mover = self._mover(manifest, confirm, sync)
        if manifest == "only":
            return mover.propose(job.order, job.target, job.before, job.keys)
        release = build(session, job, sync, head)
        if head.generation == 0:
            wiring.probe_store(session.store)
        return mover.deploy(release, applier(session), message=message)

    def tag(
        self,
        flow: str,
        tag: str,
        *,
        version: int,
        exclusive: bool = False,
        manifest: Mode = "edit",
        message: str = "",
        confirm: Confirm | None = None,
    ) -> Rerouted:
        """Lead ``tag`` to ``version``: to it alone if ``exclusive``, else as a label that others may share.

        Raises ``KitaruUsageError`` for a shared label if the tag is exclusive (``default`` always is),
        ``KitaruSelectorError`` for an unknown flow or version, ``KitaruStateError`` for a protected route.
        """
        number, alone = version_number(version), typed("exclusive", exclusive, bool, "True")
        mover = self._mover(manifest, confirm)
        return mover.tag(flow, tag_name(tag), number, exclusive=alone, message=message)

    def untag(
        self, flow: str, tag: str, *, version: int | None = None, manifest: Mode = "edit", message: str = ""
    ) -> Rerouted:
        """Take ``tag`` off ``version``, or remove it altogether. Never ``default``."""
        return self._mover(manifest).untag(flow, tag_name(tag), version_or_none(version), message=message)

    def promote(
        self,
        flow: str,
        source: str,
        *,
        to: str,
        manifest: Mode = "edit",
        message: str = "",
        confirm: Confirm | None = None,
    ) -> Rerouted:
        """Lead ``to`` exclusively to the version that the tag ``source`` leads to."""
        return self._mover(manifest, confirm).promote(flow, tag_name(source), tag_name(to), message=message)

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
        """Lead ``tag`` to version ``to`` at once, and hold it there; -1 is the version before, one further each time.

        Plan and apply leave it alone until the manifest agrees: the result shows the edit, ``write`` makes it.
        """
        back, writes = version_back(to), typed("write", write, bool, "True")
        return self._mover(manifest).rollback(flow, tag_name(tag), to=back, write=writes, message=message)

    def delete(
        self,
        flow: str,
        *,
        version: int,
        manifest: Literal["edit", "leave"] = "edit",
        message: str = "",
        confirm: Confirm | None = None,
    ) -> Rerouted:
        """Delete a version: its number stays taken, its labels go, executions of it go on.

        Raises ``KitaruStateError`` while an exclusive tag leads there.
        """
        if manifest not in ("edit", "leave"):
            raise KitaruUsageError("a version is deleted in the store, never in the manifest alone")
        return self._mover(manifest, confirm).delete(flow, version_number(version), message=message)

    def _mover(self, mode: Mode, confirm: Confirm | None = None, sync: ManifestSync | None = None) -> Mover:
        from kitaru.client.working_tree import manifest_sync, planner
        from kitaru.release.mover import Mover

        session = self._session
        sync = sync or manifest_sync(session, mode)
        return Mover(
            session.store,
            session.project,
            self._session.releases,
            session.clock,
            sync,
            session.actor,
            planner(session).with_consequences,
            confirm,
        )

    def _state(self, flow: str) -> tuple[Lockfile, FlowState]:
        lock = self._session.releases.head()
        state = lock.flows.get(flow)
        if state is None:
            self._resolve(lock, flow, ByTag(DEFAULT_TAG))
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
