"""What a source tree is, without its bytes: its digest, and the rules that every path and symlink in it keeps."""

from __future__ import annotations

import stat
from collections.abc import Mapping

from kitaru.model.address import canonical_json, digest
from kitaru.model.snapshot import SourceTree

FILE = 0o100644
EXECUTABLE = 0o100755
SYMLINK = 0o120000

_MOST_LINKS = 40


def tree_digest(tree: SourceTree) -> str:
    """The digest that names a source tree: that of its canonical listing, whatever the order, time or machine."""
    return digest(canonical_json(sorted(tree.listing())))


def normal_mode(mode: int) -> int:
    """One of the three modes that a source tree knows, from a file's own; 0 for anything but a file or a symlink."""
    if stat.S_ISLNK(mode):
        return SYMLINK
    if stat.S_ISREG(mode):
        return EXECUTABLE if mode & stat.S_IXUSR else FILE
    return 0


def bad_path(path: str) -> str | None:
    """Why ``path`` can't be a path in a source tree; None where it can."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if "\0" in path:
        return "its name holds a NUL"
    if path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
        return "it is not a plain path below the tree"
    return None


def bad_link(path: str, links: Mapping[str, str]) -> str | None:
    """Why the symlink at ``path`` can't be kept; None where it stays inside the tree.

    ``links`` maps every symlink of the tree to its target. They are followed as the kernel would, through each other,
    as the text alone does not tell: ``a/b/../x`` is elsewhere when ``a/b`` is a symlink.
    """
    target = links[path]
    if not target or "\0" in target:
        return "it has no target"
    if target.startswith("/"):
        return "it is absolute"
    place = path.split("/")[:-1]
    rest = target.split("/")[::-1]
    followed = 0
    while rest:
        part = rest.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if not place:
                return "it leads out of the tree"
            place.pop()
            continue
        place.append(part)
        onward = links.get("/".join(place))
        if onward is None:
            continue
        followed += 1
        if followed > _MOST_LINKS:
            return "it leads back to itself"
        if onward.startswith("/"):
            return "it leads out of the tree"
        place.pop()
        rest.extend(onward.split("/")[::-1])
    return None
