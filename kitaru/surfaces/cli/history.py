"""Commands that look back: history, blame, diff."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated

import typer

from kitaru.surfaces.cli.options import (
    ManifestOption,
    OutputOption,
    ProjectOption,
    StoreOption,
    TargetOption,
    connect,
)
from kitaru.surfaces.cli.terminal import Output, progress, terminal


def history(
    flow: Annotated[str | None, typer.Argument(help="Only what happened to this flow.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many generations.")] = 20,
    everything: Annotated[bool, typer.Option("--all", help="All generations there are.")] = False,
    store: StoreOption = None,
    project: ProjectOption = None,
    manifest: ManifestOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.text,
) -> None:
    """Show who moved what, when, from which commit; newest first."""
    client = connect("history", output, store=store, project=project, manifest=manifest, target=target)
    happened = client.history.list(flow, limit=None if everything else limit)
    view = import_module("kitaru.surfaces.views.history_text")
    lines = [] if terminal.json else view.history_lines(happened, flow, client.session.project, terminal.style)
    terminal.items(happened.generations, lines)
    if note := view.chain_note(happened):
        terminal.note(note)


def blame(
    exec_id: Annotated[str, typer.Argument(help="The execution's id, or the end of it.")],
    store: StoreOption = None,
    project: ProjectOption = None,
    manifest: ManifestOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.text,
) -> None:
    """Show which commit an execution runs, and who led it there."""
    client = connect("blame", output, store=store, project=project, manifest=manifest, target=target)
    found = client.history.blame(exec_id)
    view = import_module("kitaru.surfaces.views.history_text")
    terminal.item(found, view.blame_lines(found, terminal.style))


def diff(
    flow: Annotated[str, typer.Argument(help="The flow's name.")],
    before: Annotated[str, typer.Argument(metavar="A", help="A version (1, v1) or a tag.")],
    after: Annotated[str, typer.Argument(metavar="B", help="A version (2, v2) or a tag.")],
    full: Annotated[bool, typer.Option("--full", help="Large files and long differences too.")] = False,
    store: StoreOption = None,
    project: ProjectOption = None,
    manifest: ManifestOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.text,
) -> None:
    """Show how version B of a flow differs from version A: inputs, image, options, source."""
    client = connect("diff", output, store=store, project=project, manifest=manifest, target=target)
    found = client.history.diff(flow, before, after, full=full)
    progress.close()
    view = import_module("kitaru.surfaces.views.diff_text")
    seen = sys.stdout.isatty()
    terminal.item(found, [] if terminal.json else view.diff_lines(found, terminal.style, full=full, visible=seen))
