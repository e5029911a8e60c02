"""Commands and their options, the place that these make, and hints.

Of an option that is given twice the last one counts, so that a wrapper may give defaults.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kitaru.cli.terminal import Output, live_line, terminal
from kitaru.cli.views.words import command_line
from kitaru.errors import KitaruError, KitaruInputError, KitaruUsageError
from kitaru.model.jsonable import KeyGivenTwice, parse_json

if TYPE_CHECKING:
    from kitaru.client import KitaruClient


def option(form: str, about: str, **more: Any) -> Any:
    """An option by its names and its value, if it takes one: ``option("--message,-m TEXT", "Why.")``."""
    names, _, value = form.partition(" ")
    return typer.Option(*names.split(","), metavar=value or None, help=about, **more)


def argument(name: str, about: str) -> Any:
    """An argument: ``argument("FLOW", "The flow's name.")``."""
    return typer.Argument(metavar=name, help=about)


TagOption = Annotated[str | None, option("--tag TAG", "The route to follow. Default: default.")]
VersionOption = Annotated[int | None, option("--version N", "The exact version.", min=1)]
FlowArgument = Annotated[str, argument("FLOW", "The flow's name.")]


@dataclass(frozen=True, slots=True)
class Options:
    """The options that several commands share, in the order of their help. The last ones make the place of a command.

    ``overlay`` is not called ``target``, which some commands have for an argument of their own.
    """

    inputs: Annotated[
        str | None, option("--input JSON", "Inputs: a JSON object, or @file (@- for standard input).")
    ] = None
    stack: Annotated[str | None, option("--stack NAME", "The stack to run on, instead of the flow's own.")] = None
    wait: Annotated[bool, option("--wait", "Wait for the result; exit 1 where it failed.")] = False
    timeout: Annotated[float | None, option("--timeout SECONDS", "Seconds to wait; the execution goes on.", min=0)] = (
        None
    )
    prune: Annotated[bool, option("--prune", "Also remove what the manifest once named and no longer does.")] = False
    force: Annotated[
        bool, option("--force", "Pass over rollbacks, and over commits that are live and not in this one.")
    ] = False
    allow_dirty: Annotated[
        bool, option("--allow-dirty", "Build from files that are not committed, and record that.")
    ] = False
    message: Annotated[str, option("--message,-m TEXT", "Why, for the history.")] = ""
    manifest_only: Annotated[bool, option("--manifest-only", "Change the manifest alone, for a pull request.")] = False
    no_manifest: Annotated[bool, option("--no-manifest", "Change the store alone.")] = False
    yes: Annotated[bool, option("--yes,-y", "Don't ask.")] = False
    store: Annotated[
        str | None, option("--store URL", "Where everything is kept: file://path, s3://bucket/prefix.")
    ] = None
    project: Annotated[str | None, option("--project NAME", "The project in that store.")] = None
    manifest: Annotated[
        Path | None, option("--manifest,-f FILE", "The manifest. Default: the nearest kitaru.yaml.")
    ] = None
    overlay: Annotated[str | None, option("--target NAME", "The manifest's overlay of that name.")] = None
    output: Annotated[Output, option("--output,-o", "text, or JSON on standard output.")] = Output.text

    def connect(self) -> KitaruClient:
        """A client that works at this place."""
        # Late: help, completion and usage errors need no client, and its import is most of a short command's time.
        from kitaru.client import KitaruClient

        return KitaruClient(
            store=self.store,
            project=self.project,
            manifest=self.manifest,
            target=self.overlay,
            reporter=live_line,
            hosts_runs=True,
        )

    @property
    def place(self) -> list[str]:
        """The options that lead another command to the same place: ``["--store", "s3://bucket/prefix"]``."""
        given = {"--store": self.store, "--project": self.project, "-f": self.manifest, "--target": self.overlay}
        return [str(word) for name, value in given.items() if value is not None for word in (name, value)]

    @property
    def edit(self) -> dict[str, Any]:
        """Arguments of a verb that moves routes. Raises ``KitaruUsageError`` if both kinds of edit are excluded."""
        if self.manifest_only and self.no_manifest:
            raise KitaruUsageError(
                "--manifest-only and --no-manifest exclude each other", hint="give neither to change store and manifest"
            )
        mode = "only" if self.manifest_only else "leave" if self.no_manifest else "edit"
        return {"manifest": mode, "message": self.message}


PLACE = ("store", "project", "manifest", "overlay")
EDIT = ("message", "manifest_only", "no_manifest")

COMMANDS: dict[str, Command] = {}
"""Every command by its words: ``flow deployments list``."""

Function = Callable[..., None]


def command(
    words: str, *options: str, place: Sequence[str] = PLACE, form: Any = None
) -> Callable[[Function], Function]:
    """A function as the command of these words, such as ``flow list``.

    It gets an ``Options`` first, and its users those of ``options`` and ``place``, and ``-o``, of the type ``form``.
    """

    def register(function: Function) -> Function:
        COMMANDS[words] = Command(words, {*options, *place, "output"}, form, function)
        if "store" in place:
            terminal.placed.add(words)
        return function

    return register


class Command:
    """A function as a command with more options than it spells.

    Not a function with a signature of its own: to read all those takes longer than most commands, and only the one
    that is typed is asked for its own.
    """

    def __init__(self, words: str, shared: Collection[str], form: Any, function: Function) -> None:
        self.words, self.shared, self.form, self.function = words, shared, form, function
        self.__name__, self.__doc__ = function.__name__, function.__doc__
        self.__annotations__: dict[str, Any] = {}  # the signature has them

    @property
    def __signature__(self) -> inspect.Signature:
        own = [*inspect.signature(self.function, eval_str=True).parameters.values()]
        options = inspect.signature(Options, eval_str=True).parameters.values()
        kind = inspect.Parameter.KEYWORD_ONLY
        added = [one.replace(kind=kind) for one in options if one.name in self.shared]
        if self.form is not None:
            added[-1] = added[-1].replace(annotation=self.form)
        return inspect.Signature([*own[1:], *added])

    def __call__(self, *, output: Any = Output.text, **given: Any) -> None:
        form = Output.json if output == Output.json else Output.text
        terminal.begin(self.words.replace(" ", "."), form)
        shared = {name: given.pop(name) for name in self.shared if name in given}
        options = Options(**shared, output=output)
        terminal.place = options.place
        self.function(options, **given)


EXAMPLE = '{"topic": "durable execution"}'


def read_argument(text: str, option: str, error: type[KitaruError] = KitaruUsageError) -> tuple[str, str]:
    """The text of an argument and its name in errors: itself, or the content of a file (``@file``, ``@-``)."""
    if not text.startswith("@"):
        return text, option
    name = text[1:]
    try:
        return typer.get_text_stream("stdin").read() if name == "-" else Path(name).read_text("utf-8-sig"), name
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"{name} can't be read: {problem}", hint=f"{option} @file.json") from problem


def parse_argument(text: str, name: str, hint: str, error: type[KitaruError] = KitaruUsageError) -> Any:
    """The JSON value of an argument; ``name`` and ``hint`` are for the error of one that is not JSON."""
    try:
        return parse_json(text)
    except KeyGivenTwice as problem:
        raise error(f"{name}: {problem}", hint="keep one of the two") from problem
    except ValueError as problem:
        raise error(f"{name} is not JSON: {problem}", hint=hint) from problem


def parse_inputs(text: str | None, option: str = "--input") -> dict[str, Any] | None:
    """``--input``: a JSON object, or one in a file. ``option`` is its name in errors."""
    if text is None:
        return None
    hint = f"{option} '{EXAMPLE}'"
    body, name = read_argument(text, option, KitaruInputError)
    inputs = parse_argument(body, name, hint, KitaruInputError)
    if not isinstance(inputs, dict):
        raise KitaruInputError(f"{name} holds {type(inputs).__name__}, expected an object of inputs by name", hint=hint)
    return inputs


EXAMPLES: Mapping[str, Any] = {"string": "...", "integer": 1, "number": 1.0, "boolean": True}
PLAIN = {"type", "title", "description"}
"""Keys of a parameter's schema beside which any value of its type will do."""


def example_inputs(schema: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any] | None:
    """A value for each required parameter that ``given`` lacks: ``{"topic": "..."}``; None if that takes more."""
    made = {}
    for name in schema.get("required", ()):
        if name in given:
            continue
        one = schema.get("properties", {}).get(name, {})
        if one.get("enum"):
            made[name] = one["enum"][0]
        elif one.get("type") in EXAMPLES and one.keys() <= PLAIN:
            made[name] = EXAMPLES[one["type"]]
        else:
            return None
    return made


def try_it(flow: str, snapshot: Any, place: Sequence[str], *route: str) -> list[str]:
    """The command that starts the flow just released; none if its inputs can't be made up."""
    inputs = example_inputs(snapshot.input_schema, snapshot.inputs)
    if inputs is None:
        return []
    given = ["--input", json.dumps(inputs, ensure_ascii=False)] if inputs else []
    return [f"try it: {command_line('kitaru invoke', flow, *route, *given, '--wait', *place)}"]
