"""A source tree as one archive, ``tar.zst``: equal trees are equal bytes, and reading verifies the tree."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import zstandard

from kitaru.errors import KitaruBackendError, KitaruIntegrityError
from kitaru.model.address import digest
from kitaru.model.snapshot import SourceFile, SourceTree
from kitaru.source.selection import EXECUTABLE, FILE, SYMLINK, bad_link, bad_path, tree_digest

MOST_BYTES = 4_000_000_000
"""The limit of a decompressed archive, headers included: a small archive may grow without end."""

_LEVEL = 3
_BLOCK = 512
_RESTORE = "restore that key of the store from a backup"


def pack(files: Iterable[tuple[SourceFile, bytes]]) -> bytes:
    """The files as one archive: equal files give equal bytes, in any order."""
    raw = io.BytesIO()
    for file, body in sorted(files, key=lambda pair: pair[0].path):
        info = tarfile.TarInfo(file.path)
        info.mode = file.mode & 0o777
        content = b"" if file.mode == SYMLINK else body
        info.size = len(content)
        if file.mode == SYMLINK:
            info.type, info.linkname = tarfile.SYMTYPE, body.decode()
        raw.write(info.tobuf(tarfile.PAX_FORMAT))
        raw.write(content)
        raw.write(bytes(-len(content) % _BLOCK))
    raw.write(bytes(2 * _BLOCK))
    # One thread: with several, their number decides how the input is cut.
    return zstandard.ZstdCompressor(level=_LEVEL, threads=0).compress(raw.getbuffer())


def read_archive(
    archive: bytes, sha: str, keep: Callable[[str, int], bool] = lambda _path, _size: False
) -> tuple[SourceTree, dict[str, bytes]]:
    """The tree in an archive, and the content of each file for which ``keep(path, size in bytes)`` is true.

    Writes nothing to disk. Raises ``KitaruIntegrityError`` if the archive can't be read, or its digest is not ``sha``.
    """
    files: list[SourceFile] = []
    kept: dict[str, bytes] = {}
    for file, body in _members(archive, sha):
        files.append(file)
        if keep(file.path, file.size):
            kept[file.path] = body
    return _verified(files, sha), kept


def unpack(archive: bytes, sha: str, into: Path) -> None:
    """Unpack into the folder ``into``, which appears whole or not at all; a folder that exists stays as it is.

    Raises ``KitaruIntegrityError`` if the archive is damaged, holds anything but plain files and symlinks inside the
    tree, grows beyond ``MOST_BYTES``, or has another digest; ``KitaruBackendError`` if the folder can't be written.
    """
    temporary = into.parent / f".new-{secrets.token_hex(8)}"
    files: list[SourceFile] = []
    links: dict[str, str] = {}
    made: set[str] = set()
    try:
        temporary.mkdir(parents=True)
        for file, body in _members(archive, sha):
            files.append(file)
            above = file.path.rpartition("/")[0]
            if above not in made:
                (temporary / above).mkdir(parents=True, exist_ok=True)
                made.add(above)
            if file.mode == SYMLINK:
                links[file.path] = os.fsdecode(body)
            else:
                _write(f"{temporary}/{file.path}", body, file.mode & 0o777)
        _verified(files, sha)
        # Symlinks come last, so that no file is written through one.
        for path, target in links.items():
            if reason := bad_link(path, links):
                raise KitaruIntegrityError(f"the source archive holds a symlink at {path!r}: {reason}")
            (temporary / path).symlink_to(target)
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


def _write(path: str, body: bytes, mode: int) -> None:
    # O_EXCL: two names that are equal for the file system (letter case) are an error.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(body)
        os.fchmod(descriptor, mode)


def _members(archive: bytes, sha: str) -> Iterator[tuple[SourceFile, bytes]]:
    """Every file of an archive with its content. Raises ``KitaruIntegrityError`` for anything that no tree can hold."""
    files: set[str] = set()
    folders: set[str] = set()
    try:
        if zstandard.frame_content_size(archive) > MOST_BYTES:
            raise KitaruIntegrityError("the source archive holds more than it may when decompressed")
        plain = zstandard.ZstdDecompressor().decompress(archive, allow_extra_data=False)
        with tarfile.open(fileobj=io.BytesIO(plain), mode="r:", encoding="utf-8") as tar:
            for member in tar:
                path = member.name
                if reason := _flaw(member, files, folders):
                    raise KitaruIntegrityError(f"the source archive holds {path!r}: {reason}")
                files.add(path)
                folders.update(path[:at] for at, letter in enumerate(path) if letter == "/")
                content = tar.extractfile(member) if member.isreg() else None
                body = content.read() if content is not None else os.fsencode(member.linkname)
                if member.isreg() and len(body) != member.size:
                    raise KitaruIntegrityError(f"the source archive ends inside {path!r}")
                mode = SYMLINK if member.issym() else EXECUTABLE if member.mode & 0o100 else FILE
                yield SourceFile.model_construct(path=path, mode=mode, size=len(body), sha256=digest(body)), body
    except (tarfile.TarError, zstandard.ZstdError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise KitaruIntegrityError(f"the source archive of {sha[:12]} can't be read: {error}", hint=_RESTORE) from error


def _flaw(member: tarfile.TarInfo, files: set[str], folders: set[str]) -> str | None:
    """The reason why a source tree can't hold ``member``; None if it can."""
    path = member.name
    if member.type not in (tarfile.REGTYPE, tarfile.SYMTYPE) or member.sparse is not None:
        return "it is no plain file"
    if path in files:
        return "it is there twice"
    if path in folders or any(path[:at] in files for at, letter in enumerate(path) if letter == "/"):
        return "it is a file and a folder"
    return bad_path(path) or (bad_path(member.linkname.replace("/", "_")) if member.issym() else None)


def _verified(files: Iterable[SourceFile], sha: str) -> SourceTree:
    tree = SourceTree.model_construct(files=tuple(files))
    if tree_digest(tree) != sha:
        message = f"the source archive of {sha[:12]} holds another tree than that digest names"
        raise KitaruIntegrityError(message, hint=_RESTORE)
    return tree
