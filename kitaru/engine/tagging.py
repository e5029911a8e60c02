"""Move routes one at a time: decide on the newest state, append, and decide again where another writer was first."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from kitaru.core.resolving import Resolved, in_table, live_flow, resolve
from kitaru.core.tagging import Edits, check_deletable, dropped, led_before, names_of, rollable
from kitaru.engine.records import read_table, write_object
from kitaru.engine.releases import Releases
from kitaru.errors import KitaruSelectorError
from kitaru.model.address import timestamp
from kitaru.model.lockfile import Lockfile, VersionTable
from kitaru.model.route import ByVersion, Holder
from kitaru.ports import Clock, Store

Decide = Callable[[Lockfile], Edits]

READS_AT_ONCE = 16
WHOLE = 100
MOST_READ = 4096
"""How far back the log is read for where a route led before. The newest move is known, so that one read is the rule."""


@dataclass(frozen=True, slots=True)
class Changed:
    """``before`` and ``after`` are the states around the generation; the same where there was nothing to do."""

    before: Lockfile
    after: Lockfile

    @property
    def wrote(self) -> bool:
        """Whether a generation was written."""
        return self.before.generation != self.after.generation


@dataclass(frozen=True, slots=True)
class Tagger:
    """Moves routes of one project in one store."""

    store: Store
    project: str
    releases: Releases
    clock: Clock

    def change(
        self, decide: Decide, lock: Lockfile, *, by: str, verb: str, message: str = "", edits: Edits | None = None
    ) -> Changed:
        """Write what ``decide`` makes of the newest state, as one generation; nothing where it gives no edits.

        ``lock`` is the state as it was seen a moment ago, ``edits`` what ``decide`` made of it where it was asked.
        Where another writer takes that generation, ``decide`` is asked again: its word is always about the state that
        it changes, so no move of anybody else is lost. Raises what ``decide`` raises.
        """
        edits = decide(lock) if edits is None else edits
        while edits:
            outcome = self.releases.write(lock, edits, by=by, message=message, verb=verb)
            if isinstance(outcome, Lockfile):
                return Changed(lock, outcome)
            lock = self.releases.head(verified=True)
            edits = decide(lock)
        return Changed(lock, lock)

    def holder(self, lock: Lockfile, flow: str, version: int) -> Holder:
        """That version of a flow, as what holds a tag. Raises ``KitaruSelectorError`` where it is not there."""
        live_flow(lock, flow)
        found = resolve(lock, flow, ByVersion(version))
        if not isinstance(found, Resolved):
            found = in_table(self.table(lock, flow), found, version)
        return Holder(version=version, snapshot=found.snapshot)

    def table(self, lock: Lockfile, flow: str) -> VersionTable:
        """The flow's version table."""
        return read_table(self.store, self.project, live_flow(lock, flow).table, flow)

    def drop(self, lock: Lockfile, flow: str, version: int, *, by: str) -> Edits:
        """The edits that delete a version; its version table is written. Raises as ``check_deletable`` does."""
        state = live_flow(lock, flow)
        table = self.table(lock, flow)
        in_table(table, state, version)
        # Its rows alone count: an older table may name the flow as it was called then.
        table = table.model_copy(update={"flow": flow})
        check_deletable(state, table, version)
        gone = table.deleting(version, at=timestamp(self.clock.now()), by=by)
        return dropped(lock, flow, version, write_object(self.store, self.project, gone.canonical()))

    def earlier(self, lock: Lockfile, flow: str, tag: str) -> tuple[Holder, ...]:
        """Where the route led before its holders last changed, from the log.

        Raises ``KitaruSelectorError`` where it led nowhere, was a shared label, or led to a version deleted since.
        """
        route = rollable(lock, flow, tag)
        found = self._led_before(lock, flow, tag, route.generation)
        if not found or sum(holder.weight for holder in found) != WHOLE:
            what = "was a shared label" if found else "has led nowhere else"
            raise KitaruSelectorError(
                f"{tag} of {flow} {what} before; name the version with --to N",
                hint=f"kitaru flow deployments list {flow}",
            )
        state = live_flow(lock, flow)
        table = self.table(lock, flow)
        for holder in found:
            in_table(table, state, holder.version)
        return found

    def _led_before(self, lock: Lockfile, flow: str, tag: str, generation: int) -> tuple[Holder, ...] | None:
        names = names_of(lock, flow)
        newest = generation or lock.generation
        oldest = max(newest - MOST_READ, 0)
        step = 1  # The first look is at the route's own last move, which nearly always is the one.
        with ThreadPoolExecutor(max_workers=READS_AT_ONCE) as pool:
            while newest > oldest:
                numbers = range(newest, max(newest - step, oldest), -1)
                for entry in pool.map(self.releases.entry, numbers):
                    found = led_before(entry[0].edits, names, tag) if entry else None
                    if found is not None:
                        return found
                newest, step = newest - len(numbers), READS_AT_ONCE
        return None
