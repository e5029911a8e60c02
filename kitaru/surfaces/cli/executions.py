"""The commands about executions."""

from __future__ import annotations

from collections import deque
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from kitaru.errors import KitaruUsageError
from kitaru.surfaces.cli.consumer import _finish
from kitaru.surfaces.cli.options import (
    ManifestOption,
    OutputOption,
    ProjectOption,
    StoreOption,
    TargetOption,
    connect,
)
from kitaru.surfaces.cli.terminal import Output, json_text, terminal

app = typer.Typer(help="Executions: what ran, how it went, and how to go on.", no_args_is_help=True)
STATUSES = ("pending", "running", "waiting", "completed", "failed", "cancelled", "lost")
ExecArgument = Annotated[
    str, typer.Argument(metavar="EXEC_ID", help="The execution's id, or an end of it that is its alone.")
]


@app.command("list")
def list_(
    flow: Annotated[str | None, typer.Option("--flow", help="Only of this flow.")] = None,
    status: Annotated[str | None, typer.Option("--status", help=f"Only these: {', '.join(STATUSES)}.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 20,
    store: StoreOption = None,
    project: ProjectOption = None,
    manifest: ManifestOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.text,
) -> None:
    """List executions, newest first."""
    if status is not None and status not in STATUSES:
        raise KitaruUsageError(f"--status {status}: expected one of {', '.join(STATUSES)}")
    client = connect("executions.list", output, store=store, project=project, manifest=manifest, target=target)
    found = client.executions.list(flow=flow, status=status, limit=limit)
    view = import_module("kitaru.surfaces.views.executions_text")
    lines = (
        view.execution_rows(found, terminal.style) if found else ["No executions yet. Start one: kitaru invoke FLOW"]
    )
    terminal.items([one.summary() for one in found], lines)


@app.command("get")
def get(
    exec_id: ExecArgument,
    html: Annotated[Path | None, typer.Option("--html", help="Write everything to this file, as one page.")] = None,
    explain_cache: Annotated[
        bool, typer.Option("--explain-cache", help="Say for each call why it was computed, or taken from the cache.")
    ] = False,
    store: StoreOption = None,
    project: ProjectOption = None,
    manifest: ManifestOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.text,
) -> None:
    """Show one execution: its checkpoints along the time they took, its result or its failure."""
    client = connect("executions.get", output, store=store, project=project, manifest=manifest, target=target)
    execution = client.executions.get(exec_id)
    if explain_cache:
        reports = client.executions.explain_cache(execution.exec_id)
        cache_view = import_module("kitaru.surfaces.views.cache_text")
        calls = [one.to_json() for one in reports]
        terminal.item({"exec_id": execution.exec_id, "calls": calls}, cache_view.cache_lines(reports, terminal.style))
        return

    def read(value: Any) -> Any:
        return client.executions.value(value, f"a value of {execution.exec_id}", as_plain=True)

    if html is not None:
        _write_page(client, execution, read, html)
        terminal.item(execution if terminal.json else {}, [str(html)])
        return
    view = import_module("kitaru.surfaces.views.executions_text")
    size, plain = terminal.width, terminal.plain
    drawn = [] if terminal.json else view.execution_lines(execution, read, terminal.style, width=size, plain=plain)
    terminal.item(execution, drawn)


def _write_page(client: Any, execution: Any, read: Any, file: Path) -> None:
    view = import_module("kitaru.surfaces.views.timeline_html")
    page = view.execution_page(
        execution,
        template=client.executions.page_template(),
        read=read,
        logs=client.executions.logs(execution.exec_id),
        artifacts=[one.record for one in client.artifacts.list(execution.exec_id)],
    )
    try:
        file.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise KitaruUsageError(
            f"--html: {file} can't be written: {error.strerror or error}", hint="name a file in a folder that exists"
        ) from error


@app.command("logs")
def logs(
    exec_id: ExecArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the execution ends.")] = False,
    checkpoint: Annotated[str | None, typer.Option("--checkpoint", help="Only of this checkpoint, or call.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only so many, the last ones.")] = None,
    grouped: Annotated[bool, typer.Option("--grouped", help="One block a checkpoint.")] = False,
    verbose: Annotated[bool, typer.Option("-v", help="With time, stream and checkpoint.")] = False,
    store: StoreOption = None,
    project: ProjectOption = None,
    manifest: ManifestOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.text,
) -> None:
    """Print what an execution printed and logged; with -o json one JSON object a line."""
    client = connect("executions.logs", output, store=store, project=project, manifest=manifest, target=target)
    view = import_module("kitaru.surfaces.views.logs_text")
    if follow and limit is not None:
        raise KitaruUsageError("--follow has no end, so --limit can't count from it", hint="leave one of them out")
    fitting = (
        line
        for line in client.executions.logs(exec_id, follow=follow)
        if checkpoint is None or checkpoint in (line.checkpoint, line.call)
    )
    lines = fitting if limit is None else iter(deque(fitting, maxlen=limit))
    if terminal.json:
        for line in lines:
            print(json_text(line.to_json()), flush=True)
    elif grouped:
        terminal.lines(view.grouped(list(lines), terminal.style))
    else:
        for line in lines:
            print(view.log_line(line, verbose=verbose), flush=True)


@app.command("resume")
@app.command("retry")
def resume(
    exec_id: ExecArgument,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the result; exit 1 where it failed.")] = False,
    timeout: Annotated[float | None, typer.Option("--timeout", min=0, help="Seconds to wait.")] = None,
    store: StoreOption = None,
    project: ProjectOption = None,
    manifest: ManifestOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.text,
) -> None:
    """Go on with an execution that failed, was answered or lost its runner. No finished checkpoint runs again."""
    client = connect("executions.resume", output, store=store, project=project, manifest=manifest, target=target)
    handle = client.executions.resume(exec_id)
    here = client.executions.get(handle.exec_id).origin == "run"
    if wait or here:
        terminal.note(f"{handle.exec_id} goes on")
        _finish(client, handle, timeout)
    else:
        terminal.item({"exec_id": handle.exec_id}, [handle.exec_id])
        terminal.note(f"it goes on; follow it: kitaru executions logs {handle.exec_id} --follow")
