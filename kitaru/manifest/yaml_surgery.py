"""Edits of a YAML document as splices of its text: all that is not edited stays, byte for byte.

A way to write an edit is found from where the values stand (``yaml_spans``); whether it says just what was wanted is
for the caller to check by reading the result.
"""

from __future__ import annotations

from kitaru.manifest.yaml_change import Change, Path, Put, Splice
from kitaru.manifest.yaml_removing import remove
from kitaru.manifest.yaml_setting import put
from kitaru.manifest.yaml_spans import Document


def splices(doc: Document, change: Change) -> list[Splice]:
    """The splices that carry out ``change``; none where it is so already. Raises ``Unsure``."""
    if isinstance(change, Put):
        return put(doc, change.path, change.value, change.opened)
    return remove(doc, change.path, change.keep)


def sharing(doc: Document, path: Path) -> str:
    """The anchor on the way to ``path`` by which others share what stands there; nothing where there is none."""
    node = doc.root
    for step in path:
        if doc.uses(node):
            return node.anchor
        entry = node.own(step)
        if entry is None:
            return ""
        node = entry.value
    return node.anchor if doc.uses(node) else ""
