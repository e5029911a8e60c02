"""A manifest that was read, and the checks of values against a JSON Schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from kitaru.errors import Problem
    from kitaru.model.manifest import Manifest
    from kitaru.model.route import RouteTarget


class ManifestFile(Protocol):
    """A manifest that was read, with the places of its keys."""

    @property
    def manifest(self) -> Manifest: ...
    @property
    def path(self) -> Path: ...
    @property
    def root(self) -> Path:
        """The manifest's folder: its paths are relative to it."""
        ...

    @property
    def digest(self) -> str:
        """Of the file's bytes and the target."""
        ...

    @property
    def target(self) -> str | None: ...
    def problem(self, message: str, *path: Any, hint: str = "") -> Problem:
        """A problem at the key of that path, or at its nearest ancestor that is there."""
        ...


class Editor(Protocol):
    """Edits a manifest's bytes; comments and layout stay. Each raises ``KitaruManifestError`` for an edit it can't do.

    ``target``: the edit is made in the overlay of that name.
    """

    def set_flow(self, body: bytes, flow: str, keys: Mapping[str, Any], *, target: str | None, file: str) -> bytes:
        """Keys of a flow's entry; the flow is added if it is new."""

    def set_flows(self, body: bytes, flows: Mapping[str, Mapping[str, Any]], *, target: str | None, file: str) -> bytes:
        """The same for several flows."""

    def set_route(self, body: bytes, flow: str, tag: str, wish: RouteTarget, *, target: str | None, file: str) -> bytes:
        """One route of a flow."""

    def remove_route(self, body: bytes, flow: str, tag: str, *, target: str | None, file: str) -> bytes:
        """The flow has no such route any more."""

    def check_readable(self, body: bytes, *, target: str | None, file: str) -> None:
        """Raise ``KitaruManifestError`` unless the bytes are a valid manifest."""

    def edit_preview(self, before: bytes, after: bytes, file: str) -> list[str]:
        """The lines of a unified difference."""

    def write(self, path: Path, before: bytes, after: bytes) -> None:
        """Replace the file, whole. Raises ``KitaruConflictError`` if it does not hold ``before`` any more."""


AnswerCheck = Callable[[Mapping[str, Any] | None, Any], Sequence[str]]
"""The parts of an answer that don't fit the JSON Schema of its wait, one sentence each."""


InputCheck = Callable[[Mapping[str, Any], Mapping[str, Any]], Sequence[str]]
"""(JSON Schema, inputs) → the inputs that don't fit, one sentence each."""
