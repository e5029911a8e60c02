"""Braces and brackets in a YAML document: what is added to them and taken out, without a touch of the rest."""

from __future__ import annotations

from collections.abc import Sequence

from kitaru.manifest.yaml_change import Splice, Unsure
from kitaru.manifest.yaml_spans import Document, Entry, Span


def added_in_braces(doc: Document, node: Span, texts: Sequence[str]) -> list[Splice]:
    """The splices that put ``texts``, entries or items, behind the last one; on lines of their own where that is."""
    text = ", ".join(texts)
    last = node.items[-1] if node.items else node.entries[-1].value if node.entries else None
    if last is None:
        is_blank = not doc.text[node.inner + 1 : node.end - 1].strip()
        return [Splice(node.inner + 1, node.end - 1 if is_blank else node.inner + 1, text)]
    first = last if node.items else node.entries[-1].key
    at = last.end
    indent = doc.indent(first.start)
    if indent is None or doc.line_start(node.start) == doc.line_start(first.start):
        return [Splice(at, at, f", {text}")]
    newline = doc.ending(first.start) or doc.eol
    text = f",{newline}{indent}".join(texts)
    comma = doc.comma_after(at)
    end = doc.line_end(at)
    brace_here = node.end - 1 < end
    if comma is not None and comma < end:
        place = comma + 1 if brace_here else end
        return [Splice(place, place, f"{newline}{indent}{text},")]
    if comma is not None:
        return [Splice(at, at, f", {', '.join(texts)}")]
    if brace_here:
        return [Splice(at, at, f",{newline}{indent}{text}")]
    return [Splice(at, at, ","), Splice(end, end, f"{newline}{indent}{text}")]


def removed_from_braces(doc: Document, parent: Span, entry: Entry) -> list[Splice]:
    """The splices that take out one entry of several, with its line where it has one. Raises ``Unsure``."""
    index = parent.entries.index(entry)
    before = parent.entries[index - 1] if index else None
    after = parent.entries[index + 1] if index + 1 < len(parent.entries) else None
    comma = doc.comma_after(entry.value.end)
    start, stop = doc.line_start(entry.key.start), comma + 1 if comma is not None else entry.value.end
    alone = doc.indent(entry.key.start) is not None and doc.ends_line(stop) and start > parent.start
    previous_comma = doc.comma_after(before.value.end) if before else None
    drop = [Splice(previous_comma, previous_comma + 1, "")] if previous_comma is not None and comma is None else []
    if alone and doc.line_end(entry.value.end) == doc.line_end(stop):
        whole = Splice(start, doc.line_end(stop) + len(doc.ending(stop)), "")
        return [*drop, whole] if after is None else [whole]
    if after is not None:
        between = doc.text[entry.value.end : after.key.start]
        return [Splice(entry.key.start, stop if "#" in between else after.key.start, "")]
    if before is None:
        raise Unsure(f"{entry.name} is the only key there")
    between = doc.text[before.value.end : entry.key.start]
    if "#" in between:
        return [*drop, Splice(entry.key.start, entry.value.end, "")]
    return [Splice(before.value.end, entry.value.end, "")]
