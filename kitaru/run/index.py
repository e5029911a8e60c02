"""Names by which executions are found among very many. Hints: the journal decides, and readers put wrong ones right.

===============================================  ============================================  =====================
name, below ``<project>/index/``                 written                                       removed
===============================================  ============================================  =====================
``open/<name>``                                  by a runner after a second, and by a reader   after the end
                                                 that meets a lost execution
``open/<name>~waiting``                          by a runner that leaves while it waits        by the next runner
``open/<name>~lost``, its body a summary         by a reader, if the loss is certain           by the next runner
``ended/by-status/<status>/<name>``              after the end                                 if a failed execution
``ended/by-flow/<flow>/<name>``, the status in                                                 is resumed
place of the flow
``renamed/<flow>~<former name>``                 by an apply that renames a flow               never
===============================================  ============================================  =====================

A ``<name>`` is ``<exec_id>~<flow>~<version>~<tag>``, so that most filters cost no read. Ids sort by time: the newest
are found by listing the last ten minutes, then forty times as much, and so on; on a local disk by one listing.

A list costs, beside its names, one read for each execution that it shows and one for each that runs right now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain

from kitaru.errors import KitaruStoreError
from kitaru.model import address
from kitaru.model.address import timestamp
from kitaru.model.event import Failed, Failure, Opened
from kitaru.model.execution import ENDED, Execution, fold
from kitaru.ports import Clock
from kitaru.run.journal import Journal, encode_summary, read_entries, read_events, read_summary
from kitaru.store import hints
from kitaru.store.port import Store

FIRST_WINDOW = timedelta(minutes=10)
"""The first stretch of time that is listed; a younger execution may be in no index yet."""

GROWTH = 40
LONGEST_WINDOW = timedelta(days=365)
STARTS_WITHIN = timedelta(seconds=60)
"""An execution that has no runner after so long is lost, as far as can be seen from here."""

OPEN = "open"
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
class Candidate:
    """An execution worth a look. ``mark``: ``open``, ``waiting`` or ``lost`` by its hint; empty without one."""

    exec_id: str
    mark: str = ""
    flow: str = ""
    version: str = ""
    tag: str = ""

    def may_be(self, statuses: frozenset[str]) -> bool:
        """Whether an execution of that mark may have one of these; a runner may have just ended."""
        return self.mark == OPEN or self.mark in statuses


class Index:
    """Candidates among the executions of one project, newest first."""

    def __init__(self, store: Store, project: str, clock: Clock) -> None:
        self._store = store
        self._project = project
        self._clock = clock
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
            if not candidate.mark
            or (
                (wanted.statuses is None or candidate.may_be(wanted.statuses))
                and (wanted.flow is None or candidate.flow in flows)
                and wanted.fits(candidate.version, candidate.tag)
            )
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
        for name in self._store.names(address.open_hints(self._project)):
            exec_id, flow, version, tag, *mark = name.split("~")
            if not mark or exec_id not in opened:
                opened[exec_id] = Candidate(exec_id, mark[0] if mark else OPEN, flow, version, tag)
        return opened

    def _young(self, opened: dict[str, Candidate]) -> list[Candidate]:
        """Executions of the last minutes that are in no index."""
        floor = address.exec_floor(self._clock.now() - FIRST_WINDOW)
        young = {name.rstrip("/") for name in self._names(address.executions(self._project), floor)} - opened.keys()
        for status in ENDED if young else ():
            names = self._names(address.ended_hints(self._project, status), floor)
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
                names = sorted(chain.from_iterable(self._names(prefix, floor) for prefix in prefixes), reverse=True)
                yield [name for name in names if not above or name <= above], floor
                above = floor
            if floor == low:
                return
            span *= GROWTH

    def _names(self, prefix: str, after: str) -> list[str]:
        return self._store.names(prefix, after=after)


# --- writing ----------------------------------------------------------------------------------------------------------


def note_open(store: Store, execution: Execution | Opened) -> None:
    """Leave the hint that an execution is open. A failure to do so costs others time."""
    hints.leave(store, _open_key(execution))


def note_end(store: Store, execution: Execution, entries: int, *, open_hint: bool = True) -> None:
    """Leave the hints of an execution that has ended after ``entries`` journal entries.

    ``open_hint``: there may be one, to be removed.
    """
    with suppress(KitaruStoreError):
        for key in _ended_keys(execution, execution.status):
            hints.write(store, key)
        hints.write(store, address.summary(execution.project, execution.exec_id), encode_summary(execution, entries))
        if open_hint:
            hints.remove(store, *(_open_key(execution, mark) for mark in ("", WAITING, LOST)))


def note_waiting(store: Store, execution: Execution, entries: int) -> None:
    """Leave the hints of an execution that waits without a runner: its summary will do to show it."""
    project, exec_id = execution.project, execution.exec_id
    with suppress(KitaruStoreError):
        hints.write(store, address.summary(project, exec_id), encode_summary(execution, entries))
        if store.read(address.journal_entry(project, exec_id, entries + 1)) is not None:
            hints.remove(store, address.summary(project, exec_id))  # another runner went on with it meanwhile
            return
        hints.write(store, _open_key(execution, WAITING))
        hints.remove(store, _open_key(execution), _open_key(execution, LOST))


def note_lost(store: Store, execution: Execution, entries: int, still: Callable[[], bool]) -> bool:
    """Mark an execution as lost, of which ``entries`` are recorded; whether that is so.

    ``still`` is asked once the mark is there: a runner that comes back removes the mark after it showed that it lives,
    so that either sees the other.
    """
    project, exec_id = execution.project, execution.exec_id
    key = _open_key(execution, LOST)
    hints.leave(store, key, encode_summary(execution, entries))
    if store.read(address.journal_entry(project, exec_id, entries + 1)) is None and still():
        hints.drop(store, _open_key(execution))
        return True
    note_open(store, execution)
    hints.drop(store, key)
    return False


def read_lost(store: Store, project: str, candidate: Candidate) -> Execution | None:
    """The execution as its mark says it was lost; None if the mark was removed meanwhile."""
    name = f"{candidate.exec_id}~{candidate.flow}~{candidate.version}~{candidate.tag}~{LOST}"
    body = store.read(f"{address.open_hints(project)}{name}")
    execution = read_summary(body) if body is not None else None
    return execution if execution is not None and execution.status == "lost" else None


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
    hints.remove(store, summary, *ended, _open_key(execution, WAITING))


def remove_lost(store: Store, execution: Execution | Opened) -> None:
    """After a runner has shown that it lives: it is not lost."""
    note_open(store, execution)
    hints.drop(store, _open_key(execution, LOST))


def hint_keys(execution: Execution) -> tuple[str, ...]:
    """Every hint that there may be of an execution, its summary aside."""
    ended = _ended_keys(execution, execution.status)
    return (*ended, *(_open_key(execution, mark) for mark in ("", WAITING, LOST)))


def _open_key(execution: Execution | Opened, mark: str = "") -> str:
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
