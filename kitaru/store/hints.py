"""Hints: keys that save time and may be lost, stale or unreadable. Nothing that is trusted is written here.

Objects and logs are the truth; a reader that misses a hint reads those.
"""

from __future__ import annotations

from contextlib import suppress

from kitaru.errors import KitaruStoreError
from kitaru.model.pieces import Body
from kitaru.store.port import Store

MARK = b"{}\n"
"""The body of a hint whose key says everything."""


def write(store: Store, key: str, body: Body = MARK, *, durable: bool = True) -> None:
    """Write a hint. Raises ``KitaruStoreError``: for a caller that must know."""
    store.overwrite(key, body, durable=durable)


def leave(store: Store, key: str, body: Body = MARK, *, durable: bool = True) -> bool:
    """Write a hint; False if the store refused it."""
    with suppress(KitaruStoreError):
        store.overwrite(key, body, durable=durable)
        return True
    return False


def remove(store: Store, *keys: str) -> None:
    """Remove hints that are no longer true, in this order. Raises ``KitaruStoreError``."""
    for key in keys:
        store.remove(key)


def drop(store: Store, *keys: str) -> bool:
    """The same; False if the store refused one."""
    with suppress(KitaruStoreError):
        remove(store, *keys)
        return True
    return False
