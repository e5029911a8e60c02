"""A source tree as one archive, ``tar.zst``: equal trees are equal bytes, and unpacking verifies the tree."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import zstandard

from kitaru.errors import KitaruBackendError, KitaruIntegrityError, KitaruSourceError
from kitaru.model.snapshot import SourceFile, SourceTree
from kitaru.source import git_process
from kitaru.source.selection import EXECUTABLE, FILE, SYMLINK, bad_link, bad_path, tree_digest

_CHUNK = 1 << 20
_BLOCK_HEADER, _CHECKSUM = 3, 4
"""Bytes, in a zstd frame (RFC 8878)."""
_REPEATED = 1


def read_archive(
    archive: bytes, sha: str, keep: Callable[[str, int], bool] = lambda _path, _size: False
) -> tuple[SourceTree, dict[str, bytes]]:
    """The tree in an archive, and the content of each file for which ``keep(path, size in bytes)`` is true.

    Writes nothing to disk. Raises ``KitaruIntegrityError`` if the archive can't be read, or its digest is not ``sha``.
    """
    files: list[SourceFile] = []
    kept: dict[str, bytes] = {}
    try:
        with (
            zstandard.ZstdDecompressor().stream_reader(archive) as plain,
            tarfile.open(fileobj=Bounded(plain, MOST_BYTES), mode="r|", encoding="utf-8") as tar,
        ):
            for member in tar:
                files.append(_read_member(tar, member, kept if keep(member.name, member.size) else None))
    except KitaruIntegrityError:
        raise
    except (tarfile.TarError, zstandard.ZstdError, EOFError, ValueError, OverflowError, OSError) as error:
        raise KitaruIntegrityError(f"the source archive of {sha[:12]} can't be read: {error}") from error
    if _frame_end(archive) != len(archive):
        raise KitaruIntegrityError(
            f"the source archive of {sha[:12]} goes on after its end: something was appended to it",
            hint="restore that key of the store from a backup",
        )
    tree = SourceTree.model_construct(files=tuple(files))
    if tree_digest(tree) != sha:
        raise KitaruIntegrityError(
            f"the source archive of {sha[:12]} holds another tree than that digest names",
            hint="restore that key of the store from a backup",
        )
    return tree, kept


def _frame_end(archive: bytes) -> int:
    """The end of the first zstd frame of a valid archive, in bytes; the decompressor does not give it."""
    position = zstandard.frame_header_size(archive)
    last = False
    while not last:
        header = int.from_bytes(archive[position : position + _BLOCK_HEADER], "little")
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        # For a block of one repeated byte, the size is a count; the block itself is one byte long.
        position += _BLOCK_HEADER + (1 if kind == _REPEATED else size)
        if position > len(archive):
            break
    return position + (_CHECKSUM if zstandard.get_frame_parameters(archive).has_checksum else 0)


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo, kept: dict[str, bytes] | None) -> SourceFile:
    sha, size, chunks = hashlib.sha256(), 0, []
    if member.issym():
        mode, parts = SYMLINK, iter([member.linkname.encode("utf-8", "surrogateescape")])
    else:
        content = tar.extractfile(member) if member.type == tarfile.REGTYPE else None
        if content is None:
            raise KitaruIntegrityError(f"the source archive holds {member.name!r}, which is no plain file")
        mode = EXECUTABLE if member.mode & 0o100 else FILE
        parts = iter(lambda: content.read(_CHUNK), b"")
    for part in parts:
        sha.update(part)
        size += len(part)
        if kept is not None:
            chunks.append(part)
    if kept is not None:
        kept[member.name] = b"".join(chunks)
    return SourceFile.model_construct(path=member.name, mode=mode, size=size, sha256=sha.hexdigest())


def commit_words(folder: Path, sha: str) -> dict[str, str] | None:
    """``author``, ``email``, ``date`` (RFC 3339) and ``subject`` of a commit; None if no repository here has it."""
    try:
        answer = git_process.run(
            folder, "show", "-s", "--no-show-signature", "--format=%an%x00%ae%x00%aI%x00%s", f"{sha}^{{commit}}", "--"
        )
    except KitaruSourceError:
        return None
    author, email, date, subject = answer.decode("utf-8", "replace").rstrip("\n").split("\0")[:4]
    return {"author": author, "email": email, "date": date, "subject": subject}


MOST_BYTES = 4_000_000_000
"""The default limit of a decompressed archive, headers included."""

_LEVEL = 3
_BLOCK = 512


# --- pack -------------------------------------------------------------------------------------------------------------


def pack(files: Iterable[tuple[SourceFile, bytes]]) -> bytes:
    """The files as one archive: equal files give equal bytes, in any order."""
    raw = io.BytesIO()
    for file, body in sorted(files, key=lambda pair: pair[0].path):
        raw.write(_header(file, body))
        if file.mode != SYMLINK:
            raw.write(body)
            raw.write(bytes(-len(body) % _BLOCK))
    raw.write(bytes(2 * _BLOCK))
    # One thread: with several, their number decides how the input is cut.
    return zstandard.ZstdCompressor(level=_LEVEL, threads=0).compress(raw.getbuffer())


def _header(file: SourceFile, body: bytes) -> bytes:
    info = tarfile.TarInfo(file.path)
    info.mode = file.mode & 0o777
    if file.mode == SYMLINK:
        info.type, info.linkname = tarfile.SYMTYPE, body.decode()
    else:
        info.size = len(body)
    return info.tobuf(tarfile.PAX_FORMAT)


# --- unpack -----------------------------------------------------------------------------------------------------------


def unpack(archive: bytes, digest: str, into: Path, *, most_bytes: int = MOST_BYTES) -> None:
    """Unpack into the folder ``into``, which appears whole or not at all; a folder that exists stays as it is.

    Raises ``KitaruIntegrityError`` if the archive is damaged, holds anything but plain files and symlinks inside the
    tree, grows beyond ``most_bytes``, or has another digest; ``KitaruBackendError`` if the folder can't be written.
    """
    temporary = into.parent / f".new-{secrets.token_hex(8)}"
    try:
        temporary.mkdir(parents=True)
        found = tree_digest(_extract(archive, temporary, most_bytes))
        if found != digest:
            raise KitaruIntegrityError(
                f"the source archive is not the tree {digest[:12]} that the snapshot names: it is {found[:12]}",
                hint="restore the archive from a backup, or release the flow anew from a commit that differs",
            )
        try:
            temporary.rename(into)
        except OSError:
            if not into.exists():  # else another process was faster
                raise
    except OSError as error:
        raise KitaruBackendError(
            f"the source can't be unpacked in {into.parent}: {error.strerror or error}",
            hint="see that the folder can be written and the disk is not full",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _extract(archive: bytes, folder: Path, most_bytes: int) -> SourceTree:
    files: dict[str, SourceFile] = {}
    folders: set[str] = set()
    links: dict[str, str] = {}
    try:
        with (
            zstandard.ZstdDecompressor().stream_reader(archive) as plain,
            tarfile.open(fileobj=Bounded(plain, most_bytes), mode="r|", encoding="utf-8") as tar,
        ):
            for member in tar:
                above = _check_member(member, files, folders)
                if above not in folders:
                    _make_folders(folder, above, files, folders)
                if member.issym():
                    body = os.fsencode(member.linkname)
                    links[member.name] = member.linkname
                    mode, sha, size = SYMLINK, hashlib.sha256(body).hexdigest(), len(body)
                else:
                    mode = EXECUTABLE if member.mode & 0o100 else FILE
                    sha, size = _write(tar, member, f"{folder}/{member.name}", mode)
                files[member.name] = SourceFile.model_construct(path=member.name, mode=mode, size=size, sha256=sha)
    except KitaruIntegrityError:
        raise
    except (tarfile.TarError, zstandard.ZstdError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise KitaruIntegrityError(f"the source archive can't be unpacked: {error}") from error
    # Symlinks come last, so that no file is written through one.
    for path, target in links.items():
        why = bad_link(path, links)
        if why is not None:
            raise KitaruIntegrityError(f"the source archive holds a symlink at {path!r}: {why}")
        (folder / path).symlink_to(target)
    return SourceTree.model_construct(files=tuple(files[path] for path in sorted(files)))


def _check_member(member: tarfile.TarInfo, files: dict[str, SourceFile], folders: set[str]) -> str:
    """The folder of ``member``: ``flows`` for ``flows/a.py``. Raises if a source tree can't hold the member."""
    why = None
    if member.type not in (tarfile.REGTYPE, tarfile.SYMTYPE) or member.sparse is not None:
        why = "it is no plain file"
    elif member.name in files:
        why = "it is there twice"
    elif member.name in folders:
        why = "it is a file and a folder"
    else:
        why = bad_path(member.name)
    if why is None and member.issym():
        why = bad_path(member.linkname.replace("/", "_"))
    if why is not None:
        raise KitaruIntegrityError(f"the source archive holds {member.name!r}: {why}")
    return member.name.rpartition("/")[0]


def _make_folders(folder: Path, above: str, files: dict[str, SourceFile], folders: set[str]) -> None:
    """Make the folder ``above`` (``flows/lib``; "" is the root) with its parents, and add them to ``folders``."""
    missing = []
    while above and above not in folders:
        missing.append(above)
        above = above.rpartition("/")[0]
    for path in reversed(missing):
        if path in files:
            raise KitaruIntegrityError(f"the source archive holds {path!r}: it is a file and a folder")
        (folder / path).mkdir()
    folders.update(missing, [""])


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str, mode: int) -> tuple[str, int]:
    content = tar.extractfile(member)
    if content is None:
        raise KitaruIntegrityError(f"the source archive holds {member.name!r} without its content")
    sha = hashlib.sha256()
    size = 0
    # O_EXCL: two names that are equal for the file system (letter case) are an error.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        while chunk := content.read(_CHUNK):
            sha.update(chunk)
            size += len(chunk)
            while chunk:
                chunk = chunk[os.write(descriptor, chunk) :]
        os.fchmod(descriptor, mode & 0o777)
    finally:
        os.close(descriptor)
    if size != member.size:
        raise KitaruIntegrityError(f"the source archive ends inside {member.name!r}")
    return sha.hexdigest(), size


class Bounded(io.RawIOBase):
    """A reader that raises after ``most`` bytes: a small archive may grow without end."""

    def __init__(self, source: zstandard.ZstdDecompressionReader, most: int) -> None:
        super().__init__()
        self._source = source
        self._left = most

    def read(self, size: int = -1) -> bytes:
        body = self._source.read(min(size, self._left + 1))
        self._left -= len(body)
        if self._left < 0:
            raise KitaruIntegrityError("the source archive holds more than it may when decompressed")
        return body
