"""Commands for pipelines: write one, and what its jobs call; and what a job on GitHub gets beside the log."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from kitaru.cli.options import Options, argument, command, option
from kitaru.cli.terminal import escaped, terminal
from kitaru.cli.views.words import style
from kitaru.errors import KitaruConflictError, KitaruUsageError

TextArgument = Annotated[
    Path, argument("FILE", "A saved plan (.json), or Markdown whose first line is an HTML comment.")
]
AsOption = Annotated[str | None, option("--as NAME", "Tells it from those of other manifests of the repository.")]


@command("ci init", place=("manifest", "overlay"))
def init(
    at: Options,
    provider: Annotated[str | None, argument("PROVIDER", "github or gitlab. Default: what the remote says.")] = None,
    branch: Annotated[str | None, option("--branch NAME", "Merges to it apply. Default: the remote's.")] = None,
    python: Annotated[str, option("--python VERSION", "The version of Python that jobs use.")] = "3.12",
    install: Annotated[str | None, option("--install REQUIREMENT", "What jobs install. Default: as here.")] = None,
    force: Annotated[bool, option("--force", "Overwrite files that are there and differ.")] = False,
) -> None:
    """Write a pipeline for GitHub or GitLab. It plans on pull requests, applies on merge, looks for drift.

    Safe to run again: what differs is shown, and stays unless --force is given.
    """
    from kitaru.client import ci as client

    done = client.init(
        provider, branch=branch, python=python, manifest=at.manifest, target=at.overlay, install=install, force=force
    )
    terminal.item(done, _written)


@command("ci comment", place=())
def comment(
    _: Options,
    text: TextArgument,
    number: Annotated[int | None, option("--number N", "The pull request. Default: the job's own.")] = None,
    name: AsOption = None,
) -> None:
    """Keep one comment with a plan up to date. On the pull request that this job is for."""
    from kitaru.client import ci as client

    placed = client.comment(_markdown(text, name), number)
    terminal.item(placed, [f"comment {placed.action}: {placed.url}".rstrip(": ")])


@command("ci issue", place=())
def issue(
    _: Options,
    text: TextArgument,
    title: Annotated[str, option("--title TEXT", "The issue's title, when it is opened.")] = "Kitaru",
    close: Annotated[bool, option("--close", "Close it instead.")] = False,
    name: AsOption = None,
) -> None:
    """Keep one open issue up to date, or close it."""
    from kitaru.client import ci as client

    if close:
        url = client.close_issue(_markdown(text, name))
        terminal.item({"closed": url}, [f"issue closed: {url}" if url else "no issue is open"])
        return
    placed = client.issue(title, _markdown(text, name))
    terminal.item(placed, [f"issue {placed.action}: {placed.url}".rstrip(": ")])


@command("ci reviewed", place=())
def reviewed(
    _: Options,
    into: Annotated[Path, option("--into FOLDER", "An empty folder, or none yet.")],
    artifact: Annotated[
        str,
        option(
            "--artifact NAME",
            "Their place. GitHub: NAME (by workflow NAME.yml), or WORKFLOW.yml/NAME. GitLab: JOB/FILE.",
        ),
    ] = "kitaru-plan",
    run: Annotated[
        str | None, option("--run NUMBER", "The failed apply whose plan is approved, instead of what was reviewed.")
    ] = None,
) -> None:
    """Fetch the plans that reviewers were shown. Of all that was merged since the last apply."""
    from kitaru.client import ci as client

    plans = client.fetch_reviewed(into, artifact=artifact, run=run)
    lines = [f"{one.label}: {one.path}" for one in plans]
    terminal.items(plans, lines or ["no reviewed plan was found: only an apply that does nothing will go through"])


def _markdown(path: Path, name: str | None) -> str:
    """The text to show, under a name of its own where it has one.

    A saved plan is as in a comment, so that the file and the comment can't differ.
    """
    if name is not None and not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise KitaruUsageError(f"--as {name}: expected letters, digits, dots and dashes", hint="--as kitaru-research")
    try:
        body = path.read_bytes()
        text = "" if path.suffix == ".json" else body.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise KitaruUsageError(f"{path} can't be read: {error}", hint="kitaru plan --out FILE makes one") from error
    from kitaru.cli.views.plan import named, plan_markdown
    from kitaru.client.project import read_plan

    if path.suffix == ".json":
        text = plan_markdown(read_plan(body, str(path)), run_url())
    return named(text, name) if name else text


def _written(done: Any) -> list[str]:
    lines = [style(f"warning: {text}", "warn") for text in done.warnings]
    actions = {"theirs": "left as it is"}
    lines += [f"{actions.get(one.action, one.action)}: {one.path}" for one in done.files]
    if done.paste:
        lines += ["", "add to .gitlab-ci.yml (under its include:, where it has one):", "", done.paste]
    steps = (NEXT_GITHUB if done.provider == "github" else NEXT_GITLAB).format(
        name=done.name, branch=done.branch, secrets=(S3_SECRETS if done.store.startswith("s3://") else OTHER_SECRETS)
    )
    return [*lines, "", *steps.splitlines()]


S3_SECRETS = """\
its secrets KITARU_WRITE_AWS_ACCESS_KEY_ID, KITARU_WRITE_AWS_SECRET_ACCESS_KEY: may write the store
     the repository's KITARU_READ_AWS_ACCESS_KEY_ID, KITARU_READ_AWS_SECRET_ACCESS_KEY: may only read it"""
OTHER_SECRETS = "its secrets: what can write to the store; secrets of the repository: what can only read it"
NEXT_GITHUB = """\
next, on GitHub:
  1. Settings > Environments > New environment {name}: restrict it to the branch {branch}
  2. {secrets}
  3. Settings > Branches: protect {branch}, require pull requests
     and the checks {name} plan and {name} comment
then commit the files and open a pull request"""
NEXT_GITLAB = """\
next, on GitLab:
  1. Settings > CI/CD > Variables, masked, each for one environment ({name}/plan, …/comment, …/apply):
     KITARU_GITLAB_TOKEN (a project access token, scope api) for …/comment and for …/apply;
     credentials of the store, to read for …/plan, to write for …/apply
  2. Settings > Repository: protect the branch {branch}; the environment {name}/apply too
  3. Build > Pipeline schedules: one a day, to look for drift
then commit the files and open a merge request"""


# --- the summary, the outputs and the run of a job --------------------------------------------------------------------

LONGEST_SUMMARY = 900_000
"""Bytes; a step's summary may have 1 MiB."""


def warn(text: str) -> None:
    """An annotation of the job; nothing outside GitHub."""
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print(f"::warning title=kitaru::{escaped(text)}", file=sys.stderr)


def check_reviewed(plan: Any, places: Sequence[Path]) -> None:
    """Print reviewed changes that are not left to do. Raises ``KitaruConflictError`` for changes without a review."""
    from kitaru.client.ci import must_be_reviewed

    try:
        gone = must_be_reviewed(plan, places)
    except KitaruConflictError as error:
        text = "\n".join(f"    {line}" for line in error.message.splitlines())
        add_summary(lambda: f"### Not applied\n\n{text}\n")
        raise
    for line in gone:
        print(f"note: reviewed, and not left to do: {line}", file=sys.stderr)


def add_summary(made: Callable[[], str]) -> None:
    """Add Markdown to the job's summary, if there is one. A summary that can't be written is no error."""
    if place := os.environ.get("GITHUB_STEP_SUMMARY"):
        body = made().encode()
        if len(body) > LONGEST_SUMMARY:
            body = body[:LONGEST_SUMMARY].decode("utf-8", "ignore").rpartition("\n")[0].encode()
        _append(place, body + b"\n", "GITHUB_STEP_SUMMARY")


def add_outputs(**values: object) -> None:
    """Give the step these outputs, if it can have any; True is ``true``. No value can end its own text."""
    if place := os.environ.get("GITHUB_OUTPUT"):
        text = ""
        for name, value in values.items():
            mark = f"end_{os.urandom(16).hex()}"
            shown = str(value).lower() if isinstance(value, bool) else value
            text += f"{name}<<{mark}\n{shown}\n{mark}\n"
        _append(place, text.encode(), "GITHUB_OUTPUT")


def run_url(environ: Mapping[str, str] = os.environ) -> str:
    """The address of the run that this job is part of, on GitHub or GitLab; empty if CI has none."""
    server, repository, run = (environ.get(f"GITHUB_{name}", "") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID"))
    # On GitLab the job that comments is not the one whose log has the plan: the pipeline leads to both.
    theirs = environ.get("CI_PIPELINE_URL") or environ.get("CI_JOB_URL") or ""
    url = f"{server}/{repository}/actions/runs/{run}" if server and repository and run else theirs
    return url if re.fullmatch(r"https?://[^\s()<>\[\]]+", url) else ""  # nothing that ends a link in Markdown


def _append(place: str, body: bytes, name: str) -> None:
    try:
        with open(place, "ab") as stream:
            stream.write(body)
    except OSError as error:
        print(f"note: {name} can't be written: {error.strerror}", file=sys.stderr)
