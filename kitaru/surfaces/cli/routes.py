"""Commands that move routes: flow tag, flow untag, flow deployments delete, promote, rollback."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer

from kitaru.errors import KitaruUsageError
from kitaru.surfaces.cli.consumer import deployments_app, flow_app
from kitaru.surfaces.cli.deploy import ManifestOnly, MessageOption, NoManifest, manifest_mode
from kitaru.surfaces.cli.options import (
    ManifestOption,
    OutputOption,
    ProjectOption,
    StoreOption,
    TargetOption,
    connect,
)
from kitaru.surfaces.cli.suggestions import command_line, place_options
from kitaru.surfaces.cli.terminal import Output, progress, terminal

FlowArgument = Annotated[str, typer.Argument(help="The flow's name.")]
TagArgument = Annotated[str, typer.Argument(help="The tag.")]
OneVersion = Annotated[int, typer.Option("--version", min=1, help="The version.")]


@flow_app.command("tag")
def flow_tag(
    flow: FlowArgument,
    tag: TagArgument,
    version: OneVersion,
    exclusive: Annotated[
        bool, typer.Option("--exclusive", help="The tag leads to this version alone; else it is a shared label.")
    ] = False,
    message: MessageOption = "",
    manifest_only: ManifestOnly = False,
    no_manifest: NoManifest = False,
    store: StoreOption = None,
    project: ProjectOption = None,
    manifest: ManifestOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.text,
) -> None:
    """Lead a tag to a version."""
    client = connect("flow.tag", output, store=store, project=project, manifest=manifest, target=target)
    mode = manifest_mode(manifest_only, no_manifest)
    done = client.deployments.tag(flow, tag, version=version, exclusive=exclusive, manifest=mode, message=message)
    _show(done, mode)


@flow_app.command("untag")
def flow_untag(
    flow: FlowArgument,
    tag: TagArgument,
    version: Annotated[
        int | None, typer.Option("--version", min=1, help="Only off this version. Default: off all of them.")
    ] = None,
    message: MessageOption = "",
    manifest_only: ManifestOnly = False,
    no_manifest: NoManifest = False,
    store: StoreOption = None,
    project: ProjectOption = None,
    manifest: ManifestOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.text,
) -> None:
    """Take a tag off a version, or remove the route. Never default."""
    client = connect("flow.untag", output, store=store, project=project, manifest=manifest, target=target)
    mode = manifest_mode(manifest_only, no_manifest)
    _show(client.deployments.untag(flow, tag, version=version, manifest=mode, message=message), mode)


@deployments_app.command("delete")
def deployments_delete(
    flow: FlowArgument,
    version: OneVersion,
    message: MessageOption = "",
    no_manifest: NoManifest = False,
    store: StoreOption = None,
    project: ProjectOption = None,
    manifest: ManifestOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.text,
) -> None:
    """Delete a version that no exclusive tag leads to. Its number stays taken; executions of it go on."""
    client = connect("flow.deployments.delete", output, store=store, project=project, manifest=manifest, target=target)
    done = client.deployments.delete(
        flow, version=version, manifest="leave" if no_manifest else "edit", message=message
    )
    view = _view(done)
    terminal.item(view.delete_data(done), view.delete_lines(done, terminal.style))


def promote(
    flow: FlowArgument,
    source: Annotated[str, typer.Argument(metavar="FROM", help="The tag whose version is promoted.")],
    to: Annotated[str, typer.Option("--to", help="The tag that is to lead there.")],
    message: MessageOption = "",
    manifest_only: ManifestOnly = False,
    no_manifest: NoManifest = False,
    store: StoreOption = None,
    project: ProjectOption = None,
    manifest: ManifestOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.text,
) -> None:
    """Lead a tag to the version that another tag leads to."""
    client = connect("promote", output, store=store, project=project, manifest=manifest, target=target)
    mode = manifest_mode(manifest_only, no_manifest)
    _show(client.deployments.promote(flow, source, to=to, manifest=mode, message=message), mode)


def rollback(
    flow: FlowArgument,
    tag: Annotated[str, typer.Argument(help="The route.")] = "default",
    to: Annotated[int, typer.Option("--to", help="The version, or -1: where the route led before its last move.")] = -1,
    write: Annotated[bool, typer.Option("--write", help="Make the manifest's edit, instead of printing it.")] = False,
    message: MessageOption = "",
    manifest_only: ManifestOnly = False,
    no_manifest: NoManifest = False,
    store: StoreOption = None,
    project: ProjectOption = None,
    manifest: ManifestOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.text,
) -> None:
    """Lead a route back at once, and hold it there until the manifest agrees."""
    client = connect("rollback", output, store=store, project=project, manifest=manifest, target=target)
    if to < 1 and to != -1:
        raise KitaruUsageError(f"--to {to}: expected a version, or -1", hint=f"kitaru flow deployments list {flow}")
    mode = manifest_mode(manifest_only, no_manifest)
    done = client.deployments.rollback(flow, tag, to=to, write=write, manifest=mode, message=message)
    view = _view(done)
    if mode == "only":
        terminal.item(view.route_data(done), view.proposal_lines(done, terminal.style))
        return
    lines = view.rollback_lines(done, terminal.style)
    if done.held:
        again = command_line("kitaru history", flow, *place_options(store, project, manifest, target))
        lines = [*lines, "", f"who moved what: {again}"]
    terminal.item(view.route_data(done), lines)


def _show(done: Any, mode: str) -> None:
    view = _view(done)
    lines = view.proposal_lines(done, terminal.style) if mode == "only" else view.route_lines(done, terminal.style)
    terminal.item(view.route_data(done), lines)


def _view(done: Any) -> Any:
    """The view of what was done; what is worth a word beside it is said."""
    progress.close()
    view = import_module("kitaru.surfaces.views.deploy_text")
    for line in view.manifest_notes(done.manifest):
        terminal.note(line)
    return view
