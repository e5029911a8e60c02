"""Commands for pipelines: write one, and what its jobs call."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from kitaru.cli import job
from kitaru.cli.options import ManifestOption, OutputOption, TargetOption
from kitaru.cli.terminal import Output, terminal
from kitaru.errors import KitaruUsageError

app = typer.Typer(name="ci", help="Plan on pull requests, apply on merge.", no_args_is_help=True)

TextArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="A saved plan (.json), or Markdown whose first line is an HTML comment.")
]
AsOption = Annotated[
    str | None, typer.Option("--as", metavar="NAME", help="Tells it from those of other manifests of the repository.")
]


@app.command("init")
def init(
    provider: Annotated[
        str | None, typer.Argument(metavar="PROVIDER", help="github or gitlab. Default: what the remote says.")
    ] = None,
    branch: Annotated[
        str | None, typer.Option("--branch", metavar="NAME", help="Merges to it apply. Default: the remote's.")
    ] = None,
    python: Annotated[
        str, typer.Option("--python", metavar="VERSION", help="The version of Python that jobs use.")
    ] = "3.12",
    install: Annotated[
        str | None,
        typer.Option("--install", metavar="REQUIREMENT", help="What jobs install. Default: as here."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there and differ.")] = False,
    manifest: ManifestOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.text,
) -> None:
    """Write a pipeline for GitHub or GitLab. It plans on pull requests, applies on merge, looks for drift.

    Safe to run again: what differs is shown, and stays unless --force is given.
    """
    terminal.begin("ci.init", output)
    from kitaru.client import ci as pipelines

    done = pipelines.init(
        provider, branch=branch, python=python, manifest=manifest, target=target, install=install, force=force
    )
    terminal.item(done, [] if terminal.json else _written(done))


@app.command("comment")
def comment(
    text: TextArgument,
    number: Annotated[
        int | None, typer.Option("--number", metavar="N", help="The pull request. Default: the job's own.")
    ] = None,
    name: AsOption = None,
    output: OutputOption = Output.text,
) -> None:
    """Keep one comment with a plan up to date. On the pull request that this job is for."""
    terminal.begin("ci.comment", output)
    from kitaru.client import ci as pipelines

    placed = pipelines.comment(_markdown(text, name), number)
    terminal.item(placed, [f"comment {placed.action}: {placed.url}".rstrip(": ")])


@app.command("issue")
def issue(
    text: TextArgument,
    title: Annotated[
        str, typer.Option("--title", metavar="TEXT", help="The issue's title, when it is opened.")
    ] = "Kitaru",
    close: Annotated[bool, typer.Option("--close", help="Close it instead.")] = False,
    name: AsOption = None,
    output: OutputOption = Output.text,
) -> None:
    """Keep one open issue up to date, or close it."""
    terminal.begin("ci.issue", output)
    from kitaru.client import ci as client

    if close:
        url = client.close_issue(_markdown(text, name))
        terminal.item({"closed": url}, [f"issue closed: {url}" if url else "no issue is open"])
        return
    placed = client.issue(title, _markdown(text, name))
    terminal.item(placed, [f"issue {placed.action}: {placed.url}".rstrip(": ")])


@app.command("reviewed")
def reviewed(
    into: Annotated[Path, typer.Option("--into", metavar="FOLDER", help="An empty folder, or none yet.")],
    artifact: Annotated[
        str,
        typer.Option(
            "--artifact",
            metavar="NAME",
            help="Where plans are kept. GitHub: NAME (by workflow NAME.yml), or WORKFLOW.yml/NAME. GitLab: JOB/FILE.",
        ),
    ] = "kitaru-plan",
    run: Annotated[
        str | None,
        typer.Option(
            "--run", metavar="NUMBER", help="The failed apply whose plan is approved, instead of what was reviewed."
        ),
    ] = None,
    output: OutputOption = Output.text,
) -> None:
    """Fetch the plans that reviewers were shown. Of all that was merged since the last apply."""
    terminal.begin("ci.reviewed", output)
    from kitaru.client import ci as pipelines

    found = pipelines.fetch_reviewed(into, artifact=artifact, run=run)
    lines = [f"{one.label}: {one.path}" for one in found]
    terminal.items(found, lines or ["no reviewed plan was found: only an apply that does nothing will go through"])


def _markdown(path: Path, name: str | None) -> str:
    """The text to show, under a name of its own where it has one."""
    if name is not None and not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise KitaruUsageError(f"--as {name}: expected letters, digits, dots and dashes", hint="--as kitaru-research")
    body = _body(path)
    from kitaru.cli.views.plan_markdown import named

    return named(body, name) if name else body


def _body(path: Path) -> str:
    """The text to show; a saved plan as it is shown in a comment, so that the file and the comment can't differ."""
    try:
        body = path.read_bytes()
        if path.suffix != ".json":
            return body.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise KitaruUsageError(f"{path} can't be read: {error}", hint="kitaru plan --out FILE makes one") from error
    from kitaru.cli.views.plan_markdown import plan_markdown
    from kitaru.client.project import read_plan

    return plan_markdown(read_plan(body, str(path)), job.run_url())


def _written(done: Any) -> list[str]:
    lines = [terminal.style(f"warning: {text}", "warn") for text in done.warnings]
    words = {"theirs": "left as it is"}
    lines += [f"{words.get(one.action, one.action)}: {one.path}" for one in done.files]
    if done.paste:
        lines += ["", "add to .gitlab-ci.yml (under its include:, where it has one):", "", done.paste]
    return [*lines, "", *(_next_github(done) if done.provider == "github" else _next_gitlab(done))]


def _next_github(done: Any) -> list[str]:
    lines = [
        "next, on GitHub:",
        f"  1. Settings > Environments > New environment {done.name}: restrict it to the branch {done.branch}",
    ]
    if done.store.startswith("s3://"):
        lines += [
            "  2. its secrets KITARU_WRITE_AWS_ACCESS_KEY_ID, KITARU_WRITE_AWS_SECRET_ACCESS_KEY: may write the store",
            "     the repository's KITARU_READ_AWS_ACCESS_KEY_ID, KITARU_READ_AWS_SECRET_ACCESS_KEY: may only read it",
        ]
    else:
        lines.append("  2. its secrets: what can write to the store; secrets of the repository: what can only read it")
    return [
        *lines,
        f"  3. Settings > Branches: protect {done.branch}, require pull requests",
        f"     and the checks {done.name} plan and {done.name} comment",
        "then commit the files and open a pull request",
    ]


def _next_gitlab(done: Any) -> list[str]:
    return [
        "next, on GitLab:",
        f"  1. Settings > CI/CD > Variables, masked, each for one environment ({done.name}/plan, …/comment, …/apply):",
        "     KITARU_GITLAB_TOKEN (a project access token, scope api) for …/comment and for …/apply;",
        "     credentials of the store, to read for …/plan, to write for …/apply",
        f"  2. Settings > Repository: protect the branch {done.branch}; the environment {done.name}/apply too",
        "  3. Build > Pipeline schedules: one a day, to look for drift",
        "then commit the files and open a merge request",
    ]
