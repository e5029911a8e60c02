"""Views of flows, versions and routes for a terminal."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from kitaru.cli.views.plan import deployment_data, image_data
from kitaru.cli.views.words import Style, ago, bare, columns, count
from kitaru.model.address import short

LEAST_ROOM = 20
"""Characters for routes, even on a narrow terminal."""


def flow_rows(
    flows: Sequence[Any], project: str, store: str, style: Style = bare, width: int | None = None
) -> list[str]:
    """A table of flows, their highest version and their routes; ``store`` is the store's address.

    ``width``: the characters of a line; routes that do not fit go on below their flow.
    """
    if not flows:
        return [f"No flows in project {project} of store {store} yet. Declare them in kitaru.yaml, then: kitaru apply"]
    names = max(len("FLOW"), *(len(one.flow) for one in flows))
    room = max(width - names - len("  LATEST  "), LEAST_ROOM) if width is not None else None
    rows = []
    for one in flows:
        first, *more = _filled(_routes(one), room)
        rows += [[one.flow, f"v{one.latest}", first], *(["", "", line] for line in more)]
    return columns(rows, ["FLOW", "LATEST", "ROUTES"], style)


def _filled(parts: Sequence[str], room: int | None) -> list[str]:
    """The parts in as few lines of ``room`` characters as possible; in one line if ``room`` is None."""
    lines = [parts[0]]
    for part in parts[1:]:
        if room is not None and len(lines[-1]) + len(part) + 3 > room:
            lines[-1] += ";"
            lines.append(part)
        else:
            lines[-1] += f"; {part}"
    return lines


def _routes(flow: Any) -> list[str]:
    parts = []
    for tag, versions in sorted(flow.routes.items()):
        weights = flow.weights.get(tag, {})
        held = ", ".join(f"v{version} {weights[version]}%" if weights else f"v{version}" for version in versions)
        parts.append(f"{tag}{'*' if flow.exclusive[tag] and not weights else ''} → {held}")
    return parts or ["-"]


def deployment_rows(found: Sequence[Any], style: Style = bare) -> list[str]:
    """A table of a flow's versions; ``*`` marks an exclusive tag, a percentage a divided one."""
    rows = [[one.flow, str(one.version), tags(one), ago(one.created_at), one.by, _commit(one)] for one in found]
    return columns(rows, ["FLOW", "VERSION", "TAGS", "CREATED", "BY", "COMMIT"], style)


def tags(found: Any) -> str:
    """The tags of a version: ``benchmark, default*``, or ``canary 10%`` if other versions have the rest."""
    return (
        ", ".join(_tag(tag, exclusive, found.weights.get(tag)) for tag, exclusive in sorted(found.tags.items())) or "-"
    )


def _tag(tag: str, exclusive: bool, percent: int | None) -> str:
    return f"{tag} {percent}%" if percent is not None else f"{tag}{'*' if exclusive else ''}"


def shared_data(flow: str, tag: str, found: Sequence[Any]) -> dict[str, Any]:
    """A tag that leads to several versions, as JSON data."""
    return {
        "flow": flow,
        "tag": tag,
        "exclusive": found[0].tags[tag],
        "weights": {str(one.version): one.weights[tag] for one in found if tag in one.weights},
        "versions": [deployment_data(one) for one in found],
    }


def shared_lines(flow: str, tag: str, found: Sequence[Any], place: Sequence[str], style: Style = bare) -> list[str]:
    """A tag that leads to several versions, one line each.

    ``place``: options for the commands below: ``("--target", "production")``.
    """
    divided = all(tag in one.weights for one in found)
    what = (
        "is divided: each invoke draws one of these" if divided else "is a label on several; invoke them by --version"
    )
    rows = [
        [
            "",
            f"v{one.version}",
            *([f"{one.weights[tag]}%"] if divided else []),
            ago(one.created_at),
            one.by,
            _commit(one),
            one.details.target,
        ]
        for one in found
    ]
    head = ["", "VERSION", *(["SHARE"] if divided else []), "CREATED", "BY", "COMMIT", "TARGET"]
    options = "".join(f" {shlex.quote(word)}" for word in place)
    first, last = found[0].version, found[-1].version
    return [
        style(f"{flow}: {tag}", "bold") + f" {what}",
        *columns(rows, head, style),
        "",
        f"one in full: kitaru flow deployments show {flow} --version {last}{options}",
        f"how they differ: kitaru diff {flow} {first} {last}{options}",
    ]


def deployment_lines(found: Any, style: Style = bare) -> list[str]:
    """One version in full."""
    snapshot = found.details
    lines = [
        style(f"{found.flow} v{found.version}", "bold") + f"  {tags(found)}",
        f"  target      {snapshot.target}",
        f"  snapshot    {found.snapshot}",
        f"  source      {snapshot.source}",
        f"  commit      {_commit(found)}",
        f"  created     {ago(found.created_at)} by {found.by}",
        f"  stack       {snapshot.stack.name} ({snapshot.stack.spec.type})",
        f"  options     retries {snapshot.options.retries}, cache {'on' if snapshot.options.cache else 'off'}",
    ]
    image = image_data(snapshot.image.data())
    if image:
        lines.append(f"  image       {json.dumps(image, ensure_ascii=False)}")
    if snapshot.summary:
        lines.append(f"  about       {snapshot.summary}")
    if snapshot.checkpoints:
        lines.append(f"  checkpoints {', '.join(snapshot.checkpoints)}")
    lines += ["  inputs", *_inputs(snapshot)]
    return lines


def _inputs(snapshot: Any) -> list[str]:
    schema = snapshot.input_schema
    required = set(schema.get("required", ()))
    lines = []
    for name, one in schema.get("properties", {}).items():
        kind = one.get("type") or one.get("$ref", "any").rsplit("/", 1)[-1]
        given = snapshot.inputs.get(name, one.get("default"))
        if name in snapshot.inputs or "default" in one:
            lines.append(f"    {name}: {kind} = {json.dumps(given, ensure_ascii=False)}")
        else:
            lines.append(f"    {name}: {kind}{' (required)' if name in required else ''}")
    return lines or ["    none"]


def _commit(found: Any) -> str:
    if not found.commit_sha:
        return "-"
    return short(found.commit_sha) + (" (dirty)" if found.commit_dirty else "")


FILES_SHOWN = 3


def release_data(done: Any) -> dict[str, Any]:
    """A deploy or a build as JSON data; ``version`` is null if only the manifest was changed."""
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
    """The new version, its routes, and the change of the manifest."""
    if done.version is None:
        return _edit(done.manifest, style) or [f"{done.manifest.path} says so already; nothing to change"]
    tags = ", ".join(f"{move.tag}{'*' if move.exclusive else ''}" for move in done.moves)
    where = f"  {tags}" if tags else "  no route"
    lines = [style(f"{done.flow} v{done.version}", "good") + where]
    lines += [f"  {move.tag}: {move.before} → {move.after}" for move in done.moves if move.before != "nothing"]
    return [*lines, *_wrote(done.manifest)]


def release_notes(done: Any) -> list[str]:
    """Warnings and notes on a release: uncommitted files, files that the source lacks."""
    lines = [f"warning: {text}" for text in done.warnings]
    if done.changed:
        shown = ", ".join(done.changed[:FILES_SHOWN]) + (", ..." if len(done.changed) > FILES_SHOWN else "")
        lines.append(f"note: built with {count(len(done.changed), 'file')} not committed ({shown}); that is recorded")
    return [*lines, *(f"note: {text}" for text in done.notes)]


def manifest_notes(kept: Any) -> list[str]:
    """The reason why the manifest differs from the store; empty if it does not."""
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
    """The move of a tag: ``research: default* v1 → v2``."""
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
    """A rollback: the route's version, the versions passed over, the hold, and the edit that ends the hold.

    ``write``: the command that only makes the edit.
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
