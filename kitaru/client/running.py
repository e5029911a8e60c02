"""Runs from source: an execution in a thread of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kitaru import wiring
from kitaru.authoring.flow import Flow
from kitaru.authoring.loading import load_target
from kitaru.authoring.policy import Retry, further_attempts
from kitaru.client.handle import FlowHandle
from kitaru.client.session import Session
from kitaru.core.codecs import encode
from kitaru.engine.executor import execute
from kitaru.engine.journal import open_execution
from kitaru.engine.values import put
from kitaru.errors import KitaruStateError
from kitaru.model import address
from kitaru.model.address import timestamp
from kitaru.model.event import ExecutionOptions, Opened
from kitaru.ports import Taken
from kitaru.settings import lease_seconds

LOCAL = "local"


class Running:
    """What ``client.executions`` does with source that is here."""

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
        return load_target(cwd if (cwd / place).is_file() else self.source_root(), target)

    def load_source(self, target: str) -> Flow[..., Any]:
        """The flow of that target in the source that is here now."""
        return load_target(self.source_root(), target)

    def source_root(self) -> Path:
        """The folder that targets are relative to: the manifest's, else the present one."""
        manifest = self._session.settings.manifest
        return manifest.parent if manifest else self._session.settings.cwd

    def _opened(self, flow: Flow[..., Any], inputs: Mapping[str, Any], stack: str, options: ExecutionOptions) -> Opened:
        session = self._session
        moment = session.clock.now()
        encoded = encode(dict(inputs), subject=f"the inputs of {flow.name}")
        put(session.store, session.project, encoded)
        return Opened(
            at=timestamp(moment),
            project=session.project,
            exec_id=address.exec_id(moment, session.clock.token(8)),
            flow=flow.name,
            target=self._target(flow),
            inputs=encoded.value,
            origin="run",
            stack=stack,
            options=options,
            actor=session.actor,
        )

    def _target(self, flow: Flow[..., Any]) -> str:
        """Where the flow is, relative to the source's root where it is below that."""
        path = Path(flow.func.__code__.co_filename)
        if not path.is_absolute():
            path = self._session.settings.cwd / path
        root = self.source_root()
        place = path.relative_to(root) if path.is_relative_to(root) else path
        return f"{place.as_posix()}:{flow.func.__name__}"

    def in_thread(self, flow: Flow[..., Any], exec_id: str, entries: tuple[bytes, ...]) -> FlowHandle:
        """Run an execution with these journal entries on in a thread of this process."""
        session = self._session

        def run(handle: FlowHandle) -> Any:
            return execute(
                flow,
                store=session.store,
                clock=session.clock,
                project=session.project,
                exec_id=exec_id,
                entries=entries,
                runner=wiring.this_process(),
                capture=True,
                mask=wiring.secret_mask(session.settings.environ),
                lease_seconds=lease_seconds(session.settings.environ),
                forced_end=handle.fail,
            )

        return start_thread(session, exec_id, run)


def _options(flow: Flow[..., Any], retries: int | Retry | None, cache: bool | None) -> ExecutionOptions:
    """What the call says, else the decorator, else the default."""
    chosen = flow.options.retries if retries is None else retries
    cached = cache if cache is not None else flow.options.cache
    return ExecutionOptions(
        retries=further_attempts(chosen),
        cache=True if cached is None else cached,
        timeout=flow.options.timeout,
        retry=retries.to_json() if isinstance(retries, Retry) else None,
    )


def start_thread(session: Session, exec_id: str, run: Callable[[FlowHandle], Any]) -> FlowHandle:
    """Run in the background; the interpreter waits for it, so that a script may end before its execution does."""
    handle = FlowHandle(session, exec_id)

    def body() -> None:
        try:
            handle.settle(run(handle))
        except BaseException as error:
            handle.fail(error)

    thread = threading.Thread(target=body, name=f"kitaru-{exec_id}", daemon=False)
    handle.follow_thread(thread)
    thread.start()
    return handle
