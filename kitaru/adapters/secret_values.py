"""Which values of the environment are secret, and text without them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping

SECRET = "KITARU_SECRET_"
"""How variables begin that hold a secret: a JSON object of the variables that it stands for."""

NAMED = "KITARU_SECRET_VARIABLES"
"""Names, with commas between, of the variables that a runner took from secrets."""

TELLING = re.compile(r"(_|^)(KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
"""Names of variables that hold something secret by all experience."""

SHORTEST = 8
"""Characters: what is shorter would hide too much that is no secret."""

HIDDEN = "***"


def secret_values(environ: Mapping[str, str]) -> set[str]:
    """The secret values, and the lines of those that have several."""
    named = set(environ.get(NAMED, "").split(","))
    found = set()
    for name, value in environ.items():
        if name in named or TELLING.search(name):
            found.add(value)
        elif name.startswith(SECRET) and name != NAMED:
            found.update(_members(value))
    lines = {line.strip() for value in found for line in value.splitlines()}
    return {text for text in found | lines if len(text) >= SHORTEST}


def masking(environ: Mapping[str, str]) -> Callable[[str], str] | None:
    """A function that puts ``***`` in place of each secret; None where there are none."""
    values = secret_values(environ)
    if not values:
        return None
    # The longest first: one may be the beginning of another.
    pattern = re.compile("|".join(re.escape(value) for value in sorted(values, key=lambda one: (-len(one), one))))
    return lambda text: pattern.sub(HIDDEN, text)


def _members(text: str) -> Iterator[str]:
    yield text
    try:
        content = json.loads(text)
    except ValueError:
        return
    if isinstance(content, dict):
        yield from (value for value in content.values() if isinstance(value, str))
