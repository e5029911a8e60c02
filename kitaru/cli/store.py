"""Commands about the record and the store: history, blame, diff, verify, gc."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from kitaru.cli.options import FlowArgument, Place, YesOption, placed
from kitaru.cli.terminal import progress, terminal
from kitaru.errors import KitaruUsageError

if TYPE_CHECKING:
    from kitaru.client import KitaruClient


@placed("history")
def history(
    at: Place,
    flow: Annotated[str | None, typer.Argument(metavar="FLOW", help="Only what happened to this flow.")] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="At most so many generations.")] = 20,
    everything: Annotated[bool, typer.Option("--all", help="All generations there are.")] = False,
) -> None:
    """Show the changes of the store: actor, time, commit. Newest first. Exit code 1: one is missing or unreadable."""
    client = at.connect()
    happened = client.history.list(flow, limit=None if everything else limit)
    from kitaru.cli.views import history as view

    width, project = terminal.room or view.WIDTH, client.session.project
    lines = [] if terminal.json else view.history_lines(happened, flow, project, terminal.style, width=width)
    terminal.items(happened.generations, lines, **happened.gaps_to_json())
    if note := view.chain_note(happened):
        terminal.note(note)
    if not happened.whole:
        raise typer.Exit(1)


@placed("blame")
def blame(
    at: Place,
    exec_id: Annotated[str, typer.Argument(metavar="EXEC_ID", help="The execution's id, or the end of it.")],
) -> None:
    """Show the commit of an execution, and the move that led to it."""
    client = at.connect()
    found = client.history.blame(exec_id)
    from kitaru.cli.views import history as view

    terminal.item(found, view.blame_lines(found, terminal.style, width=terminal.room or view.WIDTH))


@placed("diff")
def diff(
    at: Place,
    flow: FlowArgument,
    before: Annotated[str, typer.Argument(metavar="A", help="A version (1, v1) or a tag.")],
    after: Annotated[str, typer.Argument(metavar="B", help="A version (2, v2) or a tag.")],
    full: Annotated[bool, typer.Option("--full", help="Large files and long differences too.")] = False,
) -> None:
    """Show how two versions of a flow differ. From A to B: inputs, image, options, source."""
    client = at.connect()
    found = client.history.diff(flow, before, after, full=full)
    progress.close()
    from kitaru.cli.views import history as view

    seen = sys.stdout.isatty()
    if terminal.json:
        terminal.item(found)
    else:
        # Source as it is: a difference written to a file is one that can be applied.
        terminal.raw("\n".join(view.diff_lines(found, terminal.style, full=full, visible=seen)))


store_app = typer.Typer(help="The store: whether it is sound, and what in it is garbage.", no_args_is_help=True)


@store_app.command("verify")
@placed("store.verify")
def verify(
    at: Place,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also every object that the newest state leads to, and every journal.")
    ] = False,
    expect: Annotated[
        str | None,
        typer.Option("--expect", metavar="DIGEST", help="A digest of the head, noted earlier: it must be there."),
    ] = None,
) -> None:
    """Check that the history was not changed. Every generation names the digest of the one before it.

    Exit code 0: sound, 1: not. Who rewrites the log from one entry to its end leaves a chain that fits, as who cuts off
    its newest entries and edits kitaru.lock does: note the digest of the head elsewhere, and ask for it with --expect.

    If kitaru.lock is ahead of the log, or denies it, plan and every verb that writes refuse. After a restore from a
    backup that lacks the newest generations: look at the result of this command, then delete PROJECT/kitaru.lock.
    """
    if expect is not None and not expect.strip():
        raise KitaruUsageError(
            "--expect is empty: expected the digest that was noted",
            hint="kitaru store verify prints the digest of the newest generation",
        )
    client = at.connect()
    found = client.history.verify(deep=deep, expect=expect or "")
    progress.close()
    from kitaru.cli.views import history as view

    terminal.item(found, view.verified_lines(found, terminal.style))
    if not found.sound:
        raise typer.Exit(1)


# --- gc ---------------------------------------------------------------------------------------------------------------

AGE = "A number and m (minutes), h (hours), d (days) or w (weeks): 90d."
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@store_app.command("gc")
@placed("store.gc")
def gc(
    at: Place,
    delete: Annotated[bool, typer.Option("--delete", help="Remove it; without this, only say what would go.")] = False,
    yes: YesOption = False,
    keep_versions: Annotated[
        int | None,
        typer.Option("--keep-versions", metavar="N", min=1, help="Delete versions but the newest N of each flow."),
    ] = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="AGE", help=f"Delete versions that are older. {AGE}")
    ] = None,
    executions_older_than: Annotated[
        str | None,
        typer.Option("--executions-older-than", metavar="AGE", help=f"Remove executions that ended longer ago. {AGE}"),
    ] = None,
    grace: Annotated[
        str, typer.Option("--grace", metavar="AGE", help=f"Nothing goes that was written or needed within it. {AGE}")
    ] = "24h",
    local: Annotated[
        bool, typer.Option("--local", help="This machine's caches instead: environments and sources.")
    ] = False,
    unused_for: Annotated[
        str, typer.Option("--unused-for", metavar="AGE", help=f"With --local: what nobody used for so long. {AGE}")
    ] = "30d",
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

    client = at.connect()
    terms: dict[str, str | int | None] = {"--keep-versions": keep_versions, "--older-than": older_than}
    terms |= {"--executions-older-than": executions_older_than, "--grace": grace if grace != "24h" else None}
    if local:
        if wrong := [name for name, value in terms.items() if value is not None]:
            raise KitaruUsageError(f"--local takes no {', '.join(wrong)}", hint="leave out the one or the other")
        _prune(client, unused_for, delete=delete)
        return
    if delete:
        terminal.confirm("Remove garbage from the store, for good?", f"{_again(terms, [])} --yes", yes=yes)
    found = client.housekeeping.collect(
        delete=delete,
        keep_versions=keep_versions,
        older_than=_some_age("--older-than", older_than),
        executions_older_than=_some_age("--executions-older-than", executions_older_than),
        grace=_age("--grace", grace),
    )
    progress.close()
    terminal.item(found, view.collected_lines(found, _again(terms, at.options), terminal.style))


def _prune(client: KitaruClient, unused_for: str, *, delete: bool) -> None:
    from kitaru.cli.views import history as view

    pruned = client.housekeeping.prune_caches(delete=delete, unused_for=_age("--unused-for", unused_for))
    command = _again({"--local": True, "--unused-for": unused_for if unused_for != "30d" else None}, [])
    terminal.item(pruned, view.pruned_lines(pruned, command, terminal.style))


def _again(chosen: Mapping[str, object], place: Sequence[str]) -> str:
    """The command that removes the garbage that this one showed."""
    words = ["kitaru", "store", "gc", "--delete"]
    for name, value in chosen.items():
        if value is not None:
            words += [name] if value is True else [name, str(value)]
    return shlex.join([*words, *place])


def _some_age(option: str, text: str | None) -> timedelta | None:
    found = _age(option, text) if text is not None else None
    if found == timedelta(0):
        raise KitaruUsageError(f"{option} {text}: expected an age, nought is none", hint=f"{option} 90d")
    return found


def _age(option: str, text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,6})([mhdw])", text.strip())
    if found is None:
        raise KitaruUsageError(f"{option} {text}: expected a number and m, h, d or w", hint=f"{option} 90d")
    return timedelta(**{UNITS[found[2]]: int(found[1])})
