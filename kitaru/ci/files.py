"""``kitaru ci init``: the files of a pipeline, from templates, written whole or not at all."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from jinja2 import Environment, FunctionLoader, StrictUndefined

from kitaru import data_files
from kitaru._version import __version__
from kitaru.errors import KitaruBackendError, KitaruSourceError, KitaruStateError, KitaruUsageError
from kitaru.manifest.yaml import quote
from kitaru.source import git_process

Provider = Literal["github", "gitlab"]

ACTIONS = {
    "checkout": "actions/checkout@08c6903cd8c0fde910a37f88322edcfb5dd907a8 # v5.0.0",
    "setup_python": "actions/setup-python@e797f83bcb11b83ae66e0230d6156d7c80228e7c # v6.0.0",
    "upload": "actions/upload-artifact@330a01c490aca151604b8cf639adc76d48f6c5d4 # v5.0.0",
    "download": "actions/download-artifact@018cc2cf5baa6db3ef3c5f8a56943fffe632ef53 # v6.0.0",
}
"""GitHub's own actions, each at one commit: a tag can be moved."""

GITLAB_ENTRY = ".gitlab-ci.yml"
_OUR_ENTRY = re.compile(r"include:\n(  - local: \S+\n)+")
"""A ``.gitlab-ci.yml`` that holds nothing but what this module wrote."""

_WORD = re.compile(r"[A-Za-z0-9._-]+")
_BRANCH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]*")
_PYTHON = re.compile(r"3\.[0-9]{1,2}")


@dataclass(frozen=True, slots=True)
class Choices:
    """What the files depend on. ``folder`` is the manifest's, relative to the repository's root; "" is the root."""

    project: str
    store: str
    branch: str
    python: str
    target: str | None = None
    folder: str = ""
    install: str = ""

    @property
    def name(self) -> str:
        """What workflows, jobs and environments begin with: ``kitaru``, the manifest's folder, and its target.

        As in ``kitaru``, ``kitaru-team-a``, ``kitaru-team-a.production``. What can't be spelled so gets some digits of
        its digest: two manifests never share a name, nor do two targets of one.
        """
        parts = ["kitaru", *(_slug(self.folder.lower().replace("/", "-"), self.folder) if self.folder else ())]
        return "-".join(parts) + (f".{'-'.join(_slug(self.target, self.target))}" if self.target else "")

    @property
    def is_one_of_several(self) -> bool:
        """Whether the repository may well have other pipelines beside this one."""
        return bool(self.folder or self.target)


@dataclass(frozen=True, slots=True)
class Written:
    """One file: where it is below the root, and what became of it. ``theirs`` was there before, and was left alone."""

    path: str
    action: Literal["created", "overwritten", "extended", "unchanged", "theirs"]


def _slug(spelled: str, whole: str) -> list[str]:
    """What any name may have of ``spelled``; where that is not all of it, digits of the digest of ``whole`` besides."""
    slug = re.sub(r"[^a-z0-9]+", "-", spelled.lower()).strip("-")
    return [part for part in (slug, "" if slug == spelled else hashlib.sha256(whole.encode()).hexdigest()[:6]) if part]


def repository_root(folder: Path) -> Path:
    """The root of the Git repository that ``folder`` is in. Raises ``KitaruSourceError`` where it is in none."""
    return Path(os.fsdecode(git_process.run(folder, "rev-parse", "--show-toplevel").rstrip(b"\n")))


def provider_of(root: Path) -> Provider:
    """Who runs this repository's pipelines, by its remotes, else by its files. Raises where that can't be told."""
    try:
        listed = git_process.run(root, "config", "--get-regexp", r"^remote\..*\.url$").decode("utf-8", "replace")
    except KitaruSourceError:
        listed = ""  # no remote
    hosts = " ".join(_host(line.partition(" ")[2]) for line in listed.splitlines())
    by_remote = {one for one in ("github", "gitlab") if one in hosts}
    there = {"github": root / ".github", "gitlab": root / GITLAB_ENTRY}
    for found in (by_remote, {one for one, path in there.items() if path.exists()}):
        if found == {"github"}:
            return "github"
        if found == {"gitlab"}:
            return "gitlab"
    raise KitaruUsageError(
        "neither the remotes nor the files of this repository say who runs its pipelines",
        hint="kitaru ci init github, or: kitaru ci init gitlab",
    )


def main_branch(root: Path) -> str:
    """The branch that the remote calls its own; ``main`` where it was never asked."""
    try:
        found = git_process.run(root, "symbolic-ref", "--short", "refs/remotes/origin/HEAD").decode().strip()
    except KitaruSourceError:
        return "main"
    return found.partition("/")[2] or "main"


def install_command(folder: Path) -> str:
    """How to install what the code in ``folder`` imports; empty where nothing there says."""
    if (folder / "requirements.txt").is_file():
        return "python -m pip install -r requirements.txt"
    pyproject = folder / "pyproject.toml"
    if pyproject.is_file() and re.search(r"^\[project\]", pyproject.read_text("utf-8", "replace"), re.MULTILINE):
        return "python -m pip install -e ."
    return ""


def render(provider: Provider, choices: Choices) -> dict[str, str]:
    """The files by their paths below the root. Raises ``KitaruUsageError`` for a choice that can't be written down."""
    for text, pattern, what in (
        (choices.branch, _BRANCH, "--branch main"),
        (choices.python, _PYTHON, "--python 3.12"),
        (choices.target or "x", _WORD, "--target production"),
    ):
        if not pattern.fullmatch(text):
            raise KitaruUsageError(f"{text!r} can't stand in a pipeline's file", hint=f"expected something like {what}")
    if not choices.folder.isprintable():
        raise KitaruUsageError(f"the folder {choices.folder!r} can't stand in a pipeline's file")
    return _github(choices) if provider == "github" else _gitlab(choices)


def write(root: Path, files: Mapping[str, str], *, force: bool) -> tuple[Written, ...]:
    """Write what is missing. Raises ``KitaruStateError`` with a diff, before it writes anything, where a file differs.

    ``force`` overwrites those, save a ``.gitlab-ci.yml``, which holds more than ours.
    """
    there = {path: _present(root / path) for path in files}
    differing = [path for path, text in files.items() if there[path] not in (None, text) and path != GITLAB_ENTRY]
    if differing and not force:
        diffs = "\n".join(_diff(path, there[path] or "", files[path]) for path in differing)
        raise KitaruStateError(
            f"{', '.join(differing)}: there already, and different; nothing was written\n{diffs}",
            hint="kitaru ci init --force overwrites",
        )
    return tuple(_put(root, path, text, there[path]) for path, text in files.items())


def _put(root: Path, path: str, text: str, old: str | None) -> Written:
    if old == text:
        return Written(path, "unchanged")
    if path == GITLAB_ENTRY and old is not None:
        entry = text.splitlines()[-1]
        if entry.strip().removeprefix("- local: ") in old:
            return Written(path, "unchanged")
        if not _OUR_ENTRY.fullmatch(old):
            return Written(path, "theirs")
        text = f"{old}{entry}\n"
    try:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(text.encode())
    except OSError as error:
        raise KitaruBackendError(f"{path} can't be written: {error.strerror or error}") from error
    if path == GITLAB_ENTRY and old is not None:
        return Written(path, "extended")
    return Written(path, "created" if old is None else "overwritten")


def _present(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KitaruUsageError(f"{path} can't be read: {error.strerror or error}") from error


def _diff(path: str, old: str, new: str) -> str:
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), path, f"{path} (new)", lineterm="")
    return "\n".join(f"  {line}" for line in lines)


def _github(choices: Choices) -> dict[str, str]:
    return {
        f".github/workflows/{choices.name}-{one}.yml": _fill(f"ci/github-{one}.yml.j2", choices)
        for one in ("plan", "apply", "drift")
    }


def _gitlab(choices: Choices) -> dict[str, str]:
    included = f".gitlab/{choices.name}.gitlab-ci.yml"
    return {
        included: _fill("ci/gitlab.yml.j2", choices),
        GITLAB_ENTRY: _fill("ci/gitlab-ci.yml.j2", choices, included=f"/{included}"),
    }


def _fill(template: str, choices: Choices, **more: str) -> str:
    # GitHub's expressions and the shell have taken the usual marks.
    environment = Environment(
        loader=FunctionLoader(data_files.template),
        undefined=StrictUndefined,
        block_start_string="@%",
        block_end_string="%@",
        variable_start_string="@{",
        variable_end_string="}@",
        comment_start_string="@#",
        comment_end_string="#@",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(yaml=quote, sh=shlex.quote)
    s3 = choices.store.startswith("s3://")
    return environment.get_template(template).render(
        name=choices.name,
        project=choices.project,
        branch=choices.branch,
        python=choices.python,
        image=f"python:{choices.python}",
        folder=choices.folder,
        prefix=f"{choices.folder}/" if choices.folder else "",
        target=f" --target {choices.target}" if choices.target else "",
        requirement=f"kitaru{'[s3]' if s3 else ''}=={__version__}",
        install=choices.install,
        told_apart=f" --as {choices.name}" if choices.is_one_of_several else "",
        beside=f", {choices.name}" if choices.is_one_of_several else "",
        s3=s3,
        **ACTIONS,
        **more,
    )


def _host(url: str) -> str:
    """The host of ``https://host/path``, ``ssh://git@host/path`` or ``git@host:path``."""
    if "://" in url:
        try:
            return (urlsplit(url).hostname or "").lower()
        except ValueError:
            return ""
    return url.partition(":")[0].rpartition("@")[2].lower() if ":" in url else ""


def lines_to_paste(written: Sequence[Written], files: Mapping[str, str]) -> str:
    """What a ``.gitlab-ci.yml`` that was left alone still lacks; empty where nothing is."""
    theirs = [one.path for one in written if one.action == "theirs"]
    return "".join(files[path] for path in theirs)
