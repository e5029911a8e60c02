"""``kitaru ci init``: the files of a pipeline, from templates, written whole or not at all."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FunctionLoader, StrictUndefined

from kitaru import data_files
from kitaru._version import DISTRIBUTION
from kitaru.errors import KitaruBackendError, KitaruStateError, KitaruUsageError

Provider = Literal["github", "gitlab"]

ACTIONS = {
    "checkout": "actions/checkout@08c6903cd8c0fde910a37f88322edcfb5dd907a8 # v5.0.0",
    "setup_python": "actions/setup-python@e797f83bcb11b83ae66e0230d6156d7c80228e7c # v6.0.0",
    "upload": "actions/upload-artifact@330a01c490aca151604b8cf639adc76d48f6c5d4 # v5.0.0",
    "download": "actions/download-artifact@018cc2cf5baa6db3ef3c5f8a56943fffe632ef53 # v6.0.0",
}
"""GitHub's own actions, each at one commit: a tag can be moved."""

GITLAB_ENTRY = ".gitlab-ci.yml"
FORGES: dict[Provider, str] = {"github": ".github", "gitlab": GITLAB_ENTRY}
"""Provider → the path by which a repository shows it."""

_OUR_ENTRY = re.compile(r"include:\n(  - local: \S+\n)+")
"""A ``.gitlab-ci.yml`` that holds only lines of this module."""

_HOST = re.compile(r"(?:[^:/]+://(?:[^@/]*@)?|(?:[^@/]*@)?(?=[^/]+:))([^:/]+)")
"""``https://user@host:1/path``, ``ssh://git@host/path``, ``git@host:path``."""

_WORD = re.compile(r"[A-Za-z0-9._-]+")
_BRANCH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]*")
_PYTHON = re.compile(r"3\.[0-9]{1,2}")


@dataclass(frozen=True, slots=True)
class Choices:
    """The inputs of the files. ``folder`` is the manifest's, relative to the repository's root; "" is the root."""

    project: str
    store: str
    branch: str
    python: str
    target: str | None = None
    folder: str = ""
    install: str = ""
    requirement: str = ""

    @property
    def name(self) -> str:
        """The name of workflows, jobs and environments, one for each manifest and target.

        Examples: ``kitaru``, ``kitaru-team-a``, ``kitaru-services_a.production``, and ``kitaru-my-team-3fa2c1`` for the
        folder ``My Team``: a name that can't be spelled so gets digits of its digest.
        """
        folder = "_".join(map(_slug, self.folder.split("/"))) if self.folder else ""
        return "-".join(filter(None, ("kitaru", folder))) + (f".{_slug(self.target)}" if self.target else "")


@dataclass(frozen=True, slots=True)
class Written:
    """One file below the root and its fate; ``theirs`` existed before, and was left alone."""

    path: str
    action: Literal["created", "overwritten", "extended", "unchanged", "theirs"]


def _slug(text: str) -> str:
    """A distinct name for each text: ``team-a`` → ``team-a``, ``My Team`` → ``my-team-3fa2c1``."""
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    digits = "" if slug == text else hashlib.sha256(text.encode()).hexdigest()[:6]
    return "-".join(filter(None, (slug, digits)))


def provider_of(root: Path, urls: Sequence[str]) -> Provider:
    """The forge of a repository, by the addresses of its remotes, else by its files.

    Raises ``KitaruUsageError`` if none is found.
    """
    hosts = " ".join(host[1].lower() for url in urls if (host := _HOST.match(url)))
    by_remote = {one for one in FORGES if one in hosts}
    by_file = {one for one, path in FORGES.items() if (root / path).exists()}
    for found in (by_remote, by_file):
        if len(found) == 1:
            return found.pop()
    raise KitaruUsageError(
        "neither the remotes nor the files of this repository name its forge",
        hint="kitaru ci init github, or: kitaru ci init gitlab",
    )


def own_requirement(extras: str = "") -> str:
    """The running Kitaru as a requirement that is pinned, by the record of its installation (PEP 610); else empty.

    Example: ``kitaru-gitops[s3] @ git+https://github.com/acme/kitaru@3f2a9c…``. Never a bare name: a public index may
    have another package under it.
    """
    try:
        text = distribution(DISTRIBUTION).read_text("direct_url.json")
        record = json.loads(text or "{}")
    except (PackageNotFoundError, ValueError):
        return ""
    url, version, archive = record.get("url", ""), record.get("vcs_info", {}), record.get("archive_info", {})
    if version.get("commit_id"):
        return f"{DISTRIBUTION}{extras} @ {version['vcs']}+{url}@{version['commit_id']}"
    digest = (archive.get("hashes") or {}).get("sha256")
    if url.startswith("https://") and digest:
        return f"{DISTRIBUTION}{extras} @ {url}#sha256={digest}"
    return ""


def install_command(folder: Path) -> str:
    """The command that installs the imports of the code in ``folder``; empty if no file there lists them."""
    if (folder / "requirements.txt").is_file():
        return "python -m pip install -r requirements.txt"
    pyproject = folder / "pyproject.toml"
    if pyproject.is_file() and re.search(r"^\[project\]", pyproject.read_text("utf-8", "replace"), re.MULTILINE):
        return "python -m pip install -e ."
    return ""


def render(provider: Provider, choices: Choices) -> dict[str, str]:
    """The files by their paths below the root. Raises ``KitaruUsageError`` for a choice that can't be written down."""
    for text, pattern, example in (
        (choices.branch, _BRANCH, "--branch main"),
        (choices.python, _PYTHON, "--python 3.12"),
        (choices.target or "x", _WORD, "--target production"),
    ):
        if not pattern.fullmatch(text):
            raise KitaruUsageError(f"{text!r} can't stand in a pipeline's file", hint=f"expected, say, {example}")
    if not choices.folder.isprintable():
        raise KitaruUsageError(f"the folder {choices.folder!r} can't stand in a pipeline's file")
    if not choices.requirement:
        raise KitaruUsageError(
            "this Kitaru was installed neither from a Git commit nor from a wheel's address: jobs can't do the same",
            hint="kitaru ci init --install 'git+https://HOST/PATH@COMMIT', or a wheel's address or path",
        )
    if provider == "github":
        return {
            f".github/workflows/{choices.name}-{one}.yml": _fill(f"ci/github-{one}.yml.j2", choices)
            for one in ("plan", "apply", "drift")
        }
    included = f".gitlab/{choices.name}.gitlab-ci.yml"
    return {
        included: _fill("ci/gitlab.yml.j2", choices),
        GITLAB_ENTRY: _fill("ci/gitlab-ci.yml.j2", choices, included=f"/{included}"),
    }


def write(root: Path, files: Mapping[str, str], *, force: bool) -> tuple[Written, ...]:
    """Write the missing files. Raises ``KitaruStateError`` with a diff, before any write, if a file differs.

    ``force`` overwrites those, but no pipeline of another folder, and no ``.gitlab-ci.yml``, which may hold more.
    """
    there = {path: _present(root / path) for path in files}
    differing = [path for path, text in files.items() if there[path] not in (None, text) and path != GITLAB_ENTRY]
    foreign = [path for path in differing if _owner(there[path] or "") not in ("", _owner(files[path]))]
    if foreign:
        raise KitaruStateError(
            f"{', '.join(foreign)}: the pipeline of {_owner(there[foreign[0]] or '')}; nothing was written",
            hint="remove the file, if that manifest is gone",
        )
    if differing and not force:
        diffs = "\n".join(_diff(path, there[path] or "", files[path]) for path in differing)
        raise KitaruStateError(
            f"{', '.join(differing)}: there already, and different; nothing was written\n{diffs}",
            hint="kitaru ci init --force overwrites",
        )
    return tuple(_put(root, path, text, there[path]) for path, text in files.items())


def _owner(text: str) -> str:
    """The manifest that a pipeline's comment names: ``team-a/kitaru.yaml``; empty if there is no such comment."""
    found = re.search(r"^# Pipeline of (.+)$", text, re.MULTILINE)
    return found.group(1) if found else ""


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
    # A JSON text is a YAML text in quotes.
    environment.filters.update(yaml=partial(json.dumps, ensure_ascii=False), sh=shlex.quote, github=_github_text)
    manifest = f"{choices.folder}/kitaru.yaml".lstrip("/")
    target = f" --target {choices.target}" if choices.target else ""
    several = bool(choices.folder or choices.target)
    facts: dict[str, Any] = {
        **asdict(choices),
        "name": choices.name,
        "image": f"python:{choices.python}",
        "prefix": f"{choices.folder}/" if choices.folder else "",
        "target": target,
        "owner": f"{manifest}{target}",
        # The repository may have other pipelines beside this one.
        "told_apart": f" --as {choices.name}" if several else "",
        "beside": f", {choices.name}" if several else "",
        "s3": choices.store.startswith("s3://"),
    }
    return environment.get_template(template).render(**facts, **ACTIONS, **more)


def _github_text(text: str) -> str:
    """``text`` without expressions: GitHub would evaluate ``${{ … }}`` in any value of a workflow."""
    return text.replace("${{", "${{ '${{' }}")


def lines_to_paste(written: Sequence[Written], files: Mapping[str, str]) -> str:
    """The lines that a ``.gitlab-ci.yml`` of the user still lacks."""
    theirs = [one.path for one in written if one.action == "theirs"]
    return "".join(files[path] for path in theirs)
