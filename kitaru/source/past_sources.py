"""What an earlier version was made of: its source archive, read in memory, and what Git says of its commit."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable
from pathlib import Path

import zstandard

from kitaru.errors import KitaruIntegrityError, KitaruSourceError
from kitaru.model.snapshot import SourceFile, SourceTree
from kitaru.source import git_process
from kitaru.source.bundle import MOST_BYTES, Bounded
from kitaru.source.listing import EXECUTABLE, FILE, SYMLINK, tree_digest

_CHUNK = 1 << 20
_BLOCK_HEADER, _CHECKSUM = 3, 4
"""Bytes, in a zstd frame (RFC 8878)."""
_REPEATED = 1


def read_archive(
    archive: bytes, sha: str, keep: Callable[[str, int], bool] = lambda _path, _size: False
) -> tuple[SourceTree, dict[str, bytes]]:
    """The tree that an archive holds, and the content of those files that ``keep`` (path, size in bytes) wants.

    Nothing is written to disk. Raises ``KitaruIntegrityError`` for an archive that can't be read, or that is not the
    tree whose digest is ``sha``.
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
    """Where the first zstd frame of an archive that was decompressed ends; the decompressor does not tell."""
    position = zstandard.frame_header_size(archive)
    last = False
    while not last:
        header = int.from_bytes(archive[position : position + _BLOCK_HEADER], "little")
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        # A block of one repeated byte says how often; that is no length of its own.
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
    """``author``, ``email``, ``date`` (RFC 3339) and ``subject`` of a commit; None where no repository here has it."""
    try:
        answer = git_process.run(
            folder, "show", "-s", "--no-show-signature", "--format=%an%x00%ae%x00%aI%x00%s", f"{sha}^{{commit}}", "--"
        )
    except KitaruSourceError:
        return None
    author, email, date, subject = answer.decode("utf-8", "replace").rstrip("\n").split("\0")[:4]
    return {"author": author, "email": email, "date": date, "subject": subject}
