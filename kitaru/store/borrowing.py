"""Objects that a writer relies on and found there: a collector may be about to remove just those.

Who commits to an object that it did not write itself makes it young first, by writing the same bytes over it, and looks
once more right after the commit. Why that is enough is in ``upkeep.collecting``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from kitaru.errors import KitaruError
from kitaru.model import address
from kitaru.model.pieces import Body
from kitaru.ports import Created, Store


@dataclass(frozen=True, slots=True)
class Borrowed:
    """What one commit relies on that was there before. Its methods may be called from several threads."""

    store: Store
    project: str
    _objects: dict[str, bytes] = field(default_factory=dict)
    _archives: dict[str, Callable[[], bytes]] = field(default_factory=dict)

    def store_object(self, body: bytes, *, kept: bool = False) -> str:
        """Store ``body`` under its digest, which is returned. ``kept``: the state that is built upon needs it too."""
        sha = address.digest(body)
        key = address.blob(self.project, sha)
        if was_there(self.store, key, body) and not kept:
            self.store.overwrite(key, body)
            self._objects[key] = body
        return sha

    def rely_on_archive(self, sha: str, listing: bytes, archive: Callable[[], bytes]) -> None:
        """The archive of the source ``sha`` is there. Its listing is made young, and stands for the two of them."""
        key = address.blob(self.project, sha)
        self.store.overwrite(key, listing)
        self._objects[key] = listing
        self._archives[address.source_archive(self.project, sha)] = archive

    def settle(self) -> None:
        """After the commit: put back what was removed between the look and the commit. One request for each."""
        for key, archive in self._archives.items():
            with suppress(KitaruError):
                folder, _, name = key.rpartition("/")
                if name not in self.store.names(f"{folder}/"):
                    self.store.create(key, archive())
        for key, body in self._objects.items():
            with suppress(KitaruError):
                self.store.create(key, body)


def was_there(store: Store, key: str, body: Body) -> bool:
    """Create ``key``; whether it may have been there already, with these bytes or, being damaged, with others."""
    outcome = store.create(key, body)
    return not isinstance(outcome, Created) or outcome.found
