"""What planning asks of a repository and of the flows in it."""

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
    """The code that a run stands on, for the key of the cache. ``parts``: digests by name, ``source`` among them.

    ``flaws``: reasons by the same names, for parts without an exact digest. ``covers``: whether a file is part of it.
    """

    parts: Mapping[str, str]
    flaws: Mapping[str, str]
    covers: Callable[[str], bool]


NO_CODE = CodeBase({}, {"source": "the source that runs has no digest"}, lambda _file: True)
"""Of a run whose source is not known: nothing is cached."""


class SourceState(Protocol):
    """What Git says of the manifest's folder: the commit, the tree of the content to build, what is not committed."""

    @property
    def commit(self) -> Commit: ...
    @property
    def tree(self) -> str: ...
    @property
    def changed(self) -> tuple[str, ...]: ...
    @property
    def prefix(self) -> str:
        """The folder's path below the repository's root, with a final slash; nothing for the root."""
        ...


class Selection(Protocol):
    """A part of a tree: its listing, the digest of that, and what is worth a look."""

    @property
    def tree(self) -> SourceTree: ...
    @property
    def blobs(self) -> tuple[str, ...]:
        """Git's ids of the contents, in the order of the files."""
        ...

    @property
    def digest(self) -> str: ...
    @property
    def warnings(self) -> tuple[Problem, ...]: ...


class Source(Protocol):
    """The repository, read and never written."""

    def commit(self, *, allow_dirty: bool, ignoring: Sequence[Path] = ()) -> SourceState:
        """Raises ``KitaruSourceError`` for uncommitted or untracked files, unless ``allow_dirty``.

        The files of ``ignoring`` do not count: what Kitaru itself wrote, such as a saved plan.
        """

    def contains(self, commit: str, ancestor: str) -> bool | None:
        """Whether ``commit`` came after ``ancestor``, or is it; None if a shallow clone can't tell."""

    def digest_of(self, tree: str, spec: SourceSpec) -> str:
        """The digest of what ``spec`` selects from a tree; cheap where it was selected before."""

    def select(self, tree: str, spec: SourceSpec) -> Selection:
        """Raises ``KitaruSourceError`` for an empty or too large selection, a submodule, an escaping symlink."""


@record()
class Surroundings:
    """What an import sees: the source tree of that digest, the folders in it to import from, and ``image.environment``
    as ``(("MODEL", "large"),)``, sorted."""

    source: str
    roots: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


class ImportJob(NamedTuple):
    """The targets to import, by flow name, and the source's archive, made when asked for."""

    around: Surroundings
    targets: Mapping[str, str]
    archive: Callable[[], bytes]


class Describer(Protocol):
    """Learns what flows look like by importing them, in a process of its own."""

    def known(self, around: Surroundings, target: str) -> FlowFacts | None:
        """What an earlier import of that target taught, where nothing that it depends on has changed."""
        ...

    def describe(self, jobs: Sequence[ImportJob]) -> Mapping[str, FlowFacts | Problem]:
        """Import the targets of each job; what went wrong with one is its problem. By flow name."""
        ...

    def pack(self, selection: Selection) -> bytes:
        """The deterministic archive of a selection."""
        ...

    def left_out(self, selection: Selection, spec: SourceSpec, targets: Sequence[str]) -> Sequence[Problem]:
        """Warnings about modules that are imported, are there in the working tree, and are not in the selection."""
        ...

    def neighbours(self, flows: Collection[str], own: str, also: Collection[str], commit: str | None) -> Neighbours:
        """The repository's other manifests that claim any of ``flows`` for the same project and store, by paths in it:
        of ``commit``, or the working tree. ``own``: the one that asks; ``also`` are some, whatever they are called."""
        ...
