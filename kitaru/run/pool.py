"""Threads of one run.

Not ``concurrent.futures``, which refuses work once the interpreter shuts down while a flow goes on.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

Task = Callable[[], None]

MAX_THREADS = 128
"""How many submitted checkpoints of one run are under way at once."""


class ThreadPool:
    """Runs tasks on up to ``MAX_THREADS`` threads, made when needed and gone after ``close``. Tasks must not raise."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._ready = threading.Condition(threading.Lock())
        self._queue: deque[Task] = deque()
        self._idle = 0
        self._threads = 0
        self._closed = False

    def start(self, task: Task) -> None:
        """Run ``task`` as soon as a thread is free."""
        with self._ready:
            if self._idle > len(self._queue):
                self._queue.append(task)
                self._ready.notify()
                return
            if self._threads >= MAX_THREADS:
                self._queue.append(task)
                return
            self._threads += 1
            name = f"{self._name}-{self._threads}"
        threading.Thread(target=self._work, args=(task,), name=name, daemon=True).start()

    def close(self) -> None:
        """Let the threads end once the queue is empty."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    def _work(self, task: Task) -> None:
        while True:
            task()
            with self._ready:
                self._idle += 1
                while not self._queue and not self._closed:
                    self._ready.wait()
                self._idle -= 1
                if not self._queue:
                    self._threads -= 1
                    return
                task = self._queue.popleft()


class Lane:
    """A way into a pool for at most ``limit`` tasks at once."""

    def __init__(self, pool: ThreadPool, limit: int) -> None:
        self._pool = pool
        self._limit = limit
        self._guard = threading.Lock()
        self._queue: deque[Task] = deque()
        self._running = 0

    def start(self, task: Task) -> None:
        """Run ``task`` as soon as the lane and the pool have room."""
        with self._guard:
            if self._running >= self._limit:
                self._queue.append(task)
                return
            self._running += 1
        self._pool.start(lambda: self._run(task))

    def _run(self, task: Task) -> None:
        while True:
            task()
            with self._guard:
                if not self._queue:
                    self._running -= 1
                    return
                task = self._queue.popleft()
