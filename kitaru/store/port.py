"""The contract of a store: bytes under keys, and one conditional write, ``create``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from kitaru.errors import KitaruStoreError, KitaruUsageError
from kitaru.model.pieces import Body

TEMPORARY = ".kitaru-tmp."
"""The start of the name of a private, unfinished file; no key may use it."""

LONGEST_KEY = 900
"""In bytes of UTF-8. S3 takes 1,024; the rest is left to the prefix of the store."""

LONGEST_SEGMENT = 255
"""In bytes of UTF-8: the limit of Linux file systems."""


@dataclass(frozen=True, slots=True)
class Created:
    """The bytes are stored under the key, durably. ``found``: equal bytes may have been there before."""

    found: bool = field(default=False, compare=False, kw_only=True)


class Taken(NamedTuple):
    """The key already held other bytes, ``existing``. Nothing was written."""

    existing: bytes


class Listed(NamedTuple):
    """A key with its body's size in bytes, and its last write by the clock of the store, in UTC."""

    key: str
    size: int
    modified: datetime


class Store(Protocol):
    """Bytes under keys. A key is ``/``-separated, relative to the store's root, and never begins with ``/``.

    Promises, held by one contract suite against every backend:

    * A read after a completed ``create`` or ``overwrite`` sees it, from any process.
    * A reader never sees part of a body: the whole of it, or nothing.
    * A body in pieces is stored as the bytes that it stands for, without a copy of the whole.
    * A failure of the outside world raises ``KitaruStoreError`` with a hint, within seconds if nothing answers, and
      leaves no partial key behind.
    * Every method may be called from several threads at once.
    """

    url: str
    """The store's address as the user wrote it, without credentials: ``s3://bucket/prefix``."""

    durable_across_processes: bool
    """False for a store inside this process (``memory://``)."""

    def read(self, key: str) -> bytes | None:
        """The bytes under ``key``; None if there is no such key. One request."""
        ...

    def create(self, key: str, body: Body) -> Created | Taken:
        """Store ``body`` under ``key`` if the key is free: of all racing callers exactly one gets ``Created``.

        Durable on return. If the backend's reply is lost, the key is read back: equal bytes count as ``Created``. A
        caller that must tell its bytes from another's puts a unique write id into them. One request if nothing goes
        wrong. ``body`` is never empty.
        """
        ...

    def overwrite(self, key: str, body: Body, *, durable: bool = True) -> None:
        """Store ``body`` under ``key``, free or not.

        For hints, and to make an object young again by its own bytes. Without ``durable`` a loss of power may lose it
        or leave an empty body.
        """
        ...

    def names(self, prefix: str, *, after: str = "") -> list[str]:
        """The names directly below ``prefix`` (a key that ends with ``/``), sorted, those greater than ``after`` only.

        A name with keys below it ends with ``/``, and is compared without it. An unused prefix gives an empty list.
        """
        ...

    def listed(self, prefix: str) -> Iterator[Listed]:
        """Every key below ``prefix``, however deep, in no order; one request for each thousand at most.

        Keys that exist from the beginning to the end of the walk are among them; others may be.
        """
        ...

    def remove(self, key: str) -> None:
        """Remove ``key``; a missing one is no error. Never called for a log entry."""
        ...


def check_key(key: str) -> None:
    """Raise ``KitaruUsageError`` for an impossible key, ``KitaruStoreError`` for one that is too long."""
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
        parts = [("a part of the key", part, LONGEST_SEGMENT) for part in key.split("/")]
        for name, text, most in (("the key", key, LONGEST_KEY), *parts):
            if len(text.encode()) > most:
                message = f"{name} {text[:60]!r}… is longer than {most} bytes"
                raise KitaruStoreError(message, hint="use shorter project, flow or tag names")


def check_prefix(prefix: str) -> None:
    """As ``check_key`` for a prefix: empty (the root of the store), or a key and ``/``: ``research/lock/``."""
    if prefix == "":
        return
    if not prefix.endswith("/"):
        raise KitaruUsageError(f"{prefix!r} is not a prefix: it must end with '/'", hint=f"write {prefix + '/'!r}")
    check_key(prefix[:-1])


def check_body(key: str, body: Body) -> None:
    """Raise ``KitaruUsageError`` for an empty body: some object stores can't tell it from none."""
    if not body:
        raise KitaruUsageError(f"nothing to store under {key!r}: the body is empty", hint="store at least one byte")
