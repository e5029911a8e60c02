"""A change of a YAML document: what it should mean afterwards, and the splices of text that lead there. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True, order=True)
class Splice:
    """``text[start:end]`` becomes ``text``."""

    start: int
    end: int
    text: str


class Unsure(Exception):
    """There is no edit that is certain to leave the rest as it is; the message says why."""


@dataclass(frozen=True, slots=True)
class Put:
    """``value`` at ``path``, mappings on the way made where they are missing. ``opened``: keys that get a block."""

    path: Path
    value: Any
    opened: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Remove:
    """Nothing at ``path``, nor at its ancestors that are empty then, down to paths of more than ``keep`` steps."""

    path: Path
    keep: int


Change = Put | Remove


def spliced(text: str, parts: Sequence[Splice]) -> str:
    """``text`` with these splices. Raises ``Unsure`` where they overlap."""
    ordered = sorted(dict.fromkeys(parts), key=lambda part: (part.start, part.end))
    pieces, at = [], 0
    for part in ordered:
        if part.start < at:
            raise Unsure("two edits meet at one place")
        pieces += [text[at : part.start], part.text]
        at = part.end
    return "".join([*pieces, text[at:]])


def changed(data: dict[str, Any], change: Change) -> dict[str, Any]:
    """What the document means after ``change``: the data that any way of writing it must lead to. Raises ``Unsure``."""
    result = dict(data)
    parents = [result]
    for step in change.path[:-1]:
        inner = parents[-1].get(step)
        if inner is None and isinstance(change, Remove):
            return data
        if not isinstance(inner, dict | None):
            raise Unsure(f"{step} is no mapping")
        parents[-1][step] = dict(inner or {})
        parents.append(parents[-1][step])
    if isinstance(change, Put):
        parents[-1][change.path[-1]] = plain(change.value)
        return result
    if change.path[-1] not in parents[-1]:
        return data
    del parents[-1][change.path[-1]]
    for depth in range(len(parents) - 1, change.keep, -1):
        if parents[depth]:
            break
        del parents[depth - 1][change.path[depth - 1]]
    return result


def plain(value: Any) -> Any:
    """``value`` as JSON data: keys as text."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def at_path(data: Any, path: Path) -> Any:
    """The value there; None where there is none."""
    for step in path:
        data = data.get(step) if isinstance(data, dict) else None
    return data


def same(left: Any, right: Any) -> bool:
    """Equal, and of the same types: true is not 1 here."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and bool(left == right)
