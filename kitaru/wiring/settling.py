"""Settings, the manifest and the store; and the small adapters that every command may need."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kitaru.errors import KitaruUsageError
from kitaru.model.address import CROCKFORD
from kitaru.settings import (
    DEFAULT_PROJECT,
    MANIFEST,
    Asked,
    Settings,
    check_project,
    find_manifest,
    find_pyproject,
    user_folder,
)

if TYPE_CHECKING:
    from kitaru.manifest.port import ManifestFile
    from kitaru.masking import Masking
    from kitaru.ports import Step
    from kitaru.store.port import Store


_FILE = re.compile(r"file:(//localhost(?=/)|//|(?=/))", re.IGNORECASE)
"""What stands before the path in the address of a folder."""


class SystemClock:
    """The machine's time and its secure randomness."""

    def now(self) -> datetime:
        """The present, in UTC."""
        return datetime.now(UTC)

    def token(self, size: int) -> str:
        """``size`` random characters."""
        return "".join(secrets.choice(CROCKFORD) for _ in range(size))


class Silent:
    """A reporter for whom nobody waits."""

    def step(self, step: Step) -> None:
        """Says nothing."""


def environment() -> Mapping[str, str]:
    """This process's environment."""
    return os.environ


def load_manifest(asked: Asked, cwd: Path) -> ManifestFile:
    """The manifest that was asked for, or the nearest one. Raises ``KitaruManifestError`` where it is not valid."""
    path = asked.manifest or find_manifest(cwd)
    if path is None:
        raise KitaruUsageError(f"there is no {MANIFEST} in {cwd} or above it", hint="kitaru init")
    from kitaru.manifest.reading import load

    return load(path, target=asked.target)


def settle(asked: Asked, *, cwd: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of a call: argument > KITARU_STORE / KITARU_PROJECT > manifest > pyproject.toml > the user's folder.

    A manifest is read only where it has a word to say: a consumer that names store and project needs none.
    """
    cwd = (cwd or Path.cwd()).absolute()
    environ = environment() if environ is None else environ
    store, base = asked.store or environ.get("KITARU_STORE"), cwd
    project = asked.project or environ.get("KITARU_PROJECT")
    stack = asked.stack or environ.get("KITARU_STACK")
    path = asked.manifest or find_manifest(cwd)
    if path is not None and (store is None or project is None or asked.manifest or asked.target):
        said = _store_and_project(replace(asked, manifest=path), path, cwd)
        project = project or said[1]
        if store is None and said[0]:
            store, base = said[0], path.parent.resolve()
    elif asked.target and path is None:
        raise KitaruUsageError(
            f"--target {asked.target} needs a {MANIFEST}, and there is none here", hint="kitaru init"
        )
    if store and not asked.store and store == environ.get("KITARU_STORE") and _is_relative(store):
        if path is None:
            raise KitaruUsageError(
                f"KITARU_STORE is {store!r}, relative to a {MANIFEST}, and there is none here",
                hint=f"export KITARU_STORE=file://{cwd / _place(store)}",
            )
        base = path.parent.resolve()
    if store is None or project is None or stack is None:
        where, table = find_pyproject(cwd)
        stack = stack or table.get("stack")
        project = project or table.get("project")
        if store is None and table.get("store"):
            store, base = table["store"], where.parent
    if store is None:
        store = str(user_folder("data", environ) / "store")
    return Settings(
        store=store,
        base=base,
        project=check_project(project or DEFAULT_PROJECT),
        cwd=cwd,
        manifest=path.absolute() if path else None,
        target=asked.target,
        stack=stack,
        environ=environ,
    )


def _store_and_project(asked: Asked, path: Path, cwd: Path) -> tuple[str | None, str]:
    """The manifest's store and project. Its model is loaded only if they need a closer look."""
    from kitaru.manifest.yaml import store_and_project

    try:
        names = store_and_project(path.read_bytes(), asked.target)
    except OSError:
        names = None
    if names is not None:
        return names
    manifest = load_manifest(asked, cwd).manifest
    return manifest.store, manifest.project


def open_store(settings: Settings) -> Store:
    """The store of these settings; opening it makes no request."""
    from kitaru.store.open import open_store

    return open_store(absolute_store(settings), base=settings.base)


def own_store(settings: Settings) -> Store | None:
    """The store in the user's own folder, where runs are kept until a manifest names another; None before the first."""
    place = user_folder("data", settings.environ) / "store"
    return open_store(replace(settings, store=str(place))) if place.is_dir() else None


def absolute_store(settings: Settings) -> str:
    """The store's address, the same from every folder and in every spelling.

    ``file:/a/b``, ``file://localhost/a/b`` and ``/a/b`` are ``file:///a/b``; ``s3://bucket/prefix/`` ends before its
    last slash.
    """
    if not _place(settings.store):
        return settings.store.rstrip("/") if not settings.store.endswith("://") else settings.store
    return f"file://{Path(os.path.normpath(settings.base / Path(_place(settings.store)).expanduser()))}"


def _place(store: str) -> str:
    """The path of a store that is a folder; nothing for any other."""
    known = _FILE.match(store)
    if known is not None:
        return store[known.end() :]
    return "" if "://" in store else store


def _is_relative(store: str) -> bool:
    place = _place(store)
    return bool(place) and not place.startswith(("/", "~"))


def store_id(store: Store) -> str:
    """What a store's folder has wherever it is mounted, and no copy of it has: its number on its disk.

    Empty for a store that is no folder, whose address says enough, and before anything was written.
    """
    protocol, _, place = store.url.partition("://")
    if protocol != "file":
        return ""
    try:
        return f"inode {Path(place).stat().st_ino}"
    except OSError:
        return ""


def probe_store(store: Store) -> None:
    """Refuse a store of an unknown make that breaks its promises; on disk and in memory our own code keeps them."""
    if not store.url.startswith(("file:", "memory:")):
        from kitaru.store.open import check_store

        check_store(store)


def secret_mask(environ: Mapping[str, str]) -> Masking:
    """What takes the secrets of that environment out of a text, those that come into it later, too."""
    from kitaru.masking import Masking

    return Masking(environ)


def template(name: str) -> str:
    """The text of one of the templates that travel with Kitaru."""
    from kitaru.data_files import template

    return template(name)


def check_inputs(schema: Mapping[str, Any], inputs: Mapping[str, Any]) -> Sequence[str]:
    """What of the inputs doesn't fit the schema, one sentence each."""
    from kitaru.manifest.inputs import check

    return check(schema, inputs)


def check_answer(schema: Mapping[str, Any] | None, value: Any) -> Sequence[str]:
    """What of an answer doesn't fit the schema of its wait, one sentence each."""
    from kitaru.manifest.inputs import check_value

    return check_value(schema or {}, value)
