"""The commands that run flows, and those about executions."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from kitaru.cli.options import (
    FlowArgument,
    Options,
    TagOption,
    VersionOption,
    argument,
    command,
    option,
    parse_argument,
    parse_inputs,
)
from kitaru.cli.terminal import json_text, live_line, terminal, write_whole
from kitaru.errors import (
    KitaruError,
    KitaruFeatureNotAvailableError,
    KitaruStateError,
    KitaruUsageError,
    KitaruValueError,
    KitaruWaitValidationError,
)
from kitaru.model.execution import STATUSES, told_apart
from kitaru.model.jsonable import shown_line

ExecArgument = Annotated[str, argument("EXEC_ID", "The execution's id, or an end of it that is its alone.")]
NoCacheOption = Annotated[
    bool, option("--no-cache", "Compute every checkpoint, also where an earlier execution has its result.")
]


@command("run", "inputs", "stack")
def run(
    at: Options,
    target: Annotated[str, argument("TARGET", "path/to/file.py:flow, or package.module:flow.")],
    retries: Annotated[int | None, option("--retries N", "How often a failed run is tried again.", min=0)] = None,
    no_cache: NoCacheOption = False,
) -> None:
    """Run a flow from source, here and now. Makes no version; works without a manifest or Git."""
    client = at.connect()
    given = parse_inputs(at.inputs) or {}
    flow = client.executions.load(target)
    cache = False if no_cache else None
    handle = client.executions.run(flow, flow.bind((), given), stack=at.stack, retries=retries, cache=cache)
    if not terminal.json:
        terminal.note(f"{handle.exec_id} runs {flow.name} from {target}")
    _finish(client, handle)


@command("invoke", "inputs", "stack", "wait", "timeout")
def invoke(
    at: Options,
    flow: FlowArgument,
    tag: TagOption = None,
    version: VersionOption = None,
    follow: Annotated[bool, option("--follow", "Show what it prints, until it ends.")] = False,
    idempotency_key: Annotated[
        str | None, option("--idempotency-key KEY", "The same key leads to the same execution.")
    ] = None,
    no_cache: NoCacheOption = False,
) -> None:
    """Run a released version, by flow name and route. Needs no source."""
    client = at.connect()
    handle = client.deployments.invoke(
        flow,
        parse_inputs(at.inputs),
        tag=tag,
        version=version,
        stack=at.stack,
        cache=False if no_cache else None,
        idempotency_key=idempotency_key,
    )
    started = handle.invoked
    assert started is not None
    status = handle.status if started.reused else "pending"
    route = f" by {started.tag}" if started.tag else ""
    words = f"runs {started.flow} v{started.version}{route}"
    if started.reused:
        words = f"is the execution that this idempotency key of {started.flow} led to before; it is {status}"
    if not (at.wait or follow):
        terminal.item(started, [started.exec_id], status=status)
        following = AFTERWARDS[status].format(exec_id=started.exec_id)
        terminal.note(f"{words}\n{terminal.dim(terminal.located(following))}")
        return
    terminal.note(f"{started.exec_id} {words}")
    if follow:
        from kitaru.cli.views import executions as view

        for line in handle.logs(follow=True):
            print(view.log_line(line), file=sys.stderr)
    _finish(client, handle, at.timeout)


AFTERWARDS = {
    "pending": "follow it: kitaru executions logs {exec_id} --follow",
    "running": "follow it: kitaru executions logs {exec_id} --follow",
    "waiting": "answer it: kitaru executions input {exec_id} --interactive",
    "completed": "its result: kitaru executions get {exec_id}",
    "failed": "go on with it: kitaru executions retry {exec_id}, or start afresh with another key",
    "lost": "go on with it: kitaru executions resume {exec_id}, or start afresh with another key",
    "cancelled": "it does not go on; start afresh with another key",
}
"""The next step for the execution that an invoke led to, by its status."""


def _finish(client: Any, handle: Any, timeout: float | None = None) -> None:
    """Wait, then show the result; an execution that failed is shown as such, with exit code 1."""
    from kitaru.cli.views import executions as view

    exec_id, value, unread = handle.exec_id, None, None
    handle.tell_of_waits(lambda execution: terminal.note("\n".join(view.waiting_lines(execution))))
    if live_line.on and not terminal.json:
        handle.tell_of_progress(
            lambda execution: live_line.show(lambda: view.progress_line(execution, width=live_line.room)),
            live_line.give_way,
        )
    try:
        value = handle.wait(timeout, as_plain=True)
    except KeyboardInterrupt:
        terminal.interrupted = True
        kept = f"stopped; finished calls are kept. Go on with it: kitaru executions resume {exec_id}"
        left = f"no longer waiting; look: kitaru executions get {exec_id}"
        terminal.advise(f"\n{kept if handle.runs_here else left}")
        raise typer.Exit(130) from None
    except (KitaruValueError, KitaruFeatureNotAvailableError) as error:
        if client.executions.get(exec_id).status != "completed":
            raise
        unread = error  # a frame, say, where its library is not installed: the execution is none the worse for it
    except KitaruError as error:
        if not hasattr(error, "failure_origin"):
            raise
        _show_failure(client.executions.get(exec_id), error)
        raise typer.Exit(error.exit_code) from None
    execution = client.executions.get(exec_id)
    _note_unused(execution)
    if unread is not None:
        terminal.note(f"it completed; its result can't be shown here: {unread.message}\nhint: {unread.hint}")
    if terminal.json:
        problem = {"result_error": unread.message} if unread is not None else {}
        terminal.item(execution.summary(), result=value, **problem)
    elif unread is None:
        terminal.raw(view.result_text(value))


def _show_failure(execution: Any, error: KitaruError) -> None:
    from kitaru.cli.views import executions as view

    if terminal.json or execution.status not in ("cancelled", "failed"):
        terminal.error(error)
        return
    end = f"failed ({execution.exec_id}):" if execution.status == "failed" else f"was {view.cancelled_line(execution)}"
    for line in (f"{execution.flow_name} {end}", *view.failure_lines(execution)):
        terminal.note(line)
    terminal.advise(f"hint: kitaru executions get {execution.exec_id}")
    _note_unused(execution)


def _note_unused(execution: Any) -> None:
    from kitaru.cli.views import executions as view

    if execution.unused_overrides:
        terminal.note(view.unused_line(execution))


@command("executions list")
def list_(
    at: Options,
    flow: Annotated[str | None, option("--flow NAME", "Only of this flow.")] = None,
    status: Annotated[
        list[str] | None,
        option("--status STATUS", f"Only these, given again or with commas between: {', '.join(STATUSES)}."),
    ] = None,
    tag: Annotated[str | None, option("--tag TAG", "Only those that this tag led to.")] = None,
    version: Annotated[int | None, option("--version N", "Only of this version.", min=1)] = None,
    since: Annotated[str | None, option("--since TIME", "Only later ones: 2d (ago), 12h, 2026-11-30.")] = None,
    until: Annotated[str | None, option("--until TIME", "Only earlier ones.")] = None,
    limit: Annotated[int, option("--limit N", "At most so many.", min=1)] = 20,
) -> None:
    """List executions, newest first."""
    from kitaru.cli.views import executions as view

    client = at.connect()
    statuses = [one.strip() for text in status or () for one in text.split(",")]
    found = client.executions.list(
        flow=flow, status=statuses or None, tag=tag, version=version, since=since, until=until, limit=limit
    )
    answered = client.executions.answered(found)
    filters: list[str] = []
    if not found:
        if client.executions.list(limit=1):
            asked = {"flow": flow, "status": ",".join(statuses), "tag": tag, "version": version}
            asked |= {"since": since, "until": until}
            filters = [f"--{name} {value}" for name, value in asked.items() if value]
        else:
            terminal.note(client.session.place)
            if options := client.executions.elsewhere(flow=flow):
                terminal.note(f"hint: runs from before are in your own store: kitaru executions list {options}")
    terminal.items(
        [{**one.summary(), **({"answered": True} if one.exec_id in answered else {})} for one in found],
        lambda _: view.execution_rows(found, filters, width=terminal.room, answered=answered),
    )
    if len(found) == limit and not terminal.json:
        terminal.note(terminal.dim(f"the newest {limit}; more: --limit {limit * 5}"))


@command("executions get")
def get(
    at: Options,
    exec_id: ExecArgument,
    html: Annotated[Path | None, option("--html FILE", "Write everything to this file, as one page.")] = None,
    explain_cache: Annotated[
        bool, option("--explain-cache", "Say for each call why it was computed, or taken from the cache.")
    ] = False,
) -> None:
    """Show one execution. Its checkpoints over time, its result or failure."""
    from kitaru.cli.views import executions as view

    client = at.connect()
    execution = _with_answers(client, client.executions.get(exec_id))
    if explain_cache:
        reports = client.executions.explain_cache(execution.exec_id)
        calls = [one.to_json() for one in reports]
        terminal.item({"exec_id": execution.exec_id, "calls": calls}, lambda _: view.cache_lines(reports))
        return

    def read(value: Any) -> Any:
        try:
            return client.executions.value(value, "the value", as_plain=True)
        except (KitaruValueError, KitaruFeatureNotAvailableError) as error:  # the rest can be shown all the same
            return f"not shown: {error.message}"

    if html is not None:
        _write_page(client, execution, read, html)
        terminal.item(execution, [str(html)])
        return
    terminal.item(
        execution,
        lambda _: view.execution_lines(
            execution,
            read,
            width=terminal.width,
            plain=terminal.plain,
            alone=client.executions.left_alone(execution),
            silent=client.executions.silent_for(execution),
        ),
    )


def _with_answers(client: Any, execution: Any) -> Any:
    """The execution with its waits as answered, though no runner has taken the answers yet."""
    if execution.status != "waiting":
        return execution
    pending = {wait.wait_id for wait in client.executions.pending_waits(execution.exec_id)}
    waits = (
        replace(wait, status="answered") if wait.status == "open" and wait.wait_id not in pending else wait
        for wait in execution.waits
    )
    return replace(execution, waits=tuple(waits))


def _write_page(client: Any, execution: Any, read: Any, file: Path) -> None:
    from kitaru.cli.views.timeline import execution_page

    page = execution_page(
        execution,
        alone=client.executions.left_alone(execution),
        read=read,
        logs=client.executions.logs(execution.exec_id),
        artifacts=[one.record for one in client.artifacts.list(execution.exec_id)],
    )
    write_whole(file, page.encode("utf-8", "replace"), "--html")


@command("executions logs")
def logs(
    at: Options,
    exec_id: ExecArgument,
    follow: Annotated[bool, option("--follow", "Go on until the execution ends.")] = False,
    checkpoint: Annotated[str | None, option("--checkpoint NAME", "Only of this checkpoint, or call.")] = None,
    limit: Annotated[int | None, option("--limit N", "Only so many, the last ones.", min=1)] = None,
    grouped: Annotated[bool, option("--grouped", "One block a checkpoint.")] = False,
    verbose: Annotated[bool, option("--verbose,-v", "With time (UTC), stream, checkpoint, call and attempt.")] = False,
) -> None:
    """Print the output and the log of an execution.

    With -o json one JSON object a line.
    """
    from kitaru.cli.views import executions as view

    client = at.connect()
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
    for text in view.grouped(block, verbose=verbose):
        terminal.raw(text)
    if gone is not None:
        terminal.note(f"{gone.message}; go on with it: {terminal.located(gone.hint)}")
        raise typer.Exit(gone.exit_code)
    if not printed:
        terminal.note(view.silence(client.executions.get(exec_id), checkpoint))


@command("executions retry", "wait", "timeout")
def retry(at: Options, exec_id: ExecArgument) -> None:
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
    _go_on(client, client.executions.retry(exec_id), at)


@command("executions resume", "wait", "timeout")
def resume(at: Options, exec_id: ExecArgument) -> None:
    """Go on with one that has no runner; finished checkpoints are kept.

    For an execution without a runner: it is lost (its process died or was interrupted), or its wait was answered with
    --no-resume. It works for a failed one, too, as retry does; one that still waits needs its answer first
    (kitaru executions input).

    An execution of a deployed version goes on in the background, on any machine. One that began from source (kitaru
    run, or .run()) runs here, in this process, to its end, from the folder of its first run, on the present code.
    """
    client = at.connect()
    _go_on(client, client.executions.resume(exec_id), at)


def _go_on(client: Any, handle: Any, at: Options) -> None:
    if at.wait or handle.runs_here:
        here = ", in this process, as it began from source" if handle.runs_here else ""
        terminal.note(f"{handle.exec_id} goes on{here}")
        _finish(client, handle, at.timeout)
    else:
        terminal.item({"exec_id": handle.exec_id}, [handle.exec_id])
        terminal.advise(f"it goes on; follow it: kitaru executions logs {handle.exec_id} --follow")


@command("executions input")
def input_(
    at: Options,
    exec_id: ExecArgument,
    wait: Annotated[str | None, option("--wait NAME", "The wait's name. Default: the only pending one.")] = None,
    value: Annotated[str | None, option("--value JSON", "The answer, as JSON.")] = None,
    abort: Annotated[bool, option("--abort", "Decline to answer: the execution is cancelled.")] = False,
    interactive: Annotated[bool, option("--interactive,-i", "Show the question, and ask for the answer.")] = False,
    resume: Annotated[
        bool, option("--resume/--no-resume", "Go on at once where no runner polls for the answer.")
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
        raise _no_answer(client, exec_id, wait)
    asked = client.executions.pending_wait(exec_id, wait=wait)
    if abort:
        exec_id = client.executions.abort_wait(exec_id, wait=asked.wait_id).exec_id
        status = _settled(client, exec_id, asked).status
        terminal.item({"exec_id": exec_id, "wait": asked.name, "aborted": True, "status": status}, [exec_id])
        ended = "its execution is cancelled" if status == "cancelled" else "its runner is about to end"
        terminal.note(f"{asked.name!r} is declined, and {ended}")
        return
    answer = _ask(client, exec_id, asked) if interactive else _json(value or "", "--value")
    handle = client.executions.input(exec_id, wait=asked.wait_id, value=answer, resume=resume)
    exec_id = handle.exec_id
    if handle.runs_here:  # it began from source, and ends with this process
        terminal.note(f"{exec_id} goes on")
        _finish(client, handle)
        return
    stands = not resume and client.executions.get(exec_id).suspended_at is not None
    execution = client.executions.get(exec_id) if stands else _settled(client, exec_id, asked)
    for one in execution.open_waits:
        if one.wait_id == asked.wait_id and len(one.refused) > len(asked.refused):
            raise KitaruWaitValidationError(
                f"the answer to {asked.name!r} was put aside by its flow, which waits on: {one.refused[-1].reason}",
                hint=f"kitaru executions input {exec_id} --wait {asked.wait_id} --value JSON",
            )
    data = {"exec_id": exec_id, "wait": asked.name, "answered": True, "resumed": not stands}
    terminal.item({**data, "status": execution.status}, [exec_id])
    following = f"go on with it: kitaru executions resume {exec_id}"
    terminal.advise(f"answered; {following if stands else f'it goes on: kitaru executions get {exec_id}'}")


SETTLES_WITHIN = 5.0
"""Seconds that a runner has for taking an answer, or putting it aside, before its status is shown."""


def _settled(client: Any, exec_id: str, asked: Any) -> Any:
    """The execution once it has taken the answer to the wait ``asked``, or put it aside, or after a few seconds."""
    deadline = time.monotonic() + SETTLES_WITHIN
    while True:
        execution = client.executions.get(exec_id)
        still = any(
            wait.wait_id == asked.wait_id and len(wait.refused) == len(asked.refused) for wait in execution.open_waits
        )
        if not still or execution.ended or time.monotonic() >= deadline:
            return execution
        time.sleep(0.1)


def _no_answer(client: Any, exec_id: str, name: str | None) -> KitaruUsageError:
    from kitaru.cli.views import executions as view

    waits = client.executions.pending_waits(exec_id) if name is None else ()
    waits = waits or [client.executions.pending_wait(exec_id, wait=name)]
    chosen = f" --wait {told_apart(waits[0], waits)}" if len(waits) > 1 else ""
    return KitaruUsageError(
        "\n".join(["no answer was given", *view.wait_lines(waits)]),
        hint=f"kitaru executions input {exec_id}{chosen} --value JSON, or --interactive, or --abort to decline",
    )


def _ask(client: Any, exec_id: str, wait: Any) -> Any:
    """The answer that somebody types: asked again, three times, while it doesn't fit."""
    from kitaru.cli.views import executions as view

    for line in view.wait_lines([wait]):
        terminal.note(line)
    for _ in range(3):
        print(f"{shown_line(view.prompt(wait))}: ", end="", file=sys.stderr, flush=True)
        if not (line := sys.stdin.readline()):
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
    return parse_argument(text, option, f"""a text needs its quotes: {option}{before}'"yes, go on"'""")


@command("executions cancel")
def cancel(at: Options, exec_id: ExecArgument) -> None:
    """Cancel an execution. Its runner is asked, then ended; finished calls stay recorded."""
    execution = at.connect().executions.cancel(exec_id)
    terminal.item(execution.summary(), [execution.exec_id])
    terminal.note(f"{execution.flow_name} is cancelled")


@command("executions replay", "wait", "timeout")
def replay(
    at: Options,
    exec_id: ExecArgument,
    from_: Annotated[
        str, option("--from POINT", "The name of a checkpoint or wait, the id of a call, or its position from 1.")
    ],
    args: Annotated[
        str | None, option("--args JSON", "Inputs that replace the recorded ones: a JSON object, or @file.")
    ] = None,
    override: Annotated[
        list[str] | None,
        option("--override NAME=JSON", "checkpoint.NAME=JSON or wait.NAME=JSON: a result or an answer. Repeatable."),
    ] = None,
    version: VersionOption = None,
    tag: Annotated[str | None, option("--tag TAG", "Run the version that this route leads to.")] = None,
    dry_run: Annotated[bool, option("--dry-run", "Only say what would be reused and what run.")] = False,
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
        "args": parse_inputs(args, "--args"),
        "overrides": _overrides(override or ()),
        "version": version,
        "tag": tag,
    }
    if dry_run:
        from kitaru.cli.views import executions as view

        plan = client.executions.plan_replay(exec_id, **asked)
        terminal.item(plan, lambda _: view.replay_rows(plan, width=terminal.room or 80))
        return
    handle = client.executions.replay(exec_id, **asked)
    if at.wait or handle.runs_here:
        here = ", in this process, as that began from source" if handle.runs_here else ""
        terminal.note(f"{handle.exec_id} replays {exec_id}{here}")
        _finish(client, handle, at.timeout)
        return
    terminal.item({"exec_id": handle.exec_id, "original_exec_id": exec_id}, [handle.exec_id])
    terminal.advise(f"it replays {exec_id}; follow it: kitaru executions logs {handle.exec_id} --follow")


def _overrides(texts: Iterable[str]) -> dict[str, Any]:
    """``checkpoint.research={"facts": []}`` for each; of one name the last counts."""
    overrides = {}
    for text in texts:
        name, found, value = text.partition("=")
        if not found:
            raise KitaruUsageError(
                f"--override {text}: expected checkpoint.NAME=JSON or wait.NAME=JSON",
                hint="--override checkpoint.research='{\"facts\": []}'",
            )
        overrides[name] = _json(value, f"--override {name}", "=")
    return overrides
