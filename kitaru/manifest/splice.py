"""New text for a YAML document of which some data changes.

Each change replaces the text between two places that the parser gives; every other byte stays. The result is read back:
it means exactly the data that was wanted, or it is refused, as is a change that would lose a comment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import yaml
from yaml import Node

from kitaru.manifest.yaml import Tree, inline, parse, quote, shown

WIDTH = 80
"""A new mapping or list that is longer than this is written as a block."""

_BLOCKS = ("flows", "routes", "targets")
_COMMENT = re.compile(r"(?:^|(?<=\s))#.*", re.MULTILINE)
_ALIAS = re.compile(r"\s*:\s*\*[^\s,\[\]{}]+")
_REST_OF_LINE = re.compile(r"[^\r\n]*")
_EMPTY_LINE = re.compile(r"(?:\r\n|\r|\n)( *)(#[^\r\n]*|)(?=[\r\n]|\Z)")


class Unsure(Exception):
    """No edit is certain to leave the rest as it is; the message is the reason."""


def spliced(text: str, wanted: Mapping[str, Any]) -> str:
    """``text`` changed to mean ``wanted``. Raises ``Unsure``.

    >>> spliced("a: 1  # one\\nb: 2\\n", {"a": 3, "b": 2})
    'a: 3  # one\\nb: 2\\n'
    """
    tree = parse(text)
    splices = _Splices(text, tree)
    assert tree.root is not None
    splices.mapping(tree.root, tree.data, wanted)
    after = text
    for start, end, _, new in sorted(splices.edits, reverse=True):
        after = after[:start] + new + after[end:]
    again = parse(after)
    if again.problems or not same(again.data, wanted):
        shared = re.search(r"(?<=[\s\[{,])\*\w[\w-]*", text)
        also = f"; aliases such as {shared[0]} share values" if shared else ""
        raise Unsure(f"no way to write it is certain to leave the rest of the file as it is{also}")
    return after


def same(left: Any, right: Any) -> bool:
    """Equal, and of the same types: true is not 1. A key that is a number is its text."""
    if isinstance(left, dict) and isinstance(right, dict):
        named = {str(key): value for key, value in right.items()}
        return {*map(str, left)} == named.keys() and all(same(value, named[str(key)]) for key, value in left.items())
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and bool(left == right)


class _Splices:
    """The places of ``text`` to replace: (start, end, number of the edit, new text)."""

    def __init__(self, text: str, tree: Tree) -> None:
        self.edits: list[tuple[int, int, int, str]] = []
        self._text, self._tree = text, tree
        self._line_end = "\r\n" if "\r\n" in text else "\n"
        self._inline = partial(json.dumps, ensure_ascii=False) if text.lstrip().startswith("{") else inline
        self._step = next(_steps(tree), 2)

    def mapping(self, node: yaml.MappingNode, old: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """Change the mapping ``node``, which means ``old``, to mean ``wanted``."""
        entries = self._tree.entries[id(node)].items()
        own = {name: pair for name, pair in entries if _start(pair[0]) >= _start(node)}  # the others are merged
        for name, (key, value) in own.items():
            if name not in wanted:
                self._remove(node, key, value)
            elif not same(old[name], wanted[name]):
                self._replace(node, key, value, old[name], wanted[name])
        added = {name: value for name, value in wanted.items() if name not in own}
        added = {name: value for name, value in added.items() if name not in old or not same(old[name], value)}
        if added:
            self._add(node, added)

    def _replace(self, parent: yaml.MappingNode, key: Node, node: Node, old: Any, wanted: Any) -> None:
        if _start(node) < _end(key):
            raise Unsure("others share its value by an alias")
        if isinstance(node, yaml.MappingNode) and _changes_by_key(node, old, wanted):
            self.mapping(node, old, wanted)
            return
        begin, start, end = self._text.index(":", _end(key)) + 1, _start(node), self._content_end(key, node)
        is_collection, comment, lost = isinstance(node, yaml.CollectionNode), "", ""
        is_spread = "\n" in self._text[begin:start] or (is_collection and not node.flow_style)
        if is_spread:  # the value has lines of its own: the comment behind the key stays
            comment, _, lost = self._text[begin:start].partition("\n")
            end = self._line_of(end)
        if is_spread or is_collection:
            self._check_comments(lost + self._text[start:end])
        first, *block = self._spelled(key.value, wanted, key.start_mark.column, is_block=not parent.flow_style)
        if block or is_spread:
            self._put(begin, end, first + comment.rstrip())
        else:
            self._put(start, end, first if start == begin else first[1:])
        if block:
            self._insert(self._line_of(end), block)

    def _remove(self, parent: yaml.MappingNode, key: Node, value: Node) -> None:
        start, end = _start(key), self._content_end(key, value)
        if not parent.flow_style:
            start, end = start - key.start_mark.column, self._line_of(end)
            after = self._text[end : end + 2]
            is_last = not after  # without an end of its own, the line takes that of the one before
            start, end = start - is_last * len(self._line_end), end + (len(self._line_end) if not is_last else 0)
        else:
            number = [name for name, _ in parent.value].index(key)
            if number + 1 < len(parent.value):
                end = _start(parent.value[number + 1][0])
            elif number:
                start = self._content_end(*parent.value[number - 1])
            self._check_comments(self._text[start:end])
        self._put(start, end, "")

    def _add(self, node: yaml.MappingNode, added: Mapping[str, Any]) -> None:
        if node.flow_style:
            pairs = self._inline(added)[1:-1]
            if node.value:
                self._put(at := self._content_end(*node.value[-1]), at, f", {pairs}")
            else:
                self._put(at := self._text.index("{", _start(node)) + 1, at, pairs)
            return
        (first, _), (last, value) = node.value[0], node.value[-1]
        indent = first.start_mark.column
        above = self._text[: _start(last)].rsplit("\n", 2)[1:-1]
        gap = [""] if len(node.value) > 1 and above and not above[0].strip() else []
        lines = [line for name in added for line in (*gap, *self._block({name: added[name]}, indent))]
        self._insert(self._home(self._line_of(self._content_end(last, value)), indent), lines)

    def _put(self, start: int, end: int, new: str) -> None:
        self.edits.append((start, end, len(self.edits), new))

    def _insert(self, at: int, lines: Sequence[str]) -> None:
        self._put(at, at, "".join(self._line_end + line for line in lines))

    # --- places ---

    def _content_end(self, key: Node, node: Node) -> int:
        """The end of a value without the blank lines and comments behind it."""
        if _start(node) < _end(key):
            alias = _ALIAS.match(self._text, _end(key))
            return alias.end() if alias else _end(key)
        if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
            last = node.value[-1]
            return self._content_end(*last) if isinstance(last, tuple) else self._content_end(key, last)
        written = self._text[_start(node) : _end(node)]
        if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
            keeps = "+" in written.partition("\n")[0]
            written = written.removesuffix("\n").removesuffix("\r") if keeps else written.rstrip()
        return _start(node) + len(written)

    def _line_of(self, place: int) -> int:
        """The end of the line of that place."""
        rest = _REST_OF_LINE.match(self._text, place)
        return rest.end() if rest else place

    def _home(self, place: int, indent: int) -> int:
        """The place for new lines: below the comments of their own block, above those of the next one."""
        home = place
        while line := _EMPTY_LINE.match(self._text, place):
            place = line.end()
            if line[2] and len(line[1]) >= indent:
                home = place
        return home

    def _check_comments(self, lost: str) -> None:
        comment = _COMMENT.search(lost)
        if comment:
            raise Unsure(f"the comment {shown(comment[0].strip())} would be lost")

    # --- spelling ---

    def _spelled(self, name: str, value: Any, indent: int, *, is_block: bool = True) -> list[str]:
        """The value behind ``name:``, and the lines of the block below it."""
        is_long = is_block and len(inline(value)) > WIDTH
        if is_block and value and isinstance(value, Mapping):
            if is_long or name in _BLOCKS or not value.keys().isdisjoint(("target", "routes")):
                return ["", *self._block(value, indent + self._step)]
        elif is_long and isinstance(value, list | tuple):
            return ["", *(f"{' ' * (indent + self._step)}- {inline(item)}" for item in value)]
        return [f" {self._inline(value)}"]

    def _block(self, mapping: Mapping[Any, Any], indent: int) -> Iterator[str]:
        for key, value in mapping.items():
            first, *block = self._spelled(str(key), value, indent)
            yield f"{' ' * indent}{key if isinstance(key, int) else quote(key)}:{first}"
            yield from block


def _changes_by_key(node: yaml.MappingNode, old: Any, wanted: Any) -> bool:
    """Whether the keys change one by one; weights, and braces that lose several keys, are written as a whole."""
    if not isinstance(wanted, dict) or not wanted or not node.value or any(isinstance(key, int) for key in wanted):
        return False
    return not node.flow_style or len(old.keys() - wanted.keys()) < 2


def _steps(tree: Tree) -> Iterator[int]:
    """The spaces by which blocks inside blocks are indented."""
    assert isinstance(tree.root, yaml.MappingNode)
    for key, value in tree.root.value:
        for inner, _ in value.value if isinstance(value, yaml.MappingNode) else ():
            if inner.start_mark.line > key.start_mark.line and inner.start_mark.column > key.start_mark.column:
                yield inner.start_mark.column - key.start_mark.column


def _start(node: Node) -> int:
    return int(node.start_mark.index)


def _end(node: Node) -> int:
    return int(node.end_mark.index)
