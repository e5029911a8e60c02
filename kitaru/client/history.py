"""``client.history``: past changes, the code of an execution, differences of versions, and checks of the record."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial

from kitaru import wiring
from kitaru.client.session import Session
from kitaru.core.resolving import resolve
from kitaru.errors import KitaruIntegrityError, KitaruStoreFormatError, KitaruUsageError
from kitaru.model.address import DIGEST
from kitaru.model.route import DEFAULT_TAG, ByTag
from kitaru.release.blame import Blame, trace
from kitaru.release.difference import Archives, Difference, compare
from kitaru.release.history import SEARCHED, HistoryPage, Past
from kitaru.release.releases import Releases
from kitaru.upkeep.verify import Verified, verify

SHORTEST_DIGEST = 12


class History:
    """Verbs that look back."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @cached_property
    def releases(self) -> Releases:
        """The project's lock log."""
        return Releases(self._session.store, self._session.project, self._session.clock)

    def list(self, flow: str | None = None, *, limit: int | None = 20) -> HistoryPage:
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
        return replace(past.page(head, flow=flow, limit=limit, searched=searched), problem=problem)

    def blame(self, exec_id: str) -> Blame:
        """Which commit an execution runs, and who led it there. ``KitaruUsageError`` where there is none of that id."""
        session = self._session
        settings = session.settings
        folder = settings.manifest.parent if settings.manifest is not None else settings.cwd
        execution = session.executions.get(exec_id)
        words = partial(wiring.commit_words, folder)
        return trace(session.store, session.project, self.releases.head(), execution, words)

    def diff(self, flow: str, before: str, after: str, *, full: bool = False) -> Difference:
        """How two versions of a flow differ; each is a number (``2``, ``v2``) or a tag.

        ``full``: large files and long differences too. Raises ``KitaruSelectorError``; ``KitaruIntegrityError`` where a
        snapshot is no longer in the store.
        """
        place = Archives(self._session.store, self._session.project, wiring.read_archive)
        return compare(place, self.releases.head(), flow, before, after, full=full)

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
        check = wiring.read_archive if deep else None
        return verify(session.store, session.project, session.reporter, expect=expect, check_archive=check)
