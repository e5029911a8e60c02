"""diff: what callers meet, what a version is made of, and its source, file by file, without secrets."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from kitaru.cli.views.history import diff_lines
from kitaru.cli.views.words import printed
from kitaru.core.diffing import EMPTY, LARGEST_FILE, SHOWN_LINES, Entry, FileDiff, file_diff, pairs
from kitaru.errors import KitaruIntegrityError, KitaruSelectorError
from kitaru.model import address
from kitaru.model.address import digest
from kitaru.model.snapshot import SourceFile, SourceTree
from kitaru.release.difference import Difference
from kitaru.source import bundle
from kitaru.source.bundle import pack
from kitaru.source.selection import FILE, SYMLINK, tree_digest
from tests.repository import MANIFEST, Done, Repository, git, kitaru

ROUTED = MANIFEST.replace("default: head\n", "default: 1\n      canary: head\n")


def do(repository: Repository, *arguments: str | Path) -> Done:
    return kitaru(*arguments, cwd=repository.folder)


def second(repository: Repository, manifest: str = ROUTED) -> None:
    """Release what the working tree holds as v2, routed as canary."""
    repository.manifest(manifest)
    repository.commit()
    repository.apply()


@pytest.fixture(scope="module")
def first_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test of this module leaves the repository that the others copy."""
    return tmp_path_factory.mktemp("two") / "repository"


@pytest.fixture
def two(repository: Repository, first_two: Path) -> Repository:
    """v1 is default; v2, canary, says good morning instead of hello."""
    if not first_two.exists():
        repository.apply()
        repository.change("flows/work.py", "hello", "good morning")
        second(repository)
        shutil.copytree(repository.folder, first_two)
    else:
        shutil.rmtree(repository.folder)
        shutil.copytree(first_two, repository.folder)
    return repository


def difference(repository: Repository, before: str = "1", after: str = "2", **given: Any) -> Difference:
    return repository.client().history.diff("agent", before, after, **given)


def by_path(found: Difference) -> dict[str, FileDiff]:
    return {file.path: file for file in found.files}


# --- two released versions --------------------------------------------------------------------------------------------


def test_a_changed_line_is_a_patch(repository: Repository) -> None:
    """What diff prints of the source is a patch: applied to the earlier commit it makes the later one."""
    before = repository.commit()
    repository.apply()
    repository.change("flows/work.py", "hello", "good morning")
    repository.write("flows/new.py", "x = 1")
    second(repository)
    after = git(repository.folder, "rev-parse", "HEAD")
    out = do(repository, "diff", "agent", "1", "2").must().out
    git(repository.folder, "checkout", "-q", before)
    patch = repository.folder / "x.patch"
    patch.write_text(out)
    git(repository.folder, "apply", "--index", str(patch))
    assert git(repository.folder, "diff", after, "--", "flows") == ""
    assert '-GREETING = "hello"\n+GREETING = "good morning"\n' in out
    assert "\\ No newline at end of file" in out


@pytest.mark.parametrize("words", [("1", "2"), ("v1", "v2"), ("default", "canary"), ("1", "canary")], ids=" ".join)
def test_versions_and_tags_name_a_side(two: Repository, words: tuple[str, str]) -> None:
    """A side is a number, with or without v, or a tag; each says who made it from which commit."""
    found = difference(two, *words)
    assert (found.before.version, found.after.version) == (1, 2)
    assert found.after.release.by == "Ann"
    assert [file.path for file in found.files] == ["flows/work.py"]


def test_what_is_no_version_is_refused(repository: Repository) -> None:
    """An unknown flow, tag or version is an error that says what there is; a shared label is ambiguous."""
    repository.apply()
    repository.change("flows/work.py", "hello", "good morning")
    second(repository, ROUTED.replace("canary: head", "canary: head\n      both: [1, head]"))
    for flow, before, after, words in (
        ("agnt", "1", "2", "did you mean 'agent'"),
        ("agent", "1", "3", "has no version 3"),
        ("agent", "0", "2", "has no tag 0"),
        ("agent", "canry", "2", "did you mean 'canary'"),
        ("agent", "both", "2", "ambiguous"),
    ):
        do(repository, "diff", flow, before, after).refused(words)
    with pytest.raises(KitaruSelectorError):
        difference(repository, "1", "nope")


def test_the_same_version_does_not_differ(two: Repository) -> None:
    """A version compared with itself, by number or by tag, has no differences, and the exit code is 0."""
    out = do(two, "diff", "agent", "1", "default").must().out
    assert "No differences: v1 is the same snapshot." in out
    assert difference(two, "1", "default").same


def test_inputs_are_judged_for_callers(repository: Repository) -> None:
    """A new required input breaks callers, and so does one that is taken away; a new optional one does not."""
    repository.apply()
    repository.change("flows/work.py", "agent(topic: str)", "agent(topic: str, depth: int)")
    second(repository)
    repository.change("flows/work.py", "depth: int)", 'depth: int, tone: str = "dry")')
    repository.commit()
    repository.apply()
    assert difference(repository, "1", "2").inputs == "breaking"
    assert difference(repository, "2", "1").inputs == "breaking"
    assert difference(repository, "2", "3").inputs == "compatible"
    out = do(repository, "diff", "agent", "1", "2").must().out
    assert "inputs: breaking: some calls of v1 are refused by v2" in out
    assert "  depth added, required (integer) (breaking)" in out
    assert "inputs: compatible" in do(repository, "diff", "agent", "2", "3").must().out


def test_an_input_that_callers_could_leave_out_is_judged_too(repository: Repository) -> None:
    """What the manifest gave, and gives no longer, callers have to give: plan and diff call that breaking."""
    given = MANIFEST.rstrip("\n") + "\n    inputs: {topic: tea}\n"
    repository.manifest(given)
    repository.commit()
    repository.apply()
    repository.manifest(given.replace("    inputs: {topic: tea}\n", "    inputs: {}\n"))
    repository.commit()
    out = do(repository, "plan").must().out
    assert "v1 → v2, breaking for callers" in out
    assert "topic is now required: its sample input is gone (breaking)" in out
    repository.apply()
    assert difference(repository).inputs == "breaking"
    assert difference(repository, "2", "1").inputs == "same"


def test_environment_values_are_never_shown(repository: Repository) -> None:
    """Image, options, stack and inputs are compared; of environment variables only the names are told."""
    environment = (
        "\n    image: {environment: {TOKEN: %s}, requirements: [httpx]}\n    retries: 2\n    inputs: {topic: tea}\n"
    )
    repository.manifest(MANIFEST.rstrip("\n") + environment % "hunter2")
    repository.commit()
    repository.apply()
    second(repository, ROUTED.rstrip("\n") + (environment % "s3cr3t").replace("retries: 2", "retries: 3"))
    for output in ("text", "json"):
        out = do(repository, "diff", "agent", "1", "2", "-o", output).must().out
        assert "image.environment: ~ TOKEN" in out
        assert "options.retries: 2 → 3" in out
        assert "hunter2" not in out
        assert "s3cr3t" not in out
    assert difference(repository).files == ()


def test_binary_renamed_and_linked_files(repository: Repository) -> None:
    """Binary files are said and not shown; a moved file is one line; a mode and a link's target are told."""
    repository.write("flows/moved.py", "x = 1\n" * 30)
    repository.write("flows/run.sh", "true\n")
    (repository.folder / "flows/data.bin").write_bytes(b"\0\1\2")
    (repository.folder / "flows/link").symlink_to("work.py")
    repository.commit()
    repository.apply()
    (repository.folder / "flows/moved.py").rename(repository.folder / "flows/else.py")
    (repository.folder / "flows/run.sh").chmod(0o755)
    (repository.folder / "flows/data.bin").write_bytes(b"\0\1\3")
    (repository.folder / "flows/link").unlink()
    (repository.folder / "flows/link").symlink_to("else.py")
    second(repository)
    files = by_path(difference(repository))
    assert (files["flows/else.py"].status, files["flows/else.py"].was) == ("renamed", "flows/moved.py")
    assert files["flows/data.bin"].note == "binary"
    assert files["flows/data.bin"].lines == ()
    assert files["flows/run.sh"].modes == ("100644", "100755")
    assert "+else.py" in files["flows/link"].lines
    assert set(files) == {"flows/else.py", "flows/data.bin", "flows/run.sh", "flows/link"}
    out = do(repository, "diff", "agent", "1", "2").must().out
    assert "renamed flows/moved.py → flows/else.py" in out
    assert "changed flows/data.bin: binary" in out
    assert "changed flows/run.sh, mode 100644 → 100755" in out


def test_long_differences_are_bounded(repository: Repository) -> None:
    """A long difference ends with a note of how much is left out, a large file is only named; --full shows all."""
    repository.apply()
    repository.write("flows/long.py", "".join(f"x = {number}\n" for number in range(3000)))
    repository.write("flows/large.txt", "y\n" * LARGEST_FILE)
    second(repository)
    files = by_path(difference(repository))
    assert len(files["flows/long.py"].lines) == SHOWN_LINES
    assert files["flows/long.py"].hidden == 3003 - SHOWN_LINES
    assert files["flows/long.py"].added == 3000
    assert "too large" in files["flows/large.txt"].note
    out = do(repository, "diff", "agent", "1", "2").must().out
    assert f"{3003 - SHOWN_LINES:,} more lines not shown: --full shows all" in out
    full = by_path(difference(repository, full=True))
    assert len(full["flows/long.py"].lines) == 3003
    assert full["flows/large.txt"].added == LARGEST_FILE


def test_many_files_are_bounded(repository: Repository) -> None:
    """After so many lines of source the rest of the files is counted, unless all are wanted."""
    repository.apply()
    for number in range(8):
        repository.write(f"flows/f{number}.py", "x = 1\n" * 390)
    second(repository)
    found = difference(repository)
    lines = diff_lines(found)
    assert lines[-1] == "2 more files not shown: --full shows all"
    assert sum(line.startswith("+x") for line in lines) == 6 * 390
    assert sum(line.startswith("+x") for line in diff_lines(found, full=True)) == 8 * 390


def test_source_that_was_collected_is_said(two: Repository) -> None:
    """Where an archive or a listing is gone, the rest is compared, and the files are said to be missing."""
    source = difference(two, "1", "1").before.release.source
    (two.store_folder / address.source_archive("research", source)).unlink()
    assert by_path(difference(two))["flows/work.py"].note == "its content is no longer in the store"
    (two.store_folder / address.blob("research", source)).unlink()
    found = difference(two)
    assert found.files == ()
    assert "no longer in the store" in do(two, "diff", "agent", "1", "2").must().out


def test_a_damaged_archive_is_an_error(two: Repository) -> None:
    """Source is shown only where it is what its digest says."""
    source = difference(two, "1", "1").before.release.source
    path = two.store_folder / address.source_archive("research", source)
    path.unlink()
    path.write_bytes(b"not an archive")
    do(two, "diff", "agent", "1", "2").refused("can't be read", code=1, hint=False)


def test_the_json_of_a_difference_is_stable(two: Repository) -> None:
    """Every key is there, whatever differs."""
    for words in (("1", "2"), ("1", "1")):
        data = do(two, "diff", "agent", *words, "-o", "json").must().json
        assert data["command"] == "diff"
        item = data["item"]
        assert set(item) == {"flow", "before", "after", "same", "inputs", "changes", "files"}
        assert set(item["before"]) == {"version", "tag", "snapshot", "source", "at", "by", "commit"}
        for change in item["changes"]:
            assert set(change) == {"subject", "text", "details", "breaking"}
        for file in item["files"]:
            assert set(file) == {"path", "status", "was", "modes", "note", "added", "removed", "hidden", "lines"}


def test_colour_on_a_terminal_only(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe gets the source byte for byte; a terminal gets colours, and control characters that it does not obey."""
    repository.apply()
    repository.write("flows/odd.py", "bell = '\a\x1b[31m'\r\n\tx\n")
    second(repository)
    found = difference(repository)
    assert "+bell = '\a\x1b[31m'\r" in diff_lines(found)
    with monkeypatch.context() as at_terminal:
        at_terminal.delenv("NO_COLOR", raising=False)
        at_terminal.setattr(sys.stdout, "isatty", lambda: True)
        lines = [printed(line, sys.stdout) for line in diff_lines(found, visible=True)]
    assert "\x1b[32m+bell = '^G^[[31m'^M\x1b[0m" in lines
    assert "\x1b[32m+\tx\x1b[0m" in lines
    assert "\x1b" not in do(repository, "diff", "agent", "1", "1").must().out


# --- files, in themselves ---------------------------------------------------------------------------------------------

WORDS = st.lists(st.sampled_from(["a\n", "b\n", "--x\n", "+y\n", "@@ z\n", "\x0c\n", "é\n", "\r\n"]), max_size=12)
TEXTS = st.tuples(WORDS, st.sampled_from(["", "end", "--end", "@@"])).map(lambda pair: "".join(pair[0]) + pair[1])


@settings(max_examples=60, deadline=None)
@given(TEXTS, TEXTS)
def test_any_difference_is_a_patch(tmp_path_factory: pytest.TempPathFactory, old: str, new: str) -> None:
    """Git makes the later text of the earlier one by these lines, whatever the two hold."""
    folder = tmp_path_factory.mktemp("patch")
    before, after = (Entry("f", "100644", digest(text.encode())) for text in (old, new))
    found = file_diff(before, after, {"f": old.encode()}, {"f": new.encode()}, full=True)
    (folder / "f").write_bytes(old.encode())
    if found.lines:
        body = "".join(f"{line}\n" for line in found.lines).encode()
        environ = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent), "GIT_CONFIG_NOSYSTEM": "1"}
        command = ["git", "apply", "--whitespace=nowarn", "-"]
        done = subprocess.run(command, cwd=folder, input=body, capture_output=True, check=False, env=environ)
        assert done.returncode == 0, done.stderr
    assert (folder / "f").read_bytes() == new.encode()
    assert found.added - found.removed == len(new.split("\n")) - (not new.split("\n")[-1]) - (
        len(old.split("\n")) - (not old.split("\n")[-1])
    )


def test_empty_files_are_not_taken_for_each_other() -> None:
    """A removed and an added empty file are two files; a file with content that moved is one."""
    before = [["a/__init__.py", "100644", EMPTY], ["a/x.py", "100644", "1" * 64]]
    after = [["b/__init__.py", "100644", EMPTY], ["b/x.py", "100644", "1" * 64]]
    found = [(one and one.path, other and other.path) for one, other in pairs(before, after)]
    assert found == [("a/__init__.py", None), (None, "b/__init__.py"), ("a/x.py", "b/x.py")]


# --- archives, in themselves ------------------------------------------------------------------------------------------


def source_file(path: str, body: bytes, mode: int = FILE) -> tuple[SourceFile, bytes]:
    return SourceFile(path=path, mode=mode, size=len(body), sha256=digest(body)), body


def test_an_archive_is_read_in_memory(tmp_path: Path) -> None:
    """The tree is that of the archive, links included, and only what is wanted is kept."""
    files = [source_file("a.py", b"x"), source_file("b.py", b"y" * 3000), source_file("l", b"a.py", SYMLINK)]
    tree = SourceTree(files=tuple(file for file, _ in files))
    found, kept = bundle.read_archive(pack(files), tree_digest(tree), lambda _, size: size < 2000)
    assert found == tree
    assert kept == {"a.py": b"x", "l": b"a.py"}


def test_an_archive_that_is_something_else_is_refused() -> None:
    """Another tree, a device, an archive that is cut off, and one that unpacks to no end."""
    files = [source_file("a.py", b"x" * 10_000)]
    sha = tree_digest(SourceTree(files=tuple(file for file, _ in files)))
    with pytest.raises(KitaruIntegrityError, match="another tree"):
        bundle.read_archive(pack([source_file("b.py", b"x")]), sha)
    with pytest.raises(KitaruIntegrityError):
        bundle.read_archive(pack(files)[:-8], sha)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        info = tarfile.TarInfo("null")
        info.type = tarfile.CHRTYPE
        tar.addfile(info)
    with pytest.raises(KitaruIntegrityError, match="no plain file"):
        bundle.read_archive(zstandard.compress(raw.getvalue()), sha)


def test_an_archive_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small archive that unpacks to more than any source may hold is given up."""
    monkeypatch.setattr(bundle, "MOST_BYTES", 50_000)
    with pytest.raises(KitaruIntegrityError, match="more than it may"):
        bundle.read_archive(pack([source_file("a.py", bytes(200_000))]), "0" * 64)
