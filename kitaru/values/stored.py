"""Values in a store: inside a journal entry, or as objects of their own, each with its digest."""

from __future__ import annotations

import hashlib
from base64 import b64decode
from typing import Any

from kitaru.errors import KitaruIntegrityError
from kitaru.model import address
from kitaru.model.event import JSON_FORMATS, Value
from kitaru.store.objects import put_object
from kitaru.store.port import Store
from kitaru.values.codec import Encoded, decode, decode_plain
from kitaru.values.typed_json import json_bytes


def inline_fits(value: Value) -> bool:
    """Whether an inline value has the digest and the size beside it; True for one that is an object of its own.

    The bytes are made again as they were stored: at most a few dozen kilobytes.
    """
    if value.stored != "inline":
        return True
    try:
        body = _body(value)
        return value.size == len(body) and value.sha256 == hashlib.sha256(body).hexdigest()
    except (ValueError, TypeError, AttributeError, RecursionError):
        return False


def _body(value: Value) -> bytes:
    if value.format in JSON_FORMATS:
        return json_bytes(value.inline)
    if value.format == "text":
        return bytes(value.inline.encode())
    return b64decode(value.inline, validate=True)


def put(store: Store, project: str, encoded: Encoded) -> None:
    """Make the bytes durable if they are an object of their own. Must come before the event that names them."""
    if encoded.apart:
        put_object(store, project, encoded.body, sha=encoded.value.sha256)


def get(store: Store, project: str, value: Value, *, subject: str, home: str = "", checked: bool = False) -> Any:
    """The Python value. ``subject`` names it in errors; ``home``: the module of the code that made it.

    The bytes of an object are always verified; ``checked``: a value inside its journal entry too.
    """
    if checked:
        _must_fit(value, subject)
    return decode(value, _values_body(store, project, value), subject=subject, home=home)


def get_plain(store: Store, project: str, value: Value, *, subject: str, checked: bool = False) -> Any:
    """As ``get``, for a value in one of ``JSON_FORMATS``, as plain data without its types."""
    if checked:
        _must_fit(value, subject)
    return decode_plain(value, _values_body(store, project, value), subject=subject)


def _must_fit(value: Value, subject: str) -> None:
    if not inline_fits(value):
        raise KitaruIntegrityError(
            f"{subject} is not what the digest beside it says: its journal entry was changed",
            hint="kitaru store verify --deep names the entry; restore it from a backup",
        )


def _values_body(store: Store, project: str, value: Value) -> bytes | None:
    return store.read(address.blob(project, value.sha256)) if value.stored == "object" else None
