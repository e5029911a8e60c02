"""Values as JSON with types, and as plain data for readers without the flow's own types. Pure."""

from __future__ import annotations

import collections
import datetime
import importlib
import json
import math
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from kitaru.values.formats import builtin_format, format_named, way_out

if TYPE_CHECKING:
    from kitaru.values.digests import Summaries

TAG = "$type"
PAIRS = frozenset({"dict", "ordered_dict", "counter", "defaultdict"})
"""Kinds that are written as a list of keys with their values."""


def plain(tree: Any) -> Any:
    """A typed JSON tree without its types: a model becomes its fields, a tuple a list, a datetime its text."""
    if isinstance(tree, list):
        return [plain(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    kind = tree.get(TAG)
    if kind is None or "value" not in tree:
        return {key: plain(item) for key, item in tree.items() if key != TAG}
    value = tree["value"]
    if kind in PAIRS and isinstance(value, list):
        return {str(plain(key)): plain(item) for key, item in value}
    return plain(value)


PANDAS_SCALARS = {"Timestamp": "timestamp", "Timedelta": "time_delta", "NaTType": "nat"}
"""Name of the class → its tag in typed JSON."""


def write_scalar(value: Any) -> dict[str, Any]:
    """``{"value": "2026-03-01T12:00:00+01:00", "unit": "ns", "zone": "Europe/Paris"}``; a span has no zone.

    Raises ``ValueError`` for a point of time in a zone without a name.
    """
    kind = type(value).__name__
    if kind == "NaTType":
        return {"value": None}
    if kind == "Timedelta":
        return {"value": str(value), "unit": value.unit}
    written = {"value": value.isoformat(), "unit": value.unit}
    zone = getattr(value.tz, "key", None) or getattr(value.tz, "zone", None)
    if isinstance(zone, str):
        written["zone"] = zone
    if (back := read_scalar(kind, written)) != value or str(back.tz) != str(value.tz):
        raise ValueError(f"the time zone {value.tz!s} has no name; use tz_convert('UTC')")
    return written


def read_scalar(kind: str, tree: dict[str, Any]) -> Any:
    """The inverse of ``write_scalar``; ``kind`` is ``Timestamp`` or ``Timedelta``."""
    value = getattr(importlib.import_module("pandas"), kind)(tree["value"])
    if "zone" in tree:
        value = value.tz_convert(tree["zone"])
    return value.as_unit(tree["unit"])


SCALARS = frozenset({str, int, bool, type(None)})
PLAIN = frozenset({str, int, bool, type(None), float})


class Unstorable(TypeError):
    """There is no JSON form for a value of ``kind``; ``advice`` is the remedy."""

    def __init__(self, kind: type, advice: str) -> None:
        super().__init__(f"{type_name(kind)}: {advice}")
        self.kind = kind
        self.advice = advice


class TypeGone(LookupError):
    """The class of a stored value can't be found by its name."""


def is_plain(value: Any) -> bool:
    """Whether ``value`` is made of exact JSON types only, so that JSON gives back an equal value of the same types."""
    kind = type(value)
    if kind in PLAIN:
        return kind is not float or math.isfinite(value)
    if kind is list:
        members = value
    elif kind is dict:
        if TAG in value or (value and set(map(type, value)) != {str}):
            return False
        members = value.values()
    else:
        return False
    kinds = set(map(type, members))
    if kinds <= SCALARS:
        return True
    if kinds <= PLAIN:
        return all(math.isfinite(item) for item in members if type(item) is float)
    return all(map(is_plain, members))


def to_tree(value: Any, loose: Summaries | None = None) -> Any:
    """``value`` as JSON types, tagged where needed; bytes as base64.

    ``loose`` is for digests: no order among dict keys, and a value that can't be stored becomes its type's name. Raises
    ``Unstorable``, and ``RecursionError`` for a value that contains itself.
    """
    kind = type(value)
    if kind in SCALARS:
        return value
    if kind is float:
        return value if math.isfinite(value) else {TAG: "float", "value": str(value)}
    if kind is list:
        return [to_tree(item, loose) for item in value]
    if kind is dict:
        if TAG not in value and all(type(key) is str for key in value):
            return {key: to_tree(item, loose) for key, item in value.items()}
        return {TAG: "dict", "value": _items(value, loose)}
    if loose is None:
        return _tagged(value, kind, None)
    try:
        return loose.known(value) or _tagged(value, kind, loose)
    except Unstorable:
        return loose.added(value) or {TAG: "opaque", "class": _named(kind, loose)}


_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_ASCII = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def json_bytes(tree: Any) -> bytes:
    """The bytes that are stored for a tree. ``ValueError`` for a number too long to be written."""
    try:
        return _JSON.encode(tree).encode()
    except UnicodeEncodeError:  # lone surrogates have no UTF-8; JSON escapes them
        return _ASCII.encode(tree).encode()


def from_tree(tree: Any, home: str = "") -> Any:
    """The inverse of ``to_tree``. ``home`` is the module to search for classes recorded in ``__main__``.

    Raises ``ValueError``, ``TypeError``, ``LookupError`` or ``ImportError`` if a recorded type is gone or no
    longer fits.
    """
    kind = type(tree)
    if kind is list:
        return [from_tree(item, home) for item in tree]
    if kind is not dict:
        return tree
    tag = tree.get(TAG)
    if tag is None:
        return {key: from_tree(item, home) for key, item in tree.items()}
    if tag in _SIMPLE_READERS:
        return _SIMPLE_READERS[tag](tree["value"])
    reader = _READERS.get(tag)
    if reader is None:
        raise ValueError(f"a value tagged {tag!r} is not known to this release")
    return reader(tree, home)


def type_name(kind: type) -> str:
    """``module:Qualified.Name``; the bare name for built-in types."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}:{kind.__qualname__}"


def find_class(name: str, home: str) -> type:
    """The class of a name from ``type_name``: ``pkg.mod:Answer``. Raises ``TypeGone``.

    ``home``: the module of the code that made the value. It is searched first if the recorded module is not loaded, as
    a file has another module name as a script or in a runner.
    """
    module, _, qualname = name.partition(":")
    at_home = home and (module == "__main__" or module not in sys.modules)
    problem: Exception = LookupError(name)
    for place in filter(None, [home, module] if at_home else [module, home]):
        try:
            found: Any = importlib.import_module(place)
            for part in qualname.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            problem = error
            continue
        if isinstance(found, type) and (place == module or found.__module__ == place):
            return found
    raise TypeGone(f"its type {name} can't be found ({problem})")


# --- writing ----------------------------------------------------------------------------------------------------------


def _tagged(value: Any, kind: type, loose: Summaries | None) -> dict[str, Any]:
    simple = _SIMPLE.get(f"{kind.__module__}.{kind.__qualname__}")
    if simple is not None:
        name, write, _ = simple
        return {TAG: name, "value": write(value)}
    if kind is tuple:
        return {TAG: "tuple", "value": _members(value, loose)}
    if kind is set or kind is frozenset:
        return {TAG: kind.__name__, "value": sorted(_members(value, loose), key=_as_text)}
    if kind is datetime.datetime:
        return _write_datetime(value)
    library = kind.__module__.partition(".")[0]
    if library == "pathlib":
        return {TAG: "pure_path" if kind.__name__.startswith("Pure") else "path", "value": str(value)}
    if library == "collections" and (tree := _tagged_collection(value, kind, loose)):
        return tree
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic) and not isinstance(value, numpy.void):
        return {TAG: "numpy", "dtype": value.dtype.str, "value": _as_base64(value.tobytes())}
    try:
        if kind.__name__ in PANDAS_SCALARS and library == "pandas":
            return {TAG: PANDAS_SCALARS[kind.__name__], **write_scalar(value)}
        form = builtin_format(value)  # an array or frame as a member: it has no bytes of its own
        if form is not None:
            return {TAG: "stored", "format": form.name, "value": _as_base64(form.write(value))}
    except Exception as error:
        raise Unstorable(kind, str(error)) from error
    return _tagged_class(value, kind, loose)


def _tagged_collection(value: Any, kind: type, loose: Summaries | None) -> dict[str, Any] | None:
    if kind is collections.deque:
        return {TAG: "deque", "maxlen": value.maxlen, "value": _members(value, loose)}
    if kind is collections.OrderedDict:
        items = [[to_tree(key, loose), to_tree(item, loose)] for key, item in value.items()]
        return {TAG: "ordered_dict", "value": items}
    if kind is collections.Counter:
        return {TAG: "counter", "value": _items(value, loose)}
    if kind is not collections.defaultdict:
        return None
    made = value.default_factory
    if made is not None and not (isinstance(made, type) and (made.__module__ == "builtins" or is_importable(made))):
        advice = f"its default_factory {getattr(made, '__name__', made)!r} can't be found by name; return dict(value)"
        raise Unstorable(kind, advice)
    return {TAG: "defaultdict", "factory": made and _named(made, loose), "value": _items(value, loose)}


def _tagged_class(value: Any, kind: type, loose: Summaries | None) -> dict[str, Any]:
    write: Callable[[], Any]
    if isinstance(value, Enum):
        tag, write = "enum", lambda: to_tree(value.value, loose)
    elif hasattr(kind, "__pydantic_validator__") and hasattr(kind, "model_validate_json"):
        tag, write = "model", lambda: _dump_model(value, kind, loose)
    elif is_dataclass(kind):
        tag, write = "dataclass", lambda: {one.name: to_tree(getattr(value, one.name), loose) for one in fields(kind)}
    elif issubclass(kind, tuple) and hasattr(kind, "_fields"):
        tag, write = "namedtuple", lambda: _members(value, loose)
    else:
        for plain in (dict, list, tuple, set, str, int, float):
            if issubclass(kind, plain):
                raise Unstorable(kind, f"a subclass of {plain.__name__} would come back as another type")
        raise Unstorable(kind, way_out(kind) or "it has no JSON form")
    if loose is None and not is_importable(kind):
        raise Unstorable(kind, "its class can't be found by name; define it at the top of a module")
    return {TAG: tag, "class": _named(kind, loose), "value": write()}


def _members(value: Any, loose: Summaries | None) -> list[Any]:
    return [to_tree(item, loose) for item in value]


def _items(value: Any, loose: Summaries | None) -> list[Any]:
    """Keys with their values, for digests in the order of the keys' text."""
    items = [[to_tree(key, loose), to_tree(item, loose)] for key, item in value.items()]
    return sorted(items, key=_as_text) if loose else items


def _named(kind: type, loose: Summaries | None) -> str:
    return kind.__qualname__ if loose is not None and kind.__module__ == loose.home else type_name(kind)


def _as_text(tree: Any) -> str:
    return json.dumps(tree, sort_keys=True)


def _as_base64(block: bytes) -> str:
    return b64encode(block).decode()


def _dump_model(value: Any, kind: Any, loose: Summaries | None) -> Any:
    try:
        content = value.model_dump(mode="json", by_alias=True)
        if loose is not None or kind.model_validate_json(json.dumps(content)) == value:
            return content
    except Exception as error:
        raise Unstorable(kind, f"the model can't be written as JSON and read back ({error})") from error
    raise Unstorable(
        kind, "written as JSON and read back, the model is not equal to itself (secret or excluded fields?)"
    )


def is_importable(kind: type) -> bool:
    """Whether its module's name and its own lead to this class."""
    found: Any = sys.modules.get(kind.__module__)
    for part in kind.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is kind


def _write_datetime(value: datetime.datetime) -> dict[str, Any]:
    written: dict[str, Any] = {TAG: "datetime", "value": value.isoformat()}
    zone = getattr(value.tzinfo, "key", None)
    if isinstance(zone, str):
        written["zone"] = zone
    if value.fold:
        written["fold"] = value.fold
    return written


# --- reading ----------------------------------------------------------------------------------------------------------


def _find(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _class_of(tree: dict[str, Any], home: str) -> Any:
    return find_class(str(tree["class"]), home)


def _read_datetime(tree: dict[str, Any], _home: str) -> datetime.datetime:
    value = datetime.datetime.fromisoformat(tree["value"])
    if "zone" in tree:
        value = value.replace(tzinfo=_find("zoneinfo", "ZoneInfo")(tree["zone"]))
    return value.replace(fold=1) if tree.get("fold") else value


def _read_dataclass(tree: dict[str, Any], home: str) -> Any:
    cls: Any = _class_of(tree, home)
    if not is_dataclass(cls):
        raise ValueError(f"{tree['class']} is no dataclass any more")
    given = {name: from_tree(item, home) for name, item in tree["value"].items()}
    known = {item.name: item for item in fields(cls)}
    if surplus := sorted(given.keys() - known.keys()):
        raise ValueError(f"{tree['class']} has no field {', '.join(surplus)} any more")
    make: Any = cls
    value = make(**{name: item for name, item in given.items() if known[name].init})
    for name, item in given.items():
        if not known[name].init:
            object.__setattr__(value, name, item)
    return value


def _read_defaultdict(tree: dict[str, Any], home: str) -> Any:
    name = tree["factory"]
    made: Any = None
    if name is not None:
        made = find_class(name if ":" in name else f"builtins:{name}", home)
    return collections.defaultdict(made, _pairs(tree, home))


def _pairs(tree: dict[str, Any], home: str) -> list[Any]:
    return [(from_tree(key, home), from_tree(item, home)) for key, item in tree["value"]]


def _read_members(tree: dict[str, Any], home: str) -> list[Any]:
    return [from_tree(item, home) for item in tree["value"]]


_SIMPLE: dict[str, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "builtins.bytes": ("bytes", _as_base64, b64decode),
    "builtins.bytearray": ("bytearray", _as_base64, lambda value: bytearray(b64decode(value))),
    "builtins.complex": ("complex", str, complex),
    "builtins.range": ("range", lambda value: [value.start, value.stop, value.step], lambda value: range(*value)),
    "datetime.date": ("date", lambda value: value.isoformat(), datetime.date.fromisoformat),
    "datetime.time": ("time", lambda value: value.isoformat(), datetime.time.fromisoformat),
    "datetime.timedelta": (
        "timedelta",
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda value: datetime.timedelta(*value),
    ),
    "uuid.UUID": ("uuid", str, lambda value: _find("uuid", "UUID")(value)),
    "decimal.Decimal": ("decimal", str, lambda value: _find("decimal", "Decimal")(value)),
    "fractions.Fraction": ("fraction", str, lambda value: _find("fractions", "Fraction")(value)),
}
"""Type → its tag, and how its value is written and read."""

_SIMPLE_READERS = {tag: read for tag, _, read in _SIMPLE.values()}

_READERS: dict[str, Callable[[dict[str, Any], str], Any]] = {
    "float": lambda tree, _: float(tree["value"]),
    "dict": lambda tree, home: dict(_pairs(tree, home)),
    "tuple": lambda tree, home: tuple(_read_members(tree, home)),
    "set": lambda tree, home: set(_read_members(tree, home)),
    "frozenset": lambda tree, home: frozenset(_read_members(tree, home)),
    "datetime": _read_datetime,
    "path": lambda tree, _: _find("pathlib", "Path")(tree["value"]),
    "pure_path": lambda tree, _: _find("pathlib", "PurePath")(tree["value"]),
    "enum": lambda tree, home: _class_of(tree, home)(from_tree(tree["value"], home)),
    "model": lambda tree, home: _class_of(tree, home).model_validate_json(json.dumps(tree["value"])),
    "dataclass": _read_dataclass,
    "namedtuple": lambda tree, home: _class_of(tree, home)(*_read_members(tree, home)),
    "ordered_dict": lambda tree, home: collections.OrderedDict(_pairs(tree, home)),
    "counter": lambda tree, home: collections.Counter(dict(_pairs(tree, home))),
    "defaultdict": _read_defaultdict,
    "deque": lambda tree, home: collections.deque(_read_members(tree, home), tree["maxlen"]),
    "timestamp": lambda tree, _: read_scalar("Timestamp", tree),
    "time_delta": lambda tree, _: read_scalar("Timedelta", tree),
    "nat": lambda _tree, _: _find("pandas", "NaT"),
    "stored": lambda tree, _: format_named(tree["format"]).read(b64decode(tree["value"])),
    "numpy": lambda tree, _: _find("numpy", "frombuffer")(b64decode(tree["value"]), dtype=tree["dtype"])[0],
}
