"""Which of a repository's manifests a flow belongs to: one alone declares it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from kitaru.errors import Problem
from kitaru.model.manifest import Neighbours

Place = Callable[..., Problem]
"""(message, *path of keys, hint=) → the problem with the manifest's file, line and column."""


def taken_over(flow: str, beside: Neighbours) -> str:
    """Who has a flow now that this manifest no longer declares, in a sentence; empty where nobody does."""
    for other in beside.found:
        if flow in other.flows:
            return f"{flow} is declared by {other.path} now; apply there takes it over"
        if flow in other.moved:
            return f"{flow} is renamed to {other.moved[flow]} by {other.path} now; apply there takes it over"
    return ""


def declared_twice(
    here: str, flows: Collection[str], moved: Mapping[str, str], beside: Neighbours, place: Place
) -> Iterator[Problem]:
    """The flows of the manifest ``here`` that another one has as well, each with both files.

    ``flows`` are those that this one declares, ``moved`` its renames, from the old name to the new one.
    """
    for other in beside.found:
        for was, name in moved.items():
            if was in other.flows:
                yield place(
                    f"{was} is declared by {other.path} of this repository, and {here} here makes it {name}",
                    *("moved", was),
                    hint=f"remove {was} from {other.path}, or from moved: here",
                )
        for flow in flows:
            if flow in other.flows:
                yield place(
                    f"{flow} is declared by {other.path} of this repository, and by {here} here",
                    *("flows", flow),
                    hint="remove it from one of them, or give this manifest a project of its own",
                )
            elif flow in other.moved:
                yield place(
                    f"{flow} becomes {other.moved[flow]} in {other.path} of this repository; {here} here declares it",
                    *("flows", flow),
                    hint=f"remove it here, or from moved: of {other.path}",
                )
