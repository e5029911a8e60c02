"""One command for tests everywhere."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_ci_runs_what_the_readme_says() -> None:
    """.ci/run begins with the very command that the README gives for the tests."""
    lines = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    (command,) = [line.removesuffix(" || again") for line in lines if line.endswith("pytest -n auto || again")]
    for page in ("README.md", "CONTRIBUTING.md"):
        assert f"```sh\n{command}\n```" in (ROOT / page).read_text("utf-8")
