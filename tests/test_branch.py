"""Which names can be a branch's: what Git itself says is the measure."""

from __future__ import annotations

import subprocess
import tempfile

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kitaru.model.manifest import is_branch

PIECES = [
    "a",
    "release",
    "HEAD",
    "@",
    "{",
    ".",
    "..",
    "/",
    "-",
    ".lock",
    "lock",
    "*",
    "?",
    "[",
    "]",
    "~",
    "^",
    ":",
    "\\",
]
ODD = [" ", "\t", "\x7f", "é", "\x01"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES + ODD), max_size=5).map("".join))
@example("")
@example("release/*")
@example("a.lock/b")
@example("a/.b")
@example("@{-1}")
@example("-x")
def test_git_is_of_the_same_mind(name: str) -> None:
    """Every name that git check-ref-format takes is one here, and no other."""
    # Outside of any repository, where @{-1} is no branch that was left.
    words = ["git", "check-ref-format", "--branch", name]
    asked = subprocess.run(words, cwd=tempfile.gettempdir(), capture_output=True, check=False)
    assert is_branch(name) == (asked.returncode == 0)


@pytest.mark.parametrize("name", ["main", "release/1.x", "feature/a-b_c", "dependabot/npm/x@2", "a]", "HEAD/x"])
def test_usual_names(name: str) -> None:
    """What people call their branches."""
    assert is_branch(name)
