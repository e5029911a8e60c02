"""The one background thread of a run: it writes events and output without waiting for the next checkpoint."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from kitaru.run.journal import Journal
from kitaru.run.logs import LogWriter

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

    def start(self, logs: LogWriter | None, duties: Sequence[Duty] = ()) -> None:
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
