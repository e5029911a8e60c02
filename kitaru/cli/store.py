"""Commands about the record and the store: history, blame, diff, verify, gc."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from datetime import timedelta
from typing import Annotated

import typer

from kitaru.cli.executions import ExecArgument
from kitaru.cli.options import FlowArgument, Options, argument, command, option
from kitaru.cli.terminal import terminal
from kitaru.cli.views.words import command_line
from kitaru.errors import KitaruUsageError


@command("history")
def history(
    at: Options,
    flow: Annotated[str | None, argument("FLOW", "Only what happened to this flow.")] = None,
    limit: Annotated[int, option("--limit N", "At most so many generations.", min=1)] = 20,
    everything: Annotated[bool, option("--all", "All generations there are.")] = False,
) -> None:
    """Show the changes of the store: actor, time, commit. Newest first. Exit code 1: one is missing or unreadable."""
    from kitaru.cli.views import history as view

    client = at.connect()
    page = client.history.list(flow, limit=None if everything else limit)
    project, width = client.session.project, terminal.room or view.WIDTH
    terminal.items(
        page.generations, lambda _: view.history_lines(page, flow, project, width=width), **page.gaps_to_json()
    )
    if note := view.chain_note(page):
        terminal.note(note)
    if not page.whole:
        raise typer.Exit(1)


@command("blame")
def blame(at: Options, exec_id: ExecArgument) -> None:
    """Show the commit of an execution, and the move that led to it."""
    from kitaru.cli.views import history as view

    width = terminal.room or view.WIDTH
    terminal.item(at.connect().history.blame(exec_id), lambda found: view.blame_lines(found, width=width))


@command("diff")
def diff(
    at: Options,
    flow: FlowArgument,
    before: Annotated[str, argument("A", "A version (1, v1) or a tag.")],
    after: Annotated[str, argument("B", "A version (2, v2) or a tag.")],
    full: Annotated[bool, option("--full", "Large files and long differences too.")] = False,
) -> None:
    """Show how two versions of a flow differ. From A to B: inputs, image, options, source."""
    from kitaru.cli.views import history as view

    difference = at.connect().history.diff(flow, before, after, full=full)
    if terminal.json:
        terminal.item(difference)
    else:
        # Source as it is: a difference written to a file is one that can be applied.
        terminal.raw("\n".join(view.diff_lines(difference, full=full, visible=sys.stdout.isatty())))


@command("store verify")
def verify(
    at: Options,
    deep: Annotated[
        bool, option("--deep", "Also every object that the newest state leads to, and every journal.")
    ] = False,
    expect: Annotated[
        str | None, option("--expect DIGEST", "A digest of the head, noted earlier: it must be there.")
    ] = None,
) -> None:
    """Check that the history was not changed. Every generation names the digest of the one before it.

    Exit code 0: sound, 1: not. Who rewrites the log from one entry to its end leaves a chain that fits, as who cuts off
    its newest entries and edits kitaru.lock does: note the digest of the head elsewhere, and ask for it with --expect.

    If kitaru.lock is ahead of the log, or denies it, plan and every verb that writes refuse. After a restore from a
    backup that lacks the newest generations: look at the result of this command, then delete PROJECT/kitaru.lock.
    """
    from kitaru.cli.views import history as view

    if expect is not None and not expect.strip():
        raise KitaruUsageError(
            "--expect is empty: expected the digest that was noted",
            hint="kitaru store verify prints the digest of the newest generation",
        )
    verified = at.connect().history.verify(deep=deep, expect=expect or "")
    terminal.item(verified, view.verified_lines)
    if not verified.sound:
        raise typer.Exit(1)


@command("store copy")
def copy(
    at: Options,
    source: Annotated[str, argument("FROM", "The store that has the project: file://path, s3://bucket/prefix.")],
    to: Annotated[str, argument("TO", "The store that is to have it, too.")],
) -> None:
    """Copy the project to another store, and verify the copy. Again, it copies what came since.

    Exit code 0: the copy is sound, 1: not. An execution that is not finished can be resumed in both stores: finish or
    cancel it before.
    """
    from kitaru.cli.views import history as view

    copied = replace(at, store=source).connect().housekeeping.copy(to)
    terminal.item(copied, view.copied_lines)
    if not copied.verified.sound:
        raise typer.Exit(1)


# --- gc ---------------------------------------------------------------------------------------------------------------

AGE = "A number and m (minutes), h (hours), d (days) or w (weeks): 90d."
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@command("store gc", "yes")
def gc(
    at: Options,
    delete: Annotated[bool, option("--delete", "Remove it; without this, only say what would go.")] = False,
    keep_versions: Annotated[
        int | None, option("--keep-versions N", "Delete versions but the newest N of each flow.", min=1)
    ] = None,
    older_than: Annotated[str | None, option("--older-than AGE", f"Delete versions that are older. {AGE}")] = None,
    executions_older_than: Annotated[
        str | None, option("--executions-older-than AGE", f"Remove executions that ended longer ago. {AGE}")
    ] = None,
    grace: Annotated[
        str | None, option("--grace AGE", f"Nothing goes that was needed within it; default 24h. {AGE}")
    ] = None,
    local: Annotated[bool, option("--local", "This machine's caches instead: environments and sources.")] = False,
    unused_for: Annotated[
        str | None, option("--unused-for AGE", f"With --local: unused for so long; default 30d. {AGE}")
    ] = None,
) -> None:
    """Find garbage in the store, and remove it with --delete.

    Garbage is an object that nothing needs any more. Versions and executions go only by an option.

    A version never goes that a route, a label, a hold or an unfinished execution needs; with both --keep-versions and
    --older-than, those go that are outside of both. The objects of deleted versions go one grace period later.

    An execution goes only when it has completed, failed or was cancelled; one that waits, runs or is lost stays,
    however old it is. With it go its journal, logs, results, artifacts and idempotency key.

    Others may work on the store meanwhile, but not with --grace 0d.
    """
    from kitaru.cli.views import history as view

    housekeeping = at.connect().housekeeping
    asked = {"older_than": older_than, "executions_older_than": executions_older_than, "grace": grace}
    texts = {f"--{name.replace('_', '-')}": text for name, text in asked.items() if text is not None}
    numbers = ["--keep-versions", str(keep_versions)] if keep_versions is not None else []
    given = [*numbers, *(word for option in texts.items() for word in option)]
    if local:
        if given:
            raise KitaruUsageError(f"--local takes no {', '.join(given[::2])}", hint="leave out the one or the other")
        again = command_line("kitaru store gc --delete --local", *(["--unused-for", unused_for] if unused_for else []))
        pruned = housekeeping.prune_caches(delete=delete, unused_for=_age("--unused-for", unused_for or "30d"))
        terminal.item(pruned, lambda _: view.pruned_lines(pruned, again))
        return
    if delete:
        again = command_line("kitaru store gc --delete", *given, "--yes")
        terminal.confirm("Remove garbage from the store, for good?", again, yes=at.yes)
    ages = {option[2:].replace("-", "_"): _age(option, text) for option, text in texts.items()}
    collected = housekeeping.collect(delete=delete, keep_versions=keep_versions, **ages)
    again = command_line("kitaru store gc --delete", *given, *at.place)
    terminal.item(collected, lambda _: view.collected_lines(collected, again))


def _age(option: str, text: str) -> timedelta:
    age = re.fullmatch(r"(\d{1,6})([mhdw])", text.strip())
    if age is None or (option not in ("--grace", "--unused-for") and int(age[1]) == 0):
        raise KitaruUsageError(f"{option} {text}: expected an age: a number and m, h, d or w", hint=f"{option} 90d")
    return timedelta(**{UNITS[age[2]]: int(age[1])})
