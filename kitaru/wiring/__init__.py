"""Owns settings and stacks made into implementations; the one place of late imports.

May import: every room below client.
Must never know: printing, argv.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from kitaru.errors import KitaruError, KitaruSourceError, KitaruStackError, KitaruUsageError, Problem
from kitaru.flows import binding
from kitaru.model.address import CROCKFORD
from kitaru.settings import (
    DEFAULT_PROJECT,
    MANIFEST,
    Asked,
    Settings,
    actor,
    check_project,
    find_manifest,
    find_pyproject,
    user_folder,
)

if TYPE_CHECKING:
    from kitaru.ci import files as files
    from kitaru.ci.forge import Forge
    from kitaru.manifest import edit as edit
    from kitaru.manifest.port import ManifestFile
    from kitaru.model.manifest import Neighbours, SourceSpec
    from kitaru.model.snapshot import FlowFacts, NamedStack
    from kitaru.ports import Reporter, Step
    from kitaru.source import bundle as bundle
    from kitaru.source import git as git
    from kitaru.source import import_check as import_check
    from kitaru.source.git import GitSource
    from kitaru.source.port import CodeBase, ImportJob, Selection, Surroundings
    from kitaru.stacks.port import Handle, Runner
    from kitaru.store.port import Store
else:

    def __getattr__(name: str) -> ModuleType:
        """These modules are imported when they are first used: ``wiring.bundle.read_archive``."""
        if name == "files":
            from kitaru.ci import files as module
        elif name == "edit":
            from kitaru.manifest import edit as module
        elif name == "bundle":
            from kitaru.source import bundle as module
        elif name == "git":
            from kitaru.source import git as module
        elif name == "import_check":
            from kitaru.source import import_check as module
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return module


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


# --- settings ---------------------------------------------------------------------------------------------------------


def settle(asked: Asked, *, cwd: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of a call: argument > KITARU_STORE / KITARU_PROJECT > manifest > pyproject.toml > the user's folder.

    A manifest is not read if store and project are given, unless ``asked`` has a manifest or a target.
    """
    cwd = (cwd or Path.cwd()).absolute()
    environ = os.environ if environ is None else environ
    path = asked.manifest or find_manifest(cwd)
    if asked.target and path is None:
        raise KitaruUsageError(
            f"--target {asked.target} needs a {MANIFEST}, and there is none here", hint="kitaru init"
        )
    given = {name: getattr(asked, name) or environ.get(f"KITARU_{name.upper()}") for name in ("project", "stack")}
    store, base = (asked.store, cwd) if asked.store else _store_of_environment(environ, path, cwd)
    if path is not None and (not store or not given["project"] or asked.manifest or asked.target):
        declared, project = _store_and_project(path, asked.target)
        given["project"] = given["project"] or project
        if not store and declared:
            store, base = declared, path.parent.resolve()
    if not (store and given["project"] and given["stack"]):
        pyproject, table = find_pyproject(cwd)
        given = {name: value or table.get(name) for name, value in given.items()}
        if not store and table.get("store"):
            store, base = table["store"], pyproject.parent
    return Settings(
        store=store or str(user_folder("data", environ) / "store"),
        base=base,
        project=check_project(given["project"] or DEFAULT_PROJECT),
        cwd=cwd,
        manifest=path.absolute() if path else None,
        target=asked.target,
        stack=given["stack"],
        environ=environ,
    )


def _store_of_environment(environ: Mapping[str, str], manifest: Path | None, cwd: Path) -> tuple[str | None, Path]:
    """KITARU_STORE and the folder that it is relative to: the manifest's, the same from every subfolder."""
    store = environ.get("KITARU_STORE")
    place = _place(store or "")
    if not place or place.startswith(("/", "~")):
        return store, cwd
    if manifest is None:
        raise KitaruUsageError(
            f"KITARU_STORE is {store!r}, relative to a {MANIFEST}, and there is none here",
            hint=f"export KITARU_STORE=file://{cwd / place}",
        )
    return store, manifest.parent.resolve()


def _store_and_project(path: Path, target: str | None) -> tuple[str | None, str]:
    """The manifest's store and project. Its model is loaded only if they need a closer look."""
    from kitaru.manifest.reading import load
    from kitaru.manifest.yaml import store_and_project

    try:
        names = store_and_project(path.read_bytes(), target)
    except OSError:
        names = None
    if names is not None:
        return names
    manifest = load(path, target=target).manifest
    return manifest.store, manifest.project


def load_manifest(settings: Settings) -> ManifestFile:
    """The manifest in reach. ``KitaruUsageError`` if there is none, ``KitaruManifestError`` if it is not valid."""
    if settings.manifest is None:
        raise KitaruUsageError(f"there is no {MANIFEST} in {settings.cwd} or above it", hint="kitaru init")
    from kitaru.manifest.reading import load

    return load(settings.manifest, target=settings.target)


def actor_in(folder: Path, environ: Mapping[str, str]) -> str:
    """The actor, the same for every verb: from CI or Git, else the user of this machine."""

    def configured() -> str:
        # The git binary takes 3 ms, and GitPython's import 95; every run does this.
        from kitaru.source.git_process import run

        try:
            listed = run(folder, "config", "--get-regexp", r"^(committer|user)\.(name|email)$")
        except KitaruSourceError:
            return ""
        values = dict(line.partition(" ")[::2] for line in listed.decode("utf-8", "replace").splitlines())
        names = ("committer.name", "user.name", "committer.email", "user.email")
        return next((values[name] for name in names if values.get(name, "").strip()), "")

    return actor(environ, configured)


# --- the store --------------------------------------------------------------------------------------------------------

_FILE = re.compile(r"file:(//localhost(?=/)|//|(?=/))", re.IGNORECASE)
"""The part before the path in the address of a folder."""


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


def store_id(store: Store) -> str:
    """The inode of a store's folder, equal under every mount and other for each copy: ``inode 1234``.

    Empty for a store that is no folder, as its address is enough, and before the first write.
    """
    protocol, _, place = store.url.partition("://")
    try:
        return f"inode {Path(place).stat().st_ino}" if protocol == "file" else ""
    except OSError:
        return ""


def probe_store(store: Store) -> None:
    """Raise ``KitaruStoreError`` if a remote store breaks its promises; stores on disk and in memory keep them."""
    if not store.url.startswith(("file:", "memory:")):
        from kitaru.store.open import check_store

        check_store(store)


# --- stacks and processes ---------------------------------------------------------------------------------------------


def stack_named(settings: Settings, name: str) -> NamedStack:
    """The stack ``name`` of the nearest manifest, or ``local``. Raises ``KitaruStackError`` with the known names."""
    from kitaru.model.snapshot import LocalStack, NamedStack

    declared = load_manifest(settings).manifest.stacks if settings.manifest is not None else {}
    stacks = {"local": LocalStack(type="local"), **declared}
    if name not in stacks:
        raise KitaruStackError(
            f"there is no stack {name}; there are: {', '.join(stacks)}", hint=f"declare it under stacks: in {MANIFEST}"
        )
    return NamedStack(name=name, spec=stacks[name])


def runner_of(settings: Settings, stack: NamedStack, reporter: Reporter | None = None) -> Runner:
    """The runner of a stack. Raises ``KitaruStackError`` for a type that this release can't run."""
    spec = stack.spec
    if spec.type != "local":
        raise KitaruStackError(
            f"stack {stack.name} is of type {spec.type}, which this release can't run executions on",
            hint="--stack local runs it on this machine",
        )
    from kitaru.stacks.local import LocalRunner

    return LocalRunner(
        environment=spec.environment,
        cache=settings.cache,
        environ=settings.environ,
        report=reporter,
        extras=("s3",) if settings.store.startswith("s3:") else (),
        stack=stack.name,
    )


def seen_from_here(settings: Settings) -> Runner:
    """The runner that knows the workers of this machine, for a reader of executions."""
    from kitaru.stacks.local import LocalRunner

    return LocalRunner(cache=settings.cache, environ=settings.environ)


def this_process() -> Handle:
    """This process, as a worker."""
    from kitaru.stacks.process import process_handle

    return process_handle(os.getpid())


def this_host() -> str:
    """The name of this machine in records: see ``stacks.process.this_host``."""
    from kitaru.stacks.process import this_host

    return this_host()


def leave_process(error: BaseException) -> NoReturn:
    """Print ``error``, and end this process of one execution with its children and exit code 1."""
    from kitaru.stacks.process import leave_with_children

    reason = f"error: {error.message}" if isinstance(error, KitaruError) else f"stopped: {error}"
    hint = f"\nhint: {error.hint}" if isinstance(error, KitaruError) and error.hint else ""
    print(f"{reason}{hint}", file=sys.stderr, flush=True)
    leave_with_children(1)


def check_inputs(schema: Mapping[str, Any], inputs: Mapping[str, Any]) -> Sequence[str]:
    """The problems of inputs that don't fit the schema, one sentence each."""
    from kitaru.manifest.inputs import check  # late, as here and below it brings jsonschema

    return check(schema, inputs)


def check_answer(schema: Mapping[str, Any] | None, value: Any) -> Sequence[str]:
    """The problems of an answer that doesn't fit the schema of its wait, one sentence each."""
    from kitaru.manifest.inputs import check_value

    return check_value(schema or {}, value)


def working_code(root: Path, target: str, settings: Settings, store_url: str) -> CodeBase:
    """The code of a run of ``target`` from the working tree at ``root``: the files that a build takes, and no store."""
    from kitaru.source.folders import codebase

    ignoring = [Path(store_url.removeprefix("file://"))] if store_url.startswith("file://") else []
    path = settings.manifest
    # Most manifests select nothing, and reading one takes longer than a small run.
    if path is None or path.parent != root or not re.search(rb"include|exclude", path.read_bytes()):
        return codebase(root, since=binding.IMPORTED, ignoring=ignoring)
    from kitaru.model.manifest import FlowSpec
    from kitaru.source.selection import Patterns

    manifest = load_manifest(settings).manifest
    flows = (flow for flow in manifest.flows.values() if flow.target == target)
    spec = manifest.source_of(next(flows, FlowSpec(target=target)))
    include, exclude = Patterns(spec.include or ()), Patterns(spec.exclude or ())
    return codebase(
        root,
        since=binding.IMPORTED,
        ignoring=ignoring,
        takes=lambda path: include.match(path) and not exclude.match(path),
    )


def snapshot_code(root: Path, snapshot: Mapping[str, Any]) -> CodeBase:
    """The code of a run from a snapshot that is unpacked at ``root``."""
    from kitaru.source.folders import codebase

    return codebase(root, since=binding.IMPORTED, source=snapshot["source"], image=snapshot.get("image"))


# --- the repository ---------------------------------------------------------------------------------------------------


def scaffold(folder: Path, project: str | None) -> Any:
    """Write a manifest for the flows found in ``folder``, and return the outcome as data."""
    from kitaru.manifest.scaffold import scaffold
    from kitaru.source import git_process

    try:
        listed = git_process.run(folder, "ls-files", "-co", "--exclude-standard", "-z", "--", "*.py")
        files = [folder / name.decode("utf-8", "surrogateescape") for name in listed.split(b"\0") if name]
    except KitaruSourceError:  # no repository yet
        files = sorted(folder.rglob("*.py"))
    return scaffold(folder, files=files, project=project)


def forge(environ: Mapping[str, str] | None = None) -> Forge:
    """The forge that runs the job of that environment, or of this process. ``KitaruUsageError`` outside a job."""
    environ = os.environ if environ is None else environ
    if environ.get("GITHUB_REPOSITORY"):
        from kitaru.ci.github import GitHub

        return GitHub(environ)
    if environ.get("CI_API_V4_URL"):
        from kitaru.ci.gitlab import GitLab

        return GitLab(environ)
    raise KitaruUsageError(
        "this is no job of GitHub or GitLab: neither GITHUB_REPOSITORY nor CI_API_V4_URL is set",
        hint="kitaru ci init writes a pipeline that calls this",
    )


def git_path(folder: Path, option: str) -> str:
    """A path that Git knows: of ``--show-toplevel``, ``--show-prefix``. Raises ``KitaruSourceError`` outside a
    repository.
    """
    from kitaru.source.git_process import run

    return run(folder, "rev-parse", option).decode("utf-8", "surrogateescape").rstrip("\n")


@dataclass(frozen=True)
class Repository:
    """The repository around a manifest: its source, and the facts about its flows; a ``Describer``."""

    loaded: ManifestFile
    settings: Settings

    @cached_property
    def source(self) -> GitSource:
        """The Git repository of the manifest."""
        from kitaru.source.git import GitSource

        return GitSource(self.loaded.root, self._cache, manifest=self.loaded.path.name)

    @cached_property
    def _cache(self) -> Path:
        """Cached, as it is read for each of a thousand flows."""
        return self.settings.cache

    def known(self, around: Surroundings, target: str) -> FlowFacts | None:
        """The facts from an earlier import of that target; None if there are none."""
        from kitaru.source.discovery import facts_cache_get

        return facts_cache_get(self._cache, around, target)

    def describe(self, jobs: Sequence[ImportJob]) -> Mapping[str, FlowFacts | Problem]:
        """Import the targets from the unpacked sources, and cache the facts. Secrets in problems are masked."""
        from kitaru.masking import Masking, secret_names
        from kitaru.source.discovery import Job, describe, facts_cache_put
        from kitaru.source.folders import ensure_source

        environ = self.settings.environ
        answers = describe(
            [
                Job(
                    ensure_source(self._cache / "sources", job.around.source, job.archive),
                    job.targets,
                    job.around.roots,
                    dict(job.around.environment),
                )
                for job in jobs
            ],
            worktree=self.loaded.root,
            environ=environ,
            secrets=secret_names(environ),
        )
        mask = Masking(environ)
        for job in jobs:
            for name, target in job.targets.items():
                facts = answers[name]
                if isinstance(facts, Problem):
                    answers[name] = replace(facts, message=mask(facts.message), hint=mask(facts.hint))
                else:
                    facts_cache_put(self._cache, job.around, target, facts)
        return answers

    def pack(self, selection: Selection) -> bytes:
        """The deterministic archive of a selection."""
        from kitaru.source.bundle import pack

        return pack(self.source.read(selection))

    def left_out(self, selection: Selection, spec: SourceSpec, targets: Sequence[str]) -> Sequence[Problem]:
        """Warnings about imported modules that the selection lacks."""
        from kitaru.source.import_check import left_out_imports

        files = [place for place in (target.partition(":")[0] for target in targets) if place.endswith(".py")]
        return left_out_imports(
            self.source.read(selection),
            selection.tree,
            self.loaded.root,
            explain=lambda path: self.source.why_left_out(path, spec),
            folders={str(Path(file).parent) for file in files} - {"."},
        )

    def declared_by(self, manifest: str, prefix: str) -> frozenset[str]:
        """The flows that another manifest of the repository declares."""
        from kitaru.manifest.reading import flow_names

        return flow_names(Path(self.loaded.root, "../" * prefix.count("/"), manifest))

    def neighbours(self, flows: Collection[str], own: str, also: Collection[str], commit: str | None) -> Neighbours:
        """The other manifests of the repository that claim any of ``flows`` for the same project and store.

        A store or project from an argument or variable goes for every manifest, not for this one alone.
        """
        from kitaru.manifest.reading import read_leniently
        from kitaru.source.neighbours import Wanted, find_neighbours

        settings, manifest = self.settings, self.loaded.manifest
        elsewhere = manifest.store is not None and settings.store != manifest.store
        wanted = Wanted(
            own=own,
            flows=flows,
            also=also,
            target=self.loaded.target,
            project=None if settings.environ.get("KITARU_PROJECT") else manifest.project,
            store=manifest.store,
            any_store=elsewhere or bool(settings.environ.get("KITARU_STORE")),
        )
        return find_neighbours(self.loaded.root, wanted, commit, read_leniently)
