"""store gc --local: environments and sources that nobody used for long go; what a process uses does not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from kitaru.local_cache import Pruned, hold, lock_of, prune, using
from kitaru.model.address import canonical_json, digest
from kitaru.model.snapshot import SourceFile, SourceTree
from kitaru.source.bundle import pack
from kitaru.source.folders import ensure_source
from tests.repository import CHECKOUT, kitaru

DAY = 86_400
MONTH = timedelta(days=30)


def make(cache: Path, name: str, *, days: float, stamp: bool = True) -> Path:
    """A folder of the cache that was last used so many days ago."""
    folder = cache / name
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(b"x" * 1000)
    moment = time.time() - days * DAY
    if stamp:
        lock_of(folder).touch()
        os.utime(lock_of(folder), (moment, moment))
    os.utime(folder, (moment, moment))
    return folder


def names(found: Pruned) -> list[str]:
    return [f"{Path(one.path).parent.name}/{Path(one.path).name}" for one in found.folders]


@pytest.mark.parametrize("stamp", [True, False], ids=["with a time of use", "of an earlier release"])
def test_what_was_not_used_for_long_goes(tmp_path: Path, stamp: bool) -> None:
    """Thirty days count from the last use; a dry run removes nothing and says the same."""
    old = [make(tmp_path, name, days=31, stamp=stamp) for name in ("environments/aa", "sources/bb", "sources/bb.1")]
    young = make(tmp_path, "environments/cc", days=29, stamp=stamp)
    other = make(tmp_path, "workers/dd", days=400)
    planned = prune(tmp_path, MONTH, delete=False)
    assert names(planned) == ["environments/aa", "sources/bb", "sources/bb.1"]
    assert all(folder.exists() for folder in old)
    done = prune(tmp_path, MONTH, delete=True)
    assert done.folders == planned.folders
    assert {one.bytes for one in done.folders} == {1000}
    assert not any(folder.exists() for folder in old)
    assert young.exists()
    assert other.exists()
    assert not prune(tmp_path, MONTH, delete=True).folders


def test_what_a_process_holds_stays(tmp_path: Path) -> None:
    """However long ago it began; when that process is killed, nothing holds it any more."""
    folder = make(tmp_path, "environments/aa", days=100)
    code = (
        "import os, sys, time; from pathlib import Path; from kitaru.local_cache import hold, lock_of\n"
        f"folder = Path({str(folder)!r}); hold(folder)\n"
        "os.utime(lock_of(folder), (1e9, 1e9)); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}
    )
    assert process.stdout is not None
    with process:
        try:
            assert process.stdout.readline() == b"held\n"
            assert not prune(tmp_path, MONTH, delete=False).folders
            assert not prune(tmp_path, MONTH, delete=True).folders
            assert folder.exists()
        finally:
            process.kill()
    assert names(prune(tmp_path, MONTH, delete=True)) == ["environments/aa"]


def test_a_use_makes_it_young(tmp_path: Path) -> None:
    """Using a folder for a moment, or holding it once more, leaves the time."""
    for name, use in (("environments/aa", using), ("sources/bb", None)):
        folder = make(tmp_path, name, days=100)
        if use is not None:
            with use(folder):
                pass
        else:
            hold(folder)
            os.utime(lock_of(folder), (1e9, 1e9))
            hold(folder)
        assert not prune(tmp_path, MONTH, delete=True).folders
        assert folder.exists()


def test_what_somebody_stopped_removing_goes(tmp_path: Path) -> None:
    """A folder with the name that removing gives it is nobody's."""
    folder = make(tmp_path, "sources/bb.gone-123", days=0, stamp=False)
    assert len(prune(tmp_path, MONTH, delete=True).folders) == 1
    assert not folder.exists()


def test_a_source_that_went_is_unpacked_again(tmp_path: Path) -> None:
    """Who asks for a source that was removed gets it, and from then on it is held."""
    file = SourceFile(path="a.py", mode=0o100644, size=2, sha256=digest(b"1\n"))
    sha = digest(canonical_json(SourceTree(files=(file,)).listing()))
    archive = pack([(file, b"1\n")])
    cache = tmp_path / "sources"
    make(tmp_path, f"sources/{sha}", days=100)
    assert len(prune(tmp_path, MONTH, delete=True).folders) == 1
    folder = ensure_source(cache, sha, lambda: archive)
    assert (folder / "a.py").read_bytes() == b"1\n"
    os.utime(lock_of(folder), (1e9, 1e9))
    assert not prune(tmp_path, MONTH, delete=True).folders


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dry by default, with the command that does it."""
    monkeypatch.setenv("KITARU_HOME", str(tmp_path / "home"))
    folder = make(tmp_path / "home" / "cache", "environments/aa", days=31)
    shown = kitaru("store", "gc", "--local", cwd=tmp_path).must()
    assert "environments/aa" in shown.out
    assert "31 days ago" in shown.out
    assert "Nothing was removed. To do it: kitaru store gc --delete --local" in shown.out
    assert folder.exists()
    data = kitaru("store", "gc", "--local", "-o", "json", cwd=tmp_path).must().json
    assert [one["kind"] for one in data["item"]["folders"]] == ["environment"]
    kitaru("store", "gc", "--local", "--delete", cwd=tmp_path).must()
    assert not folder.exists()
    assert "Nothing to remove" in kitaru("store", "gc", "--local", cwd=tmp_path).must().out
