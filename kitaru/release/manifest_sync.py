"""How the imperative verbs keep the manifest true: what moves in the store is written in ``kitaru.yaml`` as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from kitaru import wiring
from kitaru.client.session import Session
from kitaru.core.deploying import ManifestEdit
from kitaru.core.protection import check_protected
from kitaru.errors import (
    KitaruConflictError,
    KitaruError,
    KitaruManifestError,
    KitaruSourceError,
    KitaruUsageError,
)
from kitaru.manifest.port import ManifestFile
from kitaru.model.lockfile import Lockfile
from kitaru.model.manifest import Manifest
from kitaru.release.releases import Releases
from kitaru.release.workshop import owner_of
from kitaru.settings import MANIFEST, Asked

Mode = Literal["edit", "only", "leave"]
"""What becomes of the manifest: it is edited with the store, it alone is edited, or it is left as it is."""

ROUNDS = 20
"""How often the manifest is read anew where somebody else writes it, or moves the same route, at the same moment."""

Draw = Callable[[Lockfile, Manifest], ManifestEdit]
"""(state, manifest as it is) → what the manifest is to say."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of the manifest: ``diff`` in the unified form; ``problem`` is why it could not be written.

    ``note`` says why it was left alone, where somebody may wonder.
    """

    path: str = ""
    written: bool = False
    diff: tuple[str, ...] = ()
    problem: str = ""
    note: str = ""

    def to_json(self) -> dict[str, Any] | None:
        """As JSON data; None where no manifest was concerned."""
        data = {"path": self.path, "written": self.written, "diff": list(self.diff)}
        words = {name: value for name in ("problem", "note") if (value := getattr(self, name))}
        return {**data, **words} if self.path else None


class Keeper:
    """The manifest in reach of one session, for verbs that change the store."""

    def __init__(self, session: Session, mode: Mode) -> None:
        self._session = session
        self.mode = mode
        if mode not in get_args(Mode):
            raise KitaruUsageError(
                f"manifest={mode!r}: expected one of {', '.join(get_args(Mode))}",
                hint="leave it out to change the manifest with the store",
            )
        if mode == "only" and session.settings.manifest is None:
            raise KitaruUsageError("there is no kitaru.yaml here to edit", hint="kitaru init")

    @cached_property
    def loaded(self) -> ManifestFile | None:
        """The manifest in reach, valid; None where there is none. Raises ``KitaruManifestError``.

        A verb that leaves the manifest alone does without one that does not read: what was applied of it binds anyway.
        """
        if self._session.settings.manifest is None:
            return None
        try:
            return self._read()
        except KitaruManifestError:
            if self.mode == "leave":
                return None
            raise

    @property
    def manifest(self) -> Manifest | None:
        """What it says, after its target's overlay."""
        return self.loaded.manifest if self.loaded is not None else None

    @cached_property
    def other_place(self) -> str:
        """Why the manifest is not about the store and project that the verb acts on; empty where it is."""
        if self.manifest is None:
            return ""
        settings = self._session.settings
        if settings.project != self.manifest.project:
            return f"it is about project {self.manifest.project}, this is {settings.project}"
        own = wiring.settle(
            Asked(manifest=settings.manifest, target=settings.target), cwd=settings.cwd, environ=_storeless(settings)
        )
        if self.manifest.store and wiring.absolute_store(own) != wiring.absolute_store(settings):
            return f"it is about store {self.manifest.store}, this is {settings.store}"
        return ""

    @property
    def writes(self) -> bool:
        """Whether the verb edits the manifest."""
        return self.mode != "leave" and self.manifest is not None and (self.mode == "only" or not self.other_place)

    def declares(self, flow: str) -> bool:
        """Whether the manifest, where the verb edits it, has the flow."""
        return self.writes and self.manifest is not None and flow in self.manifest.flows

    @property
    def declaring(self) -> Manifest:
        """The manifest. Raises ``KitaruUsageError`` where there is none."""
        if self.manifest is None:
            raise KitaruUsageError("there is no kitaru.yaml here to edit", hint="kitaru init")
        return self.manifest

    def check_declares(self, flow: str, lock: Lockfile) -> None:
        """Raise ``KitaruUsageError`` where the manifest does not have the flow, with where it is declared."""
        if flow in self.declaring.flows:
            return
        other = self._declared_in(flow, lock)
        raise KitaruUsageError(
            f"{self._name} does not declare {flow}" + (f": {other} of this repository does" if other else ""),
            hint=f"run the command beside {other}" if other else f"kitaru import {flow}",
        )

    def check_free(self, lock: Lockfile, flow: str, *tags: str) -> None:
        """Raise ``KitaruStateError`` for a protected route, unless the manifest alone is edited: for a review.

        What was applied binds wherever the verb runs; beside it the manifest, where it is about this store and project.
        """
        if self.mode == "only":
            return
        said = self.manifest.protect if self.manifest is not None else {}
        wanted = said if said and not self.other_place else {}
        for tag in tags:
            check_protected(wanted, flow, tag, lock.flows.get(flow))

    def rehearse(self, edit: ManifestEdit) -> Kept:
        """The edit as it would be made. Raises ``KitaruManifestError`` where it can't be: before anything is done."""
        body = self._path.read_bytes()
        return self._shown(body, self._edited(body, edit))

    def keep(self, draw: Draw, lock: Lockfile, releases: Releases | None = None) -> Kept:
        """Edit the manifest so that it agrees with the store, which is as ``lock`` says; never raises.

        With ``releases`` the store is looked at again afterwards: where others move the same routes in the same
        working tree, the last one to write leaves what is so then.
        """
        first: bytes | None = None
        try:
            for _ in range(ROUNDS):
                before = self._path.read_bytes()
                first = before if first is None else first
                edit = draw(lock, self._read().manifest)
                after = self._edited(before, edit)
                try:
                    if after != before:
                        wiring.manifest_edits().write(self._path, before, after)
                except KitaruConflictError:
                    continue
                newest = releases.head() if releases is not None else lock
                if newest.flows.get(edit.flow) == lock.flows.get(edit.flow):
                    self._session.forget_manifest()
                    return self._shown(first, after, written=after != first)
                lock = newest
            raise KitaruConflictError(f"{self._name} keeps changing", hint="kitaru plan shows what differs")
        except (KitaruError, OSError) as error:
            words = error.message if isinstance(error, KitaruError) else f"{self._path}: {error}"
            hint = error.hint if isinstance(error, KitaruError) else ""
            return Kept(path=self._name, problem=f"{words}{f' ({hint})' if hint else ''}")

    def untouched(self, flow: str, lock: Lockfile) -> Kept:
        """Why the manifest was left alone by a verb on that flow, which led to the state ``lock``."""
        if self.mode == "leave" or self.loaded is None:
            return Kept()
        if self.other_place:
            return Kept(note=f"{self._name} was left as it is: {self.other_place}")
        other = self._declared_in(flow, lock)
        if other:
            wanted = f"{other} of this repository declares {flow} and was left as it is"
            return Kept(note=f"{wanted}; kitaru import {flow}, typed beside it, writes the change there")
        return Kept(note=f"{self._name} does not declare {flow} and was left as it is; kitaru import {flow} adds it")

    def _declared_in(self, flow: str, lock: Lockfile) -> str:
        """The path, below the repository's root, of another manifest there that declares the flow; else nothing."""
        state = lock.flow(flow)
        if state is None or not state.managed or self.loaded is None:
            return ""
        repository = wiring.Repository(self.loaded, self._session.settings)
        try:
            prefix = repository.prefix
        except KitaruSourceError:
            return ""
        if state.owner == owner_of(prefix, self._name):
            return ""
        other = state.owner or MANIFEST
        return other if flow in repository.declared_by(other, prefix) else ""

    def _read(self) -> ManifestFile:
        """The manifest as the file is now: a client may live longer than what it once read."""
        settings = self._session.settings
        asked = Asked(manifest=settings.manifest, target=settings.target)
        return wiring.load_manifest(asked, settings.cwd, settings.environ)

    @property
    def _path(self) -> Path:
        return self.loaded.path if self.loaded is not None else Path(MANIFEST)

    @property
    def _name(self) -> str:
        return self._path.name

    def _shown(self, before: bytes, after: bytes, *, written: bool = False) -> Kept:
        diff = tuple(wiring.manifest_edits().edit_preview(before, after, self._name))
        return Kept(path=self._name, written=written, diff=diff)

    def _edited(self, body: bytes, edit: ManifestEdit) -> bytes:
        edits = wiring.manifest_edits()
        where = {"target": self._session.settings.target, "file": self._name}
        keys: dict[str, Any] = dict(edit.keys)
        led = {tag: wish for tag, wish in edit.routes.items() if wish is not None}
        if keys:
            body = edits.set_flow(body, edit.flow, {**keys, "routes": led} if led else keys, **where)
        else:
            for tag, wish in led.items():
                body = edits.set_route(body, edit.flow, tag, wish, **where)
        for tag in edit.routes.keys() - led.keys():
            body = edits.remove_route(body, edit.flow, tag, **where)
        edits.check_readable(body, **where)
        return bytes(body)


def _storeless(settings: Any) -> Mapping[str, str]:
    """The environment without its word on store and project: what the manifest itself says."""
    return {name: value for name, value in settings.environ.items() if name not in ("KITARU_STORE", "KITARU_PROJECT")}
