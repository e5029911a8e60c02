"""Commands to type next, complete: with the options that lead to the same place, and inputs that fit."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EXAMPLES: Mapping[str, Any] = {"string": "...", "integer": 1, "number": 1.0, "boolean": True}
PLAIN = {"type", "title", "description"}
"""Keys of a parameter's schema beside which any value of its type will do."""


def command_line(command: str, *words: str | Path) -> str:
    """``command`` and its words, quoted for a shell where they need it."""
    return " ".join([command, *(shlex.quote(str(word)) for word in words)])


def example_inputs(schema: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any] | None:
    """A value for each required parameter that ``given`` has none for; None where one is no plain text or number."""
    made = {}
    for name in schema.get("required", ()):
        if name in given:
            continue
        one = schema.get("properties", {}).get(name, {})
        if one.get("enum"):
            made[name] = one["enum"][0]
        elif one.get("type") in EXAMPLES and one.keys() <= PLAIN:
            made[name] = EXAMPLES[one["type"]]
        else:
            return None
    return made
