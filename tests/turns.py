"""A store with a clock of its own, and actors that take turns at it, one store call a turn, in a given order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from kitaru.store.port import Created, Listed, Store, Taken
from tests.execution_lab import WallClock

PATIENCE = 30.0


class AgedStore:
    """A store in memory whose clock is moved by hand. Copies share nothing."""

    url = "memory://aged"
    durable_across_processes = True

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, 12, tzinfo=UTC)
        self.bodies: dict[str, tuple[bytes, datetime]] = {}
        self._guard = threading.Lock()

    def copy(self) -> AgedStore:
        made = AgedStore()
        made.now, made.bodies = self.now, dict(self.bodies)
        return made

    def pass_time(self, span: timedelta) -> None:
        self.now += span

    def read(self, key: str) -> bytes | None:
        found = self.bodies.get(key)
        return found[0] if found else None

    def create(self, key: str, body: bytes) -> Created | Taken:
        with self._guard:
            found = self.bodies.get(key)
            if found is None:
                self.bodies[key] = (body, self.now)
                return Created()
        return Created(found=True) if found[0] == body else Taken(found[0])

    def overwrite(self, key: str, body: bytes, *, durable: bool = True) -> None:
        with self._guard:
            self.bodies[key] = (body, self.now)

    def names(self, prefix: str, *, after: str = "") -> list[str]:
        with self._guard:
            rest = [key[len(prefix) :] for key in self.bodies if key.startswith(prefix)]
        return sorted({name for one in rest if (name := "".join(one.partition("/")[:2])) > after})

    def listed(self, prefix: str) -> Iterator[Listed]:
        with self._guard:
            found = [Listed(key, len(body), at) for key, (body, at) in self.bodies.items() if key.startswith(prefix)]
        return iter(found)

    def remove(self, key: str) -> None:
        with self._guard:
            self.bodies.pop(key, None)


class StoreClock(WallClock):
    """A machine whose clock agrees with the store's."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def now(self) -> datetime:
        now: datetime = self._store.now
        return now


class Turns:
    """Runs actors in threads; each of their store calls waits until it is the actor's turn.

    ``order`` names whose turn it is; an actor that is through is skipped, and when the order is used up the actors
    finish one after the other. An actor that finds a collector's mark lets another one
    go on. Actors may use threads of their own: one call of any of them is a turn.
    """

    def __init__(self, store: Store, order: Sequence[int]) -> None:
        self._store = store
        self._order = list(order)
        self._changed = threading.Condition()
        self._waiting: dict[int, list[object]] = {}
        self._granted: object | None = None
        self._done: set[int] = set()
        self._outwaiting: set[int] = set()
        self.calls: list[tuple[int, str, str]] = []
        self.errors: list[BaseException] = []

    def run(self, *actors: Callable[[Store], Any]) -> None:
        """Let every actor work with the store to its end. Raises the first error of any."""
        threads = [threading.Thread(target=self._act, args=(at, one), daemon=True) for at, one in enumerate(actors)]
        for at, thread in enumerate(threads):
            self._waiting[at] = []
            thread.start()
        turns = iter(self._order)
        while len(self._done) < len(actors):
            left = [at for at in range(len(actors)) if at not in self._done]
            actor = next(turns, left[0])
            if actor in self._outwaiting and (others := [at for at in left if at not in self._outwaiting]):
                actor = others[0]
            if actor in left:
                self._grant(actor)
        for thread in threads:
            thread.join(PATIENCE)
        if self.errors:
            raise self.errors[0]

    def _act(self, at: int, actor: Callable[[Store], Any]) -> None:
        try:
            actor(_Seat(self, self._store, at))  # type: ignore[arg-type]
        except BaseException as error:
            self.errors.append(error)
        with self._changed:
            self._done.add(at)
            self._changed.notify_all()

    def _grant(self, actor: int) -> None:
        with self._changed:
            ready = self._changed.wait_for(lambda: self._waiting[actor] or actor in self._done, PATIENCE)
            assert ready, f"actor {actor} neither calls nor ends"
            if not self._waiting[actor]:
                return
            ticket = self._granted = self._waiting[actor].pop(0)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._granted is not ticket, PATIENCE)

    def call(self, actor: int, verb: str, key: str, work: Callable[[], Any]) -> Any:
        """One turn."""
        ticket = object()
        with self._changed:
            self._waiting[actor].append(ticket)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._granted is ticket, PATIENCE), "nobody gives a turn"
            try:
                self.calls.append((actor, verb, key))
                found = work()
                self._note_mark(actor, verb, key, found)
                return found
            finally:
                self._granted = None
                self._changed.notify_all()

    def _note_mark(self, actor: int, verb: str, key: str, found: object) -> None:
        self._outwaiting = set()
        if verb == "names" and key.endswith("/gc/running/") and found:
            self._outwaiting = {actor}


class _Seat:
    """The store as one actor has it."""

    def __init__(self, turns: Turns, store: Store, actor: int) -> None:
        self._turns = turns
        self._inner = store
        self._actor = actor
        self.url = store.url
        self.durable_across_processes = store.durable_across_processes

    def read(self, key: str) -> bytes | None:
        found: bytes | None = self._turns.call(self._actor, "read", key, lambda: self._inner.read(key))
        return found

    def create(self, key: str, body: bytes) -> Created | Taken:
        done: Created | Taken = self._turns.call(self._actor, "create", key, lambda: self._inner.create(key, body))
        return done

    def overwrite(self, key: str, body: bytes, *, durable: bool = True) -> None:
        self._turns.call(self._actor, "overwrite", key, lambda: self._inner.overwrite(key, body, durable=durable))

    def names(self, prefix: str, *, after: str = "") -> list[str]:
        found: list[str] = self._turns.call(
            self._actor, "names", prefix, lambda: self._inner.names(prefix, after=after)
        )
        return found

    def listed(self, prefix: str) -> Iterator[Listed]:
        found: list[Listed] = self._turns.call(self._actor, "listed", prefix, lambda: list(self._inner.listed(prefix)))
        return iter(found)

    def remove(self, key: str) -> None:
        self._turns.call(self._actor, "remove", key, lambda: self._inner.remove(key))


class Cut(BaseException):
    """The process ends here."""


class CutStore:
    """A store whose user dies at call number ``cut`` (from 1): before it takes effect."""

    def __init__(self, inner: Store, cut: int) -> None:
        self._inner = inner
        self._calls = count(1)
        self._cut = cut
        self.url = inner.url
        self.durable_across_processes = inner.durable_across_processes

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        def call(*args: Any, **named: Any) -> Any:
            if next(self._calls) >= self._cut:
                raise Cut
            return method(*args, **named)

        return call
