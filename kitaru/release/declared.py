"""A manifest as one deploy needs it: the one in reach with a flow changed, or one made up where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kitaru.errors import Problem
from kitaru.model.address import canonical_json, digest
from kitaru.model.manifest import FlowSpec, Manifest
from kitaru.ports import ManifestFile
from kitaru.settings import MANIFEST


@dataclass(frozen=True, slots=True)
class Declared:
    """A manifest whose text is not, or not yet, in a file."""

    manifest: Manifest
    path: Path
    root: Path
    digest: str
    target: str | None = None
    original: ManifestFile | None = None

    def problem(self, message: str, *path: Any, hint: str = "") -> Problem:
        """A problem at the place in the file in reach that is nearest to it."""
        if self.original is not None:
            return self.original.problem(message, *path, hint=hint)
        return Problem(message, hint=hint)


def declared(original: ManifestFile, name: str, spec: FlowSpec) -> Declared:
    """The manifest in reach, with that flow as the deploy makes it."""
    manifest = original.manifest
    changed = manifest.model_copy(update={"flows": {**manifest.flows, name: spec}})
    return Declared(changed, original.path, original.root, original.digest, original.target, original)


def made_up(root: Path, project: str, name: str, spec: FlowSpec) -> Declared:
    """A manifest for the repository at ``root``, which has none."""
    manifest = Manifest(kitaru=1, project=project, flows={name: spec})
    return Declared(manifest, root / MANIFEST, root, digest(canonical_json(manifest.data())))
