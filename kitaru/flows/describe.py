"""A flow's options, the JSON Schema of its inputs, and the checkpoints that its body reaches."""

from __future__ import annotations

import ast
import dis
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema

from kitaru.errors import KitaruSourceError, Problem
from kitaru.flows.checkpoint import Checkpoint
from kitaru.flows.flow import Flow
from kitaru.flows.signature import Parameters, for_pydantic
from kitaru.model.address import canonical_json
from kitaru.model.snapshot import FlowFacts, ImageSettings, parse_image, settings_flaws

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_NAMED_SCHEMAS = ("properties", "$defs", "patternProperties", "dependentSchemas")
_VALUES = ("enum", "const", "examples")


def facts_of(flow: Flow[..., Any]) -> FlowFacts:
    """The facts of ``flow``, the same on every machine and in every run.

    Raises ``KitaruSourceError`` for parameters that inputs can't be given to by name, and for wrong image settings.
    """
    return FlowFacts(
        retries=flow.options.retries.further or None,
        cache=flow.options.cache,
        timeout=flow.options.timeout,
        stack=flow.options.stack,
        image=_image(flow),
        input_schema=input_schema(flow),
        checkpoints=tuple(dict.fromkeys(found.name for found in checkpoints_of(flow.func))),
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

    A default is in it only if the signature spells it as a plain constant: any other is worked out by each machine for
    itself, and may be a secret. Such a parameter is just not ``required``. An annotation that can't be expressed, or
    can't be resolved, allows anything and says so in ``$comment``.
    """
    parameters = flow.parameters.signature.parameters
    for parameter in parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            message = f"flow {flow.name} takes *{parameter.name}, but inputs are given by name"
            raise _problem(flow, message, "name each parameter, or take one list")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            message = f"flow {flow.name} takes {parameter.name} by position only, but inputs are given by name"
            raise _problem(flow, message, "remove the / from its parameters")
    named = [name for name, value in parameters.items() if value.kind is not value.VAR_KEYWORD]
    constants = _constant_defaults(flow.func)
    properties, definitions = _properties(flow.parameters, named)
    required = [name for name in named if parameters[name].default is inspect.Parameter.empty]
    return {
        **({"$defs": definitions} if definitions else {}),
        "additionalProperties": len(named) < len(parameters),
        "properties": {
            name: {**schema, "default": constants[name]} if name in constants else schema
            for name, schema in properties.items()
        },
        **({"required": required} if required else {}),
        "type": "object",
    }


def _constant_defaults(func: Any) -> dict[str, Any]:
    """The defaults that the source spells as JSON-like constants: ``{"depth": 3}`` for ``depth: int = 3``."""
    try:
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(func))).body
    except (OSError, SyntaxError, ValueError):
        return {}
    return dict(_constants(node.args)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else {}


def _constants(arguments: ast.arguments) -> Iterator[tuple[str, Any]]:
    positional = [*arguments.posonlyargs, *arguments.args]
    late = positional[len(positional) - len(arguments.defaults) :]
    pairs = [
        *zip(late, arguments.defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    for parameter, default in pairs:
        if default is not None:
            try:
                yield parameter.arg, json.loads(canonical_json(ast.literal_eval(default)))
            except (ValueError, TypeError, RecursionError):  # a name, a call, a set: nothing that JSON has
                continue


def _properties(parameters: Parameters, names: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of each parameter, and the definitions that they refer to."""
    adapters: dict[str, TypeAdapter[Any]] = {}
    schemas: dict[str, Any] = {}
    for name in names:
        made = _adapter(parameters, name)
        if isinstance(made, str):
            schemas[name] = {"$comment": made}
        else:
            adapters[name] = made
    # All at once: two classes of one name become two definitions.
    inputs = [(name, "validation", adapter) for name, adapter in adapters.items()]
    found, rest = TypeAdapter.json_schemas(inputs, schema_generator=_Schemas)  # type: ignore[arg-type]
    schemas.update({name: _tidied(found[name, "validation"]) for name in adapters})
    return {name: schemas[name] for name in names}, _tidied(rest).get("$defs", {})


def _adapter(parameters: Parameters, name: str) -> TypeAdapter[Any] | str:
    """pydantic's adapter for a parameter; the reason if there is none."""
    annotation = parameters.signature.parameters[name].annotation
    if annotation is not inspect.Parameter.empty and name not in parameters.annotations:
        return f"the annotation {_spelled(annotation)} can't be resolved"
    hint = parameters.annotations.get(name, Any)
    try:
        adapter = TypeAdapter(for_pydantic(hint))
        adapter.json_schema(schema_generator=_Schemas)
        return adapter
    except Exception:
        return f"JSON Schema can't express {_spelled(hint)}"


class _Schemas(GenerateJsonSchema):
    """Without warnings, and with a format for the text of a decimal, so that other text is refused."""

    ignored_warning_kinds = frozenset({"non-serializable-default", "skipped-choice"})  # type: ignore[assignment]

    def decimal_schema(self, schema: Any) -> dict[str, Any]:
        """A number, or its text."""
        made = super().decimal_schema(schema)
        for option in made.get("anyOf", ()):
            if option.get("type") == "string":
                option["format"] = "decimal"
        return made


def _spelled(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return _ADDRESS.sub("", text)


def _tidied(schema: Any, *, names: bool = False) -> Any:
    """``schema`` without titles, defaults and addresses, its keys in order. ``names``: the user chose the keys."""
    if isinstance(schema, list):
        return [_tidied(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for key in sorted(schema if names else schema.keys() - {"title", "default"}):
        value = schema[key]
        if not names and key == "description" and isinstance(value, str):
            kept[key] = _ADDRESS.sub("", value)
        elif not names and key in _VALUES:
            kept[key] = value
        else:
            kept[key] = _tidied(value, names=not names and key in _NAMED_SCHEMAS)
    return kept


# --- the checkpoints --------------------------------------------------------------------------------------------------


def checkpoints_of(func: Any) -> list[Checkpoint[..., Any]]:
    """The checkpoints that the body of ``func`` mentions, itself or through functions of its own module.

    In the order in which they stand in the code; ``steps.fetch`` counts, too, if ``steps`` is a module.
    """
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
