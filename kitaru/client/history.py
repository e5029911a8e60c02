"""``client.history``: what happened, and whether the record is sound; ``client.housekeeping``: what can go."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

from kitaru import wiring
from kitaru.client.session import Session
from kitaru.core.resolving import resolve
from kitaru.errors import KitaruIntegrityError, KitaruStoreFormatError, KitaruUsageError
from kitaru.local_cache import Pruned, prune
from kitaru.model import address
from kitaru.model.address import DIGEST
from kitaru.model.route import DEFAULT_TAG, ByTag
from kitaru.release.difference import Difference, compare
from kitaru.release.history import SEARCHED, Blame, HistoryPage, Past, trace
from kitaru.store import hints
from kitaru.store.copy import copy
from kitaru.upkeep.collect import GRACE, Collected, Collector, Terms
from kitaru.upkeep.verify import Verified, verify

SHORTEST_DIGEST = 12
UNUSED_FOR = timedelta(days=30)


class History:
    """Verbs that look back."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(self, flow: str | None = None, *, limit: int | None = 20) -> HistoryPage:
        """The newest generations, at most ``limit`` of them; those that touch ``flow``, where one is named.

        None: all there are. With a limit, a search for one flow looks at ``release.history.SEARCHED`` generations.
        Raises ``KitaruSelectorError`` for a flow that the project never had. Where the log is damaged so that the
        newest state can't be told, what is left of it is shown, and ``problem`` says that.
        """
        problem, lock = "", None
        try:
            lock = self._session.releases.head()
        except KitaruStoreFormatError:
            raise
        except KitaruIntegrityError as error:
            problem = error.message
        if lock is not None and flow is not None and flow not in lock.flows:
            resolve(lock, flow, ByTag(DEFAULT_TAG))
        head = lock.generation if lock is not None else self._session.releases.last_number()
        past = Past(self._session.store, self._session.project)
        searched = None if limit is None else SEARCHED
        return replace(past.page(head, flow=flow, limit=limit, searched=searched), problem=problem)

    def blame(self, exec_id: str) -> Blame:
        """Which commit an execution runs, and who led it there. ``KitaruUsageError`` where there is none of that id."""
        session = self._session
        execution = session.executions.get(exec_id)
        words = partial(wiring.git.commit_words, session.settings.root)
        return trace(session.store, session.project, self._session.releases.head(), execution, words)

    def diff(self, flow: str, before: str, after: str, *, full: bool = False) -> Difference:
        """How two versions of a flow differ; each is a number (``2``, ``v2``) or a tag.

        ``full``: large files and long differences too. Raises ``KitaruSelectorError``; ``KitaruIntegrityError`` where a
        snapshot is no longer in the store.
        """
        session, unpack = self._session, wiring.bundle.read_archive
        with session.placed():
            head = session.releases.head()
            return compare(session.store, session.project, unpack, head, flow, before, after, full=full)

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
        check = wiring.bundle.read_archive if deep else None
        return verify(session.store, session.project, session.reporter, expect=expect, check_archive=check)


@dataclass(frozen=True, slots=True)
class Copied:
    """What ``copy`` wrote: the new keys and their bytes; and what a check of the copy found."""

    keys: int
    size: int
    verified: Verified

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {"keys": self.keys, "size": self.size, "verified": self.verified.to_json()}


class Housekeeping:
    """Verbs that free space, and that move a project."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def collect(
        self,
        *,
        delete: bool = False,
        keep_versions: int | None = None,
        older_than: timedelta | None = None,
        executions_older_than: timedelta | None = None,
        grace: timedelta = GRACE,
    ) -> Collected:
        """Find the objects of the project that nothing needs, and ``delete``: remove them.

        ``keep_versions`` and ``older_than`` delete versions that are outside of both (of the one that is given) and
        that no route, label, hold or unfinished execution needs; ``executions_older_than`` removes executions that
        ended longer ago. Nothing goes that was written or needed within ``grace``, so the objects of deleted versions
        go a grace period later. Safe while others use the store, unless ``grace`` is zero.
        """
        if keep_versions is not None and keep_versions < 1:
            raise KitaruUsageError(f"keep_versions is {keep_versions}, expected 1 or more")
        for name, span in (("older_than", older_than), ("executions_older_than", executions_older_than)):
            if span is not None and span <= timedelta(0):
                raise KitaruUsageError(f"{name} is {span}, expected a stretch of time")
        if grace < timedelta(0):
            raise KitaruUsageError(f"grace is {grace}, expected a stretch of time")
        session = self._session
        terms = Terms(grace, keep_versions, older_than, executions_older_than)
        collector = Collector(session.store, session.project, session.releases, session.clock, session.reporter, terms)
        return collector.collect(delete=delete, by=session.actor)

    def copy(self, to: str) -> Copied:
        """Copy the project to the store ``to`` (``s3://acme/prod``), and verify the copy with every object and journal.

        Again, it copies what came since. An execution that is not finished can then be resumed in both stores: finish
        or cancel it first. Raises ``KitaruStoreError`` where ``to`` holds another project of that name.
        """
        session, project = self._session, self._session.project
        if project not in session.projects():
            raise KitaruUsageError(
                f"there is nothing to copy: {session.place}", hint="name the store and the --project"
            )
        target = wiring.open_store(replace(session.settings, store=to))
        # What the keys of a folder name lies in the folders after it.
        folders = [f"{project}/{name}/" for name in ("index", "lock", "executions", "objects")]
        changing = re.compile(r"[^/]+/(index/(?!idempotency/)|executions/[^/]+/(summary\.json|logs/))")
        keys, size = copy(session.store, target, folders, may_change=lambda key: changing.match(key) is not None)
        newest = session.store.read(address.lock_hint(project))
        if newest is not None:
            hints.write(target, address.lock_hint(project), newest)
        return Copied(keys, size, verify(target, project, session.reporter, check_archive=wiring.bundle.read_archive))

    def prune_caches(self, *, delete: bool = False, unused_for: timedelta = UNUSED_FOR) -> Pruned:
        """Find virtual environments and unpacked sources of this machine without recent use; ``delete`` them.

        One that a process uses at the moment stays.
        """
        return prune(self._session.settings.cache, unused_for, delete=delete)
