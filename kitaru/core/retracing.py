"""Where a route led before, as ``rollback`` means it: its moves in the log, newest first. Pure.

A route's moves are steps, and a rollback goes back to an earlier one: what came after that is undone. So a second
rollback goes one step further back, never to a version that a rollback left, and on past versions that were deleted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from kitaru.model.lockfile import AddVersion, Edit, Move
from kitaru.model.route import Assignment, describe_holders

ROLLBACK = "rollback"
"""The verb of a generation that led a route back."""

WHOLE = 100

Holders = tuple[Assignment, ...]


class Retracing:
    """The way back of one exclusive route, which leads to ``here`` now. ``found``: where to, once that is known.

    ``names`` are all that the flow ever had; ``there`` are its versions that are not deleted.
    """

    def __init__(self, names: Collection[str], tag: str, here: Holders, there: Collection[int]) -> None:
        self.found: Holders = ()
        self.was_label = False
        self._names, self._tag, self._there = frozenset(names), tag, frozenset(there)
        self._here = self._step = _ascending(here)
        self._left: list[Holders] = []
        self._deleted: list[Holders] = []
        self._beside: Holders = ()
        self._over = False

    def follow(self, edits: Sequence[Edit], verb: str) -> bool:
        """Take in the next older generation; whether no older one is needed."""
        for edit in edits:
            if self._over:
                break
            if isinstance(edit, Move) and edit.flow in self._names and edit.tag == self._tag:
                self._moved(_ascending(edit.expects or ()), _ascending(edit.holders), verb)
        began = any(isinstance(edit, AddVersion) and edit.expects == 0 and edit.flow in self._names for edit in edits)
        self._over = self._over or began
        return self._over

    def settle(self) -> Holders:
        """Where the route is led back to, after the last generation there is; no holders where nothing is left.

        A rollback to a version that the route had never led to is no step of its own: it only undid the last one.
        """
        if not self.found and self._step == self._here:
            self.found = self._beside
        return self.found

    @property
    def skipped(self) -> tuple[str, ...]:
        """What was passed over, in words, newest first."""
        left = (f"{describe_holders(one)}, which a rollback left" for one in self._left)
        deleted = (f"{describe_holders(one)}, which was deleted" for one in self._deleted)
        return tuple(dict.fromkeys((*left, *deleted)))

    def _moved(self, before: Holders, after: Holders, verb: str) -> None:
        if before == after:
            return
        if verb == ROLLBACK:
            # The step that it went back to is an older move.
            self._left.append(before)
            return
        if not self._beside and before and self._usable(before):
            self._beside = before
        if after != self._step:
            return
        self._step = before
        if not before or sum(holder.weight for holder in before) != WHOLE:
            self.was_label, self._over = bool(before), True
        elif self._usable(before):
            self.found, self._over = before, True
        elif before not in (self._here, *self._left):
            self._deleted.append(before)

    def _usable(self, holders: Holders) -> bool:
        fresh = holders not in (self._here, *self._left)
        return fresh and all(holder.version in self._there for holder in holders)


def _ascending(holders: Holders) -> Holders:
    return tuple(sorted(holders, key=lambda holder: holder.version))
