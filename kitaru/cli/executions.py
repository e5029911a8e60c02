"""The commands about executions."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from kitaru import data_files
from kitaru.cli.consumer import _finish
from kitaru.cli.options import Place, TimeoutOption, VersionOption, WaitOption, parse_inputs, placed
from kitaru.cli.terminal import json_text, terminal, write_whole
from kitaru.errors import (
    KitaruError,
    KitaruFeatureNotAvailableError,
    KitaruStateError,
    KitaruUsageError,
    KitaruValueError,
    KitaruWaitValidationError,
)
from kitaru.model.execution import told_apart
from kitaru.model.jsonable import KeyGivenTwice, parse_json, shown_line

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
    tag: Annotated[str | None, typer.Option("--tag", metavar="TAG", help="Only those that this tag led to.")] = None,
    version: Annotated[int | None, typer.Option("--version", metavar="N", min=1, help="Only of this version.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Only later ones: 2d (ago), 12h, 2026-11-30.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Only earlier ones.")] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="At most so many.")] = 20,
) -> None:
    """List executions, newest first."""
    wanted = [one.strip() for text in status or () for one in text.split(",")]
    client = at.connect()
    found = client.executions.list(
        flow=flow, status=wanted or None, tag=tag, version=version, since=since, until=until, limit=limit
    )
    answered: set[str] = set()
    from kitaru.cli.views import executions as view

    if found:
        answered = client.executions.answered(found)
        lines = view.execution_rows(found, terminal.style, width=terminal.room, answered=answered)
    else:
        terminal.note(client.session.place)
        some = (flow or wanted or tag or version or since or until) and client.executions.list(limit=1)
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
        from kitaru.cli.views import executions as cache_view

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
    from kitaru.cli.views import executions as view

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
    """The execution with its waits as answered, though no runner has taken the answers yet."""
    if execution.status != "waiting":
        return execution
    pending = {wait.wait_id for wait in client.executions.pending_waits(execution.exec_id)}
    waits = [
        wait if wait.status != "open" or wait.wait_id in pending else replace(wait, status="answered")
        for wait in execution.waits
    ]
    return replace(execution, waits=tuple(waits))


def _write_page(client: Any, execution: Any, read: Any, file: Path) -> None:
    from kitaru.cli.views import page as view

    page = view.execution_page(
        execution,
        alone=client.executions.left_alone(execution),
        template=data_files.template("execution.html.j2"),
        read=read,
        logs=client.executions.logs(execution.exec_id),
        artifacts=[one.record for one in client.artifacts.list(execution.exec_id)],
    )
    try:
        write_whole(file, page.encode("utf-8", "replace"))
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
    """Print the output and the log of an execution.

    With -o json one JSON object a line.
    """
    from kitaru.cli.views import executions as view

    client = at.connect()
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
        terminal.note(f"{gone.message}; go on with it: {terminal.located(gone.hint)}")
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
    version that it started with; one that began from source runs here, in this process, on the present code. To go
    on with one that was answered, interrupted or lost its runner, use resume; to run it on new code or with other
    inputs, replay.

    Of the checkpoints that failed, those run again that made the flow fail: their error left its body, or is its cause
    or context. If the body raised an unrelated error of its own, all that failed run again. Any other failure that the
    body caught stays, and is met again.
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
    """Go on with one that has no runner; finished checkpoints are kept.

    For an execution without a runner: it is lost (its process died or was interrupted), or its wait was answered with
    --no-resume. It works for a failed one, too, as retry does; one that still waits needs its answer first
    (kitaru executions input).

    An execution of a deployed version goes on in the background, on any machine. One that began from source (kitaru
    run, or .run()) runs here, in this process, to its end, from the folder of its first run, on the present code.
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
        terminal.advise(f"it goes on; follow it: kitaru executions logs {handle.exec_id} --follow")


SETTLES_WITHIN = 5.0
"""Seconds that a runner has for taking an answer before its status is shown."""

VERDICT_WITHIN = 2.5
"""Seconds to stay for a refusal, if there is nothing else to show: a runner looks every two at least."""

PAUSE = 0.1


@app.command("input")
@placed("executions.input")
def input_(
    at: Place,
    exec_id: ExecArgument,
    wait: Annotated[
        str | None, typer.Option("--wait", metavar="NAME", help="The wait's name. Default: the only pending one.")
    ] = None,
    value: Annotated[str | None, typer.Option("--value", metavar="JSON", help="The answer, as JSON.")] = None,
    abort: Annotated[bool, typer.Option("--abort", help="Decline to answer: the execution is cancelled.")] = False,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Show the question, and ask for the answer.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on at once where no runner polls for the answer.")
    ] = True,
) -> None:
    """Answer a wait. The first answer counts; one that doesn't fit the schema leaves the execution waiting."""
    client = at.connect()
    ways = {"--value": value is not None, "--abort": abort, "--interactive": interactive}
    given = [name for name, chosen in ways.items() if chosen]
    if len(given) > 1:
        raise KitaruUsageError(
            f"{' and '.join(given)} exclude each other: an answer, or none", hint="leave out all but one of them"
        )
    if not given:
        waits = client.executions.pending_waits(exec_id) if wait is None else ()
        waits = waits or [client.executions.pending_wait(exec_id, wait=wait)]
        chosen = f" --wait {told_apart(waits[0], waits)}" if len(waits) > 1 else ""
        raise KitaruUsageError(
            f"no answer was given{_asked(waits)}",
            hint=f"kitaru executions input {exec_id}{chosen} --value JSON, or --interactive, or --abort to decline",
        )
    asked = client.executions.pending_wait(exec_id, wait=wait)
    if abort:
        handle = client.executions.abort_wait(exec_id, wait=asked.wait_id)
        status = _settled(client, handle.exec_id, asked).status
        data = {"exec_id": handle.exec_id, "wait": asked.name, "aborted": True, "status": status}
        terminal.item(data, [handle.exec_id])
        ended = "its execution is cancelled" if status == "cancelled" else "its runner is about to end"
        terminal.note(f"{asked.name!r} is declined, and {ended}")
        return
    answer = _ask(client, exec_id, asked.wait_id) if interactive else _json(value or "", "--value")
    handle = client.executions.input(exec_id, wait=asked.wait_id, value=answer, resume=resume)
    _after_answer(client, handle, asked, resume=resume)


def _after_answer(client: Any, handle: Any, asked: Any, *, resume: bool) -> None:
    """A run from source goes on in this process, which therefore stays to its end."""
    exec_id = handle.exec_id
    if handle.runs_here:
        terminal.note(f"{exec_id} goes on")
        _finish(client, handle, None)
        return
    stands = not resume and client.executions.get(exec_id).suspended_at is not None
    data = {"exec_id": exec_id, "wait": asked.name, "answered": True, "resumed": not stands}
    # The runner takes a moment to notice: a status from before that would deny the answer, and the answer may not do.
    within = SETTLES_WITHIN if terminal.json else VERDICT_WITHIN
    execution = client.executions.get(exec_id) if stands else _settled(client, exec_id, asked, within)
    _must_not_be_refused(execution, asked)
    data["status"] = execution.status
    terminal.item(data, [exec_id])
    following = f"go on with it: kitaru executions resume {exec_id}"
    terminal.advise(f"answered; {following if stands else f'it goes on: kitaru executions get {exec_id}'}")


def _must_not_be_refused(execution: Any, asked: Any) -> None:
    """``KitaruWaitValidationError`` if the runner put this answer aside."""
    for wait in execution.open_waits:
        if wait.wait_id == asked.wait_id and len(wait.refused) > len(asked.refused):
            raise KitaruWaitValidationError(
                f"the answer to {wait.name!r} was put aside by its flow, which waits on: {wait.refused[-1].reason}",
                hint=f"kitaru executions input {execution.exec_id} --wait {wait.wait_id} --value JSON",
            )


def _settled(client: Any, exec_id: str, asked: Any, within: float = SETTLES_WITHIN) -> Any:
    """The execution once it has taken the answer to the wait ``asked``, or put it aside, or after a few seconds."""
    deadline = time.monotonic() + within
    while True:
        execution = client.executions.get(exec_id)
        still = any(
            wait.wait_id == asked.wait_id and len(wait.refused) == len(asked.refused) for wait in execution.open_waits
        )
        if not still or execution.ended or time.monotonic() >= deadline:
            return execution
        time.sleep(PAUSE)


def _asked(waits: Any) -> str:
    from kitaru.cli.views import executions as view

    return "".join(f"\n{line}" for line in view.wait_lines(waits))


def _ask(client: Any, exec_id: str, name: str | None) -> Any:
    """The answer that somebody types: asked again, three times, while it doesn't fit."""
    wait = client.executions.pending_wait(exec_id, wait=name)
    from kitaru.cli.views import executions as view

    for line in view.wait_lines([wait]):
        terminal.note(line)
    for _ in range(3):
        print(f"{shown_line(view.prompt(wait))}: ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            break
        try:
            answer = view.read_typed(line.strip(), wait)
            client.executions.check_answer(wait, answer)
        except KitaruWaitValidationError as error:
            terminal.note(error.message)
            continue
        return answer
    raise KitaruUsageError(
        f"{wait.name!r} got no answer, and waits on",
        hint=f"kitaru executions input {exec_id} --wait {wait.wait_id} --interactive",
    )


def _json(text: str, option: str, before: str = " ") -> Any:
    """``before`` stands between the option and its value on the command line."""
    try:
        return parse_json(text)
    except KeyGivenTwice as error:
        raise KitaruUsageError(f"{option}: {error}", hint="keep one of the two") from error
    except ValueError as error:
        raise KitaruUsageError(
            f"{option} is not JSON: {error}", hint=f"""a text needs its quotes: {option}{before}'"yes, go on"'"""
        ) from error


@app.command("cancel")
@placed("executions.cancel")
def cancel(
    at: Place,
    exec_id: ExecArgument,
) -> None:
    """Cancel an execution. Its runner is asked, then ended; finished calls stay recorded."""
    client = at.connect()
    execution = client.executions.cancel(exec_id)
    terminal.item(execution.summary(), [execution.exec_id])
    terminal.note(f"{execution.flow_name} is cancelled")


FromOption = Annotated[
    str,
    typer.Option(
        "--from",
        metavar="POINT",
        help="The name of a checkpoint or wait, the id of a call, or its position from 1.",
    ),
]
ArgsOption = Annotated[
    str | None,
    typer.Option("--args", metavar="JSON", help="Inputs that replace the recorded ones: a JSON object, or @file."),
]
OverrideOption = Annotated[
    list[str] | None,
    typer.Option(
        "--override",
        metavar="NAME=JSON",
        help="checkpoint.NAME=JSON or wait.NAME=JSON: a result or an answer. Repeatable.",
    ),
]
RunTagOption = Annotated[
    str | None, typer.Option("--tag", metavar="TAG", help="Run the version that this route leads to.")
]


@app.command("replay")
@placed("executions.replay")
def replay(
    at: Place,
    exec_id: ExecArgument,
    from_: FromOption,
    args: ArgsOption = None,
    override: OverrideOption = None,
    version: VersionOption = None,
    tag: RunTagOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be reused and what run.")] = False,
    wait: WaitOption = False,
    timeout: TimeoutOption = None,
) -> None:
    """Run one again from a checkpoint on, as a new execution.

    Its calls before that checkpoint or wait are reused, the rest runs anew. With other inputs (--args), given
    results (--override) or other code (--version), a call before that point is reused if its own inputs are
    those recorded; else it runs anew. --dry-run lists the calls, and the uncertain ones. From a wait, the question is
    asked again, unless --override wait.NAME=JSON answers it.

    A version runs in the background. An execution from source runs here, in this process, on the present code.
    """
    client = at.connect()
    asked: dict[str, Any] = {
        "from_": from_,
        "args": parse_inputs(args, "--args") if args is not None else None,
        "overrides": _overrides(override or ()),
        "version": version,
        "tag": tag,
    }
    if dry_run:
        plan = client.executions.plan_replay(exec_id, **asked)
        from kitaru.cli.views import executions as view

        terminal.item(plan, view.replay_rows(plan, terminal.style, width=terminal.room or 80))
        return
    handle = client.executions.replay(exec_id, **asked)
    if wait or handle.runs_here:
        here = ", in this process, as that began from source" if handle.runs_here else ""
        terminal.note(f"{handle.exec_id} replays {exec_id}{here}")
        try:
            _finish(client, handle, timeout)
        finally:
            _tell_unused(client, handle.exec_id, given=bool(override))
        return
    terminal.item({"exec_id": handle.exec_id, "original_exec_id": exec_id}, [handle.exec_id])
    terminal.advise(f"it replays {exec_id}; follow it: kitaru executions logs {handle.exec_id} --follow")


def _tell_unused(client: Any, exec_id: str, *, given: bool) -> None:
    """The overrides without an effect, if they can be looked up."""
    if not given:
        return
    with suppress(KitaruError):
        execution = client.executions.get(exec_id)
        if execution.unused_overrides:
            from kitaru.cli.views.executions import unused_line

            terminal.note(unused_line(execution))


def _overrides(texts: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in map(_override, texts):
        if name in found and not _same(found[name], value):
            raise KitaruUsageError(
                f"--override {name} is given twice, as {json.dumps(found[name])} and as {json.dumps(value)}",
                hint="leave one of them out: every call of a checkpoint gets the same result",
            )
        found[name] = value
    return found


def _same(left: Any, right: Any) -> bool:
    """Whether the two are one JSON value: ``true`` is not 1."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


def _override(text: str) -> tuple[str, Any]:
    name, found, value = text.partition("=")
    if not found:
        raise KitaruUsageError(
            f"--override {text}: expected checkpoint.NAME=JSON or wait.NAME=JSON",
            hint="--override checkpoint.research='{\"facts\": []}'",
        )
    return name, _json(value, f"--override {name}", "=")
