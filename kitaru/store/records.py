"""Nouns in the store: written once under their digest, read back verified."""

from __future__ import annotations

import json
from typing import TypeVar

from pydantic import ValidationError

from kitaru.errors import KitaruIntegrityError, KitaruStoreFormatError
from kitaru.model import address
from kitaru.model.lockfile import VersionTable
from kitaru.model.noun import Noun
from kitaru.model.snapshot import Snapshot
from kitaru.ports import Store

AnyNoun = TypeVar("AnyNoun", bound=Noun)

DAMAGED = "the store is damaged there: restore that key from a backup"
FORMATS = 1


def parse(cls: type[AnyNoun], body: bytes, where: str) -> AnyNoun:
    """``body`` as a noun of that class; ``where`` names its key in errors.

    Raises ``KitaruStoreFormatError`` for a newer format and ``KitaruIntegrityError`` for anything else that is wrong.
    """
    try:
        return cls.parse(body)
    except ValidationError as error:
        _refuse_newer(body, where)
        raise KitaruIntegrityError(f"{where} can't be read as a {cls.__name__.lower()}", hint=DAMAGED) from error


def _refuse_newer(body: bytes, where: str) -> None:
    try:
        found = json.loads(body).get("format")
    except (ValueError, AttributeError, RecursionError):
        return
    if isinstance(found, int) and found > FORMATS:
        raise KitaruStoreFormatError(
            f"{where} was written in format {found}; this release knows formats up to {FORMATS}",
            hint="upgrade: pip install --upgrade kitaru",
        )


def read_object(store: Store, project: str, sha: str, what: str) -> bytes:
    """The object of that digest, verified. ``what`` names it in errors: ``snapshot of research_agent v2``."""
    key = address.blob(project, sha)
    body = store.read(key)
    if body is None:
        raise KitaruIntegrityError(f"the {what} is missing from the store ({key})", hint=DAMAGED)
    if address.digest(body) != sha:
        _refuse_newer(body, key)
        raise KitaruIntegrityError(f"the {what} is not what its digest says ({key})", hint=DAMAGED)
    return body


def read_snapshot(store: Store, project: str, sha: str, flow: str) -> Snapshot:
    """The snapshot of that digest."""
    what = f"snapshot {address.short(sha)} of {flow}"
    return parse(Snapshot, read_object(store, project, sha, what), what)


def read_table(store: Store, project: str, sha: str, flow: str) -> VersionTable:
    """The version table of that digest."""
    what = f"version table of {flow}"
    return parse(VersionTable, read_object(store, project, sha, what), what)


def write_object(store: Store, project: str, body: bytes) -> str:
    """Store ``body`` under its own digest, which is returned. Storing it twice is storing it once."""
    sha = address.digest(body)
    store.create(address.blob(project, sha), body)
    return sha
