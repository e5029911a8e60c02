"""The journal: entries created once, read back whole, shared by concurrent writers."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from kitaru import errors
from kitaru.model import address
from kitaru.model.event import Cancelled, CheckpointStarted, Event, Opened, Value, encode_entry
from kitaru.run.journal import Fenced, Journal, Stopped, load, open_execution, read_entries, read_events
from kitaru.store.local import LocalStore
from kitaru.store.port import Created, Store, Taken
from tests.execution_lab import CountingStore

EXEC = "ex-000000000000000000"
AT = "2026-11-21T00:00:00.000000Z"


def opened() -> Opened:
    inputs = Value("json", 2, "0" * 64, "inline", {})
    return Opened(at=AT, project="p", exec_id=EXEC, flow="f", target="t:f", inputs=inputs, origin="run", stack="local")


def started(call: int) -> CheckpointStarted:
    return CheckpointStarted(at=AT, call=str(call), name="step", attempt=1)


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    return CountingStore(LocalStore(tmp_path, "file://test"))


def journal(store: Store, written: int = 1, write_id: str = "w") -> Journal:
    return Journal(store, "p", EXEC, written=written, write_id=write_id)


def calls(store: Store) -> list[str]:
    events = read_events(read_entries(store, "p", EXEC), EXEC)
    return [event.call for event in events if isinstance(event, CheckpointStarted)]


def test_an_execution_is_opened_once(store: CountingStore) -> None:
    """The second one to open an id learns that it is taken; the same writer's repeat is no conflict."""
    first = open_execution(store, opened(), "one")
    assert isinstance(first, bytes)
    assert open_execution(store, opened(), "one") == first
    assert open_execution(store, opened(), "two") == Taken(first)
    assert load(store, "p", EXEC).status == "pending"


def test_an_execution_that_is_not_there_is_a_usage_error(store: CountingStore) -> None:
    """The message names the id, the project and the store."""
    with pytest.raises(errors.KitaruUsageError, match=f"no execution '{EXEC}' in project 'p' of file://test"):
        load(store, "p", EXEC)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9, 40, 200])
def test_any_number_of_entries_is_read_back_in_order(store: CountingStore, count: int) -> None:
    """Probing and listing find the same entries, also when some are known already, in few requests."""
    open_execution(store, opened(), "one")
    writer = journal(store)
    for number in range(2, count + 1):
        writer.commit(started(number))
    store.calls.clear()
    entries = read_entries(store, "p", EXEC)
    assert len(entries) == count
    assert calls(store) == [str(number) for number in range(2, count + 1)]
    assert len(store.of("read")) <= 2 * count + 6
    for known in {0, 1, count // 2, count}:
        assert read_entries(store, "p", EXEC, entries[:known]) == entries


def test_slow_stores_are_read_by_several_threads(tmp_path: Path) -> None:
    """Sixty entries at 5 ms each are read in far less than 0.3 s, in order."""

    class Slow(CountingStore):
        def read(self, key: str) -> bytes | None:
            time.sleep(0.005)
            return super().read(key)

    inner = LocalStore(tmp_path, "file://test")
    open_execution(inner, opened(), "one")
    writer = journal(inner)
    for number in range(2, 101):
        writer.commit(started(number))
    began = time.monotonic()
    slow = Slow(inner)
    assert [json.loads(entry)["n"] for entry in read_entries(slow, "p", EXEC)] == list(range(1, 101))
    assert time.monotonic() - began < 0.4


def test_commits_during_a_write_share_the_next_entry_and_all_are_durable(tmp_path: Path) -> None:
    """Fifty threads: fifty events in a handful of entries, each durable when its commit returned."""
    store = CountingStore(LocalStore(tmp_path, "file://test"), delay=0.03)
    writer = journal(store, written=0)
    missing: list[int] = []

    def commit(number: int) -> None:
        writer.commit(started(number))
        if str(number) not in calls(store):
            missing.append(number)

    threads = [threading.Thread(target=commit, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not missing
    assert sorted(map(int, calls(store))) == list(range(50))
    assert writer.written == len(read_entries(store, "p", EXEC)) <= 10


def test_buffered_events_ride_with_the_next_entry_or_a_flush(store: CountingStore) -> None:
    """A buffered event costs no write of its own; one that became superfluous is not written."""
    writer = journal(store, written=0)
    writer.buffer(started(1))
    assert not store.of("create")
    superfluous = started(2)
    writer.buffer(superfluous)
    assert writer.waits_since() is not None
    writer.commit(started(3), replaces=superfluous)
    assert calls(store) == ["1", "3"] and len(store.of("create")) == 1
    writer.flush()
    assert len(store.of("create")) == 1 and writer.waits_since() is None
    writer.buffer(started(4))
    writer.flush()
    assert calls(store) == ["1", "3", "4"]


def test_a_taken_entry_fences_the_writer_for_ever(store: CountingStore) -> None:
    """A writer whose next entry holds other bytes stops; what it would have written is nowhere."""
    first, second = journal(store, 0, "first"), journal(store, 0, "second")
    first.commit(started(1))
    for _ in range(2):
        with pytest.raises(Fenced):
            second.commit(started(2))
    assert not issubclass(Fenced, Exception)
    assert calls(store) == ["1"] and len(store.of("create")) == 2
    first.commit(started(3))
    assert calls(store) == ["1", "3"]


def test_a_write_whose_reply_was_lost_is_ours_when_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes landed, the answer did not: the same bytes again are no fence, and no second entry."""
    monkeypatch.setattr("kitaru.run.journal.RETRY_DELAYS", (0.001,))

    class LostReply(CountingStore):
        lost = False

        def create(self, key: str, body: bytes) -> Created | Taken:
            outcome = super().create(key, body)
            if not self.lost:
                self.lost = True
                raise errors.KitaruStoreError("connection reset")
            return outcome

    store = LostReply(LocalStore(tmp_path, "file://test"))
    writer = journal(store, written=0)
    writer.commit(started(1))
    writer.commit(started(2))
    assert calls(store) == ["1", "2"]


def test_a_store_that_fails_stops_every_later_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No gap and no half order: after a failed write nothing further is written."""
    monkeypatch.setattr("kitaru.run.journal.RETRY_DELAYS", ())

    class Full(CountingStore):
        full = True

        def create(self, key: str, body: bytes) -> Created | Taken:
            if self.full:
                raise errors.KitaruStoreError("disk full")
            return super().create(key, body)

    store = Full(LocalStore(tmp_path, "file://test"))
    writer = journal(store, written=0)
    problems: list[BaseException] = []

    def commit(number: int) -> None:
        try:
            writer.commit(started(number))
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=commit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.full = False
    with pytest.raises(errors.KitaruStoreError, match="disk full"):
        writer.commit(started(9))
    assert len(problems) == 8 and all(isinstance(problem, errors.KitaruStoreError) for problem in problems)
    assert read_entries(store, "p", EXEC) == ()


def test_a_stopped_journal_takes_nothing(store: CountingStore) -> None:
    """After ``stop`` commits raise its reason, and flushes do nothing."""
    writer = journal(store, written=0)
    writer.buffer(started(1))
    writer.stop(Stopped())
    writer.flush()
    with pytest.raises(Stopped):
        writer.commit(started(2))
    assert not store.of("create")


def test_entries_of_a_newer_format_say_upgrade_and_damage_says_so(store: CountingStore) -> None:
    """Neither is a traceback of some parser."""
    newer = json.dumps({"format": 2, "write": "x", "n": 1, "events": []}).encode()
    with pytest.raises(errors.KitaruStoreFormatError, match="format 2") as caught:
        read_events([newer], EXEC)
    assert "newer Kitaru" in caught.value.hint
    bodies: list[bytes] = [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"format":1}', newer[:20], b"[" * 100_000]
    opening = json.loads(encode_entry(1, "w", [opened()]))
    for key, value in (("events", 3), ("n", "1"), ("write", None), ("events", [7]), ("events", [{"kind": "opened"}])):
        bodies.append(json.dumps({**opening, key: value}).encode())
    damaged: dict[str, Any] = {**opening["events"][0], "inputs": {"format": "json"}}
    bodies.append(json.dumps({**opening, "events": [damaged]}).encode())
    for body in bodies:
        with pytest.raises(errors.KitaruIntegrityError, match=f"journal entry 1 of {EXEC}"):
            read_events([body], EXEC)


def test_unknown_kinds_and_keys_are_skipped(store: CountingStore) -> None:
    """A later release's events within this format change nothing for this one."""
    content = json.loads(encode_entry(1, "w", [opened(), Cancelled(at=AT, by="me")]))
    content["events"].insert(1, {"kind": "wait_opened", "at": AT, "name": "approve"})
    content["events"][0]["mood"] = "good"
    content["lease"] = 3
    store.create(address.journal_entry("p", EXEC, 1), json.dumps(content).encode())
    execution = load(store, "p", EXEC)
    assert execution.status == "cancelled" and execution.flow_name == "f"


def test_text_that_is_no_unicode_still_makes_a_utf8_entry() -> None:
    """A lone surrogate in a message is escaped, and comes back."""
    event: Event = CheckpointStarted(at=AT, call="1", name="\ud800", attempt=1)
    body = encode_entry(1, "w", [event])
    body.decode()
    assert read_events([body], EXEC) == [event]
