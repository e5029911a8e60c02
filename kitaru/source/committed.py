"""Whether a file's bytes are those that a commit has of it, whatever Git's index was told not to look at.

``git status`` says nothing of a file that is ignored, marked ``assume-unchanged`` or ``skip-worktree``. For a source
that makes no difference, since it is taken from the commit; a manifest is read where it lies.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from kitaru.errors import KitaruSourceError
from kitaru.source import git_process


def is_committed(root: Path, name: str, blob: str) -> bool:
    """Whether the file ``name`` of the folder ``root`` has the content of Git's ``blob`` ("": the commit has none).

    No ``git`` runs for equal bytes; one does for others, which may be equal by Git's own filters (line endings). A
    symlink counts by what it leads to, as well.
    """
    path = root / name
    if path.is_symlink():
        return _is_object(os.fsencode(path.readlink()), blob) and _leads_to_committed(root, path)
    try:
        body = path.read_bytes()
    except FileNotFoundError:
        return not blob
    except OSError:
        return False
    return bool(blob) and (_is_object(body, blob) or _filtered(root, name) == blob)


def _leads_to_committed(root: Path, path: Path) -> bool:
    real = path.resolve()
    # Git takes ../ in such a path, and refuses one that leads out of the repository.
    place = Path(os.path.relpath(real, root.resolve())).as_posix()
    try:
        blob = git_process.run(root, "rev-parse", "--verify", "-q", f"HEAD:./{place}").decode().strip()
    except KitaruSourceError:
        return False
    return is_committed(real.parent, real.name, blob)


def _is_object(body: bytes, blob: str) -> bool:
    kind = hashlib.sha256 if len(blob) == 64 else hashlib.sha1
    return kind(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest() == blob


def _filtered(folder: Path, name: str) -> str:
    """Git's id of the file as a commit would hold it; empty where it can't tell."""
    try:
        return git_process.run(folder, "hash-object", "--", name).decode().strip()
    except KitaruSourceError:
        return ""
