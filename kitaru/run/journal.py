"""The journal of an execution: numbered entries, each created once. The only reader and writer of events."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from kitaru.errors import KitaruIntegrityError, KitaruStoreError, KitaruUsageError
from kitaru.flows.scope import must_run_in
from kitaru.model import address
from kitaru.model.event import FORMAT, Cancelled, CheckpointStarted, Event, Opened, decode_entry, encode_entry
from kitaru.model.execution import Execution, fold
from kitaru.store.log import Log
from kitaru.store.port import Store, Taken

RETRY_DELAYS = (0.1, 0.5, 2.0)
"""Seconds between the tries of a write that the store refused. The same bytes are tried, so none is written twice."""


class Fenced(BaseException):
    """Another runner has taken over this execution, or ``cancelled_by`` has cancelled it: stop, write nothing more.

    Not an ``Exception``, so that no flow swallows it.
    """

    def __init__(self, message: str, cancelled_by: str | None = None) -> None:
        super().__init__(message)
        self.cancelled_by = cancelled_by


class Stopped(BaseException):
    """This process was told to stop in the middle of the execution, which stays as it is recorded."""


class RunStopped(Stopped):
    """The run goes no further."""


class RunExpired(RunStopped):
    """The attempt at the flow's body took longer than its timeout."""


class RunSuspended(RunStopped):
    """The execution waits for an answer, and its runner leaves until there is one."""


def open_execution(store: Store, opened: Opened, write_id: str) -> bytes | Taken:
    """Create entry 1; its bytes, or ``Taken`` where an execution with this id exists."""
    body = encode_entry(1, write_id, (opened,))
    outcome = log_of(store, opened.project, opened.exec_id).append(1, body)
    return outcome if isinstance(outcome, Taken) else body


def log_of(store: Store, project: str, exec_id: str) -> Log:
    """The log that holds an execution's journal."""
    return Log(store, address.journal(project, exec_id))


def read_entries(store: Store, project: str, exec_id: str, known: tuple[bytes, ...] = ()) -> tuple[bytes, ...]:
    """All entries there are, with those already ``known``; empty if there is no such execution."""
    return log_of(store, project, exec_id).read_on(known)


def read_events(entries: Iterable[bytes], exec_id: str, first: int = 1) -> list[Event]:
    """The events of ``entries``, in order; ``first`` is the number of the first of them."""
    events: list[Event] = []
    for number, body in enumerate(entries, start=first):
        events.extend(decode_entry(body, f"journal entry {number} of {exec_id}").events)
    return events


@dataclass
class Recorded:
    """All that was recorded of an execution when its journal was read."""

    store: Store
    project: str
    exec_id: str
    entries: tuple[bytes, ...]

    @cached_property
    def opened(self) -> Opened:
        """Its first event. ``KitaruIntegrityError`` where that is another."""
        first = read_events(self.entries[:1], self.exec_id)
        if not first or not isinstance(first[0], Opened):
            raise KitaruIntegrityError(
                f"the journal of {self.exec_id} does not begin with the event that opens it",
                hint="the store is damaged there: restore the journal from a backup",
            )
        return first[0]

    def events(self) -> list[Event]:
        """All of its events, in order."""
        return [self.opened, *read_events(self.entries[1:], self.exec_id, first=2)]


def load(store: Store, project: str, exec_id: str) -> Execution:
    """The execution as its journal tells it. ``KitaruUsageError`` where there is none of that id."""
    entries = read_entries(store, project, exec_id)
    if not entries:
        raise KitaruUsageError(
            f"there is no execution {exec_id!r} in project {project!r} of {store.url}", hint="kitaru executions list"
        )
    return fold(read_events(entries, exec_id))


def encode_summary(execution: Execution, entries: int) -> bytes:
    """The hint that is left when the execution has ended, was left or is found lost, after ``entries`` entries."""
    # In the order in which it is written: values in it keep the order of their keys, and so their digests.
    summary = {"format": FORMAT, "entries": entries, "execution": execution.summary()}
    return json.dumps(summary, separators=(",", ":")).encode() + b"\n"


def read_summary(body: bytes) -> Execution | None:
    """The execution without its checkpoints, from the hint; None where the hint can't be read, and the journal must
    be.
    """
    try:
        content = json.loads(body)
        if content["format"] > FORMAT:
            return None
        execution = Execution.from_json(content["execution"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return execution if execution.ended or execution.suspended_at is not None or execution.status == "lost" else None


class Journal:
    """Appends to one execution's journal, for one runner.

    ``commit`` returns when its events are durable. Threads that commit while an entry is being written share the next
    one; the first of them writes it. Whatever goes wrong is final: every later commit raises the same.
    """

    def __init__(self, store: Store, project: str, exec_id: str, *, written: int, write_id: str) -> None:
        """``written``: how many entries there are. ``write_id``: no other writer of this journal has the same."""
        self.store = store
        self.project = project
        self.exec_id = exec_id
        self._log = log_of(store, project, exec_id)
        self._process = os.getpid()
        self._written = written
        self._write_id = write_id
        self._guard = threading.Lock()
        self._writing = False
        self._next: _Batch | None = None
        self._buffered: list[Event] = []
        self._buffered_at = 0.0
        self._stopped: BaseException | None = None
        self.when_fenced: Callable[[Fenced], object] | None = None
        """Called once another runner's entry is found where the next one was to go, by the thread that finds it."""

    @property
    def written(self) -> int:
        """The number of the newest entry."""
        return self._written

    @property
    def stopped(self) -> BaseException | None:
        """Why nothing can be written any more; None while it can."""
        return self._stopped

    def overtaken(self) -> Fenced | None:
        """The reason to stop, if another one wrote the entry after our newest: it took over, or it cancelled."""
        number = self._written + 1
        body = self._log.read(number)
        return None if body is None else self._fenced(number, body)

    def _fenced(self, number: int, body: bytes) -> Fenced | None:
        entry = decode_entry(body)
        if entry.write.startswith(f"{self._write_id}."):
            return None  # our own next entry, on its way
        by = next((event.by for event in entry.events if isinstance(event, Cancelled)), None)
        return Fenced(f"journal entry {number} of {self.exec_id} was written by another runner", by)

    def stop(self, reason: BaseException) -> None:
        """Refuse every commit from now on with ``reason``; an entry that is being written is not undone."""
        with self._guard:
            self._stopped = self._stopped or reason

    def buffer(self, event: Event) -> None:
        """Keep ``event`` for the next entry, whoever writes it. It may be lost in a crash."""
        with self._guard:
            if not self._buffered:
                self._buffered_at = time.monotonic()
            self._buffered.append(event)

    def unbuffer(self, event: Event) -> None:
        """Drop a buffered event that another one makes superfluous."""
        with self._guard:
            buffered = self._buffered
            for place in range(len(buffered) - 1, -1, -1):
                if buffered[place] is event:
                    del buffered[place]
                    return

    def waits_since(self) -> float | None:
        """When (on the monotonic clock) the oldest buffered event came; None where there is none."""
        return self._buffered_at if self._buffered and self._stopped is None else None

    def flush(self) -> None:
        """Write the buffered events, unless somebody else is about to."""
        with self._guard:
            if self._writing or not self._buffered or self._stopped is not None:
                return
            self._writing = True
        self._write(_Batch())

    def settle(self) -> None:
        """Return when every event that was given until now is durable, or can't become so any more."""
        with self._guard:
            if self._stopped is not None or not (self._writing or self._buffered):
                return
        with suppress(Exception, Fenced, Stopped):
            self.commit()

    def commit(self, *events: Event, replaces: CheckpointStarted | None = None) -> None:
        """Make ``events`` durable. ``replaces``: a buffered event that they make superfluous.

        Raises ``Fenced`` where another runner writes this journal, ``KitaruStoreError`` where the store fails for good.
        """
        must_run_in(self._process, "a write of the journal")
        if replaces is not None:
            self.unbuffer(replaces)
        with self._guard:
            if self._stopped is not None:
                raise self._stopped
            leads = False
            if not self._writing:
                self._writing = leads = True
                batch = _Batch()
            elif self._next is None:
                leads = True
                batch = self._next = _Batch(turn=threading.Event())
            else:
                batch = self._next
                batch.done = batch.done or threading.Event()
            batch.events.extend(events)
        if not leads:
            assert batch.done is not None
            batch.done.wait()
        else:
            self._wait_for_turn(batch)
            self._write(batch)
        if batch.problem is not None:
            raise batch.problem

    def _wait_for_turn(self, batch: _Batch) -> None:
        if batch.turn is None:
            return
        try:
            batch.turn.wait()
        except BaseException:  # Ctrl-C: others count on this thread to pass on the turn
            self.stop(Stopped())
            batch.turn.wait()
            self._write(batch)
            raise

    def _write(self, batch: _Batch) -> None:
        """Write ``batch`` with what is buffered as the next entry, then give the turn to the next batch."""
        with self._guard:
            if self._next is batch:
                self._next = None
            events = self._buffered + batch.events
            self._buffered = []
            number = self._written + bool(events)
            problem = self._stopped
        try:
            if problem is None and events:
                self._create(number, encode_entry(number, f"{self._write_id}.{number}", events))
        except BaseException as error:
            problem = error
        with self._guard:
            if problem is None:
                self._written = number
            else:
                batch.problem = problem
                lasting = isinstance(problem, (Exception, Fenced, Stopped))
                self._stopped = self._stopped or (problem if lasting else Stopped())
            successor = self._next
            self._writing = successor is not None
        if batch.done is not None:
            batch.done.set()
        if successor is not None and successor.turn is not None:
            successor.turn.set()
        if isinstance(problem, Fenced) and self.when_fenced is not None:
            self.when_fenced(problem)

    def _create(self, number: int, body: bytes) -> None:
        for delay in (*RETRY_DELAYS, None):
            try:
                outcome = self._log.append(number, body)
                break
            except KitaruStoreError:
                if delay is None:
                    raise
                time.sleep(delay)
        if isinstance(outcome, Taken) and (fenced := self._fenced(number, outcome.existing)) is not None:
            raise fenced


class _Batch:
    """Events that go into one entry. ``turn``: set when its leader may write; ``done``: set when it is written."""

    __slots__ = ("done", "events", "problem", "turn")

    def __init__(self, turn: threading.Event | None = None) -> None:
        self.events: list[Event] = []
        self.turn = turn
        self.done: threading.Event | None = None
        self.problem: BaseException | None = None
