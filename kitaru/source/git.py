"""A Git repository as a source: the commit, its tree, and the files that a flow selects from it."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kitaru.errors import KitaruSourceError, Problem
from kitaru.local_cache import read_entry, write_entry
from kitaru.model.address import canonical_json, digest
from kitaru.model.manifest import DEFAULT_BUDGET_MB, SourceSpec, is_branch
from kitaru.model.snapshot import Commit, SourceFile, SourceTree
from kitaru.source import git_process
from kitaru.source.port import Selection, SourceState
from kitaru.source.selection import (
    STATE_FOLDER,
    SYMLINK,
    Patterns,
    check_budget,
    check_links,
    choose,
    parse_selection,
    printable,
    selection_bytes,
    tree_digest,
)


def can_be_of(root: Path, sha: str, branch: str) -> bool:
    """Whether commit ``sha`` may be of ``branch``, local or of a remote; True if Git at ``root`` knows no such branch.

    A shallow clone can't tell and gives True, unless the commit comes after the branch.
    """
    patterns = (f"refs/heads/{branch}", f"refs/remotes/*/{branch}")
    listed = git_process.run(root, "for-each-ref", "--format=%(refname)", *patterns) if is_branch(branch) else b""
    refs = [name for name in listed.decode("utf-8", "replace").split() if name.endswith(f"/{branch}")]
    if not refs or any(_contains(root, ref, sha) for ref in refs):
        return True
    return _is_shallow(root) and not any(_contains(root, sha, ref) for ref in refs)


def _contains(root: Path, commit: str, ancestor: str) -> bool:
    return git_process.succeeds(root, "merge-base", "--is-ancestor", ancestor, commit)


def _is_shallow(root: Path) -> bool:
    return git_process.run(root, "rev-parse", "--is-shallow-repository").strip() == b"true"


@dataclass(frozen=True, slots=True)
class Upstream:
    """The root of a working tree, the addresses of its remotes, and the default branch of ``origin``."""

    root: Path
    urls: tuple[str, ...]
    branch: str


def upstream(folder: Path) -> Upstream:
    """The upstream of the repository around ``folder``; its branch is ``main`` if Git has not recorded it.

    Raises ``KitaruSourceError`` outside a repository.
    """
    from git import GitError, Repo

    try:
        repository = Repo(folder, search_parent_directories=True)
    except (GitError, OSError):
        git_process.explain("not a git repository", folder)
    if repository.working_tree_dir is None:
        git_process.refuse_bare(folder)
    with repository:
        urls = tuple(str(remote.config_reader.get_value("url", "")) for remote in repository.remotes)
        try:
            branch = repository.remotes.origin.refs.HEAD.reference.remote_head
        except (AttributeError, IndexError, TypeError, ValueError):
            branch = "main"
        return Upstream(Path(repository.working_tree_dir), urls, branch)


def commit_words(folder: Path, sha: str) -> dict[str, str] | None:
    """``author``, ``email``, ``date`` (RFC 3339) and ``subject`` of a commit; None if no repository here has it."""
    from git import GitError, Repo
    from git.exc import ODBError

    try:
        with Repo(folder, search_parent_directories=True) as repository:
            commit = repository.commit(sha)
            return {
                "author": str(commit.author.name),
                "email": str(commit.author.email),
                "date": commit.authored_datetime.isoformat(),
                "subject": str(commit.summary),
            }
    except (GitError, ODBError, OSError, ValueError):
        return None


def is_committed(root: Path, name: str, blob: str) -> bool:
    """Whether the file ``name`` of the folder ``root`` has the content of Git's ``blob`` ("": the commit has none).

    For bytes that differ, ``git`` runs, as they may be equal by its filters (line endings). For a symlink, both the
    link and its destination are compared.
    """
    path = root / name
    if path.is_symlink():
        return _is_object(os.fsencode(path.readlink()), blob) and _leads_to_committed(root, path)
    try:
        body = path.read_bytes()
    except FileNotFoundError:
        return not blob
    except OSError:
        return False
    return bool(blob) and (_is_object(body, blob) or _filtered(root, name) == blob)


def _leads_to_committed(root: Path, path: Path) -> bool:
    real = path.resolve()
    # Git takes ../ in such a path, and refuses one that leads out of the repository.
    place = Path(os.path.relpath(real, root.resolve())).as_posix()
    try:
        blob = git_process.run(root, "rev-parse", "--verify", "-q", f"HEAD:./{place}").decode().strip()
    except KitaruSourceError:
        return False
    return is_committed(real.parent, real.name, blob)


def _is_object(body: bytes, blob: str) -> bool:
    kind = hashlib.sha256 if len(blob) == 64 else hashlib.sha1
    return kind(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest() == blob


def _filtered(folder: Path, name: str) -> str:
    """Git's id of the file as a commit would hold it; empty if Git fails."""
    try:
        return git_process.run(folder, "hash-object", "--", name).decode().strip()
    except KitaruSourceError:
        return ""


MANIFEST = "kitaru.yaml"

_CACHE_FORMAT = 2
_FILTERS = ("filter", "ident", "eol", "working-tree-encoding")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LFS_MOST_BYTES = 1024
_SHOWN = 10
_STATUS = (
    *("status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all", "--no-renames"),
    *("--ignore-submodules=dirty", "--", ".", f":(exclude){STATE_FOLDER}"),
)
_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class _Place:
    """Git's answer about the folder. ``tree`` is empty if the commit has no file there.

    ``blob`` is the manifest's id in the commit, or empty; ``hidden`` its name if ``git status`` omits its change.
    """

    sha: str
    branch: str | None
    prefix: str
    index: Path
    tree: str
    changed: tuple[str, ...]
    blob: str = ""
    hidden: str = ""


class GitSource:
    """The source below ``root``, the manifest's folder, which may be any folder of a repository.

    ``cache`` is a folder for selections (None: no cache). ``manifest`` is the name of the manifest's file; no source
    tree holds it, so that a moved route makes no new version.
    """

    def __init__(self, root: Path, cache: Path | None = None, *, manifest: str = MANIFEST) -> None:
        self.root = root.absolute()
        self.cache = cache
        self._manifest = manifest
        self._own = frozenset({MANIFEST, manifest})

    def commit(self, *, allow_dirty: bool, ignoring: Sequence[Path] = ()) -> SourceState:
        """The commit, and the tree to build from; changes of the files of ``ignoring`` do not count.

        Raises ``KitaruSourceError`` if there is no commit, or if files below the folder are changed or untracked (not
        ignored). With ``allow_dirty`` such files are no error: the tree is the working tree. The manifest counts by
        its bytes, even if Git ignores it or its index skips it.
        """
        place = self._place()
        if self._manifest not in place.changed and not is_committed(self.root, self._manifest, place.blob):
            changed = tuple(sorted((*place.changed, self._manifest)))
            place = replace(place, changed=changed, hidden=self._manifest)
        if ignoring and place.changed:
            # As Git names them; a symlink is not followed.
            real, root = [path.parent.resolve() / path.name for path in ignoring], self.root.resolve()
            ignored = {Path(os.path.relpath(path, root)).as_posix() for path in real}
            place = replace(place, changed=tuple(path for path in place.changed if path not in ignored))
        if place.changed and not allow_dirty:
            raise _dirty(self.root, place)
        tree = self._working_tree(place) if place.changed else place.tree
        if not tree:
            raise KitaruSourceError(
                f"the commit holds no file of {self.root}",
                hint=f"git add {self.root} && git commit, then repeat the command",
            )
        commit = Commit(sha=place.sha, branch=place.branch, dirty=bool(place.changed))
        return SourceState(commit, tree, place.changed, place.prefix)

    def contains(self, commit: str, ancestor: str) -> bool | None:
        """Whether ``commit`` came after ``ancestor``, or is it; None if history is cut off, so that Git can't tell."""
        known = _ID.fullmatch(commit) and _ID.fullmatch(ancestor)
        if known and _contains(self.root, commit, ancestor):
            return True
        return None if _is_shallow(self.root) else False

    def digest_of(self, tree: str, spec: SourceSpec) -> str:
        """The digest of ``select(tree, spec)``, cached in one small file. Raises as ``select`` does."""
        known = read_entry(self._entry(tree, spec, "digest")) if self.cache is not None else None
        return known.decode() if known is not None else self.select(tree, spec).digest

    def select(self, tree: str, spec: SourceSpec) -> Selection:
        """The files that ``spec`` takes from Git's ``tree``, each with the SHA-256 of its content.

        Raises ``KitaruSourceError`` for an empty selection, one over its budget, a submodule, a symlink out of the
        tree, or a name that is not UTF-8.
        """
        if self.cache is not None:
            known = parse_selection(read_entry(self._entry(tree, spec, "json")))
            if known is not None:
                return known
        listed = git_process.run(self.root, "ls-tree", "-r", "-l", "-z", "--full-tree", tree)
        entries, warnings = choose(listed, spec, self._own)
        check_budget(entries, spec.max_size_mb or DEFAULT_BUDGET_MB)
        files: list[SourceFile] = []
        links: dict[str, str] = {}
        for entry, body in zip(entries, self._contents([entry.blob for entry in entries]), strict=True):
            files.append(
                SourceFile(path=entry.path, mode=entry.mode, size=len(body), sha256=hashlib.sha256(body).hexdigest())
            )
            if entry.mode == SYMLINK:
                links[entry.path] = body.decode("utf-8", "surrogateescape")
            elif len(body) < _LFS_MOST_BYTES and body.startswith(_LFS_POINTER):
                warnings.append(
                    Problem(
                        "is a Git LFS pointer: the snapshot holds the pointer, not the content",
                        file=entry.path,
                        hint="leave it out with source.exclude, and load the data when the flow runs",
                    )
                )
        warnings += check_links(links, {file.path for file in files})
        warnings += self._filtered([entry.path for entry in entries], listed)
        chosen = SourceTree(files=tuple(files))
        selection = Selection(chosen, tuple(entry.blob for entry in entries), tree_digest(chosen), tuple(warnings))
        if self.cache is not None:
            write_entry(self._entry(tree, spec, "json"), selection_bytes(selection))
            write_entry(self._entry(tree, spec, "digest"), selection.digest.encode())
        return selection

    def read(self, selection: Selection) -> Iterator[tuple[SourceFile, bytes]]:
        """Every file of ``selection`` with its content, in path order."""
        yield from zip(selection.tree.files, self._contents(selection.blobs), strict=True)

    def why_left_out(self, path: str, spec: SourceSpec) -> str:
        """The reason why a file below the folder is not selected by ``spec``: ``not committed``."""
        excluded = Patterns(spec.exclude or ()).first(path)
        if excluded is not None:
            return f"excluded by source.exclude {excluded!r}"
        if not Patterns(spec.include or ("**",)).match(path):
            return "not in source.include"
        if git_process.succeeds(self.root, "check-ignore", "-q", "--", path):
            return "ignored by Git"
        return "not committed"

    def _filtered(self, paths: list[str], listed: bytes) -> list[Problem]:
        """A warning for each Git filter that gives files other bytes in the working tree than in the snapshot."""
        if b".gitattributes\0" not in listed:
            return []
        body = "".join(f"{path}\0" for path in paths).encode("utf-8", "surrogateescape")
        answer = git_process.run(self.root, "check-attr", "-z", "--stdin", *_FILTERS, body=body)
        fields = answer.decode("utf-8", "surrogateescape").split("\0")
        affected: dict[str, list[str]] = {}
        for path, name, value in zip(fields[::3], fields[1::3], fields[2::3], strict=False):
            if value not in ("unspecified", "unset", "lf", "lfs"):
                affected.setdefault(name if value == "set" else f"{name}={value}", []).append(path)
        return [
            Problem(
                f"has {name} in .gitattributes{f' ({len(files) - 1} more files, too)' if files[1:] else ''}: "
                "the snapshot holds what Git stores, not what the working tree shows",
                file=files[0],
                hint="leave it out with source.exclude, or take the attribute away",
            )
            for name, files in affected.items()
        ]

    # --- the commit ---------------------------------------------------------------------------------------------------

    def _place(self) -> _Place:
        asked = ["--is-inside-work-tree", "--show-prefix", "--git-path", "index", "HEAD", "HEAD:./"]
        asked.append(f"HEAD:./{self._manifest}")
        for _ in range(3):
            # Both at once: together they cost as much as the slower one.
            names = git_process.start(self.root, "rev-parse", *asked)
            status = git_process.start(self.root, *_STATUS)
            answer, _ = names.communicate()
            report, complaint = status.communicate()
            lines = answer.decode("utf-8", "surrogateescape").split("\n")
            # Git prints a name that it can't find, and stops there.
            tree, blob = (line if _ID.fullmatch(line) else "" for line in (*lines[4:6], "", "")[:2])
            if not tree:
                self._refuse_placeless()
            if status.returncode != 0:
                git_process.explain(complaint.decode("utf-8", "replace"), self.root)
            if lines[0] != "true":
                git_process.refuse_bare(self.root)
            sha, branch, changed = _parse_status(report, lines[1].encode("utf-8", "surrogateescape"))
            if sha == lines[3]:
                return _Place(sha, branch, lines[1], self.root / lines[2], tree, changed, blob)
        raise KitaruSourceError("the repository gets new commits while it is being read", hint="repeat the command")

    def _refuse_placeless(self) -> None:
        """Raise if the folder can have no tree in HEAD; return if none of its files is committed yet."""
        if git_process.run(self.root, "rev-parse", "--is-inside-work-tree").strip() != b"true":
            git_process.refuse_bare(self.root)
        if not _has_commit(self.root):
            raise KitaruSourceError(
                f"the repository of {self.root} has no commit yet; a snapshot is made from a Git commit",
                hint="git add -A && git commit -m 'First commit'",
            )
        if git_process.succeeds(self.root, "check-ignore", "-q", "."):
            raise KitaruSourceError(
                f"Git ignores the folder {self.root}, so no commit can hold it",
                hint="git check-ignore -v . names the line of .gitignore to take out",
            )

    def _working_tree(self, place: _Place) -> str:
        """Git's id of the working tree below the folder, staged in an index of its own."""
        with tempfile.TemporaryDirectory(prefix="kitaru-index-") as folder:
            index = Path(folder) / "index"
            if place.index.exists():
                shutil.copyfile(place.index, index)
            env = {"GIT_INDEX_FILE": str(index)}
            # An untracked repository inside this one is listed with a slash at its end; staged, it is a submodule.
            # Without a commit it has nothing to stage.
            changed = [path for path in place.changed if not path.endswith("/") or _has_commit(self.root / path)]
            paths = b"".join(path.rstrip("/").encode("utf-8", "surrogateescape") + b"\0" for path in changed)
            arguments = ("update-index", "--add", "--remove", "--replace", "-z", "--stdin")
            git_process.run(self.root, *arguments, body=paths, env=env)
            if not git_process.run(self.root, "ls-files", "-z", "--", ".", env=env):
                return ""
            prefix = [f"--prefix={place.prefix}"] if place.prefix else []
            return git_process.run(self.root, "write-tree", *prefix, env=env).decode().strip()

    # --- the selection ------------------------------------------------------------------------------------------------

    def _contents(self, blobs: Sequence[str]) -> Iterator[bytes]:
        for blob, body in zip(blobs, git_process.contents(self.root, blobs), strict=True):
            if body is None:
                raise KitaruSourceError(
                    f"Git has no content for object {blob} of {self.root}",
                    hint="git fsck tells what is damaged; in a partial clone, git fetch --refetch brings it back",
                )
            yield body

    def _entry(self, tree: str, spec: SourceSpec, suffix: str) -> Path:
        assert self.cache is not None
        key = digest(canonical_json([_CACHE_FORMAT, tree, spec.data(), sorted(self._own)]))
        return self.cache / "source" / key[:2] / f"{key}.{suffix}"


def _has_commit(folder: Path) -> bool:
    return git_process.succeeds(folder, "rev-parse", "--verify", "-q", "HEAD^{commit}")


def _parse_status(report: bytes, prefix: bytes) -> tuple[str, str | None, tuple[str, ...]]:
    sha, branch = "", None
    changed: set[str] = set()
    for record in report.split(b"\0"):
        kind = record[:2]
        if kind == b"# ":
            _, name, value = record.split(b" ", 2)
            if name == b"branch.oid":
                sha = value.decode()
            elif name == b"branch.head" and value != b"(detached)":
                branch = value.decode("utf-8", "replace")
        elif kind in (b"1 ", b"u ", b"? "):
            path = record.split(b" ", {b"1 ": 8, b"u ": 10, b"? ": 1}[kind])[-1]
            changed.add(path.removeprefix(prefix).decode("utf-8", "surrogateescape"))
    return sha, branch, tuple(sorted(changed))


def _dirty(root: Path, place: _Place) -> KitaruSourceError:
    changed = place.changed
    hidden = place.hidden if place.hidden in changed else ""
    shown = "".join(f"\n  {printable(path)}" for path in changed[:_SHOWN])
    more = f"\n  and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    noun = "file is" if len(changed) == 1 else "files are"
    message = f"{len(changed)} {noun} changed or not committed below {root}:{shown}{more}"
    steps = "git add and git commit them"
    if hidden and place.blob:
        message += f"\n{hidden} is not as the commit has it, though Git was told not to look at it"
        steps = f"git update-index --no-assume-unchanged --no-skip-worktree {shlex.quote(hidden)}, then {steps}"
    elif hidden:
        message += f"\n{hidden} is in no commit, since Git ignores it"
        steps = f"git add --force {shlex.quote(hidden)} and git commit"
    hint = f"{steps}, or repeat with --allow-dirty to take the working tree as it is"
    return KitaruSourceError(message, hint=hint)
