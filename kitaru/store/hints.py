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


def leave(store: Store, key: str, body: Body = MARK, *, durable: bool = True) -> bool:
    """Write a hint; False if the store refused it."""
    with suppress(KitaruStoreError):
        store.overwrite(key, body, durable=durable)
        return True
    return False


def remove(store: Store, *keys: str) -> None:
    """Remove hints, in this order. Raises ``KitaruStoreError``."""
    for key in keys:
        store.remove(key)


def drop(store: Store, *keys: str) -> bool:
    """Remove hints, in this order; False if the store refused one."""
    with suppress(KitaruStoreError):
        remove(store, *keys)
        return True
    return False
