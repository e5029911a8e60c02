"""Does a store of unknown make keep the one promise that everything rests on? Ask it.

Many servers that speak S3 ignore ``If-None-Match``, and some heed it but lose races, so it is asked in both ways.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from kitaru.errors import KitaruStoreError
from kitaru.model import address
from kitaru.ports import Created, Store, Taken

RACERS = 8
RACES = 20
TEAMS = 5
"""So many races are run at once."""

_HINT = (
    "this store can't hold a project: use AWS S3, another server with atomic `If-None-Match: *` on PutObject "
    "(SeaweedFS from 4.17, Ceph RGW), or a file:// store"
)


def check_store(store: Store) -> None:
    """Raise ``KitaruStoreError`` where two writers can both create one key, or where what is read is not what was won.

    Writes a few keys outside every project and removes them. Takes 1 + 20 x 8 creates; a store that passes may still
    lose a race that is rarer than that.
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
        # Tasks begin in order and the workers are whole teams, so a racer's team always comes.
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
