"""Which versions nobody needs any more, by the terms that a person gave. Pure."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from datetime import datetime, timedelta

from kitaru.model.address import timestamp
from kitaru.model.lockfile import FlowState, Release, VersionTable

GRACE = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a collector may take.

    ``grace``: nothing younger, and nothing that was still needed so long ago. Versions go where they are outside both
    of ``keep_versions`` (so many of the newest of each flow) and ``older_than``, as far as those are given; executions
    where they ended longer ago than ``executions_older_than``. None: no version, no execution.
    """

    grace: timedelta = GRACE
    keep_versions: int | None = None
    older_than: timedelta | None = None
    executions_older_than: timedelta | None = None

    @property
    def drops_versions(self) -> bool:
        """Whether any version may go."""
        return self.keep_versions is not None or self.older_than is not None


def held(state: FlowState) -> frozenset[int]:
    """The versions that routes and labels lead to, that a hold remembers, or that a removed route may come back to."""
    routes = (*state.routes.values(), *state.untagged.values())
    holders = [holder for route in routes for holder in route.holders]
    holders += [holder for route in routes if route.hold is not None for holder in route.hold.left]
    return frozenset(holder.version for holder in holders)


def outlived(
    state: FlowState, table: VersionTable, terms: Terms, now: datetime, pinned: Container[str]
) -> tuple[Release, ...]:
    """The versions of a flow that may go. ``pinned``: snapshots of executions that have not ended."""
    rows = [release for release in table.releases if not release.deleted]
    kept = held(state)
    if not state.retired:
        kept |= {state.latest}
    if terms.keep_versions is not None:
        kept |= {release.version for release in rows[len(rows) - min(terms.keep_versions, len(rows)) :]}
    before = timestamp(now - terms.older_than) if terms.older_than is not None else None
    return tuple(
        release
        for release in rows
        if release.version not in kept and release.snapshot not in pinned and (before is None or release.at < before)
    )
