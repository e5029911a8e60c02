"""Hints: keys that save time and may be lost, stale or unreadable.

Objects and logs are the truth; a reader that misses a hint reads those.
"""

from __future__ import annotations

from contextlib import suppress

from kitaru.errors import KitaruStoreError
from kitaru.model.pieces import Body
from kitaru.store.port import Store

MARK = b"{}\n"
"""The body of a hint that needs only its key."""


def write(store: Store, key: str, body: Body = MARK, *, durable: bool = True) -> None:
    """Write a hint. Raises ``KitaruStoreError``."""
    store.overwrite(key, body, durable=durable)


def leave(store: Store, key: str, body: Body = MARK, *, durable: bool = True) -> None:
    """Write a hint, if the store takes it."""
    with suppress(KitaruStoreError):
        write(store, key, body, durable=durable)


def remove(store: Store, *keys: str) -> None:
    """Remove hints, in this order. Raises ``KitaruStoreError``."""
    for key in keys:
        store.remove(key)


def drop(store: Store, *keys: str) -> None:
    """Remove hints, in this order, up to one that the store refuses."""
    with suppress(KitaruStoreError):
        remove(store, *keys)
