"""Whether callers of one input schema are still understood by another. Pure, over JSON Schemas of flow parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kitaru.model.plan import Change

Schema = dict[str, Any]
_LIMITS = {
    "minimum": "lower",
    "exclusiveMinimum": "lower",
    "minLength": "lower",
    "minItems": "lower",
    "minProperties": "lower",
    "maximum": "upper",
    "exclusiveMaximum": "upper",
    "maxLength": "upper",
    "maxItems": "upper",
    "maxProperties": "upper",
}
_WORDS = ("title", "description", "default", "examples", "$defs", "deprecated")


def compare_inputs(
    before: Schema, after: Schema, given: frozenset[str] = frozenset(), given_before: frozenset[str] = frozenset()
) -> tuple[Change, ...]:
    """The differences, in the order of the parameters, breaking ones first.

    ``given`` names the sample inputs of the new version: a new required parameter among them breaks no caller.
    ``given_before`` names those of the old version: callers could leave them out.
    """
    found = list(_object(_inlined(before, before), _inlined(after, after), "", given, given_before - given))
    return tuple(sorted(found, key=lambda change: not change.breaking))


def _change(text: str, breaking: bool) -> Change:
    return Change(subject="input_schema", text=text, breaking=breaking)


def _object(
    before: Schema, after: Schema, path: str, given: frozenset[str] = frozenset(), lost: frozenset[str] = frozenset()
) -> Iterator[Change]:
    """``lost``: the sample inputs of the old version that the new one lacks."""
    old, new = before.get("properties", {}), after.get("properties", {})
    required_before, required_after = set(before.get("required", ())), set(after.get("required", ()))
    closed = after.get("additionalProperties", True) is False
    for name in old:
        place = f"{path}{name}"
        if name not in new:
            yield _change(f"{place} removed", closed)
            continue
        if name in required_after and name in lost:
            yield _change(f"{place} is now required: its sample input is gone", True)
        elif name in required_after - required_before:
            yield _change(f"{place} is now required", name not in given)
        elif name in required_before - required_after:
            yield _change(f"{place} is now optional", False)
        yield from _value(old[name], new[name], place)
    for name in new:
        if name not in old:
            needed = name in required_after and name not in given
            kind = "required" if name in required_after else "optional"
            yield _change(f"{path}{name} added, {kind} ({_describe(new[name])})", needed)
    if before.get("additionalProperties", True) is not False and closed:
        yield _change(f"{path or 'inputs: '}other names are no longer accepted", True)


def _value(old: Schema, new: Schema, place: str) -> Iterator[Change]:
    if _core(old) == _core(new):
        if _default(old) != _default(new):
            yield _change(f"{place}: {_default_words(old, new)}", False)
        return
    if old.get("type") == new.get("type") == "object" and "properties" in old and "properties" in new:
        yield from _object(old, new, f"{place}.")
        return
    if old.get("type") == new.get("type") == "array" and "items" in old and "items" in new:
        yield from _value(old["items"], new["items"], f"{place}[]")
        return
    yield _change(f"{place}: {_describe(old)} → {_describe(new)}", not _accepts(old, new))


def _accepts(old: Schema, new: Schema) -> bool:
    """Whether ``new`` surely takes every value that ``old`` takes; False in doubt."""
    if not _core(new):
        return True
    olds, news = _alternatives(old), _alternatives(new)
    if len(olds) > 1 or len(news) > 1:
        return all(any(_accepts(one, other) for other in news) for one in olds)
    old, new = olds[0], news[0]
    if "enum" in new or "const" in new:
        allowed = new.get("enum", [new.get("const")])
        return ("enum" in old or "const" in old) and all(
            value in allowed for value in old.get("enum", [old.get("const")])
        )
    widened = old.get("type") == "integer" and new.get("type") == "number"
    if old.get("type") != new.get("type") and not widened:
        return False
    return all(_no_tighter(key, old, new) for key in new if key != "type" and key not in _WORDS)


def _no_tighter(key: str, old: Schema, new: Schema) -> bool:
    if old.get(key) == new[key]:
        return True
    if key in _LIMITS and isinstance(old.get(key), int | float):
        return bool(new[key] <= old[key]) if _LIMITS[key] == "lower" else bool(new[key] >= old[key])
    return False


def _alternatives(schema: Schema) -> list[Schema]:
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return list(schema[key])
    if isinstance(schema.get("type"), list):
        return [{**schema, "type": one} for one in schema["type"]]
    return [schema]


def _inlined(schema: Any, root: Schema, within: tuple[str, ...] = ()) -> Any:
    """``schema`` with every local ``$ref`` resolved; one that leads back into itself stays a name."""
    if isinstance(schema, list):
        return [_inlined(item, root, within) for item in schema]
    if not isinstance(schema, dict):
        return schema
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/$defs/"):
        name = reference.removeprefix("#/$defs/")
        if name in within:
            return {"$ref": reference, "title": name}
        target = {**root.get("$defs", {}).get(name, {}), **{k: v for k, v in schema.items() if k != "$ref"}}
        return {**_inlined(target, root, (*within, name)), "title": name}
    return {key: _inlined(value, root, within) for key, value in schema.items() if key != "$defs"}


def _core(schema: Any) -> Any:
    """The part of a schema that decides about values, at every depth. Names of ``properties`` are no keywords."""
    if isinstance(schema, list):
        return [_core(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    core = {}
    for key, value in schema.items():
        if key == "properties" and isinstance(value, dict):
            core[key] = {name: _core(one) for name, one in value.items()}
        elif key not in _WORDS:
            core[key] = _core(value)
    return core


def _default(schema: Schema) -> str | None:
    return repr(schema["default"]) if "default" in schema else None


def _default_words(old: Schema, new: Schema) -> str:
    """How a default differs, never its value: a plan is read by many, and a default may be a password."""
    if "default" not in old:
        return "now has a default"
    return "default changed" if "default" in new else "no longer has a default"


def _describe(schema: Schema) -> str:
    if "title" in schema:
        return str(schema["title"])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " | ".join(_describe(one) for one in schema[key])
    if "enum" in schema:
        return " | ".join(repr(value) for value in schema["enum"])
    if "const" in schema:
        return repr(schema["const"])
    kind = schema.get("type", "any")
    if kind == "array" and isinstance(schema.get("items"), dict):
        return f"array of {_describe(schema['items'])}"
    bounds = [f"{key} {schema[key]}" for key in _LIMITS if key in schema]
    words = " | ".join(kind) if isinstance(kind, list) else str(kind)
    return f"{words} ({', '.join(bounds)})" if bounds else words
