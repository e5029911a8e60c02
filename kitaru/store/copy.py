"""Copies what lies in one store to another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

from kitaru.errors import KitaruStoreError
from kitaru.store.port import Created, Store

COPIERS = 16


def copy(source: Store, target: Store, folders: Sequence[str], *, may_change: Callable[[str], bool]) -> tuple[int, int]:
    """Copy every key below ``folders``: those of the last folder first. How many are new, and their bytes.

    What an earlier folder names must lie in a later one: ``("p/lock/", "p/objects/")``. They are listed in their order
    and written the other way round, so that the copy is whole at each moment though others write the source. Keys of
    one folder are written in their order. A key that the target has already is left, and a hint (``may_change``)
    written anew. Raises ``KitaruStoreError`` where the target holds other bytes under a key.
    """
    listed = [sorted(one.key for one in source.listed(folder)) for folder in folders]
    copied: list[int] = []

    def copy_together(keys: Sequence[str]) -> None:
        for key in keys:
            body = source.read(key)
            if body is None:  # a hint, or an execution that was removed meanwhile
                continue
            if may_change(key):
                target.overwrite(key, body)
                continue
            outcome = target.create(key, body)
            if not isinstance(outcome, Created):
                raise KitaruStoreError(
                    f"{target.url} holds something else under {key} than {source.url} does",
                    hint="copy into a store that has no project of that name, or only an earlier copy of this one",
                )
            if not outcome.found:
                copied.append(len(body))

    def by_folder(keys: Sequence[str]) -> Iterator[list[str]]:
        for _, together in groupby(keys, key=lambda key: key.rpartition("/")[0]):
            yield list(together)

    with ThreadPoolExecutor(COPIERS) as pool:
        for keys in reversed(listed):
            list(pool.map(copy_together, by_folder(keys)))
    return len(copied), sum(copied)
