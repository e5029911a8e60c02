"""The store, project, stack and cache of a call: from the argument, the environment, the files, in that order."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import field
from functools import cache
from pathlib import Path
from typing import Any

from kitaru.errors import KitaruUsageError
from kitaru.model.address import MANIFEST as MANIFEST
from kitaru.model.address import PROJECT_NAME
from kitaru.model.jsonable import record, recorded_line

DEFAULT_PROJECT = "default"


@record()
class Settings:
    """The settings of a call. A relative ``store`` is relative to ``base``: ``file://.kitaru/store``."""

    store: str
    base: Path
    project: str
    cwd: Path
    manifest: Path | None = None
    target: str | None = None
    stack: str | None = None
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The folder that targets are relative to: the manifest's, else the present one."""
        return self.manifest.parent if self.manifest is not None else self.cwd

    @property
    def cache(self) -> Path:
        """The folder for everything that can be made again: unpacked sources, facts of imports, environments."""
        return cache_folder(self.environ)


@record()
class Asked:
    """The caller's arguments; for None, the environment and the files decide."""

    store: str | None = None
    project: str | None = None
    manifest: Path | None = None
    target: str | None = None
    stack: str | None = None


def user_folder(kind: str, environ: Mapping[str, str]) -> Path:
    """The user's own folder for ``cache``, ``data`` or ``config``; ``KITARU_HOME`` puts all three below one place."""
    home = environ.get("KITARU_HOME")
    if home:
        return Path(home).absolute() / kind
    # Late: three of four commands in a repository never need it.
    from platformdirs import PlatformDirs

    folders = PlatformDirs("kitaru", appauthor=False)
    return Path({"cache": folders.user_cache_dir, "data": folders.user_data_dir}.get(kind, folders.user_config_dir))


def cache_folder(environ: Mapping[str, str]) -> Path:
    """The user's cache, closed to other users, as it holds the sources that run.

    Raises ``KitaruUsageError`` for a folder of another user, or a link.
    """
    return _private(user_folder("cache", environ))


@cache
def _private(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.lstat()
        if stat.S_ISDIR(state.st_mode) and state.st_uid == os.geteuid():
            if state.st_mode & 0o077:
                folder.chmod(0o700)
            return folder
    except OSError:
        return folder  # It can't be written: each entry is made anew every time.
    raise KitaruUsageError(
        f"the cache {folder} belongs to another user, or is a link",
        hint="set KITARU_HOME to a folder of your own",
    )


def find_manifest(start: Path) -> Path | None:
    """The nearest ``kitaru.yaml`` at or above ``start``, within its repository; None if there is none."""
    for folder in (start, *start.parents):
        if (folder / MANIFEST).is_file():
            return folder / MANIFEST
        if (folder / ".git").exists():
            return None
    return None


def find_pyproject(start: Path) -> tuple[Path, dict[str, Any]]:
    """The nearest ``pyproject.toml`` with a ``[tool.kitaru]`` table, and the table: ``{"store": "file://store"}``.

    Without one, ``start`` and an empty table. Raises ``KitaruUsageError``.
    """
    for folder in (start, *start.parents):
        path = folder / "pyproject.toml"
        if not path.is_file():
            continue
        import tomllib  # Late: its parser takes 4 ms, and most folders have no such file.

        try:
            table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("kitaru", {})
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise KitaruUsageError(f"{path} can't be read: {error}", hint="mend the file, or pass --store") from error
        known = ("store", "project", "stack")
        wrong = [key for key, value in table.items() if key not in known or not isinstance(value, str)]
        if wrong:
            raise KitaruUsageError(
                f"{path}: [tool.kitaru] does not take {', '.join(wrong)}", hint=f"it takes texts for {', '.join(known)}"
            )
        if table:
            return path, table
    return start, {}


def lease_seconds(environ: Mapping[str, str]) -> float:
    """The length of a runner's lease: ``KITARU_LEASE_SECONDS``, else 45. Readers and runners must agree.

    Raises ``KitaruUsageError``.
    """
    text = environ.get("KITARU_LEASE_SECONDS")
    try:
        seconds = float(text) if text else 45.0
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 86_400:
        raise KitaruUsageError(
            f"KITARU_LEASE_SECONDS is {text!r}, expected a number of seconds from 1 to 86400",
            hint="unset it: 45 seconds fit most stores",
        )
    return seconds


def actor(environ: Mapping[str, str], git_actor: Callable[[], str] = str) -> str:
    """The name of the person or job that acts: from CI, from Git, or the user of this machine.

    As in Git, its variables come before its configuration, which ``git_actor`` reads.
    """
    for name in ("KITARU_ACTOR", "GITHUB_ACTOR", "GITLAB_USER_LOGIN", "GIT_COMMITTER_NAME", "GIT_AUTHOR_NAME"):
        if found := recorded_line(environ.get(name, "")).strip():
            return found
    if found := recorded_line(git_actor()).strip():
        return found
    import getpass  # Late: it imports the terminal's modules, and most calls need no name.

    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "unknown"


def check_project(name: str) -> str:
    """``name`` if it can name a project. Raises ``KitaruUsageError``."""
    if not PROJECT_NAME.fullmatch(name):
        raise KitaruUsageError(
            f"{name!r} can't name a project: lower-case letters, digits, - and _, beginning with a letter or digit",
            hint="kitaru ... --project NAME",
        )
    return name


def ci_branch(sha: str, environ: Mapping[str, str]) -> str | None:
    """The branch of commit ``sha`` from the variables of CI, for a checkout without a branch.

    None if CI runs for a tag or a pull request, as those may be named like a branch.
    """
    kind, ref = environ.get("GITHUB_REF_TYPE") or "branch", environ.get("GITHUB_REF") or "refs/heads/"
    if environ.get("GITHUB_SHA") == sha and kind == "branch" and ref.startswith("refs/heads/"):
        return environ.get("GITHUB_REF_NAME") or None
    if environ.get("CI_COMMIT_SHA") == sha and not environ.get("CI_COMMIT_TAG"):
        return environ.get("CI_COMMIT_BRANCH") or None
    return None
