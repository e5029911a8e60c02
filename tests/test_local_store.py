from __future__ import annotations

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kitaru.errors import KitaruStoreError
from kitaru.store.local import LocalStore
from kitaru.store.port import TEMPORARY, Created, Store, Taken
from tests.store_contract import StoreContract

ROOT = Path(__file__).parent.parent
IS_ROOT = os.geteuid() == 0


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store", "file://store")


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class TestLocalStore(StoreContract):
    races = 200
    examples = 150

    @pytest.fixture
    def reopened(self, store: LocalStore, tmp_path: Path) -> Callable[[], Store]:
        return lambda: LocalStore(tmp_path / "store", store.url)


class TestLocalStoreWithoutAnonymousFiles(StoreContract):
    """The same on a file system that has no O_TMPFILE."""

    races = 100

    @pytest.fixture
    def store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
        real = os.open

        def refuse_anonymous(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            return real(path, flags, mode, dir_fd=dir_fd)

        monkeypatch.setattr(os, "open", refuse_anonymous)
        return LocalStore(tmp_path / "store", "file://store")

    def test_leaves_no_temporary_file(self, store: LocalStore, tmp_path: Path) -> None:
        """A create that wins and one that loses both clean up."""
        store.create("a/key", b"1")
        store.create("a/key", b"2")
        store.overwrite("a/hint", b"3")
        assert files_below(tmp_path / "store") == ["a/hint", "a/key"]


# --- races between processes ---

RACER = """
import sys, time
from pathlib import Path
from kitaru.store.local import LocalStore
from kitaru.store.port import Created
root, me, keys, start = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
store = LocalStore(Path(root), "file://store")
print("ready", flush=True)
while not start.exists():
    time.sleep(0.0005)
for number in range(keys):
    key = f"deep/{number % 7}/{number:04d}"
    if store.create(key, f"{me} {key}".encode() * 100) == Created():
        print(number)
"""


def test_race_between_processes(store: LocalStore, tmp_path: Path) -> None:
    """Of six processes that create the same keys and folders, one wins each key, and it holds the winner's bytes."""
    keys, start = 150, tmp_path / "start"
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path / "store"), str(me), str(keys), str(start)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for me in range(6)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    start.touch()
    winners: dict[int, int] = {}
    for me, racer in enumerate(racers):
        for line in racer.communicate(timeout=120)[0].split():
            assert winners.setdefault(int(line), me) == me
        assert racer.returncode == 0
    assert sorted(winners) == list(range(keys))
    for number, winner in winners.items():
        key = f"deep/{number % 7}/{number:04d}"
        assert store.read(key) == f"{winner} {key}".encode() * 100


# --- killed writers ---

WRITER = """
import sys
from pathlib import Path
from kitaru.store.local import LocalStore
store = LocalStore(Path(sys.argv[1]), "file://store")
store._anonymous = store._anonymous and sys.argv[3] == "anonymous"
body = b"".join(b"%07d\\n" % number for number in range(25_000))
for number in range(100_000):
    store.create(f"killed/{sys.argv[2]}/{number // 5}/{number}", body)
    print(number, flush=True)
    store.overwrite("killed/hint", body[: 8 * (1 + number % 25_000)])
"""


@pytest.mark.parametrize("how", ["anonymous", "named"])
def test_killed_writers_leave_whole_keys(store: LocalStore, tmp_path: Path, how: str) -> None:
    """kill -9 at any moment: each acknowledged key is there, each key there is whole, and all can be written on."""
    whole = b"".join(b"%07d\n" % number for number in range(25_000))
    chance = random.Random(7)
    for round_ in range(12):
        arguments = [sys.executable, "-c", WRITER, str(tmp_path / "store"), str(round_), how]
        writer = subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=ROOT)
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(chance.uniform(0.0, 0.06))
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read()
        writer.wait()
        acknowledged = [int(number) for number in (first + rest).split()]
        for number in acknowledged:
            assert store.read(f"killed/{round_}/{number // 5}/{number}") == whole
        listed = [
            (folder, name)
            for folder in store.names(f"killed/{round_}/")
            for name in store.names(f"killed/{round_}/{folder}")
        ]
        assert len(listed) - len(acknowledged) in (0, 1)
        for folder, name in listed:
            assert store.read(f"killed/{round_}/{folder}{name}") == whole
        hint = store.read("killed/hint")
        assert hint is None or (whole.startswith(hint) and len(hint) % 8 == 0)
        number = len(listed)
        assert store.create(f"killed/{round_}/{number // 5}/{number}", b"next") == Created()


def test_stray_temporary_files_are_ignored_then_removed(store: LocalStore, tmp_path: Path) -> None:
    """What a killed writer left is never named; a listing removes it when it is more than a day old."""
    store.create("a/key", b"x")
    fresh, stale = (tmp_path / "store" / "a" / f"{TEMPORARY}{age}" for age in ("fresh", "stale"))
    for stray in (fresh, stale):
        stray.write_bytes(b"half")
    os.utime(stale, (time.time() - 25 * 3600,) * 2)
    assert store.names("a/") == ["key"]
    assert fresh.exists()
    assert not stale.exists()


# --- durability ---


def test_everything_is_synced_before_it_is_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is synced before it is linked; its folder, and the parent of each new folder, before create returns."""
    calls: list[str] = []
    real_sync, real_link, real_make = os.fsync, os.link, os.mkdir

    def sync(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        calls.append(f"sync {str(target).removeprefix(str(tmp_path))}" if target.is_dir() else "sync file")
        real_sync(descriptor)

    def link(source: str, name: str, **options: int) -> None:
        calls.append(f"link {name}")
        real_link(source, name, **options)

    def make(path: str, mode: int = 0o777) -> None:
        calls.append(f"make {path.removeprefix(str(tmp_path))}")
        real_make(path, mode)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(os, "mkdir", make)
    store = LocalStore(tmp_path / "x" / "store", "file://store")
    store.create("a/key", b"1")
    assert [call for call in calls if call.startswith("make")] == ["make /x", "make /x/store", "make /x/store/a"]
    assert calls[3:] == ["sync ", "sync /x", "sync /x/store", "sync file", "link key", "sync /x/store/a"]
    calls.clear()
    store.create("a/next", b"2")
    assert calls == ["sync file", "link next", "sync /x/store/a"]
    calls.clear()
    assert LocalStore(tmp_path / "x" / "store", "file://store").create("a/next", b"3") == Taken(b"2")
    assert calls[-1] == "sync /x/store/a", "the loser goes on from the entry: it must be durable by then"


# --- folders that come and go ---


def test_folder_removed_between_writes(store: LocalStore, tmp_path: Path) -> None:
    """A store that was deleted is made anew by the next write."""
    store.create("a/b/c", b"1")
    (tmp_path / "store" / "a" / "b" / "c").unlink()
    (tmp_path / "store" / "a" / "b").rmdir()
    (tmp_path / "store" / "a").rmdir()
    (tmp_path / "store").rmdir()
    assert store.read("a/b/c") is None
    assert store.names("a/b/") == []
    store.remove("a/b/c")
    assert store.create("a/b/c", b"2") == Created()
    (tmp_path / "store" / "a" / "b" / "c").unlink()
    (tmp_path / "store" / "a" / "b").rmdir()
    store.overwrite("a/b/d", b"3")
    assert store.read("a/b/d") == b"3"


def test_folders_that_become_empty_vanish(store: LocalStore, tmp_path: Path) -> None:
    """Removing the last key below a folder removes the folder, as in an object store; the root stays."""
    store.create("a/b/c", b"1")
    store.create("a/d", b"1")
    store.remove("a/b/c")
    assert store.names("a/") == ["d"]
    store.remove("a/d")
    assert store.names("") == []
    assert (tmp_path / "store").is_dir()


def test_create_against_removal_of_the_folder(store: LocalStore) -> None:
    """A create whose folder another thread keeps removing succeeds none the less."""
    stop = threading.Event()

    def churn() -> None:
        other = LocalStore(Path(store._root), store.url)
        while not stop.is_set():
            other.create("shared/deep/churn", b"x")
            other.remove("shared/deep/churn")

    with ThreadPoolExecutor(2) as pool:
        churning = [pool.submit(churn) for _ in range(2)]
        try:
            for number in range(150):
                assert store.create(f"shared/deep/{number}", b"x") == Created()
                assert store.read(f"shared/deep/{number}") == b"x"
                store.remove(f"shared/deep/{number}")
        finally:
            stop.set()
        for each in churning:
            each.result()


# --- a disk that says no ---


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB where mounting is allowed."""
    mount = tmp_path / "disk"
    mount.mkdir()
    tried = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if tried.returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.parametrize("verb", ["create", "overwrite"])
def test_full_disk(full_disk: Path, verb: str) -> None:
    """A body that no longer fits is refused by name; no part of it stays, and smaller ones still fit."""
    store = LocalStore(full_disk / "store", "file://store")
    with pytest.raises(KitaruStoreError, match="No space left") as caught:
        getattr(store, verb)("a/key", b"x" * 200_000)
    assert "free some space" in caught.value.hint
    assert store.read("a/key") is None
    assert files_below(full_disk) == []
    assert store.create("a/key", b"x" * 2000) == Created()


@pytest.mark.parametrize("anonymous", [True, False])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_write_that_fails_halfway(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, anonymous: bool
) -> None:
    """A disk that fails after half a body leaves nothing, with anonymous files and with named ones."""
    store.create("a/key", b"x")
    store._anonymous = anonymous
    real, calls = os.write, 0

    def fail_at_second(descriptor: int, body: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError(number, os.strerror(number))
        return real(descriptor, body[: len(body) // 2])

    monkeypatch.setattr(os, "write", fail_at_second)
    for write in (store.create, store.overwrite):
        calls = 0
        with pytest.raises(KitaruStoreError, match=os.strerror(number)) as caught:
            write("a/other", b"0123456789" * 100)
        assert caught.value.hint
        assert files_below(tmp_path / "store") == ["a/key"]


def test_file_size_limit(store: LocalStore, tmp_path: Path) -> None:
    """A body over the process's own limit is refused by name, and leaves nothing."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(KitaruStoreError, match="File too large") as caught:
            store.create("a/key", b"x" * 200_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "ulimit" in caught.value.hint
    assert files_below(tmp_path / "store") == []


def test_short_writes_are_completed(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that takes a body in pieces still gets all of it."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, body: real(descriptor, body[:7]))
    body = bytes(range(256))
    assert store.create("a/key", body) == Created()
    assert store.read("a/key") == body


AS_NOBODY = """
import os, sys
from pathlib import Path
from kitaru.store.local import LocalStore
from kitaru.errors import KitaruStoreError
os.setuid(65534)
store = LocalStore(Path(sys.argv[1]), "file://store")
for call in (lambda: store.create("a/new", b"x"), lambda: store.overwrite("a/new", b"x"), lambda: store.remove("a/key"),
             lambda: store.read("b/secret"), lambda: store.names("b/"), lambda: store.create("c/new", b"x")):
    try:
        print(repr(call()))
    except KitaruStoreError as error:
        print(f"{error} | {error.hint}")
print(store.read("a/key"))
"""


@pytest.mark.skipif(not IS_ROOT, reason="needs another user to be")
def test_no_permission(tmp_path: Path) -> None:
    """A store that belongs to somebody else says so, for each verb; what may be read is read."""
    folder = Path("/tmp") / f"kitaru-test-{os.getpid()}-{tmp_path.name}"
    folder.mkdir(mode=0o755)
    store = LocalStore(folder, "file://store")
    try:
        store.create("a/key", b"x")
        store.create("b/secret", b"x")
        (folder / "b").chmod(0o700)
        ran = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(folder)], capture_output=True, text=True, cwd=ROOT, check=False
        )
        lines = ran.stdout.splitlines()
        assert len(lines) == 7, ran.stderr
        assert all("Permission denied" in line and "check the owner" in line for line in lines[:6]), lines
        assert lines[6] == "b'x'"
        assert files_below(folder) == ["a/key", "b/secret"]
    finally:
        for key in ("a/key", "b/secret"):
            store.remove(key)
        folder.rmdir()


def test_file_in_the_way(store: LocalStore, tmp_path: Path) -> None:
    """A file where a folder is needed, and the other way round, is named as such."""
    store.create("a/key", b"x")
    for write in (store.create, store.overwrite):
        with pytest.raises(KitaruStoreError, match="Not a directory") as caught:
            write("a/key/below", b"x")
        assert "file stands where" in caught.value.hint
        with pytest.raises(KitaruStoreError, match="Is a directory") as caught:
            write("a", b"x")
        assert "folder stands where" in caught.value.hint
    assert files_below(tmp_path) == ["store/a/key"]


def test_root_that_can_not_be(tmp_path: Path) -> None:
    """A root below a file, or with too long a path, is refused at the first write; reading finds nothing there."""
    (tmp_path / "file").write_bytes(b"")
    below_file = LocalStore(tmp_path / "file" / "store", "file://file/store")
    assert below_file.read("key") is None
    assert below_file.names("") == []
    with pytest.raises(KitaruStoreError, match=r"file://file/store.*Not a directory"):
        below_file.create("key", b"x")
    too_long = LocalStore(tmp_path.joinpath(*["n" * 250] * 20), "file://long")
    with pytest.raises(KitaruStoreError, match="too long") as caught:
        too_long.create("key", b"x")
    assert "shorter path" in caught.value.hint


def test_read_only_file_system(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only disk says so."""
    real = os.open

    def refuse_writing(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse_writing)
    with pytest.raises(KitaruStoreError, match="Read-only") as caught:
        store.create("a/key", b"x")
    assert "read-only" in caught.value.hint


def test_symbolic_link_as_root(tmp_path: Path) -> None:
    """The root may be a link to the folder that it really is."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    store = LocalStore(tmp_path / "link", "file://link")
    assert store.create("a/key", b"x") == Created()
    assert (tmp_path / "real" / "a" / "key").read_bytes() == b"x"


def test_no_descriptor_is_left_open(store: LocalStore) -> None:
    """Thousands of calls, failed ones as well, leave no file open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(200):
        store.create(f"a/{number % 50}", b"x")
        store.read(f"a/{number}")
        store.overwrite("a/hint", b"x")
        store.names("a/")
        with pytest.raises(KitaruStoreError):
            store.create("a/hint/below", b"x")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_forked_child_uses_the_store(store: LocalStore) -> None:
    """A child made by fork goes on with its parent's handle."""
    store.create("a/parent", b"x")
    child = os.fork()
    if child == 0:
        os._exit(0 if store.create("a/child", b"y") == Created() and store.read("a/parent") == b"x" else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert store.read("a/child") == b"y"


def test_import_is_light() -> None:
    """A local store needs the standard library only: no fsspec, no asyncio, no pydantic."""
    code = (
        "import sys; import kitaru.store.local; "
        "print(sorted({'fsspec', 's3fs', 'asyncio', 'pydantic', 'concurrent.futures'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ran.stdout == "[]\n"


def test_only_what_must_be_durable_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hint costs no sync once its folder is there; everything else does, and a hint is whole for readers, too."""
    store = LocalStore(tmp_path, f"file://{tmp_path}")
    store.overwrite("hints/a", b"1", durable=False)
    synced: list[int] = []
    real, here = os.fsync, threading.get_ident()

    def sync(descriptor: int) -> None:
        if threading.get_ident() == here:
            synced.append(descriptor)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    store.overwrite("hints/a", b"22", durable=False)
    assert synced == [] and store.read("hints/a") == b"22"
    store.overwrite("hints/a", b"333")
    assert len(synced) == 2
    assert store.names("hints/") == ["a"]
