"""Flows, versions and routes for a person at a terminal."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from kitaru.cli.views.plan_json import deployment_data, image_data
from kitaru.cli.views.words import Style, ago, bare, columns
from kitaru.model.address import short

LEAST_ROOM = 20
"""Characters for routes, however narrow the terminal is."""


def flow_rows(
    flows: Sequence[Any], project: str, store: str, style: Style = bare, width: int | None = None
) -> list[str]:
    """A table of flows, their highest version and their routes; ``store`` is the address that was looked at.

    ``width``: the characters that a line may have; routes go on below their flow where one line has no room for them.
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
    """The parts in as few lines as have room for them; one line, where room is None."""
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
    """A table of a flow's versions; ``*`` marks an exclusive tag, a percent one that versions divide."""
    rows = [[one.flow, str(one.version), tags(one), ago(one.created_at), one.by, _commit(one)] for one in found]
    return columns(rows, ["FLOW", "VERSION", "TAGS", "CREATED", "BY", "COMMIT"], style)


def tags(found: Any) -> str:
    """The tags of a version: ``benchmark, default*``, or ``canary 10%`` where others have the rest."""
    return (
        ", ".join(_tag(tag, exclusive, found.weights.get(tag)) for tag, exclusive in sorted(found.tags.items())) or "-"
    )


def _tag(tag: str, exclusive: bool, percent: int | None) -> str:
    return f"{tag} {percent}%" if percent is not None else f"{tag}{'*' if exclusive else ''}"


def shared_data(flow: str, tag: str, found: Sequence[Any]) -> dict[str, Any]:
    """A tag that leads to several versions, as JSON data: each with what it is."""
    return {
        "flow": flow,
        "tag": tag,
        "exclusive": found[0].tags[tag],
        "weights": {str(one.version): one.weights[tag] for one in found if tag in one.weights},
        "versions": [deployment_data(one) for one in found],
    }


def shared_lines(flow: str, tag: str, found: Sequence[Any], place: Sequence[str], style: Style = bare) -> list[str]:
    """A tag that leads to several versions, each in short; ``place``: options that lead further commands there."""
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
