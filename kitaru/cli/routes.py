"""Commands that move routes: flow tag, flow untag, flow deployments delete, promote, rollback."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kitaru.cli.consumer import deployments_app, flow_app
from kitaru.cli.options import (
    FlowArgument,
    ManifestOnly,
    MessageOption,
    NoManifest,
    Place,
    TagArgument,
    command_line,
    placed,
)
from kitaru.cli.producer import manifest_mode
from kitaru.cli.terminal import progress, terminal
from kitaru.errors import KitaruUsageError
from kitaru.model.route import DEFAULT_TAG

OneVersion = Annotated[int, typer.Option("--version", metavar="N", min=1, help="The version.")]


@flow_app.command("tag")
@placed("flow.tag")
def flow_tag(
    at: Place,
    flow: FlowArgument,
    tag: TagArgument,
    version: OneVersion,
    exclusive: Annotated[
        bool, typer.Option("--exclusive", help="The tag leads to this version alone; else it is a shared label.")
    ] = False,
    message: MessageOption = "",
    manifest_only: ManifestOnly = False,
    no_manifest: NoManifest = False,
) -> None:
    """Lead a tag to a version."""
    client = at.connect()
    mode = manifest_mode(manifest_only, no_manifest)
    done = client.deployments.tag(flow, tag, version=version, exclusive=exclusive, manifest=mode, message=message)
    _show(done, mode)


@flow_app.command("untag")
@placed("flow.untag")
def flow_untag(
    at: Place,
    flow: FlowArgument,
    tag: TagArgument,
    version: Annotated[
        int | None,
        typer.Option("--version", metavar="N", min=1, help="Only off this version. Default: off all of them."),
    ] = None,
    message: MessageOption = "",
    manifest_only: ManifestOnly = False,
    no_manifest: NoManifest = False,
) -> None:
    """Take a tag off a version, or remove the route. Never default."""
    client = at.connect()
    mode = manifest_mode(manifest_only, no_manifest)
    _show(client.deployments.untag(flow, tag, version=version, manifest=mode, message=message), mode)


@deployments_app.command("delete")
@placed("flow.deployments.delete")
def deployments_delete(
    at: Place,
    flow: FlowArgument,
    version: OneVersion,
    message: MessageOption = "",
    no_manifest: NoManifest = False,
) -> None:
    """Delete a version that no exclusive tag leads to. Its number stays taken; executions of it go on."""
    client = at.connect()
    done = client.deployments.delete(
        flow, version=version, manifest="leave" if no_manifest else "edit", message=message
    )
    view = _view(done)
    terminal.item(view.delete_data(done), view.delete_lines(done, terminal.style))


@placed("promote")
def promote(
    at: Place,
    flow: FlowArgument,
    source: Annotated[str, typer.Argument(metavar="FROM", help="The tag whose version is promoted.")],
    to: Annotated[str, typer.Option("--to", metavar="TAG", help="The tag that is to lead there.")],
    message: MessageOption = "",
    manifest_only: ManifestOnly = False,
    no_manifest: NoManifest = False,
) -> None:
    """Lead a tag to the version that another tag leads to."""
    client = at.connect()
    mode = manifest_mode(manifest_only, no_manifest)
    _show(client.deployments.promote(flow, source, to=to, manifest=mode, message=message), mode)


@placed("rollback")
def rollback(
    at: Place,
    flow: FlowArgument,
    tag: Annotated[str, typer.Argument(metavar="TAG", help="The route.")] = DEFAULT_TAG,
    to: Annotated[int, typer.Option("--to", metavar="N", help="The version, or -1: one further back than now.")] = -1,
    write: Annotated[bool, typer.Option("--write", help="Make the manifest's edit, instead of printing it.")] = False,
    message: MessageOption = "",
    manifest_only: ManifestOnly = False,
    no_manifest: NoManifest = False,
) -> None:
    """Lead a route back at once, and hold it there. Plan and apply leave it alone until the manifest agrees."""
    client = at.connect()
    if to < 1 and to != -1:
        raise KitaruUsageError(f"--to {to}: expected a version, or -1", hint=f"kitaru flow deployments list {flow}")
    mode = manifest_mode(manifest_only, no_manifest)
    done = client.deployments.rollback(flow, tag, to=to, write=write, manifest=mode, message=message)
    view = _view(done)
    if mode == "only":
        terminal.item(view.route_data(done), view.proposal_lines(done, terminal.style))
        return
    # With the number: --write alone would roll back once more.
    route = [flow, *([tag] if tag != DEFAULT_TAG else [])]
    single = done.version is not None
    again = command_line("kitaru rollback", *route, "--to", str(done.version), "--write", *at.options) if single else ""
    lines = view.rollback_lines(done, terminal.style, write=again)
    if done.held:
        again = command_line("kitaru history", flow, *at.options)
        lines = [*lines, "", f"who moved what: {again}"]
    terminal.item(view.route_data(done), lines)


def _show(done: Any, mode: str) -> None:
    view = _view(done)
    lines = view.proposal_lines(done, terminal.style) if mode == "only" else view.route_lines(done, terminal.style)
    terminal.item(view.route_data(done), lines)


def _view(done: Any) -> Any:
    """The view of what was done; what is worth a word beside it is said."""
    progress.close()
    from kitaru.cli.views import deployments as view

    for line in view.manifest_notes(done.manifest):
        terminal.note(line)
    return view
