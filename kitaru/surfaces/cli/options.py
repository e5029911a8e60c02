"""Options that several commands share, and the client that they lead to."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kitaru.errors import KitaruInputError
from kitaru.surfaces.cli.terminal import Output, progress, terminal

if TYPE_CHECKING:
    from kitaru.client import KitaruClient

OutputOption = Annotated[Output, typer.Option("--output", "-o", help="text, or JSON on standard output.")]
StoreOption = Annotated[
    str | None, typer.Option("--store", help="Where everything is kept: file://path, s3://bucket/prefix.")
]
ProjectOption = Annotated[str | None, typer.Option("--project", help="The project in that store.")]
ManifestOption = Annotated[
    Path | None, typer.Option("--manifest", "-f", help="The manifest. Default: the nearest kitaru.yaml.")
]
TargetOption = Annotated[str | None, typer.Option("--target", help="The manifest's overlay of that name.")]
TagOption = Annotated[str | None, typer.Option("--tag", help="The route to follow. Default: default.")]
VersionOption = Annotated[int | None, typer.Option("--version", min=1, help="The exact version.")]
InputOption = Annotated[
    str | None, typer.Option("--input", help="Inputs: a JSON object, or @file (@- for standard input).")
]
WaitOption = Annotated[bool, typer.Option("--wait", help="Wait for the result; exit 1 where it failed.")]
TimeoutOption = Annotated[
    float | None, typer.Option("--timeout", min=0, help="Seconds to wait; the execution goes on.")
]
DirtyOption = Annotated[
    bool, typer.Option("--allow-dirty", help="Build from files that are not committed, and record that.")
]


def connect(
    command: str,
    output: Output,
    *,
    store: str | None = None,
    project: str | None = None,
    manifest: Path | None = None,
    target: str | None = None,
) -> KitaruClient:
    """The client that a command's options lead to."""
    terminal.begin(command, output)
    # Late: help, completion and usage errors need no client, and its import is most of a short command's time.
    client = import_module("kitaru.client")
    made: KitaruClient = client.KitaruClient(
        store=store, project=project, manifest=manifest, target=target, reporter=progress, hosts_runs=True
    )
    return made


def parse_inputs(text: str | None) -> dict[str, Any]:
    """``--input``: a JSON object, or one in a file."""
    if text is None:
        return {}
    source = "--input"
    if text.startswith("@"):
        source = text[1:]
        try:
            text = typer.get_text_stream("stdin").read() if source == "-" else Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise KitaruInputError(f"{source} can't be read: {error}", hint="--input @file.json") from error
    try:
        found = json.loads(text)
    except ValueError as error:
        raise KitaruInputError(
            f"{source} is not JSON: {error}", hint="""--input '{"topic": "durable execution"}'"""
        ) from error
    if not isinstance(found, dict):
        raise KitaruInputError(
            f"{source} holds {type(found).__name__}, expected an object of inputs by name",
            hint="""--input '{"topic": "durable execution"}'""",
        )
    return found
