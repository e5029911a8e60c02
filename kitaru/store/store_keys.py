"""What a key may look like: one rule for every backend, so that a project can move from one to another."""

from __future__ import annotations

from kitaru.errors import KitaruStoreError, KitaruUsageError
from kitaru.model.pieces import Body

TEMPORARY = ".kitaru-tmp."
"""How the name of a private, unfinished file begins; no key may use it."""

LONGEST_KEY = 900
"""In bytes of UTF-8. S3 takes 1,024; the rest is left to the prefix of the store."""

LONGEST_SEGMENT = 255
"""In bytes of UTF-8: what Linux file systems take."""


def check_key(key: str) -> None:
    """Raise ``KitaruUsageError`` for what can't be a key, ``KitaruStoreError`` for one that is too long."""
    if not key.isprintable():
        raise KitaruUsageError(
            f"{key!r} is not a key: it holds control characters or others that can't be printed",
            hint="use letters, digits, '-', '_' and '.', with '/' between the parts",
        )
    for segment in key.split("/"):
        if segment in ("", ".", "..") or segment.startswith(TEMPORARY):
            raise KitaruUsageError(
                f"{key!r} is not a key: {segment!r} can't be a part of one",
                hint="a key is relative, and has a name on each side of every '/'",
            )
    # Most keys are short; only the others are worth encoding and measuring part by part.
    if len(key) * 4 > LONGEST_SEGMENT:
        _check_length(key)


def check_prefix(prefix: str) -> None:
    """The same for a prefix: empty (the root of the store), or a key with ``/`` behind it."""
    if prefix == "":
        return
    if not prefix.endswith("/"):
        raise KitaruUsageError(f"{prefix!r} is not a prefix: it must end with '/'", hint=f"say {prefix + '/'!r}")
    check_key(prefix[:-1])


def check_body(key: str, body: Body) -> None:
    """Raise ``KitaruUsageError`` for an empty body: some object stores can't tell it from none."""
    if not body:
        raise KitaruUsageError(f"nothing to store under {key!r}: the body is empty", hint="store at least one byte")


def _check_length(key: str) -> None:
    if len(key.encode()) > LONGEST_KEY:
        raise KitaruStoreError(
            f"the key {key[:60]!r}… is longer than {LONGEST_KEY} bytes", hint="use shorter project, flow or tag names"
        )
    for segment in key.split("/"):
        if len(segment.encode()) > LONGEST_SEGMENT:
            raise KitaruStoreError(
                f"a part of the key {key[:60]!r}… is longer than {LONGEST_SEGMENT} bytes",
                hint="use shorter project, flow or tag names",
            )
