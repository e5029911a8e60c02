from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable

import pytest

from kitaru.errors import KitaruStoreError, KitaruUsageError
from kitaru.store.memory import MemoryStore
from kitaru.store.open import check_store
from kitaru.store.port import Created, Store, Taken
from tests.store_contract import StoreContract


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(f"memory://{uuid.uuid4().hex}/store")


class TestMemoryStore(StoreContract):
    races = 200

    @pytest.fixture
    def reopened(self, store: Store) -> Callable[[], Store]:
        return lambda: MemoryStore(store.url)


def test_empty_folders_vanish(store: MemoryStore) -> None:
    """A folder is named only while there are keys below it."""
    store.create("a/b/c", b"x")
    store.remove("a/b/c")
    assert store.names("") == []
    assert store.names("a/") == []


def test_names_keep_stores_apart() -> None:
    """Two names are two stores, even where one begins like the other."""
    name = uuid.uuid4().hex
    short, long = MemoryStore(f"memory://{name}"), MemoryStore(f"memory://{name}-more")
    short.create("key", b"x")
    assert long.read("key") is None
    assert long.names("") == []
    assert short.durable_across_processes is False


def test_address_is_checked() -> None:
    """What leads out of the store's name is refused."""
    with pytest.raises(KitaruUsageError):
        MemoryStore("memory://a/../b")
    with pytest.raises(KitaruUsageError):
        MemoryStore("file://a")


class Liar(MemoryStore):
    """A store that breaks its promise in the way that ``lie`` names."""

    def __init__(self, lie: str) -> None:
        super().__init__(f"memory://{uuid.uuid4().hex}")
        self.lie = lie
        self._turn = threading.Lock()

    def create(self, key: str, body: bytes) -> Created | Taken:
        if self.lie == "overwrites":
            self.overwrite(key, body)
            return Created()
        if self.lie == "looks, then writes":
            existing = self.read(key)
            if existing is not None:
                return Taken(existing)
            time.sleep(0.002)
            self.overwrite(key, body)
            return Created()
        if self.lie == "tells the loser that it won":
            with self._turn:
                outcome = super().create(key, body)
                return Created() if body.startswith(b"3") else outcome
        if self.lie == "keeps another's bytes":
            outcome = super().create(key, body)
            if outcome == Created() and not body.startswith(b"first"):
                self.overwrite(key, body + b"!")
            return outcome
        outcome = super().create(key, body)
        return Taken(b"something else") if isinstance(outcome, Taken) else outcome

    def names_left(self) -> list[str]:
        return self.names(".kitaru-probe/")


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ("overwrites", "overwrites a key that exists"),
        ("looks, then writes", "racing writers create one key"),
        ("tells the loser that it won", "racing writers create one key"),
        ("keeps another's bytes", "does not hold what the winner"),
        ("gives back other bytes", "gives back other bytes"),
    ],
)
def test_probe_catches_lies(lie: str, said: str) -> None:
    """A store that only seems to create atomically is found out, and left clean."""
    store = Liar(lie)
    with pytest.raises(KitaruStoreError, match=said) as caught:
        check_store(store)
    assert "file://" in caught.value.hint
    assert store.names_left() == []
