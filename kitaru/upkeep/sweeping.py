"""Remove objects, and put back what turns out to be needed after all. Why that is safe is in ``upkeep.collecting``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from kitaru.errors import KitaruError
from kitaru.model import address
from kitaru.ports import Store
from kitaru.upkeep.needs import AT_ONCE, digest_of, in_parallel

BATCH_BYTES = 32 * 2**20
"""What is kept in memory until it is certain that nobody needs it; a larger object is a batch of its own."""

BATCH_KEYS = 256


@dataclass(slots=True)
class Swept:
    """Keys that were removed, with their sizes in bytes; and how many were put back."""

    removed: dict[str, int] = field(default_factory=dict)
    restored: int = 0


@dataclass(frozen=True, slots=True)
class Sweeper:
    """``needed(candidates)`` looks anew at what is needed: those of the candidates that are."""

    store: Store
    project: str
    horizon: datetime
    needed: Callable[[Collection[str]], set[str]]

    def sweep(self, sizes: Mapping[str, int], archives: Collection[str]) -> Swept:
        """Remove the objects of ``sizes`` (key → bytes) that nobody needs. ``archives``: all sources that have one.

        Archives go before the objects that list them: an archive that is there promises its listing.
        """
        swept = Swept()
        kept = set(archives)
        for keys in batches({key: size for key, size in sizes.items() if key.endswith(".zst")}):
            self._remove(keys, sizes, swept)
            kept -= {digest_of(key) for key in keys if key in swept.removed}
        rest = {key: size for key, size in sizes.items() if not key.endswith(".zst") and digest_of(key) not in kept}
        for keys in batches(rest):
            self._remove(keys, sizes, swept)
        return swept

    def _remove(self, keys: list[str], sizes: Mapping[str, int], swept: Swept) -> None:
        found = zip(keys, in_parallel(self.store.read, keys), strict=True)
        bodies = {key: body for key, body in found if body is not None}
        needed = self.needed(bodies)
        going = [key for key in self._old(bodies) if key not in needed]
        try:
            with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
                list(pool.map(self.store.remove, going))
            needed = self.needed(going)
        except BaseException:
            # Nobody can tell what happened meanwhile.
            with suppress(KitaruError):
                self._put_back(going, bodies)
            raise
        swept.restored += self._put_back([key for key in going if key in needed], bodies)
        swept.removed |= {key: sizes[key] for key in going if key not in needed}

    def _old(self, keys: Collection[str]) -> Iterator[str]:
        """Those that are as old as they were: nobody has written them since. An archive's listing speaks for it."""
        ages = {}
        listings = {key: self._listing(key) for key in keys if key.endswith(".zst")}
        for folder in sorted({key.rpartition("/")[0] for key in (*keys, *listings.values())}):
            ages.update({one.key: one.modified for one in self.store.listed(f"{folder}/")})
        for key in keys:
            partner = listings.get(key, key)
            if key in ages and ages[key] < self.horizon and ages.get(partner, ages[key]) < self.horizon:
                yield key

    def _listing(self, archive: str) -> str:
        return address.blob(self.project, digest_of(archive))

    def _put_back(self, keys: Collection[str], bodies: Mapping[str, bytes]) -> int:
        # The listing before its archive, as whoever writes them does.
        for key in sorted(keys, key=lambda key: key.endswith(".zst")):
            self.store.create(key, bodies[key])
        return len(keys)


def batches(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """The keys in order, in batches that fit into memory."""
    batch: list[str] = []
    held = 0
    for key in sorted(sizes):
        if batch and (held + sizes[key] > BATCH_BYTES or len(batch) == BATCH_KEYS):
            yield batch
            batch, held = [], 0
        batch.append(key)
        held += sizes[key]
    if batch:
        yield batch
