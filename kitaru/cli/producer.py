"""The producer's commands: init, validate, plan, apply, import, schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kitaru.cli import job
from kitaru.cli.options import (
    DirtyOption,
    ManifestOption,
    MessageOption,
    OutputOption,
    Place,
    ProjectOption,
    TargetOption,
    YesOption,
    command_line,
    example_inputs,
    placed,
)
from kitaru.cli.terminal import Output, progress, terminal, write_whole
from kitaru.cli.views.words import count
from kitaru.errors import KitaruError, KitaruUsageError

if TYPE_CHECKING:
    pass


@placed("import")
def import_(
    at: Place,
    flows: Annotated[list[str] | None, typer.Argument(metavar="FLOW", help="Only these flows.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the edit of the manifest, and write nothing.")
    ] = False,
) -> None:
    """Declare flows and routes that only the store has."""
    client = at.connect()
    done = client.import_flows(flows or (), dry_run=dry_run)
    progress.close()
    terminal.item(done, _lines(done))


def _lines(done: Any) -> list[str]:
    lines = [terminal.style(f"warning: {text}", "warn") for text in done.warnings]
    if not done.diff:
        lines += [f"note: {text}" for text in done.notes]
        return [*lines, f"{done.path} names every flow and route of the store already."]
    lines += [_coloured(line) for line in done.diff]
    lines += ["", *(f"note: {text}" for text in done.notes)]
    new = [one for one in done.flows if not one.declared]
    routes = sum(len(one.routes) + len(one.dropped) for one in done.flows)
    what = f"{count(len(new), 'flow')} and {count(routes, 'route')}" if new else count(routes, "route")
    if not done.written:
        return [*lines, f"Nothing was written; without --dry-run, {done.path} gets {what}."]
    wrote = terminal.style(f"Wrote {done.path}: {what}.", "good")
    return [*lines, wrote, "next: kitaru validate, then commit it; kitaru plan shows what apply adopts"]


def _coloured(line: str) -> str:
    if line.startswith(("+++", "---")):
        return line
    return terminal.style(line, {"+": "add", "-": "remove"}.get(line[:1], "dim"))


PlanForm = Annotated[
    str,
    typer.Option("--output", "-o", metavar="<text|json|markdown>", help="Markdown is for a pull request."),
]
ReviewedOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--reviewed",
        metavar="FILE",
        help="Apply only what these saved plans (files, or folders of them) showed. Repeatable.",
    ),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Pass over rollbacks, and over commits that are live and not in this one.")
]
PruneOption = Annotated[
    bool, typer.Option("--prune", help="Also remove what the manifest once named and no longer does.")
]


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The repository's folder.")] = Path(),
    project: ProjectOption = None,
    output: OutputOption = Output.text,
) -> None:
    """Write a kitaru.yaml for the flows found here. Safe to run again."""
    terminal.begin("init", output)
    from kitaru.client.project import initialise

    result = initialise(folder, project)
    terminal.item(result.data, result.lines)


def validate(manifest: ManifestOption = None, target: TargetOption = None, output: OutputOption = Output.text) -> None:
    """Check the manifest, its targets and their inputs. Needs no store."""
    terminal.begin("validate", output)
    checked = Place(manifest=manifest, target=target).connect().validate()
    lines = [terminal.style(f"warning: {text}", "warn") for text in checked.warnings]
    lines.append(f"{terminal.style('valid', 'good')}: project {checked.project}, {count(len(checked.flows), 'flow')}")
    terminal.item(checked, [*lines, "next: kitaru plan"] if not checked.warnings else lines)


@placed("plan", form=PlanForm)
def plan(
    at: Place,
    flows: Annotated[list[str] | None, typer.Argument(metavar="FLOW", help="Only these flows.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Save the plan: kitaru apply FILE carries out just that."),
    ] = None,
    files: Annotated[
        bool, typer.Option("--files", help="List every file of the source, and every file that changed.")
    ] = False,
    prune: PruneOption = False,
    force: ForceOption = False,
    allow_dirty: DirtyOption = False,
    detailed_exitcode: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit 0: no change, 2: changes, 1: error.")
    ] = False,
    drift: Annotated[
        bool, typer.Option("--drift", help="Show only what was changed by hand. Exit 0: nothing, 2: drift, 1: error.")
    ] = False,
) -> None:
    """Show the changes that apply would make, and why. Writes nothing."""
    if at.form not in ("text", "json", "markdown"):
        raise KitaruUsageError(f"-o {at.form}: expected text, json or markdown", hint="kitaru plan -o markdown")
    terminal.detailed = detailed_exitcode or drift
    if drift and out is not None:
        raise KitaruUsageError(
            "--out is not used with --drift: drift is no plan to apply",
            hint="kitaru plan --drift -o json > FILE keeps what it shows; kitaru plan --out FILE saves a plan",
        )
    client = at.connect()
    ignoring = [out] if out is not None else []
    # What was changed by hand is told from the store: nothing is built, so that no change of the tree matters.
    made = client.plan(flows or (), prune=prune, force=force, allow_dirty=allow_dirty or drift, ignoring=ignoring)
    progress.close()
    if drift:
        _show_drift(made, at)
        return
    if out is not None:
        _save(out, made.redacted.canonical())
    if at.form == "markdown":
        from kitaru.cli.views.plan_markdown import plan_markdown

        print(plan_markdown(made, job.run_url()))
    else:
        from kitaru.cli.views import plan as view

        lines = view.plan_lines(made, terminal.style, all_files=files)
        if files:
            lines += ["", *client.project.file_lines(made, allow_dirty=allow_dirty, ignoring=ignoring)]
        switches = {"--prune": prune, "--force": force, "--allow-dirty": allow_dirty}
        asked = [*(flows or ()), *(name for name, given in switches.items() if given)]
        again = command_line("kitaru apply", *([out] if out is not None else asked), *at.options)
        following = view.next_line(made, again, saved=out is not None)
        terminal.item(_plan_data(made), lines if made.is_empty else [*lines, "", following])
    job.add_plan(made, out)
    if detailed_exitcode and not made.is_empty:
        raise typer.Exit(2)


def _show_drift(made: Any, at: Place) -> None:
    """Show the changes made by hand in the store; exit code 2 if there are any."""
    job.add_drift(made)
    if at.form == "markdown":
        from kitaru.cli.views.plan_markdown import drift_markdown

        print(drift_markdown(made, at.options))
    else:
        from kitaru.cli.views import plan as view

        terminal.items(
            [{**one.data(), "ways_out": view.ways_out(made, one, at.options)} for one in made.drift],
            view.drift_lines(made, terminal.style, at.options),
        )
    if not made.base:
        # Who looks here every night may look in the wrong place.
        terminal.advise(terminal.dim("is this the place? see --store, --project and --target; if it is: kitaru apply"))
    if made.drift:
        raise typer.Exit(2)


def _plan_data(made: Any) -> Any:
    """The plan for standard output; made only for JSON."""
    from kitaru.cli.views.plan import plan_data

    return plan_data(made) if terminal.json else None


def _save(path: Path, body: bytes) -> None:
    try:
        write_whole(path, body)
    except OSError as error:
        raise KitaruUsageError(f"the plan can't be saved to {path}: {error.strerror}", hint="--out FILE") from error


@placed("apply")
def apply(
    at: Place,
    flows: Annotated[
        list[str] | None, typer.Argument(metavar="FLOW|PLAN", help="Only these flows, or one saved plan.")
    ] = None,
    yes: YesOption = False,
    prune: PruneOption = False,
    force: ForceOption = False,
    allow_dirty: DirtyOption = False,
    message: MessageOption = "",
    reviewed: ReviewedOption = None,
) -> None:
    """Build new versions, then switch every route at once."""
    client = at.connect()
    saved = _saved_plan(flows or [])
    ignoring = [*(reviewed or ()), *([Path(saved[1])] if saved is not None else ())]
    if saved is not None:
        from kitaru.client.project import Scope, read_plan

        flows, read = [], read_plan(*saved)
        made = client.project.reopened(read, Scope((), prune, force, allow_dirty, ignoring))
    else:
        made = client.plan(flows or (), prune=prune, force=force, allow_dirty=allow_dirty, ignoring=ignoring)
    progress.close()
    from kitaru.cli.views import plan as view

    if not terminal.json:
        terminal.lines(view.plan_lines(made, terminal.style))
    if reviewed is not None:
        job.check_reviewed(made, reviewed)
    if not (made.is_empty or made.guards):
        terminal.confirm("Apply these changes?", "kitaru apply --yes", yes=yes)
    done = None
    place = at.options
    try:
        done = client.apply(
            flows or (),
            plan=made,
            saved=saved is not None,
            prune=prune,
            force=force,
            allow_dirty=allow_dirty,
            message=message,
            ignoring=ignoring,
        )
        _show_applied(done, client, place)
        job.add_applied(done)
    except KeyboardInterrupt as stopped:
        if done is None:
            terminal.left = str(stopped) or terminal.left
            raise
        # Too late to stop anything: what has changed is said in full.
        _show_applied(done, client, place)


def _show_applied(done: Any, client: Any, place: list[str]) -> None:
    progress.close()
    data = {
        "generation": done.generation,
        "changed": done.changed,
        "by": done.by,
        "plan": _plan_data(done.plan),
    }
    terminal.item(data, [] if terminal.json else _applied(done, client, place))


def _applied(done: Any, client: Any, place: list[str]) -> list[str]:
    if done.others_first:
        return [f"Nothing left to do: another apply of the same content reached generation {done.generation} first."]
    if not done.changed:
        return []
    lines = ["", terminal.style(f"Applied: generation {done.generation} of project {client.session.project}.", "good")]
    routed = [(flow, move.after[-1].version) for flow, move in done.plan.moves if move.tag == "default" and move.after]
    return [*lines, *_try_it(client, done.plan, *routed[0], place)] if routed else lines


def _try_it(client: Any, plan: Any, flow: str, version: int, place: list[str]) -> list[str]:
    """The command that starts the flow just released; none if its inputs can't be made up."""
    builds = {name: build.snapshot for name, build in plan.builds if build.version == version}
    try:
        snapshot = builds.get(flow) or client.deployments.get(flow, version=version).details
    except KitaruError:
        # Applied it is; only what to type next is not known.
        return []
    inputs = example_inputs(snapshot.input_schema, snapshot.inputs)
    if inputs is None:
        return []
    given = ["--input", json.dumps(inputs, ensure_ascii=False)] if inputs else []
    return [f"try it: {command_line('kitaru invoke', flow, *given, '--wait', *place)}"]


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


def schema(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="manifest, lockfile, generation, versions, snapshot, plan or execution."),
    ] = "manifest",
    output: OutputOption = Output.text,
) -> None:
    """Print the JSON Schema of kitaru.yaml, or of another file. With -o json it is the item of an answer."""
    terminal.begin("schema", output)
    from kitaru.cli import schema as schemas

    known = {"manifest": "kitaru", **{one: one for one in schemas.PUBLISHED}}
    if name not in known:
        raise KitaruUsageError(
            f"there is no schema {name}; there are: {', '.join(known)}", hint="kitaru schema manifest"
        )
    if terminal.json:
        terminal.item(schemas.json_schema(known[name]))
    else:
        print(schemas.render(known[name]), end="")
