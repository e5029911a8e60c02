"""The events of a YAML text: ours where the text is plain, else ruamel's, and what it refuses in plain English.

Two rules of ruamel's are older than YAML 1.2. It ends a line at U+0085, U+2028 and U+2029, which are characters like
any other: it is shown others in their place. And it takes no tab between values, only spaces: one that stands before a
comment, before the end of the line or behind a colon is shown as a space. Neither moves anything to another place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import DocumentEndEvent, Event, StreamEndEvent, StreamStartEvent

from kitaru.errors import Problem
from kitaru.manifest.wording import shown
from kitaru.manifest.yaml_pieces import GARBAGE
from kitaru.manifest.yaml_scanning import scanned

BREAKS = "\x85\u2028\u2029"
"""Ends of lines in YAML 1.1, and no more in YAML 1.2."""

MOST_READ = 300_000
"""Characters that may be read anew because of tabs, some four seconds: each is found where ruamel stops at it."""

_OUTER = (StreamStartEvent, StreamEndEvent, DocumentEndEvent)
_BREAK = re.compile(f"[{BREAKS}]")
_REST = re.compile(r"[ \t]*(?:#|\r|\n|\Z)")
_COLON = re.compile(r":[ \t]*\Z")
_END_OF_LINE = re.compile(r"\r\n|\r|\n")


class Refused(Exception):
    """Here the text is no YAML."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem


def events(text: str) -> Iterator[Event]:
    """The events of the one document in ``text``. Raises ``Refused`` where they end too early."""
    if not _BREAK.search(text):
        yield from _with_tabs(text)
        return
    given = text.lower()
    # Neither in the text nor in one of its escapes.
    free = (chr(code) for code in range(0x4E00, 0xA000) if chr(code) not in given and f"{code:x}" not in given)
    stand_ins = dict(zip(BREAKS, free, strict=False))
    meant = {ord(stand_in): char for char, stand_in in stand_ins.items()}
    try:
        for event in _with_tabs(text.translate({ord(char): stand_in for char, stand_in in stand_ins.items()})):
            for name in ("value", "anchor"):
                said = getattr(event, name, None)
                if isinstance(said, str):
                    setattr(event, name, said.translate(meant))
            yield event
    except Refused as refused:
        named = {ord(stand_in): f"U+{ord(char):04X}" for char, stand_in in stand_ins.items()}
        raise Refused(replace(refused.problem, message=refused.problem.message.translate(named))) from None


def _with_tabs(text: str) -> Iterator[Event]:
    """The events; where ruamel stops at a tab that separates, they go on as with a space in its place."""
    given: list[tuple[Any, int, int]] = []
    left = MOST_READ
    while True:
        try:
            for number, event in enumerate(_read(text)):
                told = (getattr(event, "value", None), event.start_mark.index, event.end_mark.index)
                if number < len(given):
                    if number and told != given[number]:  # what was given would have gone on behind the tab
                        raise _Retold
                    continue
                if "\t" in text:
                    given.append(told)
                yield event
            return
        except MarkedYAMLError as error:
            problem, again = _syntax(error, text), _spaced(text, error)
        except _Retold:
            raise Refused(problem) from None
        except (YAMLError, *GARBAGE) as error:
            raise Refused(_unreadable(error, text)) from None
        left -= len(text)
        if again is None or left < 0:
            raise Refused(problem)
        text = again


class _Retold(Exception):
    """The text with a space for a tab begins in another way than was given already."""


def _read(text: str) -> Iterator[Event]:
    """The events but for those around the document."""
    quick = scanned(text)
    # pure: the same events whether or not a C parser happens to be installed
    if quick is not None:
        return iter(quick)
    return (event for event in YAML(typ="safe", pure=True).parse(text) if not isinstance(event, _OUTER))


def _spaced(text: str, error: MarkedYAMLError) -> str | None:
    """``text`` with spaces for the tabs at which ruamel stopped, where YAML lets them separate; else None."""
    at = error.problem_mark.index if error.problem_mark else len(text)
    if text[at : at + 1] != "\t":
        return None
    start = text.rfind("\n", 0, at) + 1
    end = at + len(text[at:]) - len(text[at:].lstrip(" \t"))
    is_separation = _REST.match(text, at) or (text[start:at].strip(" ") and _COLON.search(text, start, at))
    return f"{text[:at]}{' ' * (end - at)}{text[end:]}" if is_separation else None


def _unreadable(error: Exception, text: str) -> Problem:
    position = getattr(error, "position", None)
    if isinstance(position, int) and position < len(text):
        before = text[:position]
        column = position - (before.rfind("\n") + 1) + 1
        message = f"expected printable text, found the character U+{ord(text[position]):04X}"
        return Problem(message, line=before.count("\n") + 1, column=column)
    return Problem("expected YAML, found something that can't be read as YAML")


def _syntax(error: MarkedYAMLError, text: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    problem = " ".join(str(error.problem or error.context or "").split())
    lines = _END_OF_LINE.split(text)
    source = lines[line - 1] if 0 < line <= len(lines) else ""
    if "\t" in source[: len(source) - len(source.lstrip())]:
        return Problem("expected spaces, found a tab: YAML is indented with spaces", line=line, column=column)
    if "'\\t'" in problem:
        message, hint = "found a tab (U+0009) where only spaces can be", "write spaces in its place"
    elif "mapping values are not allowed" in problem:
        message, hint = "found ':' where no key can be", "check the indentation, and put text that holds ': ' in quotes"
    elif "cannot start any token" in problem:
        char = source[column - 1 : column]
        message, hint = f"found {shown(char)}, which can't begin a value", "put the text in quotes"
    elif "unexpected end of stream" in problem:
        opened = error.context_mark.line + 1 if error.context_mark else line
        message, hint = f"found the end of the file inside the quotes opened on line {opened}", "close the quotes"
    else:
        where = f" ({error.context}, begun on line {error.context_mark.line + 1})" if error.context_mark else ""
        message, hint = f"not valid YAML: {_plain(problem)}{_plain(where)}", ""
    return Problem(message, line=line, column=column, hint=hint)


def _plain(text: str) -> str:
    """ruamel's token names in words."""
    for name, words in (("<block end>", "the end of the block"), ("<stream end>", "the end of the file")):
        text = text.replace(f"'{name}'", words).replace(name, words)
    return "".join(char for char in text if char.isprintable())[:200]
