"""How two snapshots of one flow differ, in words a reviewer reads. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kitaru.core.compat import compare_inputs
from kitaru.model.plan import Change, Subject
from kitaru.model.snapshot import Snapshot

Listing = Sequence[Sequence[str]]


def snapshot_changes(
    before: Snapshot, after: Snapshot, files_before: Listing | None, files_after: Listing
) -> tuple[Change, ...]:
    """Every difference, what breaks callers first."""
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
            # As with the environment below: what an input holds is nobody's business in a pull request.
            gone, come = name not in after, name not in before
            text = f"inputs.{name} {'removed' if gone else 'added' if come else 'changed'}"
        elif name == "environment":
            # Values may be what nobody should read in a pull request: names are enough to know what moved.
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
