"""Values of an execution in the store: small ones inside their event, large ones as objects written before it."""

from __future__ import annotations

from typing import Any

from kitaru.core.codecs import Encoded, decode
from kitaru.model import address
from kitaru.model.event import Value
from kitaru.ports import Store


def put(store: Store, project: str, encoded: Encoded) -> None:
    """Make the bytes durable where they are an object of their own. Must come before the event that names them."""
    if encoded.apart:
        store.create(address.blob(project, encoded.value.sha256), encoded.body)


def get(store: Store, project: str, value: Value, *, subject: str, home: str = "") -> Any:
    """The Python value. ``subject`` names it in errors; ``home``: the module of the code that made it."""
    body = store.read(address.blob(project, value.sha256)) if value.stored == "object" else None
    return decode(value, body, subject=subject, home=home)
