"""What deploy, build and the commands that move routes did, for a person and for a script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kitaru.cli.views.words import Style, bare, count

FILES_SHOWN = 3


def release_data(done: Any) -> dict[str, Any]:
    """A deploy or a build as JSON data; ``version`` is null where the manifest alone was changed."""
    return {
        "flow": done.flow,
        "target": done.target,
        "version": done.version,
        "generation": done.generation,
        "tags": {move.tag: move.exclusive for move in done.moves},
        "moves": [
            {"tag": move.tag, "before": move.before, "after": move.after, "exclusive": move.exclusive}
            for move in done.moves
        ],
        "dirty": bool(done.changed),
        "notes": list(done.notes),
        "manifest": done.manifest.to_json(),
    }


def release_lines(done: Any, style: Style = bare) -> list[str]:
    """What was made, where it is led to, and what the manifest says now."""
    if done.version is None:
        return _edit(done.manifest, style) or [f"{done.manifest.path} says so already; nothing to change"]
    tags = ", ".join(f"{move.tag}{'*' if move.exclusive else ''}" for move in done.moves)
    where = f"  {tags}" if tags else "  no route"
    lines = [style(f"{done.flow} v{done.version}", "good") + where]
    lines += [f"  {move.tag}: {move.before} → {move.after}" for move in done.moves if move.before != "nothing"]
    return [*lines, *_wrote(done.manifest)]


def release_notes(done: Any) -> list[str]:
    """What is worth knowing beside it: files that are not committed, and what the source lacks."""
    lines = [f"warning: {text}" for text in done.warnings]
    if done.changed:
        shown = ", ".join(done.changed[:FILES_SHOWN]) + (", ..." if len(done.changed) > FILES_SHOWN else "")
        lines.append(f"note: built with {count(len(done.changed), 'file')} not committed ({shown}); that is recorded")
    return [*lines, *(f"note: {text}" for text in done.notes)]


def manifest_notes(kept: Any) -> list[str]:
    """Why the manifest does not say what the store now does."""
    if kept.problem:
        return [
            f"warning: done in the store, but {kept.path} could not be changed: {kept.problem}",
            "hint: kitaru plan shows what differs; change it by hand, the command must not be repeated",
        ]
    return [f"note: {kept.note}"] if kept.note else []


def route_data(done: Any) -> dict[str, Any]:
    """A route's move as JSON data."""
    names = ("flow", "tag", "before", "after", "exclusive", "changed", "generation", "version", "held", "hold_ended")
    data = {name: getattr(done, name) for name in (*names, "converted")}
    lists = {"skipped": list(done.skipped), "rolled_back": list(done.rolled_back)}
    return {**data, **lists, "manifest": done.manifest.to_json()}


def route_lines(done: Any, style: Style = bare) -> list[str]:
    """Where a tag leads now."""
    mark = "*" if done.exclusive else ""
    if done.changed and done.before == done.after and done.converted:
        lines = [style(f"{done.flow}: {done.tag}{mark} stays at {done.after}", "good")]
    elif not done.changed or done.before == done.after:
        lines = [f"{done.flow}: {done.tag}{mark} leads to {done.after} already"]
    elif done.after == "nothing":
        lines = [style(f"{done.flow}: {done.tag} is removed", "good") + f" (it led to {done.before})"]
    elif done.before == "nothing":
        lines = [style(f"{done.flow}: {done.tag}{mark} → {done.after}", "good")]
    else:
        lines = [style(f"{done.flow}: {done.tag}{mark} {done.before} → {done.after}", "good")]
    if done.changed and done.converted:
        lines[0] += ", now an exclusive route" if done.exclusive else ", now a shared label"
    if done.hold_ended:
        lines[0] += "; the rollback's hold ends"
    lines += [style(f"  note: {text}", "warn") for text in done.rolled_back]
    return [*lines, *_wrote(done.manifest)]


def proposal_lines(done: Any, style: Style = bare) -> list[str]:
    """The edit of the manifest alone."""
    return _edit(done.manifest, style) or [f"{done.manifest.path} says so already; nothing to change"]


def rollback_lines(done: Any, style: Style = bare, *, write: str = "") -> list[str]:
    """A rollback: where the route leads, what it passed over, what holds it there, and the edit that ends that.

    ``write``: the command that makes the edit, and no more than that.
    """
    if not done.changed:
        held = ", held there until the manifest says so and is applied" if done.held else ""
        lines = [f"{done.flow}: {done.tag}* leads to {done.after} already{held}; nothing to roll back"]
        return [*lines, *_wrote(done.manifest)]
    first, *rest = route_lines(done, style)
    lines = [first, *(f"  passed over {text}" for text in done.skipped), *rest]
    if done.manifest.written or not done.manifest.diff:
        return lines
    made = f" ({write} makes it)" if write else ""
    words = f"Plan and apply leave it there until {done.manifest.path} agrees. The edit{made}:"
    return [*lines, "", words, "", *done.manifest.diff]


def delete_data(done: Any) -> dict[str, Any]:
    """A deletion as JSON data."""
    data = {"flow": done.flow, "version": done.version, "labels_lost": list(done.lost), "generation": done.generation}
    return {**data, "manifest": done.manifest.to_json()}


def delete_lines(done: Any, style: Style = bare) -> list[str]:
    """A deletion: the number stays taken."""
    lost = f"; with it went the {'label' if len(done.lost) == 1 else 'labels'} {', '.join(done.lost)}"
    text = style(f"{done.flow} v{done.version} is deleted", "good")
    return [text + (lost if done.lost else ""), *_wrote(done.manifest)]


def _wrote(kept: Any) -> list[str]:
    return [f"{kept.path} says so too; commit it"] if kept.written else []


def _edit(kept: Any, style: Style) -> list[str]:
    lines: Sequence[str] = kept.diff
    return [style(line, _kind(line)) for line in lines]


def _kind(line: str) -> str:
    if line.startswith("+") and not line.startswith("+++"):
        return "add"
    return "remove" if line.startswith("-") and not line.startswith("---") else "dim"
