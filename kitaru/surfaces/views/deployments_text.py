"""Flows, versions and routes for a person at a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kitaru.model.address import short
from kitaru.surfaces.views.plan_json import image_data
from kitaru.surfaces.views.words import Style, ago, bare, columns


def flow_rows(flows: Sequence[Any], project: str, store: str, style: Style = bare) -> list[str]:
    """A table of flows, their highest version and their routes; ``store`` is the address that was looked at."""
    if not flows:
        return [f"No flows in project {project} of store {store} yet. Declare them in kitaru.yaml, then: kitaru apply"]
    rows = [[one.flow, f"v{one.latest}", _routes(one)] for one in flows]
    return columns(rows, ["FLOW", "LATEST", "ROUTES"], style)


def _routes(flow: Any) -> str:
    parts = []
    for tag, versions in sorted(flow.routes.items()):
        held = ", ".join(f"v{version}" for version in versions)
        parts.append(f"{tag}{'*' if flow.exclusive[tag] else ''} → {held}")
    return "; ".join(parts) or "-"


def deployment_rows(found: Sequence[Any], style: Style = bare) -> list[str]:
    """A table of a flow's versions; ``*`` marks an exclusive tag."""
    rows = [[one.flow, str(one.version), tags(one.tags), ago(one.created_at), one.by, _commit(one)] for one in found]
    return columns(rows, ["FLOW", "VERSION", "TAGS", "CREATED", "BY", "COMMIT"], style)


def tags(found: Mapping[str, bool]) -> str:
    """``default*, benchmark``."""
    return ", ".join(f"{tag}{'*' if exclusive else ''}" for tag, exclusive in sorted(found.items())) or "-"


def deployment_lines(found: Any, style: Style = bare) -> list[str]:
    """One version in full."""
    snapshot = found.details
    lines = [
        style(f"{found.flow} v{found.version}", "bold") + f"  {tags(found.tags)}",
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
