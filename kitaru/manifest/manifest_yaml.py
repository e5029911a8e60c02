"""Loading ``kitaru.yaml``: one call, one valid manifest, or every problem of the file with its line and column."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kitaru.errors import KitaruManifestError, Problem
from kitaru.manifest.manifest_cache import CACHE_ENTRIES, cache_entry, manifest_digest, read_entry, write_entry
from kitaru.model.manifest import Manifest

if TYPE_CHECKING:
    from kitaru.manifest.manifest_reading import Places

MANIFEST_NAME = "kitaru.yaml"
MAX_BYTES = 5 * 1024 * 1024

__all__ = ["CACHE_ENTRIES", "LoadedManifest", "load"]


@dataclass(frozen=True)
class LoadedManifest:
    """A valid manifest after its overlay, and where it came from.

    ``root`` is the absolute folder that every path in the manifest is relative to; ``digest`` is the SHA-256 of the
    file's bytes and the target; ``file`` is the name for messages.
    """

    manifest: Manifest
    path: Path
    root: Path
    digest: str
    target: str | None
    file: str
    body: bytes = field(repr=False, compare=False)

    def problem(self, message: str, *path: str | int, hint: str = "") -> Problem:
        """A problem at the value behind ``path``, or at its nearest ancestor that the file has."""
        line, column, _ = self._places.of(path)
        return Problem(message, file=self.file, line=line, column=column, hint=hint)

    @cached_property
    def _places(self) -> Places:
        from kitaru.manifest import manifest_reading

        return manifest_reading.Places(manifest_reading.tree_of(self.body), self.target)


def load(path: Path, *, target: str | None = None, cache: Path | None = None) -> LoadedManifest:
    """The manifest at ``path`` with the overlay ``target`` merged in.

    ``cache`` is a folder that remembers manifests by the digest of their bytes; it may be damaged, unwritable or
    removed at any time. Raises ``KitaruManifestError`` with all problems, sorted by place.
    """
    file = _display(path)
    body = _read(path, file)
    digest = manifest_digest(body, target)
    entry = cache_entry(cache, digest) if cache is not None else None
    manifest = _remembered(entry) if entry is not None else None
    if manifest is None:
        from kitaru.manifest import manifest_reading

        manifest = manifest_reading.read_manifest(body, file, target)
        if entry is not None:
            _remember(entry, manifest)
    root = path.parent.resolve()
    return LoadedManifest(manifest, root / path.name, root, digest, target, file, body)


def flow_names(path: Path) -> frozenset[str]:
    """The flows that the manifest at ``path`` declares, valid or not; none where it can't be read."""
    from kitaru.manifest import manifest_reading

    try:
        return manifest_reading.flow_names(path.read_bytes())
    except (OSError, KitaruManifestError):
        return frozenset()


def _display(path: Path) -> str:
    """``path`` relative to the current folder where it lies below it, else absolute."""
    try:
        absolute = path.parent.resolve() / path.name
    except (ValueError, OSError, RuntimeError):  # a loop of symlinks is a RuntimeError up to Python 3.12
        return str(path)
    try:
        return absolute.relative_to(Path.cwd()).as_posix()
    except (ValueError, OSError):
        return str(absolute)


def _read(path: Path, file: str) -> bytes:
    """The bytes of the file, at most ``MAX_BYTES``; whatever is in their way is a problem of the manifest."""
    problem: Problem
    try:
        if path.is_dir():
            problem = Problem("expected a file, found a folder", file=file, hint=f"give {file}/{MANIFEST_NAME}")
        elif path.exists() and not path.is_file():
            problem = Problem("expected a plain file", file=file)
        else:
            with path.open("rb") as stream:
                body = stream.read(MAX_BYTES + 1)
            if len(body) <= MAX_BYTES:
                return body
            problem = Problem(f"expected at most {MAX_BYTES // 2**20} MB, found more", file=file)
    except FileNotFoundError:
        problem = Problem("there is no such file", file=file, hint="write one with: kitaru init")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        problem = Problem(f"the file can't be read: {reason}", file=file, hint="check the path and its permissions")
    raise KitaruManifestError([problem], hint=problem.hint)


# --- what was read before ---------------------------------------------------------------------------------------------


def _remembered(entry: Path) -> Manifest | None:
    body = read_entry(entry)
    if body is None:
        return None
    try:
        return Manifest.model_validate_json(body)
    except ValueError:
        return None


def _remember(entry: Path, manifest: Manifest) -> None:
    """The order of keys is kept, so that a remembered manifest lists its flows as the file does."""
    write_entry(entry, manifest.model_dump_json(exclude_defaults=True).encode())
