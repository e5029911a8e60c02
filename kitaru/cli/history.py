"""Commands that look back: history, blame, diff."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated

import typer

from kitaru.cli.options import (
    FlowArgument,
    Place,
    placed,
)
from kitaru.cli.terminal import progress, terminal


@placed("history")
def history(
    at: Place,
    flow: Annotated[str | None, typer.Argument(metavar="FLOW", help="Only what happened to this flow.")] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="At most so many generations.")] = 20,
    everything: Annotated[bool, typer.Option("--all", help="All generations there are.")] = False,
) -> None:
    """Show who moved what, when, from which commit; newest first. Exit code 1 where one is missing or unreadable."""
    client = at.connect()
    happened = client.history.list(flow, limit=None if everything else limit)
    view = import_module("kitaru.cli.views.history_text")
    width, project = terminal.room or view.WIDTH, client.session.project
    lines = [] if terminal.json else view.history_lines(happened, flow, project, terminal.style, width=width)
    terminal.items(happened.generations, lines, **happened.gaps_to_json())
    if note := view.chain_note(happened):
        terminal.note(note)
    if not happened.whole:
        raise typer.Exit(1)


@placed("blame")
def blame(
    at: Place,
    exec_id: Annotated[str, typer.Argument(metavar="EXEC_ID", help="The execution's id, or the end of it.")],
) -> None:
    """Show which commit an execution runs, and who led it there."""
    client = at.connect()
    found = client.history.blame(exec_id)
    view = import_module("kitaru.cli.views.history_text")
    terminal.item(found, view.blame_lines(found, terminal.style, width=terminal.room or view.WIDTH))


@placed("diff")
def diff(
    at: Place,
    flow: FlowArgument,
    before: Annotated[str, typer.Argument(metavar="A", help="A version (1, v1) or a tag.")],
    after: Annotated[str, typer.Argument(metavar="B", help="A version (2, v2) or a tag.")],
    full: Annotated[bool, typer.Option("--full", help="Large files and long differences too.")] = False,
) -> None:
    """Show how two versions of a flow differ. From A to B: inputs, image, options, source."""
    client = at.connect()
    found = client.history.diff(flow, before, after, full=full)
    progress.close()
    view = import_module("kitaru.cli.views.diff_text")
    seen = sys.stdout.isatty()
    if terminal.json:
        terminal.item(found)
    else:
        # Source as it is: a difference written to a file is one that can be applied.
        terminal.raw("\n".join(view.diff_lines(found, terminal.style, full=full, visible=seen)))
