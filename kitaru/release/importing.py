"""``kitaru import``: what was done past the manifest is written into it, so that Git says what is live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from kitaru import wiring
from kitaru.client.session import Session
from kitaru.core.importing import HeadNow, Heads, Missing, bare, keys_of, missing, told_by
from kitaru.errors import KitaruManifestError, KitaruSourceError, KitaruUsageError
from kitaru.manifest.port import ManifestFile
from kitaru.model.lockfile import FlowState, Lockfile
from kitaru.model.manifest import FlowSpec
from kitaru.model.route import target_data
from kitaru.model.snapshot import Snapshot
from kitaru.release.manifest_sync import Keeper
from kitaru.release.releases import Releases
from kitaru.release.workshop import Declared, Workshop
from kitaru.store.objects import read_snapshot, read_table


@dataclass(frozen=True, slots=True)
class ImportedFlow:
    """One flow that the manifest names now: ``declared`` it was before, and said otherwise only of these routes.

    ``dropped`` are routes that it names no more.
    """

    flow: str
    declared: bool
    routes: Mapping[str, Any]
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Imported:
    """What import did: ``diff`` of the manifest in the unified form, empty where it names everything already."""

    path: str
    written: bool = False
    flows: tuple[ImportedFlow, ...] = ()
    diff: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class _Found:
    """What is written, while it is gathered: keys of flows, and what is worth a word."""

    keys: dict[str, dict[str, Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Importing:
    """The verb that takes flows and routes of the store into the manifest. The store does not change."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def run(self, flows: Sequence[str] = (), *, dry_run: bool = False) -> Imported:
        """Declare what the store has and the manifest does not say, of the flows named or of all.

        That is: flows and routes that it does not name, and routes that were moved, held or removed past it. One that
        apply itself led where it is stays as the manifest says: that is not applied yet.

        Raises ``KitaruUsageError`` where there is no manifest or it is about another store, ``KitaruSelectorError`` for
        a flow that the store does not have, ``KitaruManifestError`` where the manifest can't be edited.
        """
        keeper = Keeper(self._session, "only")
        loaded = self._session.manifest
        if keeper.other_place:
            raise KitaruUsageError(
                f"{loaded.path.name} can't take these flows in: {keeper.other_place}",
                hint="run it without --store and --project, or with those of the manifest",
            )
        lock = Releases(self._session.store, self._session.project, self._session.clock).head()
        workshop = self._workshop(loaded)
        heads = self._heads(lock, workshop)
        lacking = missing(loaded.manifest, lock, workshop.owner if workshop else "", flows, heads=heads)
        found = self._gathered(lacking, lock, loaded, workshop)
        edits = wiring.manifest_edits()
        before, name, target = loaded.path.read_bytes(), loaded.path.name, loaded.target
        after = edits.set_flows(before, found.keys, target=target, file=name)
        for one in lacking:
            for tag in one.dropped:
                try:
                    after = edits.remove_route(after, one.flow, tag, target=target, file=name)
                except KitaruManifestError as error:
                    if target is None:
                        raise
                    # What an overlay can't say must not keep the rest out.
                    found.warnings += [f"{problem.message}; {problem.hint}" for problem in error.problems]
        edits.check_readable(after, target=target, file=name)
        if after != before and not dry_run:
            edits.write(loaded.path, before, after)
            self._session.forget_manifest()
        return Imported(
            path=name,
            written=after != before and not dry_run,
            flows=tuple(
                ImportedFlow(
                    one.flow, one.declared, {tag: target_data(wish) for tag, wish in one.routes.items()}, one.dropped
                )
                for one in lacking
                if one.flow in found.keys or one.dropped
            ),
            diff=tuple(edits.edit_preview(before, after, name)),
            warnings=tuple(found.warnings),
            notes=tuple(found.notes),
        )

    def _workshop(self, loaded: ManifestFile) -> Workshop | None:
        """The working tree as it is, to ask its code; None where there is no commit to speak of."""
        repository = wiring.Repository(loaded, self._session.settings)
        try:
            state = repository.source.commit(allow_dirty=True)
        except KitaruSourceError:
            return None
        return Workshop(
            loaded=loaded,
            source=repository.source,
            describer=repository,
            reporter=self._session.reporter,
            tree=state.tree,
            commit=state.commit,
            prefix=state.prefix,
        )

    def _heads(self, lock: Lockfile, workshop: Workshop | None) -> Heads:
        """What head is for a flow, by the content of the working tree; unknown where its code can't be asked."""

        @cache
        def head(flow: str) -> HeadNow:
            if workshop is None:
                return HeadNow()
            try:
                (desired,) = workshop.desired([flow])
            except KitaruManifestError:
                return HeadNow()
            state, snapshot = lock.flows[flow], desired.snapshot.digest
            version = state.known_version(snapshot)
            if version is None:
                found = read_table(self._session.store, lock.project, state.table, flow).newest_with(snapshot)
                version = found.version if found is not None else None
            return HeadNow(version, snapshot)

        return head

    def _gathered(
        self, lacking: Sequence[Missing], lock: Lockfile, loaded: ManifestFile, workshop: Workshop | None
    ) -> _Found:
        found = _Found()
        snapshots: dict[str, Snapshot] = {}
        for one in lacking:
            found.notes += one.notes
            if one.declared:
                if one.routes:
                    found.keys[one.flow] = {"routes": one.routes}
                continue
            snapshot = self._snapshot(lock, one.flow, lock.flows[one.flow])
            if snapshot is None:
                found.warnings.append(f"{one.flow} was left out: each of its versions was deleted")
            else:
                target = _below(loaded.root, workshop.prefix if workshop else "", snapshot.target)
                snapshots[one.flow] = snapshot.model_copy(update={"target": target})
        made = self._made(snapshots, loaded, workshop, found)
        for one in lacking:
            if one.flow not in snapshots:
                continue
            snapshot = snapshots[one.flow]
            keys, unset = keys_of(snapshot, made[one.flow])
            found.keys[one.flow] = {"target": snapshot.target, **keys, "routes": one.routes}
            found.notes += [f"{one.flow} was built without {name}, which it now inherits" for name in unset]
            if loaded.manifest.stack_named(snapshot.stack.name) is None:
                found.warnings.append(f"{one.flow} runs on stack {snapshot.stack.name}, which is not declared here")
        return found

    def _snapshot(self, lock: Lockfile, flow: str, state: FlowState) -> Snapshot | None:
        store = self._session.store
        sha = told_by(state, None) or told_by(state, read_table(store, lock.project, state.table, flow))
        return read_snapshot(store, lock.project, sha, flow) if sha is not None else None

    def _made(
        self, snapshots: Mapping[str, Snapshot], loaded: ManifestFile, workshop: Workshop | None, found: _Found
    ) -> dict[str, Snapshot]:
        """What each flow becomes where its target alone is declared, as its code in the working tree says."""
        made = {flow: bare(loaded.manifest, snapshot) for flow, snapshot in snapshots.items()}
        specs = {flow: FlowSpec(target=snapshot.target) for flow, snapshot in snapshots.items()}
        if workshop is None or not specs:
            return made
        manifest = loaded.manifest.model_copy(update={"flows": specs})
        declared = Declared(manifest, loaded.path, loaded.root, loaded.digest, loaded.target)
        asking = replace(workshop, loaded=declared, describer=wiring.Repository(declared, self._session.settings))
        try:
            return {**made, **{one.name: one.snapshot for one in asking.desired()}}
        except KitaruManifestError:
            # One by one, since a flow that can't be asked must not silence the others.
            for flow in specs:
                try:
                    (one,) = asking.desired([flow])
                    made[flow] = one.snapshot
                except KitaruManifestError as error:
                    why = "; ".join(problem.message for problem in error.problems)
                    found.warnings.append(f"{flow}: its target {specs[flow].target} is not here as it was: {why}")
        return made


def _below(root: Path, prefix: str, target: str) -> str:
    """The target as seen from the manifest's folder; a deploy without one counted from the repository's root."""
    place, _, name = target.rpartition(":")
    inner = place.removeprefix(prefix)
    return f"{inner}:{name}" if not (root / place).is_file() and (root / inner).is_file() else target
