"""Opens stores by address, and checks that a store keeps its main promise, the atomic create.

Many S3-compatible servers ignore ``If-None-Match``, and some lose races, so both are tested.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from kitaru.errors import KitaruStoreError, KitaruUsageError
from kitaru.model import address
from kitaru.store.appended import AppendingStore
from kitaru.store.memory import MemoryStore
from kitaru.store.port import Created, Store, Taken

RACERS = 8
RACES = 20
TEAMS = 5
"""The number of races at once."""

_HINT = (
    "this store can't hold a project: use AWS S3, another server with atomic `If-None-Match: *` on PutObject "
    "(SeaweedFS from 4.17, Ceph RGW), or a file:// store"
)


def check_store(store: Store) -> None:
    """Raise ``KitaruStoreError`` if two writers can both create one key, or if a read gives other bytes than it holds.

    Writes a few keys outside every project and removes them. Takes 2 + 20 x 8 creates; a store that passes may still
    lose rarer races.
    """
    token = os.urandom(8).hex()
    keys = [address.probe(f"{token}-{number:02d}") for number in range(RACES + 1)]
    try:
        problem = next(chain(_second_create(store, keys[0]), _races(store, keys[1:])), None)
        if problem is not None:
            raise KitaruStoreError(f"the store {store.url} {problem}", hint=_HINT)
    finally:
        with suppress(KitaruStoreError), ThreadPoolExecutor(RACERS) as pool:
            list(pool.map(store.remove, keys))


def _second_create(store: Store, key: str) -> Iterator[str]:
    """The faults of two creates of one key, one after the other."""
    first, second = b"first " + key.encode(), b"second " + key.encode()
    if store.create(key, first) != Created():
        yield "says that a new key is taken"
    again = store.create(key, second)
    if isinstance(again, Created):
        yield "overwrites a key that exists when asked to create it"
    elif again != Taken(first):
        yield "gives back other bytes than it was given when asked to create a key that exists"
    if store.read(key) != first:
        yield "does not give back what was written to it"


def _races(store: Store, keys: list[str]) -> Iterator[str]:
    """The faults of creates of one key at once."""
    starts = [threading.Barrier(RACERS) for _ in keys]

    def race(task: int) -> bool:
        number, racer = divmod(task, RACERS)
        # Tasks begin in order and the workers are whole teams, so all racers for a key come.
        with suppress(threading.BrokenBarrierError):
            starts[number].wait(timeout=10)
        return store.create(keys[number], f"{racer} {keys[number]}".encode()) == Created()

    # Several keys at once: some servers keep the racers for one key waiting for seconds.
    with ThreadPoolExecutor(RACERS * TEAMS) as pool:
        won = list(pool.map(race, range(len(keys) * RACERS)))
    for number, key in enumerate(keys):
        winners = [racer for racer in range(RACERS) if won[number * RACERS + racer]]
        if len(winners) != 1:
            yield f"let {len(winners)} of {RACERS} racing writers create one key"
        elif store.read(key) != f"{winners[0]} {key}".encode():
            yield "does not hold what the winner of a race wrote"


_KNOWN = "a store is a folder (file://path), a bucket (s3://bucket/prefix), or memory:// for this process only"
_SERVER = "for an S3-compatible server write s3://bucket/prefix, and put the server's address into AWS_ENDPOINT_URL"
_INSTEAD = {
    **dict.fromkeys(("http", "https"), _SERVER),
    **dict.fromkeys(("s3a", "s3n"), "write s3://bucket/prefix"),
    "local": "write file://path",
    **dict.fromkeys(("gs", "gcs"), f"Google Cloud Storage has no adapter in this release; {_KNOWN}"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), f"Azure Blob Storage has no adapter in this release; {_KNOWN}"),
}


def open_store(url: str, *, base: Path, options: Mapping[str, Any] | None = None) -> Store:
    """The store at ``url``; nothing is read, written or sent yet.

    ``url`` is ``file://path`` or a bare path, relative to ``base`` unless absolute; ``s3://bucket/prefix``; or
    ``memory://name``. ``options`` are those of the file system behind it: s3fs's for ``s3://``, none for the others.
    Raises ``KitaruUsageError`` for another protocol, ``KitaruStoreError`` if the adapter's library is not installed.
    """
    protocol, separator, rest = url.partition("://")
    if not separator or "/" in protocol:
        protocol, rest = "file", url
    protocol = protocol.lower()
    if "@" in rest.split("/")[0] and protocol != "file":
        raise KitaruUsageError(
            f"the {protocol}:// address of the store holds credentials",
            hint="leave them out of the address; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        )
    if protocol == "s3":
        # s3fs takes 550 ms to import: only the stores that need it import it.
        try:
            from kitaru.store.s3 import S3Store
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("kitaru"):
                raise
            raise KitaruStoreError(
                f"a store at s3:// needs s3fs, and the module {error.name!r} is not installed",
                hint="pip install 's3fs>=2026.9'",
            ) from error
        return S3Store("s3://" + rest, options)
    if options:
        raise KitaruUsageError(f"a {protocol}:// store takes no options: {', '.join(options)}", hint="remove them")
    if protocol == "memory":
        return MemoryStore("memory://" + rest)
    if protocol != "file":
        raise KitaruUsageError(f"Kitaru can't keep a store at {protocol}://", hint=_INSTEAD.get(protocol, _KNOWN))
    if not rest or "\0" in rest:
        raise KitaruUsageError(f"{url!r} names no folder for the store", hint="write file://path, or a path")
    return AppendingStore(base / Path(rest).expanduser(), url)
