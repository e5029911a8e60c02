"""The scope of running code: a flow body, a checkpoint, or neither."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from kitaru.errors import KitaruContextError

if TYPE_CHECKING:
    from kitaru.flows.checkpoint import Checkpoint
    from kitaru.flows.future import CheckpointFuture, CheckpointFutures
    from kitaru.flows.waiting import Question


class Scope(Protocol):
    """A running flow or checkpoint, for the code in it. ``KitaruContextError`` for a call that it doesn't allow."""

    @property
    def process(self) -> int:
        """The id of the process that runs the execution, or the isolated checkpoint: no other one records anything."""
        ...

    def call(self, checkpoint: Checkpoint[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run it and return its value; an awaitable for an async checkpoint in an async flow."""
        ...

    def submit(
        self, checkpoint: Checkpoint[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], after: Any
    ) -> CheckpointFuture[Any]:
        """Start it and return at once."""
        ...

    def fan_out(
        self,
        checkpoint: Checkpoint[..., Any],
        calls: Iterable[tuple[Any, ...]],
        constants: dict[str, Any],
        after: Any,
        max_concurrency: int | None,
        collect: bool,
    ) -> CheckpointFutures[Any]:
        """Start one call for each tuple of arguments, at most ``max_concurrency`` at once.

        Unless ``collect``, none begins any more once one of them has failed.
        """
        ...

    def wait(self, question: Question) -> Any:
        """The answer to a question; an awaitable of it in an async flow."""
        ...


class InCheckpoint:
    """The rules of a checkpoint's body, which any scope of one keeps. ``name``: the checkpoint's."""

    __slots__ = ()
    name: str

    def call(self, checkpoint: Checkpoint[..., Any], *_: Any) -> NoReturn:
        """Refused: ``KitaruContextError``."""
        name = checkpoint.name
        raise KitaruContextError(
            f"checkpoint {name!r} was called inside checkpoint {self.name!r}",
            hint=f"Checkpoints don't nest. Call {name} in the flow body, or its plain function: {name}.func(...).",
        )

    submit = call
    fan_out = call

    def wait(self, _question: Question) -> NoReturn:
        """Refused, too: an attempt that waits for a person could neither be timed nor tried again."""
        raise KitaruContextError(
            f"wait() was called inside checkpoint {self.name!r}",
            hint="Call it in the flow body, and pass the answer to the checkpoint.",
        )


scope: ContextVar[Scope | None] = ContextVar("kitaru_scope", default=None)


def find_scope(verb: str) -> Scope | None:
    """The scope of the code that calls ``verb``; None outside every flow.

    ``KitaruContextError`` in a process that was forked in one: it has the memory of its parent, and not its threads.
    """
    current = scope.get()
    if current is not None:
        must_run_in(current.process, verb)
    return current


def must_run_in(process: int, verb: str) -> None:
    """``KitaruContextError`` in a process that was forked from that one: nothing of ``verb`` would be kept."""
    if os.getpid() != process:
        raise KitaruContextError(
            f"{verb} was called in a process that was forked from the one that runs the execution, and records nothing",
            hint="Call it in the flow's own process, or return the value to it, and go on with that there.",
        )


def require_scope(checkpoint: str) -> Scope:
    """The scope of the code that calls ``checkpoint``; ``KitaruContextError`` if there is none."""
    current = find_scope(f"checkpoint {checkpoint!r}")
    if current is None:
        raise KitaruContextError(
            f"checkpoint {checkpoint!r} was called outside a flow",
            hint="Call it in the body of a function under @flow, and start that with .run(...). A thread of your own "
            "needs the flow's context: contextvars.copy_context().run(...); or use .submit().",
        )
    return current
