"""Commands about flows: list and show them, make versions, move routes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from kitaru.cli.options import (
    EDIT,
    FlowArgument,
    Options,
    TagOption,
    VersionOption,
    argument,
    command,
    option,
    parse_argument,
    parse_inputs,
    read_argument,
    try_it,
)
from kitaru.cli.terminal import terminal
from kitaru.cli.views.words import command_line
from kitaru.errors import KitaruSelectorError

if TYPE_CHECKING:
    from kitaru.client.deployments import Released, Rerouted
    from kitaru.model.plan import FlowPlan
    from kitaru.model.snapshot import ImageSettings

DEFAULT = "default"
"""The route of callers that name none."""

OneVersion = Annotated[int, option("--version N", "The version.", min=1)]
FlowTarget = Annotated[str, argument("TARGET", "path/to/file.py:flow, package.module:flow, or a flow of the manifest.")]
ImageOption = Annotated[
    str | None, option("--image IMAGE", "A base image, a JSON object of image settings, or @file with either.")
]


@command("flow list")
def flow_list(at: Options) -> None:
    """List the project's flows and their routes."""
    from kitaru.cli.views import deployments as view

    client = at.connect()
    flows = client.deployments.flows()
    if not flows:
        terminal.note(client.session.place)
    project, store = client.session.project, client.session.store.url
    terminal.items(flows, lambda _: view.flow_rows(flows, project, store, terminal.room))


@command("flow deployments list")
def deployments_list(at: Options, flow: FlowArgument) -> None:
    """List the versions of a flow; * marks exclusive tags."""
    from kitaru.cli.views import deployments as view

    terminal.items(at.connect().deployments.list(flow), view.deployment_rows)


@command("flow deployments show")
def deployments_show(at: Options, flow: FlowArgument, tag: TagOption = None, version: VersionOption = None) -> None:
    """Show one version: its source, image, inputs and tags. Default: the one that default leads to."""
    from kitaru.cli.views import deployments as view

    deployments = at.connect().deployments
    try:
        deployment = deployments.get(flow, tag=tag, version=version)
    except KitaruSelectorError:
        shown = tag or DEFAULT
        sharing = [one.version for one in deployments.list(flow) if shown in one.tags]
        if version is not None or len(sharing) < 2:
            raise
        several = [deployments.get(flow, version=one) for one in sharing]
        data = view.shared_data(flow, shown, several)
        terminal.item(data, lambda _: view.shared_lines(flow, shown, several, at.place))
        return
    terminal.item(view.deployment_data(deployment), lambda _: view.deployment_lines(deployment))


@command("deploy", "inputs", "stack", *EDIT, "yes")
def deploy(
    at: Options,
    target: FlowTarget,
    image: ImageOption = None,
    tag: Annotated[str | None, option("--tag TAG", "The one tag that the version gets. Default: default.")] = None,
    exclusive: Annotated[bool, option("--exclusive", "The tag leads to this version alone.")] = False,
) -> None:
    """Make a new version of a flow, and lead one tag to it."""
    done = at.connect().deployments.release(
        target,
        parse_inputs(at.inputs),
        tag=DEFAULT if tag is None else tag,
        exclusive=exclusive,
        image=parse_image(image),
        stack=at.stack,
        **at.edit,
        confirm=_asking(at.yes),
    )
    _show_release(done, at.place)


@command("build", "inputs", "stack", *EDIT)
def build(at: Options, target: FlowTarget, image: ImageOption = None) -> None:
    """Make a new version of a flow that no tag leads to."""
    done = at.connect().deployments.release(
        target, parse_inputs(at.inputs), image=parse_image(image), stack=at.stack, **at.edit
    )
    _show_release(done, at.place)


@command("flow tag", *EDIT, "yes")
def flow_tag(
    at: Options,
    flow: FlowArgument,
    tag: Annotated[str, argument("TAG", "The tag.")],
    version: OneVersion,
    exclusive: Annotated[
        bool, option("--exclusive", "The tag leads to this version alone; else it is a shared label.")
    ] = False,
) -> None:
    """Lead a tag to a version."""
    done = at.connect().deployments.tag(
        flow, tag, version=version, exclusive=exclusive, **at.edit, confirm=_asking(at.yes)
    )
    _show_move(done, at)


@command("flow untag", *EDIT)
def flow_untag(
    at: Options,
    flow: FlowArgument,
    tag: Annotated[str, argument("TAG", "The tag.")],
    version: Annotated[
        int | None, option("--version N", "Only off this version. Default: off all of them.", min=1)
    ] = None,
) -> None:
    """Take a tag off a version, or remove the route. Never default."""
    done = at.connect().deployments.untag(flow, tag, version=version, **at.edit)
    _show_move(done, at)


@command("flow deployments delete", "message", "no_manifest", "yes")
def deployments_delete(at: Options, flow: FlowArgument, version: OneVersion) -> None:
    """Delete a version that no exclusive tag leads to. Its number stays taken; executions of it go on."""
    from kitaru.cli.views import deployments as view

    again = command_line("kitaru flow deployments delete", flow, "--version", str(version), "--yes")

    def confirm(_plan: FlowPlan) -> None:
        terminal.confirm(f"Delete v{version} of {flow}, for good?", again, yes=at.yes)

    done = at.connect().deployments.delete(flow, version=version, confirm=confirm, **at.edit)
    _note_manifest(done)
    terminal.item(done, view.delete_lines, labels_lost=done.lost)


@command("promote", *EDIT, "yes")
def promote(
    at: Options,
    flow: FlowArgument,
    source: Annotated[str, argument("FROM", "The tag whose version is promoted.")],
    to: Annotated[str, option("--to TAG", "The tag that is to lead there.")],
) -> None:
    """Lead a tag to the version that another tag leads to."""
    done = at.connect().deployments.promote(flow, source, to=to, **at.edit, confirm=_asking(at.yes))
    _show_move(done, at)


@command("rollback", *EDIT)
def rollback(
    at: Options,
    flow: FlowArgument,
    tag: Annotated[str, argument("TAG", "The route.")] = DEFAULT,
    to: Annotated[int, option("--to N", "The version, or -1: one further back than now.")] = -1,
    write: Annotated[bool, option("--write", "Make the manifest's edit, instead of printing it.")] = False,
) -> None:
    """Lead a route back at once, and hold it there. Plan and apply leave it alone until the manifest agrees."""
    from kitaru.cli.views import deployments as view

    done = at.connect().deployments.rollback(flow, tag, to=to, write=write, **at.edit)
    if at.manifest_only:
        _show_move(done, at)
        return
    _note_manifest(done)
    terminal.item(done, lambda _: view.rollback_lines(done, at.place))


# --- options ----------------------------------------------------------------------------------------------------------


def parse_image(text: str | None) -> ImageSettings | None:
    """``--image``: ``python:3.12-slim``, bare or as JSON, ``{"requirements": ["httpx"]}``, or ``@file`` with any.

    Raises ``KitaruUsageError`` with every member that is wrong.
    """
    if text is None:
        return None
    # Late: few commands are given an image, and its model takes time to make.
    from kitaru.client.arguments import asked_image

    body, name = read_argument(text, "--image")
    if body.lstrip().startswith('"'):
        return asked_image({"base_image": parse_argument(body, name, "--image python:3.12-slim")}, name)
    return asked_image(body, name)


def _asking(yes: bool) -> Callable[[FlowPlan], None]:
    """Show the consequences of a move for callers; on a terminal, ask if it breaks them."""

    def confirm(plan: FlowPlan) -> None:
        for consequence in plan.consequences:
            terminal.note(f"{'warning' if consequence.severe else 'note'}: {consequence.text}")
        if any(consequence.severe for consequence in plan.consequences) and not yes and terminal.asks:
            terminal.ask("Move the route?")

    return confirm


# --- output -----------------------------------------------------------------------------------------------------------


def _note_manifest(done: Rerouted | Released) -> None:
    """Say why the manifest differs from the store, if it does."""
    edit = done.manifest
    if edit.problem:
        terminal.note(f"warning: done in the store, but {edit.path} could not be changed: {edit.problem}")
        terminal.advise("hint: kitaru plan shows what differs; change it by hand, the command must not be repeated")
    elif edit.note:
        terminal.note(f"note: {edit.note}")


def _show_move(done: Rerouted, at: Options) -> None:
    from kitaru.cli.views import deployments as view

    _note_manifest(done)
    terminal.item(done, view.proposal_lines if at.manifest_only else view.route_lines)


def _show_release(done: Released, place: list[str]) -> None:
    from kitaru.cli.views import deployments as view

    for line in view.release_notes(done):
        terminal.note(line)
    _note_manifest(done)
    terminal.item(
        done,
        lambda _: [*view.release_lines(done), *_next(done, place)],
        tags={move.tag: move.exclusive for move in done.moves},
        dirty=bool(done.changed),
    )


def _next(done: Released, place: list[str]) -> list[str]:
    """The command to type next."""
    if done.version is None or done.snapshot is None:
        return ["next: git commit it for review; kitaru plan shows what it will do"] if done.manifest.written else []
    number = ["--version", str(done.version)]
    if not done.moves:
        return [f"next: {command_line('kitaru flow tag', done.flow, 'canary', *number, '--exclusive', *place)}"]
    move = done.moves[-1]
    route = [] if move.tag == DEFAULT else ["--tag", move.tag] if move.exclusive else number
    return try_it(done.flow, done.snapshot, place, *route)
