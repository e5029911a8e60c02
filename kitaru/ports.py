"""Where the rooms meet the outside world: small protocols, with their promises spelled out.

One room implements a protocol, another calls it, and neither imports the other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from kitaru.model.jsonable import record

if TYPE_CHECKING:
    # Only names in annotations: a flow that runs in a script needs no pydantic model of the manifest.
    from kitaru.errors import Problem
    from kitaru.model.manifest import Manifest, Neighbours, SourceSpec
    from kitaru.model.snapshot import Commit, FlowFacts, SourceTree


class Clock(Protocol):
    """Time and randomness, so that nothing below needs to be patched in a test."""

    def now(self) -> datetime:
        """The present, in UTC, with time zone."""
        ...

    def token(self, size: int) -> str:
        """``size`` random characters of ``0-9a-z`` (without i, l, o, u), from a secure source."""
        ...


@record()
class Step:
    """Something worth telling a person who waits.

    ``phase`` is one of ``source``, ``import``, ``build``, ``upload``, ``environment``, ``commit``; ``done`` and
    ``total`` count its units (flows, files, or bytes where ``unit`` says so).
    """

    phase: str
    message: str
    done: int = 0
    total: int = 0
    unit: str = ""


class Reporter(Protocol):
    """Takes progress. Must not raise, must not block for long."""

    def step(self, step: Step) -> None: ...


@record()
class RunnerInfo:
    """Who runs an execution: enough to find the process again on the same host."""

    runner_id: str
    host: str
    pid: int
    started: str
    """The process's start, in the kernel's own words, so that a reused pid is told apart. Empty where unknown."""


@record()
class RunOrder:
    """What a runner is given to start one execution; ``journal_head`` spares it the first read.

    ``takes_over``: another runner may have begun, or may be about to; without it this is the execution's first one.
    """

    project: str
    exec_id: str
    store_url: str
    snapshot: bytes
    journal_head: tuple[bytes, ...]
    takes_over: bool = False


class Runner(Protocol):
    """Starts executions of snapshots on one stack."""

    def check(self, snapshot: bytes) -> None:
        """Raise ``KitaruStackError`` where this stack can't run the snapshot (requirements, ...). Starts nothing."""
        ...

    def launch(self, order: RunOrder) -> RunnerInfo:
        """Start it and return at once; the execution goes on when the caller exits."""
        ...

    def startup_failure(self, exec_id: str) -> str:
        """What a worker said before it ended, where it never got as far as the journal; else empty."""
        ...

    def alive(self, runner: RunnerInfo) -> bool | None:
        """Whether that process still runs; None where it can't be known from here (another host)."""
        ...


class Mask(Protocol):
    """Takes secrets out of text. May be used by several threads at once."""

    def __call__(self, text: str, /) -> str:
        """The text without the secrets in it, those that came into this process's environment meanwhile, too."""
        ...

    def learn(self, environ: Mapping[str, str]) -> None:
        """Variables of another process, such as an isolated checkpoint's: the secrets among them are taken out, too."""
        ...


class ChildOutput(Protocol):
    """What comes through this process's standard output and error from child processes and C code.

    An *owner* is whoever starts a child process, anything that can be hashed: the child writes to pipes of its own.
    """

    def attach(self, sink: Callable[[str, str, object], None], whose: Callable[[], object | None]) -> None:
        """From now on ``sink`` is given stream (``stdout`` or ``stderr``), text and owner: from one thread at a time.

        The owner is what ``whose`` said where the child was started, and None where that, or who wrote, is not known.
        """
        ...

    def detach(self) -> None:
        """Nobody is told any more."""
        ...

    def drain(self, owner: object | None = None) -> None:
        """Take what nobody known and the owner's children wrote until now: when this returns, the sink has it."""
        ...

    def end(self, owner: object) -> None:
        """The same for an owner for whom nothing is started any more. Children that go on are heard all the same."""
        ...

    def lend(self, descriptors: Sequence[int]) -> dict[int, int]:
        """What to write to in place of 1 and 2 for the owner here, if there is one, and to close then."""
        ...

    def give_back(self) -> None:
        """The descriptors and streams as they were, for a process that goes on."""
        ...


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
    def digest(self) -> str: ...
    @property
    def warnings(self) -> tuple[Problem, ...]: ...


class Source(Protocol):
    """The repository, read and never written."""

    def commit(self, *, allow_dirty: bool, ignoring: Sequence[Path] = ()) -> SourceState:
        """Raises ``KitaruSourceError`` for uncommitted or untracked files, unless ``allow_dirty``.

        The files of ``ignoring`` do not count: what Kitaru itself wrote, such as a saved plan.
        """

    def contains(self, commit: str, ancestor: str) -> bool:
        """Whether ``commit`` came after ``ancestor``, or is it; False where the repository does not know that one."""

    def reverted(self, commit: str, bad: str) -> bool:
        """Whether Git's own words say that ``bad`` was reverted on the way to ``commit``, and that this still holds."""

    def digest_of(self, tree: str, spec: SourceSpec) -> str:
        """The digest of what ``spec`` selects from a tree; cheap where it was selected before."""

    def select(self, tree: str, spec: SourceSpec) -> Selection:
        """Raises ``KitaruSourceError`` for an empty or too large selection, a submodule, an escaping symlink."""


class ImportJob(NamedTuple):
    """The targets to import from one source tree, by flow name, and its archive, made when asked for."""

    targets: Mapping[str, str]
    archive: Callable[[], bytes]


class Describer(Protocol):
    """Learns what flows look like by importing them, in a process of its own."""

    def known(self, source: str, target: str) -> FlowFacts | None:
        """What was learned earlier of that target in a source tree of that digest."""
        ...

    def describe(self, trees: Mapping[str, ImportJob]) -> Mapping[str, FlowFacts | Problem]:
        """Import the targets of each tree, by its digest; what went wrong with one is its problem. By flow name."""
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


AnswerCheck = Callable[[Mapping[str, Any] | None, Any], Sequence[str]]
"""What of an answer doesn't fit the JSON Schema of its wait, one sentence each."""

InputCheck = Callable[[Mapping[str, Any], Mapping[str, Any]], Sequence[str]]
"""(JSON Schema, inputs) → what doesn't fit, one sentence each; empty where all does."""


@record()
class Placed:
    """What became of a text on a forge (``created``, ``updated`` or ``unchanged``), and its address."""

    action: str
    url: str


class Forge(Protocol):
    """Where the repository is hosted and its pipelines run, as one job sees it.

    Every method raises ``KitaruBackendError`` where the forge refuses or does not answer. A text is found again by its
    first line, an HTML comment, and only among those that the job's own token wrote.
    """

    name: str

    def request_number(self) -> int | None:
        """The pull or merge request that the job is for; None where it is for none."""
        ...

    def comment(self, number: int, body: str) -> Placed:
        """Keep exactly one comment with the first line of ``body`` on that request, and make it say ``body``."""
        ...

    def issue(self, title: str, body: str) -> Placed:
        """The same with one open issue."""
        ...

    def close_issue(self, body: str) -> str | None:
        """Close that issue; its address, None where none is open."""
        ...

    def reviewed(self, artifact: str) -> Iterator[tuple[str, bytes]]:
        """The plans last shown on the requests that were merged here since the last apply: what to call them, bytes."""
        ...

    def approved(self, run: str, artifact: str) -> tuple[str, bytes]:
        """The plan that an earlier apply on this branch made and did not carry out."""
        ...
