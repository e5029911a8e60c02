"""A runner's sign of life in the store, for readers on other machines.

The lease is a hint: whoever believes it lapsed takes over by writing the next entry of the journal, and the runner that
was only slow, or asleep, finds its own next entry taken and stops.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from kitaru.engine.journal import Fenced
from kitaru.errors import KitaruStoreError
from kitaru.model import address
from kitaru.model.address import canonical_json, parse_timestamp, timestamp

if TYPE_CHECKING:
    # Readers need no runner.
    from kitaru.engine.run_state import RunState

LEASE_SECONDS = 45.0
"""For how long a lease holds, unless the settings say otherwise."""

FIRST_PART = 1 / 9
RENEWAL_PART = 2 / 9
"""When the lease is first written, and how often then, as parts of the time that it holds: 5 s and 10 s."""


@dataclass(frozen=True, slots=True)
class Lease:
    """``until``: when it lapses. ``doing``: the calls under way when it was written, each with ``since``."""

    runner_id: str
    until: datetime
    entries: int
    doing: tuple[dict[str, Any], ...]


def read_lease(body: bytes) -> Lease | None:
    """The lease in an object of the store; None for what can't be read as one: it is only a hint."""
    try:
        content = json.loads(body)
        return Lease(
            str(content["runner_id"]),
            parse_timestamp(content["until"]),
            int(content["entries"]),
            tuple(dict(one) for one in content["doing"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def lapsed(lease: Lease | None, runner_id: str, since: str, now: datetime, seconds: float) -> bool:
    """Whether a runner that began at ``since`` shows no sign of life: by its lease, or by the lack of one."""
    if lease is not None and lease.runner_id == runner_id:
        return lease.until < now
    return parse_timestamp(since) + timedelta(seconds=seconds) < now


class LeaseKeeping:
    """Renews the lease of one run, and stops the run where another runner has taken over. Used by one thread."""

    def __init__(self, run: RunState, runner_id: str, seconds: float) -> None:
        self._run = run
        self._runner_id = runner_id
        self._seconds = seconds
        self._due: float | None = None

    def tick(self, now: float) -> None:
        """Do what is due at ``now`` (monotonic seconds). Called some times a second."""
        run = self._run
        if run.halted is None and isinstance(run.journal.stopped, Fenced):
            # What runs in the flow may write nothing for hours, and is for nothing.
            run.halt(run.journal.stopped)
        if self._due is None:
            self._due = now + self._seconds * FIRST_PART
        if now < self._due or run.halted is not None or run.journal.stopped is not None:
            return
        self._due = now + self._seconds * RENEWAL_PART
        try:
            if run.journal.overtaken():
                run.halt(Fenced(f"{run.exec_id} was taken over by another runner"))
            elif not run.under_way.overdue:
                run.store.overwrite(address.lease(run.project, run.exec_id), self._body())
        except KitaruStoreError:
            # The next renewal may succeed; until then the old one holds.
            self._due = now + self._seconds * FIRST_PART

    def _body(self) -> bytes:
        run = self._run
        moment = run.clock.now()
        return canonical_json(
            {
                "runner_id": self._runner_id,
                "at": timestamp(moment),
                "until": timestamp(moment + timedelta(seconds=self._seconds)),
                "entries": run.journal.written,
                "doing": run.under_way.to_json(),
            }
        )
