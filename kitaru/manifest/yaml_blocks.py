"""Values in blocks as runs of whole lines, each with the comments above and beside it; and lists made of these."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kitaru.manifest.yaml_change import plain, same
from kitaru.manifest.yaml_spans import Document, Span
from kitaru.manifest.yaml_writing import inline


def rewritten_items(doc: Document, old: Span, value: list[Any], before: list[Any]) -> str | None:
    """The lines of a block list that holds ``value``; None where its items do not stand on lines of their own."""
    column = doc.column(old.inner)
    tiles = tiles_of(doc, old.inner, [item.end for item in old.items])
    if tiles is None or doc.text[old.inner : old.inner + 1] != "-":
        return None
    kept = list(zip(before, tiles, strict=True))
    lines = []
    for one in value:
        found = (tile for item, tile in kept if same(item, plain(one)))
        lines.append(next(found, f"{' ' * column}- {inline(one)}"))
    return newline_of(doc, old).join(lines)


def tiles_of(doc: Document, first: int, ends: Iterable[int]) -> list[str] | None:
    """The text from one value's last line to the next one's, without the newline at its end.

    None where the values do not stand on lines of their own.
    """
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


def newline_of(doc: Document, old: Span) -> str:
    """How the lines of that value end."""
    return doc.ending(old.inner) or doc.eol
