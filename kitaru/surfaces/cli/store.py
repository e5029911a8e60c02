"""Commands about the store itself."""

from __future__ import annotations

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

store_app = typer.Typer(help="The store: whether it is sound.", no_args_is_help=True)


@store_app.command("verify")
def verify(
    deep: Annotated[
        bool, typer.Option("--deep", help="Also every object that the newest state leads to, and every journal.")
    ] = False,
    expect: Annotated[
        str, typer.Option("--expect", metavar="DIGEST", help="A digest of the head, noted earlier: it must be there.")
    ] = "",
    store: StoreOption = None,
    project: ProjectOption = None,
    manifest: ManifestOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.text,
) -> None:
    """Check that nobody changed the history: every generation names the digest of the one before it.

    Exit code 0: sound, 1: not. Who rewrites the log from one entry to its end leaves a chain that fits, as who cuts off
    its newest entries and edits kitaru.lock does: note the digest of the head elsewhere, and ask for it with --expect.
    """
    client = connect("store.verify", output, store=store, project=project, manifest=manifest, target=target)
    found = client.history.verify(deep=deep, expect=expect)
    progress.close()
    view = import_module("kitaru.surfaces.views.history_text")
    terminal.item(found, view.verified_lines(found, terminal.style))
    if not found.sound:
        raise typer.Exit(1)
