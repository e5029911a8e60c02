"""Source trees as folders of this machine's cache, verified before each use."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from kitaru.local_cache import hold
from kitaru.model.address import canonical_json, digest

COPIES = 8


def ensure_source(cache: Path, sha: str, fetch: Callable[[], bytes]) -> Path:
    """A folder with the source tree of digest ``sha``, verified now; ``fetch`` gives the archive if there is none.

    A changed folder stays as it is (a run may use it), and another copy is made beside it. Raises
    ``KitaruIntegrityError`` and ``KitaruBackendError`` as ``bundle.unpack`` does.
    """
    # Until the process ends: it runs the source, or imports from it.
    hold(cache / sha)
    for name in (sha, *(f"{sha}.{number}" for number in range(1, COPIES)), f"{sha}.{secrets.token_hex(8)}"):
        folder = cache / name
        if not folder.exists():
            # zstandard, tarfile and pydantic: 130 ms, and needed once for each source on each machine.
            from kitaru.source.bundle import unpack

            unpack(fetch(), sha, folder)
        if holds_tree(folder, sha):
            break
    return folder


def holds_tree(folder: Path, sha: str) -> bool:
    """Whether ``folder`` holds exactly that tree: every path, mode and content."""
    try:
        return digest(canonical_json(sorted(_listing(str(folder), "")))) == sha
    except (OSError, UnicodeEncodeError):
        return False


def _listing(folder: str, prefix: str) -> Iterator[list[str]]:
    """Path, mode in octal and SHA-256 of every file, as in ``SourceTree.listing``."""
    with os.scandir(folder) as entries:
        for entry in entries:
            path = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _listing(entry.path, path + "/")
            elif entry.is_symlink():
                target = str(Path(entry.path).readlink())
                yield [path, "120000", hashlib.sha256(os.fsencode(target)).hexdigest()]
            else:
                mode = entry.stat(follow_symlinks=False).st_mode
                # Anything but a plain file gets a listing that no tree has; reading a pipe would not end.
                body = Path(entry.path).read_bytes() if stat.S_ISREG(mode) else b""
                kind = ("100755" if mode & stat.S_IXUSR else "100644") if stat.S_ISREG(mode) else "0"
                yield [path, kind, hashlib.sha256(body).hexdigest()]
