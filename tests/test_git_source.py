"""From a commit to a source tree, against real repositories."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from kitaru.errors import KitaruSourceError
from kitaru.model.manifest import SourceSpec
from kitaru.settings import actor
from kitaru.source.git import GitSource, commit_words, upstream
from kitaru.source.selection import Patterns

ALL = SourceSpec(include=("**",), exclude=(), max_size_mb=50)


def git(folder: Path, *arguments: str, check: bool = True, **env: str) -> str:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false"]
    safe = ["-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", *who, *safe, *arguments], cwd=folder, env={**clean, **env}, capture_output=True, text=True
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.strip()


def write(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, body in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body if isinstance(body, bytes) else body.encode())


def repository(folder: Path, files: dict[str, str | bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q")
    write(folder, files)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def commit(folder: Path, files: dict[str, str | bytes] | None = None) -> None:
    write(folder, files or {})
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "more")


def paths(source: GitSource, spec: SourceSpec = ALL, *, allow_dirty: bool = False) -> list[str]:
    facts = source.commit(allow_dirty=allow_dirty)
    return [file.path for file in source.select(facts.tree, spec).tree.files]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return repository(tmp_path / "repo", {"kitaru.yaml": "kitaru: 1\n", "flows/a.py": "A = 1\n", "lib/b.py": "B = 2\n"})


# --- the commit -------------------------------------------------------------------------------------------------------


def test_a_clean_commit_is_named_with_its_branch(repo: Path) -> None:
    """A clean working tree gives the commit, its branch, and Git's own tree."""
    facts = GitSource(repo).commit(allow_dirty=False)
    assert facts.commit.sha == git(repo, "rev-parse", "HEAD")
    assert facts.commit.branch == "main"
    assert not facts.commit.dirty
    assert facts.tree == git(repo, "rev-parse", "HEAD^{tree}")
    assert facts.changed == ()


def test_a_detached_head_has_no_branch(repo: Path) -> None:
    """CI checks out a commit, not a branch; that is no error."""
    git(repo, "checkout", "-q", "--detach")
    assert GitSource(repo).commit(allow_dirty=False).commit.branch is None


def test_a_shallow_clone_is_a_repository_like_any_other(repo: Path, tmp_path: Path) -> None:
    """What CI has is a clone of depth one."""
    commit(repo, {"flows/c.py": "C = 3\n"})
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{repo}", "shallow")
    assert paths(GitSource(tmp_path / "shallow")) == ["flows/a.py", "flows/c.py", "lib/b.py"]


def test_a_worktree_is_a_repository_like_any_other(repo: Path, tmp_path: Path) -> None:
    """In ``git worktree`` the .git is a file; a dirty tree works there as well."""
    git(repo, "worktree", "add", "-q", "-b", "other", str(tmp_path / "other"))
    source = GitSource(tmp_path / "other")
    assert source.commit(allow_dirty=False).commit.branch == "other"
    write(tmp_path / "other", {"flows/c.py": "C = 3\n"})
    assert "flows/c.py" in paths(source, allow_dirty=True)


def test_changed_and_untracked_files_are_refused_by_name(repo: Path) -> None:
    """A dirty tree is no source by default: the error lists the first ten files and counts the rest."""
    write(repo, {"flows/a.py": "A = 2\n", **{f"new/{number:02}.py": "" for number in range(12)}})
    with pytest.raises(KitaruSourceError) as caught:
        GitSource(repo).commit(allow_dirty=False)
    message = caught.value.message
    assert "13 files are changed" in message
    assert "\n  flows/a.py" in message and "\n  new/08.py" in message and "new/09.py" not in message
    assert "and 3 more" in message
    assert "--allow-dirty" in caught.value.hint


@pytest.mark.parametrize(
    "change",
    [
        lambda repo: (repo / "flows/a.py").unlink(),
        lambda repo: (repo / "flows/a.py").chmod(0o755),
        lambda repo: git(repo, "rm", "-q", "--cached", "flows/a.py"),
        lambda repo: git(repo, "mv", "flows/a.py", "flows/z.py"),
        lambda repo: (repo / "kitaru.yaml").write_text("kitaru: 1\nproject: x\n"),
        lambda repo: (repo / "naïve name\n.py").write_text(""),
    ],
)
def test_every_kind_of_change_is_dirty(repo: Path, change: object) -> None:
    """Deleted, made executable, untracked by the index, moved, the manifest itself, odd names: all count."""
    change(repo)  # type: ignore[operator]
    with pytest.raises(KitaruSourceError):
        GitSource(repo).commit(allow_dirty=False)
    assert GitSource(repo).commit(allow_dirty=True).commit.dirty


def test_ignored_files_and_the_state_folder_are_not_dirt(repo: Path) -> None:
    """What Git ignores, and ``.kitaru`` even where nobody ignores it, neither blocks nor enters a snapshot."""
    commit(repo, {".gitignore": "*.log\n"})
    write(repo, {"x.log": "noise", ".kitaru/store/kitaru.lock": "{}"})
    assert "x.log" not in paths(GitSource(repo))
    write(repo, {"flows/a.py": "A = 9\n"})
    dirty = GitSource(repo).commit(allow_dirty=True)
    assert dirty.changed == ("flows/a.py",)
    assert ".kitaru" not in git(repo, "ls-tree", "--name-only", dirty.tree)


def test_a_dirty_tree_is_the_working_tree_and_the_index_stays_as_it_was(repo: Path) -> None:
    """With allow_dirty the tree holds edits, new files and deletions; nothing of the user's is staged or unstaged."""
    write(repo, {"flows/a.py": "A = 2\n", "flows/new.py": "N = 1\n", "staged.py": "S = 1\n"})
    git(repo, "add", "staged.py")
    (repo / "lib/b.py").unlink()
    index, status = (repo / ".git/index").read_bytes(), git(repo, "status", "--porcelain")
    source = GitSource(repo)
    facts = source.commit(allow_dirty=True)
    assert facts.commit.dirty
    assert facts.changed == ("flows/a.py", "flows/new.py", "lib/b.py", "staged.py")
    assert {file.path: body for file, body in source.read(source.select(facts.tree, ALL))} == {
        "flows/a.py": b"A = 2\n",
        "flows/new.py": b"N = 1\n",
        "staged.py": b"S = 1\n",
    }
    assert (repo / ".git/index").read_bytes() == index
    assert git(repo, "status", "--porcelain") == status


def test_committing_a_dirty_tree_makes_the_same_source(repo: Path) -> None:
    """Trying with --allow-dirty and committing afterwards names one and the same source."""
    write(repo, {"flows/a.py": "A = 2\n", "tool": "#!/bin/sh\n"})
    (repo / "tool").chmod(0o755)
    source = GitSource(repo)
    before = source.digest_of(source.commit(allow_dirty=True).tree, ALL)
    commit(repo)
    assert source.digest_of(source.commit(allow_dirty=False).tree, ALL) == before


def test_a_file_that_became_a_folder_is_taken_as_it_is(repo: Path) -> None:
    """The working tree wins where a name changed its kind."""
    (repo / "lib/b.py").unlink()
    write(repo, {"lib/b.py/inner.py": ""})
    assert paths(GitSource(repo), allow_dirty=True) == ["flows/a.py", "lib/b.py/inner.py"]


def test_in_a_monorepo_only_the_manifests_folder_counts(tmp_path: Path) -> None:
    """Paths are relative to the manifest's folder; dirt elsewhere is somebody else's, and so is a commit elsewhere."""
    repo = repository(
        tmp_path / "mono", {"svc/kitaru.yaml": "", "svc/flows/a.py": "A\n", "svc2/x.py": "", "top.py": ""}
    )
    write(repo, {"top.py": "changed", "svc2/new.py": ""})
    source = GitSource(repo / "svc")
    facts = source.commit(allow_dirty=False)
    assert paths(source) == ["flows/a.py"]
    commit(repo)
    assert source.commit(allow_dirty=False).tree == facts.tree
    write(repo, {"svc/flows/b.py": "B\n", "top.py": "again"})
    dirty = source.commit(allow_dirty=True)
    assert dirty.changed == ("flows/b.py",)
    assert paths(source, allow_dirty=True) == ["flows/a.py", "flows/b.py"]


def test_git_variables_of_a_hook_do_not_mislead(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside a hook GIT_DIR and GIT_INDEX_FILE name another repository: the folder that was asked for wins."""
    other = repository(tmp_path / "other", {"other.py": ""})
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "no-index"))
    monkeypatch.setenv("GIT_PREFIX", "x/")
    monkeypatch.setenv("GIT_LITERAL_PATHSPECS", "1")
    assert paths(GitSource(repo)) == ["flows/a.py", "lib/b.py"]


def test_the_users_configuration_does_not_hide_dirt(repo: Path) -> None:
    """Settings that make ``git status`` shorter for people change nothing here."""
    for name, value in [("status.showUntrackedFiles", "no"), ("status.relativePaths", "true"), ("color.ui", "always")]:
        git(repo, "config", name, value)
    write(repo, {"flows/new.py": ""})
    assert GitSource(repo / "flows").commit(allow_dirty=True).changed == ("new.py",)


# --- what is refused --------------------------------------------------------------------------------------------------


def refusal(root: Path, *, allow_dirty: bool = False) -> KitaruSourceError:
    with pytest.raises(KitaruSourceError) as caught:
        paths(GitSource(root), allow_dirty=allow_dirty)
    return caught.value


def test_no_repository_says_git_init(tmp_path: Path) -> None:
    """Outside a repository the hint is the command that makes one."""
    error = refusal(tmp_path)
    assert "not in a Git repository" in error.message and "git init" in error.hint


def test_a_repository_without_a_commit_says_git_commit(tmp_path: Path) -> None:
    """An empty repository is refused, --allow-dirty or not: there is no commit to record."""
    git(tmp_path, "init", "-q")
    write(tmp_path, {"a.py": ""})
    for allow_dirty in (False, True):
        error = refusal(tmp_path, allow_dirty=allow_dirty)
        assert "no commit yet" in error.message and "git commit" in error.hint


def test_a_bare_repository_is_refused(repo: Path, tmp_path: Path) -> None:
    """There are no files to import in a bare repository, nor inside .git."""
    git(tmp_path, "clone", "-q", "--bare", str(repo), "bare.git")
    assert "bare repository" in refusal(tmp_path / "bare.git").message
    assert "bare repository" in refusal(repo / ".git").message


def test_an_ignored_folder_is_named_as_such(repo: Path) -> None:
    """A manifest in an ignored folder can never be committed, and the error says why."""
    commit(repo, {".gitignore": "build/\n"})
    write(repo, {"build/app/a.py": ""})
    error = refusal(repo / "build/app")
    assert "ignores the folder" in error.message and "check-ignore" in error.hint


def test_a_folder_with_nothing_committed_is_dirty_or_empty(repo: Path) -> None:
    """A new folder is refused as dirty, taken with --allow-dirty, and refused where it holds nothing."""
    write(repo, {"svc/a.py": ""})
    assert "a.py" in refusal(repo / "svc").message
    assert paths(GitSource(repo / "svc"), allow_dirty=True) == ["a.py"]
    (repo / "void").mkdir()
    assert "holds no file" in refusal(repo / "void").message


def test_somebody_elses_repository_names_safe_directory(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git's ownership check, met in containers, comes with the command that settles it."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    error = refusal(repo)
    assert "belong to another user" in error.message
    assert error.hint.endswith(f"safe.directory {repo}")


def test_without_git_the_error_says_to_install_it(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No git on the PATH is a sentence, not a traceback."""
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    error = refusal(repo)
    assert "git was not found" in error.message and "install git" in error.hint


def test_a_merge_with_conflicts_does_not_become_a_snapshot(repo: Path) -> None:
    """A file in conflict is dirty; with --allow-dirty its text, markers and all, is what is taken."""
    git(repo, "checkout", "-q", "-b", "side")
    commit(repo, {"flows/a.py": "A = 'side'\n"})
    git(repo, "checkout", "-q", "main")
    commit(repo, {"flows/a.py": "A = 'main'\n"})
    git(repo, "merge", "-q", "side", check=False)
    assert "flows/a.py" in refusal(repo).message
    assert paths(GitSource(repo), allow_dirty=True) == ["flows/a.py", "lib/b.py"]


def test_a_submodule_is_named_and_can_be_excluded(repo: Path, tmp_path: Path) -> None:
    """A submodule's files are not in the repository: it is refused by name unless left out."""
    other = repository(tmp_path / "other", {"x.py": ""})
    git(repo, "submodule", "add", "-q", str(other), "vendor/other")
    git(repo, "commit", "-q", "-m", "submodule")
    error = refusal(repo)
    assert "vendor/other is a submodule" in error.message and "source.exclude" in error.hint
    assert "flows/a.py" in paths(GitSource(repo), SourceSpec(include=("**",), exclude=("/vendor/other",)))


def test_an_untracked_repository_inside_is_not_silently_left_out(repo: Path) -> None:
    """A repository cloned into this one is dirt, and with --allow-dirty it is refused as a submodule."""
    repository(repo / "inner", {"x.py": ""})
    assert "inner/" in refusal(repo).message
    assert "inner is a submodule" in refusal(repo, allow_dirty=True).message


@pytest.mark.parametrize(("target", "why"), [("/etc/passwd", "absolute"), ("../../secret", "out of the tree")])
def test_a_symlink_that_leads_out_is_refused(repo: Path, target: str, why: str) -> None:
    """A link out of the folder would mean something else on another machine."""
    (repo / "flows/link").symlink_to(target)
    commit(repo)
    error = refusal(repo)
    assert "flows/link" in error.message and target in error.message and why in error.message


def test_a_symlink_inside_is_kept_as_one(repo: Path) -> None:
    """A relative link to a file of the tree is a file of mode 120000 whose content is its target."""
    (repo / "flows/link.py").symlink_to("../lib/b.py")
    commit(repo)
    source = GitSource(repo)
    selection = source.select(source.commit(allow_dirty=False).tree, ALL)
    link = next(file for file in selection.tree.files if file.path == "flows/link.py")
    assert (link.mode, link.size) == (0o120000, len("../lib/b.py"))


def test_a_name_that_is_not_utf8_is_refused(repo: Path) -> None:
    """Such a name can't be written down in JSON."""
    path = os.fsencode(repo / "flows") + b"/caf\xe9.py"
    try:
        with open(path, "w"):
            pass
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    commit(repo)
    assert "not UTF-8" in refusal(repo).message


def test_over_budget_names_the_largest_files(repo: Path) -> None:
    """A source over its budget is refused with its total and the five largest files."""
    commit(repo, {f"data/{number}.bin": os.urandom(300_000 + number) for number in range(7)})
    source = GitSource(repo)
    tree = source.commit(allow_dirty=False).tree
    with pytest.raises(KitaruSourceError) as caught:
        source.select(tree, SourceSpec(include=("**",), exclude=(), max_size_mb=1))
    assert "2.1 MB" in caught.value.message and "budget of 1 MB" in caught.value.message
    assert [f"data/{number}.bin" in caught.value.message for number in range(7)] == [False] * 2 + [True] * 5
    assert "source.exclude" in caught.value.hint and "source.max_size_mb" in caught.value.hint


def test_an_empty_selection_names_the_patterns(repo: Path) -> None:
    """A selection with no file is an error that shows what was asked for."""
    source = GitSource(repo)
    tree = source.commit(allow_dirty=False).tree
    with pytest.raises(KitaruSourceError, match=r"include takes none .*'nowhere/\*\*'"):
        source.select(tree, SourceSpec(include=("nowhere/**",)))
    with pytest.raises(KitaruSourceError, match=r"exclude leaves out all 2 .*'\*\*'"):
        source.select(tree, SourceSpec(exclude=("**",)))


# --- the selection ----------------------------------------------------------------------------------------------------


def test_the_manifest_and_the_state_folder_are_in_no_source(repo: Path) -> None:
    """Moving a route in the manifest, under whatever name, must not make a new version."""
    commit(repo, {"prod.yaml": "", ".kitaru/note": "committed by mistake", "sub/kitaru.yaml": "another project"})
    assert paths(GitSource(repo, manifest="prod.yaml")) == ["flows/a.py", "lib/b.py", "sub/kitaru.yaml"]


def test_files_carry_the_hash_of_their_content(repo: Path) -> None:
    """Every file's SHA-256 and size are those of what ``read`` gives, in path order."""
    commit(repo, {"big.bin": os.urandom(200_000), "empty.py": "", "a-b.py": "x", "a/b.py": "y", "a.py": "z"})
    source = GitSource(repo)
    selection = source.select(source.commit(allow_dirty=False).tree, ALL)
    pairs = list(source.read(selection))
    assert [file.path for file, _ in pairs] == sorted(file.path for file, _ in pairs)
    for file, body in pairs:
        assert (file.sha256, file.size) == (hashlib.sha256(body).hexdigest(), len(body))
        assert body == (repo / file.path).read_bytes()


def test_a_lookup_again_is_the_same_and_needs_no_git(repo: Path, tmp_path: Path) -> None:
    """A second look at the same tree comes from the cache, even where the repository is gone."""
    commit(repo, {"model.bin": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"})
    source = GitSource(repo, tmp_path / "cache")
    tree = source.commit(allow_dirty=False).tree
    first = source.select(tree, ALL)
    shutil.rmtree(repo / ".git")
    assert source.select(tree, ALL) == first
    assert source.digest_of(tree, ALL) == first.digest
    with pytest.raises(KitaruSourceError):
        source.select(tree, SourceSpec(exclude=("lib",)))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(damage=st.binary(max_size=80), cut=st.integers(0, 200))
def test_a_damaged_cache_is_a_miss(repo: Path, tmp_path: Path, damage: bytes, cut: int) -> None:
    """Whatever is in the cache's files, the answer is the right one."""
    source = GitSource(repo, tmp_path / "cache")
    tree = source.commit(allow_dirty=False).tree
    right = GitSource(repo).select(tree, ALL)
    source.select(tree, ALL)
    for path in (tmp_path / "cache").rglob("*.*"):
        body = path.read_bytes()
        path.write_bytes(body[:cut] + damage + body[cut + len(damage) :])
    assert source.digest_of(tree, ALL) == right.digest
    assert source.select(tree, ALL) == right


def test_a_cache_that_cannot_be_written_costs_time_only(repo: Path, tmp_path: Path) -> None:
    """A file where the cache's folder should be is no error."""
    (tmp_path / "cache").write_text("")
    source = GitSource(repo, tmp_path / "cache")
    assert paths(source) == ["flows/a.py", "lib/b.py"]


def test_lfs_pointers_and_idle_patterns_are_warned_of(repo: Path) -> None:
    """A pointer in place of content, and an include pattern that takes nothing, are told and not refused."""
    commit(repo, {"model.bin": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"})
    source = GitSource(repo)
    selection = source.select(source.commit(allow_dirty=False).tree, SourceSpec(include=("**", "typo/**")))
    assert [str(warning) for warning in selection.warnings] == [
        "source.include 'typo/**' takes no committed file",
        "model.bin: is a Git LFS pointer: the snapshot holds the pointer, not the content",
    ]


def test_why_a_file_was_left_out(repo: Path) -> None:
    """Excluded, not included, ignored, not committed: people are told which."""
    commit(repo, {".gitignore": "secret.py\n"})
    source = GitSource(repo)
    spec = SourceSpec(include=("flows/**", "*.py"), exclude=("lib/**",))
    assert source.why_left_out("lib/b.py", spec) == "excluded by source.exclude 'lib/**'"
    assert source.why_left_out("data/x.csv", spec) == "not in source.include"
    assert source.why_left_out("flows/secret.py", spec) == "ignored by Git"
    assert source.why_left_out("flows/new.py", spec) == "not committed"


# --- the patterns -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "taken", "left"),
    [
        ("lib", ["lib", "lib/a.py", "x/lib/a.py"], ["library/a.py", "a.lib"]),
        ("/lib", ["lib/a.py"], ["x/lib/a.py"]),
        ("./lib", ["lib/a.py"], ["x/lib/a.py"]),
        ("lib/", ["lib/a.py", "x/lib/a.py"], ["lib"]),
        ("*.ipynb", ["a.ipynb", "x/y/a.ipynb"], ["a.ipynb.txt"]),
        ("**/*.ipynb", ["a.ipynb", "x/y/a.ipynb"], ["a.py"]),
        ("flows/**", ["flows/a", "flows/x/a"], ["flows", "x/flows/a"]),
        ("flows/*.py", ["flows/a.py"], ["flows/x/a.py"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b/c"], ["a/xb", "ab"]),
        ("v?.[a-c]", ["v1.a", "x/v2.c"], ["v10.a", "v1.d", "v/.a"]),
        ("[!a]x", ["bx"], ["ax", "y/ax"]),
        (r"\*.py", ["*.py"], ["a.py"]),
        ("**", ["a", "x/y"], []),
    ],
)
def test_what_a_pattern_takes(pattern: str, taken: list[str], left: list[str]) -> None:
    """The rules of the module's docstring, one row each."""
    globs = Patterns([pattern])
    assert [path for path in taken if not globs.match(path)] == []
    assert [path for path in left if globs.match(path)] == []


@pytest.mark.parametrize("pattern", ["", "/", "!a", "a//b", "../a", "a/../b", "[a", "[[:alpha:]]", "[b-a]", "a\\"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    """A pattern that would silently take nothing is an error that shows it."""
    with pytest.raises(KitaruSourceError):
        Patterns([pattern])


NAMES = st.text("ab.-]", min_size=1, max_size=3).filter(lambda name: name not in (".", "..", ".git"))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
PATTERNS = st.text(r"ab.*?/[]!-\\", min_size=1, max_size=10) | st.lists(
    st.sampled_from(["**", "*", "a", "b*", "?", "[ab]", "[!a]", "*.b"]), min_size=1, max_size=4
).map("/".join)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("oracle")
    git(folder, "init", "-q")
    return folder


@settings(max_examples=150, deadline=None)
@given(pattern=PATTERNS, tried=st.lists(PATHS, min_size=1, max_size=30, unique=True))
def test_patterns_mean_what_git_means(oracle: Path, pattern: str, tried: list[str]) -> None:
    """For any pattern that is accepted, the files it takes are those that a .gitignore with that line ignores."""
    try:
        globs = Patterns([pattern])
    except KitaruSourceError:
        return
    assume(not pattern.startswith("./"))
    (oracle / ".git/info/exclude").write_text(f"{pattern}\n")
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", "-z", "--stdin"],
        cwd=oracle,
        input="".join(f"{path}\0" for path in tried).encode(),
        capture_output=True,
    )
    expected = set(done.stdout.decode().split("\0")) - {""}
    assert {path for path in tried if globs.match(path)} == expected


# --- the repository's upstream and its commits ------------------------------------------------------------------------


def test_the_upstream_of_a_repository(repo: Path, tmp_path: Path) -> None:
    """Its root, also from a subfolder, each remote's address, and the default branch if Git has recorded it."""
    assert upstream(repo / "flows") == upstream(repo)
    assert (upstream(repo).urls, upstream(repo).branch) == ((), "main")
    git(repo, "remote", "add", "origin", "https://example.org/acme/flows.git")
    git(repo, "update-ref", "refs/remotes/origin/trunk", "HEAD")
    git(repo, "symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/trunk")
    found = upstream(repo)
    assert (found.root.resolve(), found.branch) == (repo.resolve(), "trunk")
    assert found.urls == ("https://example.org/acme/flows.git",)
    (tmp_path / "outside").mkdir()
    with pytest.raises(KitaruSourceError, match="not in a Git repository"):
        upstream(tmp_path / "outside")


def test_the_words_of_a_commit(repo: Path, tmp_path: Path) -> None:
    """Author, date and subject; None for a commit that is not here, or outside a repository."""
    head = git(repo, "rev-parse", "HEAD")
    words = commit_words(repo / "flows", head)
    assert words is not None
    assert (words["author"], words["email"], words["subject"]) == ("Ada", "ada@example.org", "first")
    assert words["date"] == git(repo, "show", "-s", "--format=%aI", head).replace("Z", "+00:00")
    assert commit_words(repo, "0" * 40) is None
    assert commit_words(tmp_path, head) is None


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"KITARU_ACTOR": "bot", "GIT_COMMITTER_NAME": "Cleo", "GIT_AUTHOR_NAME": "Ann"}, "bot"),
        ({"GITHUB_ACTOR": "octo", "GIT_COMMITTER_NAME": "Cleo"}, "octo"),
        ({"GIT_COMMITTER_NAME": " Cleo ", "GIT_AUTHOR_NAME": "Ann"}, "Cleo"),
        ({"GIT_COMMITTER_NAME": " ", "GIT_AUTHOR_NAME": "Ann"}, "Ann"),
        ({}, "Grace"),
    ],
)
def test_who_acts_is_who_git_says(environ: dict[str, str], name: str) -> None:
    """Kitaru's own variable, CI's, then Git's: the committer, the author, and last what Git is configured with."""
    assert actor(environ, lambda: "Grace") == name
