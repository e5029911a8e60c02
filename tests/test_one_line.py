"""Recorded text stays on its line: no name or message drives a terminal or commands a CI runner."""

from __future__ import annotations

import json
import os
import sys

import pytest

from kitaru.cli.terminal import Terminal
from kitaru.cli.views.words import style
from kitaru.errors import KitaruManifestError
from kitaru.manifest.reading import read_manifest
from kitaru.model.jsonable import LONGEST, recorded_line, shown_line
from kitaru.settings import actor
from tests.repository import MANIFEST, Repository, kitaru

EVIL = "evil\n::error::x\x1b[31m|<b>"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (EVIL, "evil ::error::x\N{REPLACEMENT CHARACTER}[31m|<b>"),
        ("  ::error::x", "  : :error::x"),
        ("see ##[error]x", "see ## [error]x"),
        ("a.py::test\tb ## [x]", "a.py::test\tb ## [x]"),
        ("a\x85b\u2028c\u202ed\x9be", "a b c\N{REPLACEMENT CHARACTER}d\N{REPLACEMENT CHARACTER}e"),
        ("naïve – 漢字", "naïve – 漢字"),
    ],
)
def test_a_shown_line_is_one(text: str, shown: str) -> None:
    """Breaks are spaces, controls are marked, commands to a runner are none; all else is as it was."""
    assert shown_line(text) == shown


def test_what_is_recorded_is_one_line() -> None:
    """Control characters in an actor's name are spaces; a name without any keeps its bytes."""
    assert recorded_line("line1\n\x1b[31mred") == "line1 [31mred"
    assert recorded_line("Ann  Lee") == "Ann  Lee"
    assert actor({"KITARU_ACTOR": EVIL}) == "evil ::error::x [31m|<b>"
    assert actor({"KITARU_ACTOR": "\n\x1b", "GITHUB_ACTOR": "ann"}) == "ann"
    assert actor({}, lambda: "A\nB") == "A B"
    assert recorded_line("Jos\udce9") == "Jos\N{REPLACEMENT CHARACTER}"
    assert (len(recorded_line("x" * 9000)), recorded_line("x" * 9000)[-2:]) == (LONGEST, "x…")


def test_our_own_styling_is_printed_and_no_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal a styled line has our Escape, and none that the text brought; a command in it begins no line."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    terminal = Terminal()
    terminal.lines([style("x\x1b[31my\n::error::z", "bold"), "::error::a"])
    terminal.note("::error::b\n  ::error::c\x1b[31m")
    out, err = capsys.readouterr()
    assert out == "\x1b[1mx\N{REPLACEMENT CHARACTER}[31my ::error::z\x1b[0m\n: :error::a\n"
    assert err == ": :error::b\n  : :error::c\N{REPLACEMENT CHARACTER}[31m\n"


def test_bytes_that_are_no_text_leave_a_log_that_can_be_read(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In who did it, and why: from a terminal of another encoding, from Git's variables, and from Python."""
    repository.apply()
    latin = os.fsdecode(b"Jos\xe9")
    for number, environ in enumerate(
        ({"KITARU_ACTOR": latin}, {"GIT_COMMITTER_NAME": latin, "GIT_AUTHOR_NAME": latin})
    ):
        tag = ("flow", "tag", "agent", f"t{number}", "--version", "1", "--no-manifest")
        with monkeypatch.context() as patched:
            patched.delenv("KITARU_ACTOR", raising=False)
            for name, value in environ.items():
                patched.setenv(name, value)
            kitaru(*tag, cwd=repository.folder).must()
    client = repository.client()
    client.deployments.build("agent", manifest="leave")
    client.deployments.tag("agent", "default", version=2, exclusive=True, manifest="leave")
    client.deployments.rollback("agent", message=f"lost {latin}")
    kitaru("store", "verify", cwd=repository.folder).must()
    shown = kitaru("history", cwd=repository.folder).must().out
    assert shown.count("Jos\N{REPLACEMENT CHARACTER}") >= 3
    kitaru("invoke", "agent", "--input", '{"topic": "tea"}', "--wait", cwd=repository.folder).must()


def test_a_hostile_actor_and_message(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an actor and a message hold is recorded as one line, and plan and history show it on one."""
    kitaru("apply", "--yes", cwd=repository.folder).must()
    monkeypatch.setenv("KITARU_ACTOR", EVIL)
    tag = ("flow", "tag", "agent", "t2", "--version", "1", "--exclusive", "--no-manifest")
    kitaru(*tag, "-m", "line1\n\x1b[31mred", cwd=repository.folder).must()
    repository.manifest(MANIFEST + "      t2: head\n")
    repository.commit()
    kitaru("flow", "tag", "agent", "t3", "--version", "1", "--exclusive", "--no-manifest", cwd=repository.folder).must()
    for words in (("plan",), ("plan", "--drift"), ("history",), ("plan", "-o", "markdown")):
        done = kitaru(*words, cwd=repository.folder)
        assert done.code in (0, 2), done.said
        assert "\x1b" not in done.said
        assert not [line for line in done.said.splitlines() if line.lstrip().startswith("::")]
    entries = json.loads(kitaru("history", "-o", "json", cwd=repository.folder).must().out)["items"]
    assert entries[1]["by"] == "evil ::error::x [31m|<b>"
    assert entries[1]["message"] == "line1 [31mred"


@pytest.mark.parametrize("image", ["3.12", "{base_image: 3.12}", '"3.12"'])
def test_a_python_version_is_no_image(image: str) -> None:
    """Quoted or not, bare or as base_image, the hint names the image that was meant."""
    text = MANIFEST.replace("    routes:", f"    image: {image}\n    routes:")
    with pytest.raises(KitaruManifestError) as caught:
        read_manifest(text.encode(), "kitaru.yaml", None)
    assert [problem.hint for problem in caught.value.problems] == ["write python:3.12-slim"]
