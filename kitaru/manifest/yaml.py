"""YAML text as data, and as a tree of places. YAML 1.2 core schema, bounded: ``MAX_DEPTH`` limits the recursion.

The nodes come from the C parser of PyYAML, because the older libyaml in ``ruamel.yaml.clib`` refuses
``{target: a.py:f}``. Aliases share the node that they name, so a few lines that would expand to billions of values cost
nothing until they are refused.
"""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any, NoReturn

import yaml
from yaml import Node
from yaml.cyaml import CParser

from kitaru.errors import Problem

MAX_NODES = 100_000
"""Values after every alias is expanded; 1,000 flows of ten keys are 25,000."""

MAX_DEPTH = 48

Path = tuple[str | int, ...]

_CORE = "tag:yaml.org,2002:"
_PLAIN, _QUOTED = "plain", "quoted"
"""The tags of nodes that have none."""
_OLD_BREAK = re.compile("[\x85\u2028\u2029]")
_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_END_OF_LINE = re.compile(r"\r\n|\r|\n")


@dataclass(slots=True)
class Tree:
    """A document: its ``data`` as JSON, and its nodes. ``root`` is None for an empty file, and for one without sense.

    ``entries``: the id of a mapping's node → key → (key, value), merge keys resolved; a key is its text, as in JSON.
    ``torn``: the ids of mappings with a key given twice.
    """

    root: Node | None = None
    data: Any = None
    problems: list[Problem] = field(default_factory=list)
    entries: dict[int, dict[str, tuple[Node, Node]]] = field(default_factory=dict)
    torn: set[int] = field(default_factory=set)

    def entry(self, node: Node | None, path: Path) -> tuple[int, Node | None, Node | None]:
        """How far ``path`` leads from ``node``: the number of steps, the last key (None in a list), the value there."""
        key: Node | None = None
        for depth, step in enumerate(path):
            entries = self.entries.get(id(node), {})
            if node is not None and str(step) in entries:
                key, node = entries[str(step)]
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and 0 <= step < len(node.value):
                key, node = None, node.value[step]
            else:
                return depth, key, node
        return len(path), key, node


class Unsure(Exception):
    """No edit of a document is certain to leave the rest as it is; the message is the reason."""


class _Refused(Exception):
    """The text is not YAML from here on."""

    def __init__(self, message: str, line: int = 0, column: int = 0, hint: str = "") -> None:
        self.problem = Problem(message, line=line, column=column, hint=hint)


class _Loader(CParser):  # type: ignore[misc]
    """The parser of PyYAML, with tags that only say whether a scalar has quotes."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.anchors: dict[str, Node] = {}

    def resolve(self, _kind: Any, _value: Any, implicit: Any) -> str:
        return _PLAIN if implicit is True or (implicit and implicit[0]) else _QUOTED

    def descend_resolver(self, *_: Any) -> None: ...

    def ascend_resolver(self) -> None: ...


@contextmanager
def paused_collector() -> Iterator[None]:
    """Pause Python's collector of garbage: a tree in the making holds none, and the search takes half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@lru_cache(4)  # a command asks for the store first, then for the whole manifest
@paused_collector()
def parse(text: str) -> Tree:
    """The tree of one YAML document, and every problem that YAML itself has. Never raises; callers change nothing.

    >>> parse("a: [1]").data
    {'a': [1]}
    """
    tree = Tree()
    try:
        tree.root = _compose(text)
        if tree.root is not None:
            tree.data = _Reading(tree).value(tree.root)
    except _Refused as stop:
        return Tree(problems=[*tree.problems, stop.problem])
    return tree


def _compose(text: str) -> Node | None:
    """The nodes of ``text``. Raises ``_Refused`` at the first place that is not YAML."""
    old = _OLD_BREAK.search(text)
    if old is not None:
        code = f"{ord(old[0]):04x}"
        message = f"found the character U+{code.upper()}, which ends a line in YAML 1.1 and none in YAML 1.2"
        raise _Refused(message, *_place(text, old.start()), f'remove it, or write "\\u{code}" in double quotes')
    if "\\ud" in text or "\\uD" in text:  # JSON spells a rare character as two escapes, and libyaml takes only one
        text = _PAIR.sub(_joined, text)
    try:
        root: Node | None = _Loader(text).get_single_node()
        return root
    except yaml.reader.ReaderError as error:
        place = _place(text, len(text.encode()[: error.position].decode("utf-8", "ignore")))
        char = error.character if isinstance(error.character, int) else ord(error.character)
        raise _Refused(f"expected printable text, found the character U+{char:04X}", *place) from None
    except yaml.MarkedYAMLError as error:
        raise _syntax(error, text) from None
    except (yaml.YAMLError, UnicodeError):
        raise _Refused("expected YAML, found something that can't be read as YAML") from None


def _joined(pair: re.Match[str]) -> str:
    char = bytes.fromhex(pair[2] + pair[3]).decode("utf-16-be")
    return f"{pair[1]}\\U{ord(char):08x}"


def _place(text: str, index: int) -> tuple[int, int]:
    lines = _END_OF_LINE.split(text[:index])
    return len(lines), len(lines[-1]) + 1


_SYNTAX = {
    "mapping values are not allowed": (
        "found ':' where no key can be",
        "check the indentation, and put text that holds ': ' in quotes",
    ),
    "cannot start any token": ("found {sign}, which can't begin a value", "put the text in quotes"),
    "find expected ':'": ("expected a key and a colon", "write key: value, and put text of several lines in quotes"),
    "nesting depth": (f"nested more than {MAX_DEPTH} levels deep", ""),
    "escape code": ("expected text, found half of a surrogate pair", "write the character itself"),
    "unexpected end of stream": ("found the end of the file inside the quotes opened on line {begun}", "close them"),
    "undefined alias": ("the alias '{word}' names no anchor before it", "write '&{name}' before the value it names"),
    "second occurrence": ("the anchor '{word}' is given twice", "give one of the two another name"),
    "another document": ("expected one document, found a second ('---')", ""),
}
"""Words of libyaml → the message, and the hint."""


def _syntax(error: yaml.MarkedYAMLError, text: str) -> _Refused:
    mark, begun = error.problem_mark or error.context_mark, error.context_mark
    problem = " ".join(str(error.problem or error.context or "").split())
    if begun is not None and ("find expected ':'" in problem or "escape code" in problem):
        mark = begun
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    lines = _END_OF_LINE.split(text)
    source = lines[line - 1] if 0 < line <= len(lines) else ""
    if "\t" in source[: len(source) - len(source.lstrip())]:
        return _Refused("expected spaces, found a tab: YAML is indented with spaces", line, column)
    for words, (message, hint) in _SYNTAX.items():
        if words in problem:
            word = re.match(r"[&*]?[^\s,\[\]{}]*", source[column - 1 :])
            names = {"sign": shown(source[column - 1 : column]), "word": word[0][:60] if word else ""}
            names |= {"name": names["word"][1:], "begun": str(begun.line + 1 if begun else line)}
            return _Refused(message.format(**names), line, column, hint.format(**names))
    place = f" ({error.context}, begun on line {begun.line + 1})" if error.context and begun else ""
    problem = problem.replace("<block end>", "the end of the block").replace("<document start>", "the end of the file")
    return _Refused(f"not valid YAML: {problem}{place}"[:200], line, column)


# --- data -------------------------------------------------------------------------------------------------------------


class _Reading:
    """Nodes in, data out; fills the tree's ``entries`` and problems on the way."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._count = 0
        self._done: dict[int, tuple[Any, int, int] | None] = {}
        """The id of a collection → its data, its number of values and its depth; None while it is open."""

    def value(self, node: Node, depth: int = 0) -> Any:
        """The data of a node inside ``depth`` others. Raises ``_Refused``."""
        if type(node) is yaml.ScalarNode:
            self._count += 1
            return self._scalar(node)
        known = self._done.get(id(node))
        if known is not None:
            self._count += known[1]
        elif id(node) in self._done:
            self._refuse("this value holds an alias of itself", node)
        elif depth < MAX_DEPTH:
            self._done[id(node)] = None
            begin = self._count
            data = self._mapping(node, depth + 1) if type(node) is yaml.MappingNode else self._list(node, depth + 1)
            parts = (part[-1] if isinstance(part, tuple) else part for part in node.value)
            inner = [done[2] for part in parts if (done := self._done.get(id(part)))]
            known = self._done[id(node)] = data, self._count - begin, 1 + max(inner, default=0)
        if known is None or depth + known[2] > MAX_DEPTH:
            self._refuse(f"nested more than {MAX_DEPTH} levels deep", node)
        if self._count > MAX_NODES:
            self._refuse(f"expected at most {MAX_NODES:,} values, found more once aliases are expanded", node)
        return known[0]

    def _list(self, node: Node, depth: int) -> list[Any]:
        self._check_tag(node, "seq")
        return [self.value(item, depth) for item in node.value]

    def _mapping(self, node: Node, depth: int) -> dict[str, Any]:
        self._check_tag(node, "map")
        entries: dict[str, tuple[Node, Node]] = {}
        data: dict[str, Any] = {}
        merged: list[Node] = []
        for key, part in node.value:
            value, name = self.value(part, depth), key.value
            if type(key) is not yaml.ScalarNode:
                self._problem("expected text as a key, found a collection", key)
            elif name == "<<" and key.tag == _PLAIN:
                merged += self._sources(key, part)
            elif name in entries:
                first = entries[name][0].start_mark
                self._tree.torn.add(id(node))
                place = f"first on line {first.line + 1}, column {first.column + 1}"
                self._problem(f"the key {shown(name)} is given twice; {place}", key, "keep one of the two")
            else:
                entries[name], data[name] = (key, part), value
        for source in merged:  # a mapping's own keys win, then the first source that has one
            entries = {**self._tree.entries[id(source)], **entries}
            data = {**self.value(source, depth), **data}
        self._tree.entries[id(node)] = entries
        return data

    def _sources(self, key: Node, value: Node) -> list[Node]:
        sources = value.value if type(value) is yaml.SequenceNode else [value]
        good = [source for source in sources if type(source) is yaml.MappingNode]
        if len(good) != len(sources):
            self._problem("expected a mapping, or a list of mappings, behind the merge key <<", key)
        return good

    def _scalar(self, node: Node) -> Any:
        text, tag = node.value, node.tag
        if tag == _QUOTED or (tag == _PLAIN and text and text[0] not in _BEGINNINGS):
            return text
        try:
            return _tagged(text, tag)
        except ValueError as error:
            self._problem(str(error), node)
            return 0

    def _problem(self, message: str, node: Node, hint: str = "") -> None:
        line, column = place_of(node)
        self._tree.problems.append(Problem(message, line=line, column=column, hint=hint))

    def _check_tag(self, node: Node, name: str) -> None:
        if node.tag not in (_PLAIN, _QUOTED, _CORE + name):
            self._problem(_senseless(node.tag), node)

    def _refuse(self, message: str, node: Node) -> NoReturn:
        raise _Refused(message, *place_of(node))


def place_of(node: Node) -> tuple[int, int]:
    """The line and the column of a node, both from 1."""
    return node.start_mark.line + 1, node.start_mark.column + 1


# --- scalars ----------------------------------------------------------------------------------------------------------

_KINDS = {"int": int, "float": float, "bool": bool, "null": type(None)}
_WORDS = dict.fromkeys(["", "~", "null", "Null", "NULL"]) | {"true": True, "True": True, "TRUE": True}
_WORDS |= {"false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_BEGINNINGS = frozenset("-+.0123456789~nNtTfF")
"""A scalar that begins otherwise is text."""
_MAX_DIGITS = 300
_BARE = re.compile(r"[A-Za-z_./][A-Za-z0-9_./:@%+=-]*")
_OTHER_BOOLEANS = frozenset({"yes", "no", "on", "off", "y", "n"})
"""Text in YAML 1.2; readers of YAML 1.1, editors among them, take them for booleans."""


def _senseless(tag: str) -> str:
    return f"the tag {shown(tag.replace(_CORE, '!!'))} has no meaning here"


def _tagged(text: str, tag: str) -> Any:
    """The value of a scalar without quotes. Raises ``ValueError``."""
    name = tag.removeprefix(_CORE)
    if name == "str":
        return text
    if tag != _PLAIN and name not in _KINDS:
        raise ValueError(_senseless(tag))
    value = resolve_plain(text)
    if name == "float" and type(value) is int:
        value = float(value)
    if tag != _PLAIN and type(value) is not _KINDS[name]:
        raise ValueError(f"{shown(text)} is no {name}, as its tag says")
    return value


@lru_cache(4096)
def resolve_plain(text: str) -> str | int | float | bool | None:
    """The value of an unquoted scalar in YAML 1.2: ``yes``, ``on`` and dates are text.

    Raises ``ValueError`` for numbers that JSON does not have.

    >>> [resolve_plain(text) for text in ("0o14", "yes", "~", ".5")]
    [12, 'yes', None, 0.5]
    """
    if text and text[0] not in _BEGINNINGS:
        return text
    if text in _WORDS:
        return _WORDS[text]
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
    if _BARE.fullmatch(text) and not text.endswith(":") and text.lower() not in _OTHER_BOOLEANS:
        try:
            if resolve_plain(text) == text:
                return text
        except ValueError:
            pass
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in quoted)


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


def same(left: Any, right: Any) -> bool:
    """Equal, and of the same types: true is not 1. A key that is a number is its text."""
    if isinstance(left, dict) and isinstance(right, dict):
        named = {str(key): value for key, value in right.items()}
        return {*map(str, left)} == named.keys() and all(same(value, named[str(key)]) for key, value in left.items())
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and bool(left == right)


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
    tree = parse(body.decode("utf-8-sig", "replace"))
    data = tree.data
    if tree.problems or not isinstance(data, dict) or data.get("kitaru") != 1:
        return None
    overlays = data.get("targets")
    overlay = overlays.get(target) if isinstance(overlays, dict) and target is not None else {}
    if not isinstance(overlay, dict):
        return None
    store, project = overlay.get("store", data.get("store")), overlay.get("project", data.get("project"))
    return (store, project) if isinstance(project, str) and isinstance(store, str | None) else None
