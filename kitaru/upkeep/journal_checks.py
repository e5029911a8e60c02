"""Is a journal whole: every entry there and as it was written, of the version that it names, and as its summary says?

What can't be seen: that somebody wrote a journal anew from its first entry to its last, digests and summary included.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, cast

from kitaru.errors import KitaruError, KitaruIntegrityError, KitaruStoreFormatError
from kitaru.model import address
from kitaru.model.event import (
    FORMAT,
    ArtifactSaved,
    CheckpointCompleted,
    Completed,
    Entry,
    Event,
    Opened,
    Value,
    decode_entry,
)
from kitaru.model.execution import Execution, fold
from kitaru.model.lockfile import Lockfile, VersionTable
from kitaru.ports import Store
from kitaru.run.journal import read_entries
from kitaru.store.records import read_table
from kitaru.upkeep.verifying import Fault
from kitaru.values.inline_values import inline_fits

COMPARED = ("exec_id", "project", "flow_name", "status", "version", "snapshot", "inputs", "output", "failure")
"""What a summary and the journal that it sums up must say alike."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One journal: what is wrong with it, and the (flow, snapshot) that it needs where it has not ended."""

    faults: tuple[Fault, ...] = ()
    pinned: tuple[str, str] | None = None


@dataclass(slots=True)
class JournalChecks:
    """Checks the journals of one project, of which ``lock`` is the newest state. May be used by several threads."""

    store: Store
    project: str
    lock: Lockfile
    _tables: dict[str, VersionTable | None] = field(default_factory=dict)
    _guard: Lock = field(default_factory=Lock)

    def check(self, exec_id: str) -> Checked:
        """Read all of an execution's journal. What its runner writes meanwhile is no fault."""
        # Before the entries: they are written first, so that it can't tell of more than is there.
        summary = self.store.read(address.summary(self.project, exec_id))
        folder = address.journal(self.project, exec_id)
        bodies: tuple[bytes, ...] = ()
        while True:
            bodies = read_entries(self.store, self.project, exec_id, bodies)
            missing = address.journal_entry(self.project, exec_id, len(bodies) + 1)
            newest = address.journal_entry(self.project, exec_id, len(bodies)).rpartition("/")[2]
            beyond = self.store.names(folder, after=newest)
            # A runner may have written between the two looks.
            if not beyond or self.store.read(missing) is None:
                break
        if not bodies:
            # A replay writes its second entry first: until the first one is there, there is no execution.
            gone = Fault(folder, f"{exec_id} has no first entry, and later ones")
            return Checked((gone,) if len(beyond) > 1 else ())
        if beyond:
            text = f"missing, and {beyond[0]} is there: what {exec_id} did is not known to its end"
            return Checked((Fault(missing, text),))
        try:
            entries = [decode_entry(body, f"journal entry {at} of {exec_id}") for at, body in enumerate(bodies, 1)]
            events = [event for entry in entries for event in entry.events]
            execution = fold(events)
        except (KitaruIntegrityError, KitaruStoreFormatError) as error:
            return Checked((Fault(folder, f"the journal of {exec_id} can't be read: {error.message}"),))
        if not isinstance(events[0], Opened) or (execution.exec_id, execution.project) != (exec_id, self.project):
            return Checked((Fault(folder, f"the journal of {exec_id} is that of {execution.exec_id}"),))
        faults = (
            *self._entry_faults(exec_id, entries),
            *self._version_faults(execution),
            *self._summary_faults(exec_id, entries, summary),
        )
        if execution.ended or execution.snapshot is None:
            return Checked(faults)
        return Checked(faults, (execution.flow_name, execution.snapshot))

    def _entry_faults(self, exec_id: str, entries: Sequence[Entry]) -> Iterator[Fault]:
        for number, entry in enumerate(entries, 1):
            key = address.journal_entry(self.project, exec_id, number)
            if entry.number != number:
                yield Fault(key, f"is entry {entry.number} of {exec_id} by its own word")
            for event in entry.events:
                for name, value in _values(event):
                    if not inline_fits(value, as_written=_is_own(event)):
                        text = f"the {name} in its {event.kind} event is not what the digest beside it says"
                        yield Fault(key, f"{text}: entry {number} of {exec_id} was changed")

    def _version_faults(self, execution: Execution) -> Iterator[Fault]:
        """The snapshot that it runs must be the one of the version that it names."""
        version, exec_id = execution.version, execution.exec_id
        if version is None:
            return
        key = address.journal_entry(self.project, exec_id, 1)
        name = execution.flow_name
        while (state := self.lock.flows.get(name)) is not None and state.renamed_to:
            name = state.renamed_to
        if state is None or version > state.latest:
            # What was released since the log was looked at is not known here.
            if self.store.read(address.generation(self.project, self.lock.generation + 1)) is None:
                yield Fault(key, f"{exec_id} runs v{version} of {execution.flow_name}, which was never released")
            return
        table = self._table(name, state.table)
        release = table.release(version) if table is not None else None
        # A table that can't be read is told by itself.
        if table is not None and (release is None or release.snapshot != execution.snapshot):
            yield Fault(key, f"{exec_id} runs another snapshot than v{version} of {name} is: its entry 1 was changed")

    def _table(self, flow: str, sha: str) -> VersionTable | None:
        with self._guard:
            if sha not in self._tables:
                try:
                    self._tables[sha] = read_table(self.store, self.project, sha, flow)
                except (KitaruIntegrityError, KitaruStoreFormatError):
                    self._tables[sha] = None
            return self._tables[sha]

    def _summary_faults(self, exec_id: str, entries: Sequence[Entry], body: bytes | None) -> Iterator[Fault]:
        """Against the entries that it says it sums up: those after them may have come since."""
        if body is None:
            return
        key = address.summary(self.project, exec_id)
        try:
            content = json.loads(body)
            if content["format"] > FORMAT:
                return
            count, told = int(content["entries"]), Execution.from_json(content["execution"])
        except (ValueError, TypeError, KeyError, RecursionError):
            yield Fault(key, f"the summary of {exec_id} can't be read: it was damaged or edited")
            return
        if count > len(entries):
            text = f"the summary of {exec_id} tells of {count} entries ({told.status}), its journal ends with"
            missing = address.journal_entry(self.project, exec_id, len(entries) + 1)
            yield Fault(missing, f"missing: {text} {len(entries)}")
            return
        try:
            known = fold(event for entry in entries[:count] for event in entry.events)
        except KitaruError:
            yield Fault(key, f"the summary of {exec_id} tells of {count} entries, which do not open it")
            return
        # That a runner is gone stands in no journal.
        lost = told.status == "lost"
        differing = [
            name
            for name in COMPARED
            if not _alike(getattr(told, name), getattr(known, name)) and not (lost and name == "status")
        ]
        if differing:
            words = ", ".join(name.removesuffix("_name").replace("_", " ") for name in differing)
            yield Fault(key, f"the summary of {exec_id} does not say what its {count} entries do: {words}")


def _is_own(event: Event) -> bool:
    """Whether the runner made the event's value itself, so that it stands there as it was written."""
    if isinstance(event, CheckpointCompleted):
        return event.cached_from is None and event.original_call_id is None and event.given_by is None
    return isinstance(event, Completed | ArtifactSaved)


def _values(event: Event) -> Iterator[tuple[str, Value]]:
    """The stored values of an event, each with its field's name."""
    for name in cast("tuple[str, ...]", event.__slots__):
        found = getattr(event, name)
        if isinstance(found, Value):
            yield name, found


def _alike(told: Any, known: Any) -> bool:
    """Whether a summary's field is the journal's. A summary sorts the keys of a value, so that its digest says nothing.

    An entry whose value was edited is told by itself, and not once more as a summary that differs.
    """
    if isinstance(told, Value) and isinstance(known, Value):
        named = (told.format, told.size, told.sha256) == (known.format, known.size, known.sha256)
        return named and (told.inline == known.inline or not inline_fits(known))
    return bool(told == known)
