from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kitaru.model.route import Head, Label, Pin
from tests.manifest_files import FLOW, FULL, HEAD, LAYERED, at, loaded, only, problems


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_manifest_of_the_documentation_loads(folder: Path) -> None:
    """Every key that users are promised is read, with comments and both styles of YAML."""
    found = loaded(folder, FULL)
    agent = found.manifest.flows["research_agent"]
    assert agent.routes == {"default": Pin(1), "stable": Pin(1), "canary": Head(), "benchmark": Label((1, 2))}
    assert agent.inputs == {"topic": "durable execution"}
    assert found.manifest.store == "file://.kitaru/store"
    assert found.root == folder.resolve()
    assert found.path == folder.resolve() / "kitaru.yaml"
    assert found.file == "kitaru.yaml"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("NO", "NO"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("0o14", 12),
        ("0x1F", 31),
        ("014", 14),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("~", None),
        ("", None),
        ("null", None),
        ("true", True),
        ("False", False),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("!!float 1", 1.0),
        ("! 1", "1"),
        ("|\n        a\n        b", "a\nb\n"),
        ('"\\ud83d\\ude00"', "\U0001f600"),
        ("18446744073709551616123", 18446744073709551616123),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(folder: Path, text: str, value: Any) -> None:
    """``yes``, ``on``, dates and underscored numbers are text; the core schema's numbers are numbers."""
    found = loaded(folder, HEAD + f"flows:\n  a:\n    target: a.py:a\n    inputs:\n      x: {text}\n")
    given_value = found.manifest.flows["a"].inputs["x"]
    assert given_value == value
    assert type(given_value) is type(value)


def test_anchors_aliases_and_merge_keys_are_followed(folder: Path) -> None:
    """What a mapping says itself wins over what it merges, and earlier sources over later ones."""
    text = HEAD + (
        "flows:\n"
        "  a: &a\n    target: a.py:a\n    retries: 1\n    cache: true\n    routes: &r {default: 1, stable: 1}\n"
        "  b:\n    <<: *a\n    target: b.py:b\n"
        "  c:\n    retries: 3\n    <<: [{target: c.py:c, timeout: 5}, *a]\n"
        "  d: {target: d.py:d, routes: *r}\n"
    )
    flows = loaded(folder, text).manifest.flows
    assert (flows["b"].target, flows["b"].retries, flows["b"].cache) == ("b.py:b", 1, True)
    assert (flows["c"].target, flows["c"].retries, flows["c"].timeout) == ("c.py:c", 3, 5)
    assert flows["d"].routes == flows["a"].routes == {"default": Pin(1), "stable": Pin(1)}


def test_a_merge_key_in_quotes_is_a_plain_key(folder: Path) -> None:
    """Quotes take the meaning away from << as they do from null."""
    found = loaded(folder, HEAD + 'flows: {a: {target: a.py:a, inputs: {"<<": {x: 1}, "null": 2}}}\n')
    assert found.manifest.flows["a"].inputs == {"<<": {"x": 1}, "null": 2}


def test_a_problem_in_an_aliased_value_stands_where_the_value_is_written(folder: Path) -> None:
    """Two flows share one wrong mapping: one problem, at the mapping's own line."""
    text = HEAD + "flows:\n  a: &a\n    target: a.py:a\n    retries: many\n  b: *a\n  c:\n    <<: *a\n"
    problem = only(folder, text)
    assert (problem.line, problem.column) == at(text, "many")


def test_a_byte_order_mark_and_crlf_are_no_problem(folder: Path) -> None:
    """Files from Windows editors load."""
    assert (
        loaded(folder, b"\xef\xbb\xbf" + FULL.replace("\n", "\r\n").encode()).manifest == loaded(folder, FULL).manifest
    )


# --- overlays ---------------------------------------------------------------------------------------------------------


def test_an_overlay_merges_mappings_and_replaces_all_else(folder: Path) -> None:
    """Key by key; lists and values are replaced; a bare image is its base image; a stack of another type is new."""
    base = loaded(folder, LAYERED).manifest
    assert base.store == "file://.kitaru/store"
    assert set(base.flows) == {"agent"}
    live = loaded(folder, LAYERED, "production").manifest
    assert live.store == "s3://acme/prod"
    assert (live.image.base_image, live.image.requirements) == ("python:3.11", ("httpx",))
    assert live.stacks["prod"].data() == {"type": "kubernetes", "namespace": "live"}
    assert live.source.include == ("c",)
    assert live.flows["agent"].inputs == {"topic": "x", "depth": 9}
    assert live.flows["agent"].routes == {"default": Pin(1), "canary": Head()}
    assert live.flows["extra"].target == "b.py:extra"
    assert loaded(folder, LAYERED, "here").manifest.stacks["prod"].data() == {"type": "local"}


def test_the_digest_tells_targets_apart(folder: Path) -> None:
    """Bytes and target make the digest; nothing else does."""
    digests = {loaded(folder, LAYERED, target).digest for target in (None, "production", "here")}
    assert len(digests) == 3
    named = HEAD + "targets: {'': {store: 'file://x'}}\n"
    assert loaded(folder, named).digest != loaded(folder, named, "").digest
    (folder / "b").mkdir()
    assert loaded(folder / "b", LAYERED).digest in digests


def test_an_unknown_target_lists_the_targets_there_are(folder: Path) -> None:
    """With the likely spelling first."""
    problem = only(folder, LAYERED, "prodution")
    assert problem.message == "there is no target 'prodution'; did you mean 'production'?"
    assert problem.hint == "targets of this manifest: 'production', 'here'"
    assert (problem.line, problem.column) == at(LAYERED, "targets")
    assert only(folder, FLOW, "x").hint == "this manifest has no targets"


def test_problems_point_into_the_overlay_that_the_value_came_from(folder: Path) -> None:
    """Chosen or not, an overlay's mistakes are told once and at their own place; the base keeps its own."""
    text = LAYERED.replace("    inputs:", "    timeout: -1\n    inputs:").replace("depth: 9}", "depth: 9}, retries: x")
    for target in (None, "production", "here"):
        found = problems(folder, text, target)
        places = [(problem.line, problem.column) for problem in found]
        assert places == [at(text, "-1"), at(text, "x, routes")], target


def test_an_overlay_may_complete_what_the_base_leaves_open(folder: Path) -> None:
    """A stack that only an overlay declares is known there, and a tag that only an overlay routes may be protected."""
    text = FLOW + (
        "protect: {stable: {branch: main}}\n"
        "targets: {p: {stacks: {gpu: {type: docker}}, flows: {agent: {stack: gpu, routes: {stable: 1}}}}}\n"
    )
    assert loaded(folder, text).manifest.flows["agent"].stack is None
    assert loaded(folder, text, "p").manifest.flows["agent"].stack == "gpu"


def test_a_repaired_value_is_no_problem_under_its_target(folder: Path) -> None:
    """What the overlay replaces is not judged when that overlay is chosen."""
    text = FLOW + "    stack: nowhere\ntargets: {p: {flows: {agent: {stack: local}}}}\n"
    assert loaded(folder, text, "p").manifest.flows["agent"].stack == "local"
    assert "unknown stack" in only(folder, text).message


@pytest.mark.parametrize(
    "targets", ["3", "[p]", "{p: 3}", "{p: }", "{p: [1]}", "{p: {flows: 3}}", "{p: {flows: {a: 3}}}"]
)
def test_misshapen_overlays_are_problems_too(folder: Path, targets: str) -> None:
    """Whether or not they are chosen."""
    for target in (None, "p"):
        found = problems(folder, HEAD + f"targets: {targets}\n", target)
        assert all(problem.line == 3 for problem in found)


# --- places for later problems ----------------------------------------------------------------------------------------


def test_the_planner_can_place_its_own_problems(folder: Path) -> None:
    """The value behind a path of keys, or the nearest ancestor that the file has."""
    found = loaded(folder, FULL)
    route = found.problem("no version 1", "flows", "research_agent", "routes", "stable", hint="deploy first")
    assert str(route) == "kitaru.yaml:23:15: no version 1"
    assert route.hint == "deploy first"
    label = found.problem("x", "flows", "research_agent", "routes", "benchmark", 1)
    assert (label.line, label.column) == at(FULL, "2]")
    gone = found.problem("x", "flows", "research_agent", "timeout", "deeper")
    assert (gone.line, gone.column) == at(FULL, "research_agent:\n")
    assert found.problem("x").line == 2
    live = loaded(folder, LAYERED, "production")
    place = live.problem("x", "store")
    assert (place.line, place.column) == at(LAYERED, "s3://acme/prod")
    place = live.problem("x", "flows", "agent", "target")
    assert (place.line, place.column) == at(LAYERED, "a.py:agent")
