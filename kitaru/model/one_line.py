"""Text of others on a line of ours: it ends no line, drives no terminal, and gives a CI runner no command."""

from __future__ import annotations

import re

_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_OTHERS = (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""C0, DEL and C1; then what turns the direction of the text that follows it."""

_SHOWN = dict.fromkeys(_OTHERS, "\N{REPLACEMENT CHARACTER}") | {ord(one): " " for one in _BREAKS} | {0x09: "\t"}
_RECORDED = dict.fromkeys([*_OTHERS, *map(ord, _BREAKS)], " ")

LONGEST = 500
"""Characters of a text that is recorded as one line."""

_ALONE = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair: a byte that was no UTF-8, of which no JSON can be made that others read."""

_COMMAND = re.compile(r"^(\s*):(?=:)|##(?=\[|vso\[)")
"""What GitHub, and Azure, take for a command to the runner: at the start of a line, or anywhere in it."""


def shown_line(text: str) -> str:
    """``text`` as one line to print: breaks are spaces, other control characters are marked, tabs stay.

    What a CI runner would take for a command gets a space, ``: :error::`` and ``## [error]``, and is none.
    """
    return _COMMAND.sub(lambda found: f"{found[0]} ", text.translate(_SHOWN))


def recorded_line(text: str) -> str:
    """``text`` as it is recorded where one line is meant, as a name: control characters are spaces, runs of them one,
    bytes that were no text are marked, and what is longer than ``LONGEST`` is cut.

    Text without any of that is recorded as it is.
    """
    clean = _ALONE.sub("\N{REPLACEMENT CHARACTER}", text).translate(_RECORDED)
    line = text if clean == text else " ".join(clean.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
