"""Values of an execution in the store: small ones inside their event, large ones as objects written before it."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from kitaru.errors import KitaruError, KitaruIntegrityError
from kitaru.model import address
from kitaru.model.event import Value
from kitaru.ports import Store
from kitaru.store.borrowing import was_there
from kitaru.values.codecs import Encoded, decode, decode_plain
from kitaru.values.inline_values import inline_fits

YOUNG_SECONDS = 1800.0
"""For how long an object that this process wrote counts as young. Collectors leave alone what is a day old."""

MOST_REMEMBERED = 4096
_written: dict[tuple[str, str], float] = {}
"""(store, key) → when this process wrote it, by its monotonic clock."""


def put(store: Store, project: str, encoded: Encoded) -> bool:
    """Make the bytes durable where they are an object of their own. Must come before the event that names them.

    True where somebody else had written them: they are young again now, and ``settle`` must follow the event.
    """
    if not encoded.apart:
        return False
    key = address.blob(project, encoded.value.sha256)
    found = was_there(store, key, encoded.body)
    # A flow often returns what its last checkpoint did, and a gigabyte is not written twice for that.
    others = found and time.monotonic() - _written.get((store.url, key), -YOUNG_SECONDS) >= YOUNG_SECONDS
    if others:
        store.overwrite(key, encoded.body)
    if not found or others:
        if len(_written) >= MOST_REMEMBERED:
            _written.clear()
        _written[store.url, key] = time.monotonic()
    return others


def settle(store: Store, project: str, encoded: Encoded) -> None:
    """After the event: put the bytes back, should a collector have removed them before it could see the event."""
    with suppress(KitaruError):
        store.create(address.blob(project, encoded.value.sha256), encoded.body)


def get(store: Store, project: str, value: Value, *, subject: str, home: str = "", checked: bool = False) -> Any:
    """The Python value. ``subject`` names it in errors; ``home``: the module of the code that made it.

    The bytes of an object are always verified; ``checked``: a value inside its journal entry too.
    """
    if checked:
        _must_fit(value, subject)
    return decode(value, _body(store, project, value), subject=subject, home=home)


def get_plain(store: Store, project: str, value: Value, *, subject: str, checked: bool = False) -> Any:
    """The same of a value in one of ``JSON_FORMATS``, as plain data: nobody needs its types."""
    if checked:
        _must_fit(value, subject)
    return decode_plain(value, _body(store, project, value), subject=subject)


def _must_fit(value: Value, subject: str) -> None:
    if not inline_fits(value):
        raise KitaruIntegrityError(
            f"{subject} is not what the digest beside it says: its journal entry was changed",
            hint="kitaru store verify --deep names the entry; restore it from a backup",
        )


def _body(store: Store, project: str, value: Value) -> bytes | None:
    return store.read(address.blob(project, value.sha256)) if value.stored == "object" else None
