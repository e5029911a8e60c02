"""The differences of two snapshots of one flow, in a reviewer's words; and of their files, line by line. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kitaru.core.compatibility import compare_inputs
from kitaru.model.address import digest
from kitaru.model.plan import Change, Subject
from kitaru.model.snapshot import Snapshot

Listing = Sequence[Sequence[str]]
"""Rows of path, mode in octal, SHA-256: ``["flows/work.py", "100644", "ab12…"]``."""


def snapshot_changes(
    before: Snapshot, after: Snapshot, files_before: Listing | None, files_after: Listing
) -> tuple[Change, ...]:
    """Every difference, the breaking ones first."""
    found: list[Change] = []
    if before.input_schema != after.input_schema or before.inputs != after.inputs:
        given, given_before = frozenset(after.inputs), frozenset(before.inputs)
        found += compare_inputs(before.input_schema, after.input_schema, given, given_before)
    if before.target != after.target:
        found.append(Change(subject="target", text=f"target {before.target} → {after.target}"))
    if before.source != after.source:
        found.append(_source(files_before, files_after))
    found += _fields("image", before.image.data(), after.image.data())
    found += _fields("options", _whole(before.options), _whole(after.options))
    if before.stack != after.stack:
        found += _fields("stack", before.stack.data(), after.stack.data())
    found += _fields("inputs", before.inputs, after.inputs)
    if before.checkpoints != after.checkpoints:
        found.append(_checkpoints(before.checkpoints, after.checkpoints))
    if before.summary != after.summary:
        found.append(Change(subject="summary", text="description changed"))
    return tuple(sorted(found, key=lambda change: not change.breaking))


def _whole(options: Any) -> dict[str, Any]:
    return dict(options.model_dump(mode="json"))


def _source(before: Listing | None, after: Listing) -> Change:
    if before is None:
        return Change(subject="source", text="source changed")
    old = {row[0]: tuple(row[1:]) for row in before}
    new = {row[0]: tuple(row[1:]) for row in after}
    changed = sorted(path for path in old.keys() & new.keys() if old[path] != new[path])
    added, removed = sorted(new.keys() - old.keys()), sorted(old.keys() - new.keys())
    counts = [
        (len(paths), word) for paths, word in ((changed, "changed"), (added, "added"), (removed, "removed")) if paths
    ]
    details = [f"~ {path}" for path in changed] + [f"+ {path}" for path in added] + [f"- {path}" for path in removed]
    nouns = [" file" if number == 1 else " files" for number, _ in counts[:1]] + [""] * 2
    text = ", ".join(f"{number}{noun} {word}" for (number, word), noun in zip(counts, nouns, strict=False))
    return Change(subject="source", text=f"source: {text}", details=tuple(details))


def _fields(subject: Subject, before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    found = []
    for name in [*before, *(name for name in after if name not in before)]:
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        text = f"{subject}.{name}: {_short(old)} → {_short(new)}"
        if subject == "inputs":
            # As with the environment below: many people read a pull request, and a value may be private.
            gone, come = name not in after, name not in before
            text = f"sample input {name} {'removed' if gone else 'added' if come else 'changed'}"
        elif name == "environment":
            # Values may be secrets: names are enough to know what moved.
            old, new = old or {}, new or {}
            text = f"{subject}.{name}: {_listed_names(old, new)}"
        elif isinstance(old, list) and isinstance(new, list):
            text = f"{subject}.{name}: {_listed(old, new)}"
        found.append(Change(subject=subject, text=text))
    return found


def _listed(old: list[Any], new: list[Any]) -> str:
    parts = [f"- {item}" for item in old if item not in new] + [f"+ {item}" for item in new if item not in old]
    return ", ".join(parts) if parts else "order changed"


def _listed_names(old: dict[str, Any], new: dict[str, Any]) -> str:
    changed = [f"~ {name}" for name in old if name in new and old[name] != new[name]]
    return ", ".join(
        [f"- {name}" for name in old if name not in new] + changed + [f"+ {n}" for n in new if n not in old]
    )


def _short(value: Any) -> str:
    text = "unset" if value is None else value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _checkpoints(before: Sequence[str], after: Sequence[str]) -> Change:
    gone, come = [n for n in before if n not in after], [n for n in after if n not in before]
    parts = [f"- {name}" for name in gone] + [f"+ {name}" for name in come]
    return Change(subject="checkpoints", text=f"checkpoints: {', '.join(parts) or 'order changed'}")


# --- files ------------------------------------------------------------------------------------------------------------

SHOWN_LINES = 400
"""Lines of diff shown of one file, unless all are wanted."""

LARGEST_FILE = 512 * 1024
"""Bytes of a file that is compared line by line, unless all are wanted."""

EMPTY = digest(b"")
_SNIFFED = 8000


@dataclass(frozen=True, slots=True)
class FileDiff:
    """One file. ``lines`` is its unified diff, from ``---`` on; ``hidden`` lines of it are left out.

    ``was``: the earlier path of a renamed file. ``modes``: before and after, in octal, if they differ. ``note`` says
    why there are no lines: ``binary``, ``too large``, or no longer in the store.
    """

    path: str
    status: Literal["added", "removed", "changed", "renamed"]
    was: str = ""
    modes: tuple[str, str] | None = None
    note: str = ""
    added: int = 0
    removed: int = 0
    hidden: int = 0
    lines: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As JSON data: each key always there; ``was``, ``modes`` and ``note`` null if empty."""
        data: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            **data,
            "was": self.was or None,
            "note": self.note or None,
            "modes": list(self.modes) if self.modes else None,
            "lines": list(self.lines),
        }


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of a tree: its mode and digest."""

    path: str
    mode: str
    sha: str


def pairs(before: Listing, after: Listing) -> list[tuple[Entry | None, Entry | None]]:
    """Each file that differs, as it was and as it is, in path order; a file that only moved is one pair."""
    old = {row[0]: Entry(row[0], row[1], row[2]) for row in before}
    new = {row[0]: Entry(row[0], row[1], row[2]) for row in after}
    # All empty files are alike: none of them is known again by its content.
    gone = {(one.sha, one.mode): one for path, one in old.items() if path not in new and one.sha != EMPTY}
    found: list[tuple[Entry | None, Entry | None]] = []
    for path, one in new.items():
        if path not in old:
            found.append((gone.pop((one.sha, one.mode), None), one))
        elif old[path] != one:
            found.append((old[path], one))
    moved = {was.path for was, _ in found if was is not None}
    found += [(one, None) for path, one in old.items() if path not in new and path not in moved]
    return sorted(found, key=lambda pair: (pair[1] or pair[0] or Entry("", "", "")).path)


def file_diff(
    before: Entry | None,
    after: Entry | None,
    old_bodies: Mapping[str, bytes] | None,
    new_bodies: Mapping[str, bytes] | None,
    *,
    full: bool,
) -> FileDiff:
    """The difference of one pair. Bodies are by path; None: that tree's content is not there any more."""
    named = after or before
    assert named is not None
    status: Literal["added", "removed", "changed", "renamed"] = "changed"
    if before is None or after is None:
        status = "added" if before is None else "removed"
    elif before.path != after.path:
        status = "renamed"
    modes = (before.mode, after.mode) if before and after and before.mode != after.mode else None
    was = before.path if status == "renamed" and before is not None else ""
    bare = FileDiff(named.path, status, was, modes)
    if before is not None and after is not None and before.sha == after.sha:
        return bare
    old, old_note = _body(before, old_bodies)
    new, new_note = _body(after, new_bodies)
    if old_note or new_note:
        return FileDiff(named.path, status, was, modes, note=old_note or new_note)
    lines = _unified(before, after, old, new)
    shown = len(lines) if full else SHOWN_LINES
    content = lines[2:]
    return FileDiff(
        named.path,
        status,
        was,
        modes,
        added=sum(line.startswith("+") for line in content),
        removed=sum(line.startswith("-") for line in content),
        hidden=max(0, len(lines) - shown),
        lines=tuple(lines[:shown]),
    )


def _body(entry: Entry | None, bodies: Mapping[str, bytes] | None) -> tuple[str, str]:
    """The file's text, or why there is none to compare."""
    if entry is None:
        return "", ""
    if bodies is None:
        return "", "its content is no longer in the store"
    body = bodies.get(entry.path)
    if body is None:
        return "", "too large to show; --full does"
    if b"\0" in body[:_SNIFFED]:
        return "", "binary"
    try:
        return body.decode("utf-8"), ""
    except UnicodeDecodeError:
        return "", "binary"


def _unified(before: Entry | None, after: Entry | None, old: str, new: str) -> list[str]:
    was, now = f"a/{before.path}" if before else "/dev/null", f"b/{after.path}" if after else "/dev/null"
    found: list[str] = []
    for place, line in enumerate(difflib.unified_diff(_lines(old), _lines(new), was, now, lineterm="")):
        found.append(line.removesuffix("\n"))
        if place >= 2 and not line.endswith("\n") and not line.startswith("@@"):
            found.append("\\ No newline at end of file")
    return found


def _lines(text: str) -> list[str]:
    """As ``splitlines(keepends=True)``, but only at newlines: a form feed ends no line in a diff."""
    lines = [f"{line}\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]
