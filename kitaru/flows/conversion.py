"""Whether a value is what an annotation says, and inputs made into it: ``datetime``s, enums and models arrive as JSON.

Plain types are checked by hand, and strictly: 3 is no ``str``, ``True`` no ``int``. Only other types need pydantic.
"""

from __future__ import annotations

import numbers
import types
import typing
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union

NoneType = type(None)
SCALARS: tuple[type, ...] = (str, int, float, bool, bytes, NoneType)
CONTAINERS = (list, dict, tuple, set, frozenset)
_ABSTRACT: dict[Any, tuple[type, ...]] = {Sequence: (list, tuple), Mapping: (dict,)}


class Mismatch(ValueError):
    """The value is not what was expected; the text says both."""


class _NotPlain(Exception):
    """The annotation holds a type that is not checked by hand."""


def convert(value: Any, annotation: Any) -> Any:
    """``value`` as ``annotation`` says. ``Mismatch`` where it can't be."""
    if annotation is Any or annotation is type(value):
        return value
    try:
        if _check(value, annotation):
            return float(value) if annotation is float and type(value) is int else value
    except _NotPlain:
        return _convert_by_pydantic(value, annotation)
    raise Mismatch(f"expected {describe(annotation)}, got {_got(value)}")


def fits(value: Any, annotation: Any) -> bool:
    """Whether ``value`` is what ``annotation`` says, as far as that can be told without converting it."""
    try:
        return _check(value, annotation)
    except _NotPlain:
        origin = typing.get_origin(annotation)
        if typing.is_typeddict(annotation):
            return isinstance(value, dict) and annotation.__required_keys__ <= value.keys()
        if annotation.__class__ is type or isinstance(annotation, type):
            return getattr(annotation, "_is_protocol", False) or isinstance(value, origin or annotation)
        if origin in (Union, types.UnionType):
            return any(fits(value, option) for option in typing.get_args(annotation))
        return True


def is_kind(value: Any, annotation: Any) -> bool:
    """Whether ``value`` is of the kind that ``annotation`` names; only False where it plainly is not.

    Members are not looked at, numbers stand for each other, and so do kinds of list, of set and of mapping: wrong
    annotations of that sort are common, and harm nobody. Under ``-> None`` anything goes.
    """
    kind = typing.get_origin(annotation) or annotation
    if annotation is None or annotation is NoneType or fits(value, annotation):
        return True
    if kind in (Union, types.UnionType):
        return any(is_kind(value, option) for option in typing.get_args(annotation) if option is not NoneType)
    if kind is Annotated:
        return is_kind(value, typing.get_args(annotation)[0])
    if kind is Literal:
        return any(is_kind(value, type(option)) for option in typing.get_args(annotation))
    if not isinstance(kind, type) or getattr(kind, "_is_protocol", False) or kind.__module__ == "collections.abc":
        return True
    if issubclass(kind, numbers.Number):
        return _is_number(value)
    return isinstance(value, next((family for family in _FAMILIES if issubclass(kind, family)), kind))


def _is_number(value: Any) -> bool:
    """Python's own, and those of a library that turn into one: NumPy's and pandas's."""
    return isinstance(value, numbers.Number) or getattr(getattr(value, "dtype", None), "kind", "") in tuple("biufc")


_FAMILIES: tuple[tuple[type, ...], ...] = (
    (list, tuple, deque),
    (set, frozenset),
    (dict,),
    (bytes, bytearray, memoryview),
)


def describe(annotation: Any) -> str:
    """The annotation as one writes it."""
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("NoneType", "None")


def _check(value: Any, annotation: Any) -> bool:
    """Whether a plain annotation holds; ``_NotPlain`` for any other."""
    if annotation is Any or isinstance(annotation, typing.TypeVar) or annotation is object:
        return True
    if annotation is None or annotation is NoneType:
        return value is None
    if annotation in (int, float):
        return isinstance(value, (int, float) if annotation is float else int) and not isinstance(value, bool)
    if annotation in SCALARS or annotation in CONTAINERS:
        return isinstance(value, annotation)
    origin, options = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        return _check_any(value, options)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in options)
    if origin is dict or origin is Mapping:
        keys, values = options
        return isinstance(value, dict) and all(_all(value.keys(), keys)) and all(_all(value.values(), values))
    if origin in (list, Sequence) and options:
        return isinstance(value, _ABSTRACT.get(origin, (list,))) and all(_all(value, options[0]))
    raise _NotPlain


def _all(items: Any, annotation: Any) -> Any:
    # Also for no items: whether the annotation is plain must not hang on the value.
    _probe(annotation)
    return (_check(item, annotation) for item in items)


def _probe(annotation: Any) -> None:
    _check(None, annotation)


def _check_any(value: Any, options: tuple[Any, ...]) -> bool:
    plain, others = False, False
    for option in options:
        try:
            plain = _check(value, option) or plain
        except _NotPlain:
            others = True
    if not plain and others:
        raise _NotPlain
    return plain


def _convert_by_pydantic(value: Any, annotation: Any) -> Any:
    # pydantic takes longer to load than everything else a small flow needs; here its types are asked for.
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    try:
        adapter = _adapter(annotation, TypeAdapter, ConfigDict(arbitrary_types_allowed=True))
    except Exception:  # a type that pydantic knows nothing of: looked at as far as that goes, and not converted
        if fits(value, annotation):
            return value
        raise Mismatch(f"expected {describe(annotation)}, got {_got(value)}") from None
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        details = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" if item["loc"] else item["msg"]
            for item in error.errors()
        )
        raise Mismatch(f"expected {describe(annotation)}, got {_got(value)} ({details})") from None


def _adapter(annotation: Any, make: Any, lenient: Any) -> Any:
    try:
        return make(annotation)
    except Exception:  # Not for models: their own configuration stands, and giving another one is an error.
        return make(annotation, config=lenient)


def _got(value: Any) -> str:
    text = repr(value[:61] if isinstance(value, (str, bytes)) else value)
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    return shown if value is None else f"{type(value).__name__} {shown}"
