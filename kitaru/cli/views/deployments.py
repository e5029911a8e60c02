"""Views of flows, versions and routes for a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from kitaru.cli.views.words import ago, columns, command_line, count, edit_line, style
from kitaru.model.address import short
from kitaru.model.plan import REDACTED
from kitaru.model.route import DEFAULT_TAG

FILES_SHOWN = 3
KEPT = "\N{NO-BREAK SPACE}"
"""Holds the words of one route together while a line is broken."""


def flow_rows(flows: Sequence[Any], project: str, store: str, width: int | None = None) -> list[str]:
    """A table of flows, their highest version and their routes; ``store`` is the store's address.

    ``width``: the characters of a line; routes that do not fit go on below their flow.
    """
    if not flows:
        return [f"No flows in project {project} of store {store} yet. Declare them in kitaru.yaml, then: kitaru apply"]
    rows = [[one.flow, f"v{one.latest}", "; ".join(_routes(one))] for one in flows]
    return [line.replace(KEPT, " ") for line in columns(rows, ["FLOW", "LATEST", "ROUTES"], width)]


def _routes(flow: Any) -> list[str]:
    parts = []
    for tag, versions in sorted(flow.routes.items()):
        weights = flow.weights.get(tag, {})
        held = ", ".join(f"v{version} {weights[version]}%" if weights else f"v{version}" for version in versions)
        parts.append(f"{tag}{'*' if flow.exclusive[tag] and not weights else ''} → {held}".replace(" ", KEPT))
    return parts or ["-"]


def deployment_data(deployment: Any) -> dict[str, Any]:
    """One version as JSON data, without the values of environment variables."""
    data: dict[str, Any] = deployment.to_json()
    if image := (data.get("details") or {}).get("image"):
        data["details"] = {**data["details"], "image": _image(image)}
    return data


def _image(image: dict[str, Any]) -> dict[str, Any]:
    environment = image.get("environment")
    return {**image, **({"environment": dict.fromkeys(environment, REDACTED)} if environment else {})}


def deployment_rows(found: Sequence[Any]) -> list[str]:
    """A table of a flow's versions; ``*`` marks an exclusive tag, a percentage a divided one."""
    rows = [[one.flow, str(one.version), tags(one), ago(one.created_at), one.by, _commit(one)] for one in found]
    return columns(rows, ["FLOW", "VERSION", "TAGS", "CREATED", "BY", "COMMIT"])


def tags(deployment: Any) -> str:
    """The tags of a version: ``benchmark, default*``, or ``canary 10%`` if other versions have the rest."""
    weights = deployment.weights
    return (
        ", ".join(
            f"{tag} {weights[tag]}%" if tag in weights else f"{tag}{'*' if exclusive else ''}"
            for tag, exclusive in sorted(deployment.tags.items())
        )
        or "-"
    )


def shared_data(flow: str, tag: str, found: Sequence[Any]) -> dict[str, Any]:
    """A tag that leads to several versions, as JSON data."""
    return {
        "flow": flow,
        "tag": tag,
        "exclusive": found[0].tags[tag],
        "weights": {str(one.version): one.weights[tag] for one in found if tag in one.weights},
        "versions": [deployment_data(one) for one in found],
    }


def shared_lines(flow: str, tag: str, found: Sequence[Any], place: Sequence[str]) -> list[str]:
    """A tag that leads to several versions, one line each.

    ``place``: options for the commands below: ``("--target", "production")``.
    """
    divided = all(tag in one.weights for one in found)
    verb = "is divided: each invoke draws one of these" if divided else "is on several; invoke them by --version"
    first, last = found[0].version, found[-1].version
    return [
        style(f"{flow}: {tag}", "bold") + f" {verb}",
        *deployment_rows(found),
        "",
        f"one in full: {command_line('kitaru flow deployments show', flow, '--version', last, *place)}",
        f"how they differ: {command_line('kitaru diff', flow, first, last, *place)}",
    ]


def deployment_lines(deployment: Any) -> list[str]:
    """One version in full."""
    snapshot = deployment.details
    image = _image(snapshot.image.data())
    facts = {
        "target": snapshot.target,
        "snapshot": deployment.snapshot,
        "source": snapshot.source,
        "commit": _commit(deployment),
        "created": f"{ago(deployment.created_at)} by {deployment.by}",
        "stack": f"{snapshot.stack.name} ({snapshot.stack.spec.type})",
        "options": f"retries {snapshot.options.retries}, cache {'on' if snapshot.options.cache else 'off'}",
        "image": json.dumps(image, ensure_ascii=False) if image else "",
        "about": snapshot.summary,
        "checkpoints": ", ".join(snapshot.checkpoints),
    }
    return [
        style(f"{deployment.flow} v{deployment.version}", "bold") + f"  {tags(deployment)}",
        *(f"  {name:<11} {value}" for name, value in facts.items() if value),
        *("  inputs", *_inputs(snapshot)),
    ]


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


def release_lines(done: Any) -> list[str]:
    """The new version, its routes, and the change of the manifest."""
    if done.version is None:
        return proposal_lines(done)
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


def route_lines(done: Any) -> list[str]:
    """The move of a tag: ``research: default* v1 → v2``."""
    tag = f"{done.flow}: {done.tag}{'*' if done.exclusive else ''}"
    same = done.before == done.after
    if not done.changed or (same and not done.converted):
        text = f"{tag} leads to {done.after} already"
    elif done.after == "nothing":
        text = style(f"{done.flow}: {done.tag} is removed", "good") + f" (it led to {done.before})"
    else:
        start = "" if done.before == "nothing" else f"{done.before} "
        text = style(f"{tag} stays at {done.after}" if same else f"{tag} {start}→ {done.after}", "good")
    if done.changed and done.converted:
        text += ", now an exclusive route" if done.exclusive else ", now a shared label"
    text += "; the rollback's hold ends" if done.hold_ended else ""
    return [text, *(style(f"  note: {note}", "warn") for note in done.rolled_back), *_wrote(done.manifest)]


def proposal_lines(done: Any) -> list[str]:
    """The edit of the manifest alone."""
    return [*map(edit_line, done.manifest.diff)] or [f"{done.manifest.path} says so already; nothing to change"]


def rollback_lines(done: Any, place: Sequence[str]) -> list[str]:
    """A rollback: the route's version, the versions passed over, the hold, and the edit that ends the hold.

    ``place``: options for the commands below: ``("--target", "production")``.
    """
    if not done.changed:
        held = ", held there until the manifest says so and is applied" if done.held else ""
        lines = [f"{done.flow}: {done.tag}* leads to {done.after} already{held}; nothing to roll back"]
        return [*lines, *_wrote(done.manifest), *_who_moved(done, place)]
    first, *rest = route_lines(done)
    lines = [first, *(f"  passed over {text}" for text in done.skipped), *rest]
    if done.manifest.diff and not done.manifest.written:
        # With the number: --write alone would roll back once more.
        route = [done.flow] if done.tag == DEFAULT_TAG else [done.flow, done.tag]
        again = command_line("kitaru rollback", *route, "--to", done.version, "--write", *place)
        made = f" ({again} makes it)" if done.version is not None else ""
        lines += ["", f"Plan and apply leave it there until {done.manifest.path} agrees. The edit{made}:", ""]
        lines += done.manifest.diff
    return [*lines, *_who_moved(done, place)]


def _who_moved(done: Any, place: Sequence[str]) -> list[str]:
    return ["", f"who moved what: {command_line('kitaru history', done.flow, *place)}"] if done.held else []


def delete_lines(done: Any) -> list[str]:
    """A deletion: the number stays taken."""
    lost = f"; with it went the {'label' if len(done.lost) == 1 else 'labels'} {', '.join(done.lost)}"
    text = style(f"{done.flow} v{done.version} is deleted", "good")
    return [text + (lost if done.lost else ""), *_wrote(done.manifest)]


def _wrote(edit: Any) -> list[str]:
    return [f"{edit.path} says so too; commit it"] if edit.written else []
