"""Secrets taken out of what is recorded for people to read. Results and inputs are never touched."""

from __future__ import annotations

from typing import Any

from kitaru.ports import Mask


def mask_tree(tree: Any, mask: Mask | None) -> Any:
    """``tree``, plain JSON data, with every text in it masked, keys too."""
    if mask is None or tree is None:
        return tree
    if type(tree) is str:
        return mask(tree)
    if type(tree) is list:
        return [mask_tree(item, mask) for item in tree]
    if type(tree) is dict:
        return {mask(key): mask_tree(item, mask) for key, item in tree.items()}
    return tree
