"""Single values of YAML 1.2's core schema: what unquoted text means, and how text is written so that it stays text."""

from __future__ import annotations

import json
import re

from kitaru.manifest.wording import shown

_NULL = re.compile(r"(?:null|Null|NULL|~)?")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_BEGINNINGS = frozenset("-+.0123456789~nNtTfF")
"""What begins otherwise is text: most of what is asked about."""
_MAX_DIGITS = 300
_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./:@%+=-]*")
_OTHER_BOOLEANS = frozenset({"yes", "no", "on", "off", "y", "n"})
"""Text to us; readers of YAML 1.1, editors among them, take them for booleans."""


def resolve_plain(text: str) -> str | int | float | bool | None:
    """What an unquoted scalar means in YAML 1.2: ``yes``, ``on`` and dates are text. Raises ``ValueError`` for numbers
    that JSON does not have.
    """
    if text and text[0] not in _BEGINNINGS:
        return text
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text[0] in "tT"
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"expected a finite number, found {text}")
    if _INT.fullmatch(text) or _FLOAT.fullmatch(text):
        return _number(text)
    return text


def _number(text: str) -> int | float:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"expected a number, found one of {len(text)} digits")
    if _INT.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"expected a finite number, found {shown(text)}, which is too large")
    return number


def quote(text: str) -> str:
    """``text`` as a YAML scalar on one line: plain where every reader takes it for the same text, else in quotes."""
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
