"""The protocols through which planning reads a repository and its flows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from kitaru.model.jsonable import record

if TYPE_CHECKING:
    from kitaru.errors import Problem
    from kitaru.model.manifest import Neighbours, SourceSpec
    from kitaru.model.snapshot import Commit, FlowFacts, SourceTree


@record()
class CodeBase:
    """The code that a run uses, for the key of the cache. ``parts``: digests by name: ``{"source": "3f…"}``.

    ``flaws``: reasons by the same names, for parts without an exact digest. ``covers``: whether a file is part of it.
    """

    parts: Mapping[str, str]
    flaws: Mapping[str, str]
    covers: Callable[[str], bool]


NO_CODE = CodeBase({}, {"source": "the source that runs has no digest"}, lambda _file: True)
"""For a run without a known source: nothing is cached."""


@record()
class SourceState:
    """The manifest's folder in Git: the commit, Git's id of the tree to build from, and the paths that differ from it.

    ``prefix`` is the folder's path below the repository's root: ``services/a/``, empty for the root.
    """

    commit: Commit
    tree: str
    changed: tuple[str, ...]
    prefix: str = ""


@record()
class Selection:
    """A part of a tree. ``blobs`` are Git's ids of the contents, in the order of the files."""

    tree: SourceTree
    blobs: tuple[str, ...]
    digest: str
    warnings: tuple[Problem, ...]


class Source(Protocol):
    """The repository, read and never written."""

    def commit(self, *, allow_dirty: bool, ignoring: Sequence[Path] = ()) -> SourceState:
        """The commit. Raises ``KitaruSourceError`` for uncommitted or untracked files, unless ``allow_dirty``.

        The files of ``ignoring`` do not count: Kitaru itself wrote them, such as a saved plan.
        """

    def contains(self, commit: str, ancestor: str) -> bool | None:
        """Whether ``commit`` came after ``ancestor``, or is it; None if a shallow clone can't tell."""

    def digest_of(self, tree: str, spec: SourceSpec) -> str:
        """The digest of the files that ``spec`` selects from a tree; cached after the first selection."""

    def select(self, tree: str, spec: SourceSpec) -> Selection:
        """The files that ``spec`` selects from a tree.

        Raises ``KitaruSourceError`` for an empty or too large selection, a submodule, a symlink out of the tree.
        """


@record()
class Surroundings:
    """The inputs of an import: the source tree's digest, the folders in it to import from, and ``image.environment``
    as ``(("MODEL", "large"),)``, sorted."""

    source: str
    roots: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


class ImportJob(NamedTuple):
    """The targets to import, by flow name, and the source's archive, made on the first call."""

    around: Surroundings
    targets: Mapping[str, str]
    archive: Callable[[], bytes]


class Describer(Protocol):
    """Finds the facts about flows by importing them, in a process of its own."""

    def known(self, around: Surroundings, target: str) -> FlowFacts | None:
        """The facts from an earlier import of that target; None if there was none, or its inputs changed."""
        ...

    def describe(self, jobs: Sequence[ImportJob]) -> Mapping[str, FlowFacts | Problem]:
        """Import the targets of each job: the facts about each, or its problem, by flow name."""
        ...

    def pack(self, selection: Selection) -> bytes:
        """The deterministic archive of a selection."""
        ...

    def left_out(self, selection: Selection, spec: SourceSpec, targets: Sequence[str]) -> Sequence[Problem]:
        """Warnings about imported modules that the working tree has and the selection lacks."""
        ...

    def neighbours(self, flows: Collection[str], own: str, also: Collection[str], commit: str | None) -> Neighbours:
        """The other manifests of ``commit`` (None: the working tree) that claim ``flows`` for this project and store.

        ``own`` is the path of the manifest that asks, ``also`` those of manifests with other file names.
        """
        ...
