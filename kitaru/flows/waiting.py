"""``wait``: a question to a person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, overload

from kitaru.errors import KitaruContextError, KitaruUsageError, KitaruWaitValidationError
from kitaru.flows.scope import find_scope
from kitaru.flows.signature import PLAIN, Mismatch, adapter_of, convert
from kitaru.model.address import canonical_json

T = TypeVar("T")

POLLING_SECONDS = 600.0
"""How long a runner stays for an answer unless the wait says otherwise."""


@dataclass(frozen=True, slots=True)
class Question:
    """The question of a wait. ``annotation``: the Python type of the answer, None if it stays JSON."""

    name: str | None
    text: str | None
    schema: dict[str, Any] | None
    annotation: Any
    timeout: float | None
    metadata: dict[str, Any] | None

    def answer(self, value: Any) -> Any:
        """The JSON ``value`` as the author's type. Raises ``KitaruWaitValidationError``."""
        if self.annotation is None:
            return value
        try:
            return convert(value, self.annotation)
        except Mismatch as mismatch:
            subject = f"the answer to {self.name}" if self.name else "the answer"
            raise KitaruWaitValidationError(f"{subject} doesn't fit: {mismatch}") from None


@overload
def wait(
    *,
    schema: type[T],
    name: str | None = None,
    question: str | None = None,
    timeout: float | None = POLLING_SECONDS,
    metadata: Mapping[str, Any] | None = None,
) -> T: ...


@overload
def wait(
    *,
    schema: Any = None,
    name: str | None = None,
    question: str | None = None,
    timeout: float | None = POLLING_SECONDS,
    metadata: Mapping[str, Any] | None = None,
) -> Any: ...


def wait(
    *,
    schema: Any = None,
    name: str | None = None,
    question: str | None = None,
    timeout: float | None = POLLING_SECONDS,
    metadata: Mapping[str, Any] | None = None,
) -> Any:
    """Ask ``question`` and pause the flow until a person answers; the answer, of the type of ``schema``.

    ``schema`` is a type (``bool``, a ``Literal``, a dataclass, a pydantic model) or a JSON Schema; None takes any JSON.
    ``timeout``: for how many seconds the runner stays and polls. Then it leaves, and nothing runs until the answer
    comes; the wait itself never expires. None: it stays. In an async flow, ``await`` the call.

    It belongs in the flow body: ``KitaruContextError`` in a checkpoint and outside a flow. An answer comes from
    ``kitaru executions input``; an abort there cancels the execution.
    """
    current = find_scope("wait()")
    if current is None:
        raise KitaruContextError(
            "wait() was called outside a flow", hint="Call it in the body of a function under @flow."
        )
    json_schema, annotation = _schema_of(schema)
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout < 0):
        raise KitaruUsageError(f"timeout of wait() must be a number of seconds from 0, or None, not {timeout!r}")
    asked = Question(
        name=_text("name", name),
        text=_text("question", question),
        schema=json_schema,
        annotation=annotation,
        timeout=None if timeout is None else float(timeout),
        metadata=_metadata(metadata),
    )
    return current.wait(asked)


def _text(name: str, value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise KitaruUsageError(f"{name} of wait() must be a text, not {value!r}")
    return value


def _metadata(metadata: Any) -> dict[str, Any] | None:
    if metadata is None:
        return None
    try:
        canonical_json(dict(metadata))
    except (TypeError, ValueError) as error:
        raise KitaruUsageError(f"metadata of wait() must be an object of JSON values: {error}") from error
    return dict(metadata)


def _schema_of(schema: Any) -> tuple[dict[str, Any] | None, Any]:
    """The JSON Schema of the answer, and its Python type if it has one."""
    if schema is None:
        return None, None
    if isinstance(schema, Mapping):
        return dict(schema), None
    if isinstance(schema, type) and schema in PLAIN:
        return {"type": PLAIN[schema]}, schema
    if get_origin(schema) is Literal:
        return {"enum": list(get_args(schema))}, schema
    try:
        return adapter_of(schema).json_schema(), schema
    except Exception as error:
        raise KitaruUsageError(
            f"schema of wait() must be a type or a JSON Schema, not {schema!r:.80}: {error}",
            hint="schema=bool, a Literal, a dataclass, a pydantic model, or a JSON Schema as a dict",
        ) from error
