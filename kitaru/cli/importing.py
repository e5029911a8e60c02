"""The command that takes flows of the store into the manifest: import."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kitaru.cli.options import (
    Place,
    placed,
)
from kitaru.cli.terminal import progress, terminal
from kitaru.cli.views.words import count


@placed("import")
def import_(
    at: Place,
    flows: Annotated[list[str] | None, typer.Argument(metavar="FLOW", help="Only these flows.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the edit of the manifest, and write nothing.")
    ] = False,
) -> None:
    """Declare in the manifest what only the store has. Flows and routes that were made past it."""
    client = at.connect()
    done = client.import_flows(flows or (), dry_run=dry_run)
    progress.close()
    terminal.item(done, _lines(done))


def _lines(done: Any) -> list[str]:
    lines = [terminal.style(f"warning: {text}", "warn") for text in done.warnings]
    if not done.diff:
        lines += [f"note: {text}" for text in done.notes]
        return [*lines, f"{done.path} names every flow and route of the store already."]
    lines += [_coloured(line) for line in done.diff]
    lines += ["", *(f"note: {text}" for text in done.notes)]
    new = [one for one in done.flows if not one.declared]
    routes = sum(len(one.routes) + len(one.dropped) for one in done.flows)
    what = f"{count(len(new), 'flow')} and {count(routes, 'route')}" if new else count(routes, "route")
    if not done.written:
        return [*lines, f"Nothing was written; without --dry-run, {done.path} gets {what}."]
    wrote = terminal.style(f"Wrote {done.path}: {what}.", "good")
    return [*lines, wrote, "next: kitaru validate, then commit it; kitaru plan shows what apply adopts"]


def _coloured(line: str) -> str:
    if line.startswith(("+++", "---")):
        return line
    return terminal.style(line, {"+": "add", "-": "remove"}.get(line[:1], "dim"))
