"""Generations that are missing in the middle of a lock log, and what is still known without them. Reads nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from kitaru.model import address
from kitaru.model.lockfile import Lockfile


@dataclass(frozen=True, slots=True)
class Hole:
    """Generations ``first`` to ``last`` are not there, and the one after them is."""

    first: int
    last: int


def runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """The first and last of each run of numbers without a gap; ``numbers`` are sorted."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def sorted_names(project: str, names: Iterable[str]) -> tuple[list[int], list[str]]:
    """The numbers of the generations among the names of a lock folder, in order; and the names that are of none."""
    folder = address.generation(project, 0).rpartition("/")[0]
    numbers, foreign = [], []
    for name in names:
        stem = name.removesuffix(".json")
        if stem.isdecimal() and f"{folder}/{name}" == address.generation(project, int(stem)) and int(stem) > 0:
            numbers.append(int(stem))
        else:
            foreign.append(name)
    return sorted(numbers), foreign


def hole_words(hole: Hole) -> str:
    """What is missing, and what to do about it; ``generation 5`` is said before it."""
    which = f"generations {hole.first} to {hole.last} are missing" if hole.last > hole.first else "is missing"
    where = f"between {hole.first - 1} and {hole.last + 1}" if hole.first > 1 else "at the beginning of the log"
    restore = "them" if hole.last > hole.first else "it"
    return f"{which} {where}, and no generation is ever deleted: restore {restore} from a backup"


def state_words(project: str, head: int, known_from: int, hint: Lockfile | None, present: Collection[int]) -> str:
    """What readers and writers make of a log with a hole before ``head``, its newest generation.

    ``known_from``: the generation with a full state that leads to the newest one, 0 where there is none. ``hint``: the
    state that ``kitaru.lock`` tells, where it can be believed. ``present``: all generations that are there.
    """
    found = _followed(hint.generation, present) if hint is not None else head
    if found < head:
        return f"Write nothing until then: the log would be taken to end with {found}, and forked there"
    if known_from:
        return f"The newest state is still known: generation {known_from} holds one in full"
    if hint is not None:
        return f"The newest state is known from {address.lock_hint(project)} alone: keep a copy of it"
    return "The newest state can't be told without that: no generation behind it holds one in full"


def _followed(number: int, present: Collection[int]) -> int:
    """How far the log goes on from there without a gap."""
    while number + 1 in present:
        number += 1
    return number
