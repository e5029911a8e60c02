"""Small frozen values that cost next to nothing to declare, and their JSON form.

``dataclass(frozen=True)`` compiles six methods a class, which is most of the time of an import. A record has one method
of its own, ``__init__``, and shares the rest; the type checker, not the run, holds that it never changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, Self, TypeVar, cast, dataclass_transform

Kind = TypeVar("Kind", bound=type)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(*, kw_only: bool = False) -> Callable[[Kind], Kind]:
    """A class of values with slots, equal and hashed by their fields; ``dataclasses.replace`` and ``fields`` work."""

    def decorate(cls: Kind) -> Kind:
        made = cast("Any", dataclass(slots=True, repr=False, eq=False, kw_only=kw_only)(cls))
        made.__eq__, made.__hash__ = _equal, _hash
        if "__repr__" not in cls.__dict__:
            made.__repr__ = _shown
        return cast("Kind", made)

    return decorate


def _contents(value: Any) -> tuple[Any, ...]:
    return tuple([getattr(value, name) for name in value.__slots__])


def _equal(self: Any, other: object) -> bool:
    return _contents(self) == _contents(other) if other.__class__ is self.__class__ else NotImplemented


def _hash(self: Any) -> int:
    return hash(_contents(self))


def _shown(self: Any) -> str:
    content = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
    return f"{type(self).__qualname__}({content})"


Origin = Literal["user_code", "runtime", "backend", "divergence", "unknown"]


class Record:
    """Something with a JSON object form: one key a field, absent if the field is None."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON object; may share containers with this record, so encode it before either changes."""
        written: dict[str, Any] = {}
        for name in cast("tuple[str, ...]", self.__slots__):
            value = getattr(self, name)
            if value is not None:
                written[name] = _written(value)
        return written

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The inverse of ``to_json``. Unknown keys are skipped; a value that does not fit raises ``ValueError``."""
        if not isinstance(data, Mapping):
            raise ValueError(f"expected an object for {cls.__name__}, got {type(data).__name__}")
        given = {name: read(data[name], name) for name, read in _readers(cls) if data.get(name) is not None}
        try:
            return cls(**given)
        except TypeError as error:
            raise ValueError(f"{cls.__name__}: {error}") from None


class Event(Record):
    """Something that happened, at ``at`` (RFC 3339, UTC)."""

    __slots__ = ()
    kind: str
    at: str


JSON_FORMATS = ("json", "json+types")
"""Formats that are JSON: as it is, and with types tagged."""


@record()
class Value(Record):
    """A stored value.

    ``format`` names the codec. ``stored`` says how the bytes are kept: ``inline`` is the value itself as JSON (readable
    JSON for ``json``, a string for ``text``, base64 otherwise), or the bytes are the object named by ``sha256``.
    ``size`` (in bytes) and ``sha256`` describe the encoded bytes either way. ``type`` is the Python type, if the
    value fitted its annotation.
    """

    format: str
    size: int
    sha256: str
    stored: Literal["inline", "object"]
    inline: Any = None
    type: str = ""

    def to_json(self) -> dict[str, Any]:
        """As every record, but the key ``inline`` is present exactly if the value is, also when it is null."""
        written: dict[str, Any] = {"format": self.format, "size": self.size, "sha256": self.sha256}
        if self.type:
            written["type"] = self.type
        if self.stored == "inline":
            written["inline"] = self.inline
        return written

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The inverse of ``to_json``."""
        if not isinstance(data, Mapping):
            raise ValueError(f"expected an object for a value, got {type(data).__name__}")
        try:
            return cls(
                text(data["format"], "format"),
                whole(data["size"], "size"),
                text(data["sha256"], "sha256"),
                "inline" if "inline" in data else "object",
                data.get("inline"),
                text(data.get("type", ""), "type"),
            )
        except KeyError as error:
            raise ValueError(f"a value lacks {error}") from None


@record()
class Failure(Record):
    """Why something ended badly:

    the exception's qualified type, its message, its traceback as text, and its origin.
    """

    type: str
    message: str
    traceback: str = ""
    origin: Origin = "unknown"


@record()
class Handle(Record):
    """A worker of an execution, as its stack recorded it: ``id`` tells workers apart, ``shown`` names it to people
    (``process 4711 on laptop``), and only the stack reads ``data``.
    """

    id: str
    shown: str = ""
    data: dict[str, Any] = field(default_factory=dict)


@record()
class SourcePlace(Record):
    """The source of a run from source: the absolute folder, and the host as ``stacks.process`` names it."""

    folder: str
    host: str


@record()
class ExecutionOptions(Record):
    """The options of an execution, as it was opened.

    ``cache`` is the flow's word; ``cache_asked`` the call's, which wins over that of flow and checkpoint.
    ``timeout`` is in seconds, for each attempt at the flow's body. ``retry`` is the policy of its retries, if one
    was given with the call; else the flow's own counts, with ``retries`` as the number of further attempts.
    """

    retries: int = 0
    cache: bool = True
    cache_asked: bool | None = None
    timeout: float | None = None
    retry: dict[str, Any] | None = None


# --- reading fields: one function for each annotation that records use ------------------------------------------------


def _written(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if type(value) is tuple:
        return [_written(item) for item in value]
    return value


def text(value: Any, name: str) -> str:
    """The text. ``ValueError`` for anything else."""
    if not isinstance(value, str):
        raise ValueError(f"{name} should be a string, not {value!r:.50}")
    return value


def whole(value: Any, name: str) -> int:
    """The whole number. ``ValueError`` for anything else."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name} should be a whole number, not {value!r:.50}")
    return value


def _number(value: Any, name: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ValueError(f"{name} should be a number, not {value!r:.50}")
    return value


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} should be true or false, not {value!r:.50}")
    return value


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} should be an object, not {value!r:.50}")
    return value


def _mappings(value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise ValueError(f"{name} should be a list of objects, not {value!r:.50}")
    return [_mapping(item, name) for item in value]


def _texts(value: Any, name: str) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(f"{name} should be a list of strings, not {value!r:.50}")
    return [text(item, name) for item in value]


def _anything(value: Any, _name: str) -> Any:
    return value


class _Reading:
    """Readers of a record's fields, found once per class from the text of its annotations."""

    by_annotation: ClassVar[dict[str, Callable[[Any, str], Any]]] = {
        "str": text,
        "int": whole,
        "float": _number,
        "bool": _flag,
        "Any": _anything,
        "Value": lambda data, _name: Value.from_json(data),
        "Failure": lambda data, _name: Failure.from_json(data),
        "Handle": lambda data, _name: Handle.from_json(data),
        "SourcePlace": lambda data, _name: SourcePlace.from_json(data),
        "ExecutionOptions": lambda data, _name: ExecutionOptions.from_json(data),
        "Origin": text,
        "ExecutionStatus": text,
        "dict[str, Any]": _mapping,
        "list[str]": _texts,
        "list[dict[str, Any]]": _mappings,
    }
    by_class: ClassVar[dict[type, tuple[tuple[str, Callable[[Any, str], Any]], ...]]] = {}


def _readers(cls: type) -> tuple[tuple[str, Callable[[Any, str], Any]], ...]:
    known = _Reading.by_class.get(cls)
    if known is None:
        known = tuple((item.name, _reader(str(item.type))) for item in fields(cls))
        _Reading.by_class[cls] = known
    return known


def _reader(annotation: str) -> Callable[[Any, str], Any]:
    plain = annotation.removesuffix(" | None")
    if plain.startswith("tuple["):
        return _no_members
    return text if plain.startswith("Literal[") else _Reading.by_annotation[plain]


def _no_members(value: Any, name: str) -> tuple[()]:
    """Collections are made by the fold, and no reader needs them from JSON."""
    if value:
        raise ValueError(f"{name} can't be read back")
    return ()


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
"""C0, DEL and C1; then what turns the direction of the text that follows it."""

_SHOWN = dict.fromkeys(_OTHERS, "\N{REPLACEMENT CHARACTER}") | {ord(one): " " for one in _BREAKS} | {0x09: "\t"}
_RECORDED = dict.fromkeys([*_OTHERS, *map(ord, _BREAKS)], " ")

LONGEST = 500
"""Characters of a text that is recorded as one line."""

_ALONE = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair: a byte that was no UTF-8, of which no JSON can be made that others read."""

_COMMAND = re.compile(r"^(\s*):(?=:)|##(?=\[|vso\[)")
"""What GitHub, and Azure, take for a command to the runner: at the start of a line, or anywhere in it."""


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
