"""What manifests were found to say before, by the digest of their bytes: a script that runs a flow needs no model.

Best effort throughout: a cache that is damaged, unwritable or gone costs time at the next load, and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

from kitaru._version import __version__

CACHE_FORMAT = 4
"""Raise it when the meaning of a cached manifest changes within one version of Kitaru."""

CACHE_ENTRIES = 64


def manifest_digest(body: bytes, target: str | None) -> str:
    """The SHA-256 of a manifest's bytes and the overlay that is put over it."""
    choice = b"" if target is None else b"\0" + target.encode("utf-8", "surrogatepass")
    return hashlib.sha256(body + choice).hexdigest()


def cache_entry(cache: Path, digest: str) -> Path:
    """Where the manifest of that digest is remembered."""
    key = hashlib.sha256(f"{digest}\n{__version__}\n{CACHE_FORMAT}".encode()).hexdigest()
    return cache / f"manifest-{key}.json"


def remembered(path: Path, target: str | None, cache: Path) -> dict[str, Any] | None:
    """The manifest at ``path`` with its overlay as JSON data, defaults left out; None where it was not read before."""
    try:
        body = read_entry(cache_entry(cache, manifest_digest(path.read_bytes(), target)))
        found = None if body is None else json.loads(body)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "project" in found else None


def read_entry(entry: Path) -> bytes | None:
    """The JSON of a valid manifest as it was written there; None where nothing or something else is."""
    try:
        checksum, _, body = entry.read_bytes().partition(b"\n")
    except OSError:
        return None
    return body if hashlib.sha256(body).hexdigest().encode() == checksum else None


def write_entry(entry: Path, body: bytes) -> None:
    """Remember the JSON of a valid manifest, and forget the oldest of too many."""
    with contextlib.suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        _forget_oldest(entry.parent)
        # not tempfile, which costs 10 ms to import
        temporary = entry.with_name(f".{entry.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            temporary.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
            temporary.replace(entry)
        except OSError:
            temporary.unlink(missing_ok=True)


def _forget_oldest(cache: Path) -> None:
    entries = sorted(cache.glob("manifest-*.json"), key=lambda entry: entry.stat().st_mtime)
    for entry in entries[: max(0, len(entries) - CACHE_ENTRIES + 1)]:
        entry.unlink(missing_ok=True)
