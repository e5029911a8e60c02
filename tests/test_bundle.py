"""Source trees as archives, and archives as verified folders."""

from __future__ import annotations

import hashlib
import io
import os
import random
import tarfile
import threading
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kitaru.errors import KitaruBackendError, KitaruError, KitaruIntegrityError
from kitaru.model.snapshot import SourceFile, SourceTree
from kitaru.source import bundle
from kitaru.source.bundle import pack, unpack
from kitaru.source.folders import ensure_source, holds_tree
from kitaru.source.selection import EXECUTABLE, FILE, SYMLINK, bad_link, tree_digest

Files = list[tuple[SourceFile, bytes]]


def source_file(path: str, body: bytes, mode: int = FILE) -> tuple[SourceFile, bytes]:
    return SourceFile(path=path, mode=mode, size=len(body), sha256=hashlib.sha256(body).hexdigest()), body


def tree_of(files: Iterable[tuple[SourceFile, bytes]]) -> SourceTree:
    return SourceTree(files=tuple(file for file, _ in files))


SMALL: Files = [
    source_file("flows/a.py", b"A = 1\n"),
    source_file("flows/link.py", b"../lib/b.py", SYMLINK),
    source_file("lib/b.py", b"B = 2\n"),
    source_file("run", b"#!/bin/sh\n", EXECUTABLE),
    source_file(f"{'long/' * 60}ünïcødé.py", b""),
]
DIGEST = tree_digest(tree_of(SMALL))


def test_a_tree_comes_back_as_it_was(tmp_path: Path) -> None:
    """Content, executable bit, symlinks, long and non-ASCII names survive."""
    unpack(pack(SMALL), DIGEST, tmp_path / "out")
    assert (tmp_path / "out/flows/link.py").read_text() == "B = 2\n"
    assert os.access(tmp_path / "out/run", os.X_OK)
    assert holds_tree(tmp_path / "out", DIGEST)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..", "__pycache__") and not name.endswith(".pyc") and len(name.encode()) < 200
)


@st.composite
def trees(draw: st.DrawFn) -> Files:
    """Files that can stand beside each other: no path is another's folder, no two that one file system merges."""
    chosen: dict[str, tuple[SourceFile, bytes]] = {}
    folders: set[str] = set()
    seen: set[str] = set()
    for parts in draw(st.lists(st.lists(NAME, min_size=1, max_size=4), max_size=8)):
        path = "/".join(parts)
        above = {"/".join(parts[:size]) for size in range(1, len(parts))}
        plain = unicodedata.normalize("NFC", path).casefold()
        if path in folders or above & chosen.keys() or plain in seen:
            continue
        seen.add(plain)
        folders |= above
        chosen[path] = source_file(path, draw(st.binary(max_size=2000)), draw(st.sampled_from([FILE, EXECUTABLE])))
    return list(chosen.values())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=trees(), seed=st.integers(0, 1000))
def test_any_tree_round_trips_whatever_the_order(tmp_path: Path, files: Files, seed: int) -> None:
    """Packed in any order, a tree has the same digest and bytes, and unpacks to what it was."""
    shuffled = list(files)
    random.Random(seed).shuffle(shuffled)
    digest = tree_digest(tree_of(files))
    assert tree_digest(tree_of(shuffled)) == digest
    archive = pack(files)
    assert pack(shuffled) == archive
    folder = tmp_path / os.urandom(8).hex()
    unpack(archive, digest, folder)
    assert holds_tree(folder, digest)
    for file, body in files:
        assert (folder / file.path).read_bytes() == body


def test_the_digest_is_this_one() -> None:
    """Digests are stored for ever: the same listing names the same tree in every release."""
    assert DIGEST == "abd2f1d1b773dd1ad41a74a660a9f17c844fe6d3ee6c4a07e139ae7a59a90cb5"


def test_an_archive_says_nothing_of_time_user_or_machine() -> None:
    """Headers hold path, mode and size only."""
    for member in tar_members(pack(SMALL)):
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")


def tar_members(archive: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(zstandard.ZstdDecompressor().decompress(archive))) as tar:
        return tar.getmembers()


# --- hostile archives -------------------------------------------------------------------------------------------------


def archive_of(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=format) as tar:
        for info, body in members:
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return zstandard.compress(raw.getvalue())


def member(
    name: str, body: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b"" if kind != tarfile.REGTYPE else body


HOSTILE = {
    "absolute": [member("/tmp/kitaru-escape")],
    "parent": [member("../escape")],
    "inner parent": [member("a/../../escape")],
    "dot": [member("./a")],
    "empty part": [member("a//b")],
    "absolute link": [member("a", kind=tarfile.SYMTYPE, link="/etc/passwd")],
    "link out": [member("a/b", kind=tarfile.SYMTYPE, link="../../x")],
    "link through a link": [
        member("a/b", kind=tarfile.SYMTYPE, link="../c"),
        member("c", kind=tarfile.SYMTYPE, link="."),
        member("d", kind=tarfile.SYMTYPE, link="a/b/../../x"),
    ],
    "link to itself": [member("a", kind=tarfile.SYMTYPE, link="a")],
    "file through a link": [member("a", kind=tarfile.SYMTYPE, link="b"), member("a/x")],
    "link over a file's folder": [member("a/x"), member("a", kind=tarfile.SYMTYPE, link="b")],
    "file over a folder": [member("a/x"), member("a")],
    "file below a file": [member("a"), member("a/x")],
    "twice": [member("a"), member("a")],
    "hard link": [member("a"), member("b", kind=tarfile.LNKTYPE, link="a")],
    "hard link out": [member("b", kind=tarfile.LNKTYPE, link="/etc/passwd")],
    "device": [member("a", kind=tarfile.CHRTYPE)],
    "fifo": [member("a", kind=tarfile.FIFOTYPE)],
    "folder": [member("a", kind=tarfile.DIRTYPE)],
    "empty link": [member("a", kind=tarfile.SYMTYPE, link="")],
    "not the tree": [member("a")],
    "nothing": [],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    """Whatever an archive tries, nothing appears in the folder, beside it, or anywhere else."""
    inside = tmp_path / "deep/cache"
    inside.mkdir(parents=True)
    with pytest.raises(KitaruIntegrityError):
        unpack(archive_of(*HOSTILE[name]), DIGEST, inside / "out")
    assert [path for path in tmp_path.rglob("*") if path != inside and path != inside.parent] == []
    assert not Path("/tmp/kitaru-escape").exists()


def test_a_set_user_id_bit_is_not_kept(tmp_path: Path) -> None:
    """Of a file's mode only the executable bit is taken."""
    info, body = member("a", b"x")
    info.mode = 0o6777
    unpack(archive_of((info, body)), tree_digest(tree_of([source_file("a", b"x", EXECUTABLE)])), tmp_path / "out")
    assert (tmp_path / "out/a").stat().st_mode & 0o7777 == 0o755


def test_an_archive_that_grows_without_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small archive that would fill the disk ends at its bound."""
    bomb = archive_of(member("a", bytes(5_000_000)))
    assert len(bomb) < 5_000
    monkeypatch.setattr(bundle, "MOST_BYTES", 1_000_000)
    with pytest.raises(KitaruIntegrityError, match="more than it may"):
        unpack(bomb, DIGEST, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_archive_is_an_error_and_never_a_tree(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes changed in the archive, or in the tar inside it, end in an error of ours or in exactly the right tree."""
    plain = data.draw(st.booleans())
    body = bytearray(zstandard.ZstdDecompressor().decompress(pack(SMALL)) if plain else pack(SMALL))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    kept = bytes(body)[: data.draw(st.integers(0, len(body)))] if data.draw(st.booleans()) else bytes(body)
    folder = tmp_path / os.urandom(8).hex()
    try:
        unpack(zstandard.compress(kept) if plain else kept, DIGEST, folder)
    except KitaruError:
        assert not folder.exists()
    else:
        assert holds_tree(folder, DIGEST)


def test_a_chain_of_headers_is_an_error(tmp_path: Path) -> None:
    """Headers that only announce further headers end in an error, not in a full stack."""
    header = tarfile.TarInfo("x").tobuf()
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 0
    chain = info.tobuf(tarfile.USTAR_FORMAT) * 20_000
    with pytest.raises(KitaruIntegrityError):
        unpack(zstandard.compress(chain + header), DIGEST, tmp_path / "out")


@pytest.mark.parametrize(
    ("links", "path", "why"),
    [
        ({"a": "b/c"}, "a", None),
        ({"x/a": "../b"}, "x/a", None),
        ({"x/a": "../../b"}, "x/a", "out of the tree"),
        ({"a/b": "..", "l": "a/b/../x"}, "l", "out of the tree"),
        ({"a": "b", "b": "a"}, "a", "back to itself"),
        ({"a": "b", "b": "/etc"}, "a", "out of the tree"),
        ({"a": ""}, "a", "no target"),
    ],
)
def test_where_a_symlink_leads(links: dict[str, str], path: str, why: str | None) -> None:
    """Links are followed through each other, as the kernel would."""
    found = bad_link(path, links)
    assert found is None if why is None else why in str(found)


# --- the folder of unpacked trees -------------------------------------------------------------------------------------


class Fetches:
    def __init__(self, archive: bytes) -> None:
        self.archive = archive
        self.count = 0

    def __call__(self) -> bytes:
        self.count += 1
        return self.archive


def test_a_tree_is_fetched_once(tmp_path: Path) -> None:
    """The second time the folder is there, and verified."""
    fetch = Fetches(pack(SMALL))
    folder = ensure_source(tmp_path, DIGEST, fetch)
    assert folder == tmp_path / DIGEST
    assert ensure_source(tmp_path, DIGEST, fetch) == folder
    assert fetch.count == 1


def test_compiled_python_counts_as_any_file(tmp_path: Path) -> None:
    """Python may prefer a compiled file to its source, so one that was added makes the folder another tree."""
    fetch = Fetches(pack(SMALL))
    folder = ensure_source(tmp_path, DIGEST, fetch)
    (folder / "flows/__pycache__").mkdir()
    (folder / "flows/__pycache__/a.cpython-311.pyc").write_bytes(b"x")
    assert ensure_source(tmp_path, DIGEST, fetch) != folder


CHANGES = {
    "altered": lambda folder: (folder / "flows/a.py").write_text("A = 666\n"),
    "added": lambda folder: (folder / "sitecustomize.py").write_text("evil\n"),
    "removed": lambda folder: (folder / "lib/b.py").unlink(),
    "made executable": lambda folder: (folder / "flows/a.py").chmod(0o755),
    "replaced by a link": lambda folder: ((folder / "run").unlink(), (folder / "run").symlink_to("/bin/sh")),
    "a fifo": lambda folder: os.mkfifo(folder / "pipe"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_that_was_changed_is_never_used(tmp_path: Path, change: str) -> None:
    """Altered code is not run and not removed either: a further copy is made, once, and used from then on."""
    fetch = Fetches(pack(SMALL))
    first = ensure_source(tmp_path, DIGEST, fetch)
    CHANGES[change](first)
    second = ensure_source(tmp_path, DIGEST, fetch)
    assert second != first and first.exists()
    assert holds_tree(second, DIGEST)
    assert ensure_source(tmp_path, DIGEST, fetch) == second
    assert fetch.count == 2


def test_copies_that_are_changed_again_and_again_are_never_used(tmp_path: Path) -> None:
    """However many copies were changed, the one that is returned is the tree."""
    fetch = Fetches(pack(SMALL))
    for _ in range(12):
        folder = ensure_source(tmp_path, DIGEST, fetch)
        assert holds_tree(folder, DIGEST)
        (folder / "flows/a.py").write_text("A = 666\n")


def test_racing_readers_get_one_whole_tree(tmp_path: Path) -> None:
    """Many that unpack the same tree at once all end with the same folder, and none fails."""
    files = [source_file(f"d{number % 7}/f{number}.py", os.urandom(500)) for number in range(200)]
    archive, digest = pack(files), tree_digest(tree_of(files))
    start = threading.Barrier(8)
    found: list[Path] = []

    def reader() -> None:
        start.wait()
        found.append(ensure_source(tmp_path, digest, lambda: archive))

    threads = [threading.Thread(target=reader) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / digest] * 8
    assert [entry.name for entry in tmp_path.iterdir() if entry.suffix != ".used"] == [digest]


def test_a_place_that_is_taken_stays(tmp_path: Path) -> None:
    """``unpack`` puts nothing over what is there."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("keep")
    unpack(pack(SMALL), DIGEST, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    (tmp_path / "file").write_text("")
    with pytest.raises(KitaruBackendError):
        unpack(pack(SMALL), DIGEST, tmp_path / "file/out")
