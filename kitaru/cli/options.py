"""Options of commands, the place that they make, and hints.

An option for the subject of a command (``ONCE``) may not be given twice with different values. Of the others, such as
``--store``, the last one counts, so that a wrapper may give defaults.
"""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from kitaru.cli.terminal import Output, progress, terminal
from kitaru.errors import KitaruInputError
from kitaru.model.jsonable import KeyGivenTwice, parse_json

if TYPE_CHECKING:
    from kitaru.client import KitaruClient


ONCE = frozenset(
    {
        "--input",
        "--args",
        "--tag",
        "--version",
        "--from",
        "--to",
        "--value",
        "--wait",
        "--idempotency-key",
        "--image",
        "--project",
    }
)
"""Those options, in whichever command they take one value."""

TELLING = frozenset({"--input", "--args", "--value", "--image"})
"""No message repeats a value of these: it may be secret."""


class GivenOnce(TyperCommand):
    """A command that refuses two values for one of ``ONCE``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """A usage error for two different values; all else as any command."""
        parser: Any = self.make_parser(ctx)
        watched = [param for param in self.get_params(ctx) if ONCE.intersection(param.opts) and _takes_one(param)]
        for param in watched:
            parser.add_option(obj=param, opts=param.opts, dest=param.name, action="append")
        given: dict[str, Any] = {}
        with suppress(Exception):  # words that no option takes: the parser proper says so
            given, _, _ = parser.parse_args(args=list(args))
        for param in watched:
            values = list(dict.fromkeys(given.get(param.name or "") or ()))
            if len(values) > 1:
                option = next(one for one in param.opts if one in ONCE)
                shown = "with different values" if option in TELLING else f"as {values[0]} and as {values[1]}"
                ctx.fail(f"{option} is given twice, {shown}: leave one of them out")
        return super().parse_args(ctx, args)


def _takes_one(param: Any) -> bool:
    """Whether it is an option with a value, of which only the last would count."""
    return not (param.param_type_name != "option" or param.is_flag or param.count or param.multiple)


def refuse_doubles(app: typer.Typer) -> None:
    """Have all commands of ``app``, and of its groups, be such ones."""
    for command in app.registered_commands:
        command.cls = GivenOnce
    for group in app.registered_groups:
        if group.typer_instance is not None:
            refuse_doubles(group.typer_instance)


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="text, or JSON on standard output.")]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="Where everything is kept: file://path, s3://bucket/prefix."),
]
ProjectOption = Annotated[str | None, typer.Option("--project", metavar="NAME", help="The project in that store.")]
ManifestOption = Annotated[
    Path | None,
    typer.Option("--manifest", "-f", metavar="FILE", help="The manifest. Default: the nearest kitaru.yaml."),
]
TargetOption = Annotated[
    str | None, typer.Option("--target", metavar="NAME", help="The manifest's overlay of that name.")
]
TagOption = Annotated[str | None, typer.Option("--tag", metavar="TAG", help="The route to follow. Default: default.")]
VersionOption = Annotated[int | None, typer.Option("--version", metavar="N", min=1, help="The exact version.")]
InputOption = Annotated[
    str | None, typer.Option("--input", metavar="JSON", help="Inputs: a JSON object, or @file (@- for standard input).")
]
WaitOption = Annotated[bool, typer.Option("--wait", help="Wait for the result; exit 1 where it failed.")]
TimeoutOption = Annotated[
    float | None, typer.Option("--timeout", metavar="SECONDS", min=0, help="Seconds to wait; the execution goes on.")
]
DirtyOption = Annotated[
    bool, typer.Option("--allow-dirty", help="Build from files that are not committed, and record that.")
]
ManifestOnly = Annotated[bool, typer.Option("--manifest-only", help="Change the manifest alone, for a pull request.")]
NoManifest = Annotated[bool, typer.Option("--no-manifest", help="Change the store alone.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]
MessageOption = Annotated[str, typer.Option("--message", "-m", metavar="TEXT", help="Why, for the history.")]
FlowArgument = Annotated[str, typer.Argument(metavar="FLOW", help="The flow's name.")]
TagArgument = Annotated[str, typer.Argument(metavar="TAG", help="The tag.")]


@dataclass(frozen=True, slots=True)
class Place:
    """The place that a command works at, by its options. ``form`` is the value of ``-o``."""

    store: str | None = None
    project: str | None = None
    manifest: Path | None = None
    target: str | None = None
    form: str = Output.text

    def connect(self) -> KitaruClient:
        """A client that works there."""
        # Late: help, completion and usage errors need no client, and its import is most of a short command's time.
        from kitaru.client import KitaruClient

        return KitaruClient(
            store=self.store,
            project=self.project,
            manifest=self.manifest,
            target=self.target,
            reporter=progress,
            hosts_runs=True,
        )

    @property
    def options(self) -> list[str]:
        """The options that lead another command to the same place."""
        given = {"--store": self.store, "--project": self.project, "-f": self.manifest, "--target": self.target}
        return [str(word) for name, value in given.items() if value is not None for word in (name, value)]


PLACE = (
    ("store", StoreOption),
    ("project", ProjectOption),
    ("manifest", ManifestOption),
    ("overlay", TargetOption),
)
"""The options that make a ``Place``; not ``target``, which some commands have for an argument of their own."""


def placed(command: str, form: Any = OutputOption) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command that works in a place: it gets a ``Place`` first, and its users the options of one, and ``-o``.

    ``command`` names it in its JSON; ``form`` is the type of its ``-o``.
    """
    terminal.placed.add(command.replace(".", " "))
    return lambda function: _Placed(command, form, function)


class _Placed:
    """A function as a command with more options than it spells.

    Not a function with a signature of its own: to read all those takes longer than most commands, and only the one
    that is typed is asked for its own.
    """

    def __init__(self, command: str, form: Any, function: Callable[..., None]) -> None:
        self.command, self.form, self.function = command, form, function
        self.__name__, self.__doc__ = function.__name__, function.__doc__
        self.__annotations__: dict[str, Any] = {}  # the signature has them

    @property
    def __signature__(self) -> inspect.Signature:
        _, *own = inspect.signature(self.function, eval_str=True).parameters.values()
        kind = inspect.Parameter.KEYWORD_ONLY
        added = [inspect.Parameter(name, kind, default=None, annotation=option) for name, option in PLACE]
        shown = inspect.Parameter("output", kind, default=Output.text, annotation=self.form)
        return inspect.Signature([*own, *added, shown])

    def __call__(self, *, output: str = Output.text, **given: Any) -> None:
        terminal.begin(self.command, Output.json if output == Output.json else Output.text)
        store, project, manifest, target = (given.pop(name, None) for name, _ in PLACE)
        place = Place(store, project, manifest, target, output)
        terminal.place = place.options
        self.function(place, **given)


EXAMPLE = '{"topic": "durable execution"}'


def parse_inputs(text: str | None, option: str = "--input") -> dict[str, Any]:
    """``--input``: a JSON object, or one in a file. ``option`` is its name in errors."""
    if text is None:
        return {}
    source = option
    if text.startswith("@"):
        source = text[1:]
        try:
            text = typer.get_text_stream("stdin").read() if source == "-" else Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise KitaruInputError(f"{source} can't be read: {error}", hint=f"{option} @file.json") from error
    try:
        found = parse_json(text)
    except KeyGivenTwice as error:
        raise KitaruInputError(f"{source}: {error}", hint="keep one of the two") from error
    except ValueError as error:
        raise KitaruInputError(f"{source} is not JSON: {error}", hint=f"""{option} '{EXAMPLE}'""") from error
    if not isinstance(found, dict):
        raise KitaruInputError(
            f"{source} holds {type(found).__name__}, expected an object of inputs by name",
            hint=f"""{option} '{EXAMPLE}'""",
        )
    return found


EXAMPLES: Mapping[str, Any] = {"string": "...", "integer": 1, "number": 1.0, "boolean": True}
PLAIN = {"type", "title", "description"}
"""Keys of a parameter's schema beside which any value of its type will do."""


def command_line(command: str, *words: str | Path) -> str:
    """``command`` and its words, quoted for a shell: ``kitaru invoke 'a b'``."""
    return " ".join([command, *(shlex.quote(str(word)) for word in words)])


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
