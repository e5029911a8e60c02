"""What every ``Store`` keeps, whatever is behind it: one class of tests, run by each backend's own test module.

A subclass gives a fixture ``store``: a fresh, empty store; and may give ``reopened``: a function that returns another
handle on the same store, as another process would have it.
"""

from __future__ import annotations

import string
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kitaru.errors import KitaruStoreError, KitaruUsageError
from kitaru.model.pieces import Pieces
from kitaru.store.open import check_store
from kitaru.store.port import Created, Store, Taken

RACERS = 8

BAD_KEYS = [
    "",
    "/",
    "/absolute",
    "ends/",
    "two//slashes",
    ".",
    "..",
    "../escape",
    "a/../../escape",
    "a/./b",
    "nul\0byte",
    "new\nline",
    "lone\udc80surrogate",
    "a/.kitaru-tmp.1234",
]

segments = st.text(alphabet=string.ascii_letters + string.digits + "._-+=@~ éü漢😀", min_size=1, max_size=12).filter(
    lambda text: text.strip(" .") == text
)
keys = st.lists(segments, min_size=1, max_size=4).map(lambda parts: "/".join(["any", *parts, "leaf"]))


def race(create: Callable[[int], Created | Taken], racers: int = RACERS) -> list[Created | Taken]:
    """What each of ``racers`` threads got that began at once."""
    start = threading.Barrier(racers)

    def run(racer: int) -> Created | Taken:
        start.wait(30)
        return create(racer)

    with ThreadPoolExecutor(racers) as pool:
        return list(pool.map(run, range(racers)))


class StoreContract:
    races = 20
    examples = 60
    largest = 3 * 2**20
    many = 1100
    file_and_folder_of_one_name = False

    @pytest.fixture
    def reopened(self, store: Store) -> Callable[[], Store]:
        return lambda: store

    @pytest.fixture
    def fast_switching(self) -> Iterator[None]:
        """Threads take turns every microsecond, so that a race between two steps is met and not only possible."""
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        yield
        sys.setswitchinterval(interval)

    # --- read, create, overwrite, remove ---

    def test_absent(self, store: Store) -> None:
        """A key that nobody wrote reads as None, near other keys or not."""
        assert store.read("a/b/c") is None
        store.create("a/b/c", b"x")
        assert store.read("a/b") is None
        assert store.read("a") is None
        assert store.read("a/b/c/d") is None
        assert store.read("a/b/cc") is None

    def test_created_is_read(self, store: Store, reopened: Callable[[], Store]) -> None:
        """What was created is read back, from another handle too."""
        assert store.create("project/lock/000000000001.json", b"{}\n") == Created()
        assert store.read("project/lock/000000000001.json") == b"{}\n"
        assert reopened().read("project/lock/000000000001.json") == b"{}\n"

    def test_second_create_is_taken(self, store: Store, reopened: Callable[[], Store]) -> None:
        """A key can be created once; the second gets the first one's bytes and changes nothing."""
        assert store.create("slot", b"first") == Created()
        assert store.create("slot", b"second") == Taken(b"first")
        assert reopened().create("slot", b"third") == Taken(b"first")
        assert store.read("slot") == b"first"

    def test_equal_bytes_are_ours(self, store: Store, reopened: Callable[[], Store]) -> None:
        """Creating a key with the bytes that it holds answers as the first time did."""
        assert store.create("slot", b"same") == Created()
        assert store.create("slot", b"same") == Created()
        assert reopened().create("slot", b"same") == Created()

    def test_empty_body_is_refused(self, store: Store) -> None:
        """There are no empty bodies."""
        with pytest.raises(KitaruUsageError, match="empty"):
            store.create("slot", b"")
        with pytest.raises(KitaruUsageError, match="empty"):
            store.overwrite("slot", b"")
        assert store.read("slot") is None

    def test_overwrite(self, store: Store, reopened: Callable[[], Store]) -> None:
        """A hint holds what was written last, shorter or longer; a created key as well."""
        for body in (b"first", b"1", b"longer than before"):
            store.overwrite("hint", body)
            assert reopened().read("hint") == body
        store.create("key", b"created")
        store.overwrite("key", b"overwritten")
        assert store.read("key") == b"overwritten"
        assert store.create("key", b"created") == Taken(b"overwritten")

    def test_remove(self, store: Store) -> None:
        """A removed key is gone and free again; removing what is not there is no error."""
        store.remove("never/was")
        store.create("a/b", b"1")
        store.create("a/c", b"1")
        store.remove("a")
        store.remove("a/b/x")
        store.remove("a/b")
        store.remove("a/b")
        assert store.read("a/b") is None
        assert store.read("a/c") == b"1"
        assert store.names("a/") == ["c"]
        assert store.create("a/b", b"2") == Created()
        store.remove("a/b")
        store.remove("a/c")
        assert store.create("a/b", b"3") == Created()
        assert store.read("a/b") == b"3"

    def test_body_in_pieces(self, store: Store) -> None:
        """It is stored as the bytes that it stands for, large or small, bytes and text."""
        for name, size in (("small", 3), ("large", self.largest)):
            pieces = Pieces([b"head\n", b"a text" * (size // 12), bytes(range(256)) * (size // 512), b"tail"])
            whole = bytes(pieces)
            assert store.create(name, pieces) == Created(found=False)
            assert store.read(name) == whole
            again = store.create(name, pieces)
            assert isinstance(again, Created) and again.found
            assert store.create(name, Pieces([b"h", whole[1:-1], b"!"])) == Taken(whole)
            store.overwrite(name, Pieces([b"other", whole]))
            assert store.read(name) == b"other" + whole

    def test_a_hint_need_not_be_durable(self, store: Store, reopened: Callable[[], Store]) -> None:
        """It is there for everybody all the same."""
        for body in (b"first", b"1"):
            store.overwrite("some/hint", body, durable=False)
            assert reopened().read("some/hint") == body

    def test_large_body(self, store: Store) -> None:
        """A body larger than any buffer on the way comes back whole."""
        body = bytes(range(256)) * (self.largest // 256) + b"tail"
        assert store.create("large", body) == Created()
        assert store.read("large") == body
        assert store.create("large", body[:-1]) == Taken(body)

    # --- keys ---

    def test_bad_key(self, store: Store) -> None:
        """What can't be a key on every backend is one on none, in no verb."""
        for key in BAD_KEYS:
            for call in (
                partial(store.read, key),
                partial(store.create, key, b"x"),
                partial(store.overwrite, key, b"x"),
                partial(store.remove, key),
            ):
                with pytest.raises(KitaruUsageError, match="is not a key") as caught:
                    call()
                assert caught.value.hint
        assert store.names("") == []

    def test_bad_prefix(self, store: Store) -> None:
        """A prefix is empty, or a key with a slash behind it."""
        for prefix in ("a", "/", "/a/", "a//", "../", "a/../"):
            with pytest.raises(KitaruUsageError):
                store.names(prefix)

    def test_long_key(self, store: Store) -> None:
        """A key too long for any backend is refused on all, by name."""
        for key in ("n" * 256, "ü" * 128, "/".join(["n" * 200] * 5)):
            with pytest.raises(KitaruStoreError, match="longer than") as caught:
                store.create(key, b"x")
            assert caught.value.hint
        assert store.names("") == []

    def test_longest_segment(self, store: Store) -> None:
        """255 bytes are not too long."""
        key = "a/" + "n" * 255
        assert store.create(key, b"x") == Created()
        assert store.names("a/") == ["n" * 255]

    def test_round_trip(self, store: Store) -> None:
        """Any bytes under any valid key come back the same, and the key is listed."""

        @settings(
            max_examples=self.examples,
            deadline=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture],
            database=None,
        )
        @given(key=keys, body=st.binary(min_size=1, max_size=5000))
        def check(key: str, body: bytes) -> None:
            key = f"{uuid.uuid4().hex}/{key}"
            assert store.create(key, body) == Created()
            assert store.read(key) == body
            above, _, name = key.rpartition("/")
            assert store.names(above + "/") == [name]

        check()

    # --- names ---

    def test_names(self, store: Store) -> None:
        """Names directly below a prefix, sorted; one with keys below it ends with a slash."""
        for key in ("p/b", "p/a", "p/c/1", "p/c/d/2", "p/é", "p-q/1", "pp", "p/.hidden"):
            store.create(key, b"x")
        assert store.names("") == ["p-q/", "p/", "pp"]
        assert store.names("p/") == [".hidden", "a", "b", "c/", "é"]
        assert store.names("p/c/") == ["1", "d/"]
        assert store.names("p/c/d/") == ["2"]
        assert store.names("nobody/wrote/here/") == []
        assert store.names("p/a/") == []
        assert store.names("p/c/x/") == []

    def test_names_after(self, store: Store) -> None:
        """``after`` leaves out names that are equal or smaller; the slash of a folder does not count."""
        written = ["a", "b/1", "b-/1", "b.json", "b0", "ba/2", "c", "c/1", "d/1", "d/2", "d-e/1", "é"]
        if not self.file_and_folder_of_one_name:
            written.remove("c/1")
        for key in written:
            store.create(f"p/{key}", b"x")
        everything = sorted({key.partition("/")[0] + key.partition("/")[1] for key in written})
        assert store.names("p/") == everything
        for after in [*everything, "", "0", "b!", "b-", "b-/", "b.", "bb", "c-", "c/", "d", "d-", "d-e", "d-f", "z"]:
            greater = [name for name in everything if name.rstrip("/") > after]
            assert store.names("p/", after=after) == greater, after

    def test_listed(self, store: Store) -> None:
        """Every key below a prefix, however deep, with its size and the time of its last write by the store's clock."""
        sizes = {"p/a": 1, "p/b/c/d": 20, "p/b/e": 3000, "p/é": 2, "pp/f": 5, "g": 6}
        for key, size in sizes.items():
            store.create(key, b"x" * size)
        for prefix in ("", "p/", "p/b/", "p/b/c/", "pp/", "nobody/wrote/here/", "g/"):
            below = {key: size for key, size in sizes.items() if key.startswith(prefix)}
            assert {one.key: one.size for one in store.listed(prefix)} == below
        first = {one.key: one.modified for one in store.listed("")}
        assert all(moment.utcoffset() is not None for moment in first.values())
        assert max(first.values()) - min(first.values()) < timedelta(minutes=2)
        time.sleep(1.1)
        store.overwrite("p/a", b"x")
        store.create("p/b/e", b"x" * 3000)
        second = {one.key: one.modified for one in store.listed("")}
        assert second.pop("p/a") > first.pop("p/a")
        assert second == first
        store.remove("p/b/c/d")
        assert {one.key for one in store.listed("p/b/")} == {"p/b/e"}
        with pytest.raises(KitaruUsageError):
            list(store.listed("p"))

    def test_listed_has_many(self, store: Store) -> None:
        """More keys than an answer holds are all listed, each once."""
        count = self.many
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda number: store.create(f"n/{number % 7}/{number:05d}", b"x"), range(count)))
        found = [one.key for one in store.listed("n/")]
        assert len(found) == len(set(found)) == count

    def test_found_says_what_was_there(self, store: Store, reopened: Callable[[], Store]) -> None:
        """A create that found its own bytes says so; one that wrote them does not."""
        first, second = store.create("slot", b"same"), reopened().create("slot", b"same")
        assert isinstance(first, Created)
        assert not first.found
        assert isinstance(second, Created)
        assert second.found

    # --- races ---

    def test_race_has_one_winner(self, store: Store, fast_switching: None) -> None:
        """Of eight threads that create one key, one wins, and the others get its bytes."""
        for number in range(self.races):
            key = f"race/{number:03d}"
            outcomes = race(lambda racer, key=key: store.create(key, f"{racer} of {key}".encode()))
            winners = [racer for racer, outcome in enumerate(outcomes) if outcome == Created()]
            assert len(winners) == 1
            body = f"{winners[0]} of {key}".encode()
            assert store.read(key) == body
            assert [outcome for outcome in outcomes if outcome != Created()] == [Taken(body)] * (RACERS - 1)

    def test_race_between_handles(self, reopened: Callable[[], Store], fast_switching: None) -> None:
        """The same with a handle for each racer."""
        handles = [reopened() for _ in range(4)]
        for number in range(max(2, self.races // 4)):
            key = f"handles/{number:03d}"
            outcomes = race(lambda racer, key=key: handles[racer].create(key, str(racer).encode()), racers=4)
            assert outcomes.count(Created()) == 1

    def test_race_of_a_log(self, store: Store) -> None:
        """Writers that append to a log by create leave no gap, and lose and repeat nothing."""
        per_writer = 5

        def append(writer: int) -> list[int]:
            numbers, number = [], 1
            for entry in range(per_writer):
                while store.create(f"log/{number:012d}", f"{writer}:{entry}".encode()) != Created():
                    number += 1
                numbers.append(number)
            return numbers

        with ThreadPoolExecutor(3) as pool:
            taken = sorted(number for numbers in pool.map(append, range(3)) for number in numbers)
        assert taken == list(range(1, 3 * per_writer + 1))
        assert len(store.names("log/")) == 3 * per_writer

    def test_readers_see_all_or_nothing(self, store: Store, fast_switching: None) -> None:
        """While a key is created and then overwritten, every reader gets None or one whole body."""
        size = 256 * 1024
        bodies = {bytes([letter]) * size for letter in b"ABCDE"}
        for round_ in range(3):
            done, seen = threading.Event(), []
            key = f"whole/{round_}"

            def look(key: str = key, done: threading.Event = done, seen: list[bytes | None] = seen) -> None:
                while not done.is_set():
                    seen.append(store.read(key))

            readers = [threading.Thread(target=look) for _ in range(3)]
            for reader in readers:
                reader.start()
            try:
                for body in sorted(bodies):
                    if body.startswith(b"A"):
                        assert store.create(key, body) == Created()
                    else:
                        store.overwrite(key, body)
            finally:
                done.set()
                for reader in readers:
                    reader.join()
            assert all(body is None or body in bodies for body in seen)
            assert store.read(key) == b"E" * size

    def test_many_threads(self, store: Store) -> None:
        """Sixteen threads that write, read, list and remove at once don't disturb each other."""

        def work(worker: int) -> None:
            for number in range(6):
                key, body = f"many/{worker}/{number}", f"{worker} {number}".encode()
                assert store.create(key, body) == Created()
                assert store.read(key) == body
                store.overwrite("many/hint", body)
            assert store.names(f"many/{worker}/") == [str(number) for number in range(6)]
            for number in range(6):
                store.remove(f"many/{worker}/{number}")
            assert store.read(f"many/{worker}/3") is None

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(work, range(16)))

    def test_probe_passes(self, store: Store) -> None:
        """The probe finds nothing to complain about, and leaves no key."""
        check_store(store)
        assert store.names(".kitaru-probe/") == []
