"""Flows that are measured from inside a warm process, on a local store of their own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kitaru import KitaruClient, flow


@contextmanager
def local_client() -> Iterator[tuple[KitaruClient, Path]]:
    """A client of a fresh local store, and that store's folder."""
    with tempfile.TemporaryDirectory(prefix="kitaru-bench-", ignore_cleanup_errors=True) as folder:
        store = Path(folder).resolve() / "store"
        os.environ["KITARU_HOME"] = str(Path(folder) / "home")
        yield KitaruClient(store=f"file://{store}", project="bench"), store


def run_flow(client: KitaruClient, body: Callable[[], Any], *, cache: bool = False) -> Any:
    """Run ``body`` as a flow of that client; its result. Without the cache, unless asked: every checkpoint runs."""

    @flow
    def measured() -> Any:
        return body()

    return client.executions.run(measured, {}, cache=cache).wait()


class Floor:
    """What the disk itself takes: an append with fdatasync, and a whole new file made durable."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._descriptor = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._number = 0

    def append(self, body: bytes) -> None:
        """Append to one file, and fdatasync it."""
        os.write(self._descriptor, body)
        os.fdatasync(self._descriptor)

    def new_file(self, body: bytes) -> None:
        """Write a new file, fsync it, rename it into place, fsync the folder."""
        self._number += 1
        name = f"{self._number:012d}"
        descriptor = os.open(f".{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._directory)
        try:
            os.write(descriptor, body)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(f".{name}", name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        os.fsync(self._directory)

    def close(self) -> None:
        """Close what is open."""
        os.close(self._descriptor)
        os.close(self._directory)
