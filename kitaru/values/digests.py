"""Digests of values: exact ones, for the cache, and those of a call's arguments, by which it is found again."""

from __future__ import annotations

import collections
import datetime
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from kitaru.model.pieces import Body, chunks_of
from kitaru.values.formats import Format, builtin_format, installed_format
from kitaru.values.typed_json import (
    PANDAS_SCALARS,
    TAG,
    is_importable,
    is_plain,
    to_tree,
    type_name,
    write_scalar,
)

PREVIEW_LIMIT = 4 * 1024
"""The largest arguments, in bytes of JSON, that are kept readable beside a checkpoint."""

_SORTED = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), allow_nan=False, sort_keys=True)

_SPELLED = (int, float, bool, str, complex, range, type(None), datetime.date, datetime.timedelta)
_SPELLED_NAMES = {"uuid:UUID", "decimal:Decimal", "fractions:Fraction"}
_OBJECTS = {"typing:Generic", "typing:Protocol", "abc:ABC", "object"}


class Inexact(Exception):
    """A value without an exact digest; the message names its type."""


def _unknown(value: Any) -> Inexact:
    return Inexact(f"a {type(value).__name__} can't be told from another one")


class Exact:
    """Describes values as JSON: equal for equal values, and for no others."""

    def __init__(self, summaries: Summaries) -> None:
        self.home = summaries.home
        self._summary = summaries.summary

    def digest(self, value: Any) -> str:
        """64 hexadecimal digits. Raises ``Inexact``."""
        try:
            return hashlib.sha256(json.dumps(self.described(value), separators=(",", ":")).encode()).hexdigest()
        except (RecursionError, ValueError):  # it contains itself, or holds a number too long to be written
            raise _unknown(value) from None

    def described(self, value: Any) -> Any:
        """``1`` → ``{"=": 1}``; ``(1, 2)`` → ``["tuple", None, {"=": 1}, {"=": 2}]``. Raises ``Inexact``."""
        kind = type(value)
        if is_plain(value):
            return {"=": value}
        if kind in (list, tuple, collections.deque):
            return [kind.__name__, getattr(value, "maxlen", None), *map(self.described, value)]
        if kind in (dict, collections.OrderedDict, collections.Counter):
            return [kind.__name__, *self._pairs(value)]
        if kind in (set, frozenset):
            return [kind.__name__, *sorted(map(self.digest, value))]
        if kind in (bytes, bytearray):
            return [kind.__name__, hashlib.sha256(value).hexdigest()]
        if isinstance(value, Enum):
            return ["enum", self._class(value), value.name, repr(value.value)]
        tree = self._scalar(value) or self._object(value) or self._summary(value)
        if tree is None:
            raise _unknown(value)
        return tree

    def _pairs(self, value: Any) -> Iterator[Any]:
        for key, item in value.items():
            yield [self.described(key), self.described(item)]

    def _scalar(self, value: Any) -> Any:
        kind = type(value)
        name = type_name(kind)
        if kind in _SPELLED or name in _SPELLED_NAMES or name.startswith("pathlib"):
            return [name, repr(value)]
        if kind in (datetime.datetime, datetime.time):
            zone = value.tzinfo
            if zone is None or type(zone) is datetime.timezone or getattr(zone, "key", None):
                return [name, repr(value)]
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.generic) and not isinstance(value, numpy.void):
            return ["numpy", value.dtype.str, value.tobytes().hex()]
        if kind.__name__ in PANDAS_SCALARS and kind.__module__.partition(".")[0] == "pandas":
            return ["pandas", kind.__name__, write_scalar(value)]
        return None

    def _object(self, value: Any) -> Any:
        """Dataclasses, pydantic models and named tuples, by all of their attributes."""
        kind = type(value)
        bases = {type_name(base) for base in kind.__mro__ if base.__module__ in ("builtins", "typing", "abc")}
        own = dict(getattr(value, "__dict__", {}))
        if hasattr(kind, "_fields") and bases <= {"tuple", "object"} and not own:
            return ["namedtuple", self._class(value), *map(self.described, value)]
        if bases <= _OBJECTS and is_dataclass(kind):
            names = [item.name for item in fields(kind)]
            if own.keys() | _slots(kind) <= set(names) and all(hasattr(value, name) for name in names):
                return ["dataclass", self._class(value), *(self.described(getattr(value, name)) for name in names)]
        if hasattr(kind, "__pydantic_validator__") and hasattr(kind, "model_fields"):
            hidden = [getattr(value, name, None) for name in ("__pydantic_extra__", "__pydantic_private__")]
            given = sorted(value.__pydantic_fields_set__)
            return ["model", self._class(value), given, self.described(own), *map(self.described, hidden)]
        return None

    def _class(self, value: Any) -> str:
        kind = type(value)
        if not is_importable(kind):
            raise _unknown(value)
        return kind.__qualname__ if kind.__module__ == self.home else type_name(kind)


def _slots(kind: type) -> set[str]:
    parts = [vars(base).get("__slots__", ()) for base in kind.__mro__]
    names = {name for part in parts for name in ([part] if isinstance(part, str) else part)}
    return names - {"__weakref__", "__dict__"}


def sha256_of(body: Body) -> str:
    """64 hexadecimal digits."""
    found = hashlib.sha256()
    for chunk in chunks_of(body):
        found.update(chunk)
    return found.hexdigest()


class Summaries:
    """Stand-ins for large arguments of one call, as their text would only be hashed: each is made once.

    ``home`` is the flow's module, named otherwise in another process: its classes are named without it. For one call,
    at once: a value that it has seen counts as unchanged.
    """

    __slots__ = ("_made", "home")

    def __init__(self, home: str = "") -> None:
        self.home = home
        self._made: dict[int, tuple[Any, Any]] = {}

    def summary(self, value: Any) -> Any:
        """The digest of bytes, an array or a frame, or of a value that an installed format takes; None for others."""
        return self.known(value) or self.added(value)

    def known(self, value: Any) -> Any:
        """The digest of large bytes, an array or a frame; None for any other value."""
        if type(value) is bytes:
            return {TAG: "bytes", "sha256": sha256_of(value)} if len(value) > 256 else None
        return self._digest(builtin_format, value)

    def added(self, value: Any) -> Any:
        """The digest of a value that another package's format takes; None for any other."""
        return self._digest(lambda value: installed_format(value)[0], value)

    def _digest(self, format_of: Callable[[Any], Format | None], value: Any) -> Any:
        try:
            form = format_of(value)
            if form is None:
                return None
            if id(value) not in self._made:  # the value is kept, too: its id must stay its own
                self._made[id(value)] = value, {TAG: form.name, "sha256": sha256_of(form.body(value))}
            return self._made[id(value)][1]
        except Exception:
            return None  # its format can't hold it; then its type has to do, and a result of that type tells of it


def digest_arguments(arguments: dict[str, Any], home: str = "", summaries: Summaries | None = None) -> tuple[str, Any]:
    """The digest of a call's bound arguments, and a readable copy of them if it is small, else None.

    Equal arguments have equal digests in every process; ``home`` is the flow's module, named otherwise there.
    A value without a stored form (a client, a lambda) counts by its type only.
    """
    summaries = summaries or Summaries(home)
    try:
        tree = arguments if is_plain(arguments) else to_tree(arguments, summaries)
        text = _SORTED.encode(tree)
    except (RecursionError, ValueError):  # one that contains itself, or a number too long to be written
        tree = {name: _loose(item, summaries) for name, item in arguments.items()}
        text = _SORTED.encode(tree)
    preview = None
    if len(text) <= PREVIEW_LIMIT:
        # The caller may change the arguments before the entry is written.
        shared = tree is arguments and any(type(item) in (list, dict) for item in arguments.values())
        preview = json.loads(text) if shared else tree
    return hashlib.sha256(text.encode()).hexdigest(), preview


def _loose(argument: Any, summaries: Summaries) -> Any:
    try:
        tree = to_tree(argument, summaries)
        _SORTED.encode(tree)
    except (RecursionError, ValueError):
        return {TAG: "opaque", "class": type_name(type(argument))}
    return tree
