"""A log: numbered entries, each created once, read on to the end whatever the store's speed."""

from __future__ import annotations

import threading
import time

import pytest

from kitaru.errors import KitaruStoreError
from kitaru.store import hints
from kitaru.store import log as module
from kitaru.store.log import Log, read_many, runs
from kitaru.store.memory import MemoryStore
from kitaru.store.port import Created, Taken


@pytest.fixture
def store(request: pytest.FixtureRequest) -> MemoryStore:
    return MemoryStore(f"memory://log-{request.node.name}")


def grown(store: MemoryStore, entries: int) -> Log:
    log = Log(store, "p/lock/")
    for number in range(1, entries + 1):
        assert log.append(number, b"%d" % number) == Created()
    return log


def test_an_entry_is_created_once(store: MemoryStore) -> None:
    """The second writer of a number gets the first one's bytes."""
    log = grown(store, 1)
    assert log.append(1, b"other") == Taken(b"1")
    assert (log.read(1), log.read(2)) == (b"1", None)
    assert log.key(42) == "p/lock/000000000042.json"


@pytest.mark.parametrize("entries", [0, 1, 3, 4, 30])
@pytest.mark.parametrize("slow", [False, True])
def test_a_log_is_read_on_to_its_end(
    store: MemoryStore, entries: int, slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any known beginning, on a fast store and on a slow one."""
    log = grown(store, entries)
    monkeypatch.setattr(module, "SLOW_READ", -1.0 if slow else 10.0)
    whole = tuple(b"%d" % number for number in range(1, entries + 1))
    for known in {0, 1, entries // 2, entries} - {entries + 1}:
        assert log.read_on(whole[:known]) == whole
    assert log.read_each(range(1, entries + 1)) == list(whole)


def test_nothing_behind_a_hole_is_read_on(store: MemoryStore) -> None:
    """An entry that is missing ends what a reader may use; the listing shows the hole."""
    log = grown(store, 12)
    store.remove(log.key(7))
    assert len(log.read_on()) == 6
    numbers, _ = log.listing()
    assert runs(numbers) == [(1, 6), (8, 12)]


def test_other_names_in_the_folder_are_told_apart(store: MemoryStore) -> None:
    """A name that no entry can have is listed as such."""
    log = grown(store, 2)
    for name in ("notes.txt", "3.json", "000000000000.json"):
        store.create(f"p/lock/{name}", b"x")
    assert log.listing() == ([1, 2], ["000000000000.json", "3.json", "notes.txt"])


def test_a_slow_store_is_read_by_several_threads(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, and at once: no read waits for all those before it."""
    log = grown(store, 40)
    readers: set[int] = set()
    read = store.read

    def slow(key: str) -> bytes | None:
        readers.add(threading.get_ident())
        time.sleep(0.003)
        return read(key)

    monkeypatch.setattr(store, "read", slow)
    assert log.read_each(range(1, 42)) == [*(b"%d" % number for number in range(1, 41)), None]
    assert len(readers) > 2


def test_a_read_that_fails_fails_them_all(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whichever thread it was made."""
    log = grown(store, 40)
    read = store.read

    def failing(key: str) -> bytes | None:
        time.sleep(0.003)
        if key == log.key(30):
            raise KitaruStoreError("gone")
        return read(key)

    monkeypatch.setattr(store, "read", failing)
    with pytest.raises(KitaruStoreError):
        read_many(store, [log.key(number) for number in range(1, 41)])


def test_a_hint_may_be_refused(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """``leave`` and ``drop`` pass over it; ``write`` and ``remove`` raise."""
    hints.leave(store, "p/index/a")
    assert store.read("p/index/a") == hints.MARK
    hints.drop(store, "p/index/a", "p/index/b")
    assert store.read("p/index/a") is None

    def refuse(*_: object, **__: object) -> None:
        raise KitaruStoreError("no")

    monkeypatch.setattr(store, "overwrite", refuse)
    monkeypatch.setattr(store, "remove", refuse)
    hints.leave(store, "p/index/a")
    hints.drop(store, "p/index/a")
    for call in (hints.write, hints.remove):
        with pytest.raises(KitaruStoreError):
            call(store, "p/index/a")
