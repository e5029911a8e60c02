"""Settings and stacks → adapters: the only importer of adapters, and the only reader of the environment.

Imports of adapters are late on purpose, here and nowhere else: each command pays for what it uses.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kitaru.errors import KitaruExecutionError, KitaruSourceError, KitaruStackError, KitaruUsageError, Problem
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
    lease_seconds,
    user_folder,
)

if TYPE_CHECKING:
    from kitaru.model.manifest import SourceSpec
    from kitaru.model.snapshot import FlowFacts
    from kitaru.model.stack import NamedStack
    from kitaru.ports import Forge, ManifestFile, Reporter, Runner, RunnerInfo, RunOrder, Selection, Source, Step, Store


class SystemClock:
    """The machine's time and its secure randomness."""

    def now(self) -> datetime:
        """The present, in UTC."""
        return datetime.now(UTC)

    def token(self, size: int) -> str:
        """``size`` random characters."""
        return "".join(secrets.choice(CROCKFORD) for _ in range(size))


class Silent:
    """A reporter for whom nobody waits."""

    def step(self, step: Step) -> None:
        """Says nothing."""


def environment() -> Mapping[str, str]:
    """This process's environment."""
    return os.environ


def load_manifest(asked: Asked, cwd: Path, environ: Mapping[str, str]) -> ManifestFile:
    """The manifest that was asked for, or the nearest one. Raises ``KitaruManifestError`` where it is not valid."""
    path = asked.manifest or find_manifest(cwd)
    if path is None:
        raise KitaruUsageError(f"there is no {MANIFEST} in {cwd} or above it", hint="kitaru init")
    reading = import_module("kitaru.adapters.manifest_yaml")
    loaded: ManifestFile = reading.load(path, target=asked.target, cache=user_folder("cache", environ) / "manifests")
    return loaded


def settle(asked: Asked, *, cwd: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of a call: argument > KITARU_STORE / KITARU_PROJECT > manifest > pyproject.toml > the user's folder.

    A manifest is read only where it has a word to say: a consumer that names store and project needs none.
    """
    cwd = (cwd or Path.cwd()).absolute()
    environ = environment() if environ is None else environ
    store, base = asked.store or environ.get("KITARU_STORE"), cwd
    project = asked.project or environ.get("KITARU_PROJECT")
    stack = asked.stack or environ.get("KITARU_STACK")
    path = asked.manifest or find_manifest(cwd)
    if path is not None and (store is None or project is None or asked.manifest or asked.target):
        said = _store_and_project(replace(asked, manifest=path), path, cwd, environ)
        project = project or said[1]
        if store is None and said[0]:
            store, base = said[0], path.parent.resolve()
    elif asked.target and path is None:
        raise KitaruUsageError(
            f"--target {asked.target} needs a {MANIFEST}, and there is none here", hint="kitaru init"
        )
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


def _store_and_project(asked: Asked, path: Path, cwd: Path, environ: Mapping[str, str]) -> tuple[str | None, str]:
    """What the manifest says of these, without its model where it was read before: that is half of a script's start."""
    cache = user_folder("cache", environ) / "manifests"
    known = import_module("kitaru.adapters.manifest_cache").remembered(path, asked.target, cache)
    if known is not None:
        return known.get("store"), known["project"]
    manifest = load_manifest(asked, cwd, environ).manifest
    return manifest.store, manifest.project


def open_store(settings: Settings) -> Store:
    """The store of these settings; opening it makes no request."""
    stores = import_module("kitaru.adapters.stores")
    store: Store = stores.open_store(absolute_store(settings), base=settings.base)
    return store


def own_store(settings: Settings) -> Store | None:
    """The store in the user's own folder, where runs are kept until a manifest names another; None before the first."""
    place = user_folder("data", settings.environ) / "store"
    return open_store(replace(settings, store=str(place))) if place.is_dir() else None


def absolute_store(settings: Settings) -> str:
    """The store's address, the same from every folder: a worker's present folder is another one."""
    protocol, found, place = settings.store.partition("://")
    if found and (protocol != "file" or not place):
        return settings.store
    path = settings.base / Path(place if found else settings.store).expanduser()
    return f"file://{Path(os.path.normpath(path))}"


def probe_store(store: Store) -> None:
    """Refuse a store of an unknown make that breaks its promises; on disk and in memory our own code keeps them."""
    if not store.url.startswith(("file:", "memory:")):
        import_module("kitaru.adapters.store_probe").check_store(store)


def secret_mask(environ: Mapping[str, str]) -> Callable[[str], str] | None:
    """What takes the secrets of that environment out of a text; None where there are none."""
    mask: Callable[[str], str] | None = import_module("kitaru.adapters.secret_values").masking(environ)
    return mask


def template(name: str) -> str:
    """The text of one of the templates that travel with Kitaru."""
    return str(import_module("kitaru.adapters.data_files").template(name))


def scaffold(folder: Path, project: str | None) -> Any:
    """Write a manifest for the flows found in ``folder``; what it did, as data."""
    git = import_module("kitaru.adapters.git_process")
    try:
        listed = git.run(folder, "ls-files", "-co", "--exclude-standard", "-z", "--", "*.py")
        files = [folder / name.decode("utf-8", "surrogateescape") for name in listed.split(b"\0") if name]
    except KitaruSourceError:
        # No repository yet: hidden folders and virtual environments are nobody's flows.
        files = [path for path in sorted(folder.rglob("*.py")) if not _foreign(path.relative_to(folder))]
    return import_module("kitaru.adapters.scaffold").scaffold(folder, files=files, project=project)


def ci_files() -> Any:
    """What writes the files of a pipeline."""
    return import_module("kitaru.adapters.ci_files")


def forge(environ: Mapping[str, str]) -> Forge:
    """Where the job of that environment runs. Raises ``KitaruUsageError`` outside a job."""
    if environ.get("GITHUB_REPOSITORY"):
        github: Forge = import_module("kitaru.adapters.github_api").GitHub(environ)
        return github
    if environ.get("CI_API_V4_URL"):
        gitlab: Forge = import_module("kitaru.adapters.gitlab_api").GitLab(environ)
        return gitlab
    raise KitaruUsageError(
        "this is no job of GitHub or GitLab: neither GITHUB_REPOSITORY nor CI_API_V4_URL is set",
        hint="kitaru ci init writes a pipeline that calls this",
    )


def _foreign(path: Path) -> bool:
    return any(part.startswith(".") or part in ("venv", "site-packages", "node_modules") for part in path.parts)


def check_inputs(schema: Mapping[str, Any], inputs: Mapping[str, Any]) -> Sequence[str]:
    """What of the inputs doesn't fit the schema, one sentence each."""
    found: Sequence[str] = import_module("kitaru.adapters.input_schema").check(schema, inputs)
    return found


@dataclass(frozen=True)
class Repository:
    """The repository around a manifest: source, what its flows look like, who acts."""

    loaded: ManifestFile
    settings: Settings

    @cached_property
    def source(self) -> Source:
        """The Git repository that the manifest is in."""
        source: Source = self._git
        return source

    @cached_property
    def _git(self) -> Any:
        git = import_module("kitaru.adapters.git_source")
        return git.GitSource(self.loaded.root, self.settings.cache, manifest=self.loaded.path.name)

    def known(self, source: str, target: str) -> FlowFacts | None:
        """What was learned of that target before."""
        discovery = import_module("kitaru.adapters.discovery")
        facts: FlowFacts | None = discovery.facts_cache_get(self.settings.cache, source, target)
        return facts

    def describe(
        self, source: str, targets: Mapping[str, str], archive: Callable[[], bytes]
    ) -> Mapping[str, FlowFacts | Problem]:
        """Import the targets from the unpacked source, and remember what that taught."""
        discovery = import_module("kitaru.adapters.discovery")
        root = unpacked(self.settings, source, archive)
        found: Mapping[str, FlowFacts | Problem] = discovery.describe(root, targets, worktree=self.loaded.root)
        for name, facts in found.items():
            if not isinstance(facts, Problem):
                discovery.facts_cache_put(self.settings.cache, source, targets[name], facts)
        return found

    def pack(self, selection: Selection) -> bytes:
        """The deterministic archive of a selection."""
        bundle = import_module("kitaru.adapters.bundle")
        archive: bytes = bundle.pack(self._git.read(selection))
        return archive

    def left_out(self, selection: Selection, spec: SourceSpec, targets: Sequence[str]) -> Sequence[Problem]:
        """Warnings about modules that are imported and not in the selection."""
        checking = import_module("kitaru.adapters.import_check")
        found: Sequence[Problem] = checking.left_out_imports(
            self._git.read(selection),
            selection.tree,
            self.loaded.root,
            explain=lambda path: self._git.why_left_out(path, spec),
            folders={str(Path(place).parent) for place in _files(targets)} - {"."},
        )
        return found

    def declared_by(self, manifest: str, prefix: str) -> frozenset[str]:
        """The flows that another manifest of the repository declares."""
        reading = import_module("kitaru.adapters.manifest_yaml")
        names: frozenset[str] = reading.flow_names(Path(self.loaded.root, "../" * prefix.count("/"), manifest))
        return names

    def actor(self) -> str:
        """Who acts, as CI or Git says."""
        found = import_module("kitaru.adapters.provenance").provenance(self.loaded.root)
        return actor(self.settings.environ, found.name or found.email or "")


def _files(targets: Sequence[str]) -> list[str]:
    places = [target.partition(":")[0] for target in targets]
    return [place for place in places if place.endswith(".py")]


def unpacked(settings: Settings, source: str, archive: Callable[[], bytes]) -> Path:
    """The folder of an unpacked, verified source tree."""
    unpacking = import_module("kitaru.adapters.unpacked")
    folder: Path = unpacking.ensure_source(settings.cache / "sources", source, archive)
    return folder


def prune_caches(settings: Settings, unused_for: timedelta, *, delete: bool) -> Any:
    """Find what nobody has used for so long in this machine's caches, and ``delete`` it."""
    return import_module("kitaru.adapters.local_prune").prune(settings.cache, unused_for, delete=delete)


def past_sources() -> Any:
    """What reads the source archives of earlier versions, and asks Git about their commits."""
    return import_module("kitaru.adapters.past_sources")


def manifest_edits() -> Any:
    """What edits a manifest's bytes, and writes them."""
    return import_module("kitaru.adapters.manifest_edits")


def working_tree(folder: Path) -> Path:
    """The root of the Git repository around ``folder``. Raises ``KitaruSourceError`` where there is none."""
    git = import_module("kitaru.adapters.git_process")
    return Path(git.run(folder, "rev-parse", "--show-toplevel").decode("utf-8", "surrogateescape").rstrip("\n"))


def runner_of(settings: Settings, stack: NamedStack, reporter: Reporter) -> Runner:
    """The runner of a stack. Raises ``KitaruStackError`` for a type that this release can't run."""
    spec = stack.spec
    if spec.type != "local":
        raise KitaruStackError(
            f"stack {stack.name} is of type {spec.type}, which this release can't run executions on",
            hint="--stack local runs it on this machine",
        )
    local = import_module("kitaru.adapters.local_runner")
    runner: Runner = local.LocalRunner(
        environment=spec.environment,
        cache=settings.cache,
        log_dir=settings.cache / "workers",
        python=sys.executable,
        environ=settings.environ,
        report=reporter,
    )
    return runner


def stack_named(settings: Settings, name: str) -> NamedStack:
    """A stack that the manifest in reach declares, or ``local``. Raises ``KitaruStackError`` with what there is."""
    from kitaru.model.stack import LocalStack, NamedStack

    declared = {}
    if settings.manifest is not None:
        asked = Asked(manifest=settings.manifest, target=settings.target)
        declared = load_manifest(asked, settings.cwd, settings.environ).manifest.stacks
    stacks = {"local": LocalStack(type="local"), **declared}
    if name not in stacks:
        raise KitaruStackError(
            f"there is no stack {name}; there are: {', '.join(stacks)}", hint=f"declare it under stacks: in {MANIFEST}"
        )
    return NamedStack(name=name, spec=stacks[name])


def must_run_here(settings: Settings, name: str) -> None:
    """Refuse a stack on which source of this process can't be run."""
    stack = stack_named(settings, name)
    if stack.spec.type != "local":
        raise KitaruStackError(
            f"stack {name} is of type {stack.spec.type}, which this release can't run executions on",
            hint='stack="local" runs it in this process',
        )


def check_image(image: Any) -> None:
    """Refuse image settings that are none. A run from source uses this process's environment, whatever they say."""
    parse = import_module("kitaru.model.image").parse_image
    try:
        parse(image)
    except (ValueError, TypeError) as error:
        raise KitaruUsageError(f"image= is neither a base image nor ImageSettings: {error}") from error


def runner_for_order(settings: Settings, order: RunOrder, reporter: Reporter) -> Runner:
    """The runner of the stack that an order's snapshot is placed on."""
    from kitaru.model.snapshot import Snapshot

    return runner_of(settings, Snapshot.parse(order.snapshot).stack, reporter)


def this_process() -> RunnerInfo:
    """This process, as a runner."""
    found: RunnerInfo = import_module("kitaru.adapters.process_identity").describe_process(os.getpid())
    return found


def process_alive(runner: RunnerInfo) -> bool | None:
    """Whether a runner's process still lives; None where that can't be known from here."""
    found: bool | None = import_module("kitaru.adapters.process_identity").process_alive(runner)
    return found


def launched_worker(settings: Settings, exec_id: str) -> RunnerInfo | None:
    """The worker that was last started from here for an execution; None where none is known of."""
    launched_worker = import_module("kitaru.adapters.local_runner").launched_worker
    found: RunnerInfo | None = launched_worker(settings.cache / "workers", exec_id)
    return found


def end_process(runner: RunnerInfo, *, hard: bool) -> bool:
    """Tell the process of a runner on this machine to end, or end it; False where there is no such process."""
    ended: bool = import_module("kitaru.adapters.process_signals").end_process(runner, hard=hard)
    return ended


def check_answer(schema: Mapping[str, Any] | None, value: Any) -> Sequence[str]:
    """What of an answer doesn't fit the schema of its wait, one sentence each."""
    found: Sequence[str] = import_module("kitaru.adapters.input_schema").check_value(schema or {}, value)
    return found


def child_output() -> Any:
    """A context manager: its ``ChildOutput``; None where this program's streams do not lead to its descriptors."""
    return import_module("kitaru.adapters.child_output").while_it_lasts()


def run_order(order: RunOrder) -> int:
    """Carry out a runner's order in this process: the worker's whole work. The exit code."""
    work = import_module("kitaru.engine.work")
    executor = import_module("kitaru.engine.executor")
    stores = import_module("kitaru.adapters.stores")
    environ = environment()
    store = stores.open_store(order.store_url, base=Path.cwd())
    clock = SystemClock()
    cache = user_folder("cache", environ)
    sources = cache / "sources"
    if Path(sys.prefix).parent == cache / "environments":
        # For as long as the worker lives; a flow may run longer than an unused environment is kept.
        import_module("kitaru.adapters.local_use").hold(Path(sys.prefix))
    children = import_module("kitaru.adapters.child_output").ChildOutput()
    mask = secret_mask(environ)

    def unpack(source: str, fetch: Callable[[], bytes]) -> Path:
        # Not bundle: it brings pydantic and zstandard, which a worker needs only where the source is not here yet.
        folder: Path = import_module("kitaru.adapters.unpacked").ensure_source(sources, source, fetch)
        return folder

    def execute(flow: Any) -> int:
        try:
            executor.execute(
                flow,
                store=store,
                clock=clock,
                project=order.project,
                exec_id=order.exec_id,
                entries=order.journal_head,
                runner=this_process(),
                capture=True,
                requirements=work.requirements_of(order),
                lease_seconds=lease_seconds(environ),
                forced_end=work.leave_process,
                mask=mask,
                children=children,
            )
        except KitaruExecutionError as error:
            print(f"error: {error.message}", file=sys.stderr)
            return int(work.FAILED)
        return int(work.COMPLETED)

    loading = import_module("kitaru.authoring.loading")
    code: int = work.run_order(
        order, store=store, clock=clock, unpack=unpack, load=loading.load_target, execute=execute, mask=mask
    )
    return code
