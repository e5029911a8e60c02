"""Stored values as plain data, for readers who do not have the flow's own types. Pure."""

from __future__ import annotations

from typing import Any

TAG = "$type"
PAIRS = frozenset({"dict", "ordered_dict", "counter", "defaultdict"})
"""What is written as a list of keys with their values."""


def plain(tree: Any) -> Any:
    """A typed JSON tree without its types: a model becomes its fields, a tuple a list, a datetime its text."""
    if isinstance(tree, list):
        return [plain(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    kind = tree.get(TAG)
    if kind is None or "value" not in tree:
        return {key: plain(item) for key, item in tree.items() if key != TAG}
    value = tree["value"]
    if kind in PAIRS and isinstance(value, list):
        return {str(plain(key)): plain(item) for key, item in value}
    return plain(value)
