"""Secrets taken out of what is recorded for people to read. Results and inputs are never touched."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from kitaru.model.reserved import NAMED, SECRET
from kitaru.run.port import Mask


def mask_tree(tree: Any, mask: Mask | None) -> Any:
    """``tree``, plain JSON data, with every text in it masked, keys too."""
    if mask is None or tree is None:
        return tree
    if type(tree) is str:
        return mask(tree)
    if type(tree) is list:
        return [mask_tree(item, mask) for item in tree]
    if type(tree) is dict:
        return {mask(key): mask_tree(item, mask) for key, item in tree.items()}
    return tree


TELLING = re.compile(r"((_|^)(KEY|TOKEN|SECRET)|PASSWORD|PASSWD|PASSPHRASE)$", re.IGNORECASE)
"""Names of variables that hold something secret by all experience."""

USERINFO = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#\s]*)@")
"""What an address holds before its host: ``user:password``."""

SHORTEST = 8
"""Characters: what is shorter would hide too much that is no secret."""

HIDDEN = "***"


def secret_values(environ: Mapping[str, str]) -> set[str]:
    """The secret values, the lines of those that have several, and the passwords in addresses."""
    named = set(environ.get(NAMED, "").split(","))
    found = set()
    for name, value in environ.items():
        if name in named or TELLING.search(name):
            found.add(value)
        elif name.startswith(SECRET) and name != NAMED:
            found.update(_members(value))
        found.update(_passwords(value))
    lines = {line.strip() for value in found for line in value.splitlines()}
    return {text for text in found | lines if len(text) >= SHORTEST}


def secret_names(environ: Mapping[str, str]) -> set[str]:
    """The variables that hold a secret, and those that a secret stands for: ``{"OPENAI_API_KEY"}``."""
    named = set(environ.get(NAMED, "").split(",")) & set(environ)
    names = {name for name in environ if name in named or (TELLING.search(name) and not name.startswith(SECRET))}
    for name, value in environ.items():
        if name.startswith(SECRET) and name != NAMED:
            with suppress(ValueError):
                content = json.loads(value)
                names.update(content if isinstance(content, dict) else ())
    return names


class Masking:
    """``Mask``: puts ``***`` in place of each secret, also as ``repr`` and JSON write it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """It looks at ``environ`` again with every text. What was a secret once stays one."""
        self._environ = environ
        # What os.environ wraps: a plain dict is compared some fifty times faster, and each line asks.
        self._plain: Mapping[Any, Any] = getattr(environ, "_data", environ)
        self._guard = threading.Lock()
        self._seen: dict[Any, Any] | None = None
        self._values: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def __call__(self, text: str, /) -> str:
        if self._plain != self._seen:
            self._look()
        return self._pattern.sub(HIDDEN, text) if self._pattern is not None else text

    def _look(self) -> None:
        with self._guard:
            seen = dict(self._plain)
            self._add(secret_values(dict(self._environ)))
            self._seen = seen

    def learn(self, environ: Mapping[str, str]) -> None:
        """Take the secrets among the variables of another process for secrets from now on."""
        with self._guard:
            self._add(secret_values(environ))

    def _add(self, found: set[str]) -> None:
        if found <= self._values:
            return
        self._values |= found
        forms = {form for value in self._values for form in _forms(value)}
        # The longest first: one may be the beginning of another.
        ordered = sorted(forms, key=lambda one: (-len(one), one))
        self._pattern = re.compile("|".join(re.escape(form) for form in ordered))


def _forms(value: str) -> set[str]:
    """The value, and what becomes of it inside a ``repr`` (with and without its quotes escaped) or JSON."""
    from urllib.parse import quote, quote_plus  # Late: a script without secrets never needs it.

    bare = "".join(part if part in ("'", '"') else repr(part)[1:-1] for part in re.split("(['\"])", value))
    quoted = bare.replace("'", "\\'")
    forms = {value, bare, quoted, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    return forms | {value.upper(), value.lower(), quote(value, safe=""), quote_plus(value)}


def _passwords(value: str) -> Iterator[str]:
    """The passwords of the addresses in ``value``, as they stand there and decoded; one that is the user's name hides
    nothing.
    """
    if "://" not in value:
        return
    for found in USERINFO.finditer(value):
        user, _, password = found[1].partition(":")
        if password and password != user:
            yield password
            yield _unquoted(password)


def _unquoted(text: str) -> str:
    """``%40`` → ``@``, and so on."""
    return re.sub(
        r"(?:%[0-9A-Fa-f]{2})+", lambda run: bytes.fromhex(run[0].replace("%", "")).decode("utf-8", "replace"), text
    )


def _members(text: str) -> Iterator[str]:
    yield text
    try:
        content = json.loads(text)
    except ValueError:
        return
    if isinstance(content, dict):
        yield from (value for value in content.values() if isinstance(value, str))
