"""A manifest counts by its bytes: what Git ignores, or was told not to look at, moves no protected route."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kitaru.errors import KitaruSourceError
from kitaru.source import git_process
from kitaru.source.git import GitSource, is_committed
from tests.applying import new_version, routed, routes_of
from tests.repository import MANIFEST, Repository, git, kitaru

PROTECTED = routed("{default: 1}", "protect: {default: {branch: main}}\n")


@pytest.fixture
def protected(repository: Repository) -> Repository:
    """Two versions; ``default`` leads to the first, and is protected."""
    repository.manifest(PROTECTED)
    repository.commit()
    repository.apply()
    new_version(repository, "two")
    repository.apply()
    assert routes_of(repository) == {"default": (1,)}
    return repository


def assume_unchanged(repository: Repository) -> None:
    git(repository.folder, "update-index", "--assume-unchanged", "kitaru.yaml")


def skip_worktree(repository: Repository) -> None:
    git(repository.folder, "update-index", "--skip-worktree", "kitaru.yaml")


def ignore(repository: Repository) -> None:
    git(repository.folder, "rm", "-q", "--cached", "kitaru.yaml")
    repository.write(".gitignore", ".kitaru/\n__pycache__/\nkitaru.yaml\n")
    repository.commit()


@pytest.mark.parametrize(
    ("hide", "hint"),
    [
        (assume_unchanged, "git update-index --no-assume-unchanged --no-skip-worktree kitaru.yaml"),
        (skip_worktree, "git update-index --no-assume-unchanged --no-skip-worktree kitaru.yaml"),
        (ignore, "git add --force kitaru.yaml"),
    ],
)
def test_a_manifest_in_no_commit_moves_no_protected_route(
    protected: Repository, hide: Callable[[Repository], None], hint: str
) -> None:
    """git status is silent; the apply is refused with the way out, and recorded as dirty where that is allowed."""
    hide(protected)
    protected.change("kitaru.yaml", "default: 1", "default: 2")
    assert git(protected.folder, "status", "--porcelain") == ""
    for words in (("plan",), ("apply", "--yes")):
        kitaru(*words, cwd=protected.folder).refused("1 file is changed or not committed", "kitaru.yaml", hint)
    said = kitaru("apply", "--yes", "--allow-dirty", cwd=protected.folder).refused(code=1)
    assert "route default moves only from a clean commit" in said.err
    assert routes_of(protected) == {"default": (1,)}
    assert protected.plan(allow_dirty=True).commit.dirty


def test_verbs_of_the_moment_need_no_committed_manifest(repository: Repository) -> None:
    """A flow is deployed and tagged beside a manifest that Git ignores."""
    ignore(repository)
    kitaru("deploy", "agent", cwd=repository.folder).must()
    kitaru("flow", "tag", "agent", "stable", "--version", "1", cwd=repository.folder).must()
    kitaru("validate", cwd=repository.folder).must()
    assert routes_of(repository) == {"default": (1,), "stable": (1,)}


def test_a_clean_manifest_costs_no_further_git(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """rev-parse and status, as ever; one hash-object more where only line endings differ."""
    started: list[str] = []
    start = git_process.start

    def noted(folder: Path, *arguments: str, **given: object) -> object:
        started.append(arguments[0])
        return start(folder, *arguments, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(git_process, "start", noted)
    source = GitSource(repository.folder)
    assert source.commit(allow_dirty=False).changed == ()
    assert sorted(started) == ["rev-parse", "status"]
    git(repository.folder, "config", "core.autocrlf", "true")
    (repository.folder / "kitaru.yaml").unlink()
    git(repository.folder, "checkout", "--", "kitaru.yaml")
    assert b"\r\n" in (repository.folder / "kitaru.yaml").read_bytes()
    started.clear()
    assert source.commit(allow_dirty=False).changed == ()
    assert sorted(started) == ["hash-object", "rev-parse", "status"]


def test_line_endings_do_not_hide_a_change(repository: Repository) -> None:
    """Beside CRLF that Git converts, another word is a change all the same."""
    git(repository.folder, "config", "core.autocrlf", "true")
    assume_unchanged(repository)
    text = MANIFEST.replace("default: head", "default: 1").replace("\n", "\r\n")
    (repository.folder / "kitaru.yaml").write_bytes(text.encode())
    with pytest.raises(KitaruSourceError, match="told not to look at it"):
        GitSource(repository.folder).commit(allow_dirty=False)


def test_a_manifest_behind_a_link_counts_by_what_it_leads_to(repository: Repository) -> None:
    """Committed there it is clean; changed behind Git's back, or outside of the repository, it is not."""
    (repository.folder / "kitaru.yaml").unlink()
    repository.write("config/one.yaml", MANIFEST)
    (repository.folder / "kitaru.yaml").symlink_to("config/one.yaml")
    repository.commit()
    source = GitSource(repository.folder)
    assert source.commit(allow_dirty=False).changed == ()
    git(repository.folder, "update-index", "--assume-unchanged", "config/one.yaml")
    repository.write("config/one.yaml", MANIFEST + "# more\n")
    assert source.commit(allow_dirty=True).changed == ("kitaru.yaml",)
    outside = repository.folder.parent / "outside.yaml"
    outside.write_text(MANIFEST)
    (repository.folder / "kitaru.yaml").unlink()
    (repository.folder / "kitaru.yaml").symlink_to(outside)
    repository.commit()
    assert source.commit(allow_dirty=True).changed == ("kitaru.yaml",)


def test_a_repository_of_sha256(own_world: Path) -> None:
    """Git's longer ids are told apart by their length."""
    folder = own_world / "long"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main", "--object-format=sha256")
    (folder / "kitaru.yaml").write_text(MANIFEST)
    blob = git(folder, "hash-object", "kitaru.yaml")
    assert len(blob) == 64
    assert is_committed(folder, "kitaru.yaml", blob)
    (folder / "kitaru.yaml").write_text(MANIFEST + "\n")
    assert not is_committed(folder, "kitaru.yaml", blob)
    assert not is_committed(folder, "kitaru.yaml", "")
    assert is_committed(folder, "none.yaml", "")


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_a_source_that_git_does_not_look_at_is_that_of_the_commit(repository: Repository, flag: str) -> None:
    """What such a file holds in the working tree is in no snapshot, beside other changes neither."""
    path = "flows/work.py"
    git(repository.folder, "update-index", flag, path)
    committed = repository.plan().flows[0].build
    repository.write(path, (repository.folder / path).read_text() + "# in no commit\n")
    now = repository.plan().flows[0].build
    assert committed is not None
    assert now is not None
    assert now.snapshot.source == committed.snapshot.source
    repository.write("notes.txt", "new")
    source = GitSource(repository.folder)
    facts = source.commit(allow_dirty=True)
    listed = git(repository.folder, "ls-tree", "-r", facts.tree)
    assert git(repository.folder, "rev-parse", f"HEAD:{path}") in listed
