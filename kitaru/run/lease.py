"""The lease that a runner renews while it runs an execution, and the thread that keeps its records up to date."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from kitaru.errors import KitaruStoreError
from kitaru.model.address import parse_timestamp, timestamp
from kitaru.model.event import CheckpointLost, Failed, Failure, Started, Suspended
from kitaru.model.execution import Execution, fold
from kitaru.run.cancel import cancelled_error
from kitaru.run.index import LOST, STARTS_WITHIN, Sign, note_open, open_key, read_sign, withdraw
from kitaru.run.journal import Fenced, Journal
from kitaru.run.logs import LogWriter
from kitaru.store import hints

if TYPE_CHECKING:
    from kitaru.run.state import RunState


EVENT_DELAY = 0.2
"""Seconds after which a buffered event is written though nothing else is: a long checkpoint shows as running."""

LOG_DELAY = 1.0
"""Seconds between two chunks of log lines, while there is output."""


class Keeper:
    """Flushes buffered events and log lines now and then, from its start until ``close``."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._logs: LogWriter | None = None
        self._tick: Callable[[float], None] = lambda _now: None
        self._closing = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"kitaru-keeper-{journal.exec_id}", daemon=True)

    def start(self, logs: LogWriter, tick: Callable[[float], None]) -> None:
        """Begin, for the journal and these logs; ``tick`` is called with the monotonic time, some times a second."""
        self._logs = logs
        self._tick = tick
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
            self._tick(now)
            if self._logs is not None and (woken or now >= logs_due):
                logs_due = now + LOG_DELAY
                if not self._logs.empty:
                    # Whoever finds a line of an attempt finds in the journal that it began.
                    self._logs.flush(self._journal.settle)


OPEN_AFTER = 1.0
"""Seconds that a run takes before it is worth a hint that it is open, which is its first lease."""

LOOK_SECONDS = 1.0
"""Between two looks of a runner at whether it was cancelled, or another one has taken over."""

GRACE_SECONDS = 1.0
"""How long the flow's code then has to come to its next checkpoint, wait or note, before its process ends."""

ForcedEnd = Callable[[BaseException], None]
"""Ends a run whose code goes on: its process, or the handle on it. Given the reason, which is recorded."""

LEASE_SECONDS = 45.0
"""For how long a lease holds, unless the settings say otherwise."""

RENEWAL_PART = 2 / 9
"""How often a lease is renewed, as part of the time that it holds: 10 s. After a failure, in half that time."""

PATIENCE = 10
"""A process that is seen to live may be silent for so many times as long: a call in C holds the interpreter, say. It
is shown as running, with a word about it; whoever takes over all the same does no harm.
"""


def last_seen(execution: Execution, sign: Sign | None) -> datetime:
    """The last sign of life of an execution's runner: the newest lease, if that is its own, or its beginning."""
    began = parse_timestamp(execution.runner_since or execution.created_at)
    if sign is None or sign.at is None or sign.execution.runner != execution.runner:
        return began
    return max(began, sign.at)


def lapses(execution: Execution, sign: Sign | None, seconds: float) -> datetime:
    """The end of the lease of an execution's runner, or of the time that it has for the first one."""
    if sign is not None and sign.until is not None and sign.execution.runner == execution.runner:
        return sign.until
    return parse_timestamp(execution.runner_since or execution.created_at) + timedelta(seconds=seconds)


def lost_attempts(run: RunState) -> list[CheckpointLost]:
    """The events by which a runner that takes over ends the attempts that its predecessor had under way.

    One read, if there are any: of the predecessor's lease, for its last sign of life.
    """
    if not run.history.under_way:
        return []
    last = next(event.runner for event in reversed(run.history.headlines[:-1]) if isinstance(event, Started))
    seen = run.history.seen
    with suppress(KitaruStoreError):
        sign = read_sign(run.store.read(open_key(run.opened)))
        if sign is not None and sign.at is not None and sign.execution.runner == last:
            seen = max(seen, timestamp(sign.at))
    error = Failure(
        type="RunnerLost",
        message=f"its runner, {last.shown}, ended without a word; last seen at {seen}",
        origin="runtime",
    )
    return [
        CheckpointLost(
            at=run.now(), started=one.at, seen=seen, call=one.call, name=one.name, attempt=one.attempt, error=error
        )
        for one in run.history.under_way
    ]


def end_of(run: RunState, fenced: Fenced) -> BaseException:
    """The error for the caller of a run that was fenced."""
    if fenced.cancelled_by is None:
        return fenced
    return cancelled_error(run.flow.name, run.exec_id, fenced.cancelled_by)


class Lease:
    """The lease of one run, as a hint of its execution. One thread renews it, and ends the run once that is fenced."""

    def __init__(self, run: RunState) -> None:
        self._run = run
        self._seconds = run.host.lease_seconds
        self._forced_end = run.host.forced_end
        self._looks_at = self._deadline = float("inf")
        self._guard = threading.Lock()
        self._over = False
        self._due: float | None = None
        self._until: datetime | None = None
        """When the newest lease, or the time without one, lapses."""
        self._asks: bool | None = None
        """Whether it asks something, by the newest lease; None before the first."""
        resumed = any(isinstance(event, Started) for event in run.history.headlines)
        self.may_be_marked = resumed or parse_timestamp(run.opened.at) + STARTS_WITHIN < run.clock.now()
        """Whether a reader may have marked the execution as lost before this run began."""
        self.hinted = self.may_be_marked
        """Whether there may be a hint that it is open, of this run or an earlier one."""

    def begin(self) -> None:
        """Before the first line: hints that it failed or waits are no longer true."""
        if any(isinstance(event, (Failed, Suspended)) for event in self._run.history.headlines):
            withdraw(self._run.store, fold(self._run.history.headlines))

    def tick(self, now: float) -> None:
        """Look, renew and end, if it is time by ``now`` (monotonic seconds). Called some times a second."""
        run, renewal = self._run, self._seconds * RENEWAL_PART
        if self._due is None:
            self._looks_at, self._due = now + LOOK_SECONDS, now + min(OPEN_AFTER, renewal)
            self._until = run.clock.now() + timedelta(seconds=self._seconds)
        if run.halted is not None or run.journal.stopped is not None:
            self._force_end(now)
            return
        if self._asks is not None and run.waits.asks != self._asks:
            self._due = now
        try:
            if now >= min(self._looks_at, self._due):
                self._looks_at = now + LOOK_SECONDS
                # Its code may write nothing for hours, and is for nothing once it was cancelled or taken over.
                if (fenced := run.journal.overtaken()) is not None:
                    run.halt(fenced)
                    return
            if now >= self._due:
                self._due = now + renewal
                self._renew()
        except KitaruStoreError:
            # The next renewal may succeed; until then the old one holds.
            self._due = now + renewal / 2

    def _force_end(self, now: float) -> None:
        fenced = self._run.halted or self._run.journal.stopped
        if not isinstance(fenced, Fenced):
            return
        self._run.halt(fenced)
        self._deadline = min(self._deadline, now + GRACE_SECONDS)
        if now >= self._deadline and self._forced_end is not None:
            forced_end, self._forced_end = self._forced_end, None
            forced_end(end_of(self._run, fenced))

    def holds(self) -> bool:
        """Whether this runner still has the execution, as far as it can know: its output is kept then.

        One read if its last lease has lapsed, as after a sleep, for others may have taken over; no other request.
        """
        run = self._run
        fenced = run.journal.stopped
        if not isinstance(fenced, Fenced) and self._until is not None and self._until <= run.clock.now():
            fenced = run.journal.overtaken()
            if fenced is not None:
                run.halt(fenced)
        return not isinstance(fenced, Fenced) or fenced.cancelled_by is not None

    def confirm(self) -> None:
        """A reader that marked the execution as lost was mistaken. To be called after the runner has recorded that it
        goes on, or renewed its lease: a reader that marks it looks at these afterwards.
        """
        with self._guard:
            if not self._over:
                self.hinted = True
                hints.leave(self._run.store, open_key(self._run.opened), self._sign().encode())
                hints.drop(self._run.store, open_key(self._run.opened, LOST))

    def ending(self) -> None:
        """Before the end is recorded: the hint says no longer that the execution runs."""
        self.end()
        if self.hinted:
            note_open(self._run.store, self._run.opened)

    def end(self) -> None:
        """The run is over: nothing is written after this returns."""
        with self._guard:
            self._over = True

    def _renew(self) -> None:
        sign = self._sign()
        with self._guard:
            if self._over:
                return
            self.hinted = True
            hints.write(self._run.store, open_key(self._run.opened), sign.encode())
        slept = self._until is not None and sign.at is not None and self._until < sign.at
        self._asks, self._until = sign.execution.status == "waiting", sign.until
        if slept:
            # The machine was asleep, or the store away: meanwhile a reader may have marked it as lost.
            self.confirm()

    def _sign(self) -> Sign:
        run = self._run
        entries = run.journal.written  # first: the execution that is shown is not behind that number
        execution = replace(fold(list(run.history.headlines)), status="waiting" if run.waits.asks else "running")
        moment = run.clock.now()
        return Sign(execution, entries, moment, moment + timedelta(seconds=self._seconds))
