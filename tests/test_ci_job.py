"""What a job on GitHub reads beside the log: summaries, outputs and remarks at lines, with nothing to inject into."""

from __future__ import annotations

from pathlib import Path

import pytest

from kitaru.cli import ci
from kitaru.cli.terminal import remarks
from kitaru.errors import KitaruManifestError, KitaruUsageError, Problem
from tests.repository import Repository, kitaru

IN_JOB = {"GITHUB_ACTIONS": "true"}


def outputs(text: str) -> dict[str, str]:
    """Parsed as GitHub's runner parses: ``name=value`` or ``name<<mark``, lines up to the mark."""
    found, lines = {}, iter(text.splitlines())
    for line in lines:
        name, separator, mark = line.partition("<<")
        if not separator or "=" in name:
            name, _, value = line.partition("=")
            found[name] = value
            continue
        held = []
        for inner in lines:
            if inner == mark:
                break
            held.append(inner)
        found[name] = "\n".join(held)
    return found


@pytest.fixture
def files(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    summary, output = own_world / "summary.md", own_world / "output"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_OUTPUT", str(output))
    return summary, output


def test_a_plan_and_an_apply_say_what_a_workflow_needs(repository: Repository, files: tuple[Path, Path]) -> None:
    """changes, generation and the plan's file are outputs, and both write the summary."""
    summary, output = files
    plan = repository.folder.parent / "plan.json"
    kitaru("plan", "--out", plan, cwd=repository.folder).must()
    assert outputs(output.read_text()) == {"changes": "true", "generation": "0", "plan": str(plan)}
    assert "### Kitaru plan: `research`" in summary.read_text()
    output.unlink()
    kitaru("apply", plan, "--yes", cwd=repository.folder).must()
    assert outputs(output.read_text()) == {"changes": "true", "generation": "1"}
    assert "### Applied: generation 1" in summary.read_text()
    output.unlink()
    kitaru("plan", cwd=repository.folder).must()
    assert outputs(output.read_text()) == {"changes": "false", "generation": "1"}
    kitaru("apply", "--yes", cwd=repository.folder).must()
    assert "### Nothing to apply" in summary.read_text()


def test_a_refused_review_is_in_the_summary(repository: Repository, files: tuple[Path, Path]) -> None:
    """What was not reviewed stands where people look after a failed job."""
    empty = repository.folder.parent / "none"
    empty.mkdir()
    kitaru("apply", "--yes", "--reviewed", empty, cwd=repository.folder).must(1)
    assert "### Not applied" in files[0].read_text()
    assert "which was not reviewed" in files[0].read_text()


def test_no_value_ends_its_own_output(files: tuple[Path, Path]) -> None:
    """A value with line ends, marks and other outputs in it is one value."""
    evil = "a\nchanges=true\nEOF\nend_\nplan<<x\ny\nx"
    ci.add_outputs(changes="false", evil=evil)
    assert outputs(files[1].read_text()) == {"changes": "false", "evil": evil}


def test_a_job_without_these_files_goes_on(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, own_world: Path
) -> None:
    """A summary that can't be written is a note, and the plan is made."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(own_world / "no" / "folder"))
    monkeypatch.setenv("GITHUB_OUTPUT", str(own_world))
    done = kitaru("plan", cwd=repository.folder).must()
    assert "GITHUB_STEP_SUMMARY can't be written" in done.err
    assert "GITHUB_OUTPUT can't be written" in done.err


def test_problems_are_remarks_at_their_lines(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in the manifest is shown at its line, relative to the repository; on standard error alone."""
    repository.change("kitaru.yaml", "default: head", "default: heead")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(repository.folder))
    assert "::error" not in kitaru("validate", cwd=repository.folder).must(2).said
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    for command in (("validate",), ("plan",), ("plan", "-o", "json")):
        done = kitaru(*command, cwd=repository.folder).must(2)
        (remark,) = [line for line in done.err.splitlines() if line.startswith("::")]
        assert remark.startswith("::error file=kitaru.yaml,line=9,col=")
        assert "heead" in remark
        assert "::error" not in done.out


@pytest.mark.parametrize("evil", ["a\n::stop-commands::x", "100%0A::x", "a\r\n::warning::x", "::,:=%"])
def test_no_text_begins_a_command(evil: str) -> None:
    """Line ends, percent signs, colons and commas mean themselves, in messages, files and hints."""
    error = KitaruManifestError([Problem(evil, file=f"/elsewhere/{evil}", line=3, column=4, hint=evil)])
    (line,) = remarks(error, IN_JOB)
    assert "\n" not in line
    assert "\r" not in line
    head, _, message = line.removeprefix("::error ").partition("::")
    members = dict(one.split("=", 1) for one in head.split(","))
    assert set(members) == {"file", "line", "col", "title"}

    def meant(text: str) -> str:
        for code, sign in (("%3A", ":"), ("%2C", ","), ("%0A", "\n"), ("%0D", "\r"), ("%25", "%")):
            text = text.replace(code, sign)
        return text

    assert meant(members["file"]) == f"/elsewhere/{evil}"
    assert meant(message) == f"{evil}\nhint: {evil}"
    (line,) = remarks(KitaruUsageError(evil), IN_JOB)
    assert meant(line.removeprefix("::error title=kitaru::")) == evil
    assert "\n" not in line


def test_outside_a_job_there_are_no_remarks() -> None:
    """People's terminals show no workflow commands."""
    assert remarks(KitaruUsageError("x"), {}) == []
