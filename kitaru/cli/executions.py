"""The commands about executions."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from kitaru.cli.consumer import _finish
from kitaru.cli.options import (
    Place,
    TimeoutOption,
    WaitOption,
    placed,
)
from kitaru.cli.terminal import json_text, terminal
from kitaru.errors import KitaruFeatureNotAvailableError, KitaruStateError, KitaruUsageError, KitaruValueError

app = typer.Typer(help="Executions: what ran, how it went, and how to go on.", no_args_is_help=True)
STATUSES = ("pending", "running", "waiting", "completed", "failed", "cancelled", "lost")
ExecArgument = Annotated[
    str, typer.Argument(metavar="EXEC_ID", help="The execution's id, or an end of it that is its alone.")
]


@app.command("list")
@placed("executions.list")
def list_(
    at: Place,
    flow: Annotated[str | None, typer.Option("--flow", metavar="NAME", help="Only of this flow.")] = None,
    status: Annotated[
        list[str] | None,
        typer.Option(
            "--status", metavar="STATUS", help=f"Only these, given again or with commas between: {', '.join(STATUSES)}."
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="At most so many.")] = 20,
) -> None:
    """List executions, newest first."""
    wanted = [one.strip() for text in status or () for one in text.split(",")]
    for one in wanted:
        if one not in STATUSES:
            raise KitaruUsageError(f"--status {one}: expected one of {', '.join(STATUSES)}")
    client = at.connect()
    found = client.executions.list(flow=flow, status=wanted or None, limit=limit)
    answered: set[str] = set()
    view = import_module("kitaru.cli.views.executions_text")
    if found:
        answered = client.executions.answered(found)
        lines = view.execution_rows(found, terminal.style, width=terminal.room, answered=answered)
    else:
        some = (flow or wanted) and client.executions.list(limit=1)
        lines = view.none_found(flow=flow if some else None, status=",".join(wanted) if some and wanted else None)
        if not some and (where := client.executions.elsewhere(flow=flow)):
            terminal.note(f"hint: runs from before are in your own store: kitaru executions list {where}")
    terminal.items(
        [{**one.summary(), **({"answered": True} if one.exec_id in answered else {})} for one in found], lines
    )
    if len(found) == limit and not terminal.json:
        terminal.note(terminal.dim(f"the newest {limit}; more: --limit {limit * 5}"))


@app.command("get")
@placed("executions.get")
def get(
    at: Place,
    exec_id: ExecArgument,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write everything to this file, as one page.")
    ] = None,
    explain_cache: Annotated[
        bool, typer.Option("--explain-cache", help="Say for each call why it was computed, or taken from the cache.")
    ] = False,
) -> None:
    """Show one execution. Its checkpoints over time, its result or failure."""
    client = at.connect()
    execution = _with_answers(client, client.executions.get(exec_id))
    if explain_cache:
        reports = client.executions.explain_cache(execution.exec_id)
        cache_view = import_module("kitaru.cli.views.cache_text")
        calls = [one.to_json() for one in reports]
        terminal.item({"exec_id": execution.exec_id, "calls": calls}, cache_view.cache_lines(reports, terminal.style))
        return

    def read(value: Any) -> Any:
        try:
            return client.executions.value(value, "the value", as_plain=True)
        except (KitaruValueError, KitaruFeatureNotAvailableError) as error:  # the rest can be shown all the same
            return f"not shown: {error.message}"

    if html is not None:
        _write_page(client, execution, read, html)
        terminal.item(execution if terminal.json else {}, [str(html)])
        return
    view = import_module("kitaru.cli.views.executions_text")
    size, plain = terminal.width, terminal.plain
    drawn = []
    if not terminal.json:
        alone = client.executions.left_alone(execution)
        silent = client.executions.silent_for(execution)
        drawn = view.execution_lines(
            execution, read, terminal.style, width=size, plain=plain, alone=alone, silent=silent
        )
    terminal.item(execution, drawn)


def _with_answers(client: Any, execution: Any) -> Any:
    """The execution with those waits as answered that were, though nobody has gone on with it yet."""
    if execution.status != "waiting":
        return execution
    pending = {wait.wait_id for wait in client.executions.pending_waits(execution.exec_id)}
    waits = [
        wait if wait.status != "open" or wait.wait_id in pending else replace(wait, status="answered")
        for wait in execution.waits
    ]
    return replace(execution, waits=tuple(waits))


def _write_page(client: Any, execution: Any, read: Any, file: Path) -> None:
    view = import_module("kitaru.cli.views.timeline_html")
    page = view.execution_page(
        execution,
        alone=client.executions.left_alone(execution),
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
@placed("executions.logs")
def logs(
    at: Place,
    exec_id: ExecArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the execution ends.")] = False,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", metavar="NAME", help="Only of this checkpoint, or call.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Only so many, the last ones.")
    ] = None,
    grouped: Annotated[bool, typer.Option("--grouped", help="One block a checkpoint.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="With time (UTC), stream, checkpoint, call and attempt.")
    ] = False,
) -> None:
    """Print what an execution printed and logged.

    With -o json one JSON object a line.
    """
    client = at.connect()
    view = import_module("kitaru.cli.views.logs_text")
    if follow and limit is not None:
        raise KitaruUsageError("--follow has no end, so --limit can't count from it", hint="leave one of them out")
    lines = client.executions.logs(exec_id, follow=follow, checkpoint=checkpoint, limit=limit)
    printed, gone = 0, None
    block: list[Any] = []
    try:
        for line in lines:
            printed += 1
            if grouped and not terminal.json:
                block.append(line)
            else:
                print(json_text(line.to_json()) if terminal.json else view.log_line(line, verbose=verbose), flush=True)
    except KitaruStateError as error:  # it was followed, and its runner is gone
        gone = error
    for text in view.grouped(block, terminal.style, verbose=verbose):
        terminal.raw(text)
    if gone is not None:
        terminal.note(f"{gone.message}; go on with it: {gone.hint}")
        raise typer.Exit(gone.exit_code)
    if not printed:
        terminal.note(view.silence(client.executions.get(exec_id), checkpoint))


@app.command("retry")
@placed("executions.retry")
def retry(
    at: Place,
    exec_id: ExecArgument,
    wait: WaitOption = False,
    timeout: TimeoutOption = None,
) -> None:
    """Try a failed execution again; finished checkpoints are kept.

    For an execution that failed: after the outage is over, or the data is mended. It stays the same execution, on the
    version that it started with; one that began from source runs here, in this process, on what the code is now. To go
    on with one that was answered, interrupted or whose runner died, use resume; to run it on new code or with other
    inputs, replay.

    Of the checkpoints that failed, those run again by which the flow failed: whose error left its body, or is what that
    error was raised from, or while handling. Where the body raised an error of its own, apart from theirs, all that
    failed run again. Any other failure that the body caught stays, and is met again.
    """
    client = at.connect()
    _go_on(client, client.executions.retry(exec_id), wait=wait, timeout=timeout)


@app.command("resume")
@placed("executions.resume")
def resume(
    at: Place,
    exec_id: ExecArgument,
    wait: WaitOption = False,
    timeout: TimeoutOption = None,
) -> None:
    """Go on with one that nobody runs; finished checkpoints are kept.

    For an execution that nobody runs: it is lost (its process died or was interrupted), or its wait was answered with
    --no-resume. It works for a failed one, too, as retry does; one that still waits needs its answer first
    (kitaru executions input).

    An execution of a deployed version goes on in the background, on any machine. One that began from source (kitaru
    run, or .run()) runs here, in this process, to its end, from the folder where it began, on what the code is now.
    """
    client = at.connect()
    _go_on(client, client.executions.resume(exec_id), wait=wait, timeout=timeout)


def _go_on(client: Any, handle: Any, *, wait: bool, timeout: float | None) -> None:
    here = client.executions.get(handle.exec_id).origin == "run"
    if wait or here:
        terminal.note(f"{handle.exec_id} goes on{', in this process, as it began from source' if here else ''}")
        _finish(client, handle, timeout)
    else:
        terminal.item({"exec_id": handle.exec_id}, [handle.exec_id])
        terminal.note(f"it goes on; follow it: kitaru executions logs {handle.exec_id} --follow")
