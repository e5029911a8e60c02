"""``client.history``: what happened, what ran, what differs, and whether the record of it is sound."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from kitaru import wiring
from kitaru.client.session import Session
from kitaru.core.commit import edit_data
from kitaru.core.resolving import resolve
from kitaru.errors import KitaruIntegrityError, KitaruStoreFormatError, KitaruUsageError
from kitaru.model.address import DIGEST
from kitaru.model.lockfile import Lockfile
from kitaru.model.route import DEFAULT_TAG, ByTag
from kitaru.model.snapshot import Commit
from kitaru.release.differing import Difference, compare
from kitaru.release.history import SEARCHED, Logged, Past
from kitaru.release.releases import Releases
from kitaru.release.tracing import Blame, commit_data, trace
from kitaru.upkeep.checks import Found, verify_objects
from kitaru.upkeep.verify import Fault, verify_chain

SHORTEST_DIGEST = 12


@dataclass(frozen=True, slots=True)
class Recorded:
    """One generation: who did what, when, from which commit.

    ``edits`` are JSON data (``core.commit.edit_data``), only those of the flow that was asked about;
    ``others``: how many more there are. ``digest`` is that of the entry's bytes.
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

    def to_json(self) -> dict[str, Any]:
        """As JSON data; every key is always there. ``commit`` is null, or ``{"sha", "branch", "dirty"}``."""
        return {
            "generation": self.generation,
            "digest": self.digest,
            "at": self.at,
            "by": self.by,
            "verb": self.verb,
            "commit": commit_data(self.commit),
            "message": self.message,
            "edits": list(self.edits),
            "others": self.others,
        }


@dataclass(frozen=True, slots=True)
class Happened:
    """Generations, newest first. ``reached``: the oldest that was looked at; ``more``: older ones may fit as well.

    ``unchained``: those that were looked at and that the generation after them does not name as its parent;
    ``missing``: those that are not in the log any more; ``unreadable``: those that are there and are no generation.
    ``problem``: why the newest state can't be told, "" where it can.
    """

    generations: tuple[Recorded, ...]
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
        """What is not there, as JSON data; every key is always there. Numbers of generations, newest first."""
        return {
            "missing": list(self.missing),
            "unreadable": list(self.unreadable),
            "problem": self.problem or None,
        }


@dataclass(frozen=True, slots=True)
class Verified:
    """What ``store verify`` found. ``head`` is the digest of the newest generation: worth noting in another place.

    It is "" where there is none, or where it is damaged.
    """

    project: str
    store: str
    generations: int
    head: str
    deep: bool
    objects: int
    executions: int
    problems: tuple[Fault, ...]
    notes: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def first_bad(self) -> int | None:
        """The first generation that something is wrong with."""
        return min((fault.generation for fault in self.problems if fault.generation), default=None)

    def to_json(self) -> dict[str, Any]:
        """As JSON data; every key is always there. ``problems`` are ``{"key", "generation", "message"}``."""
        names = ("project", "store", "generations", "head", "deep", "objects", "executions")
        return {
            "sound": self.sound,
            **{name: getattr(self, name) for name in names},
            "first_bad": self.first_bad,
            "problems": [fault.to_json() for fault in self.problems],
            "notes": list(self.notes),
        }


class History:
    """Verbs that look back."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @cached_property
    def releases(self) -> Releases:
        """The project's lock log."""
        return Releases(self._session.store, self._session.project, self._session.clock)

    def list(self, flow: str | None = None, *, limit: int | None = 20) -> Happened:
        """The newest generations, at most ``limit`` of them; those that touch ``flow``, where one is named.

        None: all there are. With a limit, a search for one flow looks at ``release.history.SEARCHED`` generations.
        Raises ``KitaruSelectorError`` for a flow that the project never had. Where the log is damaged so that the
        newest state can't be told, what is left of it is shown, and ``problem`` says that.
        """
        problem, lock = "", None
        try:
            lock = self.releases.head()
        except KitaruStoreFormatError:
            raise
        except KitaruIntegrityError as error:
            problem = error.message
        if lock is not None and flow is not None and flow not in lock.flows:
            resolve(lock, flow, ByTag(DEFAULT_TAG))
        head = lock.generation if lock is not None else self.releases.last_number()
        past = Past(self._session.store, self._session.project)
        searched = None if limit is None else SEARCHED
        page = past.page(head, flow=flow, limit=limit, searched=searched)
        shown = tuple(_recorded(one) for one in page.found)
        return Happened(shown, head, page.reached, page.more, page.unchained, page.missing, page.unreadable, problem)

    def blame(self, exec_id: str) -> Blame:
        """Which commit an execution runs, and who led it there. ``KitaruUsageError`` where there is none of that id."""
        session = self._session
        settings = session.settings
        folder = settings.manifest.parent if settings.manifest is not None else settings.cwd
        words = partial(wiring.past_sources().commit_words, folder)
        return trace(session.store, self.releases.head(), session.executions.get(exec_id), words)

    def diff(self, flow: str, before: str, after: str, *, full: bool = False) -> Difference:
        """How two versions of a flow differ; each is a number (``2``, ``v2``) or a tag.

        ``full``: large files and long differences too. Raises ``KitaruSelectorError``; ``KitaruIntegrityError`` where a
        snapshot is no longer in the store.
        """
        read = wiring.past_sources().read_archive
        return compare(self._session.store, self.releases.head(), flow, before, after, read, full=full)

    def verify(self, *, deep: bool = False, expect: str = "") -> Verified:
        """Read the whole lock log and check its chain; ``deep``: every object that it leads to and every journal too.

        ``expect``: a digest of a generation, or its first twelve digits at least, that must be in the chain.
        """
        if expect and not (SHORTEST_DIGEST <= len(expect) <= 64 and DIGEST.fullmatch(expect.ljust(64, "0"))):
            raise KitaruUsageError(
                f"--expect {expect}: expected {SHORTEST_DIGEST} to 64 hexadecimal digits in lower case",
                hint="kitaru store verify prints the digest of the newest generation",
            )
        session = self._session
        chain = verify_chain(session.store, session.project, session.reporter, expect=expect)
        found = Found()
        if deep:
            lock = chain.lock or self._hinted()
            check = wiring.past_sources().read_archive
            if lock is not None:
                found = verify_objects(session.store, session.project, lock, check, session.reporter)
            else:
                found.notes.append("objects were not checked: the newest state can't be told")
        return Verified(
            project=session.project,
            store=session.store.url,
            generations=chain.head,
            head=chain.digest,
            deep=deep,
            objects=found.objects,
            executions=found.executions,
            problems=(*sorted(chain.faults, key=lambda fault: fault.generation), *found.faults),
            notes=tuple(chain.notes + found.notes),
        )

    def _hinted(self) -> Lockfile | None:
        """The newest state as readers see it, where the log alone can't tell it."""
        try:
            return self.releases.head()
        except KitaruIntegrityError:
            return None


def _recorded(logged: Logged) -> Recorded:
    entry = logged.entry
    return Recorded(
        generation=entry.generation,
        digest=logged.digest,
        at=entry.at,
        by=entry.by,
        verb=entry.verb,
        commit=entry.commit,
        message=entry.message,
        edits=tuple(edit_data(edit) for edit in logged.edits),
        others=len(entry.edits) - len(logged.edits),
    )
