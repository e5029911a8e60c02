"""What can be the name of a Git branch, by the rules of ``git check-ref-format --branch``."""

from __future__ import annotations

import re

_NOWHERE = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock/")


def is_branch(name: str) -> bool:
    """Whether a branch can have that name. A pattern such as ``release/*`` is none."""
    if name in ("", "HEAD"):
        return False
    return not (name[0] in "-/." or name.endswith(("/", ".", ".lock")) or _NOWHERE.search(name))
