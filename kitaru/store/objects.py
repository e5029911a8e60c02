"""Nouns in the store: written once under their digest, read back verified."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import ValidationError

from kitaru.errors import KitaruError, KitaruIntegrityError, KitaruStoreFormatError
from kitaru.model import address
from kitaru.model.lockfile import VersionTable
from kitaru.model.noun import Noun
from kitaru.model.pieces import Body
from kitaru.model.snapshot import Snapshot
from kitaru.store.port import Created, Store

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


def get_object(store: Store, project: str, sha: str, what: str) -> bytes:
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
    return parse(Snapshot, get_object(store, project, sha, what), what)


def read_table(store: Store, project: str, sha: str, flow: str) -> VersionTable:
    """The version table of that digest."""
    what = f"version table of {flow}"
    return parse(VersionTable, get_object(store, project, sha, what), what)


def put_object(store: Store, project: str, body: bytes) -> str:
    """Store ``body`` under its own digest, which is returned. Storing it twice is storing it once."""
    sha = address.digest(body)
    store.create(address.blob(project, sha), body)
    return sha


@dataclass(frozen=True, slots=True)
class Borrowed:
    """What one commit relies on that was there before. Its methods may be called from several threads."""

    store: Store
    project: str
    _objects: dict[str, bytes] = field(default_factory=dict)
    _archives: dict[str, Callable[[], bytes]] = field(default_factory=dict)

    def store_object(self, body: bytes, *, kept: bool = False) -> str:
        """Store ``body`` under its digest, which is returned. ``kept``: the state that is built upon needs it too."""
        sha = address.digest(body)
        key = address.blob(self.project, sha)
        if was_there(self.store, key, body) and not kept:
            self.store.overwrite(key, body)
            self._objects[key] = body
        return sha

    def rely_on_archive(self, sha: str, listing: bytes, archive: Callable[[], bytes]) -> None:
        """The archive of the source ``sha`` is there. Its listing is made young, and stands for the two of them."""
        key = address.blob(self.project, sha)
        self.store.overwrite(key, listing)
        self._objects[key] = listing
        self._archives[address.source_archive(self.project, sha)] = archive

    def settle(self) -> None:
        """After the commit: put back what was removed between the look and the commit. One request for each."""
        for key, archive in self._archives.items():
            with suppress(KitaruError):
                folder, _, name = key.rpartition("/")
                if name not in self.store.names(f"{folder}/"):
                    self.store.create(key, archive())
        for key, body in self._objects.items():
            with suppress(KitaruError):
                self.store.create(key, body)


def was_there(store: Store, key: str, body: Body) -> bool:
    """Create ``key``; whether it may have been there already, with these bytes or, being damaged, with others."""
    outcome = store.create(key, body)
    return not isinstance(outcome, Created) or outcome.found
