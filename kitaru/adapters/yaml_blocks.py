"""Lists and mappings in blocks, written anew with every line that can stay: its comment goes with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kitaru.adapters.yaml_change import plain, same
from kitaru.adapters.yaml_spans import Document, Span
from kitaru.adapters.yaml_writing import block_entry, inline


def rewritten_items(doc: Document, old: Span, value: list[Any], before: list[Any]) -> str | None:
    """The lines of a block list that holds ``value``; None where its items do not stand on lines of their own."""
    column = doc.column(old.inner)
    tiles = _tiles(doc, old.inner, [item.end for item in old.items])
    if tiles is None or doc.text[old.inner : old.inner + 1] != "-":
        return None
    kept = list(zip(before, tiles, strict=True))
    lines = []
    for one in value:
        found = (tile for item, tile in kept if same(item, plain(one)))
        lines.append(next(found, f"{' ' * column}- {inline(one)}"))
    return _newline(doc, old).join(lines)


def rewritten_mapping(doc: Document, old: Span, value: dict[Any, Any], before: dict[str, Any], step: int) -> str | None:
    """The lines of a block mapping that holds ``value``; None where its keys do not stand on lines of their own."""
    if any(entry.merge or entry.value.kind == "alias" for entry in old.entries):
        return None
    first = old.entries[0].key.start
    tiles = _tiles(doc, first, [entry.value.end for entry in old.entries])
    if tiles is None:
        return None
    kept = {entry.name: tile for entry, tile in zip(old.entries, tiles, strict=True)}
    newline = _newline(doc, old)
    given = {str(key): (key, one) for key, one in value.items()}
    ordered = [name for name in kept if name in given] + [name for name in given if name not in kept]
    lines = []
    for name in ordered:
        key, one = given[name]
        if name in kept and same(before[name], plain(one)):
            lines.append(kept[name])
        else:
            lines.append(newline.join(block_entry(key, one, indent=doc.column(first), step=step)))
    return newline.join(lines)


def _tiles(doc: Document, first: int, ends: Iterable[int]) -> list[str] | None:
    """The text from one value's last line to the next one's, without the newline at its end."""
    if doc.indent(first) is None:
        return None
    tiles, at = [], doc.line_start(first)
    for end in ends:
        stop = doc.line_end(end)
        if stop < at or not doc.ends_line(end):
            return None
        tiles.append(doc.text[at:stop])
        at = stop + len(doc.ending(end))
    return tiles


def _newline(doc: Document, old: Span) -> str:
    return doc.ending(old.inner) or doc.eol
