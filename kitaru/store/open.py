"""Opens stores by address, and checks that a store keeps its main promise, the atomic create.

Many S3-compatible servers ignore ``If-None-Match``, and some lose races, so both are tested.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from kitaru.errors import KitaruStoreError, KitaruUsageError
from kitaru.model import address
from kitaru.store.local import LocalStore
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
        _check_second_create(store, keys[0])
        _check_races(store, keys[1:])
    finally:
        with suppress(KitaruStoreError), ThreadPoolExecutor(RACERS) as pool:
            list(pool.map(store.remove, keys))


def _check_second_create(store: Store, key: str) -> None:
    first, second = b"first " + key.encode(), b"second " + key.encode()
    if store.create(key, first) != Created():
        raise KitaruStoreError(f"the store {store.url} says that a new key is taken", hint=_HINT)
    again = store.create(key, second)
    if again != Taken(first):
        did = (
            "overwrites a key that exists" if isinstance(again, Created) else "gives back other bytes than it was given"
        )
        raise KitaruStoreError(f"the store {store.url} {did} when asked to create it", hint=_HINT)
    if store.read(key) != first:
        raise KitaruStoreError(f"the store {store.url} does not give back what was written to it", hint=_HINT)


def _check_races(store: Store, keys: list[str]) -> None:
    starts = [threading.Barrier(RACERS) for _ in keys]

    def race(task: int) -> bool:
        number, racer = divmod(task, RACERS)
        # Tasks begin in order and the workers are whole teams, so all racers for a key come.
        with suppress(threading.BrokenBarrierError):
            starts[number].wait(timeout=10)
        return store.create(keys[number], _entry(racer, keys[number])) == Created()

    # Several keys at once: some servers keep the racers for one key waiting for seconds.
    with ThreadPoolExecutor(RACERS * TEAMS) as pool:
        won = list(pool.map(race, range(len(keys) * RACERS)))
    for number, key in enumerate(keys):
        winners = [racer for racer in range(RACERS) if won[number * RACERS + racer]]
        if len(winners) != 1:
            raise KitaruStoreError(
                f"the store {store.url} let {len(winners)} of {RACERS} racing writers create one key", hint=_HINT
            )
        if store.read(key) != _entry(winners[0], key):
            raise KitaruStoreError(f"the store {store.url} does not hold what the winner of a race wrote", hint=_HINT)


def _entry(racer: int, key: str) -> bytes:
    return f"{racer} {key}".encode()


_KNOWN = "a store is a folder (file://path), a bucket (s3://bucket/prefix), or memory:// for this process only"
_INSTEAD = {
    "http": "for an S3-compatible server write s3://bucket/prefix, and put the server's address into AWS_ENDPOINT_URL",
    "s3a": "write s3://bucket/prefix",
    "s3n": "write s3://bucket/prefix",
    "local": "write file://path",
    "gs": f"Google Cloud Storage has no adapter in this release; {_KNOWN}",
    "az": f"Azure Blob Storage has no adapter in this release; {_KNOWN}",
}
_INSTEAD.update(
    https=_INSTEAD["http"], gcs=_INSTEAD["gs"], abfs=_INSTEAD["az"], abfss=_INSTEAD["az"], adl=_INSTEAD["az"]
)


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
        return _open_s3("s3://" + rest, options)
    if options:
        raise KitaruUsageError(f"a {protocol}:// store takes no options: {', '.join(options)}", hint="remove them")
    if protocol == "memory":
        # fsspec takes 100 ms to import, s3fs 550: only the stores that need them import them.
        memory: Store = importlib.import_module("kitaru.store.memory").MemoryStore("memory://" + rest)
        return memory
    if protocol != "file":
        raise KitaruUsageError(f"Kitaru can't keep a store at {protocol}://", hint=_INSTEAD.get(protocol, _KNOWN))
    if not rest or "\0" in rest:
        raise KitaruUsageError(f"{url!r} names no folder for the store", hint="write file://path, or a path")
    return LocalStore(base / Path(rest).expanduser(), url)


def _open_s3(url: str, options: Mapping[str, Any] | None) -> Store:
    try:
        module = importlib.import_module("kitaru.store.s3")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("kitaru"):
            raise
        raise KitaruStoreError(
            f"a store at s3:// needs s3fs, and the module {error.name!r} is not installed",
            hint="pip install 's3fs>=2026.9'",
        ) from error
    store: Store = module.S3Store(url, _with_region(options or {}))
    return store


def _with_region(options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` with the region of AWS_REGION: botocore reads AWS_DEFAULT_REGION and AWS_ENDPOINT_URL alone."""
    region = os.environ.get("AWS_REGION")
    client = dict(options.get("client_kwargs", {}))
    if region:
        client.setdefault("region_name", region)
    return {**options, "client_kwargs": client}
