"""A real local store, a clock and an executor call: what the tests of durable execution share."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kitaru.flows.flow import Flow
from kitaru.masking import Masking
from kitaru.model import address
from kitaru.model.event import Event, ExecutionOptions, Opened
from kitaru.model.execution import Execution, LogLine
from kitaru.run.executor import execute
from kitaru.run.journal import Recorded, Stopped, load, open_execution, read_entries, read_events
from kitaru.run.logs import read_on
from kitaru.run.state import Host
from kitaru.source.port import CodeBase
from kitaru.stacks.port import Handle, RunOrder
from kitaru.store.local import LocalStore
from kitaru.store.port import Created, Listed, Store, Taken
from kitaru.values import stored
from kitaru.values.stored import encode

PROJECT = "lab"
CODE = CodeBase({"source": "the tests"}, {}, lambda _file: True)
"""The code of the lab's flows."""


def read_lines(store: Store, project: str, exec_id: str, after_chunk: int = 0) -> tuple[tuple[LogLine, ...], int]:
    """The lines in the chunks after that one, and the number of the last chunk."""
    lines: list[LogLine] = []
    for number, chunk in read_on(store, project, exec_id, after_chunk):
        after_chunk = number
        lines += chunk
    return tuple(lines), after_chunk


class WallClock:
    """The real time, and real chance."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def token(self, size: int) -> str:
        return "".join(secrets.choice(address.CROCKFORD) for _ in range(size))


class Watched:
    """The stack of a reader: if workers live, which one was launched, and its last words. It starts none."""

    def __init__(
        self, alive: Callable[[Handle], bool | None], launched: Handle | None = None, last_words: str = ""
    ) -> None:
        self._alive, self._launched, self._last_words = alive, launched, last_words

    def check(self, snapshot: bytes) -> None:
        raise NotImplementedError

    def launch(self, order: RunOrder) -> Handle:
        raise NotImplementedError

    def launched(self, exec_id: str) -> Handle | None:
        return self._launched

    def alive(self, handle: Handle) -> bool | None:
        return self._alive(handle)

    def stop(self, handle: Handle) -> None:
        raise NotImplementedError

    def startup_failure(self, handle: Handle) -> str:
        return self._last_words


class Lab:
    """One store and the executions in it."""

    def __init__(self, root: Path, wrap: Callable[[Store], Store] | None = None) -> None:
        self.store: Store = LocalStore(root, f"file://{root}")
        if wrap is not None:
            self.store = wrap(self.store)
        self.clock = WallClock()

    def open(
        self,
        flow: Flow[..., Any],
        *,
        retries: int | None = None,
        timeout: float | None = None,
        cache: bool = False,
        cache_asked: bool | None = None,
        **inputs: Any,
    ) -> str:
        """Open an execution as an invoker does; its id. It takes nothing from the cache unless asked to."""
        moment = self.clock.now()
        encoded = encode(flow.bind(kwargs=inputs), subject="inputs")
        stored.put(self.store, PROJECT, encoded)
        opened = Opened(
            at=address.timestamp(moment),
            project=PROJECT,
            exec_id=address.exec_id(moment, self.clock.token(8)),
            flow=flow.name,
            target=f"lab.py:{flow.name}",
            inputs=encoded.value,
            origin="run",
            stack="local",
            options=ExecutionOptions(
                retries=flow.options.retries.further if retries is None else retries,
                cache=cache,
                cache_asked=cache_asked,
                timeout=timeout,
            ),
        )
        assert isinstance(open_execution(self.store, opened, self.clock.token(16)), bytes)
        return opened.exec_id

    def go_on(
        self,
        flow: Flow[..., Any],
        exec_id: str,
        *,
        store: Store | None = None,
        mask: Masking | None = None,
        entries: tuple[bytes, ...] | None = None,
        takes_over: bool = False,
        code: CodeBase = CODE,
    ) -> Any:
        """Execute from what is recorded now, or was in ``entries``."""
        recorded = self.recorded(exec_id, entries, store)
        return execute(flow, recorded, self.host(mask=mask, code=lambda: code), takes_over=takes_over)

    def run(self, flow: Flow[..., Any], *, retries: int | None = None, **inputs: Any) -> Any:
        """Open and execute."""
        return self.go_on(flow, self.open(flow, retries=retries, **inputs))

    def host(self, handle: Handle = Handle("lab-runner", "process 1 on lab-host"), **others: Any) -> Host:  # noqa: B008
        """This process, as the worker with that handle."""
        return Host(self.clock, handle, **others)

    def recorded(self, exec_id: str, entries: tuple[bytes, ...] | None = None, store: Store | None = None) -> Recorded:
        """What is recorded now, or was in ``entries``."""
        return Recorded(store or self.store, PROJECT, exec_id, entries or self.entries(exec_id))

    def entries(self, exec_id: str) -> tuple[bytes, ...]:
        return read_entries(self.store, PROJECT, exec_id)

    def events(self, exec_id: str) -> list[Event]:
        return read_events(self.entries(exec_id), exec_id)

    def load(self, exec_id: str) -> Execution:
        return load(self.store, PROJECT, exec_id)


class PowerCut(Stopped):
    """The process is gone: nothing that comes later reaches the store."""


class FailingStore:
    """A store whose power goes out at create number ``cut``: before it takes effect, or ``after`` it did."""

    def __init__(self, inner: Store, cut: int, *, after: bool) -> None:
        self.inner = inner
        self.url = inner.url
        self.durable_across_processes = inner.durable_across_processes
        self.cut = cut
        self.after = after
        self.creates = itertools.count(1)
        self.is_out = False

    def _pulse(self) -> None:
        if self.is_out:
            raise PowerCut

    def read(self, key: str) -> bytes | None:
        self._pulse()
        return self.inner.read(key)

    def create(self, key: str, body: bytes) -> Created | Taken:
        self._pulse()
        last = next(self.creates) >= self.cut
        if last and not self.after:
            self.is_out = True
            raise PowerCut
        outcome = self.inner.create(key, body)
        if last:
            self.is_out = True
            raise PowerCut
        return outcome

    def overwrite(self, key: str, body: bytes, *, durable: bool = True) -> None:
        if not self.is_out:
            self.inner.overwrite(key, body, durable=durable)

    def names(self, prefix: str, *, after: str = "") -> list[str]:
        self._pulse()
        return self.inner.names(prefix, after=after)

    def listed(self, prefix: str) -> Iterator[Listed]:
        self._pulse()
        return self.inner.listed(prefix)

    def remove(self, key: str) -> None:
        self._pulse()
        self.inner.remove(key)


class CountingStore:
    """Counts what reaches the store, and may take its time for a create."""

    def __init__(self, inner: Store, delay: float = 0.0) -> None:
        self.inner = inner
        self.url = inner.url
        self.durable_across_processes = inner.durable_across_processes
        self.delay = delay
        self.calls: list[tuple[str, str]] = []

    def of(self, verb: str, part: str = "") -> list[str]:
        return [key for name, key in self.calls if name == verb and part in key]

    def read(self, key: str) -> bytes | None:
        self.calls.append(("read", key))
        return self.inner.read(key)

    def create(self, key: str, body: bytes) -> Created | Taken:
        import time

        self.calls.append(("create", key))
        if self.delay:
            time.sleep(self.delay)
        return self.inner.create(key, body)

    def overwrite(self, key: str, body: bytes, *, durable: bool = True) -> None:
        self.calls.append(("overwrite", key))
        self.inner.overwrite(key, body, durable=durable)

    def names(self, prefix: str, *, after: str = "") -> list[str]:
        self.calls.append(("names", prefix))
        return self.inner.names(prefix, after=after)

    def listed(self, prefix: str) -> Iterator[Listed]:
        self.calls.append(("listed", prefix))
        return self.inner.listed(prefix)

    def remove(self, key: str) -> None:
        self.inner.remove(key)
