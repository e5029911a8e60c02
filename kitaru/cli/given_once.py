"""Options that say what a command is about: given twice with different values, none of them is taken by guess.

Of options that say where and how (a store, a limit, ``-o``) the last one counts, so that a wrapper may give defaults.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import typer
from typer.core import TyperCommand

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
"""Of these no message repeats a value: it may be secret."""


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
