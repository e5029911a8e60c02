"""``client.housekeeping``: remove garbage from the store and from this machine's caches."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from kitaru import wiring
from kitaru.client.session import Session
from kitaru.errors import KitaruUsageError
from kitaru.release.releases import Releases
from kitaru.upkeep.collect import GRACE, Collected, Collector, Terms

UNUSED_FOR = timedelta(days=30)


class Housekeeping:
    """Verbs that free space."""

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
        releases = Releases(session.store, session.project, session.clock)
        collector = Collector(session.store, session.project, releases, session.clock, session.reporter, terms)
        return collector.collect(delete=delete, by=session.actor)

    def prune_caches(self, *, delete: bool = False, unused_for: timedelta = UNUSED_FOR) -> Any:
        """Find virtual environments and unpacked sources of this machine without recent use; ``delete`` them.

        One that a process uses at the moment stays.
        """
        return wiring.prune_caches(self._session.settings, unused_for, delete=delete)
