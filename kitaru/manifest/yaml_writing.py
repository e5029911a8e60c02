"""JSON data as YAML text: on one line, or as a block; what a person would have written, not what a dumper writes."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from kitaru.manifest.yaml_scalar import quote

WIDTH = 100
"""Mappings and lists that would make a line longer than this are written as blocks."""


def inline(value: Any, *, as_json: bool = False) -> str:
    """``value`` on one line, collections in braces and brackets. Keys that are numbers stay numbers outside JSON."""
    match value:
        case Mapping():
            pairs = (f"{key_text(key, as_json=as_json)}: {inline(one, as_json=as_json)}" for key, one in value.items())
            return "{" + ", ".join(pairs) + "}"
        case list() | tuple():
            return "[" + ", ".join(inline(one, as_json=as_json) for one in value) + "]"
        case str():
            return json_text(value) if as_json else quote(value)
        case _:
            return json.dumps(value)


def json_text(text: str) -> str:
    """``text`` in double quotes, as JSON and YAML both read it."""
    quoted = json.dumps(text, ensure_ascii=False)
    return quoted if quoted.isprintable() else json.dumps(text)


def key_text(key: str | int, *, as_json: bool = False) -> str:
    """A mapping's key."""
    if as_json:
        return json_text(str(key))
    return str(key) if isinstance(key, int) else quote(key)


def block_entry(key: str | int, value: Any, *, indent: int, step: int, opened: Collection[str] = ()) -> list[str]:
    """``key: value`` as lines, indented by ``indent`` spaces, what is below it by ``step`` more a level.

    A collection goes on one line where it fits, except the mappings under a key of ``opened``.
    """
    head = f"{' ' * indent}{key_text(key)}:"
    line = f"{head} {inline(value)}"
    is_mapping = isinstance(value, Mapping)
    fits = len(line) <= WIDTH and not (is_mapping and key in opened)
    if not value or not isinstance(value, Mapping | list | tuple) or fits:
        return [line]
    if not isinstance(value, Mapping):
        return [head, *(f"{' ' * (indent + step)}- {inline(item)}" for item in value)]
    lines = [head]
    for name, one in value.items():
        lines += block_entry(name, one, indent=indent + step, step=step, opened=opened)
    return lines
