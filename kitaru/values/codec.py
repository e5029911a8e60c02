"""Values to stored bytes and back, and the digest of a call's arguments.

The first format that takes a value writes it: bytes and text raw, NumPy arrays and data frames in their own formats
once their library is loaded, everything else as readable JSON. Pickle is never chosen here; a checkpoint asks for it
with ``serializer="pickle"``.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kitaru.errors import KitaruFeatureNotAvailableError, KitaruIntegrityError, KitaruValueError
from kitaru.model.event import Value
from kitaru.model.jsonable import JSON_FORMATS
from kitaru.model.pieces import Body, Pieces, chunks_of
from kitaru.values import blocks
from kitaru.values.formats import BadFormat, Format, builtin_format, format_named, installed_format, written
from kitaru.values.typed_json import TAG, Loose, Unstorable, from_tree, is_plain, plain, to_tree, type_name

DAMAGED = "the store is damaged there: restore that key from a backup"

INLINE_LIMIT = 64 * 1024
"""The largest encoded value, in bytes, that travels inside its journal entry."""

PREVIEW_LIMIT = 4 * 1024
"""The largest arguments, in bytes of JSON, that are kept readable beside a checkpoint."""

LONG_TEXT = 1 << 20
"""Characters from which a text is hashed piece by piece."""

_TAGGED = '"$type":'
_SORTED = json.JSONEncoder(
    ensure_ascii=True, separators=(",", ":"), allow_nan=False, sort_keys=True, default=blocks.as_text
)


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
        return Value(value.format, value.size, value.sha256, "inline", json.loads(bytes(self.body)), value.type)


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
    if whole is None:
        return plain(value.inline)
    return plain(blocks.read(whole, blocks.as_text) if value.format == "json+parts" else json.loads(whole))


def _verified(value: Value, body: Body | None, subject: str) -> bytes | None:
    if value.stored != "object":
        return None
    if body is None:
        raise KitaruIntegrityError(f"{subject} is missing from the store", hint=DAMAGED)
    if _sha256(body) != value.sha256:
        raise KitaruIntegrityError(f"{subject} is not what its digest says", hint=DAMAGED)
    return bytes(body)


def _decode(value: Value, body: bytes | None, home: str) -> Any:
    if value.format == "json+parts" and body is not None:
        return from_tree(blocks.read(body), home)
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


class Summaries:
    """Stand-ins for large arguments of one call, as their text would only be hashed: each is made once.

    ``home`` is the flow's module, named otherwise in another process. For one call, at once: a value that it has seen
    counts as unchanged.
    """

    __slots__ = ("_made", "loose")

    def __init__(self, home: str = "") -> None:
        self._made: dict[int, tuple[Any, Any]] = {}
        self.loose = Loose(home, self._summarise, self._summarise_added)

    def tree(self, value: Any) -> Any:
        """``value`` as JSON types; ``value`` itself if it is plain."""
        return value if is_plain(value) else to_tree(value, loose=self.loose)

    def summary(self, value: Any) -> Any:
        """The digest of bytes, an array or a frame, or of a value that an installed format takes; None for others."""
        return self._summarise(value) or self._summarise_added(value)

    def _summarise(self, value: Any) -> Any:
        """The digest of bytes, arrays and frames."""
        kind = type(value)
        if kind is bytes:
            return {TAG: "bytes", "sha256": hashlib.sha256(value).hexdigest()} if len(value) > 256 else None
        form = builtin_format(value)
        try:
            return self._digest(form, value) if form is not None else None
        except Exception:
            return None  # its own format can't hold it; then its type has to do

    def _summarise_added(self, value: Any) -> Any:
        """As ``_summarise``, by another package's format."""
        try:
            form, _ = installed_format(value)
            return self._digest(form, value) if form is not None else None
        except Exception:
            return None  # a result of that type tells of the format's error

    def _digest(self, form: Format, value: Any) -> Any:
        known = self._made.get(id(value))
        if known is None:  # the value is kept, too: its id must stay its own
            known = self._made[id(value)] = value, {TAG: form.name, "sha256": _sha256(form.body(value))}
        return known[1]


def digest_arguments(arguments: dict[str, Any], home: str = "", summaries: Summaries | None = None) -> tuple[str, Any]:
    """The digest of a call's bound arguments, and a readable copy of them if it is small, else None.

    Equal arguments have equal digests in every process; ``home`` is the flow's module, named otherwise there.
    A value without a stored form (a client, a lambda) counts by its type only.
    """
    summaries = summaries or Summaries(home)
    try:
        tree = summaries.tree(arguments)
        if _has_long_text(tree):
            return _digest_pieces(tree).hexdigest(), None
        text = _SORTED.encode(tree)
    except (RecursionError, ValueError):  # one that contains itself, or a number too long to be written
        tree = {name: _loose(item, summaries) for name, item in arguments.items()}
        text = _SORTED.encode(tree)
    preview = None
    if len(text) <= PREVIEW_LIMIT:
        # The caller may change the arguments before the entry is written.
        preview = _preview(tree, text) if tree is not arguments else tree if _flat(tree) else json.loads(text)
    return hashlib.sha256(text.encode()).hexdigest(), preview


def _has_long_text(arguments: dict[str, Any]) -> bool:
    return any(type(item) is str and len(item) > LONG_TEXT for item in arguments.values())


def _digest_pieces(tree: Any) -> Any:
    """The digest of the same JSON, of which only a piece of a long text is made at a time."""
    found = hashlib.sha256()
    for piece in _pieces(tree):
        found.update(piece.encode())
    return found


def _pieces(tree: Any) -> Iterator[str]:
    if type(tree) is dict:
        for number, name in enumerate(sorted(tree)):
            yield f"{',' if number else '{'}{_SORTED.encode(name)}:"
            yield from _pieces(tree[name]) if type(tree[name]) is str else (_SORTED.encode(tree[name]),)
        yield "}"
    elif type(tree) is str:
        yield '"'
        for start in range(0, len(tree), LONG_TEXT):
            yield _SORTED.encode(tree[start : start + LONG_TEXT])[1:-1]
        yield '"'


def _loose(argument: Any, summaries: Summaries) -> Any:
    try:
        tree = to_tree(argument, loose=summaries.loose)
        _SORTED.encode(tree)
    except (RecursionError, ValueError):
        return {TAG: "opaque", "class": type_name(type(argument))}
    return tree


def _preview(tree: Any, text: str) -> Any:
    """A tree with types as JSON data, in its own order; ``text`` is the same, sorted."""
    return json.loads(json.dumps(tree, default=blocks.as_text)) if _TAGGED in text else tree


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
            long_ascii = len(value) > LONG_TEXT and value.isascii()
            return _raw("text", Pieces([value]) if long_ascii else value.encode(), named, inline_limit, value)
        except UnicodeEncodeError:
            return _encode_json(value, named, inline_limit)  # lone surrogates have no UTF-8; JSON escapes them
    form = builtin_format(value)
    if form is not None:
        return _raw(form.name, form.body(value), named, inline_limit)
    return _encode_json(value, named, inline_limit)


def _encode_added(form: Format, value: Any, named: str, inline_limit: int, subject: str) -> Encoded:
    """``value`` in another package's format. Raises ``KitaruValueError`` with the format's own error as its cause."""
    try:
        body = written(form, value)
    except BadFormat as error:
        raise KitaruValueError(
            f"{subject} ({type_name(type(value))}) can't be stored: {error}",
            hint="Mend that package, or make of the value one that needs no format: "
            "JSON-like values, dataclasses, pydantic models, bytes or text.",
        ) from error.__cause__
    return _raw(form.name, body, named, inline_limit)


def _encode_json(value: Any, named: str, inline_limit: int) -> Encoded:
    is_json = is_plain(value)
    tree = value if is_json else to_tree(value)
    body, apart, has_blocks = blocks.write(tree, inline_limit)
    form = "json" if is_json else "json+parts" if apart else "json+types"
    sha = _sha256(body)
    if len(body) > inline_limit:
        return Encoded(Value(form, len(body), sha, "object", None, named), body)
    inline = json.loads(bytes(body)) if has_blocks else tree
    return Encoded(Value(form, len(body), sha, "inline", inline, named), body)


def _raw(form: str, body: Body, named: str, inline_limit: int, text: str | None = None) -> Encoded:
    sha = _sha256(body)
    if len(body) <= inline_limit:
        inline = text if text is not None else b64encode(bytes(body)).decode()
        return Encoded(Value(form, len(body), sha, "inline", inline, named), body)
    return Encoded(Value(form, len(body), sha, "object", None, named), body)


def _sha256(body: Body) -> str:
    found = hashlib.sha256()
    for chunk in chunks_of(body):
        found.update(chunk)
    return found.hexdigest()
