"""From a store's address to the store: which protocols there are, and which adapter each needs."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kitaru.errors import KitaruStoreError, KitaruUsageError
from kitaru.ports import Store
from kitaru.store.local_store import LocalStore

_KNOWN = "a store is a folder (file://path), a bucket (s3://bucket/prefix), or memory:// for this process only"
_INSTEAD = {
    "http": "for an S3-compatible server write s3://bucket/prefix, and put the server's address into AWS_ENDPOINT_URL",
    "s3a": "write s3://bucket/prefix",
    "s3n": "write s3://bucket/prefix",
    "local": "write file://path",
    "gs": f"Google Cloud Storage has no adapter in this release; {_KNOWN}",
    "az": f"Azure Blob Storage has no adapter in this release; {_KNOWN}",
}
_INSTEAD.update(
    https=_INSTEAD["http"], gcs=_INSTEAD["gs"], abfs=_INSTEAD["az"], abfss=_INSTEAD["az"], adl=_INSTEAD["az"]
)


def open_store(url: str, *, base: Path, options: Mapping[str, Any] | None = None) -> Store:
    """The store at ``url``; nothing is read, written or sent yet.

    ``url`` is ``file://path`` or a bare path, relative to ``base`` unless absolute; ``s3://bucket/prefix``; or
    ``memory://name``. ``options`` are those of the file system behind it: s3fs's for ``s3://``, none for the others.
    Raises ``KitaruUsageError`` for another protocol, ``KitaruStoreError`` where the adapter's library is not installed.
    """
    protocol, separator, rest = url.partition("://")
    if not separator or "/" in protocol:
        protocol, rest = "file", url
    protocol = protocol.lower()
    if "@" in rest.split("/")[0] and protocol != "file":
        raise KitaruUsageError(
            f"the {protocol}:// address of the store holds credentials",
            hint="leave them out of the address; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        )
    if protocol == "s3":
        return _open_s3("s3://" + rest, options)
    if options:
        raise KitaruUsageError(f"a {protocol}:// store takes no options: {', '.join(options)}", hint="remove them")
    if protocol == "memory":
        # fsspec costs 100 ms to import, s3fs 550: each is paid for by the stores that need it.
        memory: Store = importlib.import_module("kitaru.store.object_store").MemoryStore("memory://" + rest)
        return memory
    if protocol != "file":
        raise KitaruUsageError(f"Kitaru can't keep a store at {protocol}://", hint=_INSTEAD.get(protocol, _KNOWN))
    if not rest or "\0" in rest:
        raise KitaruUsageError(f"{url!r} names no folder for the store", hint="write file://path, or a path")
    return LocalStore(base / Path(rest).expanduser(), url)


def _open_s3(url: str, options: Mapping[str, Any] | None) -> Store:
    try:
        module = importlib.import_module("kitaru.store.s3_store")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("kitaru"):
            raise
        raise KitaruStoreError(
            f"a store at s3:// needs s3fs, and the module {error.name!r} is not installed",
            hint="pip install 'kitaru[s3]'",
        ) from error
    store: Store = module.S3Store(url, _with_region(options or {}))
    return store


def _with_region(options: Mapping[str, Any]) -> dict[str, Any]:
    """botocore reads AWS_ENDPOINT_URL and AWS_DEFAULT_REGION by itself, but not AWS_REGION, as other AWS tools do."""
    region = os.environ.get("AWS_REGION")
    client = dict(options.get("client_kwargs", {}))
    if region:
        client.setdefault("region_name", region)
    return {**options, "client_kwargs": client}
