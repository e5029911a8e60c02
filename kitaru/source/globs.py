"""Patterns that choose files, spelled as in a ``.gitignore`` beside the manifest.

* ``*`` and ``?`` match within one name, ``[abc]``, ``[a-z]`` and ``[!a]`` one character; after ``\\``
  a character stands for itself.
* ``**/`` in front, ``/**/`` between and ``/**`` at the end match across folders.
* A pattern that names a folder takes all below it; one that ends with ``/`` takes folders only.
* A pattern with no ``/`` (but at its end) matches at any depth: ``*.ipynb``. With one, or after a leading ``/``, it
  counts from the manifest's folder: ``lib/*.py``, ``/lib``.

Unlike in a ``.gitignore`` there is no negation (``!pattern``), as include and exclude are lists of their own; no
comment; and no ``[[:alpha:]]``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kitaru.errors import KitaruSourceError


def _refuse(pattern: str, why: str) -> KitaruSourceError:
    return KitaruSourceError(
        f"{pattern!r} is no pattern for source files: {why}",
        hint="patterns are spelled as in a .gitignore: flows/**, *.ipynb, /lib",
    )


def _class(pattern: str, segment: str, start: int) -> tuple[str, int]:
    """The regular expression of the ``[...]`` that begins at ``start``, and where it ends."""
    at = start + 1
    negated = segment[at : at + 1] in ("!", "^")
    at += negated
    members: list[str] = []
    first = at
    while True:
        if at >= len(segment):
            raise _refuse(pattern, "its [ is never closed")
        char = segment[at]
        if char == "]" and at > first:
            break
        if char == "[" and segment[at + 1 : at + 2] in (":", ".", "="):
            raise _refuse(pattern, "character classes such as [[:alpha:]] are not supported")
        low, at = _member(pattern, segment, at)
        if segment[at : at + 1] == "-" and segment[at + 1 : at + 2] not in ("", "]"):
            high, at = _member(pattern, segment, at + 1)
            if low <= high:
                members.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            members.append(re.escape(low))
    body = "".join(members)
    if not body:
        return ("[^/]" if negated else r"(?!)"), at + 1
    return f"(?!/)[{'^' if negated else ''}{body}]", at + 1


def _member(pattern: str, segment: str, at: int) -> tuple[str, int]:
    if segment[at] != "\\":
        return segment[at], at + 1
    if at + 1 >= len(segment):
        raise _refuse(pattern, "it ends with a lone backslash")
    return segment[at + 1], at + 2


def _segment(pattern: str, segment: str) -> str:
    parts: list[str] = []
    at = 0
    while at < len(segment):
        char = segment[at]
        if char == "*":
            while segment[at : at + 1] == "*":
                at += 1
            parts.append("[^/]*")
        elif char == "?":
            parts.append("[^/]")
            at += 1
        elif char == "[":
            part, at = _class(pattern, segment, at)
            parts.append(part)
        else:
            literal, at = _member(pattern, segment, at)
            parts.append(re.escape(literal))
    return "".join(parts)


def translate(pattern: str) -> str:
    """The regular expression that a file's whole path matches where ``pattern`` takes the file.

    Raises ``KitaruSourceError`` for what is no pattern.
    """
    if pattern.startswith("!"):
        raise _refuse(pattern, "negation is not supported; put it into the other of source.include and source.exclude")
    trimmed = "/" + pattern[2:].lstrip("/") if pattern.startswith("./") else pattern
    folders_only = trimmed.endswith("/")
    body = trimmed[:-1] if folders_only else trimmed
    anchored = "/" in body
    segments = (body[1:] if body.startswith("/") else body).split("/")
    if any(segment in ("", ".", "..") for segment in segments):
        raise _refuse(pattern, "expected a path below the manifest's folder, with no '..' and no empty name")
    below = "/.+" if folders_only else "(?:/.*)?"
    if not anchored:
        return f"(?s:(?:.*/)?{_segment(pattern, segments[0])}{below})"
    last = segments.pop()
    parts: list[str] = []
    for segment in segments:
        if segment != "**":
            parts.append(f"{_segment(pattern, segment)}/")
        elif not parts or parts[-1] != "(?:.*/)?":
            parts.append("(?:.*/)?")
    tail = (".+/.+" if folders_only else ".+") if last == "**" else f"{_segment(pattern, last)}{below}"
    return f"(?s:{''.join(parts)}{tail})"


@dataclass(frozen=True, slots=True)
class Globs:
    """A list of patterns; a path matches where one of them does."""

    patterns: tuple[str, ...]
    regex: re.Pattern[str]
    single: tuple[re.Pattern[str], ...]

    @classmethod
    def of(cls, patterns: Sequence[str]) -> Globs:
        """Raises ``KitaruSourceError`` for the first that is no pattern."""
        expressions = [translate(pattern) for pattern in patterns]
        whole = re.compile("|".join(expressions) if expressions else r"(?!)")
        return cls(tuple(patterns), whole, tuple(re.compile(expression) for expression in expressions))

    def match(self, path: str) -> bool:
        """Whether a pattern takes the file at ``path``, relative to the manifest's folder."""
        return self.regex.fullmatch(path) is not None

    def first(self, path: str) -> str | None:
        """The first pattern that takes ``path``."""
        pairs = zip(self.patterns, self.single, strict=True)
        return next((pattern for pattern, regex in pairs if regex.fullmatch(path)), None)
