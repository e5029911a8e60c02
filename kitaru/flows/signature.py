"""A function's parameters and result, and inputs converted to them: ``datetime``s, enums and models arrive as JSON.

Plain types are checked by hand, and strictly: 3 is no ``str``, ``True`` no ``int``. pydantic converts all others.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from functools import cached_property
from typing import Any, Literal, Union

from kitaru.errors import KitaruInputError, KitaruUsageError, Problem

NoneType = type(None)
PLAIN: dict[Any, str] = {
    NoneType: "null", bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object",
}  # fmt: skip
"""Types that are checked by hand → their names in a JSON Schema."""


class Mismatch(ValueError):
    """The value doesn't fit its annotation; the text has both."""


def convert(value: Any, annotation: Any) -> Any:
    """``value`` as ``annotation`` says: ``convert("2026-01-02", date)`` is a date. Raises ``Mismatch``."""
    if annotation is Any or annotation is type(value):
        return value
    plain = _is(value, annotation)
    if plain is None:
        return _convert_by_pydantic(value, annotation)
    if not plain:
        raise Mismatch(f"expected {describe(annotation)}, got {_shown(value)}")
    return float(value) if annotation is float and type(value) is int else value


def fits(value: Any, annotation: Any) -> bool:
    """Whether ``value`` fits ``annotation``, as far as can be seen without a conversion."""
    plain = _is(value, annotation)
    if plain is not None:
        return plain
    kind = typing.get_origin(annotation) or annotation
    if kind in (Union, types.UnionType):
        return any(fits(value, option) for option in typing.get_args(annotation))
    if typing.is_typeddict(kind):
        return isinstance(value, dict)
    return not isinstance(kind, type) or getattr(kind, "_is_protocol", False) or isinstance(value, kind)


def describe(annotation: Any) -> str:
    """The annotation as one writes it: ``list[int]``, ``str | None``."""
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("NoneType", "None")


def _is(value: Any, annotation: Any) -> bool | None:
    """Whether a plain annotation holds; None for one that isn't plain."""
    if annotation is Any or annotation is object or isinstance(annotation, typing.TypeVar):
        return True
    if annotation is None:
        return value is None
    origin, options = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None or not options:
        kind = origin or annotation
        if kind in (int, float):
            return isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
        return isinstance(value, kind) if isinstance(kind, type) and kind in PLAIN else None
    if origin in (Union, types.UnionType):
        found = [_is(value, option) for option in options]
        return True if True in found else None if None in found else False
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in options)
    if origin in (dict, Mapping):
        pairs = value if isinstance(value, dict) else {}
        keys, values = _all(pairs, options[0]), _all(pairs.values(), options[1])
        return None if keys is None or values is None else isinstance(value, dict) and keys and values
    if origin in (list, Sequence):
        kinds = list if origin is list else (list, tuple)
        members = _all(value if isinstance(value, kinds) else (), options[0])
        return None if members is None else isinstance(value, kinds) and members
    return None


def _all(items: Iterable[Any], annotation: Any) -> bool | None:
    return None if _is(None, annotation) is None else all(_is(item, annotation) for item in items)


def _convert_by_pydantic(value: Any, annotation: Any) -> Any:
    # pydantic takes longer to load than everything else a small flow needs; here its types are asked for.
    from pydantic import ValidationError

    try:
        adapter = adapter_of(annotation)
    except Exception:  # a type that pydantic knows nothing of: looked at as far as that goes, and not converted
        if fits(value, annotation):
            return value
        raise Mismatch(f"expected {describe(annotation)}, got {_shown(value)}") from None
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        details = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" if item["loc"] else item["msg"]
            for item in error.errors()
        )
        raise Mismatch(f"expected {describe(annotation)}, got {_shown(value)} ({details})") from None


def adapter_of(annotation: Any) -> Any:
    """pydantic's adapter for an annotation. Raises the errors of pydantic, or of a hook of the type."""
    from pydantic import ConfigDict, TypeAdapter

    annotation = for_pydantic(annotation)
    try:
        return TypeAdapter(annotation)
    except Exception:  # Not for models: their own configuration stands, and giving another one is an error.
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))


def for_pydantic(annotation: Any) -> Any:
    """The annotation as pydantic takes it: before Python 3.12 it refuses ``typing.TypedDict``."""
    options = typing.get_args(annotation)
    if typing.is_typeddict(annotation) and annotation.__module__ != "typing_extensions" and sys.version_info < (3, 12):
        return _typed_dict(annotation)
    if not options or typing.get_origin(annotation) is Literal:
        return annotation
    made = tuple(for_pydantic(option) for option in options)
    if all(new is old for new, old in zip(made, options, strict=True)):
        return annotation
    if isinstance(annotation, types.UnionType):
        return Union[made]  # noqa: UP007 - the members are known only now
    return annotation.copy_with(made) if hasattr(annotation, "copy_with") else typing.get_origin(annotation)[made]


def _typed_dict(kind: Any) -> Any:
    from typing import NotRequired, Required

    from typing_extensions import TypedDict

    fields = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        # With annotations as text Python takes NotRequired for required.
        said = typing.get_origin(hint) in (Required, NotRequired, typing.Required, typing.NotRequired)
        wrapper: Any = Required if name in kind.__required_keys__ else NotRequired
        fields[name] = hint if said else wrapper[for_pydantic(hint)]
    made: Any = TypedDict
    return made(kind.__name__, fields)


def _shown(value: Any) -> str:
    text = repr(value[:61] if isinstance(value, (str, bytes)) else value)
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    return shown if value is None else f"{type(value).__name__} {shown}"


def returned_schema(annotation: Any) -> dict[str, Any] | None:
    """The kind of value that fits a return annotation, as a JSON Schema; None if any may.

    ``int`` is ``{"title": "int", "type": "integer"}``. It refuses nothing that ``convert`` takes.
    """
    options = typing.get_args(annotation) if typing.get_origin(annotation) in (Union, types.UnionType) else ()
    kinds = [_json_kind(option, exact=_is(None, annotation) is not None) for option in options or (annotation,)]
    if None in kinds:
        return None
    return {"title": describe(annotation), "type": kinds if len(kinds) > 1 else kinds[0]}


def _json_kind(annotation: Any, *, exact: bool) -> str | None:
    """``exact`` False: pydantic reads the annotation, which takes "3" for a number, and a list for a set."""
    kind = NoneType if annotation is None else typing.get_origin(annotation) or annotation
    if exact and isinstance(kind, type) and kind in PLAIN:
        return PLAIN[kind]
    if kind in (list, tuple, set, frozenset, Sequence):
        return "array"
    if kind in (dict, Mapping) or typing.is_typeddict(kind):
        return "object"
    if kind is NoneType:
        return "null"
    validators = getattr(getattr(kind, "__pydantic_decorators__", None), "model_validators", {})
    simple = is_dataclass(kind) or hasattr(kind, "model_fields")
    return "object" if simple and not validators and not getattr(kind, "__pydantic_root_model__", False) else None


_EMPTY = inspect.Parameter.empty
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Parameters:
    """The parameters of a function, looked at when first needed."""

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

        ``TypeError`` in Python's own words.
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
        """Advice for a method, whose first parameter stays empty; nothing for a plain function."""
        owner = self._func.__qualname__.rpartition(".")[0]
        first = next(iter(self.signature.parameters), "")
        if not owner or owner.endswith("<locals>") or first not in ("self", "cls"):
            return ""
        return (
            f"; it is a method of {owner.rpartition('.')[2]}, and a checkpoint is given no {first}: "
            "put @staticmethod above its decorator, or make it a plain function"
        )

    def bind_inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], owner: str) -> dict[str, Any]:
        """Inputs by name, defaults filled in, each converted to its annotation's type.

        Raises ``KitaruInputError`` with every problem; ``KitaruUsageError`` for a function of inputs without names
        (``*args``).
        """
        positional, names, defaults, _ = self._names
        kinds = {item.kind: item.name for item in self.signature.parameters.values()}
        if rest := kinds.get(inspect.Parameter.VAR_POSITIONAL):
            raise KitaruUsageError(
                f"{owner} takes *{rest}, whose inputs have no names", hint=f"Take a list instead: {rest}: list[str]"
            )
        extra_allowed = kinds.get(inspect.Parameter.VAR_KEYWORD, "")
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
        """The return annotation as a JSON Schema; None if any value may be returned."""
        return returned_schema(self.annotations.get("return", Any))

    def result_fits(self, value: Any) -> bool:
        """Whether ``value`` fits the return annotation; True if there is none."""
        annotation = self.annotations.get("return", Any)
        return annotation is type(value) or fits(value, annotation)

    def describe(self) -> str:
        """``(topic: str, depth: int = 3)``, as written."""
        shown = []
        for item in self.signature.parameters.values():
            annotation, text = item.annotation, str(item.replace(annotation=_EMPTY))
            if annotation is not _EMPTY:
                typed = annotation if isinstance(annotation, str) else describe(annotation)
                default = f" = {item.default!r}" if item.default is not _EMPTY else ""
                text = f"{text.partition('=')[0]}: {typed}{default}"
            shown.append(text)
        return f"({', '.join(shown)})"


def _unexpected(name: str, names: frozenset[str]) -> str:
    import difflib  # only for a typing mistake

    close = difflib.get_close_matches(name, names, n=1)
    return f"{name}: unexpected" + (f" (did you mean {close[0]}?)" if close else "")


def _resolve_each(func: Callable[..., Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, annotation in inspect.get_annotations(func).items():
        alone = types.SimpleNamespace(__annotations__={name: annotation})
        with suppress(Exception):  # an annotation is code of the user's: it may raise anything
            found |= typing.get_type_hints(alone, globalns=getattr(func, "__globals__", {}), include_extras=True)
    return found
