"""The consumer's commands: run, invoke, flow list, flow deployments list and show."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from kitaru.cli.options import (
    FlowArgument,
    InputOption,
    Place,
    TagOption,
    TimeoutOption,
    VersionOption,
    WaitOption,
    parse_inputs,
    placed,
)
from kitaru.cli.terminal import LiveLine, progress, terminal
from kitaru.errors import KitaruError, KitaruFeatureNotAvailableError, KitaruSelectorError, KitaruValueError
from kitaru.model.route import DEFAULT_TAG

StackOption = Annotated[
    str | None, typer.Option("--stack", metavar="NAME", help="The stack to run on, instead of the flow's own.")
]
NoCacheOption = Annotated[
    bool, typer.Option("--no-cache", help="Compute every checkpoint, also where an earlier execution has its result.")
]
RetriesOption = Annotated[
    int | None, typer.Option("--retries", metavar="N", min=0, help="How often a failed run is tried again.")
]

KeyOption = Annotated[
    str | None, typer.Option("--idempotency-key", metavar="KEY", help="The same key leads to the same execution.")
]
FollowOption = Annotated[bool, typer.Option("--follow", help="Show what it prints, until it ends.")]


@placed("run")
def run(
    at: Place,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="path/to/file.py:flow, or package.module:flow.")],
    inputs: InputOption = None,
    stack: StackOption = None,
    retries: RetriesOption = None,
    no_cache: NoCacheOption = False,
) -> None:
    """Run a flow from source, here and now. Makes no version; works without a manifest or Git."""
    client = at.connect()
    given = parse_inputs(inputs)
    flow = client.executions.load(target)
    cache = False if no_cache else None
    handle = client.executions.run(flow, flow.bind((), given), stack=stack, retries=retries, cache=cache)
    if not terminal.json:
        terminal.note(f"{handle.exec_id} runs {flow.name} from {target}")
    _finish(client, handle, None)


@placed("invoke")
def invoke(
    at: Place,
    flow: FlowArgument,
    inputs: InputOption = None,
    tag: TagOption = None,
    version: VersionOption = None,
    wait: WaitOption = False,
    follow: FollowOption = False,
    timeout: TimeoutOption = None,
    idempotency_key: KeyOption = None,
    stack: StackOption = None,
    no_cache: NoCacheOption = False,
) -> None:
    """Run a released version, by flow name and route. Needs no source."""
    client = at.connect()
    handle = client.deployments.invoke(
        flow,
        parse_inputs(inputs),
        tag=tag,
        version=version,
        stack=stack,
        cache=False if no_cache else None,
        idempotency_key=idempotency_key,
    )
    progress.close()
    started = handle.invoked
    assert started is not None
    status = handle.status if started.reused else "pending"
    if not (wait or follow):
        terminal.item({**_started_data(started), "status": status}, [started.exec_id])
        then = AFTERWARDS[status].format(exec_id=started.exec_id)
        terminal.note(f"{_chosen(started, status)}\n{terminal.dim(terminal.located(then))}")
        return
    terminal.note(f"{started.exec_id} {_chosen(started, status)}")
    if follow:
        from kitaru.cli.views import executions as view

        for line in handle.logs(follow=True):
            print(view.log_line(line), file=sys.stderr)
    _finish(client, handle, timeout)


def _started_data(started: Any) -> dict[str, Any]:
    return {name: getattr(started, name) for name in ("exec_id", "flow", "version", "tag", "reused")}


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


def _chosen(started: Any, status: str) -> str:
    if started.reused:
        return f"is the execution that this idempotency key of {started.flow} led to before; it is {status}"
    route = f" by {started.tag}" if started.tag else ""
    return f"runs {started.flow} v{started.version}{route}"


def _finish(client: Any, handle: Any, timeout: float | None) -> None:
    """Wait, then show the result; an execution that failed is shown as such, with exit code 1."""
    from kitaru.cli.views import executions as waits

    live = LiveLine(quiet=terminal.json)
    value, unread = None, None

    def tell(execution: Any) -> None:
        live.give_way()
        terminal.note("\n".join(waits.waiting_lines(execution)))

    handle.tell_of_waits(tell)
    if live.on:
        from kitaru.cli.views import executions as view

        handle.tell_of_progress(
            lambda execution: live.show(lambda: view.progress_line(execution, width=live.room)), live.give_way
        )
    try:
        try:
            value = handle.wait(timeout, as_plain=True)
        finally:
            live.give_way()
    except KeyboardInterrupt:
        terminal.interrupted = True
        if handle.runs_here:
            terminal.advise(
                f"\nstopped; finished calls are kept. Go on with it: kitaru executions resume {handle.exec_id}"
            )
        else:
            terminal.advise(f"\nno longer waiting; look: kitaru executions get {handle.exec_id}")
        raise typer.Exit(130) from None
    except (KitaruValueError, KitaruFeatureNotAvailableError) as error:
        if client.executions.get(handle.exec_id).status != "completed":
            raise
        unread = error  # a frame, say, where its library is not installed: the execution is none the worse for it
    except KitaruError as error:
        if not hasattr(error, "failure_origin"):
            raise
        _show_failure(client, handle, error)
        raise typer.Exit(error.exit_code) from None
    execution = client.executions.get(handle.exec_id)
    if unread is not None:
        terminal.note(f"it completed; its result can't be shown here: {unread.message}\nhint: {unread.hint}")
    if terminal.json:
        problem = {"result_error": unread.message} if unread is not None else {}
        terminal.item({**execution.summary(), "result": value, **problem})
    elif unread is None:
        from kitaru.cli.views import executions as view

        terminal.raw(view.result_text(value))


def _show_failure(client: Any, handle: Any, error: KitaruError) -> None:
    if terminal.json:
        terminal.error(error)
        return
    from kitaru.cli.views import executions as view

    execution = client.executions.get(handle.exec_id)
    if execution.status == "cancelled":
        terminal.note(f"{execution.flow_name} was {view.cancelled_line(execution)}")
    elif execution.status == "failed":
        terminal.note(f"{execution.flow_name} failed ({execution.exec_id}):")
    else:
        terminal.error(error)
        return
    for line in view.failure_lines(execution):
        terminal.note(line)
    terminal.advise(f"hint: kitaru executions get {handle.exec_id}")


flow_app = typer.Typer(help="Flows of the project, their versions and routes.", no_args_is_help=True)
deployments_app = typer.Typer(help="Released versions of a flow.", no_args_is_help=True)
flow_app.add_typer(deployments_app, name="deployments")


@flow_app.command("list")
@placed("flow.list")
def flow_list(
    at: Place,
) -> None:
    """List the project's flows and their routes."""
    client = at.connect()
    flows = client.deployments.flows()
    from kitaru.cli.views import deployments as view

    project, store = client.session.project, client.session.store.url
    if not flows:
        terminal.note(client.session.place)
    terminal.items(flows, view.flow_rows(flows, project, store, terminal.style, terminal.room))


@deployments_app.command("list")
@placed("flow.deployments.list")
def deployments_list(
    at: Place,
    flow: FlowArgument,
) -> None:
    """List the versions of a flow; * marks exclusive tags."""
    client = at.connect()
    found = client.deployments.list(flow)
    from kitaru.cli.views import deployments as view

    terminal.items(found, view.deployment_rows(found, terminal.style))


@deployments_app.command("show")
@placed("flow.deployments.show")
def deployments_show(
    at: Place,
    flow: FlowArgument,
    tag: TagOption = None,
    version: VersionOption = None,
) -> None:
    """Show one version: its source, image, inputs and tags. Default: the one that default leads to."""
    from kitaru.cli.views import deployments as view
    from kitaru.cli.views.plan import deployment_data

    client = at.connect()
    try:
        found = client.deployments.get(flow, tag=tag, version=version)
    except KitaruSelectorError:
        shown = tag or DEFAULT_TAG
        sharing = [one.version for one in client.deployments.list(flow) if shown in one.tags]
        if version is not None or len(sharing) < 2:
            raise
        several = [client.deployments.get(flow, version=one) for one in sharing]
        lines = view.shared_lines(flow, shown, several, at.options, terminal.style)
        terminal.item(view.shared_data(flow, shown, several) if terminal.json else {}, lines)
        return
    terminal.item(deployment_data(found) if terminal.json else {}, view.deployment_lines(found, terminal.style))
