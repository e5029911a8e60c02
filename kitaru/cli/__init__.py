"""Owns the command line: parse, call the client, print.

May import: client, model, errors.
Must never know: release, run: nothing is decided here.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from kitaru._version import __version__
from kitaru.cli import ci, consumer, executions, producer, routes, store
from kitaru.cli.options import OutputOption, refuse_doubles
from kitaru.cli.terminal import NOT_APPLIED, Output, progress, terminal
from kitaru.errors import KitaruError, KitaruUsageError

INTERRUPTED = 130

NO_SERVER = "no server is needed: commands work on the store itself, as in: kitaru flow list --store s3://bucket/prefix"

NOT_HERE = {"serve": NO_SERVER, "login": NO_SERVER, "logout": NO_SERVER, "auth": NO_SERVER}
"""Commands that people look for, and their hints."""


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


def version_command(output: OutputOption = Output.text) -> None:
    """Print the version."""
    terminal.begin("version", output)
    terminal.item({"version": __version__}, [f"kitaru {__version__}"])


COMMANDS: dict[str, Callable[..., None]] = {
    "init": producer.init,
    "validate": producer.validate,
    "plan": producer.plan,
    "apply": producer.apply,
    "deploy": routes.deploy,
    "build": routes.build,
    "import": producer.import_,
    "promote": routes.promote,
    "rollback": routes.rollback,
    "run": consumer.run,
    "invoke": consumer.invoke,
    "history": store.history,
    "blame": store.blame,
    "diff": store.diff,
    "schema": producer.schema,
    "version": version_command,
}
GROUPS = {"flow": consumer.flow_app, "executions": executions.app, "store": store.store_app, "ci": ci.app}
ADDED = (executions, routes)
"""Modules with commands for a group of another module."""


def assemble(*names: str) -> typer.Typer:
    """The command line with these commands and groups; with all of them, if none is named."""
    made = typer.Typer(
        name="kitaru",
        help="Git-native declarative deployments for durable Python flows.",
        epilog="To begin: kitaru init, then kitaru plan. COMMAND --help says more.",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    made.callback()(main)
    for name in names or (*COMMANDS, *GROUPS):
        if name in COMMANDS:
            made.command(name)(COMMANDS[name])
        else:
            made.add_typer(GROUPS[name], name=name)
    refuse_doubles(made)
    return made


app = assemble()


def _named(arguments: Sequence[str]) -> typer.Typer:
    """As much of the command line as these arguments can reach: Typer takes a while to read each signature."""
    first = arguments[0] if arguments else ""
    return assemble(first) if first in COMMANDS or first in GROUPS else app


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. A user's mistake ends in words, never in a traceback."""
    try:
        code = _carry_out(arguments)
        sys.stdout.flush()
    except OSError as error:
        return _unwritten(error)
    return code


def _carry_out(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["apply"]:
        terminal.left = NOT_APPLIED
    if arguments[:1] == ["plan"] and {"--drift", "--detailed-exitcode"}.intersection(arguments):
        # Then 2 is an answer, and a mistake in the options must not look like it, though nothing is read of them yet.
        terminal.detailed = True
    try:
        _must_be_here(arguments)
        code = typer.main.get_command(_named(arguments)).main(
            list(arguments), prog_name="kitaru", standalone_mode=False
        )
        if code == INTERRUPTED and not terminal.interrupted:
            # Typer makes an exit code of Ctrl-C by itself.
            return _interrupted()
        return code if isinstance(code, int) else 0
    except KitaruError as error:
        progress.close()
        terminal.error(error)
        return 1 if terminal.detailed else error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None and _is_output_stuck(error):
            raise
        progress.close()
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            return _wrong_usage(error, arguments)
        return _unexpected(error)


def _must_be_here(arguments: Sequence[str]) -> None:
    if arguments and arguments[0] in NOT_HERE:
        _foresee_output(arguments)
        terminal.command = arguments[0]
        raise KitaruUsageError(f"there is no command {arguments[0]} in this release; {NOT_HERE[arguments[0]]}")


def _foresee_output(arguments: Sequence[str]) -> None:
    """Take ``-o json`` from the bare words, for a command that went wrong before its options were read."""
    words = " ".join(arguments)
    if any(form in f" {words} " for form in (" -o json ", " --output json ", " -ojson ", " --output=json ")):
        terminal.chosen = Output.json


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
    progress.close()
    terminal.note(f"\n{terminal.left}")
    return INTERRUPTED


def _wrong_usage(error: Any, arguments: Sequence[str]) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        terminal.note(error.format_message())
        return int(error.exit_code)
    _foresee_output(arguments)
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
