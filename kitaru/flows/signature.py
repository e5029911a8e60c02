"""Whether a value is what an annotation says, and inputs made into it: ``datetime``s, enums and models arrive as JSON.

Plain types are checked by hand, and strictly: 3 is no ``str``, ``True`` no ``int``. Only other types need pydantic.
"""

from __future__ import annotations

import inspect
import numbers
import sys
import types
import typing
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum
from functools import cached_property
from typing import Annotated, Any, Literal, Union

from kitaru.errors import KitaruInputError, KitaruUsageError, KitaruValueError, Problem

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


_EMPTY = inspect.Parameter.empty
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Parameters:
    """What a function takes. Looked at once, when first needed."""

    def __init__(self, func: Callable[..., Any]) -> None:
        self._func = func

    @cached_property
    def signature(self) -> inspect.Signature:
        """As ``inspect`` sees it, annotations unresolved."""
        return inspect.signature(self._func)

    @cached_property
    def annotations(self) -> dict[str, Any]:
        """Resolved annotations by parameter name, and ``return``. One that can't be resolved is left out."""
        try:
            return typing.get_type_hints(self._func, include_extras=True)
        except Exception:
            return _resolve_each(self._func)

    @cached_property
    def _names(self) -> tuple[tuple[str, ...], frozenset[str], dict[str, Any], bool]:
        """Positional names, all names, defaults, and whether every parameter can be given by name."""
        parameters = self.signature.parameters.values()
        positional = tuple(item.name for item in parameters if item.kind is not inspect.Parameter.KEYWORD_ONLY)
        defaults = {item.name: item.default for item in parameters if item.default is not _EMPTY}
        simple = all(item.kind in _NAMED for item in parameters)
        return positional, frozenset(self.signature.parameters), defaults, simple

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name, defaults filled in.

        ``TypeError`` where they don't fit, as Python would say it.
        """
        positional, names, defaults, simple = self._names
        if simple and len(args) <= len(positional):
            bound = dict(zip(positional, args, strict=False))
            if not kwargs or (kwargs.keys() <= names and bound.keys().isdisjoint(kwargs)):
                if len(bound) == len(names):
                    return bound
                whole = {**defaults, **bound, **kwargs}
                if len(whole) == len(names):
                    return whole
        try:
            found = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._func.__name__}(): {error}{self._as_method()}") from None
        found.apply_defaults()
        return dict(found.arguments)

    def _as_method(self) -> str:
        """What to do about a method, whose first parameter nobody fills in; empty for a plain function."""
        owner = self._func.__qualname__.rpartition(".")[0]
        first = next(iter(self.signature.parameters), "")
        if not owner or owner.endswith("<locals>") or first not in ("self", "cls"):
            return ""
        return (
            f"; it is a method of {owner.rpartition('.')[2]}, and a checkpoint is given no {first}: "
            "put @staticmethod above its decorator, or make it a plain function"
        )

    def bind_inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], owner: str) -> dict[str, Any]:
        """Inputs by name, defaults filled in, each converted to what its annotation says.

        Raises ``KitaruInputError`` with every problem; ``KitaruUsageError`` for a function whose inputs have no names
        (``*args``).
        """
        positional, names, defaults, _ = self._names
        extra_allowed = self._check_kinds(owner)
        given: dict[str, Any] = dict(zip(positional, args, strict=False))
        problems: list[str] = []
        if len(args) > len(positional):
            problems.append(f"takes {len(positional)} positional inputs, {len(args)} were given")
        for name, value in kwargs.items():
            if name in given:
                problems.append(f"{name}: given twice")
            elif (name in names and name != extra_allowed) or extra_allowed:
                given[name] = value
            else:
                problems.append(_unexpected(name, names - given.keys() - kwargs.keys() or names))
        for name, value in given.items():
            annotation = self.annotations.get(name, Any) if name in names else Any
            try:
                given[name] = convert(value, annotation)
            except Mismatch as mismatch:
                problems.append(f"{name}: {mismatch}")
        missing = [name for name in names if name not in given and name not in defaults and name != extra_allowed]
        problems += [f"{name}: missing" for name in sorted(missing, key=list(self.signature.parameters).index)]
        if problems:
            raise KitaruInputError(
                f"the inputs of {owner} don't fit: {'; '.join(problems)}",
                problems=tuple(Problem(problem) for problem in problems),
                hint=f"It takes: {self.describe()}",
            )
        return {**defaults, **given}

    def arguments(self, inputs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """``inputs`` as the positional and named arguments of a call."""
        only = [item.name for item in self.signature.parameters.values() if item.kind is item.POSITIONAL_ONLY]
        return tuple(inputs[name] for name in only), {name: item for name, item in inputs.items() if name not in only}

    @cached_property
    def returned(self) -> dict[str, Any] | None:
        """What is returned, as a JSON Schema, whose title is the annotation as written; None where nothing is known."""
        return returned_schema(self.annotations.get("return", Any))

    def result_fits(self, value: Any) -> bool:
        """Whether ``value`` is what the return annotation says; True where there is none."""
        annotation = self.annotations.get("return", Any)
        return annotation is type(value) or fits(value, annotation)

    def require_result(self, value: Any, owner: str) -> bool:
        """Whether ``value`` is what the return annotation says, to the last member.

        ``KitaruValueError`` where it is of another kind altogether: a text under ``-> int``.
        """
        annotation = self.annotations.get("return", Any)
        if annotation is type(value) or fits(value, annotation):
            return True
        if is_kind(value, annotation):
            return False
        found = "None" if value is None else type(value).__name__
        wider = f"{describe(annotation)} | {found}"
        raise KitaruValueError(
            f"{owner}: expected {describe(annotation)}, got {found}",
            hint=f"Return what its annotation says, or correct that: -> {wider}, -> Any, or none at all.",
        )

    def describe(self) -> str:
        """``(topic: str, depth: int = 3)``, as written."""
        shown = [str(item.replace(annotation=_EMPTY)) for item in self.signature.parameters.values()]
        typed = [
            item
            if parameter.annotation is _EMPTY
            else f"{item.partition('=')[0]}: {_as_written(parameter.annotation)}"
            + (f" = {parameter.default!r}" if parameter.default is not _EMPTY else "")
            for item, parameter in zip(shown, self.signature.parameters.values(), strict=True)
        ]
        return f"({', '.join(typed)})"

    def _check_kinds(self, owner: str) -> str:
        """The name of ``**kwargs``, empty where there is none."""
        for item in self.signature.parameters.values():
            if item.kind is inspect.Parameter.VAR_POSITIONAL:
                raise KitaruUsageError(
                    f"{owner} takes *{item.name}, whose inputs have no names",
                    hint=f"Take a list instead: {item.name}: list[str]",
                )
            if item.kind is inspect.Parameter.VAR_KEYWORD:
                return item.name
        return ""


def _as_written(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else describe(annotation)


def _unexpected(name: str, names: frozenset[str]) -> str:
    import difflib  # only for somebody's typing mistake

    close = difflib.get_close_matches(name, names, n=1)
    return f"{name}: unexpected" + (f" (did you mean {close[0]}?)" if close else "")


def _resolve_each(func: Callable[..., Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    space = getattr(sys.modules.get(func.__module__), "__dict__", {})
    for name, annotation in getattr(func, "__annotations__", {}).items():
        try:
            found[name] = eval(annotation, dict(space)) if isinstance(annotation, str) else annotation
        except Exception:
            continue
    return found
