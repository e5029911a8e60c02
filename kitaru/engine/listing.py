"""Finding executions among very many: hints whose names say enough to look at a few only.

Hints are empty of truth: a name that leads to an execution makes it worth a look, and what is said of it comes from
its summary or its journal. Losing one costs time; a reader that finds one that is wrong puts it right.

=========================================  =======================================  ====================================
hint, below ``<project>/index/``           written                                  removed
=========================================  =======================================  ====================================
``open/<exec_id>~<flow>``                  by the runner when it ran for a second,  by the runner after the end
                                           and by a reader that finds it lost
``open/<exec_id>~<flow>~waiting``          by a runner that leaves while it waits   by the runner that goes on, first
``by-status/<status>/<exec_id>~<flow>``    by the runner after the end              when a failed one is taken up again
``by-flow/<flow>/<exec_id>~<status>``      the same                                 the same
``by-both/<flow>/<status>/<exec_id>``      the same                                 the same
=========================================  =======================================  ====================================

Ids sort by time, so the newest are found by listing what is younger than ten minutes, then eight times as long, and so
on: eight listings (pages of 1,000 names) reach back for ever. On a local disk one listing of everything is cheaper.

Requests of ``executions list --limit L``, of a store of any size where there are L that fit in the first w windows:

====================================  ==================================================================================
asked for                             requests
====================================  ==================================================================================
nothing in particular                 w listings; 1 read for each that ended or waits parked, n + 2 for one under way
                                      (n: entries of its journal)
``--status waiting`` (or running, …)  5 listings; the same reads for each that is open, of the flow where one is named
``--status failed`` (or completed …)  5 + w listings; 1 read for each, and the reads of those opened within ten minutes
                                      that have not ended
``--flow F``                          5 + w listings; reads as for nothing in particular
====================================  ==================================================================================
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from kitaru.engine.journal import encode_summary, read_entries, read_events
from kitaru.errors import KitaruStoreError
from kitaru.model import address
from kitaru.model.event import Event, Failed, Opened, Started, Suspended
from kitaru.model.execution import ENDED, Execution, fold
from kitaru.ports import Clock, Store

FIRST_WINDOW = timedelta(minutes=10)
"""Executions younger than this may not be in any index yet; and the first stretch of time that is listed."""

GROWTH = 8
LONGEST_WINDOW = timedelta(days=20 * 365)
OPEN_AFTER = 1.0
"""Seconds that a run takes before it is worth a hint that it is open."""

PARKED = "waiting"
HINT = b"{}\n"
"""A hint says all in its name; object stores want at least a byte."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An execution worth a look. ``under_way``: nothing says that a summary of it was written."""

    exec_id: str
    under_way: bool = False


class Listing:
    """Candidates among the executions of one project, newest first."""

    def __init__(self, store: Store, project: str, clock: Clock) -> None:
        self._store = store
        self._project = project
        self._clock = clock
        self._local = store.url.startswith(("file:", "memory:"))

    def candidates(self, *, flow: str | None = None, status: str | None = None) -> Iterator[Candidate]:
        """All executions that may fit, newest first; some of them won't."""
        if flow is None and status is None:
            for names, _ in self._windows(address.executions(self._project)):
                yield from (Candidate(name.rstrip("/")) for name in names)
            return
        loose = self._loose(flow, status)
        if status is None or status in ENDED:
            for names, floor in self._windows(self._ended_prefix(flow, status)):
                found = {name.partition("~")[0]: False for name in names}
                while loose and loose[-1].exec_id > floor:
                    one = loose.pop()
                    found.setdefault(one.exec_id, one.under_way)
                yield from (Candidate(exec_id, found[exec_id]) for exec_id in sorted(found, reverse=True))
        yield from reversed(loose)

    def _loose(self, flow: str | None, status: str | None) -> list[Candidate]:
        """Those that no index of ended ones holds, oldest first: open ones, and young ones in no index at all."""
        floor = self._floor(FIRST_WINDOW)
        listed = {name.partition("~")[0]: name for name in self._names(address.open_hints(self._project), "")}
        young = {name.rstrip("/") for name in self._names(address.executions(self._project), floor)} - listed.keys()
        if young:
            for ended in sorted(ENDED):
                hints = self._names(address.status_hints(self._project, ended), floor)
                young -= {name.partition("~")[0] for name in hints}
        found = [Candidate(exec_id) for exec_id in young]
        for exec_id, name in listed.items():
            _, of_flow, *rest = name.split("~")
            parked = rest == [PARKED]
            if flow is not None and of_flow != flow:
                continue
            if status in ENDED and (parked or exec_id <= floor):
                continue  # It ended moments ago at most, and its hints are on their way.
            found.append(Candidate(exec_id, under_way=not parked))
        return sorted(found, key=lambda one: one.exec_id)

    def _ended_prefix(self, flow: str | None, status: str | None) -> str:
        if flow is None:
            return address.status_hints(self._project, status or "")
        return (
            address.flow_hints(self._project, flow)
            if status is None
            else address.flow_status_hints(self._project, flow, status)
        )

    def _windows(self, prefix: str) -> Iterator[tuple[list[str], str]]:
        """Names below ``prefix`` in stretches of time that grow, the newest first; and the floor of each stretch."""
        if self._local:
            yield self._names(prefix, "")[::-1], ""
            return
        span, above = FIRST_WINDOW, ""
        while True:
            floor = self._floor(span) if span < LONGEST_WINDOW else ""
            names = [name for name in self._names(prefix, floor) if not above or name <= above]
            yield names[::-1], floor
            if not floor:
                return
            span, above = span * GROWTH, floor

    def _names(self, prefix: str, after: str) -> list[str]:
        return self._store.names(prefix, after=after)

    def _floor(self, span: timedelta) -> str:
        return address.exec_floor(self._clock.now() - span)


class Presence:
    """Says, once a run has taken a while, that its execution is open."""

    def __init__(self, store: Store, project: str, opened: Opened) -> None:
        self._store = store
        self._project = project
        self._opened = opened
        self._guard = threading.Lock()
        self._over = False
        self.written = False
        """Whether this, or an earlier runner, may have said so."""
        self._timer = threading.Timer(OPEN_AFTER, self._write)
        self._timer.daemon = True

    def begin(self, recorded: Iterable[Event]) -> None:
        """Say so later, unless the run is over by then.

        At once where ``recorded`` says that the execution had failed or was left: hints of that are not so any more.
        """
        events = list(recorded)
        if any(isinstance(event, (Failed, Suspended)) for event in events):
            withdraw(self._store, fold(events))
            self.written = True
            return
        self.written = any(isinstance(event, Started) for event in events)
        self._timer.start()

    def end(self) -> None:
        """The run is over: nothing is written after this returns."""
        self._timer.cancel()
        with self._guard:
            self._over = True

    def _write(self) -> None:
        with self._guard:
            if not self._over:
                self.written = True
                note_open(self._store, self._project, self._opened.exec_id, self._opened.flow)


def note_open(store: Store, project: str, exec_id: str, flow: str) -> None:
    """Leave the hint that an execution is open. What fails is not missed."""
    with suppress(KitaruStoreError):
        store.overwrite(address.open_hint(project, exec_id, flow), HINT)


def note_end(store: Store, execution: Execution, entries: int, completed: int, *, open_hint: bool = True) -> None:
    """Leave the hints of an execution that has ended after ``entries`` journal entries.

    ``completed``: its completed checkpoints. ``open_hint``: there may be one, to be removed.
    """
    project = execution.project
    with suppress(KitaruStoreError):
        for key in _ended_keys(execution):
            store.overwrite(key, HINT)
        store.overwrite(address.summary(project, execution.exec_id), encode_summary(execution, entries, completed))
        if open_hint:
            _remove_open(store, execution)


def note_parked(store: Store, execution: Execution, entries: int, completed: int) -> None:
    """Leave the hints of an execution whose runner has left while it waits: its summary will do to show it."""
    project, exec_id, flow = execution.project, execution.exec_id, execution.flow_name
    with suppress(KitaruStoreError):
        store.overwrite(address.summary(project, exec_id), encode_summary(execution, entries, completed))
        if store.read(address.journal_entry(project, exec_id, entries + 1)) is not None:
            store.remove(address.summary(project, exec_id))  # Somebody went on with it meanwhile.
            return
        store.overwrite(address.open_hint(project, exec_id, f"{flow}~{PARKED}"), HINT)
        store.remove(address.open_hint(project, exec_id, flow))


def note_state(store: Store, project: str, exec_id: str, known: tuple[bytes, ...]) -> None:
    """Leave the hints of an execution that has ended or was left, as its journal says: ``known`` and what follows."""
    with suppress(KitaruStoreError):
        entries = read_entries(store, project, exec_id, known)
        execution = fold(read_events(entries, exec_id))
        if execution.ended:
            note_end(store, execution, len(entries), completed_calls(execution))
        elif execution.suspended_at is not None:
            note_parked(store, execution, len(entries), completed_calls(execution))


def completed_calls(execution: Execution) -> int:
    """How many of its checkpoint calls have a result."""
    return sum(call.status == "completed" for call in execution.checkpoints)


def withdraw(store: Store, execution: Execution) -> None:
    """Before an execution that failed or waits is taken up again: what was left about that is not so any more."""
    project, exec_id, flow = execution.project, execution.exec_id, execution.flow_name
    note_open(store, project, exec_id, flow)
    store.remove(address.summary(project, exec_id))
    for key in (*reversed(_ended_keys(execution)), address.open_hint(project, exec_id, f"{flow}~{PARKED}")):
        store.remove(key)


def hint_keys(execution: Execution) -> tuple[str, ...]:
    """Every hint that there may be of an execution, its summary aside."""
    project, exec_id, flow = execution.project, execution.exec_id, execution.flow_name
    return (
        *_ended_keys(execution),
        address.open_hint(project, exec_id, flow),
        address.open_hint(project, exec_id, f"{flow}~{PARKED}"),
    )


def _ended_keys(execution: Execution) -> tuple[str, str, str]:
    """In the order in which they are written: a reader that finds the last takes the others for written, too."""
    project, exec_id, flow, status = execution.project, execution.exec_id, execution.flow_name, execution.status
    return (
        f"{address.flow_status_hints(project, flow, status)}{exec_id}",
        f"{address.flow_hints(project, flow)}{exec_id}~{status}",
        f"{address.status_hints(project, status)}{exec_id}~{flow}",
    )


def _remove_open(store: Store, execution: Execution) -> None:
    for name in (execution.flow_name, f"{execution.flow_name}~{PARKED}"):
        store.remove(address.open_hint(execution.project, execution.exec_id, name))
