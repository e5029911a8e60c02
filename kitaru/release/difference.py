"""How two versions of a flow differ: what callers meet, what it is made of, and its source file by file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kitaru.core.diffing import LARGEST_FILE, FileDiff, Listing, file_diff, pairs, snapshot_changes
from kitaru.core.resolving import Resolved, in_table, resolve
from kitaru.errors import KitaruIntegrityError
from kitaru.model import address
from kitaru.model.lockfile import Lockfile, Release
from kitaru.model.plan import Change
from kitaru.model.route import ByTag, ByVersion, Selector
from kitaru.model.snapshot import Snapshot
from kitaru.release.history import commit_data
from kitaru.store.objects import get_object, read_snapshot, read_table
from kitaru.store.port import Store

Unpack = Callable[[bytes, str, Callable[[str, int], bool]], tuple[Any, Mapping[str, bytes]]]
"""(archive, digest of the tree, whether to keep a path of that size) → listing, kept files by path."""

VERSION = re.compile(r"v?([1-9][0-9]{0,8})")

Inputs = Literal["same", "compatible", "breaking"]


@dataclass(frozen=True, slots=True)
class Archives:
    """A project's objects, and the means to look into an archive of source."""

    store: Store
    project: str
    unpack: Unpack


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two versions. ``tag``: how it was named, where that was a tag."""

    version: int
    tag: str | None
    snapshot: str
    source: str
    release: Release | None

    def to_json(self) -> dict[str, Any]:
        """As JSON data; every key is always there."""
        return {
            "version": self.version,
            "tag": self.tag,
            "snapshot": self.snapshot,
            "source": self.source,
            "at": self.release.at if self.release else None,
            "by": self.release.by if self.release else None,
            "commit": commit_data(self.release.commit) if self.release else None,
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """From ``before`` to ``after``. ``inputs`` says what the change of the input schema means for callers."""

    flow: str
    before: Side
    after: Side
    inputs: Inputs
    changes: tuple[Change, ...]
    files: tuple[FileDiff, ...]

    @property
    def same(self) -> bool:
        """Whether both are one snapshot."""
        return self.before.snapshot == self.after.snapshot

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


def compare(place: Archives, lock: Lockfile, flow: str, before: str, after: str, *, full: bool) -> Difference:
    """How the version that ``before`` names differs from that of ``after``; see ``History.diff``."""
    sides = [_side(place, lock, flow, word) for word in (before, after)]
    (old_side, old), (new_side, new) = sides
    old_files, new_files = _listings(place, old, new)
    changes = snapshot_changes(old, new, old_files, new_files if new_files is not None else ())
    if old_files is None or new_files is None:
        # Without both listings nobody can say which files changed.
        changes = tuple(one if one.subject != "source" else _sourceless(old, new) for one in changes)
    schema = [change for change in changes if change.subject == "input_schema"]
    verdict: Inputs = "breaking" if any(one.breaking for one in schema) else "compatible" if schema else "same"
    files = _files(place, old, new, old_files, new_files, full=full)
    return Difference(flow, old_side, new_side, verdict, changes, files)


def _side(place: Archives, lock: Lockfile, flow: str, word: str) -> tuple[Side, Snapshot]:
    number = VERSION.fullmatch(word)
    chosen: Selector = ByVersion(int(number[1])) if number else ByTag(word)
    found = resolve(lock, flow, chosen)
    state = lock.flows[flow]
    table = read_table(place.store, place.project, state.table, flow)
    resolved = found if isinstance(found, Resolved) else in_table(table, state, getattr(chosen, "version", 0))
    snapshot = read_snapshot(place.store, place.project, resolved.snapshot, flow)
    release = table.release(resolved.version)
    return Side(resolved.version, resolved.tag, resolved.snapshot, snapshot.source, release), snapshot


def _listings(place: Archives, old: Snapshot, new: Snapshot) -> tuple[Listing | None, Listing | None]:
    if old.source == new.source:
        return (), ()
    return _listing(place, old.source), _listing(place, new.source)


def _listing(place: Archives, source: str) -> Listing | None:
    try:
        body = get_object(place.store, place.project, source, f"source listing {address.short(source)}")
    except KitaruIntegrityError:
        return None
    rows: Listing = json.loads(body)
    return rows


def _sourceless(old: Snapshot, new: Snapshot) -> Change:
    text = f"source {address.short(old.source)} → {address.short(new.source)}; its files are no longer in the store"
    return Change(subject="source", text=text)


def _files(
    place: Archives, old: Snapshot, new: Snapshot, before: Listing | None, after: Listing | None, *, full: bool
) -> tuple[FileDiff, ...]:
    if before is None or after is None:
        return ()
    found = pairs(before, after)
    compared = [(one, other) for one, other in found if one is None or other is None or one.sha != other.sha]
    bodies_before = _bodies(place, old.source, {one.path for one, _ in compared if one is not None}, full)
    bodies_after = _bodies(place, new.source, {one.path for _, one in compared if one is not None}, full)
    return tuple(file_diff(one, other, bodies_before, bodies_after, full=full) for one, other in found)


def _bodies(place: Archives, source: str, paths: set[str], full: bool) -> Mapping[str, bytes] | None:
    """The content of those files of a source, verified; None where its archive is no longer in the store."""
    if not paths:
        return {}
    archive = place.store.read(address.source_archive(place.project, source))
    if archive is None:
        return None

    def keep(path: str, size: int) -> bool:
        return path in paths and (full or size <= LARGEST_FILE)

    kept: Mapping[str, bytes] = place.unpack(archive, source, keep)[1]
    return kept
