"""YAML text as a tree: each value knows its place. YAML 1.2 core schema, bounded, never recursive.

The events come from the C parser of PyYAML, because the older libyaml in ``ruamel.yaml.clib`` refuses
``{target: a.py:f}``. Aliases share the node that they name, so a few lines that would expand to billions of values cost
nothing until they are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import yaml

from kitaru.errors import Problem

MAX_NODES = 100_000
"""Values after every alias is expanded; 1,000 flows of ten keys are 25,000."""

MAX_DEPTH = 48

Path = tuple[str | int, ...]

_CORE = "tag:yaml.org,2002:"
_LOADER = getattr(yaml, "CLoader", yaml.SafeLoader)
_OLD_BREAK = re.compile("[\x85\u2028\u2029]")
_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_END_OF_LINE = re.compile(r"\r\n|\r|\n")


@dataclass(slots=True, eq=False)
class Node:
    """A value and its place; ``line`` and ``column`` count from 1, ``start`` and ``end`` are offsets in the text.

    ``value``: the value as JSON data. ``text``: a scalar without its quotes; ``plain``: it had no quotes and no tag.
    ``entries``: a mapping's key → (key, value), merge keys resolved. ``items``: a list's items. ``torn``: a key is
    given twice.
    """

    line: int
    column: int
    start: int
    end: int
    value: Any = None
    text: str = ""
    plain: bool = False
    entries: dict[str, tuple[Node, Node]] | None = None
    items: list[Node] | None = None
    weight: int = 1
    depth: int = 1
    torn: bool = False


@dataclass(slots=True)
class Tree:
    """A document. ``root`` is None for an empty file, and for one that can't be read."""

    root: Node | None
    problems: list[Problem]


class _Refused(Exception):
    """The text is not YAML from here on."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem


def parse(text: str) -> Tree:
    """The tree of one YAML document, and every problem that YAML itself has. Never raises.

    >>> parse("a: [1]").root.value
    {'a': [1]}
    """
    builder = _Builder()
    try:
        for event in _events(text):
            builder.feed(event)
    except _Refused as stop:
        return Tree(None, [*builder.problems, stop.problem])
    return Tree(builder.root, builder.problems)


@lru_cache(4)  # a command asks for the store first, then for the whole manifest
def plain_data(text: str) -> Any:
    """The data of a plain document; None for a text with problems, anchors, tags, or keys that are not text.

    It equals the data of ``parse``, in half the time; callers share it, and leave it as it is.

    >>> plain_data("a: [1]"), plain_data("a: &x 1")
    ({'a': [1]}, None)
    """
    scalar, ends = yaml.ScalarEvent, (yaml.SequenceEndEvent, yaml.MappingEndEvent)
    outer: list[list[Any]] = []
    parts: list[Any] = []
    count = 0
    try:
        for event in _events(text):
            count += 1
            kind: Any = type(event)
            if kind is scalar:
                value = event.value
                if event.anchor or event.tag or value == "<<":
                    return None
                plain = not event.style and (not value or value[0] in _BEGINNINGS)
                parts.append(resolve_plain(value) if plain else value)
            elif kind in ends:
                inner, parts = parts, outer.pop()
                if kind is yaml.MappingEndEvent:
                    mapping = dict(zip(inner[::2], inner[1::2], strict=True))
                    if len(mapping) * 2 < len(inner) or not all(type(key) is str for key in mapping):
                        return None
                    parts.append(mapping)
                else:
                    parts.append(inner)
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                if event.anchor or event.tag or len(outer) >= MAX_DEPTH:
                    return None
                outer.append(parts)
                parts = []
            elif kind is yaml.AliasEvent:
                return None
    except (_Refused, ValueError, TypeError):
        return None
    return parts[0] if len(parts) == 1 and count < MAX_NODES else None


def entry(node: Node | None, path: Path) -> tuple[int, Node | None, Node | None]:
    """How far ``path`` leads from ``node``: the number of steps, the last key (None in a list), the value there."""
    key: Node | None = None
    for depth, step in enumerate(path):
        if node is not None and node.entries is not None and str(step) in node.entries:
            key, node = node.entries[str(step)]
        elif node is not None and node.items is not None and isinstance(step, int) and 0 <= step < len(node.items):
            key, node = None, node.items[step]
        else:
            return depth, key, node
    return len(path), key, node


# --- events -----------------------------------------------------------------------------------------------------------


def _events(text: str) -> Iterator[yaml.Event]:
    """The events of ``text``. Raises ``_Refused`` at the first place that is not YAML."""
    old = _OLD_BREAK.search(text)
    if old is not None:
        code = f"{ord(old[0]):04x}"
        message = f"found the character U+{code.upper()}, which ends a line in YAML 1.1 and none in YAML 1.2"
        line, column = _place(text, old.start())
        hint = f'remove it, or write "\\u{code}" in double quotes'
        raise _Refused(Problem(message, line=line, column=column, hint=hint))
    if "\\ud" in text or "\\uD" in text:  # JSON spells a rare character as two escapes, and libyaml takes only one
        text = _PAIR.sub(_joined, text)
    try:
        yield from yaml.parse(text, Loader=_LOADER)
    except yaml.reader.ReaderError as error:
        line, column = _place(text, len(text.encode()[: error.position].decode("utf-8", "ignore")))
        char = error.character if isinstance(error.character, int) else ord(error.character)
        message = f"expected printable text, found the character U+{char:04X}"
        raise _Refused(Problem(message, line=line, column=column)) from None
    except yaml.MarkedYAMLError as error:
        raise _Refused(_syntax(error, text)) from None
    except (yaml.YAMLError, UnicodeError):
        raise _Refused(Problem("expected YAML, found something that can't be read as YAML")) from None


def _joined(pair: re.Match[str]) -> str:
    char = bytes.fromhex(pair[2] + pair[3]).decode("utf-16-be")
    return f"{pair[1]}\\U{ord(char):08x}"


def _place(text: str, index: int) -> tuple[int, int]:
    lines = _END_OF_LINE.split(text[:index])
    return len(lines), len(lines[-1]) + 1


def _syntax(error: yaml.MarkedYAMLError, text: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    problem = " ".join(str(error.problem or error.context or "").split())
    begun = error.context_mark
    if begun is not None and ("find expected ':'" in problem or "escape code" in problem):
        mark = begun
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    lines = _END_OF_LINE.split(text)
    source = lines[line - 1] if 0 < line <= len(lines) else ""
    hint = ""
    if "\t" in source[: len(source) - len(source.lstrip())]:
        message = "expected spaces, found a tab: YAML is indented with spaces"
    elif "mapping values are not allowed" in problem:
        message, hint = "found ':' where no key can be", "check the indentation, and put text that holds ': ' in quotes"
    elif "cannot start any token" in problem:
        char = source[column - 1 : column]
        message, hint = f"found {shown(char)}, which can't begin a value", "put the text in quotes"
    elif "find expected ':'" in problem:
        message, hint = "expected a key and a colon", "write key: value, and put text of several lines in quotes"
    elif "nesting depth" in problem:
        message = f"nested more than {MAX_DEPTH} levels deep"
    elif "escape code" in problem:
        message, hint = "expected text, found half of a surrogate pair", "write the character itself"
    elif "unexpected end of stream" in problem:
        opened = begun.line + 1 if begun else line
        message, hint = f"found the end of the file inside the quotes opened on line {opened}", "close the quotes"
    else:
        where = f" ({error.context}, begun on line {begun.line + 1})" if error.context and begun else ""
        for name, words in (("<block end>", "the end of the block"), ("<document start>", "the end of the file")):
            problem = problem.replace(name, words)
        message = f"not valid YAML: {problem}{where}"[:200]
    return Problem(message, line=line, column=column, hint=hint)


# --- tree -------------------------------------------------------------------------------------------------------------


class _Builder:
    """Events in, nodes out, with a stack of its own: depth is bounded by ``MAX_DEPTH``, not by Python."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self.problems: list[Problem] = []
        self._anchors: dict[str, Node] = {}
        self._open: list[tuple[Node, str | None, list[Node]]] = []
        self._documents = 0

    def feed(self, event: Any) -> None:
        """Take the next event. Raises ``_Refused``."""
        mark, kind = event.start_mark, type(event)
        if kind is yaml.ScalarEvent:
            node = Node(mark.line + 1, mark.column + 1, mark.index, event.end_mark.index)
            self._scalar(event, node)
            self._add(node, event.anchor)
        elif kind in (yaml.MappingStartEvent, yaml.SequenceStartEvent):
            self._begin(event, Node(mark.line + 1, mark.column + 1, mark.index, mark.index))
        elif kind in (yaml.MappingEndEvent, yaml.SequenceEndEvent):
            node, anchor, parts = self._open.pop()
            node.end = event.end_mark.index
            if node.items is None:
                self._fill(node, parts)
            else:
                node.items, node.value = parts, [part.value for part in parts]
            self._add(node, anchor)
        elif kind is yaml.AliasEvent:
            self._add(self._aliased(event.anchor, mark), None, mark)
        elif kind is yaml.DocumentStartEvent:
            self._documents += 1
            if self._documents > 1:
                _refuse("expected one document, found a second ('---')", mark)

    def _begin(self, event: Any, node: Node) -> None:
        if len(self._open) >= MAX_DEPTH:
            _refuse(f"nested more than {MAX_DEPTH} levels deep", event.start_mark)
        is_mapping = type(event) is yaml.MappingStartEvent
        if event.tag not in (None, "!", _CORE + ("map" if is_mapping else "seq")):
            self._refuse_tag(event.tag, node)
        if is_mapping:
            node.entries = {}
        else:
            node.items = []
        self._open.append((node, event.anchor, []))

    def _add(self, node: Node, anchor: str | None, alias: Any = None) -> None:
        """Hand a finished value to its parent; ``alias`` is the mark of its alias."""
        if anchor is not None:
            self._anchors[anchor] = node
        if not self._open:
            self.root = node
            return
        parent, _, parts = self._open[-1]
        parts.append(node)
        parent.weight += node.weight
        if parent.weight > MAX_NODES:
            message = f"expected at most {MAX_NODES:,} values, found more once aliases are expanded"
            raise _Refused(_problem(message, node) if alias is None else _at_mark(message, alias))
        if node.entries is not None or node.items is not None:
            parent.depth = max(parent.depth, node.depth + 1)
            if parent.depth > MAX_DEPTH:
                message = f"nested more than {MAX_DEPTH} levels deep"
                raise _Refused(_problem(message, node) if alias is None else _at_mark(message, alias))

    def _aliased(self, name: str, mark: Any) -> Node:
        if any(anchor == name for _, anchor, _ in self._open):
            _refuse(f"the alias {shown('*' + name)} stands inside the value that it names", mark)
        if name not in self._anchors:
            hint = f"write {shown('&' + name)} before the value that it names"
            _refuse(f"the alias {shown('*' + name)} names no anchor before it", mark, hint)
        return self._anchors[name]

    def _scalar(self, event: Any, node: Node) -> None:
        node.text = node.value = text = event.value
        tag = event.tag.removeprefix(_CORE) if event.tag else ""
        node.plain = not tag and not event.style
        try:
            if node.plain or tag in ("int", "float", "bool", "null"):
                node.value = resolve_plain(text)
            elif tag not in ("", "!", "str"):
                self._refuse_tag(event.tag, node)
            if tag in ("int", "float", "bool", "null") and not _is_of(tag, node.value):
                raise ValueError(f"{shown(text)} is no {tag}, as its tag says")
        except ValueError as error:
            self.problems.append(_problem(str(error), node))
            node.value = 0
        if tag == "float" and node.value is not None:
            node.value = float(node.value)

    def _refuse_tag(self, tag: str, node: Node) -> None:
        self.problems.append(_problem(f"the tag {shown(tag.replace(_CORE, '!!'))} has no meaning here", node))

    def _fill(self, node: Node, parts: list[Node]) -> None:
        assert node.entries is not None
        merged: list[Node] = []
        for key, value in zip(parts[::2], parts[1::2], strict=True):
            if key.entries is not None or key.items is not None:
                self.problems.append(_problem("expected text as a key, found a collection", key))
            elif key.text == "<<" and key.plain:
                merged += self._sources(key, value)
            elif (name := _key(key)) in node.entries:
                first, node.torn = node.entries[name][0], True
                message = f"the key {shown(name)} is given twice; first on line {first.line}, column {first.column}"
                self.problems.append(_problem(message, key, "keep one of the two"))
            else:
                node.entries[name] = (key, value)
        for source in merged:  # what a mapping says itself wins, then the first source that says it
            for name, pair in (source.entries or {}).items():
                node.entries.setdefault(name, pair)
        node.value = {name: value.value for name, (_, value) in node.entries.items()}

    def _sources(self, key: Node, value: Node) -> list[Node]:
        sources = value.items if value.items is not None else [value]
        good = [source for source in sources if source.entries is not None]
        if len(good) != len(sources):
            message = "expected a mapping, or a list of mappings, behind the merge key <<"
            self.problems.append(_problem(message, key))
        return good


def _problem(message: str, node: Node, hint: str = "") -> Problem:
    return Problem(message, line=node.line, column=node.column, hint=hint)


def _at_mark(message: str, mark: Any, hint: str = "") -> Problem:
    return Problem(message, line=mark.line + 1, column=mark.column + 1, hint=hint)


def _refuse(message: str, mark: Any, hint: str = "") -> None:
    raise _Refused(_at_mark(message, mark, hint))


def _is_of(tag: str, value: object) -> bool:
    if tag == "bool":
        return isinstance(value, bool)
    if tag == "null":
        return value is None
    return isinstance(value, int | float) and not isinstance(value, bool)


def _key(key: Node) -> str:
    """A key's text; a whole number in its decimal form, by which it is looked up."""
    return str(key.value) if isinstance(key.value, int) and not isinstance(key.value, bool) else key.text


# --- scalars ----------------------------------------------------------------------------------------------------------

_NULL = re.compile(r"(?:null|Null|NULL|~)?")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_BEGINNINGS = frozenset("-+.0123456789~nNtTfF")
"""A scalar that begins otherwise is text."""
_MAX_DIGITS = 300
_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./:@%+=-]*")
_OTHER_BOOLEANS = frozenset({"yes", "no", "on", "off", "y", "n"})
"""Text in YAML 1.2; readers of YAML 1.1, editors among them, take them for booleans."""


def resolve_plain(text: str) -> str | int | float | bool | None:
    """The value of an unquoted scalar in YAML 1.2: ``yes``, ``on`` and dates are text.

    Raises ``ValueError`` for numbers that JSON does not have.

    >>> [resolve_plain(text) for text in ("0o14", "yes", "~", ".5")]
    [12, 'yes', None, 0.5]
    """
    if text and text[0] not in _BEGINNINGS:
        return text
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text[0] in "tT"
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"expected a finite number, found {text}")
    is_int = _INT.fullmatch(text)
    if not is_int and not _FLOAT.fullmatch(text):
        return text
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"expected a number, found one of {len(text)} digits")
    number = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10)) if is_int else float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"expected a finite number, found {shown(text)}, which is too large")
    return number


def quote(text: str) -> str:
    """``text`` as a YAML scalar on one line: plain if every reader takes it for the same text, else in quotes.

    >>> quote("head"), quote("yes"), quote("a: b")
    ('head', '"yes"', '"a: b"')
    """
    if _PLAIN.fullmatch(text) and not text.endswith(":") and text.lower() not in _OTHER_BOOLEANS:
        try:
            if resolve_plain(text) == text:
                return text
        except ValueError:
            pass
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(char if char.isprintable() else _escape(char) for char in quoted)


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def inline(value: Any) -> str:
    """JSON data as YAML on one line; keys that are numbers stay numbers.

    >>> inline({2: 10, "head": [1, "a b"]})
    '{2: 10, head: [1, "a b"]}'
    """
    match value:
        case Mapping():
            pairs = (f"{key if isinstance(key, int) else quote(key)}: {inline(one)}" for key, one in value.items())
            return "{" + ", ".join(pairs) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(inline, value)) + "]"
        case str():
            return quote(value)
    return json.dumps(value)


# --- words for messages -----------------------------------------------------------------------------------------------

_LONGEST = 60
_MOST_NAMES = 300
"""Names beyond these are not compared: the comparison costs 20 µs each."""


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """``; did you mean 'routes'?`` or nothing."""
    import difflib

    if len(word) > _LONGEST:
        return ""
    known = list(islice(options, _MOST_NAMES))
    close = difflib.get_close_matches(word, known, 1, 0.6 if len(word) > 3 else 0.5)
    close = close or [option for option in known if len(word) >= 3 and option.startswith(word)]
    return f"; did you mean {shown(close[0])}?" if close else ""


def described(value: Any) -> str:
    """The value for a message: its kind, and a short value itself, as ``text ('3')``."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"a number ({str(value)[:40]})"
        case str():
            return f"text ({shown(value)})" if value else "empty text"
        case dict():
            return "a mapping" if value else "an empty mapping"
    return "a list" if value else "an empty list"


def shown(text: str) -> str:
    """``text`` in quotes, on one line, at most 60 characters."""
    return repr(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}...")


# --- before any model is loaded ---------------------------------------------------------------------------------------


def store_and_project(body: bytes, target: str | None) -> tuple[str | None, str] | None:
    """The store and the project of a manifest, overlay included; None if the file needs a full look.

    A script that runs a flow asks for these two and needs no model of a manifest.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    data = plain_data(text)
    if not isinstance(data, dict) or data.get("kitaru") != 1:
        return None
    overlays = data.get("targets")
    overlay = overlays.get(target) if isinstance(overlays, dict) and target is not None else {}
    if not isinstance(overlay, dict):
        return None
    store, project = overlay.get("store", data.get("store")), overlay.get("project", data.get("project"))
    return (store, project) if isinstance(project, str) and isinstance(store, str | None) else None
