"""``kitaru init``: a manifest for the flows that are here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kitaru import wiring


@dataclass(frozen=True, slots=True)
class Initialised:
    """What init did: as data, and as lines for a person."""

    data: dict[str, Any]
    lines: tuple[str, ...]


def initialise(folder: Path, project: str | None) -> Initialised:
    """Write ``kitaru.yaml`` in ``folder`` unless there is one; safe to run again."""
    result = wiring.scaffold(folder, project)
    data = {
        "manifest": str(result.manifest),
        "created": result.created,
        "project": result.project,
        "flows": [f"{found.target}" for found in result.flows],
        "undeclared": [f"{found.target}" for found in result.undeclared],
        "written": [str(path) for path in result.written],
        "problems": [str(problem) for problem in result.problems],
    }
    return Initialised(data, tuple(_lines(result)))


def _lines(result: Any) -> list[str]:
    lines = [f"warning: {problem}" for problem in result.problems]
    if not result.created:
        lines.append(f"{result.manifest} is there already; it was left as it is.")
        if result.undeclared:
            lines += ["These flows are not declared yet; paste under flows:", "", result.paste]
        return [*lines, "next: kitaru validate"]
    count = len(result.flows)
    lines.append(f"Wrote {result.manifest}: project {result.project}, {count} {'flow' if count == 1 else 'flows'}.")
    lines += [f"  {found.target}" for found in result.flows]
    if not result.flows:
        lines.append("  no @flow found; the file says how to declare one")
    return [*lines, "next: git add -A && git commit -m 'Add kitaru.yaml', then: kitaru plan"]
