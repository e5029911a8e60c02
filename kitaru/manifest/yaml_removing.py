"""A key taken out of a YAML document, with what is empty without it."""

from __future__ import annotations

from typing import Any

from kitaru.manifest.yaml_braces import removed_from_braces
from kitaru.manifest.yaml_change import Path, Remove, Splice, Unsure, at_path, changed, same
from kitaru.manifest.yaml_setting import like_new, merges_one, moved_anchor, put, replace
from kitaru.manifest.yaml_spans import Document, Entry, Span


def remove(doc: Document, path: Path, keep: int) -> list[Splice]:
    """The splices after which there is nothing at ``path``, as ``Remove`` says it. Raises ``Unsure``."""
    wanted = changed(doc.data, Remove(path, keep))
    if same(wanted, doc.data):
        return []
    chain: list[tuple[Span, Entry]] = []
    node = doc.root
    for step in path:
        entry = node.own(step)
        if entry is None or (len(chain) + 1 < len(path) and entry.value.kind != "mapping"):
            # An alias or a merge key brings it: what remains is written out here.
            rest = at_path(wanted, path[:-1])
            if len(path) - 1 <= keep or rest is None:
                raise Unsure(f"{path[-1]} comes from an alias or a merge key")
            return put(doc, path[:-1], rest, frozenset())
        chain.append((node, entry))
        node = entry.value
    again = _alias_again(doc, path, chain, wanted)
    if again is not None:
        return again
    while len(chain) - 1 > keep and len(chain[-1][0].entries) == 1:
        chain.pop()
    parent, entry = chain[-1]
    if len(parent.entries) > 1:
        return remove_entry(doc, parent, entry)
    if len(chain) < 2:
        raise Unsure("nothing would remain")
    if parent.flow:
        return [*moved_anchor(doc, entry.value), _emptied(doc, parent, entry, like_new(doc, chain[-2][0], parent))]
    return replace(doc, chain[-2][1], {}, at_path(doc.data, path[: len(chain) - 1]))


def _alias_again(
    doc: Document, path: Path, chain: list[tuple[Span, Entry]], wanted: dict[str, Any]
) -> list[Splice] | None:
    """``*shared`` where ``{<<: *shared, key: own}`` would say the same, written as ``put`` writes it; else None.

    One with a space more on both sides was ``{<<: *shared}`` before it got its key, and is so again.
    """
    for depth, (node, _) in enumerate(chain):
        if len(node.entries) != 2 or not merges_one(node):
            continue
        alias, own = node.entries[0].value, node.entries[1]
        inside = doc.text[node.inner + 1 : node.end - 1]
        written = doc.text[node.entries[0].key.start : own.value.end]
        is_tight = inside == written and not node.anchor
        shared = doc.data_of(alias)
        if "&" in written or "\n" in inside or not same(shared, at_path(wanted, path[:depth])):
            continue
        if is_tight and doc.text[alias.end : own.key.start] == ", ":
            return [Splice(node.start, node.end, doc.text[alias.start : alias.end])]
        goes = own.name == path[depth] and at_path(wanted, path[: depth + 1]) is None
        if goes and inside.startswith(" ") and inside.endswith(" "):
            start, end = node.inner + 1, node.end - 1
            return [Splice(start, start + 1, ""), *remove_entry(doc, node, own), Splice(end - 1, end, "")]
    return None


def stays_empty(doc: Document, path: Path) -> bool:
    """Whether the mapping at ``path`` remains, as ``{}``, when its last key goes: somebody wrote its braces.

    One that a new key would be written in just so, were there none, goes with its keys. One that begins with a merge
    key says what that says.
    """
    node, parent = doc.root, doc.root
    for step in path:
        entry = node.own(step)
        if entry is None:
            return False
        parent, node = node, entry.value
    if node.kind != "mapping" or not node.flow or not node.entries:
        return False
    if merges_one(node):
        return True
    inside = doc.text[node.inner + 1 : node.end - 1]
    is_tight = inside == doc.text[node.entries[0].key.start : node.entries[-1].value.end]
    return not (is_tight and like_new(doc, parent, node))


def remove_entry(doc: Document, parent: Span, entry: Entry) -> list[Splice]:
    """An entry that is not the only one goes: its lines in a block, what is between the commas in braces."""
    gone = removed_from_braces(doc, parent, entry) if parent.flow else _remove_lines(doc, parent, entry)
    return [*moved_anchor(doc, entry.value), *gone]


def _remove_lines(doc: Document, parent: Span, entry: Entry) -> list[Splice]:
    if doc.indent(entry.key.start) is None or not doc.ends_line(entry.value.end):
        raise Unsure(f"{entry.name} does not stand on lines of its own")
    start, end = doc.line_start(entry.key.start), doc.line_end(entry.value.end)
    newline = doc.ending(entry.value.end)
    after = end + len(newline)
    blank = doc.blank_above(parent, entry)
    is_last = entry is parent.entries[-1]
    blank_after = after < len(doc.text) and not doc.text[after : doc.line_end(after)].strip()
    if blank is not None and (is_last or blank_after):
        start = blank
    if not newline and start:
        start -= 2 if doc.text.endswith("\r\n", 0, start) else 1
    return [Splice(start, after, "")]


def _emptied(doc: Document, braces: Span, entry: Entry, padded: bool) -> Splice:
    """The only entry of a mapping in braces goes: what is between these is as it was before an entry was put there.

    ``padded``: the entry was put there with one space more on both its sides.
    """
    start, end = braces.inner + 1, braces.end - 1
    before, behind = doc.text[start : entry.key.start], doc.text[entry.value.end : end]
    comma = doc.comma_after(entry.value.end)
    if comma is not None:
        behind = doc.text[entry.value.end : comma] + doc.text[comma + 1 : end]
    if padded and before == behind and not behind.strip(" "):
        behind = behind[1:]
    return Splice(start, end, before + behind if "#" in before else behind)
