"""Where each value of a YAML document begins and ends in its text, so that an edit can leave the rest as it is.

The tree beside this one (``yaml_tree``) says what the document means; this one keeps what it looks like: which mapping
is in braces, which value is an alias, where an anchor stands. Merge keys are entries here like any other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from ruamel.yaml.events import (
    AliasEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from kitaru.errors import Problem
from kitaru.manifest.yaml_scalar import resolve_plain
from kitaru.manifest.yaml_tree import Mapping, parse, to_data

Kind = Literal["scalar", "sequence", "mapping", "alias"]
_PROPERTIES = re.compile(r"(?:[&!]\S*\s+)*")
_REST = re.compile(r"[ \t]*(?:#[^\r\n]*)?(?=[\r\n]|\Z)")
_BETWEEN = re.compile(r"(?:[ \t\r\n]+|#[^\r\n]*)*")


@dataclass(slots=True, eq=False)
class Entry:
    """A key and its value. ``merge``: the key is ``<<``."""

    name: str
    key: Span
    value: Span
    merge: bool = False


@dataclass(slots=True, eq=False)
class Span:
    """One value: ``text[start:end]``, its anchor and tag included. Offsets count characters.

    ``inner`` is where the value begins behind these two. A block collection ends where its last value does. ``anchor``
    is the name that is given, or that an alias follows. Of a scalar, ``style`` is a quote, ``|``, ``>`` or nothing,
    and ``said`` what it says, unquoted. ``open_ended``: a blank line behind it would become part of it.
    """

    kind: Kind
    start: int
    end: int
    inner: int
    flow: bool = False
    anchor: str = ""
    style: str = ""
    said: str = ""
    open_ended: bool = False
    entries: list[Entry] = field(default_factory=list)
    items: list[Span] = field(default_factory=list)

    @property
    def block(self) -> bool:
        """Whether it is a collection without braces or brackets."""
        return self.kind in ("mapping", "sequence") and not self.flow

    def own(self, name: str) -> Entry | None:
        """The entry of that name that is written here, not merged in."""
        return next((entry for entry in self.entries if entry.name == name and not entry.merge), None)


@dataclass(eq=False)
class Document:
    """A readable document: its text without the byte order mark, what it means, and where it stands."""

    text: str
    root: Span
    tree: Mapping
    aliases: tuple[Span, ...]

    @cached_property
    def data(self) -> dict[str, Any]:
        """The document as JSON data, aliases expanded."""
        found: dict[str, Any] = to_data(self.tree)
        return found

    @cached_property
    def eol(self) -> str:
        """How the first line ends."""
        return self.ending(0) or "\n"

    @property
    def json(self) -> bool:
        """Whether the document is JSON, or looks like it: braces, and every key in double quotes."""
        return self.root.flow and all(entry.key.style == '"' for entry in self.root.entries)

    def line_start(self, at: int) -> int:
        """Where the line of that offset begins."""
        return max(self.text.rfind("\n", 0, at), self.text.rfind("\r", 0, at)) + 1

    def line_end(self, at: int) -> int:
        """Where the line of that offset ends: at its newline, or at the end of the text."""
        ends = [found for found in (self.text.find("\n", at), self.text.find("\r", at)) if found >= 0]
        return min(ends, default=len(self.text))

    def ending(self, at: int) -> str:
        """The newline that ends the line of that offset; nothing at the end of the text."""
        end = self.line_end(at)
        return "\r\n" if self.text.startswith("\r\n", end) else self.text[end : end + 1]

    def indent(self, at: int) -> str | None:
        """What stands before that offset on its line, where that is nothing but spaces."""
        before = self.text[self.line_start(at) : at]
        return before if not before.strip(" ") else None

    def column(self, at: int) -> int:
        """How many characters stand before that offset on its line."""
        return at - self.line_start(at)

    def ends_line(self, at: int) -> bool:
        """Whether only space and a comment follow on that line."""
        return _REST.match(self.text, at) is not None

    def uses(self, value: Span) -> list[Span]:
        """The aliases that may stand for that value, in the order of the text."""
        given = value.anchor if value.kind != "alias" else ""
        return [alias for alias in self.aliases if given and alias.anchor == given and alias.start > value.start]

    def data_of(self, alias: Span) -> Any:
        """What an alias stands for, where that is reached by keys alone; else None."""
        waiting: list[tuple[Span, Any]] = [(self.root, self.data)]
        found = None
        while waiting:
            node, data = waiting.pop()
            if node.anchor == alias.anchor and node.kind != "alias" and node.start < alias.start:
                if found is not None:
                    return None  # the name is given twice
                found = data
            for entry in node.entries:
                if not entry.merge and isinstance(data, dict):
                    waiting.append((entry.value, data.get(entry.name)))
        return found

    def blank_above(self, parent: Span, entry: Entry) -> int | None:
        """Where the line above an entry begins, where that is blank and no part of the value before it."""
        index = parent.entries.index(entry)
        start = self.line_start(entry.key.start)
        if index == 0 or start == 0:
            return None
        newline = start - (2 if self.text.endswith("\r\n", 0, start) else 1)
        above = self.line_start(newline)
        is_blank = not self.text[above:newline].strip() and above > parent.entries[index - 1].value.end
        return above if is_blank else None

    def comma_after(self, at: int) -> int | None:
        """The comma that comes next in a flow collection, behind space and comments."""
        found = _BETWEEN.match(self.text, at)
        place = found.end() if found else at
        return place if self.text.startswith(",", place) else None


def read_document(text: str) -> Document | list[Problem]:
    """The document in ``text``, or the problems that YAML has with it; none of them where it is no mapping."""
    spans = _Spans(text)
    tree = parse(text, also=spans.feed)
    if tree.problems or spans.root is None or not isinstance(tree.root, Mapping):
        return tree.problems
    return Document(text, spans.root, tree.root, tuple(spans.aliases))


class _Spans:
    """Events in, spans out."""

    def __init__(self, text: str) -> None:
        self.root: Span | None = None
        self.aliases: list[Span] = []
        self._text = text
        self._open: list[tuple[Span, list[Span]]] = []

    def feed(self, event: Event) -> None:
        start, end = event.start_mark.index, event.end_mark.index
        match event:
            case AliasEvent():
                alias = Span("alias", start, end, start, anchor=event.anchor)
                self.aliases.append(alias)
                self._place(alias)
            case ScalarEvent():
                self._place(self._scalar(event, start, end))
            case MappingStartEvent() | SequenceStartEvent():
                kind: Kind = "mapping" if isinstance(event, MappingStartEvent) else "sequence"
                inner = self._inner(event, start, end)
                span = Span(kind, start, end, inner, flow=bool(event.flow_style), anchor=event.anchor or "")
                self._open.append((span, []))
            case MappingEndEvent() | SequenceEndEvent():
                self._close(end)

    def _scalar(self, event: ScalarEvent, start: int, end: int) -> Span:
        style = event.style or ""
        inner = self._inner(event, start, end)
        keeps = style in ("|", ">") and "+" in self._text[inner:end].splitlines()[0].partition("#")[0]
        if style in ("|", ">"):
            if keeps:  # the blank lines are part of the value, but for the last newline
                end = len(self._text[:end].removesuffix("\n").removesuffix("\r"))
            else:
                end = start + len(self._text[start:end].rstrip())
        elif not style:  # behind an anchor without a value, ruamel looks on to the next token
            end = start + len(self._text[start:end].rstrip())
        anchor = event.anchor or ""
        span = Span("scalar", start, end, min(inner, end), anchor=anchor, style=style, said=event.value)
        span.open_ended = keeps
        return span

    def _inner(self, event: ScalarEvent | MappingStartEvent | SequenceStartEvent, start: int, end: int) -> int:
        if event.anchor is None and event.ctag is None:
            return start
        found = _PROPERTIES.match(self._text, start, end)
        return found.end() if found else start

    def _close(self, end: int) -> None:
        span, inside = self._open.pop()
        before = span.inner
        for position, value in enumerate(inside):
            mark = ":" if span.kind == "mapping" else "-"
            if span.block and (position % 2 or mark == "-"):
                self._settle(value, before, mark)
            before = value.end
        if span.flow:
            span.end = end
        elif inside:
            span.end, span.open_ended = inside[-1].end, inside[-1].open_ended
        if span.kind == "sequence":
            span.items = inside
        else:
            span.entries = [self._entry(key, value) for key, value in zip(inside[::2], inside[1::2], strict=False)]
        self._place(span)

    def _settle(self, value: Span, before: int, mark: str) -> None:
        """Nothing at all, in a block, stands right behind its mark; ruamel puts it before the next token."""
        if value.start < value.end or value.kind != "scalar":
            return
        found = _BETWEEN.match(self._text, before)
        place = found.end() if found else before
        value.start = value.inner = value.end = place + 1 if self._text.startswith(mark, place) else before

    def _place(self, span: Span) -> None:
        if self._open:
            self._open[-1][1].append(span)
        else:
            self.root = span

    @staticmethod
    def _entry(key: Span, value: Span) -> Entry:
        name = key.said
        if not key.style:
            try:
                number = resolve_plain(name)
            except ValueError:
                number = None
            if isinstance(number, int) and not isinstance(number, bool):
                name = str(number)
        return Entry(name, key, value, merge=name == "<<" and not key.style)
