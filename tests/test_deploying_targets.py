"""Verbs with --target, and with --manifest-only: whose word is written, and whose word is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from kitaru.manifest.reading import read_manifest
from kitaru.model.manifest import Manifest
from kitaru.model.route import Head, Label, Pin
from tests.repository import FLOWS, Done, Repository, kitaru

BASE = """\
kitaru: 1
project: research
store: file://.kitaru/store
source: {include: ["flows/**"]}
flows:
  agent:
    target: flows/work.py:agent
    routes:
      default: head
      stable: 1
"""
TARGETS = """\
targets:
  prod: {store: "file://.kitaru/prod"}
  stage:
    store: file://.kitaru/stage  # ours
"""
VERBS = (
    ("flow", "tag", "agent", "stable", "--version", "2", "--exclusive"),
    ("flow", "tag", "agent", "bench", "--version", "1"),
    ("promote", "agent", "default", "--to", "stable"),
    ("deploy", "flows/work.py:agent", "--image", "python:3.13"),
    ("deploy", "flows/work.py:agent", "--tag", "bench"),
    ("deploy", "flows/work.py:greeter", "--input", '{"name": "Ann"}'),
    ("build", "flows/work.py:agent", "--image", '{"requirements": ["httpx"]}'),
    ("flow", "deployments", "delete", "--yes", "agent", "--version", "1"),
    ("rollback", "agent", "--write"),
)


def do(repository: Repository, *arguments: str | Path) -> Done:
    return kitaru(*arguments, cwd=repository.folder)


def text(repository: Repository) -> str:
    return (repository.folder / "kitaru.yaml").read_text(encoding="utf-8")


def read(repository: Repository, target: str | None = None) -> Manifest:
    """What the target reads, without the overlays themselves."""
    manifest = read_manifest((repository.folder / "kitaru.yaml").read_bytes(), "kitaru.yaml", target)
    return manifest.model_copy(update={"targets": {}})


@pytest.fixture
def staged(repository: Repository) -> Repository:
    """Two versions in the store of stage, default at the second; no other store has any."""
    repository.manifest(BASE + TARGETS)
    repository.commit()
    do(repository, "apply", "--yes", "--target", "stage").must()
    repository.change("flows/work.py", '"hello"', '"good day"')
    repository.commit()
    do(repository, "apply", "--yes", "--target", "stage").must()
    return repository


def test_a_verb_for_one_target_changes_that_target_alone(staged: Repository) -> None:
    """Each verb in turn: the base and the other target read the same, and stage's manifest agrees with its store."""
    base, prod, first = read(staged), read(staged, "prod"), text(staged)
    for words in VERBS:
        do(staged, *words, "--target", "stage").must()
        assert (read(staged), read(staged, "prod")) == (base, prod), words
        assert text(staged).startswith(first), words
        plan = do(staged, "plan", "--target", "stage", "--allow-dirty", "--detailed-exitcode")
        assert plan.code == 0 or (words[0] == "rollback" and "hold ends" in plan.out), (words, plan.said, text(staged))
    assert "greeter" in read(staged, "stage").flows
    assert not (staged.folder / ".kitaru/prod").exists()


def test_a_tag_that_goes_again_leaves_no_trace(staged: Repository) -> None:
    """What tag made of the overlay, untag takes away to the byte."""
    before = text(staged)
    do(staged, "flow", "tag", "agent", "bench", "--version", "1", "--target", "stage").must()
    assert text(staged) == before + "    flows:\n      agent:\n        routes:\n          bench: [1]\n"
    do(staged, "flow", "untag", "agent", "bench", "--target", "stage").must()
    assert text(staged) == before


def test_what_an_overlay_can_not_say_is_refused_before_anything_moves(staged: Repository) -> None:
    """A route that every target inherits can't go for one of them; the store alone can be changed."""
    before = text(staged)
    refused = do(staged, "flow", "untag", "agent", "stable", "--target", "stage")
    refused.refused("flows.agent.routes.stable", "every target inherits it", "--no-manifest")
    assert text(staged) == before
    place = ("agent", "--target", "stage", "-o", "json")
    assert "stable" in do(staged, "flow", "deployments", "list", *place).must().out
    do(staged, "flow", "untag", "agent", "stable", "--target", "stage", "--no-manifest").must()
    assert "stable" not in do(staged, "flow", "deployments", "list", *place).must().out
    done = do(staged, "import", "--target", "stage").must()
    assert "every target inherits it" in done.out
    assert text(staged) == before


# --- --manifest-only --------------------------------------------------------------------------------------------------


@pytest.fixture
def released(repository: Repository) -> Repository:
    """Three versions, default at the third, stable at the first."""
    repository.manifest(BASE)
    for word in ("hello", "good day", "hi"):
        repository.write("flows/work.py", FLOWS.replace('"hello"', f'"{word}"'))
        repository.commit()
        do(repository, "apply", "--yes").must()
    return repository


def only(repository: Repository, *words: str) -> Done:
    return do(repository, *words, "--manifest-only")


def routes(repository: Repository) -> dict[str, object]:
    return dict(read(repository).flows["agent"].routes)


def test_manifest_only_goes_on_from_the_file(released: Repository) -> None:
    """Each verb takes up what the one before wrote, although the store knows none of it."""
    before, generation = text(released), released.client().session.releases.head().generation
    for version in ("1", "2"):
        only(released, "flow", "tag", "agent", "bench", "--version", version).must()
    assert routes(released)["bench"] == Label((1, 2))
    only(released, "flow", "untag", "agent", "bench", "--version", "1").must()
    assert routes(released)["bench"] == Label((2,))
    only(released, "flow", "untag", "agent", "bench").must()
    assert text(released) == before
    only(released, "flow", "tag", "agent", "canary", "--version", "2", "--exclusive").must()
    only(released, "promote", "agent", "canary", "--to", "default").must()
    assert routes(released) == {"default": Pin(2), "stable": Pin(1), "canary": Pin(2)}
    only(released, "flow", "tag", "agent", "canary", "--version", "3").refused("canary", "exclusive")
    only(released, "deploy", "flows/work.py:agent", "--tag", "canary").refused("canary", "exclusive")
    only(released, "rollback", "agent").must()
    assert routes(released)["default"] == Pin(3)
    assert released.client().session.releases.head().generation == generation


def test_manifest_only_checks_versions_in_the_store(released: Repository) -> None:
    """A version that is not there is refused, also where only the file names it."""
    before = text(released)
    only(released, "flow", "tag", "agent", "bench", "--version", "9").refused("no version 9")
    assert text(released) == before
    released.change("kitaru.yaml", "stable: 1", "stable: 9")
    only(released, "promote", "agent", "stable", "--to", "default").refused("no version 9")


def test_manifest_only_keeps_head(released: Repository) -> None:
    """A label that the file gives head keeps it; a route to head is where the store has it."""
    released.change("kitaru.yaml", "stable: 1", "stable: 1\n      bench: [head]\n      fresh: head")
    only(released, "flow", "tag", "agent", "bench", "--version", "1").must()
    assert routes(released)["bench"] == Label((1, None))
    only(released, "flow", "untag", "agent", "bench", "--version", "1").must()
    assert routes(released)["bench"] == Label((None,))
    only(released, "promote", "agent", "default", "--to", "stable").must()
    assert routes(released) == {"default": Head(), "stable": Pin(3), "bench": Label((None,)), "fresh": Head()}
    only(released, "promote", "agent", "fresh", "--to", "stable").refused("head, which is not applied yet")
