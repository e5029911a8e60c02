"""The parameters of a function: binding calls fast, and inputs with every problem told at once."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from kitaru.errors import KitaruInputError, KitaruUsageError, KitaruValueError, Problem
from kitaru.flows.conversion import Mismatch, convert, describe, fits, is_kind
from kitaru.flows.returned import returned_schema

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
