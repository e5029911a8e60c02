"""A job on GitHub: its summary, its outputs, and remarks at lines of files."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kitaru.errors import KitaruConflictError, KitaruError, Problem

LONGEST_SUMMARY = 900_000
"""Bytes; a step's summary may have 1 MiB."""

MOST_REMARKS = 10
"""Of one step: GitHub shows no more."""

_LINKED = re.compile(r"https?://[^\s()<>\[\]]+")
"""An address that ends no link in Markdown."""


def add_plan(plan: Any, saved: Path | None) -> None:
    """A plan was made: the summary shows it; outputs ``changes``, ``generation`` and, if it was saved, ``plan``."""
    add_summary(lambda: _markdown(plan))
    place = {"plan": str(saved.absolute())} if saved is not None else {}
    add_outputs(changes=_yes(not plan.is_empty), generation=str(plan.base), **place)


def add_drift(plan: Any) -> None:
    """Drift was looked for: the summary shows it; outputs ``drift`` and ``generation``."""
    from kitaru.cli.views.plan_markdown import drift_markdown

    add_summary(lambda: drift_markdown(plan))
    if not plan.base and os.environ.get("GITHUB_ACTIONS") == "true":
        words = f"project {plan.project} was never applied in {plan.store}: is this the place to look?"
        print(f"::warning title=kitaru::{_data(words)}", file=sys.stderr)
    add_outputs(drift=_yes(bool(plan.drift)), generation=str(plan.base))


def add_applied(done: Any) -> None:
    """A plan was applied: the summary shows it; outputs ``changes`` and ``generation``."""
    head = f"### Applied: generation {done.generation}" if done.changed else "### Nothing to apply"
    add_summary(lambda: f"{head}\n\n{_markdown(done.plan)}")
    add_outputs(changes=_yes(done.changed), generation=str(done.generation))


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


def add_outputs(**values: str) -> None:
    """Give the step these outputs, if it can have any. A value may hold anything: it can't end its own text."""
    if place := os.environ.get("GITHUB_OUTPUT"):
        text = ""
        for name, value in values.items():
            mark = f"end_{os.urandom(16).hex()}"
            text += f"{name}<<{mark}\n{value}\n{mark}\n"
        _append(place, text.encode(), "GITHUB_OUTPUT")


def run_url(environ: Mapping[str, str] | None = None) -> str:
    """The address of the run that this job is part of, on GitHub or GitLab; empty if CI has none."""
    environ = os.environ if environ is None else environ
    server, repository, run = (environ.get(f"GITHUB_{name}", "") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID"))
    # On GitLab the job that comments is not the one whose log has the plan: the pipeline leads to both.
    theirs = environ.get("CI_PIPELINE_URL") or environ.get("CI_JOB_URL") or ""
    found = f"{server}/{repository}/actions/runs/{run}" if server and repository and run else theirs
    return found if _LINKED.fullmatch(found) else ""


def remarks(error: KitaruError, environ: Mapping[str, str] | None = None) -> list[str]:
    """The error as workflow commands, one for each problem with a place; nothing outside GitHub's jobs."""
    environ = os.environ if environ is None else environ
    if environ.get("GITHUB_ACTIONS") != "true":
        return []
    problems: tuple[Problem, ...] = getattr(error, "problems", ())
    placed = [problem for problem in problems if problem.file]
    if not placed:
        return [f"::error title=kitaru::{_data(error.message)}"]
    root = environ.get("GITHUB_WORKSPACE", "")
    return [_remark(problem, root) for problem in placed[:MOST_REMARKS]]


def _markdown(plan: Any) -> str:
    from kitaru.cli.views.plan_markdown import plan_markdown

    return plan_markdown(plan, run_url())


def _yes(whether: bool) -> str:
    return "true" if whether else "false"


def _remark(problem: Problem, root: str) -> str:
    where = {"file": _below(problem.file, root)}
    if problem.line:
        where |= {"line": str(problem.line), "col": str(problem.column or 1)}
    words = problem.message + (f"\nhint: {problem.hint}" if problem.hint else "")
    members = ",".join(f"{name}={_member(value)}" for name, value in {**where, "title": "kitaru"}.items())
    return f"::error {members}::{_data(words)}"


def _below(file: str, root: str) -> str:
    """The file relative to the repository, as GitHub wants it."""
    try:
        return Path(file).resolve().relative_to(Path(root or ".").resolve()).as_posix()
    except ValueError:
        return file


def _data(text: str) -> str:
    """Text that ends no command and begins none."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _member(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _append(place: str, body: bytes, name: str) -> None:
    try:
        with open(place, "ab") as stream:
            stream.write(body)
    except OSError as error:
        print(f"note: {name} can't be written: {error.strerror}", file=sys.stderr)
