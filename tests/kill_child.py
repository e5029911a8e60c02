"""One process that runs an execution and may be killed at it: what it is told, what it does, how it is heard."""

from __future__ import annotations

import hashlib
import importlib
import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from kitaru.flows.loading import load_target
from kitaru.run.executor import execute
from kitaru.run.journal import Fenced, Recorded, Stopped, read_entries
from kitaru.run.state import Host
from kitaru.store.open import open_store
from kitaru.store.port import Created, Store, Taken
from kitaru.wiring import this_process
from tests.execution_lab import PROJECT, WallClock
from tests.kill_flows import EFFECTS, RUN

PATIENCE = 60.0
"""Seconds after which a child that says nothing is a problem of its own."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The end of a child by its own hand: at write ``number`` to the store, before, during or after it."""

    number: int
    when: Literal["before", "during", "after"]
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Order:
    """What a child is to run. ``acks``: where it notes each journal entry that the store took."""

    store_url: str
    sources: Path
    target: str
    exec_id: str
    run: int
    effects: Path
    acks: Path
    environment: Mapping[str, str]
    cut: Cut | None = None
    by_client: bool = False
    takes_over: bool = False
    """Whether another runner was started before, or is beside this one."""
    head: tuple[bytes, ...] = ()
    """The journal as it stood when the order was given; read by the child where it is empty."""


@dataclass(frozen=True, slots=True)
class Report:
    """How a child ended: ``done`` (with the result), ``fenced``, ``failed`` (with the problem), or ``killed``."""

    outcome: str
    result: Any = None
    writes: int = 0
    late: tuple[str, ...] = ()
    """What it wrote after it had found its next entry taken."""
    learned: float | None = None
    """The time (in seconds) when it found that."""


class Watched:
    """The child's store: it notes what was taken, and ends the process where it is told to."""

    def __init__(self, inner: Store, acks: Path, cut: Cut | None) -> None:
        self._inner = inner
        self._cut = cut
        self._guard = threading.Lock()
        self._acks = os.open(acks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.overtaken: float | None = None
        self.url = inner.url
        self.durable_across_processes = inner.durable_across_processes
        self.writes = 0
        self.late: list[str] = []

    def read(self, key: str) -> bytes | None:
        return self._inner.read(key)

    def names(self, prefix: str, *, after: str = "") -> list[str]:
        return self._inner.names(prefix, after=after)

    def create(self, key: str, body: bytes) -> Created | Taken:
        last = self._begin(f"create {key}")
        outcome = self._inner.create(key, body)
        if "/journal/" in key:
            if isinstance(outcome, Created):
                number = int(key.rpartition("/")[2].partition(".")[0])
                os.write(self._acks, f"{number} {hashlib.sha256(body).hexdigest()}\n".encode())
            else:
                self.overtaken = self.overtaken or time.time()
        if last:
            _end_now()
        return outcome

    def overwrite(self, key: str, body: bytes, *, durable: bool = True) -> None:
        last = self._begin(f"overwrite {key}")
        self._inner.overwrite(key, body, durable=durable)
        if last:
            _end_now()

    def remove(self, key: str) -> None:
        self._begin(f"remove {key}")
        self._inner.remove(key)

    def _begin(self, what: str) -> bool:
        """Whether the process ends when this write is through."""
        if self.overtaken and ("/journal/" in what or "/index/" in what or what.endswith("summary.json")):
            self.late.append(what)
        cut = self._cut
        with self._guard:
            self.writes += 1
            due = cut is not None and self.writes == cut.number
        if not due or cut is None:
            return False
        if cut.when == "before":
            _end_now()
        if cut.when == "during":
            threading.Thread(target=_end_soon, args=(cut.delay,), daemon=True).start()
        return cut.when == "after"


def _end_now() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(PATIENCE)


def _end_soon(delay: float) -> None:
    time.sleep(delay)
    _end_now()


def run_child(order: Order, told: Connection) -> None:
    """Run an execution on to its end, and tell how it went. Runs in a process of its own."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    os.environ.update({**order.environment, EFFECTS: str(order.effects), RUN: str(order.run)})
    flow = load_target(order.sources, order.target)
    store = Watched(open_store(order.store_url, base=order.sources), order.acks, order.cut)
    told.send("begun")
    try:
        if order.by_client:
            result = _resume(flow, store, order)
        else:
            entries = order.head or read_entries(store, PROJECT, order.exec_id)
            recorded = Recorded(store, PROJECT, order.exec_id, entries)
            result = execute(flow, recorded, Host(WallClock(), this_process()), takes_over=order.takes_over)
        report = Report("done", result)
    except (Fenced, Stopped):
        report = Report("fenced")
    except BaseException as error:
        report = Report("failed", f"{type(error).__name__}: {error}")
    for thread in threading.enumerate():
        # The hints after the end are written by a thread that the interpreter waits for.
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(PATIENCE)
    told.send(Report(report.outcome, report.result, store.writes, tuple(store.late), store.overtaken))


def _resume(flow: Any, store: Watched, order: Order) -> Any:
    """As a person does, from Python."""
    client = importlib.import_module("kitaru.client").KitaruClient(store=order.store_url, project=PROJECT)
    vars(client.session)["store"] = store
    return client.executions.resume(order.exec_id, flow=flow).wait()


class Child:
    """A child process: forked from the server, heard until it reports or is gone."""

    def __init__(self, context: Any, order: Order) -> None:
        self.order = order
        self._hears, tells = context.Pipe(duplex=False)
        self._process = context.Process(target=run_child, args=(order, tells), daemon=True)
        self._process.start()
        tells.close()
        self._heard = self._hear(PATIENCE)

    def _hear(self, seconds: float) -> Any:
        try:
            return self._hears.recv() if self._hears.poll(seconds) else None
        except (EOFError, OSError):
            return Report("killed")

    def ended_within(self, seconds: float) -> bool:
        """Whether it has said how it went, or is gone."""
        if not isinstance(self._heard, Report) and self._hears.poll(seconds):
            self._heard = self._hear(0)
        return isinstance(self._heard, Report)

    def kill(self) -> None:
        """Signal 9."""
        self._process.kill()

    def report(self) -> Report:
        """How it ended; waits for that."""
        if not self.ended_within(PATIENCE):
            self._process.kill()
            self._process.join()
            return Report("failed", "it said nothing for a minute")
        self._process.join()
        self._hears.close()
        return self._heard if isinstance(self._heard, Report) else Report("killed")
