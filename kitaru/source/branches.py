"""Whether a commit that was checked out without a branch is of the one that a pipeline's variables name."""

from __future__ import annotations

from pathlib import Path

from kitaru.model.branch import is_branch
from kitaru.source import git_process


def can_be_of(root: Path, sha: str, branch: str) -> bool:
    """Whether Git, at ``root``, has nothing against commit ``sha`` being of ``branch``, here or of any remote.

    So it has where it knows the branch, and no such branch contains the commit. Where history is cut off before a
    branch comes to the commit nothing can be told: a shallow clone of a branch that has moved on meanwhile is what
    pipelines work in. A commit that comes after such a branch is not of it.
    """
    refs = _refs(root, branch) if is_branch(branch) else []
    if not refs or any(_contains(root, ref, sha) for ref in refs):
        return True
    cut = _cut_off(root)
    return bool(cut) and any(_reaches(root, ref, cut) and not _contains(root, sha, ref) for ref in refs)


def _refs(root: Path, branch: str) -> list[str]:
    patterns = (f"refs/heads/{branch}", f"refs/remotes/*/{branch}")
    listed = git_process.run(root, "for-each-ref", "--format=%(refname)", *patterns)
    return [name for name in listed.decode("utf-8", "replace").split() if name.endswith(f"/{branch}")]


def _contains(root: Path, commit: str, ancestor: str) -> bool:
    return git_process.succeeds(root, "merge-base", "--is-ancestor", ancestor, commit)


def _cut_off(root: Path) -> frozenset[str]:
    """The commits of a shallow clone whose parents are not here; none in a whole one."""
    if git_process.run(root, "rev-parse", "--is-shallow-repository").strip() != b"true":
        return frozenset()
    place = git_process.run(root, "rev-parse", "--git-path", "shallow").decode("utf-8", "surrogateescape").rstrip("\n")
    try:
        return frozenset((root / place).read_text("ascii").split())
    except (OSError, ValueError):
        return frozenset()


def _reaches(root: Path, ref: str, commits: frozenset[str]) -> bool:
    """Whether the history of ``ref`` ends at one of the commits."""
    ends = git_process.run(root, "rev-list", "--max-parents=0", ref).decode("ascii", "replace")
    return not commits.isdisjoint(ends.split())
