"""Source trees as folders of this machine: unpacked and verified; and digests of code that runs, for the cache."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from kitaru.errors import KitaruSourceError
from kitaru.local_cache import hold
from kitaru.model.address import canonical_json, digest
from kitaru.source import git_process
from kitaru.source.port import CodeBase

MOST_FILES = 5_000
"""Python files that are read below a folder without Git. A home folder holds more, and is no source tree."""

_OWN = Path(__file__).resolve().parents[2]
_PYTHON = tuple(f"{os.path.realpath(Path(place).parent)}/" for place in (os.__file__, sys.executable))
_MANIFEST = "kitaru.yaml"
_LINK, _REPOSITORY = "120000", "160000"


class InexactTree(Exception):
    """The folder has no exact digest; the message says why."""


def codebase(
    root: Path,
    *,
    since: float,
    source: str | None = None,
    image: Mapping[str, Any] | None = None,
    ignoring: Collection[Path] = (),
    takes: Callable[[str], bool] = lambda _path: True,
) -> CodeBase:
    """The code that runs from ``root``, for the key of the cache.

    ``source``: the digest of a snapshot's source, unpacked at ``root``; None for a working tree. ``image``: the
    snapshot's. ``since``, ``ignoring`` and ``takes`` as in ``worktree_digest``.
    """
    root = Path(os.path.realpath(root))
    installed, folders = distributions()
    image = image or {}
    parts = {
        "Python": f"{sys.implementation.name} {sys.version.split()[0]}",
        "installed distributions": digest(canonical_json(installed)),
        "requirements": digest(canonical_json(list(image.get("requirements") or ()))),
        "image.environment": digest(canonical_json(dict(image.get("environment") or {}))),
    }
    flaws = {}
    beside = sorted(folder for folder in folders if not folder.is_relative_to(root))
    try:
        own = source or worktree_digest(root, since=since, ignoring=ignoring, takes=takes)
        others = [worktree_digest(folder, since=since, ignoring=ignoring) for folder in beside]
        parts["source"] = digest(canonical_json([own, *others]))
    except InexactTree as error:
        flaws["source"] = str(error)
    covered = tuple(f"{folder}/" for folder in beside)

    def covers(file: str) -> bool:
        if is_library(file) or not Path(file).is_file():
            return is_library(file)
        path = os.path.realpath(file)
        return path.startswith(covered) or (path.startswith(f"{root}/") and takes(path[len(f"{root}/") :]))

    return CodeBase(parts, flaws, covers)


def worktree_digest(
    root: Path,
    *,
    since: float,
    ignoring: Collection[Path] = (),
    takes: Callable[[str], bool] = lambda _path: True,
) -> str:
    """The digest of the files below ``root`` that Git tracks or does not ignore; without Git, of every Python file.

    ``since``: the time (seconds) at which this process began to import: a newer Python file may not be the
    imported one. ``ignoring``: folders that don't count. ``takes``: whether a build takes a path, ``flows/a.py``; a
    file that it leaves out counts only if it is imported. Raises ``InexactTree``.
    """
    root = Path(os.path.realpath(root))
    listed = _git_entries(root) or dict.fromkeys(_python_files(root), "")
    entries = {path: content for path, content in listed.items() if takes(path)}
    entries.update({path: "" for path in _imported(root) if path not in entries})
    skipped = tuple(f"{path.relative_to(root).as_posix()}/" for path in ignoring if path.is_relative_to(root))
    whole = hashlib.sha256()
    for path in sorted(entries):
        if path == _MANIFEST or path.startswith(skipped):
            continue
        if path.endswith(".py"):
            _refuse_newer(root, path, since)
        whole.update(f"{path}\0{entries[path] or _content(root, root / path)}\0".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def distributions() -> tuple[list[str], set[Path]]:
    """The distributions of this interpreter, and the folders that it imports code from.

    A distribution counts by name and version; one that comes from no index by its list of files, too. An editable one
    is a folder, as is each entry of ``sys.path`` that is no library.
    """
    parts: list[str] = []
    folders: set[Path] = set()
    for entry in map(Path, dict.fromkeys(os.path.realpath(place) for place in sys.path)):
        if not entry.is_dir():
            continue
        if not is_library(str(entry)):
            folders.add(entry)
        for name in sorted(info.name for info in entry.iterdir()):
            if name.endswith((".dist-info", ".egg-info")):
                parts.append(name)
                parts += _unpublished(entry / name, folders)
    return parts, folders - {_OWN}


def is_library(path: str) -> bool:
    """Whether ``path`` belongs to an installed distribution or to Python itself.

    ``/venv/lib/python3.12/site-packages/httpx/_api.py`` does.
    """
    return "/site-packages" in path or "/dist-packages" in path or f"{path}/".startswith(_PYTHON)


def _git_entries(root: Path) -> dict[str, str]:
    """Path → mode and Git's id of the content: ``{"a.py": "100644:3f…", "new.py": ""}``.

    The id is "" for changed content, symlinks and submodules. Without a repository, no paths.
    """
    try:
        staged = git_process.start(root, "ls-files", "-z", "--stage", "--", ".")
        changed = git_process.run(
            root, "ls-files", "-z", "--modified", "--deleted", "--others", "--exclude-standard", "--", "."
        )
        listed = git_process.finish(staged, root)
    except KitaruSourceError:
        return {}
    entries = {}
    for line in filter(None, listed.decode("utf-8", "surrogateescape").split("\0")):
        facts, _, path = line.partition("\t")
        mode, blob, _ = facts.split(" ")
        entries[path] = "" if mode in (_LINK, _REPOSITORY) else f"{mode}:{blob}"
    entries.update({path: "" for path in changed.decode("utf-8", "surrogateescape").split("\0") if path})
    return entries


def _python_files(root: Path) -> Iterator[str]:
    count = 0
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".") and name != "__pycache__"]
        below[:] = [name for name in below if not is_library(f"{folder}/{name}")]
        count += len(names) + len(below)
        if count > MOST_FILES:
            raise InexactTree(f"{root} is no Git repository and holds more than {MOST_FILES:,} files")
        yield from (Path(folder, name).relative_to(root).as_posix() for name in names if name.endswith(".py"))


def _imported(root: Path) -> Iterator[str]:
    """Files below ``root`` that are imported, though Git may ignore them."""
    for module in list(sys.modules.values()):
        file = os.path.realpath(getattr(module, "__file__", None) or "/")
        if file.startswith(f"{root}/") and not is_library(file) and Path(file).is_file():
            yield Path(file).relative_to(root).as_posix()


def _refuse_newer(root: Path, path: str, since: float) -> None:
    try:
        facts = os.lstat(root / path)
    except FileNotFoundError:
        return
    if max(facts.st_mtime, facts.st_ctime) > since:
        raise InexactTree(f"{path} changed after this process began, which may have imported it before")


def _content(root: Path, path: Path) -> str:
    try:
        if path.is_symlink():
            if not Path(os.path.realpath(path)).is_relative_to(root):
                raise InexactTree(f"{path} is a link that leads out of {root}")
            return f"link:{path.readlink()}"
        if path.is_dir():
            raise InexactTree(f"{path} is a repository of its own")
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return "deleted"
    except OSError as error:
        raise InexactTree(f"{path} can't be read: {error.strerror}") from error


def _unpublished(info: Path, folders: set[Path]) -> Iterator[str]:
    """The facts that distinguish installations of one version that come from no index.

    None for one from an index; an editable one adds its folder to ``folders``.
    """
    try:
        origin = json.loads((info / "direct_url.json").read_bytes())
    except (OSError, ValueError):
        return
    if origin.get("dir_info", {}).get("editable"):
        folders.add(Path(os.path.realpath(origin["url"].removeprefix("file://"))))
        return
    yield json.dumps(origin, sort_keys=True)
    record = info / "RECORD"
    yield hashlib.sha256(record.read_bytes()).hexdigest() if record.is_file() else "no record"


# --- unpacked sources -------------------------------------------------------------------------------------------------

COPIES = 8


def ensure_source(cache: Path, sha: str, fetch: Callable[[], bytes]) -> Path:
    """A folder with the source tree of digest ``sha``, verified now; ``fetch`` gives the archive if there is none.

    A changed folder stays as it is (a run may use it), and another copy is made beside it. Raises
    ``KitaruIntegrityError`` and ``KitaruBackendError`` as ``bundle.unpack`` does.
    """
    # Until the process ends: it runs the source, or imports from it.
    hold(cache / sha)
    for name in (sha, *(f"{sha}.{number}" for number in range(1, COPIES)), f"{sha}.{secrets.token_hex(8)}"):
        folder = cache / name
        if not folder.exists():
            # zstandard, tarfile and pydantic: 130 ms, and needed once for each source on each machine.
            from kitaru.source.bundle import unpack

            unpack(fetch(), sha, folder)
        if holds_tree(folder, sha):
            break
    return folder


def holds_tree(folder: Path, sha: str) -> bool:
    """Whether ``folder`` holds exactly that tree: every path, mode and content."""
    try:
        return digest(canonical_json(sorted(_listing(str(folder), "")))) == sha
    except (OSError, UnicodeEncodeError):
        return False


def _listing(folder: str, prefix: str) -> Iterator[list[str]]:
    """Path, mode in octal and SHA-256 of every file, as in ``SourceTree.listing``."""
    with os.scandir(folder) as entries:
        for entry in entries:
            path = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _listing(entry.path, path + "/")
            elif entry.is_symlink():
                target = str(Path(entry.path).readlink())
                yield [path, "120000", hashlib.sha256(os.fsencode(target)).hexdigest()]
            else:
                mode = entry.stat(follow_symlinks=False).st_mode
                # Anything but a plain file gets a listing that no tree has; reading a pipe would not end.
                body = Path(entry.path).read_bytes() if stat.S_ISREG(mode) else b""
                kind = ("100755" if mode & stat.S_IXUSR else "100644") if stat.S_ISREG(mode) else "0"
                yield [path, kind, hashlib.sha256(body).hexdigest()]
