"""Runs from source: an execution in a thread of this process."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from kitaru import wiring
from kitaru.client.handle import FlowHandle
from kitaru.client.session import Session
from kitaru.errors import KitaruSourceError, KitaruStateError
from kitaru.flows.flow import Flow
from kitaru.flows.loading import load_target
from kitaru.flows.retry import Retry, further_attempts
from kitaru.model import address
from kitaru.model.address import timestamp
from kitaru.model.event import ExecutionOptions, Opened, SourcePlace
from kitaru.model.execution import Execution
from kitaru.run.cancel import ForcedEnd
from kitaru.run.executor import execute
from kitaru.run.journal import Recorded, open_execution
from kitaru.run.output import Descriptors
from kitaru.run.state import Host
from kitaru.settings import lease_seconds
from kitaru.store.port import Taken
from kitaru.values.codec import encode
from kitaru.values.stored import put

LOCAL = "local"


class Running:
    """The part of ``client.executions`` that runs source."""

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
        """Start an execution, and return at once."""
        name = stack or flow.options.stack or self._session.settings.stack or LOCAL
        if name != LOCAL:
            wiring.must_run_here(self._session.settings, name)
        if image is not None:
            wiring.check_image(image)
        opened = self._opened(flow, inputs, name, _options(flow, retries, cache))
        entry = open_execution(self._session.store, opened, self._session.clock.token(26))
        if isinstance(entry, Taken):
            raise KitaruStateError(f"{opened.exec_id} exists already", hint="try again")
        return self.in_thread(flow, opened.exec_id, (entry,))

    def load(self, target: str) -> Flow[..., Any]:
        """The flow that a person named, looked for from the present folder, then from the manifest's."""
        cwd = self._session.settings.cwd
        place = target.partition(":")[0]
        root = cwd if (cwd / place).is_file() else self.source_root()
        roots = wiring.source_roots(self._session.settings)
        wiring.check_names(root, target, roots)
        return load_target(root, target, roots)

    def source_of(self, execution: Execution) -> Flow[..., Any]:
        """The flow of an execution that began from source: from the folder of its first run, if that is on this
        machine, else from the source that is here. ``KitaruSourceError`` if neither has the target.
        """
        place, _, _ = execution.target.partition(":")
        began = execution.source
        folders = [Path(began.folder)] if began is not None and _is_here(began.host) else []
        for folder in [*folders, self.source_root()]:
            if (folder / place).is_file():
                return load_target(folder, execution.target)
        raise _not_here(execution)

    def source_root(self) -> Path:
        """The folder that targets are relative to: the manifest's, else the present one."""
        manifest = self._session.settings.manifest
        return manifest.parent if manifest else self._session.settings.cwd

    def _opened(self, flow: Flow[..., Any], inputs: Mapping[str, Any], stack: str, options: ExecutionOptions) -> Opened:
        session = self._session
        moment = session.clock.now()
        encoded = encode(dict(inputs), subject=f"the inputs of {flow.name}")
        put(session.store, session.project, encoded)
        source, target = self.place_of(flow)
        return Opened(
            at=timestamp(moment),
            project=session.project,
            exec_id=address.exec_id(moment, session.clock.token(8)),
            flow=flow.name,
            target=target,
            inputs=encoded.value,
            origin="run",
            stack=stack,
            options=options,
            actor=session.actor,
            source=source,
            opener=wiring.this_process(),
        )

    def place_of(self, flow: Flow[..., Any]) -> tuple[SourcePlace, str]:
        """The folder and host of the flow's source, and the target in that folder.

        The folder is the source's root if the flow is below that, else the folder of its file.
        """
        path = Path(flow.func.__code__.co_filename)
        if not path.is_absolute():
            path = self._session.settings.cwd / path
        root = self.source_root()
        if not path.is_relative_to(root):
            root = path.parent
        place = SourcePlace(folder=str(root), host=wiring.this_host())
        return place, f"{path.relative_to(root).as_posix()}:{flow.func.__name__}"

    def in_thread(
        self, flow: Flow[..., Any], exec_id: str, entries: tuple[bytes, ...], *, takes_over: bool = False
    ) -> FlowHandle:
        """Run an execution with these journal entries on in a thread of this process; if this process exists for it,
        in the one that waits for it. ``takes_over``: another runner may have begun with it, or be about to.
        """
        session = self._session

        def run(forced_end: ForcedEnd, descriptors: Descriptors | None = None) -> Any:
            host = Host(
                session.clock,
                wiring.this_process(),
                code=partial(wiring.working_code, Path(self.place_of(flow)[0].folder), session.store.url),
                mask=wiring.secret_mask(session.settings.environ),
                descriptors=descriptors,
                check_answer=wiring.check_answer,
                forced_end=forced_end,
                lease_seconds=lease_seconds(session.settings.environ),
            )
            recorded = Recorded(session.store, session.project, exec_id, entries)
            return execute(flow, recorded, host, takes_over=takes_over)

        def run_here() -> Any:
            with wiring.captured_descriptors() as descriptors:
                return run(wiring.leave_process, descriptors)

        handle = FlowHandle(session, exec_id)
        if session.hosts_runs:
            handle.host(run_here, lambda: run(handle.fail))
        else:
            handle.start_thread(lambda: run(handle.fail))
        return handle


def _is_here(host: str) -> bool:
    """Whether that is this machine, whichever boot of it: its name and its machine id are the same."""
    return host.split()[:2] == wiring.this_host().split()[:2]


def _not_here(execution: Execution) -> KitaruSourceError:
    flow, began = execution.flow_name, execution.source
    where = f" at {began.folder} on host {began.host.split()[0]}" if began is not None else ""
    message = f"{execution.exec_id} began from source{where} ({execution.target}), which is not here"
    hint = "run the command there, or where a clone of it is"
    return KitaruSourceError(
        message, hint=f"{hint}; executions of a deployed flow go on anywhere: declare {flow} and kitaru apply"
    )


def _options(flow: Flow[..., Any], retries: int | Retry | None, cache: bool | None) -> ExecutionOptions:
    """The options of the call, else of the decorator, else the defaults."""
    chosen = flow.options.retries if retries is None else retries
    return ExecutionOptions(
        retries=further_attempts(chosen),
        cache=flow.options.cache is not False,
        cache_asked=cache,
        timeout=flow.options.timeout,
        retry=retries.to_json() if isinstance(retries, Retry) else None,
    )
