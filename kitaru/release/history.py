"""The lock log, looked back on: the newest generations first, and the state as it was at a moment.

The newest L generations cost L reads; those of one flow as many as lie back to the L-th of them, in batches that grow
from 32 to 256; the state at a moment log2 of the number of generations, then the reads back to a full state.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from kitaru.core.commit import edit_data, next_lockfile
from kitaru.errors import KitaruIntegrityError, KitaruStoreFormatError
from kitaru.model import address
from kitaru.model.address import digest
from kitaru.model.lockfile import AddVersion, Edit, Generation, Lockfile, Move, Rename
from kitaru.model.snapshot import Commit
from kitaru.store.log import Log
from kitaru.store.objects import parse
from kitaru.store.port import Store

SEARCHED = 5000
"""How many generations a search for one flow looks at, unless all are wanted."""

FIRST_BATCH, LARGEST_BATCH = 32, 256
NEARBY = 64
"""How far from the state at a moment a move is looked for: the clocks of two machines differ a little."""


class Gap(Enum):
    """Why nothing is known of a generation."""

    MISSING = "is missing from the lock log"
    UNREADABLE = "can't be read"


@dataclass(frozen=True, slots=True)
class Change:
    """One generation: actor, time, verb, commit.

    ``edits`` are JSON data (``core.commit.edit_data``), only those of the flow that was asked about; ``others``: how
    many more there are. ``digest`` is that of the entry's bytes.
    """

    generation: int
    digest: str
    at: str
    by: str
    verb: str
    commit: Commit | None
    message: str
    edits: tuple[dict[str, Any], ...]
    others: int = 0

    @classmethod
    def of(cls, entry: Generation, sha: str, edits: Sequence[Edit]) -> Change:
        """That generation, with these of its edits."""
        shown = tuple(map(edit_data, edits))
        others = len(entry.edits) - len(shown)
        return cls(entry.generation, sha, entry.at, entry.by, entry.verb, entry.commit, entry.message, shown, others)

    def to_json(self) -> dict[str, Any]:
        """As JSON data; every key is always there. ``commit`` is null, or ``{"sha", "branch", "dirty"}``."""
        data = {name: getattr(self, name) for name in self.__slots__}
        return {**data, "commit": commit_data(self.commit), "edits": list(self.edits)}


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Generations, newest first. ``reached`` is the oldest that was looked at; ``more``: older ones may fit too.

    Of those that were looked at, ``unchained`` have another digest than their follower names, ``missing`` are not in
    the log, and ``unreadable`` are no generations any more. ``problem``: why the newest state can't be
    told; "" if it can.
    """

    generations: tuple[Change, ...]
    head: int
    reached: int
    more: bool
    unchained: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()
    unreadable: tuple[int, ...] = ()
    problem: str = ""

    @property
    def whole(self) -> bool:
        """Whether all that was looked at is there."""
        return not (self.missing or self.unreadable or self.problem)

    def gaps_to_json(self) -> dict[str, Any]:
        """The gaps as JSON data; every key is always there. Numbers of generations, newest first."""
        return {"missing": list(self.missing), "unreadable": list(self.unreadable), "problem": self.problem or None}


def commit_data(commit: Commit | None) -> dict[str, Any] | None:
    """``{"sha", "branch", "dirty"}``, or None."""
    return None if commit is None else {"sha": commit.sha, "branch": commit.branch, "dirty": commit.dirty}


class Past:
    """Looking back on the lock log of one project."""

    def __init__(self, store: Store, project: str) -> None:
        self._store = store
        self._project = project
        self._log = Log(store, address.generations(project))
        self._known: dict[int, tuple[Generation, str]] = {}

    def page(
        self, head: int, *, flow: str | None = None, limit: int | None = None, searched: int | None = None
    ) -> HistoryPage:
        """At most ``limit`` generations from ``head`` backwards; those that touch ``flow``, if one is named.

        A flow that was renamed is followed under its earlier names. At most ``searched`` generations are looked at.
        A gap is passed over, and reported.
        """
        found: list[Change] = []
        unchained: list[int] = []
        gaps: dict[Gap, list[int]] = {gap: [] for gap in Gap}
        named = ""
        name, number, first = flow, head, False
        floor = max(0, head - searched) if searched is not None else 0
        for number, read in self._there(head, floor, limit if flow is None else None):
            if isinstance(read, Gap):
                gaps[read].append(number)
                named = ""
                continue
            entry, sha = read
            if named and sha != named:
                unchained.append(number)
            named = entry.parent
            edits = entry.edits if name is None else _of_flow(entry.edits, name)
            if edits or name is None:
                found.append(Change.of(entry, sha, edits))
            first = name is not None and any(isinstance(edit, AddVersion) and edit.expects == 0 for edit in edits)
            if first or len(found) == limit:
                break
            name = next((edit.was for edit in edits if isinstance(edit, Rename) and edit.flow == name), name)
        more = not first and number > 1
        missing, unreadable = (tuple(gaps[gap]) for gap in (Gap.MISSING, Gap.UNREADABLE))
        return HistoryPage(tuple(found), head, number, more, tuple(unchained), missing, unreadable)

    def entry(self, number: int) -> tuple[Generation, str]:
        """Generation ``number`` and the digest of its bytes. ``KitaruIntegrityError`` for a gap."""
        return self._read([number])[0]

    def at_moment(self, moment: str, head: int) -> int:
        """The newest generation at or before ``head`` that was written at ``moment`` (a timestamp) or earlier.

        One that is missing or can't be read is taken to be as old as the one before it.
        """
        return bisect_right(range(1, head + 1), moment, key=self._written_at)

    def state(self, number: int) -> Lockfile:
        """The state after generation ``number``, folded from the nearest full state at or before it."""
        behind: list[tuple[Generation, str]] = []
        lock = Lockfile(project=self._project)
        for entry, sha in self._backwards(number, 0, 1):
            if entry.state is not None:
                lock = Lockfile(project=self._project, generation=entry.generation, entry=sha, flows=dict(entry.state))
                if lock.state_digest != entry.state_digest:
                    raise _not_so(self._project, entry.generation, "does not hold the state it claims")
                break
            behind.append((entry, sha))
        for entry, sha in reversed(behind):
            following = next_lockfile(lock, entry.edits, at=entry.at, by=entry.by, via=entry.verb)
            if isinstance(following, tuple) or entry.parent != lock.entry:
                raise _not_so(self._project, entry.generation, "does not follow the one before it")
            lock = following.model_copy(update={"entry": sha})
        # Once for all of them: writing out a large state takes longer than everything else here.
        if behind and lock.state_digest != behind[0][0].state_digest:
            raise _not_so(self._project, number, "does not lead to the state it claims")
        return lock

    def move_to(self, flow: str, tag: str, version: int, near: int, head: int) -> Generation | None:
        """The move that brought ``tag`` to ``version``, looked for around generation ``near``, backwards first.

        ``KitaruIntegrityError`` if a gap comes first: the move may have been there.
        """
        backwards = range(near, max(0, near - NEARBY), -1)
        forwards = range(near + 1, min(head, near + NEARBY) + 1)
        for numbers in (backwards, forwards):
            for number, read in zip(numbers, self._looked_up(numbers), strict=True):
                entry, _ = self._must(number, read)
                for edit in entry.edits:
                    if not isinstance(edit, Move) or (edit.flow, edit.tag) != (flow, tag):
                        continue
                    if any(holder.version == version for holder in edit.holders):
                        return entry
        return None

    def _written_at(self, number: int) -> str:
        found = (read for _, read in self._there(number, 0, 1) if not isinstance(read, Gap))
        return next((entry.at for entry, _ in found), "")

    def _backwards(self, start: int, floor: int, first: int | None) -> Iterator[tuple[Generation, str]]:
        """As ``_there``; ``KitaruIntegrityError`` for a gap."""
        for number, read in self._there(start, floor, first):
            yield self._must(number, read)

    def _there(self, start: int, floor: int, first: int | None) -> Iterator[tuple[int, tuple[Generation, str] | Gap]]:
        """From ``start`` down to above ``floor``; the first batch has ``first`` generations, if given."""
        size = min(first or FIRST_BATCH, LARGEST_BATCH)
        number = start
        while number > floor:
            batch = list(range(number, max(floor, number - size), -1))
            yield from zip(batch, self._looked_up(batch), strict=True)
            number -= len(batch)
            size = min(max(size * 2, FIRST_BATCH), LARGEST_BATCH)

    def _read(self, numbers: Sequence[int]) -> list[tuple[Generation, str]]:
        found = zip(numbers, self._looked_up(numbers), strict=True)
        return [self._must(number, read) for number, read in found]

    def _must(self, number: int, read: tuple[Generation, str] | Gap) -> tuple[Generation, str]:
        if isinstance(read, Gap):
            raise _not_so(self._project, number, read.value)
        return read

    def _looked_up(self, numbers: Sequence[int]) -> list[tuple[Generation, str] | Gap]:
        unknown = [number for number in numbers if number not in self._known]
        bodies = dict(zip(unknown, self._log.read_each(unknown), strict=True))
        return [self._known.get(number) or self._parsed(number, bodies[number]) for number in numbers]

    def _parsed(self, number: int, body: bytes | None) -> tuple[Generation, str] | Gap:
        key = self._log.key(number)
        if body is None:
            return Gap.MISSING
        try:
            read = (parse(Generation, body, key), digest(body))
        except KitaruStoreFormatError:
            raise
        except KitaruIntegrityError:
            return Gap.UNREADABLE
        if len(self._known) < LARGEST_BATCH:
            self._known[number] = read
        return read


def _not_so(project: str, number: int, why: str) -> KitaruIntegrityError:
    return KitaruIntegrityError(f"generation {number} of project {project} {why}", hint="kitaru store verify")


def _of_flow(edits: Sequence[Edit], name: str) -> tuple[Edit, ...]:
    """The edits of a flow that was called ``name`` before them; those under the name that they give it are its too."""
    names = {name, *(edit.flow for edit in edits if isinstance(edit, Rename) and edit.was == name)}
    return tuple(edit for edit in edits if edit.flow in names)
