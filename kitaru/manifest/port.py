"""A manifest that was read, the editor of one, and the checks of values against a JSON Schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kitaru.errors import Problem

if TYPE_CHECKING:
    from kitaru.model.manifest import Manifest


@dataclass(frozen=True)
class ManifestFile:
    """A valid manifest after its overlay, and its origin: a file, or (``file`` is empty) a verb that needs none.

    ``root`` is the absolute folder that every path in the manifest is relative to; ``digest`` is the SHA-256 of the
    file's bytes and the target; ``file`` is the name for messages; ``place`` gives the line and column of a path of
    keys, or of its nearest ancestor.
    """

    manifest: Manifest
    path: Path
    root: Path
    digest: str
    target: str | None = None
    file: str = ""
    place: Callable[[tuple[str | int, ...]], tuple[int, int]] = field(
        default=lambda _path: (0, 0), repr=False, compare=False
    )

    def problem(self, message: str, *path: str | int, hint: str = "") -> Problem:
        """A problem at the value behind ``path``, or at its nearest ancestor in the file."""
        line, column = self.place(path)
        return Problem(message, file=self.file, line=line, column=column, hint=hint)


class Editor(Protocol):
    """Edits a manifest's bytes; comments and layout stay. ``target``: the edit is made in the overlay of that name."""

    def edited(
        self,
        body: bytes,
        flows: Mapping[str, Mapping[str, Any]],
        removed: Sequence[tuple[str, str]] = (),
        *,
        target: str | None,
        file: str,
    ) -> bytes:
        """Keys of flows set, and routes (flow, tag) taken away. Raises ``KitaruManifestError`` if it can't."""

    def edit_preview(self, before: bytes, after: bytes, file: str) -> list[str]:
        """The lines of a unified difference."""

    def write(self, path: Path, before: bytes, after: bytes) -> None:
        """Replace the file, whole. Raises ``KitaruConflictError`` if it does not hold ``before`` any more."""


AnswerCheck = Callable[[Mapping[str, Any] | None, Any], Sequence[str]]
"""The parts of an answer that don't fit the JSON Schema of its wait, one sentence each."""


InputCheck = Callable[[Mapping[str, Any], Mapping[str, Any]], Sequence[str]]
"""(JSON Schema, inputs) → the inputs that don't fit, one sentence each."""
