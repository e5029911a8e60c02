"""YAML as a tree whose every value knows where it stands: YAML 1.2 core schema, bounded, never recursive.

Built from ruamel's events rather than by its loaders: those either forget positions or build the slow round-trip types.
Aliases share the node that they name, so a value keeps the position at which it is written, and a few lines that would
expand to billions of values cost nothing until they are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from kitaru.errors import Problem
from kitaru.manifest.wording import shown
from kitaru.manifest.yaml_events import Refused, events
from kitaru.manifest.yaml_scalar import resolve_plain

MAX_NODES = 100_000
"""Values after every alias is expanded; 1,000 flows of ten keys are 25,000."""

MAX_DEPTH = 48

Step = str | int
Path = tuple[Step, ...]

_CORE = "tag:yaml.org,2002:"


@dataclass(slots=True, eq=False)
class Scalar:
    """One value without parts. ``text`` is what the author wrote, unquoted; lines and columns count from 1.

    ``plain``: it stood there without quotes and without a tag.
    """

    value: str | int | float | bool | None
    text: str
    line: int
    column: int
    plain: bool = True


@dataclass(slots=True, eq=False)
class Sequence:
    """A list. ``weight`` counts the values below it, aliases expanded."""

    line: int
    column: int
    items: list[Node] = field(default_factory=list)
    weight: int = 1
    depth: int = 1


@dataclass(slots=True, eq=False)
class Mapping:
    """A mapping; ``entries`` leads from a key's text to the key and its value, merge keys already resolved.

    ``torn``: a key is given twice, so that what it says as a whole is in doubt.
    """

    line: int
    column: int
    entries: dict[str, tuple[Scalar, Node]] = field(default_factory=dict)
    weight: int = 1
    depth: int = 1
    torn: bool = False


Node = Scalar | Sequence | Mapping


@dataclass(slots=True)
class Tree:
    """A whole document. ``root`` is None where there is nothing in the file, or nothing that could be read."""

    root: Node | None
    problems: list[Problem]


def parse(text: str, *, also: Callable[[Event], None] | None = None) -> Tree:
    """The tree of one YAML document, and every problem that YAML itself has. Never raises.

    ``also`` is given each event as well, up to the first that ends the reading: parsing is what takes the time.
    """
    builder = _Builder()
    try:
        for event in events(text):
            builder.feed(event)
            if also is not None:
                also(event)
    except Refused as stop:
        return Tree(None, [*builder.problems, stop.problem])
    return Tree(builder.root, builder.problems)


@dataclass(slots=True)
class _Open:
    """A collection that is still being read. ``key`` waits for its value."""

    node: Mapping | Sequence
    anchor: str | None
    pairs: list[tuple[Node, Node]] = field(default_factory=list)
    key: Node | None = None


class _Builder:
    """Events in, nodes out, with a stack of its own: depth is bounded by ``MAX_DEPTH``, not by Python."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self.problems: list[Problem] = []
        self._anchors: dict[str, Node] = {}
        self._open: list[_Open] = []
        self._documents = 0

    def feed(self, event: Event) -> None:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        match event:
            case DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise Refused(Problem("expected one document, found a second ('---')", line=line, column=column))
            case AliasEvent():
                self._place(self._aliased(event.anchor, line, column), line, column)
            case ScalarEvent():
                scalar = self._scalar(event, line, column)
                self._remember(event.anchor, scalar)
                self._place(scalar, line, column)
            case MappingStartEvent() | SequenceStartEvent():
                self._begin(event, line, column)
            case MappingEndEvent() | SequenceEndEvent():
                self._end()

    def _begin(self, event: MappingStartEvent | SequenceStartEvent, line: int, column: int) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise Refused(Problem(f"nested more than {MAX_DEPTH} levels deep", line=line, column=column))
        is_mapping = isinstance(event, MappingStartEvent)
        tag = str(event.ctag) if event.ctag else "!"
        if tag not in ("!", _CORE + ("map" if is_mapping else "seq")):
            self._refuse_tag(tag, line, column)
        node: Mapping | Sequence = Mapping(line, column) if is_mapping else Sequence(line, column)
        self._open.append(_Open(node, event.anchor))

    def _end(self) -> None:
        opened = self._open.pop()
        node = opened.node
        if isinstance(node, Mapping):
            self._fill(node, opened.pairs)
        self._remember(opened.anchor, node)
        self._place(node, node.line, node.column)

    def _place(self, node: Node, line: int, column: int) -> None:
        """Hand a finished value to what it stands in; ``line`` and ``column`` are those of its alias, if it has one."""
        if not self._open:
            self.root = node
            return
        opened = self._open[-1]
        self._weigh(opened.node, node, line, column)
        if isinstance(opened.node, Sequence):
            opened.node.items.append(node)
        elif opened.key is None:
            opened.key = node
        else:
            opened.pairs.append((opened.key, node))
            opened.key = None

    @staticmethod
    def _weigh(parent: Mapping | Sequence, node: Node, line: int, column: int) -> None:
        if isinstance(node, Scalar):
            parent.weight += 1
        else:
            parent.weight += node.weight
            parent.depth = max(parent.depth, node.depth + 1)
        if parent.weight > MAX_NODES:
            message = f"expected at most {MAX_NODES:,} values, found more once aliases are expanded"
            raise Refused(Problem(message, line=line, column=column))
        if parent.depth > MAX_DEPTH:
            raise Refused(Problem(f"nested more than {MAX_DEPTH} levels deep", line=line, column=column))

    def _remember(self, anchor: str | None, node: Node) -> None:
        if anchor is not None:
            self._anchors[anchor] = node

    def _aliased(self, name: str, line: int, column: int) -> Node:
        if any(opened.anchor == name for opened in self._open):
            raise Refused(
                Problem(
                    f"the alias {shown('*' + name)} stands inside the value that it names", line=line, column=column
                )
            )
        node = self._anchors.get(name)
        if node is None:
            message = f"the alias {shown('*' + name)} names no anchor before it"
            raise Refused(
                Problem(
                    message, line=line, column=column, hint=f"write {shown('&' + name)} before the value that it names"
                )
            )
        return node

    def _scalar(self, event: ScalarEvent, line: int, column: int) -> Scalar:
        text: str = event.value
        tag = str(event.ctag).removeprefix(_CORE) if event.ctag else ""
        value: str | int | float | bool | None = text
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            try:  # JSON spells a rare character as two escapes
                text = value = text.encode("utf-16", "surrogatepass").decode("utf-16")
            except UnicodeDecodeError:
                message = "expected text, found half of a surrogate pair"
                self.problems.append(Problem(message, line=line, column=column))
                text = value = ""
        try:
            if tag in ("int", "float", "bool", "null") or (not tag and event.style is None):
                value = resolve_plain(text)
            elif tag not in ("", "!", "str"):
                self._refuse_tag(str(event.ctag), line, column)
            if tag in ("int", "float", "bool", "null") and not _is_of(tag, value):
                raise ValueError(f"{shown(text)} is no {tag}, as its tag says")
        except ValueError as error:
            self.problems.append(Problem(str(error), line=line, column=column))
            value = 0
        value = float(value) if tag == "float" and value is not None else value
        return Scalar(value, text, line, column, plain=not tag and event.style is None)

    def _refuse_tag(self, tag: str, line: int, column: int) -> None:
        name = shown(tag.replace(_CORE, "!!"))
        self.problems.append(Problem(f"the tag {name} has no meaning here", line=line, column=column))

    def _fill(self, node: Mapping, pairs: list[tuple[Node, Node]]) -> None:
        merged: list[Mapping] = []
        for key, value in pairs:
            if not isinstance(key, Scalar):
                self.problems.append(
                    Problem("expected text as a key, found a collection", line=key.line, column=key.column)
                )
            elif key.text == "<<" and key.plain:
                merged += self._sources(key, value)
            elif (name := _key(key)) in node.entries:
                first, node.torn = node.entries[name][0], True
                message = f"the key {shown(name)} is given twice; first on line {first.line}, column {first.column}"
                self.problems.append(Problem(message, line=key.line, column=key.column, hint="keep one of the two"))
            else:
                node.entries[name] = (key, value)
        for source in merged:  # what a mapping says itself wins, then the first source that says it
            for name, entry in source.entries.items():
                node.entries.setdefault(name, entry)

    def _sources(self, key: Scalar, value: Node) -> list[Mapping]:
        sources = value.items if isinstance(value, Sequence) else [value]
        good = [source for source in sources if isinstance(source, Mapping)]
        if len(good) != len(sources):
            message = "expected a mapping, or a list of mappings, behind the merge key <<"
            self.problems.append(Problem(message, line=key.line, column=key.column))
        return good


def _is_of(tag: str, value: object) -> bool:
    if tag == "bool":
        return isinstance(value, bool)
    if tag == "null":
        return value is None
    return isinstance(value, int | float) and not isinstance(value, bool)


def _key(key: Scalar) -> str:
    """A key's text; a whole number in its decimal form, since that is what it is looked up by."""
    return str(key.value) if isinstance(key.value, int) and not isinstance(key.value, bool) else key.text


def to_data(node: Node | None) -> Any:
    """The tree as JSON data, aliases expanded; keys are text. At most ``MAX_DEPTH`` deep."""
    match node:
        case Scalar():
            return node.value
        case Sequence():
            return [to_data(item) for item in node.items]
        case Mapping():
            return {name: to_data(value) for name, (_, value) in node.entries.items()}
    return None


def entry(node: Node | None, path: Path) -> tuple[int, Scalar | None, Node | None]:
    """How far ``path`` leads from ``node``: the number of steps, the last key (None in a list), the value there."""
    key: Scalar | None = None
    for depth, step in enumerate(path):
        if isinstance(node, Mapping) and str(step) in node.entries:
            key, node = node.entries[str(step)]
        elif isinstance(node, Sequence) and isinstance(step, int) and 0 <= step < len(node.items):
            key, node = None, node.items[step]
        else:
            return depth, key, node
    return len(path), key, node
