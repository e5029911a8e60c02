"""Finding executions among very many: hints whose names say enough to look at a few only.

Hints are empty of truth: a name that leads to an execution makes it worth a look, and what is said of it comes from
its summary, its runner's lease or its journal. Losing one costs time; a reader that finds one wrong puts it right.

=========================================  =======================================  ====================================
hint, below ``<project>/index/``           written                                  removed
=========================================  =======================================  ====================================
``open/<exec_id>~<flow>``                  by the runner when it ran for a second,  by the runner after the end
                                           and by a reader that finds it lost
``open/<exec_id>~<flow>~asking``           by the runner before it asks             by the runner once that is answered
``open/<exec_id>~<flow>~waiting``          by a runner that leaves while it waits   by the runner that goes on, first
``open/<exec_id>~<flow>~ending``           by a runner whose execution is known to  by the runner after the end
                                           be open, before it records the end
``open/<exec_id>~<flow>~lost``             by a reader that finds it lost; its      by the runner that goes on, after it
                                           body is what a list shows of it          recorded that, or whose lease had
                                                                                    lapsed
``open/was~<flow>~<its former name>``      by an apply that renames a flow, or     never
                                           whoever reads that entry first
``by-status/<status>/<exec_id>~<flow>``    by the runner after the end              when a failed one is taken up again
``by-flow/<flow>/<exec_id>~<status>``      the same                                 the same
``by-both/<flow>/<status>/<exec_id>``      the same                                 the same
=========================================  =======================================  ====================================

Hence an open execution without ``~asking`` and ``~waiting`` does not wait, and one without ``~ending`` has not ended by
its runner's hand: a reader that looks for others need not look at it. Nor at one with ``~lost``, unless it looks for
lost ones. That mark is left once it is certain: the runner's process was on this machine and is dead, or its last lease
lapsed ten minutes ago, which is more than clocks differ by.

Ids sort by time, so the newest are found by listing what is younger than ten minutes, then twelve times as long, and so
on: six listings (pages of 1,000 names) reach back for ever. On a local disk one listing of everything is cheaper.

Requests of ``executions list --limit L``, of a store of any size where there are L that fit in the first w windows
(w is at most 6). One that ended or waits parked costs 1 read, as does one under way whose runner renews its lease, and
one that is marked as lost; one that is younger than its first lease (5 s), or whose runner has just gone, costs up to
n + 3 (n: entries of its journal). Whoever first meets one that is lost for certain leaves its mark: 3 requests more.

What no name says is which of the unmarked ones have lost their runner since: whoever asks for lost ones, or for running
ones of which there are less than L, reads once for each execution that runs right now. Listings count pages of 1,000
names; one that runs, waits or is lost has one to three names among the open ones.

====================================  ==================================================================================
asked for                             requests
====================================  ==================================================================================
nothing in particular                 1 + w listings, and the reads of L
``--status running`` (or pending)     5 listings; the reads of those that are open, neither parked nor marked as lost
``--status lost``                     5 listings; the reads of those that are open and not parked
``--status waiting``                  5 listings; the reads of those that wait
``--status failed`` (or completed …)  4 + w listings; the reads of L, and of those younger than ten minutes in no index
``--flow F``                          the same; only those of F that are open; w more for each former name of F
====================================  ==================================================================================

The command asks once more for each row that waits: 1 listing of the answers that were left for it, and where there are
any the reads of its journal, so that it can say ``waiting (answered)``. ``KitaruClient.executions.list`` does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain

from kitaru.errors import KitaruStoreError
from kitaru.model import address
from kitaru.model.execution import ENDED, Execution, fold
from kitaru.ports import Clock
from kitaru.run.journal import encode_summary, read_entries, read_events, read_summary
from kitaru.store import hints
from kitaru.store.port import Store

FIRST_WINDOW = timedelta(minutes=10)
"""Executions younger than this may not be in any index yet; and the first stretch of time that is listed."""

GROWTH = 12
LONGEST_WINDOW = timedelta(days=365)
STARTS_WITHIN = timedelta(seconds=60)
"""An execution that nobody has begun to run after this long has no runner that will, as far as can be seen from here.
"""

OPEN = "open"
"""Stands for every status of an execution that has not ended."""

PARKED = "waiting"
ASKING = "asking"
ENDING = "ending"
LOST = "lost"
"""Marks: what the last part of the name of an open execution's hint says of it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An execution worth a look.

    ``under_way``: by its hints a runner has it, and no summary was written. ``asking``: it may wait for an answer.
    ``lost``: the flow of one that is marked as lost, else empty.
    """

    exec_id: str
    under_way: bool = False
    asking: bool = False
    lost: str = ""


@dataclass(slots=True)
class _Open:
    """An execution that is open by its hints."""

    exec_id: str
    flow: str
    marks: set[str]

    def may_be(self, status: str | None) -> bool:
        if status in (None, OPEN):
            return True
        if status in ENDED:
            return ENDING in self.marks
        if self.lost:
            return status == "lost"
        if status == "waiting":
            return not self.marks.isdisjoint((PARKED, ASKING))
        return PARKED not in self.marks

    def candidate(self) -> Candidate:
        under_way = self.marks.isdisjoint((PARKED, ENDING, LOST))
        return Candidate(self.exec_id, under_way, ASKING in self.marks, self.flow if self.lost else "")

    @property
    def lost(self) -> bool:
        """By its marks. One that may have ended is no such: its journal says which."""
        return LOST in self.marks and self.marks.isdisjoint((PARKED, ENDING))


class Listing:
    """Candidates among the executions of one project, newest first."""

    def __init__(self, store: Store, project: str, clock: Clock) -> None:
        self._store = store
        self._project = project
        self._clock = clock
        self._local = store.url.startswith(("file:", "memory:"))
        self._renames: list[frozenset[str]] = []

    def candidates(self, *, flow: str | None = None, status: str | None = None) -> Iterator[Candidate]:
        """All executions that may fit, newest first; some of them won't. Those of ``flow`` have any of its names."""
        opened = self._open()
        flows = self.names_of(flow) if flow is not None else None
        if flow is None and status is None:
            for names, _ in self._windows(address.executions(self._project)):
                for exec_id in (name.rstrip("/") for name in names):
                    yield opened[exec_id].candidate() if exec_id in opened else Candidate(exec_id)
            return
        loose, indexed = self._loose(opened, flows, status)
        if status is None or status in ENDED:
            young = self._of(indexed, flows, status) if indexed is not None else None
            for names, floor in self._windows(*self._ended_prefixes(flows, status), young=young):
                found = {exec_id: Candidate(exec_id) for exec_id in (name.partition("~")[0] for name in names)}
                while loose and loose[-1].exec_id > floor:
                    one = loose.pop()
                    found.setdefault(one.exec_id, one)
                yield from (found[exec_id] for exec_id in sorted(found, reverse=True))
        yield from reversed(loose)

    def names_of(self, flow: str) -> frozenset[str]:
        """All the names that ``flow`` had or has, as of the last look at ``candidates``."""
        names = frozenset((flow,))
        while True:
            more = names.union(*(one for one in self._renames if not names.isdisjoint(one)))
            if more == names:
                return names
            names = more

    def _open(self) -> dict[str, _Open]:
        """By id."""
        found: dict[str, _Open] = {}
        self._renames = []
        for name in self._names(address.open_hints(self._project), ""):
            exec_id, _, rest = name.partition("~")
            flow, _, mark = rest.partition("~")
            if exec_id == address.RENAMED:
                self._renames.append(frozenset((flow, mark)))
                continue
            found.setdefault(exec_id, _Open(exec_id, flow, set())).marks.add(mark)
        return found

    def _loose(
        self, opened: dict[str, _Open], flows: frozenset[str] | None, status: str | None
    ) -> tuple[list[Candidate], dict[str, list[str]] | None]:
        """Those that no index of ended ones holds, oldest first: open ones, and young ones in no index at all.

        Beside them the young ones that are in an index, by status, where that had to be looked at.
        """
        floor = self._floor(FIRST_WINDOW)
        young = {name.rstrip("/") for name in self._names(address.executions(self._project), floor)} - opened.keys()
        indexed = None
        if young:
            indexed = {ended: self._names(address.status_hints(self._project, ended), floor) for ended in sorted(ENDED)}
            for names in indexed.values():
                young -= {name.partition("~")[0] for name in names}
        found = [Candidate(exec_id) for exec_id in young]
        fitting = (one for one in opened.values() if (flows is None or one.flow in flows) and one.may_be(status))
        found += [one.candidate() for one in fitting]
        return sorted(found, key=lambda one: one.exec_id), indexed

    def _of(self, indexed: dict[str, list[str]], flows: frozenset[str] | None, status: str | None) -> list[str]:
        """The ids of those that fit, oldest first."""
        fitting = (name for ended, names in indexed.items() if status in (None, ended) for name in names)
        return sorted(name.partition("~")[0] for name in fitting if flows is None or name.partition("~")[2] in flows)

    def _ended_prefixes(self, flows: frozenset[str] | None, status: str | None) -> list[str]:
        if flows is None:
            return [address.status_hints(self._project, status or "")]
        return [
            address.flow_hints(self._project, flow)
            if status is None
            else address.flow_status_hints(self._project, flow, status)
            for flow in sorted(flows)
        ]

    def _windows(self, *prefixes: str, young: list[str] | None = None) -> Iterator[tuple[list[str], str]]:
        """Names below ``prefixes`` in stretches of time that grow, the newest first; and the floor of each stretch.

        ``young``: what the first stretch holds, where that is known.
        """
        if self._local:
            yield self._below(prefixes, "")[::-1], ""
            return
        span, above = FIRST_WINDOW, ""
        while True:
            floor = self._floor(span) if span < LONGEST_WINDOW else ""
            listed = young if young is not None and not above else self._below(prefixes, floor)
            names = [name for name in listed if not above or name <= above]
            yield names[::-1], floor
            if not floor:
                return
            span, above = span * GROWTH, floor

    def _below(self, prefixes: Sequence[str], after: str) -> list[str]:
        found = [self._names(prefix, after) for prefix in prefixes]
        return found[0] if len(found) == 1 else sorted(chain.from_iterable(found))

    def _names(self, prefix: str, after: str) -> list[str]:
        return self._store.names(prefix, after=after)

    def _floor(self, span: timedelta) -> str:
        return address.exec_floor(self._clock.now() - span)


def note_open(store: Store, project: str, exec_id: str, flow: str) -> None:
    """Leave the hint that an execution is open. What fails is not missed."""
    hints.leave(store, address.open_hint(project, exec_id, flow))


def note_end(store: Store, execution: Execution, entries: int, completed: int, *, open_hint: bool = True) -> None:
    """Leave the hints of an execution that has ended after ``entries`` journal entries.

    ``completed``: its completed checkpoints. ``open_hint``: there may be one, to be removed.
    """
    project = execution.project
    with suppress(KitaruStoreError):
        for key in _ended_keys(execution):
            hints.write(store, key)
        summary = encode_summary(execution, entries, completed)
        hints.write(store, address.summary(project, execution.exec_id), summary)
        if open_hint:
            _remove_open(store, execution)


def note_parked(store: Store, execution: Execution, entries: int, completed: int) -> None:
    """Leave the hints of an execution whose runner has left while it waits: its summary will do to show it."""
    project, exec_id, flow = execution.project, execution.exec_id, execution.flow_name
    with suppress(KitaruStoreError):
        hints.write(store, address.summary(project, exec_id), encode_summary(execution, entries, completed))
        if store.read(address.journal_entry(project, exec_id, entries + 1)) is not None:
            hints.remove(store, address.summary(project, exec_id))  # Somebody went on with it meanwhile.
            return
        hints.write(store, address.open_hint(project, exec_id, f"{flow}~{PARKED}"))
        _remove_open(store, execution, but=PARKED)


def note_lost(store: Store, execution: Execution, entries: int, still: Callable[[], bool]) -> bool:
    """Mark an execution as lost, of which ``entries`` are recorded; whether that is so.

    ``still`` is asked once the mark is there: a runner that comes back removes the mark after it showed that it lives,
    so that either sees the other.
    """
    project, exec_id = execution.project, execution.exec_id
    key = address.open_hint(project, exec_id, f"{execution.flow_name}~{LOST}")
    hints.leave(store, key, encode_summary(execution, entries, completed_calls(execution)))
    if store.read(address.journal_entry(project, exec_id, entries + 1)) is None and still():
        return True
    hints.drop(store, key)
    return False


def read_lost(store: Store, project: str, exec_id: str, flow: str) -> Execution | None:
    """What the mark of a lost execution says of it; None where it was removed meanwhile."""
    body = store.read(address.open_hint(project, exec_id, f"{flow}~{LOST}"))
    execution = read_summary(body) if body is not None else None
    return execution if execution is not None and execution.status == "lost" else None


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
    ended = reversed(_ended_keys(execution))
    parked = address.open_hint(project, exec_id, f"{flow}~{PARKED}")
    hints.remove(store, address.summary(project, exec_id), *ended, parked)


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


def _remove_open(store: Store, execution: Execution, *, but: str | None = None) -> None:
    for mark in ("", ASKING, PARKED, ENDING, LOST):
        if mark != but:
            name = f"{execution.flow_name}~{mark}" if mark else execution.flow_name
            hints.remove(store, address.open_hint(execution.project, execution.exec_id, name))
