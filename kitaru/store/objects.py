"""Objects in the store: written once under their digest, verified when read."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from kitaru.errors import KitaruIntegrityError, KitaruStoreFormatError
from kitaru.model import address
from kitaru.model.pieces import Body
from kitaru.store.port import Store, Taken

if TYPE_CHECKING:
    # Values are objects, too: a worker that stores some needs no pydantic.
    from kitaru.model.lockfile import VersionTable
    from kitaru.model.noun import Noun
    from kitaru.model.snapshot import Snapshot

AnyNoun = TypeVar("AnyNoun", bound="Noun")

DAMAGED = "the store is damaged there: restore that key from a backup"
FORMATS = 1


def parse(cls: type[AnyNoun], body: bytes, name: str) -> AnyNoun:
    """``body`` as a noun of that class; ``name`` stands for it in errors, its key for example.

    Raises ``KitaruStoreFormatError`` for a newer format and ``KitaruIntegrityError`` for any other invalid body.
    """
    try:
        return cls.parse(body)
    except ValueError as error:
        _refuse_newer(body, name)
        raise KitaruIntegrityError(f"{name} can't be read as a {cls.__name__.lower()}", hint=DAMAGED) from error


def _refuse_newer(body: bytes, name: str) -> None:
    try:
        found = json.loads(body).get("format")
    except (ValueError, AttributeError, RecursionError):
        return
    if isinstance(found, int) and found > FORMATS:
        raise KitaruStoreFormatError(
            f"{name} was written in format {found}; this release knows formats up to {FORMATS}",
            hint="install a newer Kitaru; kitaru version shows this one",
        )


def get_object(store: Store, project: str, sha: str, name: str) -> bytes:
    """The object of that digest, verified; ``name`` stands for it in errors: ``snapshot of research_agent v2``.

    Raises ``KitaruIntegrityError`` if it is missing or damaged, ``KitaruStoreFormatError`` for a newer format.
    """
    key = address.blob(project, sha)
    body = store.read(key)
    if body is None:
        raise KitaruIntegrityError(f"the {name} is missing from the store ({key})", hint=DAMAGED)
    if address.digest(body) != sha:
        _refuse_newer(body, key)
        raise KitaruIntegrityError(f"the {name} is not what its digest says ({key})", hint=DAMAGED)
    return body


def read_snapshot(store: Store, project: str, sha: str, flow: str) -> Snapshot:
    """The snapshot of that digest."""
    from kitaru.model.snapshot import Snapshot

    name = f"snapshot {address.short(sha)} of {flow}"
    return parse(Snapshot, get_object(store, project, sha, name), name)


def read_table(store: Store, project: str, sha: str, flow: str) -> VersionTable:
    """The version table of that digest."""
    from kitaru.model.lockfile import VersionTable

    name = f"version table of {flow}"
    return parse(VersionTable, get_object(store, project, sha, name), name)


YOUNG_SECONDS = 1800.0
"""For so long an object counts as young after this process wrote it. Collectors keep objects of up to an hour."""

MOST_REMEMBERED = 4096
_written: dict[tuple[str, str], float] = {}
"""(store, key) → the time of this process's write, by its monotonic clock."""

PAUSE_SECONDS = 0.05
COLLECTOR_SECONDS = 120.0
"""A collector is dead if its mark stands for so long: it removes for 20 seconds at most under one mark."""


def put_object(store: Store, project: str, body: Body, *, sha: str = "") -> str:
    """Store ``body`` under its digest, and return the digest. From then on it may be referred to.

    ``sha``: the digest, if the caller has it. An object that exists may be old and unreferenced: it is made young
    again, and created once more after the active collectors are through (a few seconds, unless one was killed). So a
    reference is never older than its object.
    """
    sha = sha or address.digest(bytes(body))
    key = address.blob(project, sha)
    outcome = store.create(key, body)
    if isinstance(outcome, Taken) or (outcome.found and not _is_young(store, key)):
        # Other bytes under a digest are damaged: replace them.
        store.overwrite(key, body)
        outwait_collectors(store, project)
        store.create(key, body)
    if len(_written) >= MOST_REMEMBERED:
        _written.clear()
    _written[store.url, key] = time.monotonic()
    return sha


def put_archive(store: Store, project: str, sha: str, listing: bytes, archive: Callable[[], bytes]) -> None:
    """Store a source tree: its ``listing`` under the digest ``sha``, then its archive, made only if it is missing.

    An archive in the store promises its listing, and is as young as that.
    """
    put_object(store, project, listing, sha=sha)
    if not has_archive(store, project, sha):
        store.create(address.source_archive(project, sha), archive())


def has_archive(store: Store, project: str, sha: str) -> bool:
    """Whether the store holds the archive of a source tree; the archive is not read."""
    folder, _, name = address.source_archive(project, sha).rpartition("/")
    return name in store.names(f"{folder}/")


def remove_object(store: Store, key: str) -> None:
    """Remove an object or an archive by its key. For a collector, under a mark in ``address.collecting``."""
    store.remove(key)


def outwait_collectors(store: Store, project: str) -> None:
    """Wait for the collectors that remove objects at this moment, and remove the marks of dead ones."""
    folder = address.collecting(project)
    marks = set(store.names(folder))
    since = time.monotonic()
    while marks and time.monotonic() - since < COLLECTOR_SECONDS:
        time.sleep(PAUSE_SECONDS)
        marks &= set(store.names(folder))
    for name in marks:
        store.remove(folder + name)


def _is_young(store: Store, key: str) -> bool:
    return time.monotonic() - _written.get((store.url, key), -YOUNG_SECONDS) < YOUNG_SECONDS
