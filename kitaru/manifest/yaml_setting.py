"""A value set in a YAML document: in the place of the present one, or as one more key in the style of its mapping.

What an alias or a merge key stands for elsewhere does not change: a mapping that takes values from one gets a key of
its own beside it.
"""

from __future__ import annotations

from typing import Any

from kitaru.manifest.yaml_blocks import newline_of, rewritten_items, tiles_of
from kitaru.manifest.yaml_braces import added_in_braces, removed_from_braces
from kitaru.manifest.yaml_change import Path, Put, Splice, Unsure, at_path, changed, plain, same, spliced
from kitaru.manifest.yaml_spans import Document, Entry, Span
from kitaru.manifest.yaml_writing import WIDTH, block_entry, inline, key_text

STEP = 2


def put(doc: Document, path: Path, value: Any, opened: frozenset[str]) -> list[Splice]:
    """The splices after which ``value`` is at ``path``, as ``Put`` says it. Raises ``Unsure``."""
    node = doc.root
    wanted = changed(doc.data, Put(path, value))
    for depth, step in enumerate(path):
        rest, here = path[depth + 1 :], path[: depth + 1]
        entry = node.own(step)
        if entry is None:
            below = at_path(wanted, here) if rest else value
            return add(doc, node, step, _spelled(below, rest, value), opened)
        inner = entry.value
        if not rest:
            return replace(doc, entry, value, at_path(doc.data, path))
        if inner.kind == "mapping" and inner.entries:
            node = inner
        elif inner.kind == "alias":
            return [_beside_alias(doc, inner, rest, at_path(wanted, here), value)]
        elif at_path(doc.data, here) in (None, {}):
            return _fill(doc, node, entry, _spelled(at_path(wanted, here), rest, value), opened)
        else:
            raise Unsure(f"{step} is no mapping")
    raise Unsure("there is nothing to set")


def _spelled(below: Any, rest: Path, value: Any) -> Any:
    """``below`` with the value at ``rest`` as it was given: numbers as keys stay numbers."""
    if not rest:
        return value
    result = dict(below)
    result[rest[0]] = _spelled(below.get(rest[0]), rest[1:], value)
    return result


def _beside_alias(doc: Document, alias: Span, rest: Path, below: Any, value: Any) -> Splice:
    """``*shared`` as ``{<<: *shared, key: own}``: the others that share it keep what they have."""
    own = inline(_spelled(below.get(rest[0]), rest[1:], value), as_json=doc.json)
    text = f"{{<<: {doc.text[alias.start : alias.end]}, {key_text(rest[0])}: {own}}}"
    return Splice(alias.start, alias.end, text)


def _fill(doc: Document, parent: Span, entry: Entry, value: Any, opened: frozenset[str]) -> list[Splice]:
    """Values into ``key:`` or ``key: {}``: in the braces that are there, except where the values are mappings."""
    old = entry.value
    nested = any(isinstance(one, dict) for one in value.values()) and entry.name in opened
    if old.flow and (parent.flow or not nested):
        inside = ", ".join(_pair(doc, key, one) for key, one in value.items())
        kept = doc.text[old.inner + 1 : old.end - 1]
        # Behind a space it is told from braces that were written for it, and stays when it is empty again.
        pad = "" if kept.strip(" ") else kept + " " * like_new(doc, parent, old)
        return [Splice(old.inner + 1, old.end - 1, pad + inside + (pad or kept))]
    if old.anchor:
        raise Unsure(f"&{old.anchor} stands for an empty value")
    if parent.flow:
        return [Splice(old.start, old.end, " " * (old.start == old.end) + inline(value, as_json=doc.json))]
    colon = _after_colon(doc, entry)
    if not doc.ends_line(old.end) or doc.line_end(colon) != doc.line_end(old.end):
        raise Unsure(f"{entry.name} does not stand on a line of its own")
    indent = doc.column(parent.entries[0].key.start)
    lines = block_entry(entry.name, value, indent=indent, step=_step(doc), opened={*opened, entry.name})[1:]
    newline = doc.ending(old.end) or doc.eol
    end = doc.line_end(old.end)
    return [Splice(colon, old.end, ""), Splice(end, end, "".join(newline + line for line in lines))]


def _after_colon(doc: Document, entry: Entry) -> int:
    at = entry.key.end
    while doc.text[at : at + 1] in (" ", "\t"):
        at += 1
    if doc.text[at : at + 1] != ":":
        raise Unsure(f"there is no colon behind {entry.name}")
    return at + 1


def _step(doc: Document) -> int:
    """By how many spaces the document indents: its first block inside a block says so."""
    waiting = [doc.root]
    while waiting:
        node = waiting.pop(0)
        for entry in node.entries:
            value = entry.value
            if value.kind == "mapping" and value.block and value.entries:
                deeper = doc.column(value.entries[0].key.start) - doc.column(entry.key.start)
                if deeper > 0:
                    return deeper
                waiting.append(value)
    return STEP


def replace(doc: Document, entry: Entry, value: Any, before: Any) -> list[Splice]:
    """``value`` in the place of an entry's present one, which means ``before``; as much of that as can be is kept."""
    old = entry.value
    if same(before, plain(value)):
        return []
    if isinstance(value, dict) and old.kind == "mapping" and _same_keys(old, value):
        found: list[Splice] = []
        for one in old.entries:
            given = next(given for key, given in value.items() if str(key) == one.name)
            found += replace(doc, one, given, before[one.name])
        return found
    if old.block:
        return _replace_block(doc, entry, value, before)
    if "#" in doc.text[old.start : old.end]:
        inside = _replace_inside(doc, old, value, before)
        if inside is not None:
            return inside
    moved = moved_anchor(doc, old)
    anchor = f"&{old.anchor} " if old.anchor and old.kind != "alias" and not moved else ""
    space = " " if old.start == old.end else ""
    return [*moved, Splice(old.start, old.end, space + anchor + inline(value, as_json=doc.json))]


def _replace_inside(doc: Document, old: Span, value: Any, before: Any) -> list[Splice] | None:
    """Braces or brackets with comments in them: entry by entry, item by item; None where most of it goes anyway."""
    if old.kind == "sequence" and isinstance(value, list) and old.items:
        if len(value) < len(old.items) or doc.uses(old):
            return None
        changes = []
        for item, new, was in zip(old.items, value, before, strict=False):
            if same(was, plain(new)):
                continue
            if was in value or plain(new) in before:  # its comment would stand beside another
                return None
            changes.append(Splice(item.start, item.end, inline(new, as_json=doc.json)))
        more = [inline(one, as_json=doc.json) for one in value[len(old.items) :]]
        return [*changes, *(added_in_braces(doc, old, more) if more else [])]
    if old.kind != "mapping" or not isinstance(value, dict) or doc.uses(old) or any(one.merge for one in old.entries):
        return None
    given = {str(key): (key, one) for key, one in value.items()}
    gone = [one for one in old.entries if one.name not in given]
    more = [_pair(doc, key, one) for name, (key, one) in given.items() if old.own(name) is None]
    if len(gone) > (not more) or len(old.entries) == len(gone):
        return None
    found = [part for one in gone for part in removed_from_braces(doc, old, one)]
    for one in old.entries:
        if one.name in given:
            found += replace(doc, one, given[one.name][1], before[one.name])
    return [*found, *(added_in_braces(doc, old, more) if more else [])]


def _pair(doc: Document, key: Any, value: Any) -> str:
    """A key and its value as they stand in braces."""
    return f"{key_text(key, as_json=doc.json)}: {inline(value, as_json=doc.json)}"


def moved_anchor(doc: Document, old: Span) -> list[Splice]:
    """A value that goes and that aliases use is written at the first of these, its anchor with it."""
    uses = doc.uses(old)
    if not uses:
        return []
    text = doc.text[old.start : old.end]
    if old.block or len(text.splitlines()) != 1:
        raise Unsure(f"its value is shared: *{old.anchor} uses it elsewhere")
    return [Splice(uses[0].start, uses[0].end, text)]


def _same_keys(old: Span, value: dict[Any, Any]) -> bool:
    names = [entry.name for entry in old.entries]
    return not any(entry.merge for entry in old.entries) and sorted(names) == sorted(map(str, value))


def _replace_block(doc: Document, entry: Entry, value: Any, before: Any) -> list[Splice]:
    old, colon = entry.value, _after_colon(doc, entry)
    if doc.uses(old):
        raise Unsure(f"its value is shared: *{old.anchor} uses it elsewhere")
    head, end = doc.line_end(colon), doc.line_end(old.end)
    if head >= old.end or not doc.ends_line(old.end):
        raise Unsure(f"{entry.name} does not begin on a line of its own")
    lines: str | None = None
    if isinstance(value, list) and value and old.kind == "sequence":
        lines = rewritten_items(doc, old, value, before)
    elif isinstance(value, dict) and value and old.kind == "mapping":
        lines = _rewritten_mapping(doc, old, value, before)
    if lines is not None:
        return [Splice(doc.line_start(_first(old)), end, lines)]
    anchored = old.inner if old.inner < head else colon
    cut = colon + len(doc.text[colon:anchored].rstrip())
    return [Splice(colon, cut, " " + inline(value)), Splice(head, end, "")]


def _rewritten_mapping(doc: Document, old: Span, value: dict[Any, Any], before: dict[str, Any]) -> str | None:
    """The lines of a block mapping that holds ``value``; None where its keys do not stand on lines of their own."""
    if any(entry.merge or entry.value.kind == "alias" for entry in old.entries):
        return None
    first = old.entries[0].key.start
    tiles = tiles_of(doc, first, [entry.value.end for entry in old.entries])
    if tiles is None:
        return None
    kept = {entry.name: (entry, tile) for entry, tile in zip(old.entries, tiles, strict=True)}
    given = {str(key): (key, one) for key, one in value.items()}
    ordered = [name for name in kept if name in given] + [name for name in given if name not in kept]
    newline, lines = newline_of(doc, old), []
    for name in ordered:
        key, one = given[name]
        tile = _retiled(doc, *kept[name], one, before[name]) if name in kept else None
        lines.append(
            newline.join(block_entry(key, one, indent=doc.column(first), step=_step(doc))) if tile is None else tile
        )
    return newline.join(lines)


def _retiled(doc: Document, entry: Entry, tile: str, value: Any, before: Any) -> str | None:
    """The lines of one entry with its value replaced, comments and all; None where they are better written anew."""
    start = doc.line_end(entry.value.end) - len(tile)
    try:
        parts = replace(doc, entry, value, before)
        if any(part.start < start or part.end > start + len(tile) for part in parts):
            return None
        text = spliced(tile, [Splice(part.start - start, part.end - start, part.text) for part in parts])
    except Unsure:
        return None
    is_wide = max(map(len, text.split("\n"))) > max(WIDTH, *map(len, tile.split("\n")))
    return None if is_wide and "#" not in tile else text


def _first(old: Span) -> int:
    return old.entries[0].key.start if old.entries else old.inner


def add(doc: Document, node: Span, key: str, value: Any, opened: frozenset[str] = frozenset()) -> list[Splice]:
    """One more key in a mapping, behind its last one and in its style."""
    if node.flow:
        added = added_in_braces(doc, node, [_pair(doc, key, value)])
        return [*added, *_told_apart(node)]
    if not node.entries:
        raise Unsure("there is no key to stand beside")
    last = node.entries[-1]
    if not doc.ends_line(last.value.end):
        raise Unsure(f"more stands on the line of {last.name}")
    indent = doc.column(node.entries[0].key.start)
    if isinstance(value, dict) and _in_braces(node.entries):
        lines = [f"{' ' * indent}{key_text(key)}: {inline(value)}"]
    else:
        lines = block_entry(key, value, indent=indent, step=_step(doc), opened=opened)
    end = doc.line_end(last.value.end)
    newline = doc.ending(last.value.end) or doc.eol
    if doc.blank_above(node, last) is not None and not last.value.open_ended:
        lines = ["", *lines]
    return [Splice(end, end, "".join(newline + line for line in lines))]


def _told_apart(braces: Span) -> list[Splice]:
    """A space more on both sides of ``{<<: *shared}`` where it gets a key: ``*shared`` alone gets braces without."""
    if len(braces.entries) != 1 or not merges_one(braces):
        return []
    return [Splice(place, place, " ") for place in (braces.inner + 1, braces.end - 1)]


def merges_one(braces: Span) -> bool:
    """Whether a mapping in braces begins with ``<<`` and one alias."""
    first = braces.entries[0] if braces.entries else None
    return braces.flow and first is not None and first.merge and first.value.kind == "alias"


def like_new(doc: Document, parent: Span, braces: Span) -> bool:
    """Whether a mapping in braces stands where ``add`` would put a new one, and would write it in braces.

    The mappings of the root are never in doubt: they do not go.
    """
    if parent is doc.root or not parent.entries or parent.entries[-1].value is not braces:
        return False
    return parent.flow or _in_braces(parent.entries[:-1])


def _in_braces(entries: list[Entry]) -> bool:
    """Whether there are entries, and a mapping in braces is the value of each of them."""
    return bool(entries) and all(one.value.kind == "mapping" and one.value.flow for one in entries)
