"""Values to stored bytes and back, and the digest of a call's arguments.

The first format that takes a value writes it: bytes and text raw, NumPy arrays and data frames in their own formats
once their library is loaded, everything else as readable JSON. Pickle is never chosen here; a checkpoint asks for it
with ``serializer="pickle"``.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kitaru.core.formats import FORMATS, BadFormat, Format, installed_formats
from kitaru.core.typed_json import TAG, Loose, Unstorable, from_tree, is_plain, to_tree, type_name
from kitaru.errors import KitaruFeatureNotAvailableError, KitaruIntegrityError, KitaruValueError
from kitaru.model.event import Value

DAMAGED = "the store is damaged there: restore that key from a backup"

INLINE_LIMIT = 64 * 1024
"""The largest encoded value, in bytes, that travels inside its journal entry."""

PREVIEW_LIMIT = 4 * 1024
"""The largest arguments, in bytes of JSON, that are kept readable beside a checkpoint."""

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_OPAQUE = b'"$type":"opaque"'
_SORTED = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), allow_nan=False, sort_keys=True)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A value ready to be stored: its record, its bytes, and whether those bytes must be stored as an object first."""

    value: Value
    body: bytes

    @property
    def apart(self) -> bool:
        """Whether the bytes are an object of their own."""
        return self.value.stored == "object"

    def detached(self) -> Value:
        """The record, sharing no container with the value that was encoded."""
        value = self.value
        if value.format not in _JSON_FORMATS or self.apart or not isinstance(value.inline, (dict, list)):
            return value
        return Value(value.format, value.size, value.sha256, "inline", json.loads(self.body), value.type)


_JSON_FORMATS = ("json", "json+types")


def encode(
    value: Any, *, subject: str, serializer: str | None = None, inline_limit: int = INLINE_LIMIT, typed: bool = True
) -> Encoded:
    """``value`` as it is stored. ``subject`` names it in errors: ``the result of checkpoint collect``.

    ``typed`` False leaves out the type, for a value that did not fit its annotation. An inline record shares
    containers with ``value``. Raises ``KitaruValueError`` for what can't be stored.
    """
    named = type_name(type(value)) if typed else ""
    try:
        try:
            return _encode(value, named, serializer, inline_limit)
        except Unstorable:
            added = _encode_added(value, named, inline_limit)
            if added is None:
                raise
            return added
    except Unstorable as error:
        where = "" if error.kind is type(value) else f" holds a {type_name(error.kind)}, which"
        problem = f"{where} can't be stored: {error.advice}"
    except RecursionError:
        problem = " can't be stored: it contains itself, or is nested too deeply"
    except Exception as error:
        problem = f" can't be stored: {error}"
    raise KitaruValueError(
        f"{subject} ({type_name(type(value))}){problem}",
        hint="Return JSON-like values, dataclasses, pydantic models, bytes or text; "
        'or ask for pickle with @checkpoint(serializer="pickle").',
    )


def decode(value: Value, body: bytes | None, *, subject: str, home: str = "") -> Any:
    """The Python value. ``body`` is the object's bytes where the value is stored as one; they are verified.

    ``home`` is the module in which classes recorded in ``__main__`` are looked for. Raises ``KitaruIntegrityError``
    for bytes that are not what the digest says, ``KitaruValueError`` where a type is gone or no longer fits.
    """
    if value.stored == "object":
        if body is None:
            raise KitaruIntegrityError(f"{subject} is missing from the store", hint=DAMAGED)
        if hashlib.sha256(body).hexdigest() != value.sha256:
            raise KitaruIntegrityError(f"{subject} is not what its digest says", hint=DAMAGED)
    try:
        if value.format in _JSON_FORMATS:
            tree = value.inline if body is None else json.loads(body)
            return tree if value.format == "json" else from_tree(tree, home)
        if value.format == "text":
            return value.inline if body is None else body.decode()
        raw = b64decode(value.inline) if body is None else body
        if value.format == "bytes":
            return raw
        if value.format == "pickle":
            return pickle.loads(raw)
        return _format(value.format).read(raw)
    except KitaruFeatureNotAvailableError:
        raise
    except Exception as error:
        raise KitaruValueError(
            f"{subject} was stored as {value.type or value.format} and can't be read back: {error}",
            hint="Bring the recorded type back, or run the flow as a new execution.",
        ) from error


def digest_arguments(arguments: dict[str, Any], home: str = "") -> tuple[str, Any]:
    """The digest of a call's bound arguments, and a readable copy of them where it is small, else None.

    Equal arguments have equal digests in every process; ``home`` is the flow's module, whose name may differ there.
    What has no stored form (a client, a lambda) counts by its type only.
    """
    try:
        plain = is_plain(arguments)
        tree = arguments if plain else to_tree(arguments, loose=Loose(home, _summarise, _summarise_added))
        text = _SORTED.encode(tree)
    except (RecursionError, ValueError):  # one that contains itself, or a number too long to be written
        plain, tree = False, {name: _loose(item, home) for name, item in arguments.items()}
        text = _SORTED.encode(tree)
    preview = None
    if len(text) <= PREVIEW_LIMIT:
        # The arguments are the caller's to change before the entry is written.
        preview = json.loads(text) if plain and not _flat(tree) else tree
    return hashlib.sha256(text.encode()).hexdigest(), preview


def argument_texts(arguments: Mapping[str, Any], home: str = "") -> Iterator[tuple[str, bytes | None]]:
    """For each argument of a call a text that is equal for equal values; None for one that holds what has no form."""
    for name, value in arguments.items():
        try:
            tree = value if is_plain(value) else to_tree(value, loose=Loose(home, _summarise, _summarise_added))
            text = _SORTED.encode(tree).encode()
        except (RecursionError, ValueError):
            yield name, None
            continue
        # Quotes inside a string are escaped, so that these can only be the tag itself.
        yield name, None if tree is not value and _OPAQUE in text else text


def _summarise(value: Any) -> Any:
    """The digest of bytes, arrays and frames: their text would only be hashed again."""
    if type(value) is bytes:
        return {TAG: "bytes", "sha256": hashlib.sha256(value).hexdigest()} if len(value) > 256 else None
    for form in FORMATS:
        if form.module in sys.modules and form.takes(value):
            try:
                return {TAG: form.name, "sha256": hashlib.sha256(form.write(value)).hexdigest()}
            except Exception:
                return None  # its own format can't hold it; then its type has to do
    return None


def _summarise_added(value: Any) -> Any:
    """The same where another package's format takes the value."""
    try:
        for form in installed_formats():
            if form.takes(value):
                return {TAG: form.name, "sha256": hashlib.sha256(form.write(value)).hexdigest()}
    except Exception:
        return None  # a result of that type will say what is wrong with the format
    return None


def _loose(argument: Any, home: str) -> Any:
    try:
        tree = to_tree(argument, loose=Loose(home, _summarise, _summarise_added))
        _SORTED.encode(tree)
    except (RecursionError, ValueError):
        return {TAG: "opaque", "class": type_name(type(argument))}
    return tree


def _flat(arguments: dict[str, Any]) -> bool:
    return not any(type(item) in (list, dict) for item in arguments.values())


def _encode(value: Any, named: str, serializer: str | None, inline_limit: int) -> Encoded:
    kind = type(value)
    if serializer == "pickle":
        return _raw("pickle", pickle.dumps(value), named, inline_limit)
    if kind is bytes:
        return _raw("bytes", value, named, inline_limit)
    if kind is str:
        try:
            return _raw("text", value.encode(), named, inline_limit, value)
        except UnicodeEncodeError:
            return _encode_json(value, named, inline_limit)  # lone surrogates have no UTF-8; JSON escapes them
    for form in FORMATS:
        if form.module in sys.modules and form.takes(value):
            return _raw(form.name, form.write(value), named, inline_limit)
    return _encode_json(value, named, inline_limit)


def _encode_added(value: Any, named: str, inline_limit: int) -> Encoded | None:
    """As a format of another package writes it; None where none takes the value."""
    for form in installed_formats():
        if form.takes(value):
            body = form.write(value)
            if type(body) is not bytes or not body:
                raise BadFormat(f"the format {form.name!r} wrote no bytes")
            return _raw(form.name, body, named, inline_limit)
    return None


def _encode_json(value: Any, named: str, inline_limit: int) -> Encoded:
    plain = is_plain(value)
    tree = value if plain else to_tree(value)
    text = _JSON.encode(tree)
    try:
        body = text.encode()
    except UnicodeEncodeError:
        body = json.dumps(tree, separators=(",", ":")).encode()
    form = "json" if plain else "json+types"
    sha = hashlib.sha256(body).hexdigest()
    if len(body) <= inline_limit:
        return Encoded(Value(form, len(body), sha, "inline", tree, named), body)
    return Encoded(Value(form, len(body), sha, "object", None, named), body)


def _raw(form: str, body: bytes, named: str, inline_limit: int, text: str | None = None) -> Encoded:
    sha = hashlib.sha256(body).hexdigest()
    if len(body) <= inline_limit:
        inline = text if text is not None else b64encode(body).decode()
        return Encoded(Value(form, len(body), sha, "inline", inline, named), body)
    return Encoded(Value(form, len(body), sha, "object", None, named), body)


def _format(name: str) -> Format:
    for form in FORMATS:
        if form.name == name:
            return form
    for form in installed_formats():
        if form.name == name:
            return form
    raise KitaruFeatureNotAvailableError(
        f"a value was stored in the format {name!r}, which neither this release nor an installed package knows",
        hint="Install the package that brings that format, or upgrade: pip install -U kitaru",
    )
