"""New text for a YAML document of which some data changes: all other lines, and the comments, stay as they are.

ruamel's round trip makes the change; of its result only the lines that the change touches are carried over into the
author's text. The result is read back: it means exactly the data that was wanted, or it is not used.
"""

from __future__ import annotations

import difflib
import io
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from kitaru.manifest.yaml import Tree, Unsure, inline, parse, quote, same, shown

WIDTH = 80
"""A new mapping or list that is longer than this is written as a block."""

_BLOCKS = ("flows", "routes", "targets")
_DEEPEST = 2
"""Depth of a mapping that is changed by one round trip: that of a flow, below the file and ``flows``."""

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_NO_CONTENT = re.compile(r"\s*(#.*)?")


def rewritten(text: str, wanted: dict[str, Any]) -> str:
    """``text`` changed to mean ``wanted``. Raises ``Unsure``.

    >>> rewritten("a: 1  # one\\nb: 2\\n", {"a": 3, "b": 2})
    'a: 3  # one\\nb: 2\\n'
    """
    reason = "no way to write it is certain to leave the rest of the file as it is"
    for attempt in (_as_json, _by_parts, _as_whole):
        try:
            after = attempt(text, wanted)
        except Exception as error:  # ruamel's round trip raises errors of many types on the way
            reason = str(error) if isinstance(error, Unsure) else reason
            continue
        again = parse(after)
        if not again.problems and same(again.data, wanted):
            return after
    shared = re.search(r"(?<=[\s\[{,])\*\w[\w-]*", text)
    raise Unsure(f"{reason}; aliases such as {shared[0]} share values" if shared else reason)


def _as_json(text: str, wanted: dict[str, Any]) -> str:
    """A manifest in JSON stays JSON."""
    indent = re.match(r"\s*\{\s*\n( +)", text)
    options: dict[str, Any] = {"indent": len(indent[1]) if indent else None, "ensure_ascii": False}
    return _carried(text, json.dumps(json.loads(text), **options), json.dumps(wanted, **options))


def _as_whole(text: str, wanted: dict[str, Any]) -> str:
    """The whole file in one round trip: aliases lead from one part to another."""
    return _by_parts(text, wanted, depth=_DEEPEST)


def _by_parts(text: str, wanted: dict[str, Any], depth: int = 0) -> str:
    """Each key of the file that changes, and each flow, in a round trip of its own: that of a whole file is slow."""
    tree, lines = parse(text), _LINE.findall(text)
    assert tree.root is not None
    _edit_parts(lines, tree, tree.root, (tree.root.start_mark.line, len(lines)), tree.data, wanted, depth)
    return "".join(lines)


def _edit_parts(
    lines: list[str], tree: Tree, node: yaml.Node, span: tuple[int, int], old: Any, wanted: Any, depth: int
) -> None:
    """Change the parts of the mapping ``node``, on the lines ``span``, from the last. New keys go behind the last."""
    entries, step = tree.entries[id(node)], _step(tree)
    starts = [key.start_mark.line for key, _ in entries.values()]
    has_own_lines = not node.flow_style and [key for key, _ in entries.values()] == [key for key, _ in node.value]
    if depth == _DEEPEST or not starts or not has_own_lines or entries.keys() - wanted.keys():
        lines[slice(*span)] = [_round_trip("".join(lines[slice(*span)]), old, wanted, step)]
        return
    more = {name: value for name, value in wanted.items() if name not in entries}
    gap = len(starts) > 1 and not lines[starts[-1] - 1].strip()
    stop = span[1]
    for start, (name, (_, value)) in zip(reversed(starts), reversed(entries.items()), strict=True):
        below, new = value.start_mark.line, {name: wanted[name], **more}
        if below > start and isinstance(value, yaml.MappingNode) and isinstance(wanted[name], dict) and not more:
            if not same(old[name], wanted[name]):
                _edit_parts(lines, tree, value, (below, stop), old[name], wanted[name], depth + 1)
        elif not same({name: old[name]}, new):
            lines[start:stop] = [_round_trip("".join(lines[start:stop]), {name: old[name]}, new, step, gap=gap)]
        stop, more = start, {}


def _step(tree: Tree) -> int:
    """By how many spaces the document indents: its first block inside a block decides."""
    assert isinstance(tree.root, yaml.MappingNode)
    blocks = [(key, value.value) for key, value in tree.root.value if isinstance(value, yaml.MappingNode)]
    marks = ((key.start_mark, inner.start_mark) for key, pairs in blocks for inner, _ in pairs)
    return next((m.column - k.column for k, m in marks if m.line > k.line and m.column > k.column), 2)


def _round_trip(text: str, old: Mapping[str, Any], wanted: Mapping[str, Any], step: int, *, gap: bool = False) -> str:
    """``text``, which means ``old``, as ruamel makes it mean ``wanted``; ``gap``: a blank line above new keys."""
    rt = YAML()
    rt.preserve_quotes, rt.width = True, 1_000_000
    rt.indent(mapping=step, sequence=step + 2, offset=step)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data, before, after = rt.load(text), io.StringIO(), io.StringIO()
        rt.dump(rt.load(text), before)  # of a copy: a dump drops anchors
    _sync(data, old, wanted)
    rt.dump(data, after)
    new = after.getvalue()
    for name in wanted.keys() - old.keys() if gap else ():
        new = re.sub(rf"(?m)^(?={re.escape(quote(name))}:)", "\n", new)
    return _carried(text, before.getvalue(), new)


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
            node[_new(key)] = _new(after, name)
        elif not same(before, after):
            inner = node[names[name]] if name in own else None
            if isinstance(inner, CommentedMap) and inner and isinstance(after, Mapping):
                _sync(inner, before, after)
            else:
                _check_alone(inner)
                node[names[name]] = _new(after, name)


def _check_alone(value: Any) -> None:
    """Raise ``Unsure`` for a value with an anchor: an alias elsewhere may stand for it."""
    if getattr(getattr(value, "anchor", None), "value", None):
        raise Unsure(f"others may share its value by *{value.anchor.value}")


def _new(value: Any, name: str = "") -> Any:
    """JSON data as ruamel's types, styled as people write it: on one line if it fits, else as a block."""
    is_block = len(inline(value)) > WIDTH
    made: CommentedMap | CommentedSeq
    match value:
        case Mapping():
            made = CommentedMap((_new(key), _new(one, str(key))) for key, one in value.items())
            is_block |= bool(value) and (name in _BLOCKS or not value.keys().isdisjoint(("target", "routes")))
        case list() | tuple():
            made = CommentedSeq(map(_new, value))
        case _:
            return DoubleQuotedScalarString(value) if isinstance(value, str) and quote(value) != value else value
    if not is_block:
        made.fa.set_flow_style()
    return made


# --- lines ------------------------------------------------------------------------------------------------------------


def _carried(text: str, before: str, after: str) -> str:
    """``text`` with the lines that differ between ``before``, which is ``text`` in another spelling, and ``after``."""
    ending = next(iter(re.findall(r"\r\n|\r|\n", text)), "\n")
    own = _LINE.findall(text if text.endswith(("\r", "\n")) else text + ending)
    old, new = before.removesuffix("\n").split("\n"), after.removesuffix("\n").split("\n")
    places = _places(own, old)
    indents = {  # ruamel's → the author's
        _indent(line): _indent(own[start])
        for line, (start, stop) in zip(old[::-1], places[::-1], strict=True)
        if stop == start + 1 and not _NO_CONTENT.fullmatch(line)
    }
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
        is_line_by_line = last - first == stop - start
        if is_line_by_line and last - first == end - begin:
            lines = list(map(_respelled, own[start:stop], old[first:last], lines))
        if is_new:
            start = stop = max(at, _home(own, start, lines))
        content = _last_content(own, start, stop)
        lost = _comments(own[start:content]) - _comments(lines)
        if lost and (lines or not is_line_by_line):  # with its whole line, a comment goes
            raise Unsure(f"the comment {shown(min(lost))} would be lost")
        kept = [line for line in own[content:stop] if line.strip() not in map(str.strip, lines)]
        result += own[at:start]
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


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _indented(line: str, indents: Mapping[int, int]) -> str:
    known = max((indent for indent in indents if indent <= _indent(line)), default=0)
    indent = _indent(line) + indents.get(known, 0) - known
    return " " * indent + line.lstrip(" ") if line.strip() else ""


def _home(own: Sequence[str], start: int, lines: Sequence[str]) -> int:
    """The place for new lines: above the blank lines and the comments of the next block, below those of their own."""
    indent = next((_indent(line) for line in lines if line.strip()), 0)
    place = _last_content(own, 0, start)
    theirs = (number + 1 for number in range(place, start) if own[number].strip() and _indent(own[number]) >= indent)
    return max([place, *theirs])


def _respelled(own: str, old: str, new: str) -> str:
    """The author's line with the words that differ between ``old`` and ``new``; its spaces stay."""
    parts, was, now = (re.findall(r"\s*\S+", line) for line in (own, old, new))
    there, before, after = ([word.strip() for word in words] for words in (parts, was, now))
    if there != before:
        return new
    result = list[str]()
    for kind, first, last, begin, end in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        words = parts[first:last] if kind == "equal" else now[begin:end]
        if kind == "replace":
            words[0] = parts[first].replace(there[first], after[begin])
        result += words
    return "".join(result)
