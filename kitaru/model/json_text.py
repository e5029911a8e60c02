"""JSON that a person gives: read as always, but that a key is given twice is a mistake, not a choice."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str) -> Any:
    """The value in ``text``. Raises ``ValueError``: what is no JSON, or which key is given twice."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise KeyGivenTwice(f"the key {twice!r} is given twice in one object")
    return found


class KeyGivenTwice(ValueError):
    """Valid JSON by its grammar, and of two values only one could count."""
