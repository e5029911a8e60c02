"""Names by which executions are found among very many. Hints: the journal decides, and readers put wrong ones right.

===============================================  ============================================  =====================
name, below ``<project>/index/``                 written                                       removed
===============================================  ============================================  =====================
``open/<name>``, its body a ``Sign``             by a runner after a second, and at each       after the end
                                                 renewal of its lease
``open/<name>~waiting``, its body a ``Sign``     by a runner that leaves while it waits        by the next runner
``open/<name>~lost``, its body a ``Sign``        by a reader, if the loss is certain           by the next runner
``ended/by-status/<status>/<name>``              after the end                                 if a failed execution
``ended/by-flow/<flow>/<name>``, the status in                                                 is resumed
place of the flow
``renamed/<flow>~<former name>``                 by an apply that renames a flow               never
===============================================  ============================================  =====================

A ``<name>`` is ``<exec_id>~<flow>~<version>~<tag>``, so that most filters cost no read. Ids sort by time: the newest
are found by listing the last ten minutes, then forty times as much, and so on; on a local disk by one listing.

A list costs, beside its names, one read for each execution that it shows, and one for each with a late runner.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain

from kitaru.errors import KitaruStoreError
from kitaru.model import address
from kitaru.model.address import parse_timestamp, timestamp
from kitaru.model.event import Failed, Failure, Opened
from kitaru.model.execution import ENDED, Execution, fold
from kitaru.ports import Clock
from kitaru.run.journal import Journal, encode_summary, read_entries, read_events
from kitaru.store import hints
from kitaru.store.port import Store

FIRST_WINDOW = timedelta(minutes=10)
"""The first stretch of time that is listed; a younger execution may be in no index yet."""

GROWTH = 40
LONGEST_WINDOW = timedelta(days=365)
STARTS_WITHIN = timedelta(seconds=60)
"""An execution that has no runner after so long is lost, as far as can be seen from here."""

OPEN = ""
WAITING = "waiting"
LOST = "lost"


@dataclass(frozen=True, slots=True)
class Filter:
    """The executions that a list shows. ``since`` and ``until``: when they were opened."""

    flow: str | None = None
    statuses: frozenset[str] | None = None
    version: int | None = None
    tag: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def by_time_alone(self) -> bool:
        """Whether nothing but time is asked for."""
        return (self.flow, self.statuses, self.version, self.tag) == (None,) * 4

    def fits(self, version: str, tag: str) -> bool:
        """Whether that version and tag, as an index has them, are asked for."""
        return (self.version is None or version == str(self.version)) and (self.tag is None or tag == self.tag)


@dataclass(frozen=True, slots=True)
class Sign:
    """How an open execution stood after ``entries`` journal entries, without checkpoints, waits and artifacts.

    ``at`` and ``until``, if its runner wrote this as its lease: the time, and the end of the lease.
    """

    execution: Execution
    entries: int
    at: datetime | None = None
    until: datetime | None = None

    def encode(self) -> bytes:
        """As the body of a hint."""
        lease = (
            {} if self.at is None or self.until is None else {"at": timestamp(self.at), "until": timestamp(self.until)}
        )
        content = {"entries": self.entries, "execution": self.execution.summary(), **lease}
        return json.dumps(content, separators=(",", ":")).encode()  # values keep the order of their keys


def read_sign(body: bytes | None) -> Sign | None:
    """The sign in the body of a hint; None if there is none that can be read."""
    try:
        content = json.loads(body or b"")
        times = (parse_timestamp(content[name]) if name in content else None for name in ("at", "until"))
        return Sign(Execution.from_json(content["execution"]), int(content["entries"]), *times)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


@dataclass(frozen=True, slots=True)
class Candidate:
    """An execution worth a look: its id and, of its hint among the open ones, the name with its parts.

    ``mark``: ``waiting`` or ``lost``, empty for one with a runner, None without a hint. ``leased``: the time at which
    the hint was written, if it is a lease.
    """

    exec_id: str
    mark: str | None = None
    flow: str = ""
    version: str = ""
    tag: str = ""
    name: str = ""
    leased: datetime | None = None


class Index:
    """Candidates among the executions of one project, newest first.

    ``lease_seconds``: for so long an execution with a lease counts as one that has not ended; a runner that records an
    end voids its lease before.
    """

    def __init__(self, store: Store, project: str, clock: Clock, lease_seconds: float) -> None:
        self._store = store
        self._project = project
        self._clock = clock
        self._lease = timedelta(seconds=lease_seconds)
        self._local = store.url.startswith(("file:", "memory:"))

    def candidates(self, wanted: Filter, flows: frozenset[str]) -> Iterator[Candidate]:
        """All executions that may fit, newest first; some of them won't. ``flows``: the names of ``wanted.flow``."""
        low = address.exec_floor(wanted.since) if wanted.since is not None else ""
        high = address.exec_floor(wanted.until) if wanted.until is not None else ""
        opened = self._open()
        if wanted.by_time_alone:
            for names, _ in self._windows([address.executions(self._project)], low, high):
                for exec_id in (name.rstrip("/") for name in names):
                    yield opened.get(exec_id) or Candidate(exec_id)
            return
        loose = [
            candidate
            for candidate in (*opened.values(), *self._young(opened))
            if candidate.exec_id > low and not (high and candidate.exec_id > high)
            if candidate.mark is None or self._may_fit(candidate, wanted, flows)
        ]
        loose.sort(key=lambda candidate: candidate.exec_id)
        if wanted.statuses is None or wanted.statuses & ENDED:
            for names, floor in self._windows(self._ended_prefixes(wanted, flows), low, high):
                window = {exec_id: Candidate(exec_id) for exec_id in self._fitting(names, wanted)}
                while loose and loose[-1].exec_id > floor:
                    candidate = loose.pop()
                    window[candidate.exec_id] = candidate
                yield from (window[exec_id] for exec_id in sorted(window, reverse=True))
        yield from reversed(loose)

    def names_of(self, flow: str) -> frozenset[str]:
        """All the names that ``flow`` had or has: one listing."""
        pairs = [frozenset(name.split("~", 1)) for name in self._store.names(address.renamed_hints(self._project))]
        names = frozenset((flow,))
        while True:
            more = names.union(*(pair for pair in pairs if not names.isdisjoint(pair)))
            if more == names:
                return names
            names = more

    def _open(self) -> dict[str, Candidate]:
        """By id. Of two hints the plain one counts: a runner writes it before it removes a mark."""
        opened: dict[str, Candidate] = {}
        folder = address.open_hints(self._project)
        for key, size, modified in sorted(self._store.listed(folder)):
            name = key.removeprefix(folder)
            exec_id, flow, version, tag, *mark = name.split("~")
            if not mark or exec_id not in opened:
                leased = modified if size > len(hints.MARK) else None
                opened[exec_id] = Candidate(exec_id, mark[0] if mark else OPEN, flow, version, tag, name, leased)
        return opened

    def _may_fit(self, candidate: Candidate, wanted: Filter, flows: frozenset[str]) -> bool:
        """Whether an execution with that hint may be asked for. One with a lapsed lease may have ended."""
        of_flow = wanted.flow is None or candidate.flow in flows
        if wanted.statuses is None or not (of_flow and wanted.fits(candidate.version, candidate.tag)):
            return of_flow and wanted.fits(candidate.version, candidate.tag)
        if candidate.mark != OPEN:
            return candidate.mark in wanted.statuses
        leased = candidate.leased is not None and candidate.leased + self._lease >= self._clock.now()
        return not (leased and wanted.statuses <= ENDED | {"pending"})

    def _young(self, opened: dict[str, Candidate]) -> list[Candidate]:
        """Executions of the last minutes that are in no index."""
        floor = address.exec_floor(self._clock.now() - FIRST_WINDOW)
        young = {
            name.rstrip("/") for name in self._store.names(address.executions(self._project), after=floor)
        } - opened.keys()
        for status in ENDED if young else ():
            names = self._store.names(address.ended_hints(self._project, status), after=floor)
            young -= {name.partition("~")[0] for name in names}
        return [Candidate(exec_id) for exec_id in young]

    def _ended_prefixes(self, wanted: Filter, flows: frozenset[str]) -> list[str]:
        if wanted.flow is not None:
            return [address.ended_flow_hints(self._project, flow) for flow in sorted(flows)]
        statuses = ENDED if wanted.statuses is None else ENDED & wanted.statuses
        return [address.ended_hints(self._project, status) for status in sorted(statuses)]

    def _fitting(self, names: Iterable[str], wanted: Filter) -> Iterator[str]:
        for name in names:
            exec_id, kind, version, tag = name.split("~")
            if wanted.fits(version, tag) and (
                wanted.flow is None or wanted.statuses is None or kind in wanted.statuses
            ):
                yield exec_id

    def _windows(self, prefixes: Sequence[str], low: str, high: str) -> Iterator[tuple[list[str], str]]:
        """Names below ``prefixes`` in stretches of time that grow, the newest first; and the floor of each stretch."""
        span, above = FIRST_WINDOW, high
        while True:
            floor = low
            if not self._local and span < LONGEST_WINDOW:
                floor = max(low, address.exec_floor(self._clock.now() - span))
            if not above or floor < above:
                names = sorted(
                    chain.from_iterable(self._store.names(prefix, after=floor) for prefix in prefixes), reverse=True
                )
                yield [name for name in names if not above or name <= above], floor
                above = floor
            if floor == low:
                return
            span *= GROWTH


# --- writing ----------------------------------------------------------------------------------------------------------


def note_open(store: Store, execution: Execution | Opened) -> None:
    """Leave the hint that an execution is open. A failure to do so costs others time."""
    hints.leave(store, open_key(execution))


def note_end(store: Store, execution: Execution, entries: int, *, open_hint: bool = True) -> None:
    """Leave the hints of an execution that has ended after ``entries`` journal entries.

    ``open_hint``: there may be one, to be removed.
    """
    with suppress(KitaruStoreError):
        for key in _ended_keys(execution, execution.status):
            hints.write(store, key)
        hints.write(store, address.summary(execution.project, execution.exec_id), encode_summary(execution, entries))
        if open_hint:
            hints.remove(store, *(open_key(execution, mark) for mark in (OPEN, WAITING, LOST)))


def note_waiting(store: Store, execution: Execution, entries: int) -> None:
    """Leave the hint of an execution that waits without a runner, unless another runner went on with it."""
    key = open_key(execution, WAITING)
    with suppress(KitaruStoreError):
        hints.write(store, key, Sign(execution, entries).encode())
        if _goes_on(store, execution, entries):
            hints.remove(store, key)
        else:
            hints.remove(store, open_key(execution), open_key(execution, LOST))


def note_lost(store: Store, execution: Execution, entries: int, still: Callable[[], bool]) -> bool:
    """Mark an execution as lost, of which ``entries`` are recorded; whether that is so.

    ``still`` is asked once the mark is there: a runner that comes back removes the mark after it showed that it lives,
    so that either sees the other.
    """
    key = open_key(execution, LOST)
    hints.leave(store, key, Sign(replace(execution, status="lost"), entries).encode())
    lost = not _goes_on(store, execution, entries) and still()
    hints.drop(store, open_key(execution) if lost else key)
    return lost


def _goes_on(store: Store, execution: Execution, entries: int) -> bool:
    return store.read(address.journal_entry(execution.project, execution.exec_id, entries + 1)) is not None


def note_state(store: Store, project: str, exec_id: str, known: tuple[bytes, ...]) -> None:
    """Leave the hints of an execution that has ended or waits; ``known``: the first entries of its journal."""
    with suppress(KitaruStoreError):
        entries = read_entries(store, project, exec_id, known)
        execution = fold(read_events(entries, exec_id))
        if execution.ended:
            note_end(store, execution, len(entries))
        elif execution.suspended_at is not None:
            note_waiting(store, execution, len(entries))


def record_failed_start(
    store: Store, clock: Clock, project: str, exec_id: str, entries: tuple[bytes, ...], failure: Failure
) -> None:
    """Record that an execution with these entries failed before its flow began."""
    journal = Journal(store, project, exec_id, written=len(entries), write_id=clock.token(26))
    journal.commit(Failed(at=timestamp(clock.now()), error=failure))
    note_state(store, project, exec_id, entries)


def withdraw(store: Store, execution: Execution) -> None:
    """Before an execution that failed or waits is resumed: the hints that it ended or waits are no longer true."""
    note_open(store, execution)
    ended = _ended_keys(execution, "failed")
    summary = address.summary(execution.project, execution.exec_id)
    hints.remove(store, summary, *ended, open_key(execution, WAITING))


def hint_keys(execution: Execution) -> tuple[str, ...]:
    """Every hint that there may be of an execution, its summary aside."""
    ended = _ended_keys(execution, execution.status)
    return (*ended, *(open_key(execution, mark) for mark in (OPEN, WAITING, LOST)))


def open_key(execution: Execution | Opened, mark: str = OPEN) -> str:
    """The key of the hint that an execution is open, with that mark."""
    flow = execution.flow if isinstance(execution, Opened) else execution.flow_name
    name = f"{execution.exec_id}~{flow}~{_choice(execution)}"
    return f"{address.open_hints(execution.project)}{name}{'~' if mark else ''}{mark}"


def _ended_keys(execution: Execution, status: str) -> tuple[str, str]:
    """In the order in which they are written: a reader that finds the last takes the other for written, too."""
    project, exec_id, flow, choice = execution.project, execution.exec_id, execution.flow_name, _choice(execution)
    return (
        f"{address.ended_flow_hints(project, flow)}{exec_id}~{status}~{choice}",
        f"{address.ended_hints(project, status)}{exec_id}~{flow}~{choice}",
    )


def _choice(execution: Execution | Opened) -> str:
    return f"{execution.version or ''}~{execution.tag or ''}"
