"""Exact digests: equal digests mean equal values, in every process. A value may have none."""

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

from kitaru.values.typed_json import PANDAS_SCALARS, is_plain, type_name, write_scalar

_SPELLED = (int, float, bool, str, complex, range, type(None), datetime.date, datetime.timedelta)
_SPELLED_NAMES = {"uuid:UUID", "decimal:Decimal", "fractions:Fraction"}
_OBJECTS = {"typing:Generic", "typing:Protocol", "abc:ABC", "object"}


class Inexact(Exception):
    """A value without an exact digest; the message names its type."""


def _unknown(value: Any) -> Inexact:
    return Inexact(f"a {type(value).__name__} can't be told from another one")


class Exact:
    """Describes values as JSON: equal for equal values, and for no others.

    ``home``: the module with another name in another process. ``summary``: the digest of bytes, arrays and frames, None
    for any other value.
    """

    def __init__(self, home: str, summary: Callable[[Any], Any]) -> None:
        self._home = home
        self._summary = summary

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
        found: Any = sys.modules.get(kind.__module__)
        for part in kind.__qualname__.split("."):
            found = getattr(found, part, None)
        if found is not kind:
            raise _unknown(value)
        return kind.__qualname__ if kind.__module__ == self._home else type_name(kind)


def _slots(kind: type) -> set[str]:
    parts = [vars(base).get("__slots__", ()) for base in kind.__mro__]
    names = {name for part in parts for name in ([part] if isinstance(part, str) else part)}
    return names - {"__weakref__", "__dict__"}
