"""Small files that only save time: written whole or not at all, and checked when read, so that damage is a miss."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

_SUM_SIZE = 64


def read_entry(path: Path) -> bytes | None:
    """The body kept at ``path``; None where there is none, or where it is not what was written."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    checksum, body = content[:_SUM_SIZE], content[_SUM_SIZE + 1 :]
    return body if checksum == hashlib.sha256(body).hexdigest().encode() else None


def write_entry(path: Path, body: bytes) -> None:
    """Keep ``body`` at ``path``. Where the cache can't be written (read-only, full), the next reader misses."""
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        Path(temporary).replace(path)
    except OSError:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
