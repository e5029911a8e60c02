"""The house rules that tools can hold: linter, formatter, type checker, and one command for tests everywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]],
    ids=["ruff check", "ruff format", "mypy"],
)
def test_the_tree_is_clean(command: list[str]) -> None:
    """The linter, the formatter and the strict type checker have nothing to say."""
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ci_runs_what_the_readme_says() -> None:
    """.ci/run ends with the very command that the README gives for the tests."""
    command = (ROOT / ".ci" / "run").read_text("utf-8").strip().splitlines()[-1]
    assert command.endswith("pytest -n auto")
    for page in ("README.md", "CONTRIBUTING.md"):
        assert f"```sh\n{command}\n```" in (ROOT / page).read_text("utf-8")
