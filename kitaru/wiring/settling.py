"""Settings, the manifest, the store, and small adapters for every command."""

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
"""The part before the path in the address of a folder."""


class SystemClock:
    """The machine's time and its secure randomness."""

    def now(self) -> datetime:
        """The present, in UTC."""
        return datetime.now(UTC)

    def token(self, size: int) -> str:
        """``size`` random characters."""
        return "".join(secrets.choice(CROCKFORD) for _ in range(size))


class Silent:
    """A reporter that reports nothing."""

    def step(self, step: Step) -> None:
        """Do nothing."""


def environment() -> Mapping[str, str]:
    """This process's environment."""
    return os.environ


def load_manifest(asked: Asked, cwd: Path) -> ManifestFile:
    """The manifest of ``asked``, or the nearest one.

    Raises ``KitaruUsageError`` if there is none, ``KitaruManifestError`` if it is not valid.
    """
    path = asked.manifest or find_manifest(cwd)
    if path is None:
        raise KitaruUsageError(f"there is no {MANIFEST} in {cwd} or above it", hint="kitaru init")
    from kitaru.manifest.reading import load

    return load(path, target=asked.target)


def settle(asked: Asked, *, cwd: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of a call: argument > KITARU_STORE / KITARU_PROJECT > manifest > pyproject.toml > the user's folder.

    A manifest is not read if store and project are given, unless ``asked`` has a manifest or a target.
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
    """The store in the user's own folder, for runs without another store; None before the first run."""
    place = user_folder("data", settings.environ) / "store"
    return open_store(replace(settings, store=str(place))) if place.is_dir() else None


def absolute_store(settings: Settings) -> str:
    """The store's address in one spelling, absolute.

    ``file:/a/b``, ``file://localhost/a/b``, ``/a/b`` → ``file:///a/b``; ``s3://bucket/prefix/`` →
    ``s3://bucket/prefix``.
    """
    if not _place(settings.store):
        return settings.store.rstrip("/") if not settings.store.endswith("://") else settings.store
    return f"file://{Path(os.path.normpath(settings.base / Path(_place(settings.store)).expanduser()))}"


def _place(store: str) -> str:
    """The path of a store that is a folder: ``file:///a/b`` → ``/a/b``; empty for any other."""
    known = _FILE.match(store)
    if known is not None:
        return store[known.end() :]
    return "" if "://" in store else store


def _is_relative(store: str) -> bool:
    place = _place(store)
    return bool(place) and not place.startswith(("/", "~"))


def store_id(store: Store) -> str:
    """The inode of a store's folder, equal under every mount and other for each copy: ``inode 1234``.

    Empty for a store that is no folder, as its address is enough, and before the first write.
    """
    protocol, _, place = store.url.partition("://")
    if protocol != "file":
        return ""
    try:
        return f"inode {Path(place).stat().st_ino}"
    except OSError:
        return ""


def probe_store(store: Store) -> None:
    """Raise ``KitaruStoreError`` if a remote store breaks its promises; stores on disk and in memory keep them."""
    if not store.url.startswith(("file:", "memory:")):
        from kitaru.store.open import check_store

        check_store(store)


def secret_mask(environ: Mapping[str, str]) -> Masking:
    """A function that masks the secrets of that environment in a text, later ones included."""
    from kitaru.masking import Masking

    return Masking(environ)


def template(name: str) -> str:
    """The text of one of Kitaru's templates."""
    from kitaru.data_files import template

    return template(name)


def check_inputs(schema: Mapping[str, Any], inputs: Mapping[str, Any]) -> Sequence[str]:
    """The problems of inputs that don't fit the schema, one sentence each."""
    from kitaru.manifest.inputs import check

    return check(schema, inputs)


def check_answer(schema: Mapping[str, Any] | None, value: Any) -> Sequence[str]:
    """The problems of an answer that doesn't fit the schema of its wait, one sentence each."""
    from kitaru.manifest.inputs import check_value

    return check_value(schema or {}, value)
