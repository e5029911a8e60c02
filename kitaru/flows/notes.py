"""``log``, ``save`` and ``load``: notes beside the results of a flow and its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

from kitaru.errors import KitaruContextError
from kitaru.flows.options import check
from kitaru.flows.scope import find_scope


class NoteTaker(Protocol):
    """Takes notes for a scope."""

    def log(self, metadata: dict[str, Any]) -> None:
        """Merge into the metadata of this call, or of the execution."""
        ...

    def save(self, name: str, value: Any, kind: str, tags: Sequence[str], serializer: str | None = None) -> str:
        """Keep a named value; its artifact's id."""
        ...

    def load(self, exec_id: str, name: str) -> Any:
        """The newest artifact of that name."""
        ...


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


def _here(verb: str) -> NoteTaker:
    current = find_scope(f"{verb}()")
    if current is None:
        other = "" if verb == "log" else " Outside, read artifacts with KitaruClient().artifacts."
        raise KitaruContextError(
            f"{verb}() was called outside a flow",
            hint=f"Call it in the body of a flow or of a checkpoint, while that runs.{other} "
            "A thread of your own needs the flow's context: contextvars.copy_context().run(...).",
        )
    return cast("NoteTaker", current)
