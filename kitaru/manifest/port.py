"""A manifest that was read, and the checks of values against a JSON Schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from kitaru.errors import Problem
    from kitaru.model.manifest import Manifest


class ManifestFile(Protocol):
    """A manifest that was read, with the places of its keys."""

    @property
    def manifest(self) -> Manifest: ...
    @property
    def path(self) -> Path: ...
    @property
    def root(self) -> Path:
        """The manifest's folder: what its paths are relative to."""
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


AnswerCheck = Callable[[Mapping[str, Any] | None, Any], Sequence[str]]
"""What of an answer doesn't fit the JSON Schema of its wait, one sentence each."""


InputCheck = Callable[[Mapping[str, Any], Mapping[str, Any]], Sequence[str]]
"""(JSON Schema, inputs) → what doesn't fit, one sentence each; empty where all does."""
