"""The producer's commands: init, validate, plan, apply, import, schema."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from kitaru import data_files
from kitaru.cli import ci
from kitaru.cli.options import Options, argument, command, option, try_it
from kitaru.cli.terminal import terminal, write_whole
from kitaru.cli.views.words import command_line, count, edit_line, style
from kitaru.errors import KitaruError, KitaruUsageError


@command("init", place=("project",))
def init(at: Options, folder: Annotated[Path, argument("FOLDER", "The repository's folder.")] = Path()) -> None:
    """Write a kitaru.yaml for the flows found here. Safe to run again."""
    from kitaru.client.project import initialise

    terminal.item(*initialise(folder, at.project))


@command("validate", place=("manifest", "overlay"))
def validate(at: Options) -> None:
    """Check the manifest, its targets and their inputs. Needs no store."""
    checked = at.connect().validate()
    lines = [style(f"warning: {text}", "warn") for text in checked.warnings]
    lines.append(f"{style('valid', 'good')}: project {checked.project}, {count(len(checked.flows), 'flow')}")
    terminal.item(checked, lines if checked.warnings else [*lines, "next: kitaru plan"])


@command("import")
def import_(
    at: Options,
    flows: Annotated[list[str] | None, argument("FLOW", "Only these flows.")] = None,
    dry_run: Annotated[bool, option("--dry-run", "Show the edit of the manifest, and write nothing.")] = False,
) -> None:
    """Declare flows and routes that only the store has."""
    terminal.item(at.connect().import_flows(flows or (), dry_run=dry_run), _import_lines)


def _import_lines(done: Any) -> list[str]:
    warnings = [style(f"warning: {text}", "warn") for text in done.warnings]
    notes = [f"note: {text}" for text in done.notes]
    if not done.diff:
        return [*warnings, *notes, f"{done.path} names every flow and route of the store already."]
    lines = [*warnings, *map(edit_line, done.diff), "", *notes]
    flows = sum(not one.declared for one in done.flows)
    routes = count(sum(len(one.routes) + len(one.dropped) for one in done.flows), "route")
    added = f"{count(flows, 'flow')} and {routes}" if flows else routes
    if not done.written:
        return [*lines, f"Nothing was written; without --dry-run, {done.path} gets {added}."]
    wrote = style(f"Wrote {done.path}: {added}.", "good")
    return [*lines, wrote, "next: kitaru validate, then commit it; kitaru plan shows what apply adopts"]


class PlanForm(StrEnum):
    """``-o`` of a plan."""

    text = "text"
    json = "json"
    markdown = "markdown"


PlanOutput = Annotated[PlanForm, option("--output,-o", "Markdown is for a pull request.")]


@command("plan", "prune", "force", "allow_dirty", form=PlanOutput)
def plan(
    at: Options,
    flows: Annotated[list[str] | None, argument("FLOW", "Only these flows.")] = None,
    out: Annotated[Path | None, option("--out FILE", "Save the plan: kitaru apply FILE carries out just that.")] = None,
    files: Annotated[bool, option("--files", "List every file of the source, and every file that changed.")] = False,
    detailed_exitcode: Annotated[
        bool, option("--detailed-exitcode", "Exit 0: no change, 2: changes, 1: error.")
    ] = False,
    drift: Annotated[
        bool, option("--drift", "Show only what was changed by hand. Exit 0: nothing, 2: drift, 1: error.")
    ] = False,
) -> None:
    """Show the changes that apply would make, and why. Writes nothing."""
    if drift and out is not None:
        raise KitaruUsageError(
            "--out is not used with --drift: drift is no plan to apply",
            hint="kitaru plan --drift -o json > FILE keeps what it shows; kitaru plan --out FILE saves a plan",
        )
    from kitaru.cli.views import plan as view

    client = at.connect()
    ignoring = [out] if out is not None else []
    # What was changed by hand is told from the store: nothing is built, so that no change of the tree matters.
    asked = {"prune": at.prune, "force": at.force, "allow_dirty": at.allow_dirty or drift}
    made = client.plan(flows or (), ignoring=ignoring, **asked)
    if drift:
        _show_drift(made, at)
        return
    if out is not None:
        write_whole(out, made.redacted.canonical(), "--out")

    def lines(_plan: Any) -> list[str]:
        shown = view.plan_lines(made, all_files=files)
        if files:
            shown += ["", *client.project.file_lines(made, allow_dirty=at.allow_dirty, ignoring=ignoring)]
        words = [*(flows or ()), *(f"--{name.replace('_', '-')}" for name, given in asked.items() if given)]
        again = command_line("kitaru apply", *([out] if out is not None else words), *at.place)
        return shown if made.is_empty else [*shown, "", view.next_line(made, again, saved=out is not None)]

    if at.output == "markdown":
        print(view.plan_markdown(made, ci.run_url()))
    else:
        terminal.item(made, lines)
    saved = {"plan": out.absolute()} if out is not None else {}
    ci.add_summary(lambda: view.plan_markdown(made, ci.run_url()))
    ci.add_outputs(changes=not made.is_empty, generation=made.base, **saved)
    if detailed_exitcode and not made.is_empty:
        raise typer.Exit(2)


def _show_drift(made: Any, at: Options) -> None:
    """Show the changes made by hand in the store; exit code 2 if there are any."""
    from kitaru.cli.views import plan as view

    ci.add_summary(lambda: view.drift_markdown(made))
    ci.add_outputs(drift=bool(made.drift), generation=made.base)
    if at.output == "markdown":
        print(view.drift_markdown(made, at.place))
    else:
        drift = [{**one.data(), "ways_out": view.ways_out(made, one, at.place)} for one in made.drift]
        terminal.items(drift, lambda _: view.drift_lines(made, at.place))
    if not made.base:
        # Who looks here every night may look in the wrong place.
        ci.warn(f"project {made.project} was never applied in {made.store}: is this the place to look?")
        terminal.advise(terminal.dim("is this the place? see --store, --project and --target; if it is: kitaru apply"))
    if made.drift:
        raise typer.Exit(2)


@command("apply", "prune", "force", "allow_dirty", "message", "yes")
def apply(
    at: Options,
    flows: Annotated[list[str] | None, argument("FLOW|PLAN", "Only these flows, or one saved plan.")] = None,
    reviewed: Annotated[
        list[Path] | None,
        option("--reviewed FILE", "Apply only what these saved plans (files, or folders of them) showed. Repeatable."),
    ] = None,
) -> None:
    """Build new versions, then switch every route at once."""
    from kitaru.cli.views import plan as view

    client = at.connect()
    saved = _saved_plan(flows or [])
    ignoring = [*(reviewed or ()), *([Path(saved[1])] if saved is not None else ())]
    asked: dict[str, Any] = {"prune": at.prune, "force": at.force, "allow_dirty": at.allow_dirty, "ignoring": ignoring}
    if saved is not None:
        from kitaru.client.project import Scope, read_plan

        flows, read = [], read_plan(*saved)
        made = client.project.reopened(read, Scope((), **asked))
    else:
        made = client.plan(flows or (), **asked)
    if not terminal.json:
        terminal.lines(view.plan_lines(made))
    if reviewed is not None:
        ci.check_reviewed(made, reviewed)
    if not (made.is_empty or made.guards):
        terminal.confirm("Apply these changes?", "kitaru apply --yes", yes=at.yes)
    done = None
    try:
        done = client.apply(flows or (), plan=made, saved=saved is not None, message=at.message, **asked)
        terminal.item(done, lambda _: _applied(done, client, at.place))
        head = f"### Applied: generation {done.generation}" if done.changed else "### Nothing to apply"
        ci.add_summary(lambda: f"{head}\n\n{view.plan_markdown(done.plan, ci.run_url())}")
        ci.add_outputs(changes=done.changed, generation=done.generation)
    except KeyboardInterrupt as stopped:
        if done is None:
            terminal.left = str(stopped) or terminal.left
            raise
        # Too late to stop anything: what has changed is said in full.
        terminal.item(done, lambda _: _applied(done, client, at.place))


def _applied(done: Any, client: Any, place: list[str]) -> list[str]:
    if done.others_first:
        return [f"Nothing left to do: another apply of the same content reached generation {done.generation} first."]
    if not done.changed:
        return []
    lines = ["", style(f"Applied: generation {done.generation} of project {client.session.project}.", "good")]
    routed = [(flow, move.after[-1].version) for flow, move in done.plan.moves if move.tag == "default" and move.after]
    if not routed:
        return lines
    flow, version = routed[0]
    builds = {name: build.snapshot for name, build in done.plan.builds if build.version == version}
    try:
        snapshot = builds.get(flow) or client.deployments.get(flow, version=version).details
    except KitaruError:
        # Applied it is; only what to type next is not known.
        return lines
    return [*lines, *try_it(flow, snapshot, place)]


def _saved_plan(words: list[str]) -> tuple[bytes, str] | None:
    """The plan's bytes, if the one argument is a file; a flow's name is never taken for one."""
    if len(words) != 1 or not (words[0].endswith(".json") or "/" in words[0] or Path(words[0]).is_file()):
        return None
    try:
        return Path(words[0]).read_bytes(), words[0]
    except OSError as error:
        raise KitaruUsageError(
            f"the plan {words[0]} can't be read: {error.strerror}", hint="kitaru plan --out FILE makes one"
        ) from error


@command("schema", place=())
def schema(
    at: Options,
    name: Annotated[
        str, argument("NAME", "manifest, lockfile, generation, versions, snapshot, plan or execution.")
    ] = "manifest",
) -> None:
    """Print the JSON Schema of kitaru.yaml, or of another file. With -o json it is the item of an answer."""
    names = {"manifest": "kitaru", **{one: one for one in data_files.schema_names()}}
    if name not in names:
        raise KitaruUsageError(
            f"there is no schema {name}; there are: {', '.join(names)}", hint="kitaru schema manifest"
        )
    text = data_files.schema(names[name])
    if at.output == "json":
        terminal.item(json.loads(text))
    else:
        print(text, end="")
