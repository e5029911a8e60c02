"""The repository around a manifest: its source, the facts about its flows, its pipelines."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kitaru.errors import KitaruSourceError, KitaruUsageError, Problem
from kitaru.settings import Asked, Settings, actor
from kitaru.wiring.settling import load_manifest

if TYPE_CHECKING:
    from kitaru.ci.port import Forge
    from kitaru.manifest.port import ManifestFile
    from kitaru.model.manifest import Neighbours, SourceSpec
    from kitaru.model.snapshot import FlowFacts
    from kitaru.source.git import GitSource, Upstream
    from kitaru.source.port import ImportJob, Selection, Source, Surroundings


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


def ci_files() -> Any:
    """The module that writes the files of a pipeline."""
    from kitaru.ci import files

    return files


def forge(environ: Mapping[str, str]) -> Forge:
    """The forge that runs the job of that environment. Raises ``KitaruUsageError`` outside a job."""
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


@dataclass(frozen=True)
class Repository:
    """The repository around a manifest: its source, the facts about its flows, the actor."""

    loaded: ManifestFile
    settings: Settings

    @cached_property
    def source(self) -> Source:
        """The Git repository of the manifest."""
        return self._git

    @cached_property
    def _git(self) -> GitSource:
        from kitaru.source.git import GitSource

        return GitSource(self.loaded.root, self.settings.cache, manifest=self.loaded.path.name)

    @cached_property
    def _cache(self) -> Path:
        """Cached, as it is read for each of a thousand flows."""
        return self.settings.cache

    @property
    def prefix(self) -> str:
        """The manifest's folder below the repository's root: ``services/a/``, empty for the root.

        Cheaper than ``source.commit``, which has it, too. Raises ``KitaruSourceError`` outside a repository.
        """
        from kitaru.source.git_process import run

        return run(self.loaded.root, "rev-parse", "--show-prefix").decode("utf-8", "surrogateescape").rstrip("\n")

    def known(self, around: Surroundings, target: str) -> FlowFacts | None:
        """The facts from an earlier import of that target; None if there are none."""
        from kitaru.source.discovery import facts_cache_get

        return facts_cache_get(self._cache, around, target)

    def describe(self, jobs: Sequence[ImportJob]) -> Mapping[str, FlowFacts | Problem]:
        """Import the targets from the unpacked sources, and cache the facts. Secrets in problems are masked."""
        from kitaru.masking import Masking, secret_names
        from kitaru.source.discovery import Job, describe, facts_cache_put

        environ = self.settings.environ
        answers = describe(
            [
                Job(
                    unpacked(self.settings, job.around.source, job.archive),
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

        return pack(self._git.read(selection))

    def left_out(self, selection: Selection, spec: SourceSpec, targets: Sequence[str]) -> Sequence[Problem]:
        """Warnings about imported modules that the selection lacks."""
        from kitaru.source.import_check import left_out_imports

        return left_out_imports(
            self._git.read(selection),
            selection.tree,
            self.loaded.root,
            explain=lambda path: self._git.why_left_out(path, spec),
            folders={str(Path(place).parent) for place in _files(targets)} - {"."},
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

    def actor(self) -> str:
        """The actor: see ``actor_in``."""
        return actor_in(self.loaded.root, self.settings.environ)


def actor_in(folder: Path, environ: Mapping[str, str]) -> str:
    """The actor, the same for every verb: from CI or Git, else the user of this machine."""

    def configured() -> str:
        # The git binary takes 3 ms, and GitPython's import 95; every run does this.
        from kitaru.source.git_process import run

        try:
            listed = run(folder, "config", "--get-regexp", r"^(committer|user)\.(name|email)$")
        except KitaruSourceError:
            return ""
        told = dict(line.partition(" ")[::2] for line in listed.decode("utf-8", "replace").splitlines())
        names = ("committer.name", "user.name", "committer.email", "user.email")
        return next((told[name] for name in names if told.get(name, "").strip()), "")

    return actor(environ, configured)


def source_roots(settings: Settings) -> tuple[str, ...]:
    """The folders to import from in the nearest manifest: ``("src",)``; ``()`` without a manifest."""
    if settings.manifest is None:
        return ()
    asked = Asked(manifest=settings.manifest, target=settings.target)
    return load_manifest(asked, settings.cwd).manifest.source.roots or ()


def check_names(root: Path, target: str, roots: Sequence[str]) -> None:
    """Raise ``KitaruSourceError`` if the target's code imports a module with a reserved name, such as ``json``."""
    from kitaru.source.import_check import shadowed_imports

    problem = shadowed_imports(root, target, roots)
    if problem is not None:
        raise KitaruSourceError(problem.message, problems=(problem,), hint=problem.hint)


def _files(targets: Sequence[str]) -> list[str]:
    places = [target.partition(":")[0] for target in targets]
    return [place for place in places if place.endswith(".py")]


def unpacked(settings: Settings, source: str, archive: Callable[[], bytes]) -> Path:
    """The folder of an unpacked, verified source tree."""
    from kitaru.source.unpacked import ensure_source

    return ensure_source(settings.cache / "sources", source, archive)


def read_archive(archive: bytes, sha: str, keep: Callable[[str, int], bool] = lambda _path, _size: False) -> Any:
    """The verified tree in a source archive, and some of its files: see ``bundle.read_archive``."""
    from kitaru.source.bundle import read_archive

    return read_archive(archive, sha, keep)


def commit_words(folder: Path, sha: str) -> dict[str, str] | None:
    """The author, date and subject of a commit: see ``git.commit_words``."""
    from kitaru.source.git import commit_words

    return commit_words(folder, sha)


def upstream(folder: Path) -> Upstream:
    """The repository's root, remotes and default branch. Raises ``KitaruSourceError`` outside a repository."""
    from kitaru.source.git import upstream

    return upstream(folder)


def manifest_edits() -> ModuleType:
    """The module that edits a manifest's bytes, and writes them."""
    from kitaru.manifest import edit

    return edit


def can_be_of(root: Path, sha: str, branch: str) -> bool:
    """Whether the commit may be of that branch: see ``git.can_be_of``."""
    from kitaru.source.git import can_be_of

    return can_be_of(root, sha, branch)


def working_tree(folder: Path) -> Path:
    """The root of the Git repository around ``folder``. Raises ``KitaruSourceError`` if there is none."""
    from kitaru.source.git_process import run

    return Path(run(folder, "rev-parse", "--show-toplevel").decode("utf-8", "surrogateescape").rstrip("\n"))
