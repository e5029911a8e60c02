"""Remove executions that ended long ago, with every hint that leads to them.

In this order: word of what they referred to, so that it outlives them by the grace period; the hints; the first entry
of the journal, with which the execution is gone; the rest. Whoever stops half-way leaves an execution that is whole, or
records without a first entry, which the next collector removes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from kitaru.core.naming import first_name
from kitaru.errors import KitaruIntegrityError, KitaruStoreFormatError
from kitaru.model import address
from kitaru.model.event import Opened
from kitaru.model.execution import fold
from kitaru.model.lockfile import FlowState
from kitaru.ports import Clock, Store
from kitaru.run.journal import read_entries, read_events
from kitaru.run.listing import hint_keys
from kitaru.upkeep.needs import in_parallel


@dataclass(frozen=True, slots=True)
class Expirer:
    """Removes executions of one project. ``horizon``: nothing that was written since is touched.

    ``flows`` are the project's, since an idempotency key is kept under the first name of a flow that was renamed.
    """

    store: Store
    project: str
    clock: Clock
    horizon: datetime
    flows: Mapping[str, FlowState]

    def expire(self, exec_ids: Sequence[str], referred: Collection[str]) -> int:
        """Remove these executions; how many were still as they had been. ``referred``: the objects that they name."""
        if not exec_ids:
            return 0
        if referred:
            body = address.canonical_json({"format": 1, "objects": sorted(referred)})
            self.store.create(address.collection(self.project, self.clock.token(26)), body)
        self._forget_cached(frozenset(exec_ids))
        return sum(in_parallel(self._expire, exec_ids))

    def _expire(self, exec_id: str) -> bool:
        folder = address.execution(self.project, exec_id)
        found = {one.key: one.modified for one in self.store.listed(folder)}
        if any(modified >= self.horizon for modified in found.values()):
            return False  # Somebody took it up again.
        for key in self._hints(exec_id):
            self.store.remove(key)
        first = address.journal_entry(self.project, exec_id, 1)
        for key in sorted(found, key=lambda key: key != first):
            self.store.remove(key)
        return True

    def _hints(self, exec_id: str) -> Iterator[str]:
        """Keys outside its folder that lead to an execution."""
        with suppress(KitaruIntegrityError, KitaruStoreFormatError):
            events = read_events(read_entries(self.store, self.project, exec_id), exec_id)
            if not events or not isinstance(opened := events[0], Opened):
                return
            yield from hint_keys(fold(events))
            if opened.idempotency_key is not None:
                for name in {opened.flow, first_name(self.flows, opened.flow)}:
                    key = address.idempotency(self.project, name, opened.idempotency_key)
                    if self._names(key) == exec_id:
                        yield key

    def _forget_cached(self, exec_ids: Collection[str]) -> None:
        """Remove what the cache knows of their results, and their notes about it."""
        old = [one.key for one in self.store.listed(address.cache_index(self.project)) if one.modified < self.horizon]
        notes = f"{address.cache_index(self.project)}seen/"

        def forget(key: str) -> None:
            name = key.rpartition("/")[2].removesuffix(".json")
            if (name if key.startswith(notes) else self._names(key)) in exec_ids:
                self.store.remove(key)

        for _ in in_parallel(forget, old):
            pass

    def _names(self, key: str) -> str:
        """The execution that a hint names; nothing where it can't be read."""
        with suppress(ValueError, TypeError, KeyError):
            return str(json.loads(self.store.read(key) or b"")["exec_id"])
        return ""


def remembered(store: Store, project: str, horizon: datetime) -> tuple[set[str], list[str]]:
    """What executions referred to that were removed within the grace period; and the keys of older words of that."""
    objects: set[str] = set()
    outdated = []
    for one in store.listed(address.collections(project)):
        if one.key == address.collecting(project):
            continue
        if one.modified < horizon:
            outdated.append(one.key)
        elif (body := store.read(one.key)) is not None:
            objects.update(json.loads(body)["objects"])
    return objects, outdated
