"""The folder that an execution runs in: a source tree, unpacked once and verified each time.

``bundle`` does the unpacking. What is here looks at a tree that lies there already, which is what nearly every worker
finds, and needs none of bundle's libraries for it: they would be half of the worker's start.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from kitaru.model.address import canonical_json, digest
from kitaru.source.local_use import hold

COMPILED = "__pycache__"


def ensure_source(cache: Path, sha: str, fetch: Callable[[], bytes]) -> Path:
    """A folder that holds the source tree of that digest, verified now; ``fetch`` is called only where there is none.

    Raises what ``bundle.ensure_unpacked`` raises.
    """
    folder = cache / sha
    # Until the process ends: whoever asks for a source runs it, or imports from it.
    hold(folder)
    if holds_tree(folder, sha):
        return folder
    # zstandard, tarfile and pydantic: 130 ms, and needed once for each source on each machine.
    from kitaru.source.bundle import ensure_unpacked

    return ensure_unpacked(cache, sha, fetch)


def holds_tree(folder: Path, sha: str) -> bool:
    """Whether ``folder`` holds exactly that tree: every path, mode and content. What Python compiled does not count."""
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
                if entry.name != COMPILED:
                    yield from _listing(entry.path, path + "/")
            elif entry.is_symlink():
                target = str(Path(entry.path).readlink())
                yield [path, "120000", hashlib.sha256(os.fsencode(target)).hexdigest()]
            elif not entry.name.endswith(".pyc"):
                mode = entry.stat(follow_symlinks=False).st_mode
                # Anything but a plain file gets a listing that no tree has; reading a pipe would not end.
                body = Path(entry.path).read_bytes() if stat.S_ISREG(mode) else b""
                kind = ("100755" if mode & stat.S_IXUSR else "100644") if stat.S_ISREG(mode) else "0"
                yield [path, kind, hashlib.sha256(body).hexdigest()]
