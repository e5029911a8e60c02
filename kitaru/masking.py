"""Secrets taken out of text that people read: logs, failures, previews. Results and inputs stay as they are."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from kitaru.model.address import NAMED, SECRET

TELLING = re.compile(r"((_|^)(KEY|TOKEN|SECRET)|PASSWORD|PASSWD|PASSPHRASE)$", re.IGNORECASE)
"""Names of variables that hold something secret by all experience."""

USERINFO = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#\s]*)@")
"""The part of an address before its host: ``user:password``."""

SHORTEST = 8
"""Characters: a shorter value would hide too much that is no secret."""

HIDDEN = "***"


def mask_tree(tree: Any, mask: Masking | None) -> Any:
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


def secret_values(environ: Mapping[str, str]) -> set[str]:
    """The secret values, the lines of those that have several, and the passwords in addresses.

    >>> secret_values({"API_KEY": "0123456789", "HOME": "/home/ann"})
    {'0123456789'}
    """
    named = set(environ.get(NAMED, "").split(","))
    values: set[str] = set()
    for name, value in environ.items():
        values.update(_passwords(value))
        if name in named or TELLING.search(name):
            values.add(value)
        elif name.startswith(SECRET) and name != NAMED:
            values.update((value, *(text for text in _members(value).values() if isinstance(text, str))))
    lines = {line.strip() for value in values for line in value.splitlines()}
    return {text for text in values | lines if len(text) >= SHORTEST}


def secret_names(environ: Mapping[str, str]) -> set[str]:
    """The variables that hold a secret, and those that a secret stands for: ``{"OPENAI_API_KEY"}``."""
    named = set(environ.get(NAMED, "").split(",")) & set(environ)
    names = {name for name in environ if name in named or (TELLING.search(name) and not name.startswith(SECRET))}
    for name, value in environ.items():
        if name.startswith(SECRET) and name != NAMED:
            names.update(_members(value))
    return names


class Masking:
    """Puts ``***`` in place of each secret, in upper or lower case, also as ``repr``, JSON and addresses write it.

    May be used by several threads at once.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        """It looks at ``environ`` again with every text. A secret stays one when its variable is gone."""
        self._environ = environ
        # What os.environ wraps: a plain dict is compared some fifty times faster, and each line asks.
        self._plain: Mapping[Any, Any] = getattr(environ, "_data", environ)
        self._guard = threading.Lock()
        self._seen: dict[Any, Any] | None = None
        self._values: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def __call__(self, text: str, /) -> str:
        """The text without the secrets in it."""
        if self._plain != self._seen:
            with self._guard:
                seen = dict(self._plain)
                self._add(secret_values(dict(self._environ)))
                self._seen = seen
        return self._pattern.sub(HIDDEN, text) if self._pattern is not None else text

    def learn(self, environ: Mapping[str, str]) -> None:
        """Hide the secrets among the variables of another process, too."""
        with self._guard:
            self._add(secret_values(environ))

    def _add(self, values: set[str]) -> None:
        if values <= self._values:
            return
        self._values |= values
        # Some letters have no single counterpart, as ß: a pattern without regard to case alone misses these.
        cased = {text for value in self._values for text in (value, value.upper(), value.lower())}
        forms = {form for text in cased for form in _forms(text)}
        # The longest first: one may be the beginning of another.
        ordered = sorted(forms, key=lambda form: (-len(form), form))
        self._pattern = re.compile("|".join(re.escape(form) for form in ordered), re.IGNORECASE)


def _forms(value: str) -> set[str]:
    """The value, and its forms in a ``repr`` (with and without its quotes escaped), in JSON, in an address."""
    from urllib.parse import quote, quote_plus  # late: few processes have a secret, and each start is counted

    bare = "".join(part if part in ("'", '"') else repr(part)[1:-1] for part in re.split("(['\"])", value))
    in_json = (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1])
    plain = value.encode("utf-8", "replace")
    return {value, bare, bare.replace("'", "\\'"), *in_json, quote(plain), quote(plain, safe=""), quote_plus(plain)}


def _passwords(value: str) -> Iterator[str]:
    """The passwords of the addresses in ``value``, as they stand there and decoded; not one that is the user's name."""
    if "://" not in value:
        return
    from urllib.parse import unquote

    for match in USERINFO.finditer(value):
        user, _, password = match[1].partition(":")
        if password and password != user:
            yield password
            yield unquote(password)


def _members(text: str) -> dict[str, Any]:
    """The variables of a secret that is a JSON object: ``{"API_KEY": "…"}``."""
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
