"""``kitaru.yaml`` kept in step with the store: an imperative verb that moves a route writes it there as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from kitaru.core.protection import check_protected
from kitaru.core.routing import ManifestEdit
from kitaru.errors import KitaruConflictError, KitaruError, KitaruManifestError, KitaruUsageError, Problem
from kitaru.manifest.port import Editor, ManifestFile
from kitaru.model.lockfile import Lockfile
from kitaru.model.manifest import Manifest
from kitaru.release.releases import Releases

Mode = Literal["edit", "only", "leave"]
"""The manifest is edited with the store, it alone is edited, or it is left as it is."""

ROUNDS = 20
"""How often the manifest is read anew if another process writes it, or moves the same route, at the same moment."""

Draw = Callable[[Lockfile, Manifest], ManifestEdit]
"""(state, manifest as it is) → the edit that makes the manifest agree."""


@dataclass(frozen=True, slots=True)
class Synced:
    """The edit of the manifest: ``diff`` in the unified form; ``problem`` is why it could not be written.

    ``note`` is why it was left alone.
    """

    path: str = ""
    written: bool = False
    diff: tuple[str, ...] = ()
    problem: str = ""
    note: str = ""

    def to_json(self) -> dict[str, Any] | None:
        """As JSON data; None if no manifest was concerned."""
        data = {"path": self.path, "written": self.written, "diff": list(self.diff)}
        words = {name: value for name in ("problem", "note") if (value := getattr(self, name))}
        return {**data, **words} if self.path else None


def check_mode(mode: str) -> None:
    """Raise ``KitaruUsageError`` unless ``mode`` is ``edit``, ``only`` or ``leave``."""
    if mode not in get_args(Mode):
        raise KitaruUsageError(
            f"manifest={mode!r}: expected one of {', '.join(get_args(Mode))}",
            hint="leave it out to change the manifest with the store",
        )


@dataclass(frozen=True, slots=True)
class ManifestSync:
    """The manifest in reach, for verbs that change the store; ``file`` is None if there is none, or it is left alone.

    ``read`` reads it anew, ``elsewhere`` is why it is about another store or project, and ``declared_in`` gives the
    path of another manifest of the repository that declares a flow.
    """

    mode: Mode
    file: ManifestFile | None
    read: Callable[[], ManifestFile]
    editor: Editor
    elsewhere: str = ""
    declared_in: Callable[[str, Lockfile], str] = lambda _flow, _lock: ""

    @property
    def manifest(self) -> Manifest | None:
        """The manifest, after its target's overlay."""
        return self.file.manifest if self.file is not None else None

    @property
    def writes(self) -> bool:
        """Whether the verb edits the manifest."""
        return self.mode != "leave" and self.file is not None and (self.mode == "only" or not self.elsewhere)

    def declares(self, flow: str) -> bool:
        """Whether the verb edits the manifest, and that has the flow."""
        return self.writes and self.manifest is not None and flow in self.manifest.flows

    def declaring(self, flow: str, lock: Lockfile) -> Manifest:
        """The manifest that has the flow. Raises ``KitaruUsageError`` with the manifest that declares it."""
        if self.manifest is None:
            raise KitaruUsageError("there is no kitaru.yaml here to edit", hint="kitaru init")
        if flow in self.manifest.flows:
            return self.manifest
        other = self.declared_in(flow, lock)
        raise KitaruUsageError(
            f"{self._name} does not declare {flow}" + (f": {other} of this repository does" if other else ""),
            hint=f"run the command beside {other}" if other else f"kitaru import {flow}",
        )

    def check_free(self, lock: Lockfile, flow: str, *tags: str) -> None:
        """Raise ``KitaruStateError`` for a protected route, unless the manifest alone is edited: for a review.

        The applied rules bind everywhere; those of the manifest if it is about this store and project.
        """
        if self.mode == "only":
            return
        wanted = self.manifest.protect if self.manifest is not None and not self.elsewhere else {}
        for tag in tags:
            check_protected(wanted, flow, tag, lock.flows.get(flow))

    def rehearse(self, edit: ManifestEdit) -> Synced:
        """The edit as it would be made. Raises ``KitaruManifestError`` if it can't be, before anything is done."""
        body = self._path.read_bytes()
        return self._shown(body, self._edited(body, edit))

    def write_alone(self, draw: Draw, lock: Lockfile) -> Synced:
        """Edit the manifest and nothing else. Raises ``KitaruManifestError``."""
        synced = self.follow(draw, lock)
        if synced.problem:
            raise KitaruManifestError([Problem(synced.problem, file=synced.path)])
        return synced

    def follow(self, draw: Draw, lock: Lockfile, releases: Releases | None = None) -> Synced:
        """Edit the manifest so that it agrees with the store, whose state is ``lock``; never raises.

        With ``releases`` the store is looked at again: if several commands move the same routes in the same working
        tree, the last one to write leaves the newest state.
        """
        first: bytes | None = None
        try:
            for _ in range(ROUNDS):
                before = self._path.read_bytes()
                first = before if first is None else first
                edit = draw(lock, self.read().manifest)
                after = self._edited(before, edit)
                try:
                    if after != before:
                        self.editor.write(self._path, before, after)
                except KitaruConflictError:
                    continue
                newest = releases.head() if releases is not None else lock
                if newest.flows.get(edit.flow) == lock.flows.get(edit.flow):
                    return self._shown(first, after, written=after != first)
                lock = newest
            raise KitaruConflictError(f"{self._name} keeps changing", hint="kitaru plan shows what differs")
        except (KitaruError, OSError) as error:
            words = error.message if isinstance(error, KitaruError) else f"{self._path}: {error}"
            hint = error.hint if isinstance(error, KitaruError) else ""
            return Synced(path=self._name, problem=f"{words}{f' ({hint})' if hint else ''}")

    def untouched(self, flow: str, lock: Lockfile) -> Synced:
        """Why a verb on that flow, which led to the state ``lock``, left the manifest alone."""
        if self.mode == "leave" or self.file is None:
            return Synced()
        if self.elsewhere:
            return Synced(note=f"{self._name} was left as it is: {self.elsewhere}")
        other = self.declared_in(flow, lock)
        if other:
            declared = f"{other} of this repository declares {flow} and was left as it is"
            return Synced(note=f"{declared}; kitaru import {flow}, typed beside it, writes the change there")
        return Synced(note=f"{self._name} does not declare {flow} and was left as it is; kitaru import {flow} adds it")

    @property
    def _path(self) -> Path:
        assert self.file is not None
        return self.file.path

    @property
    def _name(self) -> str:
        return self._path.name

    def _shown(self, before: bytes, after: bytes, *, written: bool = False) -> Synced:
        return Synced(path=self._name, written=written, diff=tuple(self.editor.edit_preview(before, after, self._name)))

    def _edited(self, body: bytes, edit: ManifestEdit) -> bytes:
        led = {tag: wish for tag, wish in edit.routes.items() if wish is not None}
        keys = {**edit.keys, **({"routes": led} if led else {})}
        removed = [(edit.flow, tag) for tag in edit.routes.keys() - led.keys()]
        target = self.file.target if self.file else None
        flows = {edit.flow: keys} if keys else {}
        return self.editor.edited(body, flows, removed, target=target, file=self._name)
