"""Functions that are called at their time, by a thread that sleeps until then."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

CLOSING_SECONDS = 1.0
"""How long the end of a run waits for an action that is under way."""


class Alarms:
    """Calls functions at their time, on one thread that is made with the first of them."""

    def __init__(self) -> None:
        self._ready = threading.Condition(threading.Lock())
        self._queue: list[tuple[float, int, list[Callable[[], None]]]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def at(self, seconds: float, action: Callable[[], None]) -> Callable[[], None]:
        """Call ``action`` after ``seconds``, unless the returned function is called before."""
        slot = [action]
        with self._ready:
            place = (time.monotonic() + seconds, next(self._numbers), slot)
            heapq.heappush(self._queue, place)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._watch, name="kitaru-alarms", daemon=True)
                self._thread.start()
            if self._queue[0] is place:
                self._ready.notify()
        return slot.clear

    def close(self) -> None:
        """End the thread; what is due later is not called."""
        with self._ready:
            self._closed = True
            self._queue.clear()
            self._ready.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(CLOSING_SECONDS)

    def _watch(self) -> None:
        while True:
            with self._ready:
                while not self._closed and (not self._queue or self._queue[0][0] > time.monotonic()):
                    self._ready.wait(self._queue[0][0] - time.monotonic() if self._queue else None)
                if self._closed:
                    return
                slot = heapq.heappop(self._queue)[2]
            for action in slot:
                action()
