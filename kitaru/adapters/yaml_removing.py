"""A key taken out of a YAML document, with what is empty without it."""

from __future__ import annotations

from kitaru.adapters.yaml_change import Path, Remove, Splice, Unsure, at_path, changed, same
from kitaru.adapters.yaml_setting import like_new, moved_anchor, put, replace
from kitaru.adapters.yaml_spans import Document, Entry, Span


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


def stays_empty(doc: Document, path: Path) -> bool:
    """Whether the mapping at ``path`` remains, as ``{}``, when its last key goes: somebody wrote its braces.

    One that a new key would be written in just so, were there none, goes with its keys.
    """
    node, parent = doc.root, doc.root
    for step in path:
        entry = node.own(step)
        if entry is None:
            return False
        parent, node = node, entry.value
    if node.kind != "mapping" or not node.flow or not node.entries:
        return False
    inside = doc.text[node.inner + 1 : node.end - 1]
    is_tight = inside == doc.text[node.entries[0].key.start : node.entries[-1].value.end]
    return not (is_tight and like_new(doc, parent, node))


def remove_entry(doc: Document, parent: Span, entry: Entry) -> list[Splice]:
    """An entry that is not the only one goes: its lines in a block, what is between the commas in braces."""
    gone = _remove_in_braces(doc, parent, entry) if parent.flow else _remove_lines(doc, parent, entry)
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


def _remove_in_braces(doc: Document, parent: Span, entry: Entry) -> list[Splice]:
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
