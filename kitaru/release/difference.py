"""How two versions of a flow differ: what callers meet, what it is made of, and its source file by file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from kitaru.core.diffing import LARGEST_FILE, FileDiff, Listing, file_diff, pairs, snapshot_changes
from kitaru.core.resolving import Resolved, in_table, resolve
from kitaru.errors import KitaruIntegrityError
from kitaru.model import address
from kitaru.model.jsonable import record
from kitaru.model.lockfile import Lockfile, Release
from kitaru.model.plan import Change
from kitaru.model.route import ByTag, ByVersion, Selector
from kitaru.release.history import commit_data
from kitaru.store.objects import get_object, read_snapshot, read_table
from kitaru.store.port import Store

Unpack = Callable[[bytes, str, Callable[[str, int], bool]], tuple[Any, Mapping[str, bytes]]]
"""(archive, digest of the tree, whether to keep a path of that size) → listing, kept files by path."""

VERSION = re.compile(r"v?([1-9][0-9]{0,8})")

Inputs = Literal["same", "compatible", "breaking"]


@record()
class Side:
    """One of the two versions. ``tag``: how it was named, if that was a tag."""

    version: int
    tag: str | None
    release: Release

    def to_json(self) -> dict[str, Any]:
        """As JSON data; every key is always there."""
        own = {name: getattr(self.release, name) for name in ("version", "snapshot", "source", "at", "by")}
        return {**own, "tag": self.tag, "commit": commit_data(self.release.commit)}


@record()
class Difference:
    """From ``before`` to ``after``. ``inputs``: the meaning of the change of the input schema for callers."""

    flow: str
    before: Side
    after: Side
    inputs: Inputs
    changes: tuple[Change, ...]
    files: tuple[FileDiff, ...]

    @property
    def same(self) -> bool:
        """Whether both are one snapshot."""
        return self.before.release.snapshot == self.after.release.snapshot

    def to_json(self) -> dict[str, Any]:
        """As JSON data; every key is always there.

        ``changes`` are ``{"subject", "text", "details", "breaking"}``: names of environment variables, never values.
        """
        return {
            "flow": self.flow,
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "same": self.same,
            "inputs": self.inputs,
            "changes": [change.model_dump(mode="json") for change in self.changes],
            "files": [file.to_json() for file in self.files],
        }


def compare(
    store: Store, project: str, unpack: Unpack, lock: Lockfile, flow: str, before: str, after: str, *, full: bool
) -> Difference:
    """The difference of the versions that ``before`` and ``after`` name: ``2``, ``v2``, or a tag.

    Raises ``KitaruSelectorError``, and ``KitaruIntegrityError`` if a snapshot is no longer in the store.
    """
    old_side, new_side = (_side(store, project, lock, flow, word) for word in (before, after))
    old, new = (read_snapshot(store, project, side.release.snapshot, flow) for side in (old_side, new_side))
    old_files: Listing | None = ()
    new_files: Listing | None = ()
    if old.source != new.source:
        old_files, new_files = _listing(store, project, old.source), _listing(store, project, new.source)
    changes = snapshot_changes(old, new, old_files, new_files or ())
    files: tuple[FileDiff, ...] = ()
    if old_files is None or new_files is None:
        # Without both listings nobody can say which files changed.
        text = f"source {address.short(old.source)} → {address.short(new.source)}; its files are no longer in the store"
        sourceless = Change(subject="source", text=text)
        changes = tuple(sourceless if one.subject == "source" else one for one in changes)
    else:
        found = pairs(old_files, new_files)
        compared = [(one, other) for one, other in found if one is None or other is None or one.sha != other.sha]
        old_bodies = _bodies(store, project, unpack, old.source, {one.path for one, _ in compared if one}, full)
        new_bodies = _bodies(store, project, unpack, new.source, {one.path for _, one in compared if one}, full)
        files = tuple(file_diff(one, other, old_bodies, new_bodies, full=full) for one, other in found)
    schema = [change for change in changes if change.subject == "input_schema"]
    verdict: Inputs = "breaking" if any(one.breaking for one in schema) else "compatible" if schema else "same"
    return Difference(flow, old_side, new_side, verdict, changes, files)


def _side(store: Store, project: str, lock: Lockfile, flow: str, word: str) -> Side:
    number = VERSION.fullmatch(word)
    chosen: Selector = ByVersion(int(number[1])) if number else ByTag(word)
    found = resolve(lock, flow, chosen)
    table = read_table(store, project, lock.flows[flow].table, flow)
    version = found.version if isinstance(found, Resolved) else int(number[1] if number else 0)
    in_table(table, lock.flows[flow], version)
    release = table.release(version)
    assert release is not None
    return Side(version, None if number else word, release)


def _listing(store: Store, project: str, source: str) -> Listing | None:
    try:
        body = get_object(store, project, source, f"source listing {address.short(source)}")
    except KitaruIntegrityError:
        return None
    rows: Listing = json.loads(body)
    return rows


def _bodies(
    store: Store, project: str, unpack: Unpack, source: str, paths: set[str], full: bool
) -> Mapping[str, bytes] | None:
    """The content of those files of a source, verified; None if its archive is no longer in the store."""
    if not paths:
        return {}
    archive = store.read(address.source_archive(project, source))
    if archive is None:
        return None
    return unpack(archive, source, lambda path, size: path in paths and (full or size <= LARGEST_FILE))[1]
