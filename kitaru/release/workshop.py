"""A manifest at one state of its repository, and the snapshots that it wants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from kitaru.core.planning import Desired
from kitaru.errors import KitaruManifestError, KitaruUsageError, Problem
from kitaru.manifest.port import ManifestFile
from kitaru.model.address import MANIFEST, canonical_json, digest
from kitaru.model.manifest import FlowSpec, Manifest, Neighbours, SourceSpec
from kitaru.model.snapshot import RUNNABLE, Commit, FlowFacts, Options, Snapshot
from kitaru.ports import Reporter, Step
from kitaru.source.port import Describer, ImportJob, Selection, Source, Surroundings


def declared(original: ManifestFile, name: str, spec: FlowSpec) -> ManifestFile:
    """The manifest in reach, with that flow as the deploy makes it."""
    manifest = original.manifest
    return replace(original, manifest=manifest.model_copy(update={"flows": {**manifest.flows, name: spec}}))


def made_up(root: Path, project: str, name: str, spec: FlowSpec) -> ManifestFile:
    """A manifest for the repository at ``root``, which has none."""
    manifest = Manifest(kitaru=1, project=project, flows={name: spec})
    return ManifestFile(manifest, root / MANIFEST, root, digest(canonical_json(manifest.data())))


WORTH_A_WORD = 200
"""Files from which packing takes long enough to show progress."""


@dataclass
class Workshop:
    """Desired snapshots of one manifest at one state of its repository; selections and archives are made once each.

    ``doubts``: why the commit is not on the branch that CI names, for people.
    """

    loaded: ManifestFile
    source: Source
    describer: Describer
    reporter: Reporter
    tree: str
    commit: Commit
    prefix: str = ""
    doubts: tuple[str, ...] = ()
    _selections: dict[str, Selection] = field(default_factory=dict)
    _archives: dict[str, bytes] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        """Which manifest of the repository this is: its path, or nothing for ``kitaru.yaml`` at the root."""
        return owner_of(self.prefix, self.loaded.path.name)

    @property
    def path(self) -> str:
        """The manifest's path below the repository's root."""
        return self.owner or MANIFEST

    def beside(self, flows: Iterable[str], *, owners: Iterable[str] = (), uncommitted: bool = False) -> Neighbours:
        """The other manifests of the repository that claim any of ``flows``; ``owners`` are known to.

        They are read as this one was: from the commit, or from the working tree if it has changes, or ``uncommitted``.
        """
        names, also = set(flows), {owner or MANIFEST for owner in owners}
        if not names:
            return Neighbours()
        commit = None if self.commit.dirty or uncommitted else self.commit.sha
        return self.describer.neighbours(names, self.path, also, commit)

    def contains(self, sha: str) -> bool | None:
        """Whether the commit at hand is that one, or came after it; None if a shallow clone can't tell."""
        return True if sha == self.commit.sha else self.source.contains(self.commit.sha, sha)

    def desired(self, only: Sequence[str] = ()) -> tuple[Desired, ...]:
        """The flows named (all, when none is), each with its snapshot.

        Raises ``KitaruUsageError`` for a name that the manifest does not have, ``KitaruManifestError`` with every
        flow's problem: a target that does not import, a stack that is not there.
        """
        flows = self._chosen(only)
        specs = {name: self.spec_of(flow) for name, flow in flows.items()}
        # Most flows take their source as all others do: a thousand of them ask once.
        known = {spec: self.source.digest_of(self.tree, spec) for spec in set(specs.values())}
        digests = {name: known[spec] for name, spec in specs.items()}
        facts = self._facts(flows, digests)
        problems: list[Problem] = []
        found = []
        for name, flow in flows.items():
            try:
                found.append(Desired(name, flow, self._snapshot(name, flow, digests[name], facts[name])))
            except KitaruManifestError as error:
                problems += error.problems
        if problems:
            raise KitaruManifestError(list(dict.fromkeys(problems)))
        return tuple(found)

    def spec_of(self, flow: FlowSpec) -> SourceSpec:
        """The patterns that select the flow's source."""
        return self.loaded.manifest.source_of(flow)

    def selection(self, flow: FlowSpec) -> Selection:
        """The flow's source, listed."""
        spec = self.spec_of(flow)
        key = spec.digest
        if key not in self._selections:
            self._selections[key] = self.source.select(self.tree, spec)
        return self._selections[key]

    def archive(self, flow: FlowSpec) -> bytes:
        """The flow's source, packed."""
        selection = self.selection(flow)
        if selection.digest not in self._archives:
            files = len(selection.tree.files)
            if files >= WORTH_A_WORD:
                self.reporter.step(Step("source", f"packing {files} files"))
            self._archives[selection.digest] = self.describer.pack(selection)
        return self._archives[selection.digest]

    def warnings(self, flows: Iterable[FlowSpec]) -> tuple[str, ...]:
        """Warnings about the sources of these flows, each once."""
        groups: dict[str, list[FlowSpec]] = {}
        for flow in flows:
            groups.setdefault(self.spec_of(flow).digest, []).append(flow)
        found: list[str] = []
        for group in groups.values():
            selection, spec = self.selection(group[0]), self.spec_of(group[0])
            left_out = self.describer.left_out(selection, spec, [flow.target for flow in group])
            found += [str(problem) for problem in (*selection.warnings, *left_out)]
        return tuple(dict.fromkeys(found))

    def _chosen(self, only: Sequence[str]) -> dict[str, FlowSpec]:
        flows, path = self.loaded.manifest.flows, self.loaded.path.name
        if unknown := [name for name in only if name not in flows]:
            have = ", ".join(flows) or "none"
            message = f"{path} declares no flow {', '.join(unknown)}; it declares: {have}"
            raise KitaruUsageError(message, hint="kitaru validate")
        return {name: flow for name, flow in flows.items() if not only or name in only}

    def _facts(self, flows: dict[str, FlowSpec], digests: dict[str, str]) -> dict[str, FlowFacts | Problem]:
        """From the cache if the content is known; the rest is imported, in a child process."""
        facts: dict[str, FlowFacts | Problem] = {}
        unknown: dict[Surroundings, dict[str, str]] = {}
        for name, flow in flows.items():
            environment = self.loaded.manifest.image_of(flow, None).environment or {}
            around = Surroundings(digests[name], self.spec_of(flow).roots or (), tuple(sorted(environment.items())))
            known = self.describer.known(around, flow.target)
            if known is not None:
                facts[name] = known
            else:
                unknown.setdefault(around, {})[name] = flow.target
        if unknown:
            count = sum(map(len, unknown.values()))
            self.reporter.step(Step("import", f"importing {count} {'target' if count == 1 else 'targets'}"))
            jobs = [
                ImportJob(around, targets, partial(self.archive, flows[next(iter(targets))]))
                for around, targets in unknown.items()
            ]
            facts.update(self.describer.describe(jobs))
        return facts

    def _snapshot(self, name: str, flow: FlowSpec, digest: str, facts: FlowFacts | Problem) -> Snapshot:
        """The flow as it is built. Raises ``KitaruManifestError`` with the problem at its place."""
        loaded, manifest, stacks = self.loaded, self.loaded.manifest, ("flows", name, "stack")
        if isinstance(facts, Problem):
            raise KitaruManifestError([loaded.problem(facts.message, "flows", name, "target", hint=facts.hint)])
        chosen = flow.stack or facts.stack
        stack = manifest.stack_named(chosen)
        if stack is None:
            have = ", ".join(dict.fromkeys([*manifest.stacks, "local"]))
            message = f"flow {name} asks for stack {chosen}, which is not declared; there are: {have}"
            raise KitaruManifestError([loaded.problem(message, *stacks, hint="declare it under stacks:")])
        if stack.spec.type not in RUNNABLE:
            message = (
                f"flow {name} asks for stack {stack.name}, of type {stack.spec.type}, which this release can't run "
            )
            hint = f"use a stack of type {', '.join(sorted(RUNNABLE))}"
            raise KitaruManifestError([loaded.problem(f"{message}executions on", *stacks, hint=hint)])
        image = manifest.image_of(flow, facts.image)
        if image.dockerfile is not None and not (loaded.root / image.dockerfile).is_file():
            place: tuple[str, ...] = ("image", "dockerfile")
            if flow.image is not None and flow.image.dockerfile is not None:
                place = ("flows", name, *place)
            elif manifest.image.dockerfile != image.dockerfile:  # the decorator names it
                place = ("flows", name, "target")
            message = f"there is no Dockerfile {image.dockerfile!r} below the manifest"
            hint = "write the file, or its path relative to the manifest"
            raise KitaruManifestError([loaded.problem(message, *place, hint=hint)])
        # The manifest's word if it has one, else the decorator's, else the default.
        words = ((option, getattr(one, option)) for option in Options.model_fields for one in (facts, flow))
        options = Options(**{option: word for option, word in words if word is not None})
        return Snapshot(
            flow=name,
            target=flow.target,
            source=digest,
            roots=self.spec_of(flow).roots or (),
            image=image,
            stack=stack,
            options=options,
            inputs=flow.inputs,
            input_schema=facts.input_schema,
            checkpoints=facts.checkpoints,
            summary=facts.summary,
        )


def owner_of(prefix: str, name: str) -> str:
    """The lockfile's name of a manifest: its path in the repository, empty for ``kitaru.yaml`` at the root."""
    path = f"{prefix}{name}"
    return "" if path == MANIFEST else path
