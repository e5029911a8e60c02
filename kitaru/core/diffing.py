"""The differences of two snapshots of one flow: their parts, the inputs that callers give, their files. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Literal

from kitaru.model.address import digest
from kitaru.model.jsonable import record
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
    found += _fields("options", *(one.options.model_dump(mode="json") for one in (before, after)))
    if before.stack != after.stack:
        found += _fields("stack", before.stack.data(), after.stack.data())
    found += _fields("inputs", before.inputs, after.inputs)
    if before.checkpoints != after.checkpoints:
        text = f"checkpoints: {_listed(before.checkpoints, after.checkpoints)}"
        found.append(Change(subject="checkpoints", text=text))
    if before.summary != after.summary:
        found.append(Change(subject="summary", text="description changed"))
    return tuple(sorted(found, key=lambda change: not change.breaking))


def _source(before: Listing | None, after: Listing) -> Change:
    if before is None:
        return Change(subject="source", text="source changed")
    old = {row[0]: tuple(row[1:]) for row in before}
    new = {row[0]: tuple(row[1:]) for row in after}
    lists = (
        ("~", "changed", sorted(path for path in old.keys() & new.keys() if old[path] != new[path])),
        ("+", "added", sorted(new.keys() - old.keys())),
        ("-", "removed", sorted(old.keys() - new.keys())),
    )
    counts = [f"{len(paths)} {word}" for _, word, paths in lists if paths]
    noun = "file" if counts and counts[0].startswith("1 ") else "files"
    text = ", ".join(counts).replace(" ", f" {noun} ", 1)
    details = tuple(f"{sign} {path}" for sign, _, paths in lists for path in paths)
    return Change(subject="source", text=f"source: {text}", details=details)


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
            changed = [one for one in old if one in new and old[one] != new[one]]
            text = f"{subject}.{name}: {_listed(list(old), list(new), changed)}"
        elif isinstance(old, list) and isinstance(new, list):
            text = f"{subject}.{name}: {_listed(old, new)}"
        found.append(Change(subject=subject, text=text))
    return found


def _listed(old: Sequence[Any], new: Sequence[Any], changed: Sequence[str] = ()) -> str:
    """``- gone, ~ changed, + come``"""
    gone, come = [f"- {item}" for item in old if item not in new], [f"+ {item}" for item in new if item not in old]
    return ", ".join([*gone, *(f"~ {item}" for item in changed), *come]) or "order changed"


def _short(value: Any) -> str:
    text = "unset" if value is None else value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- inputs ----------------------------------------------------------------------------------------------------------

Schema = dict[str, Any]
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_WORDS = ("title", "description", "default", "examples", "$defs", "deprecated")


def compare_inputs(
    before: Schema, after: Schema, given: frozenset[str] = frozenset(), given_before: frozenset[str] = frozenset()
) -> tuple[Change, ...]:
    """The differences, in the order of the parameters, breaking ones first.

    ``given`` names the sample inputs of the new version: a new required parameter among them breaks no caller.
    ``given_before`` names those of the old version: callers could leave them out.
    """
    found = list(_object(_inlined(before, before), _inlined(after, after), "", given, given_before - given))
    return tuple(sorted(found, key=lambda change: not change.breaking))


def _change(text: str, breaking: bool) -> Change:
    return Change(subject="input_schema", text=text, breaking=breaking)


def _object(
    before: Schema, after: Schema, path: str, given: frozenset[str] = frozenset(), lost: frozenset[str] = frozenset()
) -> Iterator[Change]:
    """``lost``: the sample inputs of the old version that the new one lacks."""
    old, new = before.get("properties", {}), after.get("properties", {})
    required_before, required_after = set(before.get("required", ())), set(after.get("required", ()))
    closed = after.get("additionalProperties", True) is False
    for name in old:
        place = f"{path}{name}"
        if name not in new:
            yield _change(f"{place} removed", closed)
            continue
        if name in required_after and name in lost:
            yield _change(f"{place} is now required: its sample input is gone", True)
        elif name in required_after - required_before:
            yield _change(f"{place} is now required", name not in given)
        elif name in required_before - required_after:
            yield _change(f"{place} is now optional", False)
        yield from _value(old[name], new[name], place)
    for name in new:
        if name not in old:
            needed = name in required_after and name not in given
            kind = "required" if name in required_after else "optional"
            yield _change(f"{path}{name} added, {kind} ({_describe(new[name])})", needed)
    if before.get("additionalProperties", True) is not False and closed:
        yield _change(f"{path or 'inputs: '}other names are no longer accepted", True)


def _value(old: Schema, new: Schema, place: str) -> Iterator[Change]:
    if _core(old) == _core(new):
        # A default differs, but its value is never shown: a plan is read by many, and a default may be a password.
        if "default" in old and "default" in new and repr(old["default"]) != repr(new["default"]):
            yield _change(f"{place}: default changed", False)
        elif ("default" in old) != ("default" in new):
            yield _change(f"{place}: {'no longer' if 'default' in old else 'now'} has a default", False)
        return
    if old.get("type") == new.get("type") == "object" and "properties" in old and "properties" in new:
        yield from _object(old, new, f"{place}.")
        return
    if old.get("type") == new.get("type") == "array" and "items" in old and "items" in new:
        yield from _value(old["items"], new["items"], f"{place}[]")
        return
    yield _change(f"{place}: {_describe(old)} → {_describe(new)}", not _accepts(old, new))


def _accepts(old: Schema, new: Schema) -> bool:
    """Whether ``new`` surely takes every value that ``old`` takes; False in doubt."""
    if not _core(new):
        return True
    olds, news = _alternatives(old), _alternatives(new)
    if len(olds) > 1 or len(news) > 1:
        return all(any(_accepts(one, other) for other in news) for one in olds)
    old, new = olds[0], news[0]
    if "enum" in new or "const" in new:
        allowed = new.get("enum", [new.get("const")])
        return ("enum" in old or "const" in old) and all(
            value in allowed for value in old.get("enum", [old.get("const")])
        )
    widened = old.get("type") == "integer" and new.get("type") == "number"
    if old.get("type") != new.get("type") and not widened:
        return False
    return all(_no_tighter(key, old, new) for key in new if key != "type" and key not in _WORDS)


def _no_tighter(key: str, old: Schema, new: Schema) -> bool:
    limit = old.get(key)
    if limit == new[key]:
        return True
    if key in (*_LOWER, *_UPPER) and isinstance(limit, int | float):
        return bool(new[key] <= limit if key in _LOWER else new[key] >= limit)
    return False


def _alternatives(schema: Schema) -> list[Schema]:
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return list(schema[key])
    if isinstance(schema.get("type"), list):
        return [{**schema, "type": one} for one in schema["type"]]
    return [schema]


def _inlined(schema: Any, root: Schema, within: tuple[str, ...] = ()) -> Any:
    """``schema`` with every local ``$ref`` resolved; one that leads back into itself stays a name."""
    if isinstance(schema, list):
        return [_inlined(item, root, within) for item in schema]
    if not isinstance(schema, dict):
        return schema
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/$defs/"):
        name = reference.removeprefix("#/$defs/")
        if name in within:
            return {"$ref": reference, "title": name}
        target = {**root.get("$defs", {}).get(name, {}), **{k: v for k, v in schema.items() if k != "$ref"}}
        return {**_inlined(target, root, (*within, name)), "title": name}
    return {key: _inlined(value, root, within) for key, value in schema.items() if key != "$defs"}


def _core(schema: Any) -> Any:
    """The part of a schema that decides about values, at every depth. Names of ``properties`` are no keywords."""
    if isinstance(schema, list):
        return [_core(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    core = {}
    for key, value in schema.items():
        if key == "properties" and isinstance(value, dict):
            core[key] = {name: _core(one) for name, one in value.items()}
        elif key not in _WORDS:
            core[key] = _core(value)
    return core


def _describe(schema: Schema) -> str:
    if "title" in schema:
        return str(schema["title"])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " | ".join(_describe(one) for one in schema[key])
    if "enum" in schema:
        return " | ".join(repr(value) for value in schema["enum"])
    if "const" in schema:
        return repr(schema["const"])
    kind = schema.get("type", "any")
    if kind == "array" and isinstance(schema.get("items"), dict):
        return f"array of {_describe(schema['items'])}"
    bounds = [f"{key} {schema[key]}" for key in (*_LOWER, *_UPPER) if key in schema]
    words = " | ".join(kind) if isinstance(kind, list) else str(kind)
    return f"{words} ({', '.join(bounds)})" if bounds else words


# --- files ------------------------------------------------------------------------------------------------------------

SHOWN_LINES = 400
"""Lines of diff shown of one file, unless all are wanted."""

LARGEST_FILE = 512 * 1024
"""Bytes of a file that is compared line by line, unless all are wanted."""

EMPTY = digest(b"")
_SNIFFED = 8000


@record()
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
        data = {one.name: getattr(self, one.name) for one in fields(self)}
        modes = list(self.modes) if self.modes else None
        return {**data, "was": self.was or None, "note": self.note or None, "modes": modes, "lines": list(self.lines)}


@record()
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
    found = FileDiff(named.path, "changed")
    if before is None or after is None:
        found = replace(found, status="added" if before is None else "removed")
    else:
        if before.path != after.path:
            found = replace(found, status="renamed", was=before.path)
        if before.mode != after.mode:
            found = replace(found, modes=(before.mode, after.mode))
        if before.sha == after.sha:
            return found
    old, old_note = _body(before, old_bodies)
    new, new_note = _body(after, new_bodies)
    if old_note or new_note:
        return replace(found, note=old_note or new_note)
    lines = _unified(before, after, old, new)
    shown = len(lines) if full else SHOWN_LINES
    return replace(
        found,
        added=sum(line.startswith("+") for line in lines[2:]),
        removed=sum(line.startswith("-") for line in lines[2:]),
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
