"""Values to stored bytes and back, inside a journal entry or as objects of their own, each with its digest.

The first format that takes a value writes it: bytes and text raw, NumPy arrays and data frames in their own formats
once their library is loaded, everything else as readable JSON. Pickle is never chosen here; a checkpoint asks for it
with ``serializer="pickle"``.
"""

from __future__ import annotations

import json
import pickle
from base64 import b64decode, b64encode
from dataclasses import dataclass, replace
from typing import Any

from kitaru.errors import KitaruFeatureNotAvailableError, KitaruIntegrityError, KitaruValueError
from kitaru.model import address
from kitaru.model.event import JSON_FORMATS, Value
from kitaru.model.pieces import Body
from kitaru.store.objects import put_object
from kitaru.store.port import Store
from kitaru.values.digests import sha256_of
from kitaru.values.formats import BadFormat, Format, builtin_format, format_named, installed_format
from kitaru.values.typed_json import Unstorable, from_tree, is_plain, json_bytes, plain, to_tree, type_name

DAMAGED = "the store is damaged there: restore that key from a backup"

INLINE_LIMIT = 64 * 1024
"""The largest encoded value, in bytes, that travels inside its journal entry."""

_READABLE = frozenset({*JSON_FORMATS, "text"})


@dataclass(frozen=True, slots=True)
class Encoded:
    """A value ready to be stored: its record, its bytes, and whether those bytes must be stored as an object first."""

    value: Value
    body: Body

    @property
    def apart(self) -> bool:
        """Whether the bytes are an object of their own."""
        return self.value.stored == "object"

    def detached(self) -> Value:
        """The record, sharing no container with the value that was encoded."""
        value = self.value
        if value.format not in JSON_FORMATS or self.apart or not isinstance(value.inline, (dict, list)):
            return value
        return replace(value, inline=json.loads(bytes(self.body)))


def encode(
    value: Any,
    *,
    subject: str,
    serializer: str | None = None,
    inline_limit: int = INLINE_LIMIT,
    typed: bool = True,
    way_out: str = 'ask for pickle with @checkpoint(serializer="pickle").',
) -> Encoded:
    """``value`` in its stored form. ``subject`` names it in errors: ``the result of checkpoint collect``.

    ``way_out``: another way to store it, for an error's hint. ``typed`` False leaves out the type, for a value that
    does not fit its annotation. An inline record shares containers with ``value``. Raises ``KitaruValueError`` if the
    value can't be stored.
    """
    named = type_name(type(value)) if typed else ""
    form: Format | None = None
    unasked: tuple[str, ...] = ()
    try:
        return _encode(value, named, serializer, inline_limit)
    except Unstorable as error:
        form, unasked = installed_format(value)
        where = "" if error.kind is type(value) else f" holds a {type_name(error.kind)}, which"
        problem = f"{where} can't be stored: {error.advice}"
    except RecursionError:
        problem = " can't be stored: it contains itself, or is nested too deeply"
    except Exception as error:
        problem = f" can't be stored: {error}"
    if form is not None:  # not while an exception is handled: the traceback of one that fails would tell of that, too
        return _encode_added(form, value, named, inline_limit, subject)
    raise KitaruValueError(
        f"{subject} ({type_name(type(value))}){problem}",
        hint=f"Use JSON-like values, dataclasses, pydantic models, bytes, text, arrays or data frames; or {way_out}"
        + "".join(f"\nNot asked: {one}" for one in unasked),
    )


def decode(value: Value, body: Body | None, *, subject: str, home: str = "") -> Any:
    """The Python value. ``body`` is the object's bytes if the value is stored as one; they are verified.

    ``home`` is the module to search for classes recorded in ``__main__``. Raises ``KitaruIntegrityError`` for bytes
    with another digest, ``KitaruValueError`` if a type is gone or no longer fits.
    """
    whole = _verified(value, body, subject)
    try:
        return _decode(value, whole, home)
    except KitaruFeatureNotAvailableError:
        raise
    except BadFormat as error:
        raise KitaruValueError(
            f"{subject} was stored as {value.type} and can't be read back: {error}",
            hint="Mend that package, or install the release of it that wrote the value.",
        ) from error.__cause__
    except Exception as error:
        raise KitaruValueError(
            f"{subject} was stored as {value.type or value.format} and can't be read back: {error}",
            hint="Bring the recorded type back, or run the flow as a new execution.",
        ) from error


def decode_plain(value: Value, body: Body | None, *, subject: str) -> Any:
    """As ``decode``, for a value in one of ``JSON_FORMATS``, as plain data: no types are loaded, bytes are base64."""
    whole = _verified(value, body, subject)
    return plain(value.inline if whole is None else json.loads(whole))


def _verified(value: Value, body: Body | None, subject: str) -> bytes | None:
    if value.stored != "object":
        return None
    if body is None:
        raise KitaruIntegrityError(f"{subject} is missing from the store", hint=DAMAGED)
    if sha256_of(body) != value.sha256:
        raise KitaruIntegrityError(f"{subject} is not what its digest says", hint=DAMAGED)
    return bytes(body)


def _decode(value: Value, body: bytes | None, home: str) -> Any:
    if value.format in JSON_FORMATS:
        tree = value.inline if body is None else json.loads(body)
        return tree if value.format == "json" else from_tree(tree, home)
    if value.format == "text":
        return value.inline if body is None else body.decode()
    raw = b64decode(value.inline) if body is None else body
    if value.format == "bytes":
        return raw
    if value.format == "pickle":
        return pickle.loads(raw)
    return format_named(value.format).read(raw)


def _encode(value: Any, named: str, serializer: str | None, inline_limit: int) -> Encoded:
    kind = type(value)
    if serializer == "pickle":
        return _encoded("pickle", pickle.dumps(value), None, named, inline_limit)
    if kind is bytes:
        return _encoded("bytes", value, None, named, inline_limit)
    if kind is str:
        try:
            return _encoded("text", value.encode(), value, named, inline_limit)
        except UnicodeEncodeError:  # lone surrogates have no UTF-8; JSON escapes them
            return _encoded("json", json_bytes(value), value, named, inline_limit)
    form = builtin_format(value)
    if form is not None:
        return _encoded(form.name, form.body(value), None, named, inline_limit)
    if is_plain(value):
        return _encoded("json", json_bytes(value), value, named, inline_limit)
    tree = to_tree(value)
    return _encoded("json+types", json_bytes(tree), tree, named, inline_limit)


def _encode_added(form: Format, value: Any, named: str, inline_limit: int, subject: str) -> Encoded:
    """``value`` in another package's format. Raises ``KitaruValueError`` with the format's own error as its cause."""
    try:
        body = form.write(value)
    except BadFormat as error:
        raise KitaruValueError(
            f"{subject} ({type_name(type(value))}) can't be stored: {error}",
            hint="Mend that package, or make of the value one that needs no format: "
            "JSON-like values, dataclasses, pydantic models, bytes or text.",
        ) from error.__cause__
    return _encoded(form.name, body, None, named, inline_limit)


def _encoded(form: str, body: Body, inline: Any, named: str, inline_limit: int) -> Encoded:
    """``inline``: the readable form of a value of JSON or text; the bytes of any other are base64 there."""
    sha = sha256_of(body)
    if len(body) > inline_limit:
        return Encoded(Value(form, len(body), sha, "object", None, named), body)
    if form not in _READABLE:
        inline = b64encode(bytes(body)).decode()
    return Encoded(Value(form, len(body), sha, "inline", inline, named), body)


# --- in a store -------------------------------------------------------------------------------------------------------


def inline_fits(value: Value) -> bool:
    """Whether an inline value has the digest and the size beside it; True for one that is an object of its own.

    The bytes are made again as they were stored: at most a few dozen kilobytes.
    """
    if value.stored != "inline":
        return True
    try:
        body = _body(value)
        return value.size == len(body) and value.sha256 == sha256_of(body)
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
    return decode(value, _read(store, project, value, subject, checked=checked), subject=subject, home=home)


def get_plain(store: Store, project: str, value: Value, *, subject: str, checked: bool = False) -> Any:
    """As ``get``, for a value in one of ``JSON_FORMATS``, as plain data without its types."""
    return decode_plain(value, _read(store, project, value, subject, checked=checked), subject=subject)


def _read(store: Store, project: str, value: Value, subject: str, *, checked: bool) -> bytes | None:
    if value.stored == "object":
        return store.read(address.blob(project, value.sha256))
    if checked and not inline_fits(value):
        raise KitaruIntegrityError(
            f"{subject} is not what the digest beside it says: its journal entry was changed",
            hint="kitaru store verify --deep names the entry; restore it from a backup",
        )
    return None
