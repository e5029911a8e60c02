"""Who wrote a generation, and from which commit: told where a rule that it applied refuses something."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from kitaru.model.address import short
from kitaru.release.releases import Releases


def told_from(releases: Releases) -> Callable[[int], str]:
    """(generation) → ``by Ann from 1a2b3c4d5e6f on main``; empty where the log does not have it. One read for each."""

    @cache
    def told(generation: int) -> str:
        found = releases.entry(generation)
        if found is None:
            return ""
        entry, _ = found
        place = f" from {short(entry.commit.sha)}" if entry.commit else ""
        branch = f" on {entry.commit.branch}" if entry.commit and entry.commit.branch else ""
        return f"by {entry.by}{place}{branch}"

    return told
