"""Owns the command line: parse, call the client, print.

May import: client, model, errors.
Must never know: release, run: nothing is decided here.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from kitaru._version import __version__
from kitaru.cli import ci, executions, producer, routes, store  # noqa: F401 - each registers its commands
from kitaru.cli.options import COMMANDS, Options, command
from kitaru.cli.terminal import Output, terminal
from kitaru.errors import KitaruError, KitaruUsageError

INTERRUPTED = 130
LEFT = "interrupted; nothing that was not yet committed has changed"
NOT_APPLIED = "interrupted; no route has moved"

OF_A_SERVER = ("serve", "login", "logout", "auth")
"""Commands that people look for."""

GROUPS = {
    "flow": "Flows of the project, their versions and routes.",
    "flow deployments": "Released versions of a flow.",
    "executions": "Executions: what ran, how it went, and how to go on.",
    "store": "The store: whether it is sound, and what in it is garbage.",
    "ci": "Plan on pull requests, apply on merge.",
}
ORDER = (
    *("init", "validate", "plan", "apply", "deploy", "build", "import", "promote", "rollback", "run", "invoke"),
    *("history", "blame", "diff", "schema", "version", *GROUPS),
)
"""The first words of all commands, in the order of the help."""


def _version(wanted: bool) -> None:
    if wanted:
        print(f"kitaru {__version__}")
        raise typer.Exit


def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Git-native declarative deployments for durable Python flows."""


@command("version", place=())
def version(_: Options) -> None:
    """Print the version."""
    terminal.item({"version": __version__}, [f"kitaru {__version__}"])


def assemble(first: str = "") -> typer.Typer:
    """The command line: all of it, or as much as begins with the word ``first``: Typer takes a while to read each."""
    app = typer.Typer(
        name="kitaru",
        help="Git-native declarative deployments for durable Python flows.",
        epilog="To begin: kitaru init, then kitaru plan. COMMAND --help says more.",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(main)
    groups = {"": app}
    for path, about in GROUPS.items():
        parent, _, name = path.rpartition(" ")
        groups[path] = typer.Typer(help=about, no_args_is_help=True)
        groups[parent].add_typer(groups[path], name=name)
    for words in sorted(COMMANDS, key=lambda words: ORDER.index(words.split()[0])):
        if first not in ORDER or words.split()[0] == first:
            path, _, name = words.rpartition(" ")
            groups[path].command(name)(COMMANDS[words])
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. A user's mistake ends in words, never in a traceback."""
    try:
        code = _carry_out(arguments)
        sys.stdout.flush()
    except OSError as error:
        return _unwritten(error)
    return code


def _carry_out(arguments: Sequence[str]) -> int:
    first, words = (arguments[0] if arguments else ""), f" {' '.join(arguments)} "
    # Of a command that goes wrong before its options are read, the bare words say how to tell that.
    forms = (" -o json ", " --output json ", " -ojson ", " --output=json ")
    terminal.chosen = Output.json if any(form in words for form in forms) else Output.text
    terminal.left = NOT_APPLIED if first == "apply" else LEFT
    # Then 2 is an answer, and a mistake in the options must not look like it.
    terminal.detailed = first == "plan" and not {"--drift", "--detailed-exitcode"}.isdisjoint(arguments)
    try:
        if first in OF_A_SERVER:
            terminal.command = first
            raise KitaruUsageError(
                f"there is no command {first} in this release; no server is needed: commands work on the store "
                "itself, as in: kitaru flow list --store s3://bucket/prefix"
            )
        app = typer.main.get_command(assemble(first))
        code = app.main(list(arguments), prog_name="kitaru", standalone_mode=False)
        if code == INTERRUPTED and not terminal.interrupted:
            # Typer makes an exit code of Ctrl-C by itself.
            return _interrupted()
        return code if isinstance(code, int) else 0
    except KitaruError as error:
        terminal.error(error)
        return 1 if terminal.detailed else error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None and _is_output_stuck(error):
            raise
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            return _wrong_usage(error)
        return _unexpected(error)


def _is_output_stuck(error: OSError) -> bool:
    """Whether it is standard output that failed: then it takes nothing more, not so much as the end of a line."""
    if isinstance(error, BrokenPipeError):
        return True
    try:
        print(flush=True)
    except OSError:
        return True
    return False


def _unwritten(error: OSError) -> int:
    # What is left to print interests nobody, or has no place: the way out must not try again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
        terminal.note(f"error: can't write to standard output: {error.strerror or error}")
    return 1


def _interrupted() -> int:
    terminal.note(f"\n{terminal.left}")
    return INTERRUPTED


def _wrong_usage(error: Any) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        terminal.note(error.format_message())
        return int(error.exit_code)
    if context is not None:
        terminal.command = ".".join(context.command_path.split()[1:])
        terminal.note(context.get_usage())
    path = context.command_path if context is not None else "kitaru"
    terminal.error(KitaruUsageError(error.format_message().replace(": Value error, ", ": "), hint=f"{path} --help"))
    return 1 if terminal.detailed else int(error.exit_code)


def _unexpected(error: Exception) -> int:
    if os.environ.get("KITARU_DEBUG"):
        traceback.print_exc()
    place = traceback.extract_tb(error.__traceback__)[-1]
    terminal.note(f"error: this is a defect of Kitaru {__version__}: {type(error).__name__}: {error}")
    terminal.note(f"  at {Path(place.filename).name}:{place.lineno} in {place.name}")
    terminal.note("hint: run it again with KITARU_DEBUG=1 and report what it prints")
    return 1
