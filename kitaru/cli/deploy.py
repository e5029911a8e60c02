"""The producer's imperative commands: deploy and build."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kitaru.cli.options import (
    InputOption,
    ManifestOnly,
    MessageOption,
    NoManifest,
    Place,
    parse_inputs,
    placed,
)
from kitaru.cli.suggestions import command_line, example_inputs
from kitaru.cli.terminal import progress, terminal
from kitaru.errors import KitaruUsageError
from kitaru.model.json_text import KeyGivenTwice, parse_json

if TYPE_CHECKING:
    from kitaru.model.image import ImageSettings

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
) -> None:
    """Make a new version of a flow, and lead one tag to it."""
    client = at.connect()
    done = client.deployments.release(
        target,
        "deploy",
        {"image": parse_image(image), "stack": stack, "tag": tag, "exclusive": exclusive, "message": message},
        inputs=parse_inputs(inputs) if inputs is not None else None,
        mode=manifest_mode(manifest_only, no_manifest),
    )
    _show(done, at.options)


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
    client = at.connect()
    done = client.deployments.release(
        target,
        "build",
        {"image": parse_image(image), "stack": stack, "message": message},
        inputs=parse_inputs(inputs) if inputs is not None else None,
        mode=manifest_mode(manifest_only, no_manifest),
    )
    _show(done, at.options)


def manifest_mode(manifest_only: bool, no_manifest: bool) -> Literal["edit", "only", "leave"]:
    """What the two options say. Raises ``KitaruUsageError`` where both are given."""
    if manifest_only and no_manifest:
        raise KitaruUsageError(
            "--manifest-only and --no-manifest exclude each other", hint="give neither to change store and manifest"
        )
    return "only" if manifest_only else "leave" if no_manifest else "edit"


def parse_image(text: str | None) -> ImageSettings | None:
    """``--image``: a base image, a JSON object of image settings, or ``@file`` with either (or a JSON string).

    Raises ``KitaruUsageError`` with every member that is wrong.
    """
    if text is None:
        return None
    # Late: few commands are given an image, and its model takes time to make.
    found: ImageSettings | None = import_module("kitaru.client.images").asked_image(_image_given(text), "--image")
    return found


def _image_given(text: str) -> str | dict[str, Any]:
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
        found = parse_json(text)
    except KeyGivenTwice as error:
        raise KitaruUsageError(f"{source}: {error}", hint="keep one of the two") from error
    except ValueError as error:
        raise KitaruUsageError(f"{source} is not JSON: {error}", hint=IMAGE_HINT) from error
    if not isinstance(found, str | dict) or (isinstance(found, str) and found.lstrip()[:1] in ("", "{", "[", '"')):
        raise KitaruUsageError(f"{source} holds {text[:80]}, expected an image", hint=IMAGE_HINT)
    return found


def _show(done: Any, place: list[str]) -> None:
    progress.close()
    view = import_module("kitaru.cli.views.deploy_text")
    for line in [*view.release_notes(done), *view.manifest_notes(done.manifest)]:
        terminal.note(line)
    lines = [] if terminal.json else [*view.release_lines(done, terminal.style), *_next(done, place)]
    terminal.item(view.release_data(done), lines)


def _next(done: Any, place: list[str]) -> list[str]:
    """The command to type next."""
    if done.version is None:
        return ["next: git commit it for review; kitaru plan shows what it will do"] if done.manifest.written else []
    if not done.moves:
        there = ["canary", "--version", str(done.version), "--exclusive"]
        return [f"next: {command_line('kitaru flow tag', done.flow, *there, *place)}"]
    tag = done.moves[-1].tag
    inputs = example_inputs(done.snapshot.input_schema, done.snapshot.inputs) or {}
    given = ["--input", json.dumps(inputs, ensure_ascii=False)] if inputs else []
    route = ["--tag", tag] if tag != "default" and done.moves[-1].exclusive else []
    if tag != "default" and not route:
        route = ["--version", str(done.version)]
    return [f"try it: {command_line('kitaru invoke', done.flow, *route, *given, '--wait', *place)}"]
