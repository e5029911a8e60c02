"""The commands that reach into an execution from outside: input, cancel, replay."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any

import typer

from kitaru.cli.consumer import _finish
from kitaru.cli.executions import ExecArgument, app
from kitaru.cli.options import (
    Place,
    TimeoutOption,
    VersionOption,
    WaitOption,
    parse_inputs,
    placed,
)
from kitaru.cli.terminal import terminal
from kitaru.errors import KitaruError, KitaruUsageError, KitaruWaitValidationError
from kitaru.model.json_text import KeyGivenTwice, parse_json
from kitaru.model.one_line import shown_line
from kitaru.model.wait import told_apart

SETTLES_WITHIN = 5.0
"""Seconds that a runner has for taking an answer before its status is told."""

VERDICT_WITHIN = 2.5
"""Seconds to stay for a refusal, where nothing else is told: a runner looks for answers at least every two."""

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
    terminal.note(f"answered; {following if stands else f'it goes on: kitaru executions get {exec_id}'}")


def _must_not_be_refused(execution: Any, asked: Any) -> None:
    """``KitaruWaitValidationError`` where the runner put this answer aside."""
    for wait in execution.open_waits:
        if wait.wait_id == asked.wait_id and len(wait.refused) > len(asked.refused):
            raise KitaruWaitValidationError(
                f"the answer to {wait.name!r} was put aside by its flow, which waits on: {wait.refused[-1].reason}",
                hint=f"kitaru executions input {execution.exec_id} --wait {wait.wait_id} --value JSON",
            )


def _settled(client: Any, exec_id: str, asked: Any, within: float = SETTLES_WITHIN) -> Any:
    """The execution once it has taken what was said to the wait ``asked``, or put it aside, or after a few seconds."""
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
    view = import_module("kitaru.cli.views.waits_text")
    return "".join(f"\n{line}" for line in view.wait_lines(waits))


def _ask(client: Any, exec_id: str, name: str | None) -> Any:
    """The answer that somebody types: asked again, three times, while it doesn't fit."""
    wait = client.executions.pending_wait(exec_id, wait=name)
    view = import_module("kitaru.cli.views.waits_text")
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
    """``before``: what stands between the option and its value where it is typed."""
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
    """Cancel an execution. Its runner is asked, then ended; what finished stays recorded."""
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

    What it finished before that checkpoint or wait is reused, the rest runs anew. With other inputs (--args), given
    results (--override) or other code (--version), a call before that point is reused where its own inputs are
    those recorded; else it runs anew. --dry-run says what is certain and what is not. From a wait, the question is
    asked again, unless --override wait.NAME=JSON answers it.

    A version runs in the background. What began from source runs here, in this process, on what the code is now.
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
        view = import_module("kitaru.cli.views.waits_text")
        terminal.item(plan, view.replay_rows(plan, terminal.style, width=terminal.room or view.WIDTH))
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
    terminal.note(f"it replays {exec_id}; follow it: kitaru executions logs {handle.exec_id} --follow")


def _tell_unused(client: Any, exec_id: str, *, given: bool) -> None:
    """What was given and had no effect; nothing is said where that can't be looked up."""
    if not given:
        return
    with suppress(KitaruError):
        execution = client.executions.get(exec_id)
        if execution.unused_overrides:
            terminal.note(import_module("kitaru.cli.views.executions_text").unused_line(execution))


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
