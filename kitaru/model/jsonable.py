"""Small frozen values that cost next to nothing to declare, their JSON form, and text as one line.

``dataclass(frozen=True)`` compiles six methods a class, which is most of the time of an import. A record has one method
of its own, ``__init__``, and shares the rest; the type checker, not the run, holds that it never changes.
"""

from __future__ import annotations

import builtins
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, Self, TypeVar, cast, dataclass_transform, get_origin

Kind = TypeVar("Kind", bound=type)
R = TypeVar("R")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(*, kw_only: bool = False) -> Callable[[Kind], Kind]:
    """A class of values with slots, equal and hashed by their fields; ``dataclasses.replace`` and ``fields`` work."""

    def decorate(cls: Kind) -> Kind:
        made = cast("Any", dataclass(slots=True, repr=False, eq=False, kw_only=kw_only)(cls))
        made._names = tuple(item.name for item in fields(made))
        made.__eq__, made.__hash__ = _equal, _hash
        if "__repr__" not in cls.__dict__:
            made.__repr__ = _shown
        return cast("Kind", made)

    return decorate


def _contents(value: Any) -> tuple[Any, ...]:
    return tuple([getattr(value, name) for name in value._names])


def _equal(self: Any, other: object) -> bool:
    return _contents(self) == _contents(other) if other.__class__ is self.__class__ else NotImplemented


def _hash(self: Any) -> int:
    return hash(_contents(self))


def _shown(self: Any) -> str:
    content = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._names)
    return f"{type(self).__qualname__}({content})"


class Record:
    """Something with a JSON object form: one key a field, absent if the field is None."""

    __slots__ = ()
    _names: ClassVar[tuple[str, ...]] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON object; may share containers with this record, so encode it before either changes."""
        written: dict[str, Any] = {}
        for name in self._names:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, Record):
                value = value.to_json()
            elif type(value) is tuple:
                value = [item.to_json() if isinstance(item, Record) else item for item in value]
            written[name] = value
        return written

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The inverse of ``to_json``. Unknown keys are skipped; a value that does not fit raises ``ValueError``."""
        return read_record(cls, data)


def read_record(cls: type[R], data: Any) -> R:
    """A record from its JSON object. ``ValueError`` if it does not fit."""
    if not isinstance(data, Mapping):
        raise ValueError(f"expected an object for {cls.__name__}, got {type(data).__name__}")
    given = {}
    for name, kind, read in _READERS.get(cls) or _readers(cls):
        value = data.get(name)
        if value is not None:
            given[name] = value if type(value) is kind else read(value, name)
    try:
        return cls(**given)
    except TypeError as error:
        raise ValueError(f"{cls.__name__}: {error}") from None


Reader = Callable[[Any, str], Any]
_READERS: dict[type, list[tuple[str, Any, Reader]]] = {}
_EXPECTED = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", dict: "an object"}


def _readers(cls: type) -> list[tuple[str, Any, Reader]]:
    """For each field its name, the type of which a value is taken as it is, and the reader of any other value."""
    space = vars(sys.modules[cls.__module__])
    _READERS[cls] = found = [(item.name, *_reader(str(item.type), space)) for item in fields(cast("Any", cls))]
    return found


def _reader(annotation: str, space: Mapping[str, Any]) -> tuple[Any, Reader]:
    plain = annotation.removesuffix(" | None")
    outer, _, inner = plain.partition("[")
    if outer in ("list", "tuple"):
        member = _reader(inner.removesuffix("]").removesuffix(", ..."), space)
        return None, lambda value, name: _members(value, name, list if outer == "list" else tuple, *member)
    if outer == "Any":
        return None, lambda value, _: value
    kind = space.get(outer) or vars(builtins)[outer]
    if kind is Literal or get_origin(kind) is Literal:
        kind = str
    if kind in _EXPECTED:
        return kind, lambda value, name: expect(kind, value, name)
    return None, lambda value, _: kind.from_json(value)


def _members(value: Any, name: str, made: type, kind: Any, read: Reader) -> Any:
    if not isinstance(value, list):
        raise ValueError(f"{name} should be a list, not {value!r:.50}")
    return made(item if type(item) is kind else read(item, name) for item in value)


def expect(kind: type, value: Any, name: str) -> Any:
    """``value`` if it is of that type of JSON; a whole number is a number, too. ``ValueError`` otherwise."""
    if type(value) is kind or (kind is float and type(value) is int):
        return value
    raise ValueError(f"{name} should be {_EXPECTED[kind]}, not {value!r:.50}")


def parse_json(text: str) -> Any:
    """The value in ``text``. Raises ``ValueError`` for invalid JSON, and for a key that is given twice."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise KeyGivenTwice(f"the key {twice!r} is given twice in one object")
    return found


class KeyGivenTwice(ValueError):
    """Valid JSON by its grammar, and of two values only one could count."""


_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_OTHERS = (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""C0, DEL and C1; then those that turn the direction of the text that follows."""

_SHOWN = dict.fromkeys(_OTHERS, "\N{REPLACEMENT CHARACTER}") | {ord(one): " " for one in _BREAKS} | {0x09: "\t"}
_RECORDED = dict.fromkeys([*_OTHERS, *map(ord, _BREAKS)], " ")

LONGEST = 500
"""Characters of a text that is recorded as one line."""

_ALONE = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair: a byte that was no UTF-8, of which no JSON can be made that others read."""

_COMMAND = re.compile(r"^(\s*):(?=:)|##(?=\[|vso\[)")
"""Text that GitHub, and Azure, take for a command to the runner: at the start of a line, or anywhere in it."""


def shown_line(text: str) -> str:
    """``text`` as one line to print: breaks are spaces, other control characters are marked, tabs stay.

    A command to a CI runner gets a space, ``: :error::`` and ``## [error]``, and is none any more.
    """
    return _COMMAND.sub(lambda found: f"{found[0]} ", text.translate(_SHOWN))


def recorded_line(text: str) -> str:
    """``text`` as it is recorded as one line, such as a name: control characters are spaces, runs of them one,
    bytes that were no text are marked, and a text longer than ``LONGEST`` is cut.

    Text without any of that is recorded as it is.
    """
    clean = _ALONE.sub("\N{REPLACEMENT CHARACTER}", text).translate(_RECORDED)
    line = text if clean == text else " ".join(clean.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
