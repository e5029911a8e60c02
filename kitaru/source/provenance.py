"""Who works here and where the repository came from: recorded beside a generation, never inside a digest.

The one module that imports GitPython (about 95 ms): asked only when something is about to be written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from git import GitConfigParser, Repo
from git.exc import GitError


@dataclass(frozen=True, slots=True)
class Provenance:
    """``name`` and ``email`` as Git is configured here; ``remote`` is the URL of ``origin`` without credentials.

    None where Git has no answer.
    """

    name: str | None = None
    email: str | None = None
    remote: str | None = None


def provenance(root: Path) -> Provenance:
    """What Git's configuration says about ``root``; all None where there is no repository or it can't be read."""
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
    """Git's own order for who commits; variables of the environment, which come first, are the caller's to ask."""
    told = (str(config.get_value(section, what, default="")).strip() for section in ("committer", "user"))
    return next(filter(None, told), "")


def without_credentials(url: str) -> str:
    """``url`` with its password, token and query taken out. ``git@host:path`` and plain paths stay as they are."""
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
    # With ssh the user is part of the address; with http it is who logs in, and may be a token.
    if parts.scheme.endswith("ssh") and parts.username:
        place = f"{parts.username}@{place}"
    return urlunsplit((parts.scheme, place, parts.path, "", ""))
