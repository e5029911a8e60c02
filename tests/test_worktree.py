"""The digest of a working tree and of the code installed beside it: what it sees, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kitaru.source.folders import InexactTree, codebase, distributions, worktree_digest
from kitaru.source.port import CodeBase

LATER = time.time() + 3600


@pytest.fixture(params=["git", "plain"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder of code, in a repository with one commit or without Git."""
    root = tmp_path / "tree"
    (root / "lib").mkdir(parents=True)
    (root / "flow.py").write_text("import lib.text\n")
    (root / "lib" / "text.py").write_text("LIMIT = 3\n")
    (root / "kitaru.yaml").write_text("kitaru: 1\n")
    if request.param == "git":
        (root / ".gitignore").write_text("ignored.py\n__pycache__/\n")
        for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "one"]):
            subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments], cwd=root, check=True)
    return root


def digest(root: Path) -> str:
    return worktree_digest(root, since=LATER)


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "lib" / "text.py").write_text("LIMIT = 4\n"),
        lambda root: (root / "new.py").write_text(""),
        lambda root: (root / "flow.py").unlink(),
        lambda root: (root / "flow.py").rename(root / "other.py"),
    ],
    ids=["changed", "added", "removed", "renamed"],
)
def test_every_change_of_code_is_another_digest(tree: Path, change: Callable[[Path], object]) -> None:
    """A change, a new file, a removed and a renamed one."""
    before = digest(tree)
    assert before == digest(tree)
    change(tree)
    assert digest(tree) != before


def test_the_manifest_and_the_stores_files_do_not_count(tree: Path) -> None:
    """Moving a route, or a run's own records, is no change of the code."""
    before = digest(tree)
    (tree / "kitaru.yaml").write_text("kitaru: 1\nproject: x\n")
    (tree / "store").mkdir()
    (tree / "store" / "entry.json").write_text("{}")
    assert worktree_digest(tree, since=LATER, ignoring=[tree / "store"]) == before


def test_a_data_file_of_git_counts(tmp_path: Path) -> None:
    """Prompts and tables are part of the source, committed or not."""
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "flow.py").write_text("")
    before = digest(tmp_path)
    (tmp_path / "prompt.txt").write_text("Say hello")
    assert digest(tmp_path) != before


def test_only_what_a_build_takes_counts(tree: Path) -> None:
    """A file that source.include or source.exclude leaves out changes no digest, and no code of it is covered."""

    def code() -> CodeBase:
        return codebase(tree, since=LATER, takes=lambda path: path.startswith("lib/"))

    before = code().parts["source"]
    (tree / "flow.py").write_text("import lib.text as text\n")
    assert code().parts["source"] == before
    (tree / "lib" / "text.py").write_text("LIMIT = 5\n")
    assert code().parts["source"] != before
    assert code().covers(str(tree / "lib" / "text.py"))
    assert not code().covers(str(tree / "flow.py"))


def test_a_file_that_changed_after_the_import_is_refused(tree: Path) -> None:
    """The process may run the code of before."""
    with pytest.raises(InexactTree, match=r"\.py changed after this process began"):
        worktree_digest(tree, since=time.time() - 3600)


def test_a_link_inside_counts_and_one_that_leads_out_is_refused(tree: Path) -> None:
    """What lies outside could change unseen."""
    (tree / "alias.py").symlink_to("flow.py")
    assert digest(tree)
    (tree / "out.py").symlink_to("/etc/hostname")
    with pytest.raises(InexactTree, match="leads out"):
        digest(tree)


def test_a_folder_that_is_no_source_tree_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder without Git is not read to its end."""
    monkeypatch.setattr("kitaru.source.folders.MOST_FILES", 3)
    for number in range(4):
        (tmp_path / f"{number}.py").touch()
    with pytest.raises(InexactTree, match="more than 3 files"):
        digest(tmp_path)


def installed(folder: Path, name: str, origin: object = None, record: str = "") -> None:
    info = folder / "site-packages" / f"{name}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "RECORD").write_text(record)
    if origin is not None:
        (info / "direct_url.json").write_text(json.dumps(origin))


def test_a_distribution_counts_by_version_and_one_from_no_index_by_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade, and another build of one version that was installed from a folder."""
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site-packages")])
    installed(tmp_path, "httpx-0.27.0")
    assert distributions() == (["httpx-0.27.0.dist-info"], set())
    installed(tmp_path, "own-1.0", {"url": "file:///src/own", "dir_info": {}}, "own.py,sha256=a,1")
    before, _ = distributions()
    installed(tmp_path, "own-1.0", {"url": "file:///src/own", "dir_info": {}}, "own.py,sha256=b,1")
    assert distributions()[0] != before


def test_an_editable_distribution_counts_by_its_working_tree(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code changes under one version."""
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site-packages")])
    installed(tmp_path, "lib-1.0", {"url": tree.as_uri(), "dir_info": {"editable": True}})
    (tmp_path / "root").mkdir()

    def source() -> str:
        return codebase(tmp_path / "root", since=LATER, source="s").parts["source"]

    before = source()
    (tree / "lib" / "text.py").write_text("LIMIT = 4\n")
    assert source() != before


def test_the_codebase_names_the_flaw_of_its_source(tree: Path) -> None:
    """Everything else still has its digest."""
    found = codebase(tree, since=0)
    assert "source" not in found.parts
    assert "changed after this process began" in found.flaws["source"]
    assert {"Python", "installed distributions", "requirements", "image.environment"} <= found.parts.keys()
    assert found.covers(str(tree / "flow.py"))
    assert not found.covers("<stdin>")
