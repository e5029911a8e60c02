"""The lock log, looked back on: the newest generations, the state as it was, the commit of an execution.

The newest L generations cost L reads; those of one flow as many as lie back to the L-th of them, in batches that grow
from 32 to 256; the state at a moment log2 of the number of generations, then the reads back to a full state.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

from kitaru.core.commit import edit_data, edit_words, next_lockfile
from kitaru.core.renames import present_name
from kitaru.errors import KitaruIntegrityError, KitaruStoreFormatError
from kitaru.model import address
from kitaru.model.address import digest
from kitaru.model.execution import Execution
from kitaru.model.jsonable import record
from kitaru.model.lockfile import AddVersion, Edit, Generation, Lockfile, Move, Release, Rename
from kitaru.model.snapshot import Commit
from kitaru.store.log import Log
from kitaru.store.objects import parse, read_table
from kitaru.store.port import Store

SEARCHED = 5000
"""How many generations a search for one flow looks at, unless all are wanted."""

FIRST_BATCH, LARGEST_BATCH = 32, 256
NEARBY = 64
"""How far from the state at a moment a move is looked for: the clocks of two machines differ a little."""


MISSING = "is missing from the lock log"
UNREADABLE = "can't be read"

Read = tuple[Generation, str] | str
"""A generation and the digest of its bytes; or why it is not known: ``MISSING`` or ``UNREADABLE``."""


@record()
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
        data = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**data, "commit": commit_data(self.commit), "edits": list(self.edits)}


@record()
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
        gaps: dict[str, list[int]] = {MISSING: [], UNREADABLE: []}
        named = ""
        name, number, first = flow, head, False
        floor = max(0, head - searched) if searched is not None else 0
        for number, read in self._there(head, floor, limit if flow is None else None):
            if isinstance(read, str):
                gaps[read].append(number)
                named = ""
                continue
            entry, sha = read
            if named and sha != named:
                unchained.append(number)
            named = entry.parent
            # Edits under the name that the generation gives the flow are its too.
            names = {name, *(edit.flow for edit in entry.edits if isinstance(edit, Rename) and edit.was == name)}
            edits = tuple(edit for edit in entry.edits if name is None or edit.flow in names)
            if edits or name is None:
                found.append(Change.of(entry, sha, edits))
            first = name is not None and any(isinstance(edit, AddVersion) and edit.version == 1 for edit in edits)
            if first or len(found) == limit:
                break
            name = next((edit.was for edit in edits if isinstance(edit, Rename) and edit.flow == name), name)
        more = not first and number > 1
        missing, unreadable = map(tuple, gaps.values())
        return HistoryPage(tuple(found), head, number, more, tuple(unchained), missing, unreadable)

    def entry(self, number: int) -> tuple[Generation, str]:
        """Generation ``number`` and the digest of its bytes. ``KitaruIntegrityError`` for a gap."""
        return self._must(number, self._looked_up([number])[0])

    def at_moment(self, moment: str, head: int) -> int:
        """The newest generation at or before ``head`` that was written at ``moment`` (a timestamp) or earlier.

        One that is missing or can't be read is taken to be as old as the one before it.
        """

        def written_at(number: int) -> str:
            return next((read[0].at for _, read in self._there(number, 0, 1) if not isinstance(read, str)), "")

        return bisect_right(range(1, head + 1), moment, key=written_at)

    def state(self, number: int) -> Lockfile:
        """The state after generation ``number``, folded from the nearest full state at or before it."""
        behind: list[tuple[Generation, str]] = []
        lock = Lockfile(project=self._project)
        for at, read in self._there(number, 0, 1):
            entry, sha = self._must(at, read)
            if entry.state is not None:
                lock = Lockfile(project=self._project, generation=entry.generation, entry=sha, flows=dict(entry.state))
                if lock.state_digest != entry.state_digest:
                    raise _not_so(self._project, entry.generation, "does not hold the state it claims")
                break
            behind.append((entry, sha))
        for entry, sha in reversed(behind):
            following = next_lockfile(lock, entry.edits, at=entry.at, by=entry.by, via=entry.verb)
            if isinstance(following, tuple) or entry.parent != lock.entry:
                raise _not_so(self._project, entry.generation, f"does not follow generation {lock.generation}")
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

    def _there(self, start: int, floor: int, first: int | None) -> Iterator[tuple[int, Read]]:
        """From ``start`` down to above ``floor``; the first batch has ``first`` generations, if given."""
        size = min(first or FIRST_BATCH, LARGEST_BATCH)
        number = start
        while number > floor:
            batch = list(range(number, max(floor, number - size), -1))
            yield from zip(batch, self._looked_up(batch), strict=True)
            number -= len(batch)
            size = min(max(size * 2, FIRST_BATCH), LARGEST_BATCH)

    def _must(self, number: int, read: Read) -> tuple[Generation, str]:
        if isinstance(read, str):
            raise _not_so(self._project, number, read)
        return read

    def _looked_up(self, numbers: Sequence[int]) -> list[Read]:
        unknown = [number for number in numbers if number not in self._known]
        bodies = dict(zip(unknown, self._log.read_each(unknown), strict=True))
        return [self._known.get(number) or self._parsed(number, bodies[number]) for number in numbers]

    def _parsed(self, number: int, body: bytes | None) -> Read:
        if body is None:
            return MISSING
        try:
            read = (parse(Generation, body, self._log.key(number)), digest(body))
        except KitaruStoreFormatError:
            raise
        except KitaruIntegrityError:
            return UNREADABLE
        if len(self._known) < LARGEST_BATCH:
            self._known[number] = read
        return read


def _not_so(project: str, number: int, why: str) -> KitaruIntegrityError:
    return KitaruIntegrityError(f"generation {number} of project {project} {why}", hint="kitaru store verify")


# --- blame ------------------------------------------------------------------------------------------------------------


@record()
class Blame:
    """The version of an execution, and the reason for it.

    ``now`` is today's name of its flow, ``previous`` the version before its own. ``route`` is the move that had brought
    its tag to the version, as JSON data; None if it was started by version number or from source, or if the log can't
    tell; ``route_problem`` describes a damaged log ("" else). ``words`` are Git's about the commit, if the repository
    at hand has it. ``original_is_there``: the execution that it replays was not removed.
    """

    execution: Execution
    now: str
    previous: int | None
    release: Release | None
    commit: Commit | None
    route: dict[str, Any] | None
    route_problem: str
    original_is_there: bool
    words: dict[str, str] | None

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands that show more: each of them works here."""
        found = [f"git show {self.commit.sha[:12]}"] if self.commit is not None and self.words is not None else []
        if self.previous is not None and self.release is not None and not self.release.deleted:
            found.append(f"kitaru diff {self.now} {self.previous} {self.execution.version}")
        if self.original_is_there:
            found.append(f"kitaru blame {self.execution.original_exec_id}")
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """As JSON data; every key is always there, null where there is no answer."""
        execution, release = self.execution, self.release
        own = ("exec_id", "status", "origin", "created_at", "actor", "target", "version", "snapshot", "tag", "draw")
        return {
            **{name: getattr(execution, name) for name in own},
            "flow": execution.flow_name,
            "flow_now": self.now,
            "source": release.source if release else None,
            "built_at": release.at if release else None,
            "built_by": release.by if release else None,
            "deleted_at": (release.deleted_at or None) if release else None,
            "commit": commit_data(self.commit),
            "git": self.words,
            "route": self.route,
            "route_problem": self.route_problem or None,
            "original_exec_id": execution.original_exec_id,
            "commands": list(self.commands),
        }


def trace(
    store: Store, project: str, lock: Lockfile, execution: Execution, words: Callable[[str], dict[str, str] | None]
) -> Blame:
    """The version that an execution is pinned to, how it was chosen, and its commit. ``words``: a commit's in Git."""
    name, version = present_name(lock.flows, execution.flow_name), execution.version
    releases: tuple[Release, ...] = ()
    if name in lock.flows and version is not None:
        releases = read_table(store, project, lock.flows[name].table, name).releases
    earlier = (one.version for one in releases if one.version < (version or 0) and not one.deleted)
    release = next((one for one in releases if one.version == version), None)
    if release is not None and execution.snapshot not in (None, release.snapshot):
        raise KitaruIntegrityError(
            f"{execution.exec_id} runs another snapshot than v{version} of {name} is",
            hint="kitaru store verify --deep tells what else is wrong",
        )
    commit = release.commit if release else Commit(sha=execution.commit) if execution.commit else None
    route, problem = None, ""
    try:
        route = _route(Past(store, project), lock, execution, name)
    except KitaruStoreFormatError:
        raise
    except KitaruIntegrityError as error:
        problem = error.message
    original = execution.original_exec_id
    return Blame(
        execution=execution,
        now=name,
        previous=max(earlier, default=None),
        release=release,
        commit=commit,
        route=route,
        route_problem=problem,
        original_is_there=bool(original and store.read(address.journal_entry(project, original, 1)) is not None),
        words=words(commit.sha) if commit is not None else None,
    )


def _route(past: Past, lock: Lockfile, execution: Execution, name: str) -> dict[str, Any] | None:
    """The move of the tag to the version: from the newest state if it still knows it, else from the log."""
    tag, version = execution.tag, execution.version
    if tag is None or version is None or lock.generation == 0:
        return None
    route = lock.flows[name].routes.get(tag) if name in lock.flows else None
    if route is not None and version in route.versions and route.at <= execution.created_at:
        return _moved(past.entry(route.generation)[0], execution)
    near = past.at_moment(execution.created_at, lock.generation)
    then = past.state(near).flows.get(execution.flow_name) if near else None
    route = then.routes.get(tag) if then is not None else None
    if route is not None and version in route.versions:
        return _moved(past.entry(route.generation)[0], execution)
    entry = past.move_to(execution.flow_name, tag, version, near, lock.generation)
    return _moved(entry, execution) if entry is not None else None


def _moved(entry: Generation, execution: Execution) -> dict[str, Any]:
    fitting = [
        edit
        for edit in entry.edits
        if isinstance(edit, Move) and edit.tag == execution.tag
        if any(holder.version == execution.version for holder in edit.holders)
    ]
    # A flow that was renamed since has its earlier name in the log.
    fitting.sort(key=lambda edit: edit.flow != execution.flow_name)
    return {
        "tag": execution.tag,
        **{name: getattr(entry, name) for name in ("generation", "at", "by", "verb", "message")},
        "text": edit_words(fitting[0]) if fitting else "",
        "commit": commit_data(entry.commit),
    }
