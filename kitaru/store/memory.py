"""``Store`` inside this process: for tests and for trying things out."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

from kitaru.errors import KitaruUsageError
from kitaru.model.pieces import Body
from kitaru.store.port import Created, Listed, Taken, check_body, check_key, check_prefix

_contents: dict[str, tuple[bytes, datetime]] = {}
"""The name of a store and a key, ``name/a/key`` → its body, and the time of its last write."""

_guard = threading.Lock()


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
        self._root = f"{root}/"

    def read(self, key: str) -> bytes | None:
        check_key(key)
        return _contents.get(self._root + key, (None,))[0]

    def create(self, key: str, body: Body) -> Created | Taken:
        check_key(key)
        check_body(key, body)
        with _guard:
            existing = self.read(key)
            if existing is None:
                _contents[self._root + key] = bytes(body), datetime.now(UTC)
                return Created()
        return Created(found=True) if existing == body else Taken(existing)

    def overwrite(self, key: str, body: Body, *, durable: bool = True) -> None:  # noqa: ARG002
        check_key(key)
        check_body(key, body)
        with _guard:
            _contents[self._root + key] = bytes(body), datetime.now(UTC)

    def names(self, prefix: str, *, after: str = "") -> list[str]:
        parts = (one.key[len(prefix) :].partition("/") for one in self.listed(prefix))
        return sorted({name + slash for name, slash, _ in parts if name > after})

    def listed(self, prefix: str) -> Iterator[Listed]:
        check_prefix(prefix)
        with _guard:
            found = [(path, *content) for path, content in _contents.items() if path.startswith(self._root + prefix)]
        for path, body, modified in found:
            yield Listed(path[len(self._root) :], len(body), modified)

    def remove(self, key: str) -> None:
        check_key(key)
        with _guard:
            _contents.pop(self._root + key, None)
