"""``Store`` inside this process, over fsspec's memory file system: for tests and for trying things out."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

from fsspec.implementations.memory import MemoryFileSystem

from kitaru.errors import KitaruStoreError, KitaruUsageError
from kitaru.model.pieces import Body
from kitaru.store.port import Created, Listed, Taken, check_body, check_key, check_prefix

_guard = threading.Lock()
"""One for the process, like the memory file system's content: its own create is not atomic between threads."""


def _renew_guard() -> None:
    global _guard
    _guard = threading.Lock()


# A fork while another thread writes would leave the child a guard that is never released.
os.register_at_fork(after_in_child=_renew_guard)


class MemoryStore:
    """``memory://name``: equal names share their content, within one process and until it ends."""

    durable_across_processes = False

    def __init__(self, url: str) -> None:
        """``url`` is ``memory://``, with or without a path."""
        if not url.startswith("memory://"):
            raise KitaruUsageError(f"{url!r} is not the address of a memory store", hint="write memory://name")
        root = url.removeprefix("memory://").strip("/")
        if root:
            check_key(root)
        self.url = url
        self._root = f"/{root}" if root else ""
        self._fs: Any = MemoryFileSystem(skip_instance_cache=True)

    def read(self, key: str) -> bytes | None:
        check_key(key)
        with _guard:
            return self._get(key)

    def create(self, key: str, body: Body) -> Created | Taken:
        check_key(key)
        check_body(key, body)
        with _guard:
            existing = self._get(key)
            if existing is None:
                self._put(key, bytes(body))
                return Created()
        return Created(found=True) if existing == body else Taken(existing)

    def overwrite(self, key: str, body: Body, *, durable: bool = True) -> None:  # noqa: ARG002
        check_key(key)
        check_body(key, body)
        with _guard:
            self._put(key, bytes(body))

    def names(self, prefix: str, *, after: str = "") -> list[str]:
        check_prefix(prefix)
        folder = self._path(prefix)
        with _guard:
            keys = [path for path in self._fs.store if path.startswith(folder)]
        found = set()
        for key in keys:
            name, slash, _ = key[len(folder) :].partition("/")
            found.add(name + slash)
        return sorted(name for name in found if name > after)

    def listed(self, prefix: str) -> Iterator[Listed]:
        check_prefix(prefix)
        folder = self._path(prefix)
        cut = len(self._path(""))
        with _guard:
            files = [(path, file) for path, file in self._fs.store.items() if path.startswith(folder)]
            found = [Listed(path[cut:], len(file.getbuffer()), file.modified) for path, file in files]
        yield from found

    def remove(self, key: str) -> None:
        check_key(key)
        with _guard:
            self._fs.store.pop(self._path(key), None)

    def _get(self, key: str) -> bytes | None:
        file = self._fs.store.get(self._path(key))
        return None if file is None else bytes(file.getvalue())

    def _put(self, key: str, body: bytes) -> None:
        try:
            self._fs.pipe_file(self._path(key), body)
        except OSError as error:
            raise KitaruStoreError(
                f"can't write {key!r} in the store {self.url}: it would lie below a key, or above one",
                hint="choose another name",
            ) from error

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"
