"""Other manifests of the repository that keep their flows in the same project: which flows they claim."""

from __future__ import annotations

from collections.abc import Mapping

from kitaru.model.record import record


@record()
class Neighbour:
    """One of them: its path below the repository's root, the flows that it declares, and its ``moved:``."""

    path: str
    flows: frozenset[str]
    moved: Mapping[str, str]


@record()
class Neighbours:
    """Those that were found, by path, and one sentence for each that could not be read."""

    found: tuple[Neighbour, ...] = ()
    unread: tuple[str, ...] = ()
