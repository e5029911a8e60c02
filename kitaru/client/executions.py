"""``client.executions``: runs, in this process or elsewhere; ``client.artifacts``: the values that they saved."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from kitaru import wiring
from kitaru.client.arguments import moment, version_or_none
from kitaru.client.handle import FlowHandle, waiting_error
from kitaru.client.session import Session
from kitaru.core.replay import nearest
from kitaru.errors import KitaruError, KitaruSourceError, KitaruStackError, KitaruStateError, KitaruUsageError
from kitaru.masking import Masking
from kitaru.model import address
from kitaru.model.address import timestamp
from kitaru.model.event import ExecutionOptions, Opened, SourcePlace, Value
from kitaru.model.execution import STATUSES, Artifact, Execution, LogLine, ReplayPlan, Wait
from kitaru.run.executions import find, read_artifacts, select
from kitaru.run.journal import open_execution
from kitaru.run.logs import read_newest
from kitaru.run.waits import Answers, check_fits
from kitaru.settings import DEFAULT_PROJECT, lease_seconds
from kitaru.stacks.port import RunOrder
from kitaru.store.objects import get_object
from kitaru.store.port import Taken

if TYPE_CHECKING:
    from kitaru.client.replays import Replay
    from kitaru.flows.flow import Flow
    from kitaru.flows.options import Retry
    from kitaru.run.cache import CacheReport
    from kitaru.run.invoker import Launched


LOCAL = "local"


def _must_have_called(execution: Execution, checkpoint: str) -> None:
    names = [call.name for call in execution.checkpoints]
    if checkpoint not in (*names, *(call.call_id for call in execution.checkpoints)):
        raise KitaruUsageError(
            f"{execution.exec_id} has no checkpoint {checkpoint!r}{nearest(checkpoint, names)[1]}",
            hint=f"kitaru executions get {execution.exec_id}",
        )


def _must_be_statuses(*wanted: str | None) -> None:
    for one in wanted:
        if one is not None and one not in STATUSES:
            raise KitaruUsageError(f"status {one!r}: expected one of {', '.join(STATUSES)}")


class ExecutionsClient:
    """Verbs about executions."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def run(
        self,
        flow: Flow[..., Any],
        inputs: Mapping[str, Any],
        *,
        stack: str | None = None,
        retries: int | Retry | None = None,
        cache: bool | None = None,
        image: Any = None,
    ) -> FlowHandle:
        """Start an execution from source, in a thread of this process, and return at once.

        ``stack``: this argument > the decorator > ``configure`` > ``KITARU_STACK`` > ``pyproject.toml`` > ``local``.
        """
        from kitaru.values.stored import (
            encode,  # late, as all that only a run needs
            put,
        )

        session = self._session
        name = stack or flow.options.stack or session.settings.stack or LOCAL
        if name != LOCAL and (kind := wiring.stack_named(session.settings, name).spec.type) != "local":
            raise KitaruStackError(
                f"stack {name} is of type {kind}, which this release can't run executions on",
                hint='stack="local" runs it in this process',
            )
        if image is not None:
            from kitaru.client.arguments import asked_image

            asked_image(image)
        encoded = encode(dict(inputs), subject=f"the inputs of {flow.name}")
        put(session.store, session.project, encoded)
        moment = session.clock.now()
        source, target = self.place_of(flow)
        opened = Opened(
            at=timestamp(moment),
            project=session.project,
            exec_id=address.exec_id(moment, session.clock.token(8)),
            flow=flow.name,
            target=target,
            inputs=encoded.value,
            origin="run",
            stack=name,
            options=_options(flow, retries, cache),
            actor=session.actor,
            source=source,
            opener=wiring.this_process(),
        )
        entry = open_execution(session.store, opened, session.clock.token(26))
        if isinstance(entry, Taken):
            raise KitaruStateError(f"{opened.exec_id} exists already", hint="try again")
        return self.in_thread(flow, opened.exec_id, (entry,))

    def get(self, exec_id: str) -> Execution:
        """The execution with its checkpoints. The end of an id is enough, if it fits one only."""
        return self._session.executions.get(exec_id)

    def silent_for(self, execution: Execution) -> float | None:
        """Seconds since the last sign of life of a runner that is late with it; None if all is well."""
        return self._session.executions.silent_for(execution)

    def list(
        self,
        *,
        flow: str | None = None,
        status: str | Iterable[str] | None = None,
        tag: str | None = None,
        version: int | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        limit: int | None = None,
    ) -> list[Execution]:
        """Executions, newest first; ``status``: of that one, or of any of several.

        ``tag`` and ``version`` are those that an invoke chose. ``since`` and ``until`` bound the time of the start:
        ``"2026-11-30"``, ``"2026-11-30T09:30Z"``, ``"2d"`` for two days ago. Raises ``KitaruUsageError`` for a status
        or a time that is none.
        """
        statuses = [status] if isinstance(status, str) else None if status is None else list(status)
        _must_be_statuses(*(statuses or ()))
        now = self._session.clock.now()
        first, last = (None if bound is None else moment(bound, now) for bound in (since, until))
        found = self._session.executions.newest(
            flow=flow, status=statuses, version=version_or_none(version), tag=tag, since=first, until=last, limit=limit
        )
        return list(found)

    def latest(self, *, flow: str | None = None, status: str | None = None) -> Execution:
        """The newest execution that fits. ``KitaruUsageError`` if none does."""
        _must_be_statuses(status)
        for execution in self._session.executions.newest(flow=flow, status=status, limit=1):
            return execution
        raise KitaruUsageError("there is no such execution", hint="kitaru executions list")

    def elsewhere(self, *, flow: str | None = None) -> str:
        """Options that lead to executions of ``flow`` (or any) in the user's own store, which holds runs from before
        there was a manifest: ``--store file:///… --project ai``; empty if there are none.
        """
        session = self._session
        own = wiring.own_store(session.settings)
        if own is None or own.url == session.store.url:
            return ""
        for project in dict.fromkeys((session.project, DEFAULT_PROJECT)):
            found = session.executions_in(own, project).newest(flow=flow, limit=1)
            if next(found, None) is not None:
                return f"--store {shlex.quote(own.url)} --project {project}" + (f" --flow {flow}" if flow else "")
        return ""

    def left_alone(self, execution: Execution) -> bool:
        """Whether its runner is gone and recorded no end: it is ``lost``, unless it waits for an answer."""
        begun = execution.runner is not None and not execution.ended and execution.suspended_at is None
        return begun and not self._session.executions.held(execution)

    def handle(self, exec_id: str) -> FlowHandle:
        """A handle on an execution, to wait for it or to follow it."""
        return FlowHandle(self._session, self._session.executions.full_id(exec_id))

    def logs(
        self, exec_id: str, *, follow: bool = False, checkpoint: str | None = None, limit: int | None = None
    ) -> Iterator[LogLine]:
        """The output and the log of the execution; ``checkpoint``: only of the calls of that name, or of that call.

        ``limit``: only so many lines, the last ones, and no more is read than that takes. ``KitaruUsageError`` for a
        checkpoint that it has not called; of one that is followed it may yet come. Following ends with
        ``KitaruStateError`` if its runner is gone.
        """
        session = self._session
        if follow and limit is not None:
            raise KitaruUsageError("a log that is followed has no end to count lines from", hint="leave out limit")
        execution = self.get(exec_id)
        if checkpoint is not None and not (follow and not execution.ended):
            _must_have_called(execution, checkpoint)

        def fits(line: LogLine) -> bool:
            return checkpoint is None or checkpoint in (line.checkpoint, line.call)

        if limit is not None:
            return iter(read_newest(session.store, session.project, execution.exec_id, limit, fits))
        return filter(fits, self.handle(execution.exec_id).logs(follow=follow))

    def explain_cache(self, exec_id: str) -> Sequence[CacheReport]:
        """The cache's decision for each call of an execution, and why."""
        from kitaru.run.cache import explain

        return explain(self._session.store, self._session.project, self.get(exec_id))

    def result(self, execution: Execution | str, *, as_plain: bool = False) -> Any:
        """The result of a completed execution, or of the one of that id; ``KitaruStateError`` for any other.

        As its own type, ``KitaruValueError`` if that can't be imported here; ``as_plain``: as JSON-like data, of
        any type.
        """
        if isinstance(execution, str):
            execution = self.get(execution)
        if execution.status != "completed":
            raise KitaruStateError(
                f"{execution.exec_id} has no result: it is {execution.status}",
                hint=f"kitaru executions get {execution.exec_id}",
            )
        return self._session.result(execution, as_plain=as_plain)

    def value(self, value: Value | None, subject: str, *, as_plain: bool = False) -> Any:
        """A stored value of an execution; ``as_plain``: as JSON-like data, of any type."""
        return None if value is None else self._session.value(value, subject, as_plain=as_plain)

    def resume(self, exec_id: str, *, flow: Flow[..., Any] | None = None) -> FlowHandle:
        """Go on with an execution that failed, was answered, or lost its runner. No finished checkpoint runs
        again.

        An invoked one goes on from its own snapshot, in a process of its own. One that was run from source goes on in a
        thread of this process, from ``flow``, else from the folder of its first run as it is now, else from the source
        that is here: ``KitaruSourceError`` without any, ``KitaruDivergenceError`` from its handle if the code makes
        other calls than those recorded.
        """
        session = self._session
        # Taken over as it was judged: whoever else went on with it meanwhile is met before any code runs.
        execution, entries = session.executions.get_recorded(exec_id)
        self._must_be_open(execution)
        if execution.snapshot is None and flow is None:
            flow = self.source_of(execution)
        if flow is not None and execution.snapshot is None:
            return self.in_thread(flow, execution.exec_id, entries, takes_over=True)
        launched = self._relaunch(execution, entries)
        return FlowHandle(session, execution.exec_id, launched, resumed_after=len(entries))

    retry = resume

    def pending_waits(self, exec_id: str) -> Sequence[Wait]:
        """The waits of the execution that have no answer yet."""
        return self._answers.pending(self.get(exec_id))

    def pending_wait(self, exec_id: str, *, wait: str | None = None) -> Wait:
        """The only pending wait, or the one of that name; raises as ``input`` does."""
        return self._answers.choose(self.get(exec_id), wait)

    def answered(self, executions: Sequence[Execution]) -> set[str]:
        """Ids of those that wait with an answer to every question: they are to be resumed.

        One listing for each that waits, and a few reads for each that has answers.
        """
        return {one.exec_id for one in executions if self._answers.all_answered(one)}

    def check_answer(self, wait: Wait, value: Any) -> None:
        """``KitaruWaitValidationError`` for a value that ``input`` would refuse."""
        check_fits(wait, value, wiring.check_answer)

    def input(
        self,
        exec_id: str,
        *,
        wait: str | None = None,
        value: Any,
        resume: bool = True,
        flow: Flow[..., Any] | None = None,
    ) -> FlowHandle:
        """Answer a wait: the only pending one, or the one of that name. The first answer counts.

        ``KitaruWaitValidationError`` for a value that doesn't fit its schema: the execution waits on.
        ``KitaruConflictError`` if there is an answer already. If no runner polls for it any more, the execution is
        resumed as by ``resume``, unless ``resume`` is False.
        """
        execution = self.get(exec_id)
        self._answers.give(execution, self._answers.choose(execution, wait), value)
        current = self.get(execution.exec_id)
        if not resume or current.ended or self._session.executions.held(current):
            return FlowHandle(self._session, execution.exec_id)
        try:
            return self.resume(execution.exec_id, flow=flow)
        except KitaruError as error:
            raise KitaruStateError(
                f"the answer is recorded, and {execution.exec_id} could not go on here: {error.message}",
                hint=f"where it can: kitaru executions resume {execution.exec_id}",
            ) from error

    def abort_wait(self, exec_id: str, *, wait: str | None = None) -> FlowHandle:
        """Decline to answer a wait: the execution is cancelled."""
        execution = self.get(exec_id)
        self._answers.decline(execution, self._answers.choose(execution, wait))
        return FlowHandle(self._session, execution.exec_id)

    def cancel(self, exec_id: str) -> Execution:
        """Cancel an execution: its runner is asked, then ended; how it ended, once that is recorded.

        ``KitaruStateError`` for one that has ended.
        """
        from kitaru.run.cancel import cancel

        return cancel(self._session.executions, exec_id, self._session.actor)

    def replay(
        self,
        exec_id: str,
        *,
        from_: str | int,
        args: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        version: int | None = None,
        tag: str | None = None,
        flow: Flow[..., Any] | None = None,
    ) -> FlowHandle:
        """Start a new execution: it takes over the calls that this one finished before ``from_``, and runs the rest.

        ``from_``: the name of a checkpoint or wait, the id of a call, or its position from 1. ``args`` replace inputs;
        a recorded call is then taken if its own inputs are the same. ``overrides`` give results and answers:
        ``{"checkpoint.research": ..., "wait.approve": ...}``; one that doesn't fit is refused, and nothing is opened:
        ``KitaruInputError``, ``KitaruWaitValidationError``. It runs on the version of the original, on ``version``
        or ``tag``, or from source if the original did or ``flow`` is given.
        """
        return self._replay(
            exec_id, cut=str(from_), args=args, overrides=overrides or {}, version=version, tag=tag, flow=flow
        ).start()

    def plan_replay(
        self,
        exec_id: str,
        *,
        from_: str | int,
        args: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        version: int | None = None,
        tag: str | None = None,
        flow: Flow[..., Any] | None = None,
    ) -> ReplayPlan:
        """The calls that ``replay`` would take over, run anew, or can't use. Writes nothing."""
        return self._replay(
            exec_id, cut=str(from_), args=args, overrides=overrides or {}, version=version, tag=tag, flow=flow
        ).plan

    def _replay(self, exec_id: str, **asked: Any) -> Replay:
        from kitaru.client.replays import Replay

        return Replay(self, self._session, exec_id, **asked)

    def _must_be_open(self, execution: Execution) -> None:
        if execution.status in ("failed", "lost"):
            return
        if execution.status == "waiting" and not self._session.executions.held(execution):
            waits = self._answers.pending(execution)
            if execution.suspended_at is None or len(waits) < len(execution.open_waits):
                return
            raise waiting_error(execution)
        if execution.status == "pending":
            raise self._not_yet(execution)
        runner = execution.runner
        where = f" in {runner.shown}" if runner else ""
        raise KitaruStateError(
            f"{execution.exec_id} is {execution.status}{where if execution.status in ('running', 'waiting') else ''}; "
            "only a failed or lost execution, or one that was answered, can be resumed",
            hint=self._hint_for_silence(execution) or f"kitaru executions get {execution.exec_id}",
        )

    def _hint_for_silence(self, execution: Execution) -> str:
        """The hint for a process of this machine that lives, and gives no sign of life."""
        silent, runner = self.silent_for(execution), execution.runner
        if silent is None or runner is None:
            return ""
        return f"it has given no sign of life for {silent:.0f} s; if it hangs, end {runner.shown}, then resume"

    def _not_yet(self, execution: Execution) -> KitaruStateError:
        seconds = self._session.executions.may_begin_within(execution)
        when = (
            f"if it has not within {math.ceil(seconds)} s, it is lost and can be resumed"
            if math.isfinite(seconds)
            else "the process that is to run it lives"
        )
        return KitaruStateError(
            f"{execution.exec_id} is pending: its runner may yet begin; {when}",
            hint=f"kitaru executions get {execution.exec_id}",
        )

    def _relaunch(self, execution: Execution, entries: tuple[bytes, ...]) -> Launched:
        # Late: they bring pydantic, and a script that runs flows needs none of it.
        from kitaru.model.snapshot import Snapshot
        from kitaru.run.invoker import Launched

        session, exec_id = self._session, execution.exec_id
        snapshot = get_object(session.store, session.project, execution.snapshot or "", f"snapshot of {exec_id}")
        order = RunOrder(
            project=session.project, exec_id=exec_id, store=session.store.url, after=len(entries), snapshot=snapshot
        )
        runner = wiring.runner_of(session.settings, Snapshot.parse(snapshot).stack, session.reporter)
        return Launched(runner, runner.launch(order))

    def load(self, target: str) -> Flow[..., Any]:
        """The flow that ``path/to/file.py:flow`` or ``package.module:flow`` names, imported into this process.

        A path is looked for from the present folder, then from the manifest's. Raises ``KitaruSourceError``.
        """
        from kitaru.flows.loading import load_target

        settings = self._session.settings
        root = settings.cwd if (settings.cwd / target.partition(":")[0]).is_file() else settings.root
        roots = (wiring.load_manifest(settings).manifest.source.roots or ()) if settings.manifest else ()
        problem = wiring.import_check.shadowed_imports(root, target, roots)
        if problem is not None:
            raise KitaruSourceError(problem.message, problems=(problem,), hint=problem.hint)
        return load_target(root, target, roots)

    def source_of(self, execution: Execution) -> Flow[..., Any]:
        """The flow of an execution that began from source: from the folder of its first run, if that is on this
        machine, else from the source that is here. ``KitaruSourceError`` if neither has the target.
        """
        from kitaru.flows.loading import load_target

        file, began = execution.target.partition(":")[0], execution.source
        folders = [self._session.settings.root]
        # Whichever boot of the machine it was: its name and its machine id are the same.
        if began is not None and began.host.split()[:2] == wiring.this_host().split()[:2]:
            folders.insert(0, Path(began.folder))
        for folder in folders:
            if (folder / file).is_file():
                return load_target(folder, execution.target)
        place = f" at {began.folder} on host {began.host.split()[0]}" if began is not None else ""
        raise KitaruSourceError(
            f"{execution.exec_id} began from source{place} ({execution.target}), which is not here",
            hint="run the command there, or where a clone of it is; executions of a deployed flow go on anywhere: "
            f"declare {execution.flow_name} and kitaru apply",
        )

    def place_of(self, flow: Flow[..., Any]) -> tuple[SourcePlace, str]:
        """The folder and host of the flow's source, and the target in that folder.

        The folder is the source's root if the flow is below that, else the folder of its file.
        """
        settings = self._session.settings
        path = settings.cwd / flow.func.__code__.co_filename
        root = settings.root if path.is_relative_to(settings.root) else path.parent
        place = SourcePlace(folder=str(root), host=wiring.this_host())
        return place, f"{path.relative_to(root).as_posix()}:{flow.func.__name__}"

    def in_thread(
        self, flow: Flow[..., Any], exec_id: str, entries: tuple[bytes, ...], *, takes_over: bool = False
    ) -> FlowHandle:
        """Run an execution with these journal entries on in a thread of this process; if this process exists for it,
        in the one that waits for it. ``takes_over``: another runner may have begun with it, or be about to.
        """
        from kitaru.run.executor import execute
        from kitaru.run.journal import Recorded
        from kitaru.run.output import captured_descriptors
        from kitaru.run.state import Host

        session = self._session
        environ = session.settings.environ
        place, target = self.place_of(flow)
        host = partial(
            Host,
            session.clock,
            wiring.this_process(),
            code=partial(wiring.working_code, Path(place.folder), target, session.settings, session.store.url),
            mask=Masking(environ),
            check_answer=wiring.check_answer,
            lease_seconds=lease_seconds(environ),
        )

        def run(**given: Any) -> Any:
            recorded = Recorded(session.store, session.project, exec_id, entries)
            return execute(flow, recorded, host(**given), takes_over=takes_over)

        def run_here() -> Any:
            with captured_descriptors() as descriptors:
                return run(forced_end=wiring.leave_process, descriptors=descriptors)

        handle = FlowHandle(session, exec_id)
        run_beside = partial(run, forced_end=handle.fail)
        if session.hosts_runs:
            handle.host(run_here, run_beside)
        else:
            handle.start_thread(run_beside)
        return handle

    @cached_property
    def _answers(self) -> Answers:
        return Answers(self._session.executions, self._session.actor, wiring.check_answer)


def _options(flow: Flow[..., Any], retries: int | Retry | None, cache: bool | None) -> ExecutionOptions:
    """The options of the call, else of the decorator, else the defaults."""
    from kitaru.flows.options import Retry, policy_of

    return ExecutionOptions(
        retries=(flow.options.retries if retries is None else policy_of(retries)).further,
        cache=flow.options.cache is not False,
        cache_asked=cache,
        timeout=flow.options.timeout,
        retry=retries.to_json() if isinstance(retries, Retry) else None,
    )


@dataclass(frozen=True, slots=True, repr=False)
class ArtifactRef:
    """An artifact, without its bytes: ``load()`` reads those.

    ``artifact_id`` is ``ex-…:3:report``; ``exec_id`` the execution that it was asked of; ``kind`` is ``save``'s
    ``type``; ``producing_call`` the checkpoint call that saved it, and ``checkpoint`` that call's checkpoint: None for
    the flow body; ``created_at`` is RFC 3339 in UTC; ``size`` bytes, as stored.
    """

    artifact_id: str
    exec_id: str
    name: str
    kind: str
    producing_call: str | None
    checkpoint: str | None
    created_at: str
    size: int
    tags: tuple[str, ...]
    record: Artifact
    _session: Session

    @classmethod
    def of(cls, record: Artifact, session: Session) -> Self:
        """The reference to a recorded artifact."""
        return cls(
            record.artifact_id, record.exec_id, record.name, record.kind, record.call, record.checkpoint,
            record.created_at, record.value.size, tuple(record.tags), record, session,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<ArtifactRef {self.artifact_id}: {self.kind}, {self.size} bytes>"

    def load(self, *, as_plain: bool = False) -> Any:
        """The value as its own type, ``KitaruValueError`` if this process can't import that; ``as_plain``: as
        JSON-like data, of any type.
        """
        subject = f"artifact {self.name!r}"
        return self._session.value(self.record.value, subject, as_plain=as_plain, exec_id=self.exec_id)

    def to_json(self) -> dict[str, Any]:
        """As JSON data, the value's record included."""
        return self.record.to_json()


class Artifacts:
    """Verbs about artifacts."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(
        self,
        exec_id: str,
        *,
        name: str | None = None,
        kind: str | None = None,
        producing_call: str | None = None,
        limit: int | None = None,
    ) -> list[ArtifactRef]:
        """The artifacts of an execution, oldest first. ``producing_call``: a call's id, or a checkpoint's name."""
        session = self._session
        there = read_artifacts(session.store, session.project, session.executions.full_id(exec_id))
        found = select(there, name=name, kind=kind, producing_call=producing_call)
        return [ArtifactRef.of(one, session) for one in islice(found, limit)]

    def get(self, artifact_id: str) -> ArtifactRef:
        """The artifact with that id. ``KitaruUsageError`` if there is none."""
        session = self._session
        return ArtifactRef.of(find(session.store, session.project, artifact_id), session)
