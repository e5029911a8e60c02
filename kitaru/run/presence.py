"""A run says in the store that it is open, that it asks and that it ends: hints for lists; see ``run.listing``."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import datetime

from kitaru.errors import KitaruStoreError
from kitaru.model import address
from kitaru.model.address import parse_timestamp
from kitaru.model.event import Event, Failed, Opened, Started, Suspended
from kitaru.model.execution import fold
from kitaru.ports import Store
from kitaru.run.listing import ASKING, ENDING, HINT, LOST, STARTS_WITHIN, note_open, withdraw

OPEN_AFTER = 1.0
"""Seconds that a run takes before it is worth a hint that it is open."""


class Presence:
    """Says that an execution is open once its run has taken a while, that it asks, and that it is about to end."""

    def __init__(self, store: Store, project: str, opened: Opened) -> None:
        self._store = store
        self._project = project
        self._opened = opened
        self._guard = threading.Lock()
        self._over = False
        self._resumed = False
        self._may_be_marked = False
        self._asked: set[str] = set()
        self.written = False
        """Whether this, or an earlier runner, may have said so."""
        self._timer = threading.Timer(OPEN_AFTER, self._write)
        self._timer.daemon = True

    def begin(self, recorded: Iterable[Event], now: datetime, left: Collection[str] = ()) -> None:
        """Say so later, unless the run is over by then.

        At once where ``recorded`` says that the execution had failed or was left: hints of that are not so any more.
        ``left``: waits that nobody asks any more.
        """
        events = list(recorded)
        self._resumed = self.written = any(isinstance(event, Started) for event in events)
        # Of one that nobody had begun for so long, too, a reader may have said that it is lost.
        self._may_be_marked = self._resumed or parse_timestamp(self._opened.at) + STARTS_WITHIN < now
        self.written = self._may_be_marked
        if self._resumed:
            execution = fold(events)
            for wait in execution.open_waits:
                if wait.wait_id not in left:
                    self.ask(wait.wait_id)
            if any(isinstance(event, (Failed, Suspended)) for event in events):
                withdraw(self._store, execution)
                return
        self._timer.start()

    @property
    def may_be_marked(self) -> bool:
        """Whether a reader may have said that it is lost before this run began."""
        return self._may_be_marked

    def alive(self) -> None:
        """Whoever said that it is lost was mistaken. After its runner has recorded that it goes on, or renewed its
        lease: a reader that marks it looks at these afterwards.
        """
        self._unmark(LOST)

    def ask(self, wait: str) -> None:
        """Before the question is recorded."""
        with self._guard:
            if not self._asked and not self._over:
                self.written = True
                self._mark(ASKING)
            self._asked.add(wait)

    def answered(self, wait: str) -> None:
        """The answer is recorded."""
        with self._guard:
            self._asked.discard(wait)
            if not self._asked and not self._over:
                self._unmark(ASKING)

    def ending(self) -> None:
        """Before the end is recorded; nothing but that and what follows from it is said from here on."""
        self._timer.cancel()
        with self._guard:
            if self.written and not self._over:
                self._mark(ENDING)
            self._over = True

    def end(self) -> None:
        """The run is over: nothing is written after this returns."""
        self._timer.cancel()
        with self._guard:
            self._over = True

    def _write(self) -> None:
        with self._guard:
            if self._over:
                return
            self.written = True
            note_open(self._store, self._project, self._opened.exec_id, self._opened.flow)
            if self._resumed:
                # Its last runner may have been killed at the very end.
                self._unmark(ENDING)

    def _mark(self, mark: str) -> None:
        with suppress(KitaruStoreError):
            self._store.overwrite(self._key(mark), HINT)

    def _unmark(self, mark: str) -> None:
        with suppress(KitaruStoreError):
            self._store.remove(self._key(mark))

    def _key(self, mark: str) -> str:
        return address.open_hint(self._project, self._opened.exec_id, f"{self._opened.flow}~{mark}")
