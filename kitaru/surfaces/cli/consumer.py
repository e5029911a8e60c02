"""The consumer's commands: run, invoke, and what there is to invoke."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer

from kitaru.errors import KitaruError
from kitaru.surfaces.cli.options import (
    InputOption,
    ManifestOption,
    OutputOption,
    ProjectOption,
    StoreOption,
    TagOption,
    TargetOption,
    TimeoutOption,
    VersionOption,
    WaitOption,
    connect,
    parse_inputs,
)
from kitaru.surfaces.cli.terminal import LiveLine, Output, progress, terminal

StackOption = Annotated[str | None, typer.Option("--stack", help="The stack to run on, instead of the flow's own.")]
NoCacheOption = Annotated[
    bool, typer.Option("--no-cache", help="Compute every checkpoint, also where an earlier execution has its result.")
]
RetriesOption = Annotated[int | None, typer.Option("--retries", min=0, help="How often a failed run is tried again.")]


def run(
    target: Annotated[str, typer.Argument(help="path/to/file.py:flow, or package.module:flow.")],
    inputs: InputOption = None,
    stack: StackOption = None,
    retries: RetriesOption = None,
    no_cache: NoCacheOption = False,
    store: StoreOption = None,
    project: ProjectOption = None,
    manifest: ManifestOption = None,
    overlay: TargetOption = None,
    output: OutputOption = Output.text,
) -> None:
    """Run a flow from source, here and now. Makes no version; works without a manifest or Git."""
    client = connect("run", output, store=store, project=project, manifest=manifest, target=overlay)
    given = parse_inputs(inputs)
    flow = client.executions.load(target)
    cache = False if no_cache else None
    handle = client.executions.run(flow, flow.bind((), given), stack=stack, retries=retries, cache=cache)
    if not terminal.json:
        terminal.note(f"{handle.exec_id} runs {flow.name} from {target}")
    _finish(client, handle, None)


def invoke(
    flow: Annotated[str, typer.Argument(help="The flow's name.")],
    inputs: InputOption = None,
    tag: TagOption = None,
    version: VersionOption = None,
    wait: WaitOption = False,
    follow: Annotated[bool, typer.Option("--follow", help="Show what it prints, until it ends.")] = False,
    timeout: TimeoutOption = None,
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", help="The same key leads to the same execution.")
    ] = None,
    stack: StackOption = None,
    no_cache: NoCacheOption = False,
    store: StoreOption = None,
    project: ProjectOption = None,
    manifest: ManifestOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.text,
) -> None:
    """Run a released version, by flow name and route. Needs no source."""
    client = connect("invoke", output, store=store, project=project, manifest=manifest, target=target)
    started = client.deployments.start(
        flow,
        parse_inputs(inputs),
        tag=tag,
        version=version,
        stack=stack,
        cache=False if no_cache else None,
        idempotency_key=idempotency_key,
    )
    progress.close()
    handle = client.deployments.handle(started)
    status = handle.status if started.reused else "pending"
    if not (wait or follow):
        terminal.item({**_started_data(started), "status": status}, [started.exec_id])
        then = AFTERWARDS[status].format(exec_id=started.exec_id)
        terminal.note(f"{_chosen(started, status)}\n{terminal.dim(then)}")
        return
    terminal.note(f"{started.exec_id} {_chosen(started, status)}")
    if follow:
        view = import_module("kitaru.surfaces.views.logs_text")
        for line in handle.logs(follow=True):
            terminal.note(view.log_line(line))
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
"""What to do next with the execution that an invoke led to, by its status."""


def _chosen(started: Any, status: str) -> str:
    if started.reused:
        return f"is the execution that this idempotency key of {started.flow} led to before; it is {status}"
    route = f" by {started.tag}" if started.tag else ""
    return f"runs {started.flow} v{started.version}{route}"


def _finish(client: Any, handle: Any, timeout: float | None) -> None:
    """Wait, then show the result; an execution that failed is shown as such, with exit code 1."""
    waits = import_module("kitaru.surfaces.views.waits_text")
    live = LiveLine(quiet=terminal.json)

    def tell(execution: Any) -> None:
        live.give_way()
        terminal.note("\n".join(waits.waiting_lines(execution)))

    handle.tell_of_waits(tell)
    if live.on:
        view = import_module("kitaru.surfaces.views.progress_text")
        handle.tell_of_progress(
            lambda execution: live.show(lambda: view.progress_line(execution, width=live.room)), live.give_way
        )
    try:
        try:
            handle.wait(timeout)
        finally:
            live.give_way()
    except KeyboardInterrupt:
        terminal.interrupted = True
        if handle.runs_here:
            terminal.note(f"\nstopped; what finished is kept. Go on with it: kitaru executions resume {handle.exec_id}")
        else:
            terminal.note(f"\nno longer waiting; look: kitaru executions get {handle.exec_id}")
        raise typer.Exit(130) from None
    except KitaruError as error:
        if not hasattr(error, "failure_origin"):
            raise
        _show_failure(client, handle, error)
        raise typer.Exit(error.exit_code) from None
    execution = client.executions.get(handle.exec_id)
    value = client.executions.value(execution.output, "the result", as_plain=True)
    if terminal.json:
        terminal.item({**execution.summary(), "result": value})
    else:
        view = import_module("kitaru.surfaces.views.executions_text")
        terminal.lines([view.result_text(value)])


def _show_failure(client: Any, handle: Any, error: KitaruError) -> None:
    if terminal.json:
        terminal.error(error)
        return
    view = import_module("kitaru.surfaces.views.executions_text")
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
    terminal.note(f"hint: kitaru executions get {handle.exec_id}")


flow_app = typer.Typer(help="Flows of the project, their versions and routes.", no_args_is_help=True)
deployments_app = typer.Typer(help="Released versions of a flow.", no_args_is_help=True)
flow_app.add_typer(deployments_app, name="deployments")


@flow_app.command("list")
def flow_list(
    store: StoreOption = None,
    project: ProjectOption = None,
    manifest: ManifestOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.text,
) -> None:
    """List the project's flows and where their routes lead."""
    client = connect("flow.list", output, store=store, project=project, manifest=manifest, target=target)
    flows = client.deployments.flows()
    view = import_module("kitaru.surfaces.views.deployments_text")
    terminal.items(flows, view.flow_rows(flows, client.session.project, client.session.store.url, terminal.style))


@deployments_app.command("list")
def deployments_list(
    flow: Annotated[str, typer.Argument(help="The flow's name.")],
    store: StoreOption = None,
    project: ProjectOption = None,
    manifest: ManifestOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.text,
) -> None:
    """List the versions of a flow; * marks exclusive tags."""
    client = connect("flow.deployments.list", output, store=store, project=project, manifest=manifest, target=target)
    found = client.deployments.list(flow)
    view = import_module("kitaru.surfaces.views.deployments_text")
    terminal.items(found, view.deployment_rows(found, terminal.style))


@deployments_app.command("show")
def deployments_show(
    flow: Annotated[str, typer.Argument(help="The flow's name.")],
    tag: TagOption = None,
    version: VersionOption = None,
    store: StoreOption = None,
    project: ProjectOption = None,
    manifest: ManifestOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.text,
) -> None:
    """Show one version: its source, image, inputs and tags. Default: the one that default leads to."""
    client = connect("flow.deployments.show", output, store=store, project=project, manifest=manifest, target=target)
    found = client.deployments.get(flow, tag=tag, version=version)
    if terminal.json:
        terminal.item(import_module("kitaru.surfaces.views.plan_json").deployment_data(found))
    else:
        view = import_module("kitaru.surfaces.views.deployments_text")
        terminal.item(found, view.deployment_lines(found, terminal.style))
