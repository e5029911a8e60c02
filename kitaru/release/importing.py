"""``kitaru import``: flows and routes that were changed past the manifest are written into it. The store stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from kitaru.core.drift import Missing, bare, described_by, keys_of, missing
from kitaru.errors import KitaruManifestError
from kitaru.manifest.port import Editor, ManifestFile
from kitaru.model.lockfile import FlowState, Lockfile
from kitaru.model.manifest import FlowSpec
from kitaru.model.route import target_data
from kitaru.model.snapshot import Snapshot
from kitaru.release.workshop import Workshop
from kitaru.source.port import Describer
from kitaru.store.objects import read_snapshot, read_table
from kitaru.store.port import Store


@dataclass(frozen=True, slots=True)
class ImportedFlow:
    """A flow that the manifest names now; ``declared``: it did before, and lacked these routes only.

    ``dropped`` are routes that it names no more.
    """

    flow: str
    declared: bool
    routes: Mapping[str, Any]
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Imported:
    """The result of an import: ``diff`` of the manifest in the unified form, empty if it names everything already."""

    path: str
    written: bool = False
    flows: tuple[ImportedFlow, ...] = ()
    diff: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class Importer:
    """Takes flows and routes of the store into the manifest ``loaded``.

    ``workshop`` is the working tree, None without a commit; ``describer`` makes one for a changed manifest.
    """

    store: Store
    lock: Lockfile
    loaded: ManifestFile
    editor: Editor
    workshop: Workshop | None
    describer: Callable[[ManifestFile], Describer]
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def run(self, flows: Sequence[str] = (), *, dry_run: bool = False) -> Imported:
        """Declare what the manifest lacks, of these flows or of all.

        A route that apply itself moved last stays as the manifest has it: that is to be applied yet.
        Raises ``KitaruUsageError`` for a flow of another manifest, ``KitaruSelectorError`` for one that the store does
        not have, ``KitaruManifestError`` if the manifest can't be edited.
        """
        loaded, owner = self.loaded, self.workshop.owner if self.workshop else ""
        lacking = missing(loaded.manifest, self.lock, owner, flows, heads=cache(self._head))
        keys = self._keys(lacking)
        before, name, target = loaded.path.read_bytes(), loaded.path.name, loaded.target
        after = self.editor.edited(before, keys, target=target, file=name)
        for flow, tag in ((lack.flow, tag) for lack in lacking for tag in lack.dropped):
            try:
                after = self.editor.edited(after, {}, [(flow, tag)], target=target, file=name)
            except KitaruManifestError as error:
                if target is None:
                    raise
                # What an overlay can't say must not keep the rest out.
                self.warnings += [f"{problem.message}; {problem.hint}" for problem in error.problems]
        written = after != before and not dry_run
        if written:
            self.editor.write(loaded.path, before, after)
        return Imported(
            path=name,
            written=written,
            flows=tuple(
                ImportedFlow(lack.flow, lack.declared, routes, lack.dropped)
                for lack in lacking
                if lack.flow in keys or lack.dropped
                for routes in [{tag: target_data(target) for tag, target in lack.routes.items()}]
            ),
            diff=tuple(self.editor.edit_preview(before, after, name)),
            warnings=tuple(self.warnings),
            notes=tuple(self.notes),
        )

    def _head(self, flow: str) -> tuple[int | None, str]:
        """The version of the working tree's content; unknown if its code can't be asked."""
        if self.workshop is None:
            return None, ""
        try:
            (desired,) = self.workshop.desired([flow])
        except KitaruManifestError:
            return None, ""
        state, sha = self.lock.flows[flow], desired.snapshot.digest
        version = state.known_version(sha)
        if version is None:
            release = read_table(self.store, self.lock.project, state.table, flow).newest_with(sha)
            version = release.version if release is not None else None
        return version, sha

    def _keys(self, lacking: Sequence[Missing]) -> dict[str, dict[str, Any]]:
        """The keys of each entry: ``{"agent": {"target": "flows/work.py:agent", "routes": {"default": 1}}}``."""
        keys: dict[str, dict[str, Any]] = {}
        snapshots: dict[str, Snapshot] = {}
        for lack in lacking:
            self.notes += lack.notes
            if lack.declared:
                if lack.routes:
                    keys[lack.flow] = {"routes": lack.routes}
                continue
            snapshot = self._snapshot(lack.flow, self.lock.flows[lack.flow])
            if snapshot is None:
                self.warnings.append(f"{lack.flow} was left out: each of its versions was deleted")
                continue
            target = _below(self.loaded.root, self.workshop.prefix if self.workshop else "", snapshot.target)
            snapshots[lack.flow] = snapshot.model_copy(update={"target": target})
        plain = self._plain(snapshots)
        for lack in lacking:
            if (snapshot := snapshots.get(lack.flow)) is None:
                continue
            own, unset = keys_of(snapshot, plain[lack.flow])
            keys[lack.flow] = {"target": snapshot.target, **own, "routes": lack.routes}
            self.notes += [f"{lack.flow} was built without {name}, which it now inherits" for name in unset]
            if self.loaded.manifest.stack_named(snapshot.stack.name) is None:
                self.warnings.append(f"{lack.flow} runs on stack {snapshot.stack.name}, which is not declared here")
        return keys

    def _snapshot(self, flow: str, state: FlowState) -> Snapshot | None:
        project = self.lock.project
        sha = described_by(state, None) or described_by(state, read_table(self.store, project, state.table, flow))
        return read_snapshot(self.store, project, sha, flow) if sha is not None else None

    def _plain(self, snapshots: Mapping[str, Snapshot]) -> dict[str, Snapshot]:
        """Each flow as it is if its target alone is declared, by its code in the working tree."""
        plain = {flow: bare(self.loaded.manifest, snapshot) for flow, snapshot in snapshots.items()}
        specs = {flow: FlowSpec(target=snapshot.target) for flow, snapshot in snapshots.items()}
        if self.workshop is None or not specs:
            return plain
        manifest = self.loaded.manifest.model_copy(update={"flows": specs})
        declared = replace(self.loaded, manifest=manifest)
        asking = replace(self.workshop, loaded=declared, describer=self.describer(declared))
        try:
            return {**plain, **{desired.name: desired.snapshot for desired in asking.desired()}}
        except KitaruManifestError:
            # One by one: a flow that can't be asked must not silence the others.
            for flow in specs:
                try:
                    plain[flow] = asking.desired([flow])[0].snapshot
                except KitaruManifestError as error:
                    why = "; ".join(problem.message for problem in error.problems)
                    self.warnings.append(f"{flow}: its target {specs[flow].target} is not here as it was: {why}")
        return plain


def _below(root: Path, prefix: str, target: str) -> str:
    """The target relative to the manifest's folder; a deploy without one counted from the repository's root."""
    place, _, name = target.rpartition(":")
    inner = place.removeprefix(prefix)
    return f"{inner}:{name}" if not (root / place).is_file() and (root / inner).is_file() else target
