"""What a flow says about itself: its options, the JSON Schema of its inputs, the checkpoints that its body reaches."""

from __future__ import annotations

import dis
import inspect
import re
import types
import typing
import warnings
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, create_model

from kitaru.errors import KitaruSourceError, Problem
from kitaru.flows.checkpoint import Checkpoint
from kitaru.flows.flow import Flow
from kitaru.flows.retry import further_attempts
from kitaru.model.address import canonical_json
from kitaru.model.image import ImageSettings, parse_image, settings_flaws
from kitaru.model.snapshot import FlowFacts

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_NAMED_SCHEMAS = ("properties", "$defs", "patternProperties", "dependentSchemas")
_LISTED_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE_SCHEMAS = ("items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else")


def facts_of(flow: Flow[..., Any]) -> FlowFacts:
    """What ``flow`` says, the same on every machine and in every run.

    Raises ``KitaruSourceError`` for parameters that inputs can't be given to by name, and for wrong image settings.
    """
    return FlowFacts(
        retries=further_attempts(flow.options.retries) or None,
        cache=flow.options.cache,
        timeout=flow.options.timeout,
        stack=flow.options.stack,
        image=_image(flow),
        input_schema=input_schema(flow),
        checkpoints=tuple(dict.fromkeys(reached_checkpoints(flow.func))),
        summary=(inspect.getdoc(flow.func) or "").partition("\n")[0].strip(),
    )


def _image(flow: Flow[..., Any]) -> ImageSettings | None:
    if flow.options.image is None:
        return None
    try:
        image = parse_image(flow.options.image)
    except (ValidationError, TypeError, ValueError) as error:
        details = error.errors() if isinstance(error, ValidationError) else []
        what = "; ".join(f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in details) or str(error)
        message = f"image= of flow {flow.name} is wrong: {what}"
        raise _problem(flow, message, "kitaru schema manifest lists the settings") from error
    for flaw in settings_flaws(image):
        said = f"{flaw.member}: {flaw.expected}, found {flaw.value[:80]!r}"
        raise _problem(flow, f"image= of flow {flow.name} is wrong: {said}", flaw.hint)
    return image


def _problem(flow: Flow[..., Any], message: str, hint: str) -> KitaruSourceError:
    line = flow.func.__code__.co_firstlineno if isinstance(flow.func, FunctionType) else 0
    problem = Problem(message, line=line, hint=hint)
    return KitaruSourceError(message, problems=(problem,), hint=hint)


# --- the inputs -------------------------------------------------------------------------------------------------------


def input_schema(flow: Flow[..., Any]) -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) of the inputs: an object with one property for each parameter.

    An annotation that can't be expressed, or can't be resolved, allows anything and says so in ``$comment``.
    """
    parameters = inspect.signature(flow.func).parameters
    for parameter in parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            message = f"flow {flow.name} takes *{parameter.name}, but inputs are given by name"
            raise _problem(flow, message, "name each parameter, or take one list")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            message = f"flow {flow.name} takes {parameter.name} by position only, but inputs are given by name"
            raise _problem(flow, message, "remove the / from its parameters")
    named = {name: value for name, value in parameters.items() if value.kind is not value.VAR_KEYWORD}
    hints, comments = _hints(flow.func, list(named))
    schema = _schema(named, hints, comments)
    schema["additionalProperties"] = len(named) < len(parameters)
    return schema


def _hints(func: Any, names: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The resolved annotation of each parameter, and why one could not be."""
    annotations = inspect.get_annotations(func)
    space = getattr(func, "__globals__", {})
    hints: dict[str, Any] = {}
    comments: dict[str, str] = {}
    for name in names:
        if name not in annotations:
            hints[name] = Any
            continue
        one = types.SimpleNamespace(__annotations__={name: annotations[name]})
        try:
            hints[name] = typing.get_type_hints(one, globalns=space, include_extras=True)[name]
        except Exception:  # An annotation is code of the user's: it may raise anything.
            hints[name] = Any
            comments[name] = f"the annotation {_spelled(annotations[name])} can't be resolved"
    return hints, comments


def _spelled(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return _ADDRESS.sub("", text)


def _schema(named: dict[str, inspect.Parameter], hints: dict[str, Any], comments: dict[str, str]) -> dict[str, Any]:
    with warnings.catch_warnings():
        # Pydantic warns of a default that JSON doesn't have; it is left out, which says that there is a default.
        warnings.simplefilter("ignore")
        try:
            schema = _model_schema(named, hints)
        except Exception:  # One annotation, or a hook of one, spoils it all; look which.
            for name, hint in hints.items():
                try:
                    TypeAdapter(hint).json_schema()
                except Exception:
                    hints[name] = Any
                    comments[name] = f"JSON Schema can't express {_spelled(hint)}"
            schema = _model_schema(named, hints)
    schema = dict(_tidied(schema))
    schema.pop("description", None)
    schema.setdefault("properties", {})
    for name, comment in comments.items():
        schema["properties"][name]["$comment"] = comment
    return schema


def _model_schema(named: dict[str, inspect.Parameter], hints: dict[str, Any]) -> dict[str, Any]:
    # The fields have names of their own, since a parameter may be called model_config, json or _x.
    fields: dict[str, Any] = {}
    for number, (name, parameter) in enumerate(named.items()):
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[f"p{number}"] = (hints[name], Field(default, alias=name))
    model = create_model("Inputs", __config__=ConfigDict(extra="forbid"), **fields)
    schema: dict[str, Any] = model.model_json_schema(by_alias=True)
    return schema


def _tidied(schema: Any) -> Any:
    """``schema`` without titles, defaults that are no JSON, and memory addresses; keys in a fixed order."""
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for key in sorted(schema):
        value = schema[key]
        if key == "title":
            continue
        if key in _NAMED_SCHEMAS and isinstance(value, dict):
            kept[key] = {name: _tidied(inner) for name, inner in value.items()}
        elif key in _LISTED_SCHEMAS and isinstance(value, list):
            kept[key] = [_tidied(inner) for inner in value]
        elif key in _SINGLE_SCHEMAS:
            kept[key] = _tidied(value)
        elif key == "description" and isinstance(value, str):
            kept[key] = _ADDRESS.sub("", value)
        elif key != "default" or _is_stable_json(value):
            kept[key] = value
    return kept


def _is_stable_json(value: Any) -> bool:
    try:
        return not _ADDRESS.search(canonical_json(value).decode("utf-8", "replace"))
    except (TypeError, ValueError):
        return False


# --- the checkpoints --------------------------------------------------------------------------------------------------


def reached_checkpoints(func: Any) -> list[str]:
    """Names of the checkpoints that the body of ``func`` mentions, itself or through functions of its own module.

    In the order in which they stand in the code; ``steps.fetch``, where ``steps`` is a module, counts too.
    """
    return [found.name for found in checkpoints_of(func)]


def checkpoints_of(func: Any) -> list[Checkpoint[..., Any]]:
    """The checkpoints that ``reached_checkpoints`` names."""
    return list(_reached(func, set())) if isinstance(func, FunctionType) else []


def _reached(func: FunctionType, seen: set[CodeType]) -> Iterator[Checkpoint[..., Any]]:
    if func.__code__ in seen:
        return
    seen.add(func.__code__)
    mentions = list(_mentioned(func.__code__, _names_seen_by(func)))
    # By their place in the file: the order of the instructions differs from one release of Python to the next.
    for _, value in sorted(mentions, key=lambda mention: mention[0]):
        if isinstance(value, Checkpoint):
            yield value
        elif isinstance(value, FunctionType) and value.__globals__ is func.__globals__:
            yield from _reached(value, seen)


def _names_seen_by(func: FunctionType) -> dict[str, Any]:
    names = dict(func.__globals__)
    for name, cell in zip(func.__code__.co_freevars, func.__closure__ or (), strict=True):
        try:
            names[name] = cell.cell_contents
        except ValueError:  # Not filled yet.
            continue
    return names


def _mentioned(code: CodeType, names: dict[str, Any]) -> Iterator[tuple[tuple[int, int], Any]]:
    """Line and column of each name, and each attribute of a module, that ``code`` loads, and its value."""
    current: Any = None
    for instruction in dis.get_instructions(code):
        place = instruction.positions
        at = ((place.lineno or 0) if place else 0, (place.col_offset or 0) if place else 0)
        if isinstance(instruction.argval, CodeType):
            yield from _mentioned(instruction.argval, names)
        elif instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF"):
            current = names.get(instruction.argval)
            yield at, current
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and isinstance(current, ModuleType):
            current = getattr(current, instruction.argval, None)
            yield at, current
        else:
            current = None
