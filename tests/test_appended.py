"""A log that is appended to: each entry is created once, whoever writes, wherever a writer stops."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.errors import KitaruStoreError
from kitaru.store import appended
from kitaru.store.appended import AppendedLog, AppendingStore, frame
from kitaru.store.local import LocalStore
from kitaru.store.memory import MemoryStore
from kitaru.store.port import Created, Store, Taken
from tests.store_contract import StoreContract

CALLS = {"open", "pwrite", "fdatasync", "fsync", "fstat", "exists"}
"""The system calls between which another writer may come, or this one may end."""


def log_in(folder: Path) -> AppendedLog:
    return AppendedLog(str(folder), lambda path: Path(path).mkdir(parents=True, exist_ok=True))


def bodies(folder: Path) -> list[bytes]:
    return log_in(folder).read_from(1)


class Calls:
    """Stands for ``os`` in the module: does ``then`` before the call of that number, counted from 1."""

    def __init__(self, at: int, then: Callable[[], object]) -> None:
        self.at, self.then, self.count = at, then, 0
        self.path = self

    def __getattr__(self, name: str) -> Any:
        call = getattr(os.path if name == "exists" else os, name)
        if name not in CALLS:
            return call

        def counted(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                self.then()
            return call(*arguments, **options)

        return counted


def at_each_call(monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], object]) -> Iterator[Callable[..., bool]]:
    """One function for each system call of ``act``: it does it in a folder, and ``then`` before that call."""
    counter = Calls(0, lambda: None)
    with TemporaryDirectory() as folder, monkeypatch.context() as patch:
        patch.setattr(appended, "os", counter)
        act(Path(folder, "log"))
    for number in range(1, counter.count + 1):

        def do(folder: Path, then: Callable[[], object], number: int = number) -> bool:
            with monkeypatch.context() as patch:
                patch.setattr(appended, "os", Calls(number, then))
                act(folder)
            return True

        yield do


def test_entries_are_read_as_they_were_appended(tmp_path: Path) -> None:
    log = log_in(tmp_path / "log")
    assert log.read(1) is None and log.read_from(1) == [] and log.length() == 0
    written = [b"one", b"with\na newline", b"9f86d081884c7d65 3\nabc\n", bytes(range(256)) * 300]
    for number, body in enumerate(written, start=1):
        assert log.append(number, body) == Created()
    for reader in (log, log_in(tmp_path / "log")):
        assert reader.read_from(1) == written
        assert reader.read_from(3) == written[2:]
        assert [reader.read(number) for number in range(1, 6)] == [*written, None]
        assert reader.length() == 4


def test_a_log_of_one_writer_is_one_file(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    for number in range(1, 20):
        log.append(number, b"entry")
    assert [path.name for path in tmp_path.iterdir()] == ["000000000001.log"]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 1)), max_size=30))
def test_several_writers_make_one_list(steps: list[tuple[int, int]]) -> None:
    """Whoever appends, an entry is created once: at its number, after the newest."""
    with TemporaryDirectory() as folder:
        writers = [log_in(Path(folder, "log")) for _ in range(3)]
        entries: list[bytes] = []
        for step, (writer, offset) in enumerate(steps):
            number = len(entries) + 1 + offset
            body = f"{writer} {step}".encode()
            if number < 1:
                continue
            if number == len(entries) + 2:
                with pytest.raises(KitaruStoreError, match="can't follow"):
                    writers[writer].append(number, body)
            elif number <= len(entries):
                assert writers[writer].append(number, body) == Taken(entries[number - 1])
            else:
                assert writers[writer].append(number, body) == Created()
                entries.append(body)
            assert all(log.read_from(1) == entries for log in writers)


def test_the_same_bytes_again_are_found(tmp_path: Path) -> None:
    """As after a reply that was lost."""
    log_in(tmp_path).append(1, b"one")
    outcome = log_in(tmp_path).append(1, b"one")
    assert isinstance(outcome, Created) and outcome.found


def test_a_second_writer_between_any_two_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two writers creates the entry, the other one gets it, wherever they meet: new file or own file."""
    for made in (0, 1, 3):
        outcomes: list[object] = []

        def act(folder: Path, made: int = made, outcomes: list[object] = outcomes) -> None:
            log = log_in(folder)
            for number in range(1, made + 1):
                log.append(number, f"entry {number}".encode())
            outcomes.append(log.append(made + 1, b"first"))

        for place, do in enumerate(at_each_call(monkeypatch, act)):
            folder = tmp_path / f"{made}-{place}"
            outcomes.clear()
            second: list[object] = []

            def intrude(folder: Path = folder, second: list[object] = second) -> None:
                second.append(log_in(folder).append(log_in(folder).length() + 1, b"second"))

            with pytest.MonkeyPatch.context() as patch:

                def undisturbed(patch: pytest.MonkeyPatch = patch, intrude: Callable[[], None] = intrude) -> None:
                    patch.setattr(appended, "os", os)
                    intrude()

                do(folder, undisturbed)
            entries = bodies(folder)
            assert second == [Created()], (made, place)
            assert entries.count(b"second") == 1
            if outcomes[-1:] == [Created()]:
                assert entries[made] == b"first"
            else:
                assert outcomes[-1] == Taken(entries[made])


def test_a_writer_that_ends_at_any_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every entry that was answered for is there, and the next writer goes on."""

    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    answered: list[bytes] = []

    def act(folder: Path) -> None:
        for writer in range(2):
            log = log_in(folder)
            for _ in range(2):
                number = len(answered) + 1
                body = f"entry {number} of {writer}".encode()
                log.append(number, body)
                answered.append(body)

    steps = list(at_each_call(monkeypatch, lambda folder: (answered.clear(), act(folder))))
    for place, do in enumerate(steps):
        folder = tmp_path / str(place)
        answered.clear()
        with pytest.raises(Killed):
            do(folder, die)
        kept = bodies(folder) if folder.exists() else []
        assert kept[: len(answered)] == answered
        assert len(kept) <= len(answered) + 1
        assert log_in(folder).append(len(kept) + 1, b"the next") == Created()
        assert bodies(folder) == [*kept, b"the next"]


def test_a_torn_end_counts_as_not_written(tmp_path: Path) -> None:
    """Cut the file at each byte, or let zeros stand there, as after a loss of power."""
    log = log_in(tmp_path / "whole")
    written = [b"one", b"two\nlines", b"three"]
    for number, body in enumerate(written, start=1):
        log.append(number, body)
    data = (tmp_path / "whole" / "000000000001.log").read_bytes()
    for length in range(len(data) + 1):
        for rest in (b"", bytes(len(data) - length)):
            folder = tmp_path / f"cut-{length}-{len(rest)}"
            folder.mkdir()
            (folder / "000000000001.log").write_bytes(data[:length] + rest)
            kept = bodies(folder)
            assert kept == written[: len(kept)]
            assert log_in(folder).append(len(kept) + 1, b"next") == Created()
            assert bodies(folder) == [*kept, b"next"]
            shutil.rmtree(folder)


def test_damage_before_the_end_is_named(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    for number in range(1, 4):
        log.append(number, f"entry {number}".encode())
    path = tmp_path / "000000000001.log"
    path.write_bytes(path.read_bytes().replace(b"entry 2", b"entry X"))
    with pytest.raises(KitaruStoreError, match=r"000000000001.log is damaged at byte \d+"):
        bodies(tmp_path)


def test_a_log_that_was_removed_is_empty(tmp_path: Path) -> None:
    """A reader that knew it finds the new one of the same name, and its maker does not answer for lost entries."""
    folder = tmp_path / "log"
    writer, reader = log_in(folder), log_in(folder)
    for number in range(1, 5):
        writer.append(number, b"old")
    assert reader.length() == 4
    shutil.rmtree(folder)
    assert reader.length() == 0
    with pytest.raises(KitaruStoreError, match="can't follow"):
        writer.append(5, b"lost")
    assert log_in(folder).append(1, b"new") == Created()
    assert reader.read_from(1) == [b"new"]


def test_a_forked_child_does_not_write_into_its_parents_file(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    log.append(1, b"parent")
    if (child := os.fork()) == 0:
        os._exit(0 if log.append(2, b"child") == Created() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert log.append(2, b"parent again") == Taken(b"child")
    assert log.append(3, b"parent again") == Created()


def test_a_forked_child_reads_what_its_parent_appends_later(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    log.append(1, b"before")
    read_end, write_end = os.pipe()
    if (child := os.fork()) == 0:
        os.read(read_end, 1)
        os._exit(0 if log.read(2) == b"after" else 1)
    log.append(2, b"after")
    os.write(write_end, b"x")
    assert os.waitpid(child, 0)[1] == 0
    os.close(read_end)
    os.close(write_end)


RACER = """
import sys
from pathlib import Path
from kitaru.store.appended import AppendedLog
from kitaru.store.port import Created
log = AppendedLog(sys.argv[1], lambda path: Path(path).mkdir(parents=True, exist_ok=True))
number = 1
while number <= 60:
    if log.append(number, f"{sys.argv[2]} {number}".encode()) == Created():
        print(number, flush=True)
    number += 1
"""


def test_processes_race_for_each_entry(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path / "log"), f"racer{place}"], stdout=subprocess.PIPE, text=True
        )
        for place in range(4)
    ]
    won = [racer.communicate(timeout=120)[0].split() for racer in racers]
    entries = bodies(tmp_path / "log")
    assert sorted(int(number) for numbers in won for number in numbers) == list(range(1, 61))
    for place, numbers in enumerate(won):
        assert all(entries[int(number) - 1] == f"racer{place} {number}".encode() for number in numbers)


def test_threads_share_one_log(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    won: list[int] = []

    def race() -> None:
        for number in range(1, 40):
            if log.append(number, f"{threading.get_ident()} {number}".encode()) == Created():
                won.append(number)

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(1, 40))
    assert [path.name for path in tmp_path.iterdir()] == ["000000000001.log"]


def test_a_frame_can_be_read_by_people() -> None:
    assert frame(b'{"a": 1}').splitlines()[1] == b'{"a": 1}'


# --- the store whose journals are such logs ---


@pytest.fixture
def store(tmp_path: Path) -> AppendingStore:
    return AppendingStore(tmp_path / "store", "file://store")


def files(store_folder: Path) -> list[str]:
    return sorted(str(path.relative_to(store_folder)) for path in store_folder.rglob("*") if path.is_file())


def key(number: int, log: str = "p/executions/ex/journal") -> str:
    return f"{log}/{number:012}.json"


class TestAppendingStore(StoreContract):
    races = 50
    examples = 50

    @pytest.fixture
    def reopened(self, store: AppendingStore, tmp_path: Path) -> Callable[[], Store]:
        return lambda: AppendingStore(tmp_path / "store", store.url)


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from(["create", "again", "remove"]), st.integers(1, 2))))
def test_a_log_has_the_keys_that_it_has_in_every_store(steps: list[tuple[int, str, int]]) -> None:
    """Two users of the folder, two logs: all that can be asked gives what a store of single keys gives."""
    with TemporaryDirectory() as folder:
        users = [AppendingStore(Path(folder), "file://store") for _ in range(2)]
        model = MemoryStore(f"memory://{folder}")
        for step, (user, verb, log) in enumerate(steps):
            name = f"p/executions/{log}/journal"
            length = len(model.names(f"{name}/"))
            if verb == "remove":
                for store in (users[user], model):
                    for number in range(1, length + 1):
                        store.remove(key(number, name))
            else:
                number = max(1, length + (verb == "create"))
                body = f"{user} {step}".encode()
                assert users[user].create(key(number, name), body) == model.create(key(number, name), body)
            for store in users:
                assert store.names("p/executions/") == model.names("p/executions/")
                assert store.names(f"{name}/", after=f"{2:012}.json") == model.names(f"{name}/", after=f"{2:012}.json")
                assert {(one.key, one.size) for one in store.listed("p/")} == {
                    (one.key, one.size) for one in model.listed("p/")
                }
                for number in range(1, 9):
                    assert store.read(key(number, name)) == model.read(key(number, name))


def test_a_journal_is_one_file(store: AppendingStore, tmp_path: Path) -> None:
    for number in range(1, 50):
        assert store.create(key(number), f"entry {number}".encode()) == Created()
    store.create("p/lock/000000000001.json", b"no journal")
    assert files(tmp_path / "store") == ["p/executions/ex/journal/000000000001.log", "p/lock/000000000001.json"]


def test_a_log_that_began_as_single_files_stays_so(store: AppendingStore, tmp_path: Path) -> None:
    """A second entry that came first, and a folder that another kind of store wrote."""
    store.create(key(2), b"second")
    assert store.create(key(1), b"first") == Created()
    LocalStore(tmp_path / "store", "file://store").create(key(1, "p/executions/old/journal"), b"first")
    assert store.create(key(2, "p/executions/old/journal"), b"second") == Created()
    assert not [name for name in files(tmp_path / "store") if name.endswith(".log")]
    assert [store.read(key(number)) for number in (1, 2, 3)] == [b"first", b"second", None]


def test_more_logs_than_are_remembered(store: AppendingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appended, "_LOGS", 2)
    for number in range(1, 4):
        for log in range(5):
            name = f"p/executions/{log}/journal"
            assert store.create(key(number, name), f"{log} {number}".encode()) == Created()
    fresh = AppendingStore(tmp_path / "store", "file://store")
    assert [fresh.read(key(3, f"p/executions/{log}/journal")) for log in range(5)] == [
        f"{log} 3".encode() for log in range(5)
    ]


def test_a_disk_of_the_network_gets_single_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There a writer may see the file of another machine too late."""
    near = AppendingStore(tmp_path, "file://store")
    near.create(key(1), b"first")
    monkeypatch.setattr(appended, "_is_of_the_network", lambda _: True)
    far = AppendingStore(tmp_path, "file://store")
    assert far.create(key(1, "p/executions/far/journal"), b"first") == Created()
    assert files(tmp_path)[-1].endswith("far/journal/000000000001.json")
    assert far.read(key(1)) == b"first"
    with pytest.raises(KitaruStoreError, match="was begun on the machine of that disk"):
        far.create(key(2), b"second")


def test_a_full_disk_leaves_a_log_that_goes_on(store: AppendingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the frame is written; the next try writes the entry once."""
    store.create(key(1), b"first")
    real = os.pwrite
    left = [30]

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if not left[0]:
            raise OSError(28, "No space left on device")
        part = data[: left[0]]
        left[0] -= len(part)
        return real(descriptor, part, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        with pytest.raises(KitaruStoreError, match="No space left") as caught:
            store.create(key(2), b"second" * 20)
        assert "free some space" in str(caught.value.hint)
    assert store.read(key(2)) is None
    assert store.create(key(2), b"second" * 20) == Created()
    assert store.names("p/executions/ex/journal/") == [f"{number:012}.json" for number in (1, 2)]
