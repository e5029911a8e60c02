"""Snapshots: the immutable built unit that an execution runs from."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, Literal, Self, cast

from pydantic import Field

from kitaru.model.image import ImageSettings
from kitaru.model.noun import Noun
from kitaru.model.stack import NamedStack

FORMAT: Final = 1


class Options(Noun):
    """How a flow runs unless the caller says otherwise. ``timeout`` in seconds."""

    retries: int = 0
    cache: bool = True
    timeout: float | None = None


class FlowFacts(Noun):
    """The facts of an imported target: the decorator's options (None if it has none) and the shape of the inputs."""

    retries: int | None = None
    cache: bool | None = None
    timeout: float | None = None
    stack: str | None = None
    image: ImageSettings | None = None
    input_schema: dict[str, Any] = Field(default_factory=dict)
    checkpoints: tuple[str, ...] = ()
    summary: str = ""


class Snapshot(Noun):
    """One built unit. Its digest is its identity: content alone, never a commit, time, user or absolute path.

    ``source`` is the digest of the source tree's canonical listing; ``roots`` are the folders in it to import from
    besides itself; ``inputs`` are the representative inputs, which an
    invoke overrides one by one; ``input_schema`` is a JSON Schema of the flow's parameters.
    """

    format: Literal[1] = FORMAT
    flow: str
    target: str
    source: str
    roots: tuple[str, ...] = ()
    image: ImageSettings = Field(default_factory=ImageSettings)
    stack: NamedStack
    options: Options = Field(default_factory=Options)
    inputs: dict[str, Any] = Field(default_factory=dict)
    input_schema: dict[str, Any] = Field(default_factory=dict)
    checkpoints: tuple[str, ...] = ()
    summary: str = ""

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """As of every noun; the same bytes are parsed once a process."""
        return cast("Self", _parsed(body))

    def data(self) -> dict[str, Any]:
        """As every noun, with the format always spelled out."""
        return {"format": self.format, **super().data()}


@lru_cache(maxsize=256)
def _parsed(body: bytes) -> Snapshot:
    return Snapshot.model_validate_json(body)


class Commit(Noun):
    """The commit of a source: recorded beside a snapshot, never inside its digest."""

    sha: str
    branch: str | None = None
    dirty: bool = False


class SourceFile(Noun):
    """One entry of a source tree's listing. ``mode`` is 0o100644, 0o100755 or 0o120000, which is a symlink."""

    path: str
    mode: int
    size: int
    sha256: str


class SourceTree(Noun):
    """A source tree: files in path order. Equal listings are equal trees, however they are packed."""

    files: tuple[SourceFile, ...]

    def listing(self) -> list[list[Any]]:
        """The parts of the digest: path, mode in octal, SHA-256."""
        return [[file.path, f"{file.mode:o}", file.sha256] for file in self.files]
