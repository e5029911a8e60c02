"""What a function returns, by its annotation, as a JSON Schema: for whoever gives a result without having the code.

It refuses only what ``conversion.convert`` would refuse as well. Members are described where every part of the
annotation is checked by hand; of the types that pydantic reads, only what JSON calls them.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum
from typing import Any, Literal, Union

from kitaru.flows.conversion import describe

Schema = dict[str, Any]

PLAIN: dict[Any, Schema] = {
    None: {"type": "null"},
    type(None): {"type": "null"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    list: {"type": "array"},
    dict: {"type": "object"},
}
ARRAYS = (list, tuple, set, frozenset, Sequence)
OBJECTS = (dict, Mapping)


class _Unknown(Exception):
    """Nothing is known of what such an annotation takes."""


def returned_schema(annotation: Any) -> Schema | None:
    """What fits ``annotation``, which ``title`` names as it is written; None where anything may."""
    try:
        found = _exact(annotation)
    except _Unknown:
        try:
            found = _roughly(annotation)
        except _Unknown:
            return None
    return {"title": describe(annotation), **found} if found else None


def _exact(annotation: Any) -> Schema:
    if annotation is Any or annotation is object or isinstance(annotation, typing.TypeVar):
        return {}
    origin, options = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None:
        if _hashable(annotation) and annotation in PLAIN:
            return dict(PLAIN[annotation])
        raise _Unknown
    if origin in (Union, types.UnionType):
        return {"anyOf": [_exact(option) for option in options]}
    if origin is Literal:
        return _one_of(list(options))
    if origin in (dict, Mapping) and len(options) == 2:
        values = _exact(options[1])
        if options[0] not in (str, Any):
            raise _Unknown
        return {"type": "object", "additionalProperties": values} if values else {"type": "object"}
    if origin in (list, Sequence) and options:
        items = _exact(options[0])
        return {"type": "array", "items": items} if items else {"type": "array"}
    raise _Unknown


def _roughly(annotation: Any) -> Schema:
    """Of an annotation that pydantic reads, which is lenient: ``"3"`` may do for a number."""
    origin, options = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_roughly(option) for option in options]}
    kind = origin or annotation
    if kind is None or kind is type(None):
        return {"type": "null"}
    if kind in ARRAYS:
        return {"type": "array"}
    if kind in OBJECTS or typing.is_typeddict(kind):
        return {"type": "object"}
    if not isinstance(kind, type):
        raise _Unknown
    if issubclass(kind, Enum):
        return _one_of([member.value for member in kind]) if "_missing_" not in vars(kind) else _unknown()
    if hasattr(kind, "__get_pydantic_core_schema__") and not _is_model(kind):
        raise _Unknown
    if _is_model(kind) or is_dataclass(kind):
        return {"type": "object"}
    raise _Unknown


def _is_model(kind: Any) -> bool:
    """Whether it is a model that nothing but an object makes: no root model, no validator that comes before that."""
    if not hasattr(kind, "__pydantic_validator__") or getattr(kind, "__pydantic_root_model__", False):
        return False
    return not getattr(getattr(kind, "__pydantic_decorators__", None), "model_validators", True)


def _one_of(values: list[Any]) -> Schema:
    return {"enum": values} if all(type(value) is str for value in values) else _unknown()


def _unknown() -> Schema:
    raise _Unknown


def _hashable(annotation: Any) -> bool:
    try:
        hash(annotation)
    except TypeError:
        return False
    return True
