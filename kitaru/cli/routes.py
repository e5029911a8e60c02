"""Commands that make versions and move routes: deploy, build, promote, rollback, flow tag, flow untag, delete."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kitaru.cli.consumer import deployments_app, flow_app
from kitaru.cli.options import (
    FlowArgument,
    InputOption,
    ManifestOnly,
    MessageOption,
    NoManifest,
    Place,
    TagArgument,
    YesOption,
    command_line,
    example_inputs,
    parse_inputs,
    placed,
)
from kitaru.cli.terminal import progress, terminal
from kitaru.errors import KitaruUsageError
from kitaru.model.jsonable import KeyGivenTwice, parse_json
from kitaru.model.route import DEFAULT_TAG

if TYPE_CHECKING:
    from kitaru.client.deployments import Released, Rerouted
    from kitaru.model.plan import FlowPlan
    from kitaru.model.snapshot import ImageSettings

OneVersion = Annotated[int, typer.Option("--version", metavar="N", min=1, help="The version.")]
FlowTarget = Annotated[
    str, typer.Argument(metavar="TARGET", help="path/to/file.py:flow, package.module:flow, or a flow of the manifest.")
]
ImageOption = Annotated[
    str | None,
    typer.Option(
        "--image", metavar="IMAGE", help="A base image, a JSON object of image settings, or @file with either."
    ),
]
DeployStack = Annotated[str | None, typer.Option("--stack", metavar="NAME", help="The stack that runs the version.")]
IMAGE_HINT = """--image python:3.12-slim, or --image '{"requirements": ["httpx"]}', or --image @image.json"""


@placed("deploy")
def deploy(
    at: Place,
    target: FlowTarget,
    inputs: InputOption = None,
    image: ImageOption = None,
    tag: Annotated[
        str | None, typer.Option("--tag", metavar="TAG", help="The one tag that the version gets. Default: default.")
    ] = None,
    exclusive: Annotated[bool, typer.Option("--exclusive", help="The tag leads to this version alone.")] = False,
    stack: DeployStack = None,
    message: MessageOption = "",
    manifest_only: ManifestOnly = False,
    no_manifest: NoManifest = False,
    yes: YesOption = False,
) -> None:
    """Make a new version of a flow, and lead one tag to it."""
    done = at.connect().deployments.release(
        target,
        parse_inputs(inputs) if inputs is not None else None,
        tag=DEFAULT_TAG if tag is None else tag,
        exclusive=exclusive,
        image=parse_image(image),
        stack=stack,
        manifest=manifest_mode(manifest_only, no_manifest),
        message=message,
        confirm=_asking(yes),
    )
    _show_release(done, at.options)


@placed("build")
def build(
    at: Place,
    target: FlowTarget,
    inputs: InputOption = None,
    image: ImageOption = None,
    stack: DeployStack = None,
    message: MessageOption = "",
    manifest_only: ManifestOnly = False,
    no_manifest: NoManifest = False,
) -> None:
    """Make a new version of a flow that no tag leads to."""
    done = at.connect().deployments.release(
        target,
        parse_inputs(inputs) if inputs is not None else None,
        image=parse_image(image),
        stack=stack,
        manifest=manifest_mode(manifest_only, no_manifest),
        message=message,
    )
    _show_release(done, at.options)


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
    yes: YesOption = False,
) -> None:
    """Lead a tag to a version."""
    mode = manifest_mode(manifest_only, no_manifest)
    deployments = at.connect().deployments
    _show_move(
        deployments.tag(
            flow, tag, version=version, exclusive=exclusive, manifest=mode, message=message, confirm=_asking(yes)
        ),
        mode,
    )


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
    mode = manifest_mode(manifest_only, no_manifest)
    _show_move(at.connect().deployments.untag(flow, tag, version=version, manifest=mode, message=message), mode)


@deployments_app.command("delete")
@placed("flow.deployments.delete")
def deployments_delete(
    at: Place,
    flow: FlowArgument,
    version: OneVersion,
    message: MessageOption = "",
    no_manifest: NoManifest = False,
    yes: YesOption = False,
) -> None:
    """Delete a version that no exclusive tag leads to. Its number stays taken; executions of it go on."""
    from kitaru.cli.views import deployments as view

    client = at.connect()
    again = command_line("kitaru flow deployments delete", flow, "--version", str(version), "--yes")

    def confirm(_plan: FlowPlan) -> None:
        progress.close()
        terminal.confirm(f"Delete v{version} of {flow}, for good?", again, yes=yes)

    mode: Literal["leave", "edit"] = "leave" if no_manifest else "edit"
    done = client.deployments.delete(flow, version=version, manifest=mode, message=message, confirm=confirm)
    _note_manifest(done)
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
    yes: YesOption = False,
) -> None:
    """Lead a tag to the version that another tag leads to."""
    mode = manifest_mode(manifest_only, no_manifest)
    deployments = at.connect().deployments
    _show_move(deployments.promote(flow, source, to=to, manifest=mode, message=message, confirm=_asking(yes)), mode)


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
    from kitaru.cli.views import deployments as view

    client = at.connect()
    if to < 1 and to != -1:
        raise KitaruUsageError(f"--to {to}: expected a version, or -1", hint=f"kitaru flow deployments list {flow}")
    mode = manifest_mode(manifest_only, no_manifest)
    done = client.deployments.rollback(flow, tag, to=to, write=write, manifest=mode, message=message)
    if mode == "only":
        _show_move(done, mode)
        return
    # With the number: --write alone would roll back once more.
    route = [flow, *([tag] if tag != DEFAULT_TAG else [])]
    single = done.version is not None
    again = command_line("kitaru rollback", *route, "--to", str(done.version), "--write", *at.options) if single else ""
    _note_manifest(done)
    lines = view.rollback_lines(done, terminal.style, write=again)
    if done.held:
        lines = [*lines, "", f"who moved what: {command_line('kitaru history', flow, *at.options)}"]
    terminal.item(view.route_data(done), lines)


# --- options ----------------------------------------------------------------------------------------------------------


def manifest_mode(manifest_only: bool, no_manifest: bool) -> Literal["edit", "only", "leave"]:
    """The mode of the two options. Raises ``KitaruUsageError`` if both are given."""
    if manifest_only and no_manifest:
        raise KitaruUsageError(
            "--manifest-only and --no-manifest exclude each other", hint="give neither to change store and manifest"
        )
    return "only" if manifest_only else "leave" if no_manifest else "edit"


def parse_image(text: str | None) -> ImageSettings | None:
    """``--image``: ``python:3.12-slim``, ``{"requirements": ["httpx"]}``, or ``@file`` with either.

    Raises ``KitaruUsageError`` with every member that is wrong.
    """
    if text is None:
        return None
    # Late: few commands are given an image, and its model takes time to make.
    from kitaru.client.arguments import asked_image

    return asked_image(_image_given(text), "--image")


def _image_given(text: str) -> str | dict[str, object]:
    source = "--image"
    if text.startswith("@"):
        source = text[1:]
        try:
            text = Path(source).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise KitaruUsageError(f"{source} can't be read: {error}", hint="--image @image.json") from error
    text = text.strip()
    if not text:
        raise KitaruUsageError(f"{source} holds no image", hint=IMAGE_HINT)
    if text[0] not in '{["':
        if len(text.split()) > 1:
            raise KitaruUsageError(f"{source} is no image: {text[:80]!r} has spaces in it", hint=IMAGE_HINT)
        return text
    try:
        data = parse_json(text)
    except KeyGivenTwice as error:
        raise KitaruUsageError(f"{source}: {error}", hint="keep one of the two") from error
    except ValueError as error:
        raise KitaruUsageError(f"{source} is not JSON: {error}", hint=IMAGE_HINT) from error
    if not isinstance(data, str | dict) or (isinstance(data, str) and data.lstrip()[:1] in ("", "{", "[", '"')):
        raise KitaruUsageError(f"{source} holds {text[:80]}, expected an image", hint=IMAGE_HINT)
    return data


def _asking(yes: bool) -> Callable[[FlowPlan], None]:
    """Show the consequences of a move for callers; on a terminal, ask if it breaks them."""

    def confirm(plan: FlowPlan) -> None:
        progress.close()
        severe = any(consequence.severe for consequence in plan.consequences)
        for consequence in plan.consequences:
            terminal.note(f"{'warning' if consequence.severe else 'note'}: {consequence.text}")
        if severe and not yes and terminal.asks:
            terminal.ask("Move the route?")

    return confirm


# --- output -----------------------------------------------------------------------------------------------------------


def _note_manifest(done: Rerouted | Released) -> None:
    from kitaru.cli.views.deployments import manifest_notes

    progress.close()
    for line in manifest_notes(done.manifest):
        terminal.advise(line)


def _show_move(done: Rerouted, mode: str) -> None:
    from kitaru.cli.views import deployments as view

    _note_manifest(done)
    lines = view.proposal_lines(done, terminal.style) if mode == "only" else view.route_lines(done, terminal.style)
    terminal.item(view.route_data(done), lines)


def _show_release(done: Released, place: list[str]) -> None:
    from kitaru.cli.views import deployments as view

    progress.close()
    for line in view.release_notes(done):
        terminal.note(line)
    _note_manifest(done)
    lines = [] if terminal.json else [*view.release_lines(done, terminal.style), *_next(done, place)]
    terminal.item(view.release_data(done), lines)


def _next(done: Released, place: list[str]) -> list[str]:
    """The command to type next."""
    if done.version is None or done.snapshot is None:
        return ["next: git commit it for review; kitaru plan shows what it will do"] if done.manifest.written else []
    if not done.moves:
        there = ["canary", "--version", str(done.version), "--exclusive"]
        return [f"next: {command_line('kitaru flow tag', done.flow, *there, *place)}"]
    tag = done.moves[-1].tag
    inputs = example_inputs(done.snapshot.input_schema, done.snapshot.inputs) or {}
    given = ["--input", json.dumps(inputs, ensure_ascii=False)] if inputs else []
    route = ["--tag", tag] if tag != DEFAULT_TAG and done.moves[-1].exclusive else []
    if tag != DEFAULT_TAG and not route:
        route = ["--version", str(done.version)]
    return [f"try it: {command_line('kitaru invoke', done.flow, *route, *given, '--wait', *place)}"]
