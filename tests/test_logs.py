"""Log chunks: lines in, the same lines out, whoever wrote before."""

from __future__ import annotations

from pathlib import Path

import pytest

from kitaru import errors
from kitaru.model import address
from kitaru.model.execution import LogLine
from kitaru.run.logs import CHUNK_LIMIT, LINE_LIMIT, LogWriter, read_newest, read_on
from kitaru.store.local import LocalStore
from kitaru.store.port import Created, Taken
from tests.execution_lab import CountingStore, read_lines

EXEC = "ex-000000000000000000"


def line(text: str) -> LogLine:
    return LogLine("2026-11-21T00:00:00.000000Z", "stdout", text, None, "step", "1", 1)


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    return CountingStore(LocalStore(tmp_path, "file://test"))


def writer(store: CountingStore, woken: list[int] | None = None) -> LogWriter:
    return LogWriter(store, "p", EXEC, lambda: woken.append(1) if woken is not None else None)


def test_lines_come_back_and_can_be_followed(store: CountingStore) -> None:
    """Reading after a chunk gives what came since; without output nothing is written."""
    logs = writer(store)
    logs.flush()
    assert not store.of("create")
    logs.add(line("one"))
    logs.add(line("two \ud800 ü"))
    logs.flush()
    lines, last = read_lines(store, "p", EXEC)
    assert ([one.text for one in lines], last) == (["one", "two \ud800 ü"], 1)
    assert read_lines(store, "p", EXEC, last) == ((), 1)
    logs.add(line("three"))
    logs.flush()
    assert read_lines(store, "p", EXEC, last) == ((line("three"),), 2)
    assert len(read_lines(store, "p", EXEC)[0]) == 3


def test_numbering_goes_on_after_an_earlier_runner(store: CountingStore) -> None:
    """A second runner's chunks come after the first one's, found with one listing."""
    for runner in range(5):
        logs = writer(store)
        for text in (f"{runner}a", f"{runner}b"):
            logs.add(line(text))
            logs.flush()
    lines, last = read_lines(store, "p", EXEC)
    assert [one.text for one in lines] == [f"{runner}{part}" for runner in range(5) for part in "ab"]
    assert last == 10
    assert len(store.of("names")) == 4 + 1


def test_much_output_asks_for_a_flush_and_endless_lines_are_cut(store: CountingStore) -> None:
    """A full chunk wakes the one who flushes; one line never fills the store."""
    woken: list[int] = []
    logs = writer(store, woken)
    for _ in range(CHUNK_LIMIT // 1000 + 1):
        logs.add(line("x" * 1000))
    assert woken
    logs.add(line("y" * (LINE_LIMIT + 5)))
    logs.flush()
    assert read_lines(store, "p", EXEC)[0][-1].text.endswith("… (5 more characters)")


def test_a_store_that_fails_costs_no_lines_if_it_recovers(tmp_path: Path) -> None:
    """Lines wait for the next flush."""

    class Failing(CountingStore):
        down = True

        def create(self, key: str, body: bytes) -> Created | Taken:
            if self.down:
                raise errors.KitaruStoreError("down")
            return super().create(key, body)

    store = Failing(LocalStore(tmp_path, "file://test"))
    logs = writer(store)
    logs.add(line("kept"))
    logs.flush()
    store.down = False
    logs.add(line("later"))
    logs.flush()
    assert [one.text for one in read_lines(store, "p", EXEC)[0]] == ["kept", "later"]


def test_a_damaged_chunk_is_a_log_error(store: CountingStore) -> None:
    """Not a traceback of a JSON parser."""
    store.create(address.log_chunk("p", EXEC, 1), b"{nonsense\n")
    with pytest.raises(errors.KitaruLogRetrievalError, match="000000000001"):
        read_lines(store, "p", EXEC)


def test_the_last_lines_are_read_from_the_end(store: CountingStore) -> None:
    """A few lines of many chunks cost one listing and one read; those that fit are looked for further back."""
    logs = writer(store)
    for number in range(100):
        logs.add(line(f"{number}a"))
        logs.add(line(f"{number}b"))
        logs.flush()
    store.calls.clear()
    found = read_newest(store, "p", EXEC, 2, lambda _: True)
    assert [one.text for one in found] == ["99a", "99b"]
    assert (len(store.of("names")), len(store.of("read"))) == (1, 1)
    found = read_newest(store, "p", EXEC, 3, lambda one: one.text.endswith("a"))
    assert [one.text for one in found] == ["97a", "98a", "99a"]
    assert [one.text for one in read_newest(store, "p", EXEC, 3, lambda one: one.text == "0b")] == ["0b"]
    assert len(read_newest(store, "p", EXEC, 1000, lambda _: True)) == 200


def test_chunks_are_read_a_few_at_once(store: CountingStore) -> None:
    """Who reads on and takes the first line has not made the store read them all."""
    logs = writer(store)
    for number in range(100):
        logs.add(line(str(number)))
        logs.flush()
    store.calls.clear()
    chunks = read_on(store, "p", EXEC, 10)
    assert next(chunks) == (11, [line("10")])
    assert len(store.of("read")) <= 20
    assert [number for number, _ in chunks] == list(range(12, 101))
