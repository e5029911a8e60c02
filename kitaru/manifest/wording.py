"""How a message names what it found, and what was probably meant: always printable, always on one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice
from typing import Any

LONGEST = 60
MOST = 300
"""Names beyond these are not compared: the comparison costs 20 µs each."""


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """``; did you mean 'routes'?`` or nothing."""
    if len(word) > LONGEST:
        return ""
    known = list(islice(options, MOST))
    close = difflib.get_close_matches(word, known, 1, 0.6 if len(word) > 3 else 0.5)
    close = close or [option for option in known if len(word) >= 3 and option.startswith(word)]
    return f"; did you mean {shown(close[0])}?" if close else ""


def found(value: Any) -> str:
    """The value for a message: what it is, and how it looks when it is short."""
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
        case _:
            return "a list" if value else "an empty list"


def shown(text: str) -> str:
    """``text`` in quotes, on one line, at most 60 characters."""
    return repr(text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}...")
