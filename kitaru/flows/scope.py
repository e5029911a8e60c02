"""The scope of running code, a flow body, a checkpoint or neither; and ``log``, ``save`` and ``load`` in it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from kitaru.errors import KitaruContextError
from kitaru.flows.options import check

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

    def log(self, metadata: dict[str, Any]) -> None:
        """Merge into the metadata of this call, or of the execution."""
        ...

    def save(self, name: str, value: Any, kind: str, tags: Sequence[str], serializer: str | None = None) -> str:
        """Keep a named value; its artifact's id."""
        ...

    def load(self, exec_id: str, name: str) -> Any:
        """The newest artifact of that name."""
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


def log(**metadata: Any) -> None:
    """Note ``metadata``: in a checkpoint about that call, in a flow's body about the execution.

    Objects merge with earlier ones, at every depth; any other value replaces the earlier one. Values are JSON-like;
    models and dataclasses become objects. It is recorded with the next entry of the journal, at the latest with the
    end of the checkpoint: a crash before that loses it. Raises ``KitaruContextError`` outside a flow,
    ``KitaruValueError`` for a value that has no JSON form.
    """
    _here("log").log(metadata)


def save(
    name: str,
    value: Any,
    *,
    type: str = "output",
    tags: Sequence[str] | None = None,
    serializer: str | None = None,
) -> str:
    """Keep ``value`` under ``name`` with this execution; durable when it returns. Gives the artifact's id.

    Saving the same name again in the same checkpoint call (or flow body) replaces it. ``type`` is any word of yours:
    ``client.artifacts.list(exec_id, kind=...)`` finds it. ``serializer="pickle"`` keeps a value that has no other form;
    only for stores that you trust. Raises ``KitaruContextError`` outside a flow,
    ``KitaruValueError`` for a value that can't be stored.
    """
    check(f"save({name!r})", serializer=serializer)
    return _here("save").save(name, value, type, tuple(tags or ()), serializer)


def load(exec_id: str, name: str) -> Any:
    """The value saved under ``name`` by an execution of this project, this one or another.

    If several calls saved that name, it is the newest; give calls that run beside each other names of their own.

    A flow body that runs again also loads again: call it in a checkpoint to keep the value. Raises
    ``KitaruUsageError`` for a text that is no execution's id, and for an unknown name.
    """
    return _here("load").load(exec_id, name)


def _here(verb: str) -> Scope:
    current = find_scope(f"{verb}()")
    if current is None:
        other = "" if verb == "log" else " Outside, read artifacts with KitaruClient().artifacts."
        raise KitaruContextError(
            f"{verb}() was called outside a flow",
            hint=f"Call it in the body of a flow or of a checkpoint, while that runs.{other} "
            "A thread of your own needs the flow's context: contextvars.copy_context().run(...).",
        )
    return current
