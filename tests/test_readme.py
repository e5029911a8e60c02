"""The README's story, typed as it stands there: each command answers as it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.repository import git

README = Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def steps() -> list[tuple[str, list[str]]]:
    """Each command of the console blocks with the lines that it prints."""
    result: list[tuple[str, list[str]]] = []
    for line in "".join(blocks("console")).splitlines():
        if line.startswith("$ "):
            result.append((line[2:], []))
        else:
            result[-1][1].append(line)
    return result


def plain(line: str) -> str:
    """The line without what differs from run to run: the place of the store, and commits."""
    line = re.sub(r"file://\S+/\.kitaru/store", "STORE", line)
    return re.sub(r"commit [0-9a-f]{12}", "commit SHA", line).rstrip()


def test_the_readme_fits_on_one_screen() -> None:
    """It is short; the details are in docs/."""
    assert len(README.read_text("utf-8").splitlines()) <= 170
    for page in re.findall(r"\]\((docs/[a-z]+\.md)\)", README.read_text("utf-8")):
        assert (README.parent / page).is_file()


def test_the_story_prints_what_the_readme_says(tmp_path: Path) -> None:
    """Write the flow, declare it, release a canary, promote it, and roll it back."""
    folder = tmp_path / "research"
    (folder / "flows").mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    (folder / "flows" / "research.py").write_text(blocks("python")[0])
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command, expected in steps():
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=120
        )
        printed = [plain(line) for line in done.stdout.rstrip("\n").splitlines()]
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert printed == [plain(line) for line in expected], f"{command}\n{done.stderr}"
