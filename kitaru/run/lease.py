"""Signs of life: the lease that a runner renews while it runs an execution, and its hint that the execution is open."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from kitaru.errors import KitaruStoreError
from kitaru.model import address
from kitaru.model.address import parse_timestamp, timestamp
from kitaru.model.event import CheckpointLost, Event, Failed, Failure, Opened, Started, Suspended
from kitaru.model.execution import Execution, fold
from kitaru.run.index import STARTS_WITHIN, note_open, remove_lost, withdraw
from kitaru.run.journal import Fenced, Journal
from kitaru.run.logs import LogWriter
from kitaru.store import hints
from kitaru.store.port import Store

if TYPE_CHECKING:
    from kitaru.run.state import RunState


EVENT_DELAY = 0.2
"""Seconds after which a buffered event is written though nothing else is: a long checkpoint shows as running."""

LOG_DELAY = 1.0
"""Seconds between two chunks of log lines, while there is output."""

Duty = Callable[[float], None]


class Keeper:
    """Flushes buffered events and log lines now and then, from its start until ``close``."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._logs: LogWriter | None = None
        self._duties: tuple[Duty, ...] = ()
        self._closing = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"kitaru-keeper-{journal.exec_id}", daemon=True)

    def start(self, logs: LogWriter, duties: Sequence[Duty] = ()) -> None:
        """Begin, for the journal and these logs; each duty is called with the monotonic time, some times a second."""
        self._logs = logs
        self._duties = tuple(duties)
        self._thread.start()

    def wake(self) -> None:
        """Look now."""
        self._wake.set()

    def close(self) -> None:
        """End the thread; returns when it is gone, so that the caller's next write is the last."""
        self._closing = True
        self._wake.set()
        self._thread.join()

    def _keep(self) -> None:
        logs_due = time.monotonic() + LOG_DELAY
        while not self._closing:
            woken = self._wake.wait(EVENT_DELAY)
            if self._closing:
                return
            self._wake.clear()
            now = time.monotonic()
            since = self._journal.waits_since()
            if since is not None and now - since >= EVENT_DELAY:
                self._journal.flush()
            for duty in self._duties:
                duty(now)
            if self._logs is not None and (woken or now >= logs_due):
                logs_due = now + LOG_DELAY
                if not self._logs.empty:
                    # Whoever finds a line of an attempt finds in the journal that it began.
                    self._logs.flush(self._journal.settle)


OPEN_AFTER = 1.0
"""Seconds that a run takes before it is worth a hint that it is open."""


class Presence:
    """Leaves the hint that an execution is open, once its run has taken a while."""

    def __init__(self, store: Store, opened: Opened) -> None:
        self._store = store
        self._opened = opened
        self._guard = threading.Lock()
        self._over = False
        self._timer = threading.Timer(OPEN_AFTER, self._write)
        self._timer.daemon = True
        self.written = False
        """Whether there may be a hint, of this run or an earlier one."""
        self.may_be_marked = False
        """Whether a reader may have marked the execution as lost before this run began."""

    def begin(self, recorded: Sequence[Event], now: datetime) -> None:
        """Write the hint in a while; at once if ``recorded`` says that the execution had failed or waited."""
        resumed = any(isinstance(event, Started) for event in recorded)
        self.may_be_marked = resumed or parse_timestamp(self._opened.at) + STARTS_WITHIN < now
        self.written = self.may_be_marked
        if any(isinstance(event, (Failed, Suspended)) for event in recorded):
            withdraw(self._store, fold(recorded))
        else:
            self._timer.start()

    def confirm(self) -> None:
        """A reader that marked the execution as lost was mistaken. To be called after the runner has recorded that it
        goes on, or renewed its lease: a reader that marks it looks at these afterwards.
        """
        with self._guard:
            if not self._over:
                self.written = True
                remove_lost(self._store, self._opened)

    def ending(self) -> None:
        """Before the end is recorded: the lease says no longer that the execution runs."""
        self.end()
        if self.written:
            hints.drop(self._store, address.lease(self._opened.project, self._opened.exec_id))

    def renew(self, body: bytes) -> None:
        """Write the lease, unless the run is over."""
        with self._guard:
            if not self._over:
                hints.write(self._store, address.lease(self._opened.project, self._opened.exec_id), body)

    def end(self) -> None:
        """The run is over: nothing is written after this returns."""
        self._timer.cancel()
        with self._guard:
            self._over = True

    def _write(self) -> None:
        with self._guard:
            if not self._over:
                self.written = True
                note_open(self._store, self._opened)


LEASE_SECONDS = 45.0
"""For how long a lease holds, unless the settings say otherwise."""

PATIENCE = 10
"""A process that is seen to live may be silent for so many times as long: a call in C holds the interpreter, say. It
is shown as running, with a word about it; whoever takes over all the same does no harm.
"""

FIRST_PART = 1 / 9
RENEWAL_PART = 2 / 9
"""When the lease is first written, and how often then, as parts of the time that it holds: 5 s and 10 s."""


@dataclass(frozen=True, slots=True)
class Lease:
    """``until``: when it lapses. ``doing``: the calls under way when it was written, each with ``since``.

    ``execution``: how it stood then, without checkpoints, waits and artifacts; None if the lease lacks it.
    """

    runner_id: str
    until: datetime
    entries: int
    doing: tuple[dict[str, Any], ...]
    at: datetime | None = None
    execution: dict[str, Any] | None = None

    def shown(self, now: datetime) -> Execution | None:
        """The execution as a list shows it while its runner is at work; None if the lease doesn't vouch for it."""
        return None if self.until < now else self.last_shown()

    def last_shown(self) -> Execution | None:
        """The execution as it stood after ``entries`` journal entries; None if the lease doesn't say."""
        if self.execution is None:
            return None
        try:
            found = Execution.from_json(self.execution)
        except (ValueError, TypeError, KeyError):
            return None
        if found.status not in ("running", "waiting") or found.runner is None:
            return None
        return found if found.runner.id == self.runner_id else None


def read_lease(body: bytes) -> Lease | None:
    """The lease in an object of the store; None if it can't be read: it is only a hint."""
    try:
        content = json.loads(body)
        return Lease(
            str(content["runner_id"]),
            parse_timestamp(content["until"]),
            int(content["entries"]),
            tuple(dict(one) for one in content["doing"]),
            parse_timestamp(content["at"]) if "at" in content else None,
            dict(content["execution"]) if "execution" in content else None,
        )
    except (ValueError, KeyError, TypeError):
        return None


def silent_for(lease: Lease | None, runner_id: str, since: str, now: datetime) -> float:
    """Seconds since the last sign of life of a runner that began at ``since``."""
    seen = parse_timestamp(since)
    if lease is not None and lease.runner_id == runner_id and lease.at is not None:
        seen = max(seen, lease.at)
    return max(0.0, (now - seen).total_seconds())


def lapsed(lease: Lease | None, runner_id: str, since: str, now: datetime, seconds: float) -> bool:
    """Whether a runner that began at ``since`` shows no sign of life: by its lease, or by the lack of one."""
    if lease is not None and lease.runner_id == runner_id:
        return lease.until < now
    return parse_timestamp(since) + timedelta(seconds=seconds) < now


def lost_attempts(run: RunState) -> list[CheckpointLost]:
    """The events by which a runner that takes over ends the attempts that its predecessor had under way.

    One read, if there are any: of the predecessor's lease, for its last sign of life.
    """
    if not run.history.under_way:
        return []
    last = next(event.runner for event in reversed(run.history.headlines[:-1]) if isinstance(event, Started))
    lease = None
    with suppress(KitaruStoreError):
        body = run.store.read(address.lease(run.project, run.exec_id))
        lease = read_lease(body) if body is not None else None
    seen = run.history.seen
    if lease is not None and lease.at is not None and lease.runner_id == last.id:
        seen = max(seen, timestamp(lease.at))
    at = run.now()
    error = Failure(
        type="RunnerLost",
        message=f"its runner, {last.shown}, ended without a word; last seen at {seen}",
        origin="runtime",
    )
    return [
        CheckpointLost(at=at, started=one.at, seen=seen, call=one.call, name=one.name, attempt=one.attempt, error=error)
        for one in run.history.under_way
    ]


class LeaseKeeping:
    """Renews the lease of one run, and stops the run once another runner has taken over. Used by one thread,
    but for ``holds``.
    """

    def __init__(self, run: RunState, runner_id: str, seconds: float) -> None:
        self._run = run
        self._runner_id = runner_id
        self._seconds = seconds
        self._due: float | None = None
        self._until: datetime | None = None
        """When the newest lease, or the time without one, lapses."""
        self._asks: bool | None = None
        """What the newest lease says; None before the first."""

    def tick(self, now: float) -> None:
        """Look, if it is time by ``now`` (monotonic seconds). Called some times a second."""
        run = self._run
        if run.halted is None and isinstance(run.journal.stopped, Fenced):
            # What runs in the flow may write nothing for hours, and is for nothing.
            run.halt(run.journal.stopped)
        if self._due is None:
            self._due = now + self._seconds * FIRST_PART
            self._until = run.clock.now() + timedelta(seconds=self._seconds)
        if self._asks is not None and run.waits.asks != self._asks:
            self._due = now
        if now < self._due or run.halted is not None or run.journal.stopped is not None:
            return
        self._due = now + self._seconds * RENEWAL_PART
        try:
            if run.journal.overtaken():
                run.halt(Fenced(f"{run.exec_id} was taken over by another runner"))
            else:
                self._renew(run.waits.asks)
        except KitaruStoreError:
            # The next renewal may succeed; until then the old one holds.
            self._due = now + self._seconds * FIRST_PART

    def holds(self) -> bool:
        """Whether this runner still has the execution, as far as it can know: its output is kept then.

        One read if its last lease has lapsed, as after a sleep, for others may have taken over; no other request.
        """
        run = self._run
        if isinstance(run.journal.stopped, Fenced):
            return False
        if self._until is None or run.clock.now() < self._until or not run.journal.overtaken():
            return True
        run.halt(Fenced(f"{run.exec_id} was taken over by another runner"))
        return False

    def _renew(self, asks: bool) -> None:
        run = self._run
        moment = run.clock.now()
        until = moment + timedelta(seconds=self._seconds)
        run.presence.renew(self._body(asks, moment, until))
        self._asks = asks
        slept = self._until is not None and self._until < moment
        self._until = until
        if slept:
            # The machine was asleep, or the store away: meanwhile a reader may have marked it as lost.
            run.presence.confirm()

    def _body(self, asks: bool, moment: datetime, until: datetime) -> bytes:
        run = self._run
        entries = run.journal.written  # first: what is shown is not behind what is counted
        execution = replace(fold(list(run.history.headlines)), status="waiting" if asks else "running")
        content = {
            "runner_id": self._runner_id,
            "at": timestamp(moment),
            "until": timestamp(until),
            "entries": entries,
            "doing": [
                {"call": one.call, "name": one.name, "attempt": one.attempt, "since": one.at}
                for one in list(run.under_way.values())
            ],
            "execution": execution.summary(),
        }
        return json.dumps(content, separators=(",", ":")).encode()  # values keep the order of their keys
