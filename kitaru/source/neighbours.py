"""Finds the other manifests of a repository, in a commit or the working tree, that claim certain flows.

A repository may hold hundreds. One ``git`` process reads all; as parsing is slow, only those are parsed that have the
name of the project and of one of the flows in their bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from kitaru.model.jsonable import record
from kitaru.model.manifest import Neighbour, Neighbours
from kitaru.source import git_process

MAX_BYTES = 5 * 1024 * 1024

_NAME = "kitaru.yaml"
_PLAIN_FILES = (b"100644", b"100755")


@record()
class Wanted:
    """The question: which other manifests claim ``flows``?

    ``own`` is the path of the manifest that asks; ``also`` are manifests with other file names, known to have the same
    store; paths are relative to the repository's root. ``project`` and ``store`` are the values in the manifest that
    asks. If the caller overrides them for every manifest, ``project`` is None, or ``any_store`` is true.
    """

    own: str
    flows: Collection[str]
    also: Collection[str] = ()
    target: str | None = None
    project: str | None = None
    store: str | None = None
    any_store: bool = False


Read = Callable[[bytes, str | None], tuple[Mapping[str, Any] | None, str]]
"""From a manifest's bytes and a target to its data, or None and the reason."""


def find_neighbours(root: Path, wanted: Wanted, commit: str | None, read: Read) -> Neighbours:
    """The other manifests that claim the flows, in ``commit``, or if that is None in the working tree around ``root``.

    Manifests of another project or store, or without the target, do not count. The answer lists unreadable ones.
    Raises ``KitaruSourceError`` outside a repository.
    """
    if not wanted.flows:
        return Neighbours()
    found, unread = [], []
    claim = _claims(wanted.flows)
    for path, body in _bodies(root, wanted, commit):
        named = wanted.project is None or wanted.project.encode() in body or b"\\" in body
        if not named or claim.search(body) is None:
            continue
        data, problem = read(body, wanted.target) if len(body) <= MAX_BYTES else (None, "it is too large")
        if problem:
            unread.append(f"{path} can't be read ({problem}), so which flows it declares is not known")
        elif data is not None and _same_place(data, path, root, wanted):
            flows, moved = (
                value if isinstance(value, dict) else {} for value in (data.get("flows"), data.get("moved"))
            )
            renames = {str(was): str(name) for was, name in moved.items()}
            found.append(Neighbour(path, frozenset(map(str, flows)), renames))
    return Neighbours(tuple(found), tuple(unread))


def _bodies(root: Path, wanted: Wanted, commit: str | None) -> Iterator[tuple[str, bytes]]:
    """Every other manifest's path and bytes."""
    if commit is None:
        top = git_process.run(root, "rev-parse", "--show-toplevel").decode("utf-8", "surrogateescape").rstrip("\n")
        yield from _in_working_tree(Path(top), wanted)
        return
    listed = git_process.run(root, "ls-tree", "-r", "-z", "--full-tree", commit)
    blobs = {}
    for entry in listed.split(b"\0"):
        # The end of the name is enough to skip most files of a large repository.
        if not entry.endswith(_NAME.encode()) and not wanted.also:
            continue
        about, _, name = entry.partition(b"\t")
        path = name.decode("utf-8", "surrogateescape")
        if _is_other(path, wanted) and about.split(b" ")[0] in _PLAIN_FILES:
            blobs[path] = about.split(b" ")[2].decode()
    for path, body in zip(blobs, git_process.contents(root, list(blobs.values())), strict=True) if blobs else ():
        yield path, body or b""


def _in_working_tree(top: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    patterns = [f":(top)*{_NAME}", *(f":(top,literal){path}" for path in sorted(wanted.also))]
    listed = git_process.run(top, "ls-files", "-z", "-c", "-o", "--exclude-standard", "--", *patterns)
    paths = {name.decode("utf-8", "surrogateescape") for name in listed.split(b"\0") if name}
    for path in sorted(paths):
        place = top / path
        if _is_other(path, wanted) and place.is_file() and not place.is_symlink():
            try:
                yield path, place.read_bytes()
            except OSError:
                continue  # gone since it was listed, or closed to us: it can't be applied from here either


def _is_other(path: str, wanted: Wanted) -> bool:
    return path != wanted.own and (path.endswith(_NAME) or path in wanted.also)


def _claims(flows: Collection[str]) -> re.Pattern[bytes]:
    """A pattern of the bytes of a manifest that claims one of the flows: its name as a key, in any YAML syntax."""
    names = "|".join(re.escape(name) for name in sorted(flows))
    return re.compile(rf"(?<![\w-])(?:{names})[\"']?[ \t]*:|^[ \t]*\?[ \t]|\*[\w-]+[ \t]+:|\\".encode(), re.MULTILINE)


def _same_place(data: Mapping[str, Any], path: str, root: Path, wanted: Wanted) -> bool:
    if wanted.project is not None and data.get("project") != wanted.project:
        return False
    if wanted.any_store or path in wanted.also:
        return True
    top = Path(root, "../" * wanted.own.count("/"))
    return _place(data.get("store"), top, path) == _place(wanted.store, top, wanted.own)


def _place(store: Any, top: Path, path: str) -> str | None:
    """The store's address, relative paths resolved for the manifest at ``path`` below ``top``; None if it has none."""
    if not isinstance(store, str) or not store:
        return None
    protocol, separator, rest = store.partition("://")
    if separator and protocol != "file":
        return store.rstrip("/")
    place = Path(rest if separator else store).expanduser()
    return os.path.normpath(top / Path(path).parent / place)
