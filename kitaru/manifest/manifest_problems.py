"""What is wrong with a manifest's data, in plain English: pydantic's errors translated, none of its words kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from kitaru.manifest.wording import did_you_mean, found, shown
from kitaru.model.image import ImageSettings, base_hint
from kitaru.model.jsonable import Noun
from kitaru.model.manifest import FlowSpec, Manifest, Overlay, SourceSpec
from kitaru.model.route import Protection
from kitaru.model.stack import DockerStack, KubernetesStack, LocalStack

MAX_FINDINGS = 500
"""Beyond this many nobody reads on, and the search for likely spellings begins to take seconds."""

STACK_TYPES: dict[str, type[Noun]] = {
    get_args(model.model_fields["type"].annotation)[0]: model for model in (LocalStack, DockerStack, KubernetesStack)
}

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "tuple_type": "a list",
    "missing": "a value",
}

Raw = Callable[[tuple[str | int, ...]], str]
"""The text that the author wrote at a path, unquoted; empty where there is no single value."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with the data, by its path of keys. ``at_key``: the key is wrong, not its value."""

    path: tuple[str | int, ...]
    message: str
    hint: str = ""
    at_key: bool = False


def schema_findings(data: dict[str, Any], raw: Raw) -> list[Finding]:
    """Everything about ``data`` that the models refuse, types taken strictly: ``"1"`` is no number, ``1`` no text."""
    try:
        # lists become tuples, because pydantic's strict mode takes nothing else for a tuple once a validator of ours
        # has looked at the value
        Manifest.model_validate(_tupled(data), strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False)[:MAX_FINDINGS]
        return [_translate(detail, data, raw) for detail in details]
    return []


def _tupled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tupled(item) for key, item in value.items()}
    return tuple(_tupled(item) for item in value) if isinstance(value, list) else value


def _translate(error: ErrorDetails, data: dict[str, Any], raw: Raw) -> Finding:
    kind, value = error["type"], error["input"]
    path: tuple[str | int, ...] = error["loc"]
    if path[:1] == ("stacks",) and len(path) > 2:
        path = path[:2] + path[3:]  # pydantic names the branch of the union that it took
    if kind == "extra_forbidden":
        return _unknown_key(path, data)
    if kind == "missing":
        return Finding(path[:-1], f"the key {str(path[-1])!r} is missing", _missing_hint(path), at_key=True)
    if kind.startswith("union_tag"):
        return _stack_type(path, value)
    if kind == "value_error":
        return _refused(path, str(error["ctx"]["error"]), value, raw)
    return Finding(path, f"expected {_expected(error, path)}, found {found(value)}", _type_hint(kind, path, value, raw))


def _expected(error: ErrorDetails, path: tuple[str | int, ...]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if path[-1:] == ("image",) and kind == "model_type":
        return "a base image or a mapping"
    match kind:
        case "greater_than":
            return f"a number above {context['gt']:g}"
        case "greater_than_equal":
            return f"{context['ge']:g} or more"
        case "literal_error":
            return str(context["expected"])
    return _EXPECTED.get(kind, "another kind of value")


def _type_hint(kind: str, path: tuple[str | int, ...], value: Any, raw: Raw) -> str:
    text = raw(path)
    if path[-1:] in (("image",), ("base_image",)) and isinstance(value, float) and (hint := base_hint(text)):
        return hint
    if kind == "string_type" and not isinstance(value, dict | list | tuple) and value is not None and text:
        return f'put it in quotes: "{text}"'
    if kind == "bool_type" and isinstance(value, str):
        return "write true or false, without quotes; YAML 1.2 reads yes, no, on and off as text"
    if kind in ("int_type", "float_type") and _reads_as_number(value):
        return f"write {value} without quotes"
    if kind == "tuple_type" and isinstance(value, str):
        return "write it as a list: [a, b]"
    if value is None and kind in ("dict_type", "model_type", "model_attributes_type") and path:
        return "write {}, or leave the key out"
    return ""


def _reads_as_number(value: Any) -> bool:
    return isinstance(value, str) and value.replace(".", "", 1).isdecimal()


def _missing_hint(path: tuple[str | int, ...]) -> str:
    match path:
        case ("kitaru",):
            return "begin the file with kitaru: 1"
        case ("project",):
            return "add project: NAME, the name under which the store keeps everything"
        case ("flows", name, "target") if str(name).isidentifier():
            return f"add target: path/to/file.py:{shown(str(name))[1:-1]}"
    return ""


def _unknown_key(path: tuple[str | int, ...], data: dict[str, Any]) -> Finding:
    *parent, last = path
    key = str(last)
    known = _known_keys(tuple(parent), data)
    message = f"unknown key {shown(key)}"
    in_flow = len(parent) == 2 and parent[0] == "flows"
    if key in ImageSettings.model_fields and (not parent or in_flow):
        return Finding(path, message, f"{key} belongs under image", at_key=True)
    if key in FlowSpec.model_fields and not parent:
        return Finding(path, message, f"{key} belongs under a flow", at_key=True)
    return Finding(path, message + did_you_mean(key, known), f"known keys here: {', '.join(known)}", at_key=True)


def _known_keys(parent: tuple[str | int, ...], data: dict[str, Any]) -> list[str]:
    match parent:
        case ():
            model: type[Noun] = Manifest
        case (*_, "image"):
            model = ImageSettings
        case (*_, "source"):
            model = SourceSpec
        case ("flows", _):
            model = FlowSpec
        case ("protect", _):
            model = Protection
        case ("targets", _):
            model = Overlay
        case ("stacks", name):
            model = STACK_TYPES[data["stacks"][name]["type"]]
        case _:
            return []
    return list(model.model_fields)


def _stack_type(path: tuple[str | int, ...], value: Any) -> Finding:
    types = ", ".join(STACK_TYPES)
    if not isinstance(value, dict) or "type" not in value:
        return Finding(path, "the key 'type' is missing", f"add type: one of {types}", at_key=True)
    given = value["type"]
    if not isinstance(given, str):
        return Finding((*path, "type"), f"expected a type of stack, found {found(given)}", f"there are: {types}")
    message = f"unknown type of stack {shown(given)}{did_you_mean(given, STACK_TYPES)}"
    return Finding((*path, "type"), message, f"there are: {types}")


def _refused(path: tuple[str | int, ...], reason: str, value: Any, raw: Raw) -> Finding:
    """What a validator of the models says no to: the name in a key, a target, a route."""
    in_routes = len(path) >= 4 and path[0] == "flows" and path[2] == "routes"
    if path[-1] == "[key]" and not (in_routes and len(path) == 4):
        return Finding(path[:-1], f"{reason}; found {shown(str(path[-2]))}", at_key=True)
    if not in_routes:
        return Finding(path, f"{reason}; found {found(value)}")
    text = raw(path)
    number = text.removeprefix("v")
    hint = ""
    if number.isascii() and number.isdecimal() and isinstance(value, str):
        hint = f"write {number}, without quotes or v"
    elif isinstance(value, str) and value.lower() in ("head", "latest", "newest", "current"):
        hint = "write head"
    shown_value = f"; found {found(value)}" if reason.startswith("expected") else ""
    return Finding(path, f"route {shown(str(path[3]))} of flow {shown(str(path[1]))}: {reason}{shown_value}", hint)
