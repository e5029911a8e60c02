"""The user and the remote of a repository: recorded beside a generation, never inside a digest.

The one module that imports GitPython (about 95 ms): imported only before a write.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from git import GitConfigParser, Repo
from git.exc import GitError


@dataclass(frozen=True, slots=True)
class Provenance:
    """``name`` and ``email`` from Git's configuration; ``remote``: the URL of ``origin`` without credentials.

    Each is None if Git does not have it.
    """

    name: str | None = None
    email: str | None = None
    remote: str | None = None


def provenance(root: Path) -> Provenance:
    """The provenance of ``root`` from Git's configuration; all None if there is no readable repository."""
    try:
        with Repo(root, search_parent_directories=True) as repository:
            config = repository.config_reader()
            name, email = (_told(config, what) for what in ("name", "email"))
            urls = {remote.name: remote.config_reader.get_value("url", "") for remote in repository.remotes}
    except (GitError, OSError, ValueError, KeyError):
        return Provenance()
    address = urls.get("origin") or next((urls[remote] for remote in sorted(urls)), "")
    return Provenance(name or None, email or None, without_credentials(str(address)) or None)


def _told(config: GitConfigParser, what: str) -> str:
    """The committer's value, else the user's, as in Git; the caller reads the environment, which comes first."""
    told = (str(config.get_value(section, what, default="")).strip() for section in ("committer", "user"))
    return next(filter(None, told), "")


def without_credentials(url: str) -> str:
    """``url`` without password, token and query; ``git@host:path`` and plain paths stay as they are.

    ``https://me:token@github.com/a/b`` → ``https://github.com/a/b``.
    """
    if "://" not in url:
        return url
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        place = f"[{host}]" if ":" in host else host
        if parts.port:
            place += f":{parts.port}"
    except ValueError:
        return ""
    # With ssh the user is part of the address; with http it may be a token.
    if parts.scheme.endswith("ssh") and parts.username:
        place = f"{parts.username}@{place}"
    return urlunsplit((parts.scheme, place, parts.path, "", ""))
