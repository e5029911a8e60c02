"""Inputs against the JSON Schema of a flow's parameters, with one plain sentence for each that doesn't fit."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cache, partial
from typing import Any
from uuid import UUID

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend

from kitaru.errors import KitaruIntegrityError

NAMES = {"string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false"}
NAMES |= {"array": "a list", "object": "an object", "null": "null"}


def check(schema: Mapping[str, Any], inputs: Any) -> Sequence[str]:
    """The inputs that don't fit ``schema``, one sentence each: ``n: expected a whole number, got 3.5``.

    As the flow itself reads inputs: text of a ``format`` must be one, and 3.0 is no whole number.
    """
    if not schema:
        return ()
    errors = _Validator(dict(schema), format_checker=_formats()).iter_errors(inputs)
    ordered = sorted(errors, key=lambda error: [str(part) for part in error.path])
    return tuple(dict.fromkeys(text for error in ordered for text in _sentences(error)))


def check_value(schema: Mapping[str, Any], value: Any) -> Sequence[str]:
    """As ``check``, for a value of any kind. Raises ``KitaruIntegrityError`` for a schema that is none."""
    try:
        Draft202012Validator.check_schema(dict(schema))
    except SchemaError as error:
        raise KitaruIntegrityError(f"the schema of the wait is no JSON Schema: {error.message}") from error
    return check(schema, value)


_Validator: Any = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _checker, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)
_TYPES = {
    "date": date, "date-time": datetime, "time": time, "duration": timedelta, "uuid": UUID, "decimal": Decimal,
}  # fmt: skip
_EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)*")


@cache
def _formats() -> FormatChecker:
    from pydantic import TypeAdapter

    def reads(value: Any, adapter: Any) -> bool:
        return not isinstance(value, str) or adapter.validate_python(value) is not None

    checker = FormatChecker(formats=())
    for name, kind in _TYPES.items():
        checker.checks(name, raises=ValueError)(partial(reads, adapter=TypeAdapter[Any](kind)))
    checker.checks("email")(lambda value: not isinstance(value, str) or _EMAIL.fullmatch(value) is not None)
    return checker


def _sentences(error: ValidationError) -> Iterator[str]:
    path = error.absolute_path
    schema = error.schema if isinstance(error.schema, dict) else {}
    properties = schema.get("properties", {})
    match error.validator:
        case "required":
            for name in schema.get("required", ()):
                if isinstance(error.instance, dict) and name not in error.instance:
                    yield f"{_path((*path, name))} is missing: expected {_expected(properties.get(name, {}))}"
        case "additionalProperties":
            for name in error.instance if isinstance(error.instance, dict) else ():
                if name not in properties:
                    close = difflib.get_close_matches(name, list(properties), 1)
                    have = ", ".join(properties) or "none"
                    guess = f"did you mean {close[0]}?" if close else f"it takes {have}"
                    yield f"{_path((*path, name))} is not an input; {guess}"
        case _:
            yield f"{_path(path) or 'the value'}: expected {_expected(schema)}, got {_shown(error.instance)}"


def _path(parts: Iterable[str | int]) -> str:
    """The path of a value as people write it: ``a.b[0]``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")


def _expected(schema: Mapping[str, Any]) -> str:
    if "const" in schema:
        return _shown(schema["const"])
    if "enum" in schema:
        return "one of " + ", ".join(_shown(value) for value in schema["enum"])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_expected(one) for one in schema[key]))
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind] if kind else []
    named = " or ".join(NAMES.get(one, str(one)) for one in kinds) or "another value"
    bounds = [f"{name} {schema[name]}" for name in _BOUNDS if name in schema]
    return f"{named} ({', '.join(bounds)})" if bounds else named


_BOUNDS = (
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems",
    "pattern", "format", "multipleOf",
)  # fmt: skip


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
