"""``kitaru init``: a first ``kitaru.yaml`` with the flows that are there, and what an existing one does not declare."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from kitaru import data_files
from kitaru.errors import KitaruBackendError, KitaruManifestError, KitaruUsageError, Problem
from kitaru.manifest import reading
from kitaru.manifest.flow_finding import FoundFlow, find_flows, name_apart
from kitaru.manifest.yaml import quote
from kitaru.model.address import PROJECT_NAME
from kitaru.model.manifest import Manifest

SCHEMA_FILE = ".kitaru/kitaru.schema.json"
"""Where editors find the schema: written by every ``init``, so that it is that of the Kitaru in use, network or not."""

_IGNORED = frozenset({".kitaru", ".kitaru/", "/.kitaru", "/.kitaru/"})


@dataclass(frozen=True, slots=True)
class ScaffoldResult:
    """What ``init`` did and found.

    ``created``: whether the manifest was written; an existing one is never touched. ``flows`` are all that were found,
    ``undeclared`` those that an existing manifest lacks, with ``paste`` the YAML lines for them, to stand under
    ``flows:``. ``written`` are the files that this run wrote or changed. ``project`` is empty, and ``undeclared`` too,
    where an existing manifest can't be loaded; ``problems`` then says why, beside the files that are not valid Python.
    """

    manifest: Path
    created: bool
    project: str
    flows: tuple[FoundFlow, ...]
    undeclared: tuple[FoundFlow, ...]
    paste: str
    written: tuple[Path, ...]
    problems: tuple[Problem, ...]


def scaffold(root: Path, *, files: Sequence[Path], project: str | None = None) -> ScaffoldResult:
    """Write ``kitaru.yaml``, the ``.gitignore`` line and the schema for editors below ``root``, where they are missing.

    ``files`` are searched for flows; absolute, or relative to ``root``. ``project`` defaults to the folder's name.
    Raises ``KitaruUsageError`` for a name that can't be a project's, ``KitaruBackendError`` where writing fails.
    """
    if not root.is_dir():
        raise KitaruUsageError(f"expected a folder, and {root} is none", hint="kitaru init runs in an existing folder")
    if project is not None and not PROJECT_NAME.fullmatch(project):
        raise KitaruUsageError(
            f"{project!r} can't name a project: expected lower-case letters, digits, - and _, beginning with a letter "
            "or digit",
            hint=f"kitaru init --project {project_name(project)}",
        )
    found, problems = find_flows(root, files)
    path = root / reading.MANIFEST_NAME
    try:
        if os.path.lexists(path):
            return _beside_existing(root, path, found, problems)
        name = project or project_name(root.resolve().name)
        flows = name_apart(found)
        _create(path, _render("kitaru.yaml.j2", project=name, flows=flows, schema=SCHEMA_FILE))
        written = (path, *_write_surroundings(root))
    except FileExistsError:  # somebody wrote it just now: theirs stays
        return _beside_existing(root, path, found, problems)
    except OSError as error:
        raise _unwritable(error, path) from error
    return ScaffoldResult(path, True, name, tuple(flows), (), "", written, tuple(problems))


def project_name(text: str) -> str:
    """The nearest text that can name a project."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_-]+", "-", plain).strip("-_")[:63].rstrip("-_") or "project"


def _beside_existing(root: Path, path: Path, found: list[FoundFlow], problems: list[Problem]) -> ScaffoldResult:
    written = _write_surroundings(root)
    try:
        manifest = reading.load(path).manifest
    except KitaruManifestError as error:
        every = (*error.problems, *problems)
        return ScaffoldResult(path, False, "", tuple(name_apart(found)), (), "", written, every)
    declared = {_module(target) for target in _targets(manifest)}
    missing = {flow.target for flow in found if not _is_declared(flow, declared)}
    flows = name_apart([flow for flow in found if flow.target in missing], taken=manifest.flows)
    known = [flow for flow in found if flow.target not in missing]
    paste = "".join(_render("flow.yaml.j2", flow=flow) for flow in flows)
    every_flow = tuple(sorted([*known, *flows], key=lambda flow: (flow.file, flow.line)))
    return ScaffoldResult(path, False, manifest.project, every_flow, tuple(flows), paste, written, tuple(problems))


def _targets(manifest: Manifest) -> Iterator[str]:
    """Every target that the manifest names, those of overlays included."""
    yield from (flow.target for flow in manifest.flows.values())
    for overlay in manifest.targets.values():
        for flow in (overlay.flows or {}).values():
            if isinstance(target := flow.get("target"), str):
                yield target


def _module(target: str) -> str:
    """``flows/research.py:agent`` and ``flows.research:agent`` as the same text."""
    place, _, name = target.partition(":")
    if place.endswith(".py"):
        place = os.path.normpath(place[: -len(".py")]).replace("/", ".").removesuffix(".__init__")
    return f"{place}:{name}"


def _is_declared(flow: FoundFlow, declared: set[str]) -> bool:
    """A module path may leave out the folders that are on the import path, ``src/`` say."""
    place, _, name = _module(flow.target).partition(":")
    parts = place.split(".")
    return any(f"{'.'.join(parts[start:])}:{name}" in declared for start in range(len(parts)))


def _write_surroundings(root: Path) -> tuple[Path, ...]:
    """The ``.gitignore`` line and the schema for editors, where they are missing or stale; the files that changed."""
    changed = []
    schema, text = root / SCHEMA_FILE, data_files.schema("kitaru")
    try:
        if not schema.is_file() or schema.read_bytes() != text.encode():
            schema.parent.mkdir(parents=True, exist_ok=True)
            schema.write_bytes(text.encode())
            changed.append(schema)
        ignore = root / ".gitignore"
        body = ignore.read_bytes() if ignore.exists() else b""
        lines = {line.strip() for line in body.decode("utf-8", "replace").splitlines()}
        if not lines & _IGNORED:
            ending = b"\r\n" if b"\r\n" in body else b"\n"
            gap = b"" if not body or body.endswith(b"\n") else ending
            added = data_files.template("gitignore").encode().replace(b"\n", ending)
            with ignore.open("ab") as stream:  # appending keeps what is there, whatever its encoding
                stream.write(gap + added)
            changed.append(ignore)
    except OSError as error:
        raise _unwritable(error, root) from error
    return tuple(changed)


def _create(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8", newline="\n") as stream:
        stream.write(text)


def _unwritable(error: OSError, path: Path) -> KitaruBackendError:
    place = error.filename or path
    return KitaruBackendError(
        f"{place} can't be written: {error.strerror or error}", hint="check the folder's permissions, then: kitaru init"
    )


def _render(name: str, **values: Any) -> str:
    environment = Environment(
        loader=FunctionLoader(data_files.template),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["yaml"] = quote
    return environment.get_template(name).render(**values)
