"""New text for a YAML document of which some data changes: all other lines, and the comments, stay as they are.

ruamel's round trip makes the change; of its result only the lines that the change touches are carried over into the
author's text. The caller reads the result back: it means exactly the data that was wanted, or it is not used.
"""

from __future__ import annotations

import difflib
import io
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from kitaru.manifest.yaml import Node, inline, parse, plain_data, quote, shown

WIDTH = 100
"""A new mapping or list that would make its line longer than this is written as a block."""

_BLOCKS = ("flows", "routes", "targets")
_NO_CONTENT = re.compile(r"\s*(#.*)?")


class Unsure(Exception):
    """No edit is certain to leave the rest as it is; the message is the reason."""


def rewritten(text: str, root: Node, wanted: dict[str, Any]) -> str:
    """``text`` with the tree ``root``, changed to mean ``wanted``. Raises ``Unsure``.

    >>> rewritten("a: 1  # one\\nb: 2\\n", parse("a: 1  # one\\nb: 2\\n").root, {"a": 3, "b": 2})
    'a: 3  # one\\nb: 2\\n'
    """
    reason = "no way to write it is certain to leave the rest of the file as it is"
    for attempt in (_as_json,) if text.lstrip().startswith("{") else (_by_parts, _as_whole):
        try:
            after = attempt(text, root, wanted)
        except Unsure as unsure:
            reason = str(unsure)
            continue
        except Exception:  # ruamel's round trip raises errors of many types on the way
            continue
        data = plain_data(after)
        if data is None:
            tree = parse(after)
            data = tree.root.value if tree.root is not None and not tree.problems else None
        if same(data, wanted):
            return after
    shared = re.search(r"(?<=[\s\[{,])\*\w[\w-]*", text)
    raise Unsure(f"{reason}; aliases such as {shared[0]} share values" if shared else reason)


def same(left: Any, right: Any) -> bool:
    """Equal, and of the same types: true is not 1. A key that is a number is its text."""
    if isinstance(left, dict) and isinstance(right, dict):
        named = {str(key): value for key, value in right.items()}
        return {*map(str, left)} == named.keys() and all(same(value, named[str(key)]) for key, value in left.items())
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and bool(left == right)


def _as_json(text: str, _root: Node, wanted: dict[str, Any]) -> str:
    """A manifest in JSON stays JSON."""
    data = json.loads(text)
    indent = re.match(r"\s*\{\s*\n( +)", text)
    options: dict[str, Any] = {"indent": len(indent[1]) if indent else None, "ensure_ascii": False}
    return _carried(text, json.dumps(data, **options), json.dumps(wanted, **options))


def _by_parts(text: str, root: Node, wanted: dict[str, Any]) -> str:
    """Each key of the file that changes, and each flow, in a round trip of its own: that of a whole file is slow."""
    end = re.compile(r"^(\.\.\.|---)", re.MULTILINE).search(text, root.end)
    return _part(text, root, (root.start - root.column + 1, end.start() if end else len(text)), wanted, _step(root))


def _part(text: str, node: Node, span: tuple[int, int], wanted: Mapping[str, Any], step: int, depth: int = 0) -> str:
    """``text`` with the mapping ``node``, on the lines ``span``, as ``wanted``. New keys go behind the last one."""
    entries = node.entries or {}
    starts = [key.start - key.column + 1 for key, _ in entries.values()]
    lines = [text[start : key.start] for start, (key, _) in zip(starts, entries.values(), strict=True)]
    added = {name: value for name, value in wanted.items() if name not in entries}
    is_block = not any(map(str.strip, lines)) and len(set(starts)) == len(starts) and starts == sorted(starts)
    if depth > 1 or not is_block or not starts or entries.keys() - wanted.keys():
        return text[: span[0]] + _round_trip(text[slice(*span)], node.value, wanted, step) + text[span[1] :]
    ends = [*starts[1:], span[1]]
    gap = len(starts) > 1 and not text[: starts[-1]].splitlines()[-1].strip()
    for number, (name, (_, value)) in reversed(list(enumerate(entries.items()))):
        more = added if number == len(starts) - 1 else {}
        if not more and same(value.value, wanted[name]):
            continue
        here = (starts[number], ends[number])
        deeper = value.entries and isinstance(wanted[name], dict) and not more
        if deeper and text.count("\n", *here) > 1:
            text = _part(text, value, (value.start - value.column + 1, here[1]), wanted[name], step, depth + 1)
        else:
            piece = _round_trip(text[slice(*here)], {name: value.value}, {name: wanted[name], **more}, step, gap=gap)
            text = text[: here[0]] + piece + text[here[1] :]
    return text


def _as_whole(text: str, root: Node, wanted: dict[str, Any]) -> str:
    """The whole file in one round trip: aliases lead from one part to another."""
    return _round_trip(text, root.value, wanted, _step(root))


def _step(root: Node) -> int:
    """By how many spaces the document indents: its first block inside a block decides."""
    for key, value in (root.entries or {}).values():
        for inner, _ in (value.entries or {}).values():
            if inner.line > key.line and inner.column > key.column:
                return inner.column - key.column
    return 2


def _round_trip(text: str, old: Mapping[str, Any], wanted: Mapping[str, Any], step: int, *, gap: bool = False) -> str:
    """``text``, which means ``old``, with the lines that ruamel changes to make it mean ``wanted``.

    ``gap``: a blank line above new keys.
    """
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 1_000_000
    yaml.indent(mapping=step, sequence=step + 2, offset=step)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = text
        try:
            data = yaml.load(read)
        except YAMLError:
            read = re.sub(r"(?<=\S)[ \t]*\t[ \t]*", " ", text)  # ruamel takes no tab between values
            data = yaml.load(read)
        before = _dumped(yaml, yaml.load(read))  # of a copy: a dump drops anchors
    _sync(data, old, wanted)
    after = _dumped(yaml, data)
    for name in wanted.keys() - old.keys() if gap else ():
        after = re.sub(rf"(?m)^(?={re.escape(quote(name))}:)", "\n", after)
    return _carried(text, before, after)


def _dumped(yaml: YAML, data: CommentedMap) -> str:
    stream = io.StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()


def _sync(node: CommentedMap, old: Mapping[str, Any], wanted: Mapping[Any, Any]) -> None:
    """Change ``node``, which means ``old``, to mean ``wanted``: in place, and only the parts that differ."""
    names = {str(name): name for name in node}
    own = {str(name) for name, _ in node.non_merged_items()}
    given = {str(key): key for key in wanted}
    for name in old.keys() - given.keys():
        _check_alone(node[names[name]])
        del node[names[name]]
    for name, key in given.items():
        before: Any = old.get(name)
        after = wanted[key]
        if name not in old:
            node[_scalar(key)] = _new(after, name)
        elif not same(before, after):
            inner = node[names[name]] if name in own else None
            if isinstance(inner, CommentedMap) and inner and isinstance(after, Mapping):
                _sync(inner, before, after)
            elif isinstance(inner, CommentedSeq) and isinstance(after, list) and len(inner) <= len(after):
                _sync_list(inner, before, after)
            else:
                _check_alone(inner)
                node[names[name]] = _new(after, name)


def _sync_list(node: CommentedSeq, old: Sequence[Any], wanted: Sequence[Any]) -> None:
    for index, item in enumerate(wanted):
        if index >= len(node):
            node.append(_new(item))
        elif not same(old[index], item):
            node.ca.items.pop(index, None)  # its comment goes with the item
            node[index] = _new(item)


def _check_alone(value: Any) -> None:
    """Raise ``Unsure`` for a value with an anchor: an alias elsewhere may stand for it."""
    anchor = value.yaml_anchor() if hasattr(value, "yaml_anchor") else None
    if anchor is not None and anchor.value:
        raise Unsure(f"others may share its value by *{anchor.value}")


def _new(value: Any, name: str = "") -> Any:
    """JSON data as ruamel's types, styled as people write it: on one line if it fits, else as a block."""
    if isinstance(value, Mapping):
        mapping = CommentedMap()
        for key, one in value.items():
            mapping[_scalar(key)] = _new(one, str(key))
        is_spec = any(key in value for key in ("target", "routes"))
        if not value or (name not in _BLOCKS and not is_spec and len(inline(value)) < WIDTH - 20):
            mapping.fa.set_flow_style()
        return mapping
    if isinstance(value, list | tuple):
        sequence = CommentedSeq(map(_new, value))
        if len(inline(value)) < WIDTH - 20:
            sequence.fa.set_flow_style()
        return sequence
    return _scalar(value)


def _scalar(value: Any) -> Any:
    return DoubleQuotedScalarString(value) if isinstance(value, str) and quote(value) != value else value


# --- lines ------------------------------------------------------------------------------------------------------------


_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


def _carried(text: str, before: str, after: str) -> str:
    """``text`` with the lines that differ between ``before``, which is ``text`` in another spelling, and ``after``."""
    own, old, new = _LINE.findall(text), before.removesuffix("\n").split("\n"), after.removesuffix("\n").split("\n")
    places = _places(own, old)
    indents = _indents(own, old, places)
    ending = own[0][len(own[0].rstrip("\r\n")) :] or "\n"
    result, at = list[str](), 0
    for kind, first, last, begin, end in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        is_new = first == last
        start = places[first - 1][1] if is_new and first else places[first][0] if not is_new else 0
        stop = start if is_new else places[last - 1][1]
        if start < at:
            raise Unsure("its lines can't be told apart")
        lines = [_indented(line, indents) for line in new[begin:end]]
        if last - first == end - begin == stop - start:
            pairs = zip(own[start:stop], old[first:last], lines, strict=True)
            lines = [_respelled(*pair) for pair in pairs]
        elif last - first != stop - start and (lost := _comments(own[start:stop]) - _comments(lines)):
            raise Unsure(f"the comment {shown(min(lost))} would be lost")
        if is_new:
            start = stop = max(at, _home(own, start, lines))
        kept = [
            line for line in own[_last_content(own, start, stop) : stop] if line.strip() not in map(str.strip, lines)
        ]
        result += own[at:start]
        if result and lines and not result[-1].endswith(("\r", "\n")):
            result[-1] += ending
        result += [*(line + ending for line in lines), *kept]
        at = stop
    changed = "".join([*result, *own[at:]])
    return changed if text.endswith(("\r", "\n")) else changed.rstrip("\r\n")


def _comments(lines: Sequence[str]) -> set[str]:
    return {found[0].strip() for line in lines for found in re.finditer(r"(?:^|\s)#.*", line.rstrip("\r\n"))}


def _last_content(own: Sequence[str], start: int, stop: int) -> int:
    """The end of the lines in this range without the blank lines and the comments behind them."""
    while stop > start and _NO_CONTENT.fullmatch(own[stop - 1].rstrip("\r\n")):
        stop -= 1
    return stop


def _places(own: Sequence[str], old: Sequence[str]) -> list[tuple[int, int]]:
    """The lines of ``own`` that each line of ``old`` stands for: (first, behind the last)."""
    places: list[tuple[int, int]] = []
    there, here = ([" ".join(line.split()) for line in lines] for lines in (old, own))
    for _, first, last, begin, end in difflib.SequenceMatcher(None, there, here, autojunk=False).get_opcodes():
        if last - first == end - begin:
            places += [(begin + number, begin + number + 1) for number in range(last - first)]
        else:
            places += [(begin, end)] * (last - first)
    return places


def _indents(own: Sequence[str], old: Sequence[str], places: Sequence[tuple[int, int]]) -> dict[int, int]:
    """ruamel's indentation → the author's."""
    indents: dict[int, int] = {}
    for line, (start, stop) in zip(old, places, strict=True):
        if stop == start + 1 and not _NO_CONTENT.fullmatch(line):
            indents.setdefault(_indent(line), _indent(own[start]))
    return indents


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _indented(line: str, indents: Mapping[int, int]) -> str:
    if not line.strip():
        return ""
    known = max((indent for indent in indents if indent <= _indent(line)), default=0)
    return " " * (indents.get(known, 0) + _indent(line) - known) + line.lstrip(" ")


def _home(own: Sequence[str], start: int, lines: Sequence[str]) -> int:
    """The place for new lines: above the blank lines and the comments of the next block, below those of their own."""
    indent = next((_indent(line) for line in lines if line.strip()), 0)
    place = _last_content(own, 0, start)
    for number in range(place, start):
        if own[number].strip() and _indent(own[number]) >= indent:
            place = number + 1
    return place


def _respelled(own: str, old: str, new: str) -> str:
    """The author's line with the words that differ between ``old`` and ``new``; its spaces stay."""
    own = own.rstrip("\r\n")
    there, was, now = (list(re.finditer(r"\S+", line)) for line in (own, old, new))
    shortest = min(len(was), len(now))
    if [word[0] for word in there] != [word[0] for word in was]:
        return new
    head = tail = 0
    while head < shortest and was[head][0] == now[head][0]:
        head += 1
    while tail < shortest - head and was[-1 - tail][0] == now[-1 - tail][0]:
        tail += 1
    if head + tail == shortest:  # words come or go, and their spaces with them
        if not head or not tail:
            return new
        return (
            own[: there[head - 1].end()] + new[now[head - 1].end() : now[-tail].start()] + own[there[-tail].start() :]
        )
    middle = new[now[head].start() : now[-1 - tail].end()]
    return own[: there[head].start()] + middle + own[there[-1 - tail].end() :]
