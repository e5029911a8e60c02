"""A store that counts what is asked of it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

from kitaru import KitaruClient
from kitaru.store.port import Created, Listed, Store, Taken


class CountingStore:
    """Another store, and how often each of its methods was called."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._guard = threading.Lock()
        self.url = store.url
        self.durable_across_processes = store.durable_across_processes
        self.calls: Counter[str] = Counter()

    def _count(self, method: str) -> None:
        with self._guard:
            self.calls[method] += 1

    @property
    def writes(self) -> int:
        """Creates and overwrites."""
        return self.calls["create"] + self.calls["overwrite"]

    def read(self, key: str) -> bytes | None:
        self._count("read")
        return self._store.read(key)

    def create(self, key: str, body: bytes) -> Created | Taken:
        self._count("create")
        return self._store.create(key, body)

    def overwrite(self, key: str, body: bytes, *, durable: bool = True) -> None:
        self._count("overwrite")
        self._store.overwrite(key, body, durable=durable)

    def names(self, prefix: str, *, after: str = "") -> list[str]:
        self._count("names")
        return self._store.names(prefix, after=after)

    def listed(self, prefix: str) -> Iterator[Listed]:
        self._count("listed")
        return self._store.listed(prefix)

    def remove(self, key: str) -> None:
        self._count("remove")
        self._store.remove(key)


def count_requests(client: KitaruClient) -> CountingStore:
    """Make a client's store count, from now on."""
    counting = CountingStore(client.session.store)
    vars(client.session)["store"] = counting
    return counting
