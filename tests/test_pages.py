"""The README and the pages of docs/, typed as they stand there: each command answers as its page says.

One shell types a page from its first command to its last. A block of any language with a path beside the language,
such as ``python flows/research.py``, is written to that file. In a ``console`` block the lines after a command are its
standard output, and its standard error if it fails; a line ``...`` stands for any lines, and no line at all for any
output. Executions, commits, times, sizes and the place of the store may differ.

``KITARU_WRITE_PAGES=1 pytest tests/test_pages.py`` writes the true answers into the pages.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from difflib import unified_diff
from pathlib import Path

import pytest

from tests.repository import git

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
WRITE = "KITARU_WRITE_PAGES" in os.environ
HOME = "/home/ann/research"
ANN = {"NAME": "Ann", "EMAIL": "ann@example.org"}
BLOCK = re.compile(r"^```(\w+)[ ]?(\S*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NAMED = re.compile(r"\bex-[0-9a-z]{18}\b")
VARIES = [
    (re.compile(r"commit [0-9a-f]{12}"), "commit SHA"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "DIGEST"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "SHA"),
    (re.compile(r"\b[0-9a-f]{16}\b"), "DIGEST"),
    (re.compile(r"/[0-9a-f]{2}/"), "/XX/"),
    (re.compile(r"\b\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d)?( UTC|Z)?)?"), "TIME"),
    (re.compile(r"\b\d+(\.\d+)? (ms|s|min|h)\b( \d+ s\b)?"), "SPAN"),
    (re.compile(r"\b[\d.]+ k?B\b"), "SIZE"),
    (re.compile(r"[█▒░· ]*[█▒░·][█▒░· ]*"), " BAR "),
    (re.compile(r" {2,}"), " "),
]
"""What differs from run to run, and the word that stands for it while two texts are compared."""


class Page:
    """One page while its commands are typed: names in the text, and those that stand for them in this run."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self.folder = path, folder
        self.text = path.read_text("utf-8")
        self.names: dict[str, str] = {}
        self.environ = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder.parent),
            "KITARU_HOME": str(folder.parent / "kitaru"),
            "KITARU_ACTOR": "ann",
            **{f"GIT_{role}_{part}": word for role in ("AUTHOR", "COMMITTER") for part, word in ANN.items()},
            "COLUMNS": "110",
        }

    def play(self) -> list[str]:
        """Write each file, type each command; the differences, and the page with the true answers in ``text``."""
        differences: list[str] = []
        for match in list(BLOCK.finditer(self.text)):
            language, name, body = match.groups()
            if name:
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).write_text(body)
            elif language == "console":
                differences += self._type(body)
        return differences

    def _type(self, body: str) -> list[str]:
        differences = []
        for step in re.split(r"^(?=\$ )", body, flags=re.MULTILINE):
            lines = step.rstrip("\n").split("\n")
            count = next((n for n, line in enumerate(lines) if not line.endswith("\\")), 0) + 1
            command = "\n".join(lines[:count]).removeprefix("$ ")
            expected = lines[count:]
            status, printed = self._run(command)
            self._learn(expected, printed)
            wanted, given = self._plain(expected), self._plain(printed)
            if expected and not matches(wanted, given):
                differences += [f"{self.path.name}: $ {command}", *unified_diff(wanted, given, lineterm="")]
                answer = "\n".join(printed)
                for written, real in self.names.items():
                    answer = answer.replace(real, written)
                self.text = self.text.replace(step, "\n".join(lines[:count]) + f"\n{answer}\n", 1)
            elif status and not any("error" in line or "failed" in line for line in expected):
                differences += [f"{self.path.name}: $ {command}", f"exit code {status}", *printed]
        return differences

    def _run(self, command: str) -> tuple[int, list[str]]:
        for written, real in self.names.items():
            command = command.replace(written, real)
        kept = self.folder.parent / "shell"
        kept.touch()
        done = subprocess.run(
            ["bash", "-c", f'. {kept}; {command}\nstatus=$?; {{ export -p; echo cd "$PWD"; }} >{kept}; exit $status'],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        text = done.stdout + (done.stderr if done.returncode else "")
        return done.returncode, text.replace(str(self.folder), HOME).strip("\n").splitlines()

    def _learn(self, expected: list[str], printed: list[str]) -> None:
        """Executions of the page are those of this run, in the order in which they are named."""
        real = dict.fromkeys(NAMED.findall("\n".join(printed)))
        new = [name for name in real if name not in self.names.values()]
        for written in dict.fromkeys(NAMED.findall("\n".join(expected))):
            if written not in self.names and new:
                self.names[written] = new.pop(0)

    def _plain(self, lines: list[str]) -> list[str]:
        text = "\n".join(lines)
        for written, real in self.names.items():
            text = text.replace(written, real)
        known = set(self.names.values())
        text = NAMED.sub(lambda match: match[0] if match[0] in known else "EXECUTION", text)
        for pattern, word in VARIES:
            text = pattern.sub(word, text)
        return [line.strip() for line in text.split("\n") if line.strip()]


def matches(expected: list[str], printed: list[str]) -> bool:
    """Whether the lines are those, where a line ``...`` stands for any number of them."""
    if not expected or not printed:
        return all(line == "..." for line in expected) and not printed
    if expected[0] == "...":
        return matches(expected[1:], printed) or matches(expected, printed[1:])
    return expected[0] == printed[0] and matches(expected[1:], printed[1:])


def test_the_readme_fits_on_one_screen() -> None:
    """It is short; the details are in docs/, and each page there is linked."""
    text = README.read_text("utf-8")
    assert len(text.splitlines()) <= 170
    assert set(re.findall(r"\]\((docs/[a-z]+\.md)\)", text)) == {f"docs/{page.name}" for page in PAGES}


def test_the_readme_says_what_is_printed(tmp_path: Path) -> None:
    check(README, tmp_path)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_each_page_says_what_is_printed(path: Path, tmp_path: Path) -> None:
    check(path, tmp_path)


def check(path: Path, tmp_path: Path) -> None:
    """Type every command of the page, in order, in one new repository."""
    folder = tmp_path / "research"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    page = Page(path, folder)
    differences = page.play()
    if WRITE and differences:
        path.write_text(page.text)
    assert not differences, "\n".join(differences)
