"""YAML as people mostly write it, read line by line: the events that ruamel gives, in a fiftieth of the time.

Blocks, braces and brackets, text in quotes on one line, comments, anchors and aliases. A value of another kind is left
to ruamel alone, with the lines that it takes; whatever else there is, and whatever is wrong, is ruamel's to read from
the beginning: then there is no answer here, rather than one that might not be ruamel's.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

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

from kitaru.manifest.yaml_pieces import value_events

LONGEST_KEY = 1000
"""YAML ends a key without a question mark at 1,024 characters."""

# Two kinds of white space that readers disagree on, marks of byte order, half characters, and what can't be printed.
_LETTERS = r"\t\n -~\xa1-\u1fff\u2010-\u2027\u2030-\u2fff\u3001-\ud7ff\uf900-\ufefe\uff01-\uffef\U00010000-\U0001ffff"
_STRANGE = re.compile(rf"[^\r{_LETTERS}]|\r(?!\n)|^(?:---|\.\.\.|%)", re.MULTILINE)
_START = re.compile(r"(?: *(?:#[^\n]*)?\n)*---(?= *(?: #[^\n]*)?\r?\n)")
_END_OF_LINE = r"(?=[ \r\n]|\Z)"
_BLANK = re.compile(r"(?: *(?:#[^\n]*)?\r?\n)* *(?:#[^\n]*\Z)?")
_REST = re.compile(r" *(?: #[^\n]*)?\r?(?:\n|\Z)")
_GAP = re.compile(r"(?: *\r?\n| +#[^\n]*\n|^#[^\n]*\n)* *", re.MULTILINE)
_DEEPER = re.compile(r" *(?:[#\r\n]|\Z)")
"""A line that belongs to the one before, or is nothing of its own, where no more is looked at than its indent."""
_ALL = re.compile(r".*", re.DOTALL)
_BLANK_LINE = re.compile(r" *(?:#|\r?\n|\Z)")
_DASH = re.compile(rf"-{_END_OF_LINE}")
_NAME = r"[A-Za-z0-9_-]+"
_ANCHOR = re.compile(rf"&({_NAME}){_END_OF_LINE}")
_ALIAS = re.compile(rf"\*({_NAME})(?=[ \r\n,\]}}]|\Z)")
_QUOTED = r"""'(?:[^'\n]|'')*'|"(?:[^"\\\n]|\\["\\/bfnrt]|\\u[0-9A-Fa-f]{4})*\""""
_PLAIN_KEY = r"(?:<<|[\w./][\w./+@~-]*)"
_KEY = re.compile(rf"({_PLAIN_KEY}|{_QUOTED}):{_END_OF_LINE}")
_KEY_INSIDE = re.compile(rf"(?:({_PLAIN_KEY}):(?=[ \r\n])|({_QUOTED}):)")
_SCALAR = re.compile(
    rf"{_QUOTED}|(?:[\w./~+$(^;\\]|-(?=[^ \t\r\n]))(?: *(?:[^ \t\r\n:#]|:(?=[^ \t\r\n#]))|(?<=[^ \t\r\n])#)*"
)
_SCALAR_INSIDE = re.compile(rf"{_QUOTED}|(?:[\w./~+$(^;\\]|-(?=\w))(?: *(?:[^ \t\r\n:#,?\[\]{{}}]|:(?=[\w/])))*")
_ESCAPED = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)")
_MEANINGS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


@dataclass(slots=True)
class Mark:
    """A place in the text: characters from its beginning, line and column, all counted from 0."""

    index: int
    line: int
    column: int


class _Beyond(Exception):
    """Here stands what ruamel is to read."""


def scanned(text: str) -> list[Event] | None:
    """The events of the one document in ``text``, but for those that begin and end the stream; None where the text
    has something in it that is not read here, be it right or wrong.
    """
    start = _START.match(text)
    begun = start.end() if start else 0
    if _STRANGE.search(text, begun) or (start and _STRANGE.search(text, 0, begun - 3)):
        return None
    try:
        return _Scanner(text, begun).events
    except _Beyond:
        return None


@dataclass(slots=True)
class _Block:
    """An open collection without braces. ``waiting``: its last key or dash has no value yet.

    ``loose``: a list whose dashes stand below the key itself, not deeper. ``anchor`` is for the value to come;
    ``spot`` is where that begins then, and of a dash where nothing at all would stand.
    """

    is_mapping: bool
    indent: int
    loose: bool = False
    waiting: bool = False
    anchor: str | None = None
    spot: Mark | None = None


class _Scanner:
    """The text so far, and what is open in it."""

    def __init__(self, text: str, at: int) -> None:
        self._text = text
        self._at = at
        self._line = text.count("\n", 0, at)
        self._line_start = text.rfind("\n", 0, at) + 1
        self._open: list[_Block] = []
        here = self._mark(at)
        self.events: list[Event] = [DocumentStartEvent(here, here)]
        if at:
            self._pass_rest(at)
        self._document()

    def _document(self) -> None:
        text = self._text
        self._advance(_BLANK, self._at)
        if text.startswith(("{", "["), self._at):
            self._braces(self._at, None, self._mark(self._at))
            self._advance(_BLANK, self._at)
            if self._at < len(text):
                raise _Beyond
            return
        if not _KEY.match(text, self._at):
            raise _Beyond
        while self._at < len(text):
            self._block_line()
            self._advance(_BLANK, self._at)
        here = self._mark(self._at)
        while self._open:
            self._close(here)

    # --- places -------------------------------------------------------------------------------------------------------

    def _mark(self, at: int) -> Mark:
        return Mark(at, self._line, at - self._line_start)

    def _advance(self, what: re.Pattern[str], at: int, most: int = sys.maxsize) -> None:
        """Go behind what is found there, over lines as well."""
        found = what.match(self._text, at, most)
        end = found.end() if found else at
        lines = self._text.count("\n", at, end)
        if lines:
            self._line += lines
            self._line_start = self._text.rfind("\n", at, end) + 1
        self._at = end

    def _behind_spaces(self, at: int) -> int:
        while self._text[at] == " ":
            at += 1
        return at

    def _is_rest(self, at: int) -> bool:
        return _REST.match(self._text, at) is not None

    def _pass_rest(self, at: int) -> None:
        """Nothing but a comment follows on the line: go to the next one."""
        found = _REST.match(self._text, at)
        if found is None:
            raise _Beyond
        self._at = found.end()
        if self._text[self._at - 1] == "\n":
            self._line += 1
            self._line_start = self._at

    # --- blocks -------------------------------------------------------------------------------------------------------

    def _block_line(self) -> None:
        at, here = self._at, self._mark(self._at)
        is_dash = _DASH.match(self._text, at) is not None
        while self._open:
            top = self._open[-1]
            if top.indent < here.column or (top.indent == here.column and (is_dash or not top.loose)):
                break
            self._close(here)
        if not self._open:
            if len(self.events) > 1:
                raise _Beyond
            self._begin(here, is_dash)
            return
        top = self._open[-1]
        below_key = top.is_mapping and is_dash and top.indent == here.column
        if top.waiting and (here.column > top.indent or below_key):
            top.waiting = False
            if not is_dash and not _KEY.match(self._text, at):
                raise _Beyond
            anchor, spot = top.anchor, top.spot if top.anchor else None
            top.anchor = None
            self._begin(here, is_dash, anchor=anchor, spot=spot, loose=below_key)
            return
        if here.column != top.indent:
            raise _Beyond
        self._leave_empty(top, here)
        self._entry(top, at)

    def _begin(
        self, here: Mark, is_dash: bool, *, anchor: str | None = None, spot: Mark | None = None, loose: bool = False
    ) -> None:
        """Open the collection whose first key or dash is here, and read that."""
        block = _Block(not is_dash, here.column, loose=loose)
        self._open.append(block)
        end = self._mark(here.index + 1) if loose else here
        kind = SequenceStartEvent if is_dash else MappingStartEvent
        self.events.append(kind(anchor, None, True, spot or here, end, flow_style=False))
        self._entry(block, here.index)

    def _entry(self, block: _Block, at: int) -> None:
        if block.is_mapping:
            key = _KEY.match(self._text, at)
            if key is None or key.end() - at > LONGEST_KEY:
                raise _Beyond
            self._scalar(key[1], at)
            self._value(block, key.end())
            return
        if not _DASH.match(self._text, at):
            raise _Beyond
        block.spot = self._mark(at + 1)
        if self._is_rest(at + 1):
            block.waiting = True
            self._pass_rest(at + 1)
            return
        inner = self._behind_spaces(at + 1)
        is_dash = _DASH.match(self._text, inner) is not None
        if is_dash or _KEY.match(self._text, inner):
            self._begin(self._mark(inner), is_dash)
        else:
            self._value(block, at + 1)

    def _value(self, block: _Block, at: int) -> None:
        """What stands behind a colon or a dash, to the end of the line or to its own."""
        if self._is_rest(at):
            block.waiting, block.anchor = True, None
            self._pass_rest(at)
            return
        kept, line, line_start = len(self.events), self._line, self._line_start
        try:
            self._at_once(block, at)
        except _Beyond:
            del self.events[kept:]
            self._line, self._line_start = line, line_start
            self._alone(block.indent, at)

    def _at_once(self, block: _Block, at: int) -> None:
        text, anchor = self._text, None
        at = self._behind_spaces(at)
        spot = self._mark(at)
        if given := _ANCHOR.match(text, at):
            anchor, at = given[1], given.end()
            if self._is_rest(at):
                block.waiting, block.anchor, block.spot = True, anchor, spot
                self._pass_rest(at)
                return
            at = self._behind_spaces(at)
        if text[at] in "{[":
            self._braces(at, anchor, spot)
        elif (alias := _ALIAS.match(text, at)) and anchor is None:
            self.events.append(AliasEvent(alias[1], self._mark(at), self._mark(alias.end())))
            self._at = alias.end()
        elif scalar := _SCALAR.match(text, at):
            self._scalar(scalar[0], at, anchor, spot)
            self._at = scalar.end()
        else:
            raise _Beyond
        self._pass_rest(self._at)
        if text.startswith(" " * (block.indent + 1), self._at) and not _BLANK_LINE.match(text, self._at):
            raise _Beyond

    def _alone(self, indent: int, at: int) -> None:
        """Leave a value and the lines that are deeper than its key to ruamel, and nothing else."""
        end, text = at, self._text
        while end < len(text) and (end == at or _DEEPER.match(text, end, end + indent + 1)):
            newline = text.find("\n", end)
            end = newline + 1 if newline >= 0 else len(text)
        found = value_events(text[at:end], indent, followed=end < len(text))
        if found is None:
            raise _Beyond
        value, too_far = found
        for one in value:
            one.start_mark = self._shifted(one.start_mark, at - too_far)
            one.end_mark = self._shifted(one.end_mark, at - too_far)
        self.events += value
        self._advance(_ALL, at, end)

    def _shifted(self, mark: Mark, by: int) -> Mark:
        """A place in a text that begins ``by`` characters behind this one's beginning, on the present line."""
        index = mark.index + by
        return Mark(index, self._line + mark.line, mark.column if mark.line else index - self._line_start)

    def _leave_empty(self, block: _Block, here: Mark) -> None:
        """The next key or dash is here: the last one has no value, where it still waits."""
        if not block.waiting:
            return
        if block.anchor is not None:
            raise _Beyond
        block.waiting = False
        spot = here if block.is_mapping or block.spot is None else block.spot
        self.events.append(ScalarEvent(None, None, (True, False), "", spot, spot))

    def _close(self, here: Mark) -> None:
        block = self._open.pop()
        self._leave_empty(block, here)
        self.events.append((MappingEndEvent if block.is_mapping else SequenceEndEvent)(here, here))

    # --- single values, and braces ------------------------------------------------------------------------------------

    def _scalar(self, written: str, at: int, anchor: str | None = None, spot: Mark | None = None) -> None:
        style = written[0] if written[0] in "'\"" else None
        said = written
        if style == "'":
            said = written[1:-1].replace("''", "'")
        elif style:
            said = _ESCAPED.sub(_meaning, written[1:-1]) if "\\" in written else written[1:-1]
        implicit = (style is None, style is not None)
        start, end = spot or self._mark(at), self._mark(at + len(written))
        self.events.append(ScalarEvent(anchor, None, implicit, said, start, end, style=style))

    def _braces(self, at: int, anchor: str | None, spot: Mark) -> None:
        """The braces or brackets that open there, over as many lines as they take, and all that is in them."""
        inside = [self._enter(at, anchor, spot)]
        may_enter = True
        while inside:
            self._advance(_GAP, self._at)
            at, closing = self._at, inside[-1]
            char = self._text[at : at + 1]
            if char == closing:
                end = MappingEndEvent if closing == "}" else SequenceEndEvent
                self.events.append(end(self._mark(at), self._mark(at + 1)))
                inside.pop()
                self._at, may_enter = at + 1, False
            elif not may_enter:
                if char != ",":
                    raise _Beyond
                self._at, may_enter = at + 1, True
            elif closing == "}" and not self._key_inside(at):
                may_enter = False
            elif (char := self._text[self._at : self._at + 1]) and char in "{[":
                inside.append(self._enter(self._at, None, self._mark(self._at)))
            else:
                self._value_inside(self._at)
                may_enter = False

    def _enter(self, at: int, anchor: str | None, spot: Mark) -> str:
        """Open a brace or bracket; what will close it."""
        is_mapping = self._text[at] == "{"
        kind = MappingStartEvent if is_mapping else SequenceStartEvent
        self.events.append(kind(anchor, None, True, spot, self._mark(at + 1), flow_style=True))
        self._at = at + 1
        return "}" if is_mapping else "]"

    def _key_inside(self, at: int) -> bool:
        """Read a key in braces and go to its value; False where it has none."""
        key = _KEY_INSIDE.match(self._text, at)
        if key is None or key.end() - at > LONGEST_KEY:
            raise _Beyond
        self._scalar(key[1] or key[2], at)
        behind = self._mark(key.end())
        self._advance(_GAP, key.end())
        if not self._text.startswith((",", "}"), self._at):
            return True
        self.events.append(ScalarEvent(None, None, (True, False), "", behind, behind))
        return False

    def _value_inside(self, at: int) -> None:
        if alias := _ALIAS.match(self._text, at):
            self.events.append(AliasEvent(alias[1], self._mark(at), self._mark(alias.end())))
            self._at = alias.end()
        elif scalar := _SCALAR_INSIDE.match(self._text, at):
            self._scalar(scalar[0], at)
            self._at = scalar.end()
        else:
            raise _Beyond


def _meaning(escaped: re.Match[str]) -> str:
    code = escaped[1]
    return chr(int(code[1:], 16)) if code[0] == "u" else _MEANINGS.get(code, code)
