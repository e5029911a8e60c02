"""A deploy records the manifest's rules with the version that it makes: it adds and tightens them, and lifts none."""

from __future__ import annotations

from pathlib import Path

import pytest

from kitaru.core.protection import tightened
from kitaru.model.lockfile import FlowState
from kitaru.model.route import Protection
from tests.repository import Repository, git, kitaru
from tests.test_protection import RULES, bound, head, place

BARE = "kitaru: 1\nproject: research\nstore: file://.kitaru/store\n"
AGENT = "flows/work.py:agent"
MAIN, RELEASE = Protection(branch="main"), Protection(branch="release")
ANY, DIRTY = Protection(), Protection(branch="main", clean=False)


def state(**rules: Protection) -> FlowState:
    return bound(**rules).flows["agent"]


@pytest.mark.parametrize(
    ("applied", "wanted", "then"),
    [
        ({}, {"stable": MAIN}, {"stable": MAIN}),
        ({"stable": MAIN}, {}, {"stable": MAIN}),
        ({"stable": MAIN}, {"gold": ANY}, {"stable": MAIN, "gold": ANY}),
        ({"stable": ANY}, {"stable": MAIN}, {"stable": MAIN}),
        ({"stable": DIRTY}, {"stable": MAIN}, {"stable": MAIN}),
        ({"stable": MAIN}, {"stable": ANY}, {"stable": MAIN}),
        ({"stable": MAIN}, {"stable": DIRTY}, {"stable": MAIN}),
        ({"stable": MAIN}, {"stable": RELEASE}, {"stable": MAIN}),
        ({"stable": ANY}, {"stable": DIRTY}, {"stable": ANY}),
    ],
)
def test_rules_are_added_and_tightened_alone(
    applied: dict[str, Protection], wanted: dict[str, Protection], then: dict[str, Protection]
) -> None:
    """What asks for less than the rule that was applied, or for something else, waits for an apply."""
    edits = tightened("agent", wanted, state(**applied))
    assert [edit.rules for edit in edits] == ([] if then == applied else [then])
    assert [edit.expects for edit in edits] == ([] if then == applied else [applied])


@pytest.mark.parametrize("verb", ["deploy", "build"])
def test_a_new_flow_is_bound_from_its_first_version(repository: Repository, own_world: Path, verb: str) -> None:
    """The generation that makes the flow says what is protected: nobody elsewhere places that route meanwhile."""
    repository.manifest(BARE + RULES)
    repository.commit()
    done = kitaru(verb, AGENT, cwd=repository.folder).must()
    words = "stable is protected from now on: branch main, clean commit"
    assert f"note: {words}" in done.said
    lock = head(repository)
    assert (lock.generation, lock.flows["agent"].protect) == (1, {"stable": MAIN})
    assert lock.flows["agent"].protect_generation == 1
    assert words in " ".join(kitaru("history", "agent", cwd=repository.folder).must().out.split())
    nowhere = own_world / "nowhere"
    nowhere.mkdir()
    tag = ("flow", "tag", "agent", "stable", "--version", "1", "--exclusive", *place(repository))
    kitaru(*tag, cwd=nowhere).refused("is protected", "as applied in generation 1", code=1)
    repository.commit()
    assert repository.plan().is_empty


def test_a_deploy_lifts_no_rule(repository: Repository) -> None:
    """Not where its manifest has none, nor where it asks for less; what it adds is added beside what is there."""
    repository.manifest(BARE + RULES)
    repository.commit()
    kitaru("deploy", AGENT, cwd=repository.folder).must()
    entry = (repository.folder / "kitaru.yaml").read_text(encoding="utf-8").replace(RULES, "")
    git(repository.folder, "switch", "-q", "-c", "feature")
    for rules in ("", "protect: {stable: {clean: true}}\n", "protect: {stable: {branch: feature}}\n"):
        repository.manifest(entry + rules)
        done = kitaru("deploy", AGENT, cwd=repository.folder).must()
        assert "protected" not in done.said
        assert head(repository).flows["agent"].protect == {"stable": MAIN}
    repository.manifest(entry + "protect: {gold: {branch: feature}}\n")
    assert "gold is protected from now on: branch feature" in kitaru("deploy", AGENT, cwd=repository.folder).must().said
    assert head(repository).flows["agent"].protect == {"stable": MAIN, "gold": Protection(branch="feature")}


@pytest.mark.parametrize("how", ["--no-manifest", "another project"])
def test_a_manifest_that_is_not_written_binds_nothing(repository: Repository, how: str) -> None:
    """Where the deploy is none of the manifest's, its rules are not recorded either."""
    repository.manifest(BARE + RULES)
    repository.commit()
    options = (how,) if how.startswith("--") else ("--project", "other")
    kitaru("deploy", AGENT, *options, cwd=repository.folder).must()
    project = "research" if how.startswith("--") else "other"
    assert repository.client(project=project).session.releases.head().flows["agent"].protect == {}
