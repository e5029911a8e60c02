"""A manifest read: its overlays, its places, and each mistake in plain words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from kitaru.errors import KitaruManifestError
from kitaru.manifest import reading
from kitaru.manifest.reading import load
from kitaru.model.route import Head, Label, Pin
from tests.manifest_files import FLOW, FULL, HEAD, LAYERED, at, loaded, only, problems, put


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


def test_a_key_is_its_text(folder: Path) -> None:
    """As in JSON, which has no other keys."""
    found = loaded(folder, HEAD + "flows: {a: {target: a.py:a, inputs: {1: x, true: y, ~: z}}}\n")
    assert found.manifest.flows["a"].inputs == {"1": "x", "true": "y", "~": "z"}


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


# --- mistakes, one by one ---------------------------------------------------------------------------------------------


def case(text: str, needle: str, message: str, hint: str = "") -> Any:
    return pytest.param(text, needle, message, hint, id=message[:40].replace(" ", "-"))


PROBLEMS = [
    case(FLOW + "    route: {}\n", "route:", "unknown key 'route'; did you mean 'routes'?", "known keys here: target"),
    case(HEAD + "flow: {}\n", "flow:", "unknown key 'flow'; did you mean 'flows'?", "known keys"),
    case(HEAD + "image: {requirments: []}\n", "requirments", "unknown key 'requirments'; did you mean 'requirements'?"),
    case(HEAD + "source: {includes: []}\n", "includes", "unknown key 'includes'; did you mean 'include'?"),
    case(HEAD + "stacks: {s: {type: docker, namespace: x}}\n", "namespace", "unknown key 'namespace'", "type, network"),
    case(FLOW + "    base_image: x\n", "base_image", "unknown key 'base_image'", "base_image belongs under image"),
    case(HEAD + "routes: {default: 1}\n", "routes", "unknown key 'routes'", "routes belongs under a flow"),
    case(HEAD + "targets: {p: {stor: 'file://x'}}\n", "stor:", "unknown key 'stor'; did you mean 'store'?"),
    case(HEAD + "targets: {p: {kitaru: 1}}\n", "kitaru: 1}", "unknown key 'kitaru'"),
    case(HEAD + "targets: {p: {flows: {a: {target: 'a.py:a', cach: true}}}}\n", "cach:", "unknown key 'cach'; did you"),
    case(HEAD + "targets: {p: {image: {base: x}}}\n", "base:", "unknown key 'base'; did you mean 'base_image'?"),
    case("kitaru: 1\nproject: 3\n", "3", "expected text, found a number (3)", 'put it in quotes: "3"'),
    case(HEAD + "image: {environment: {V: 1.10}}\n", "1.10", "expected text, found a number (1.1)", '"1.10"'),
    case(HEAD + "image: {environment: {V: true}}\n", "true", "expected text, found true", '"true"'),
    case(
        HEAD + "image: {requirements: httpx}\n", "httpx", "expected a list, found text ('httpx')", "write it as a list"
    ),
    case(HEAD + "image: {apt_packages: [git, 5]}\n", "5", "expected text, found a number (5)"),
    case(HEAD + "image: '12'\n", "'12'", "expected a container image such as python:3.12-slim, found text ('12')"),
    case(HEAD + "image: '3.12'\n", "'3.12'", "expected a container image", "write python:3.12-slim"),
    case(HEAD + "image: ''\n", "''", "expected a container image such as python:3.12-slim, found empty text"),
    case(HEAD + "image: {base_image: Python:3.12}\n", "Python", "expected a container image"),
    case(HEAD + "image: {requirements: [x], base_image: 'null'}\n", "'null'", "expected a container image"),
    case(FLOW + "    image: a b\n", "a b", "expected a container image such as python:3.12-slim, found text ('a b')"),
    case(FLOW + "    image:\n      base_image: -x\n", "-x", "expected a container image"),
    case(HEAD + "targets: {p: {image: '12'}}\n", "'12'", "expected a container image"),
    case(HEAD + "image: {requirements: ['']}\n", "''", "expected a requirement such as httpx>=0.27, found empty text"),
    case(FLOW + "    image: {requirements: [../x]}\n", "../x", "expected a requirement"),
    case(HEAD + "image: {environment: {A B: x}}\n", "A B", "expected the name of a variable", "letters, digits"),
    case(HEAD + "image: {environment: {'': x}}\n", "'': x", "expected the name of a variable"),
    case(HEAD + "image: {environment: {A=B: x}}\n", "A=B", "expected the name of a variable"),
    case(FLOW + "    image: {environment: {1A: x}}\n", "1A", "expected the name of a variable"),
    case(HEAD + 'image: {environment: {A: "x\\0"}}\n', '"x', "expected text without the character U+0000"),
    case(HEAD + "image: {secret_environment_from: [A B]}\n", "A B", "expected the name of a secret"),
    case(HEAD + "image: {secret_environment_from: [ok, '']}\n", "''", "expected the name of a secret"),
    case(HEAD + "image: {apt_packages: [git, a b;rm]}\n", "a b;rm", "expected the name of a Debian package"),
    case(HEAD + "image: {apt_packages: [--yes]}\n", "--yes", "expected the name of a Debian package"),
    case(HEAD + "image: {dockerfile: /etc/x}\n", "/etc/x", "expected a Dockerfile relative to the manifest"),
    case(HEAD + "image: {dockerfile: a/../../x}\n", "a/../../x", "expected a Dockerfile below the manifest's folder"),
    case(FLOW + "    image: {dockerfile: ''}\n", "''", "expected the path of a Dockerfile"),
    case(HEAD + "image: {platform: x y}\n", "x y", "expected a platform such as linux/amd64, found text ('x y')"),
    case(HEAD + "targets: {p: {image: {platform: a/b/c/d}}}\n", "a/b/c/d", "expected a platform"),
    case(HEAD + "image: [a]\n", "image", "expected a base image or a mapping, found a list"),
    case(HEAD + "flows:\n", "flows", "expected a mapping, found nothing", "leave the key out"),
    case(HEAD + "flows: []\n", "flows", "expected a mapping, found an empty list"),
    case(HEAD + "flows: {a: }\n", "a:", "expected a mapping, found nothing"),
    case(FLOW + "    retries: three\n", "three", "expected a whole number, found text ('three')"),
    case(FLOW + "    retries: '3'\n", "'3'", "expected a whole number, found text ('3')", "write 3 without quotes"),
    case(FLOW + "    retries: 1.5\n", "1.5", "expected a whole number, found a number (1.5)"),
    case(FLOW + "    retries: -1\n", "-1", "expected 0 or more, found a number (-1)"),
    case(FLOW + "    retries: true\n", "true", "expected a whole number, found true"),
    case(FLOW + "    timeout: 0\n", "0\n", "expected a number above 0, found a number (0)"),
    case(FLOW + "    timeout: .inf\n", ".inf", "expected a finite number, found .inf"),
    case(FLOW + "    timeout: 1e999\n", "1e999", "expected a finite number, found '1e999', which is too large"),
    case(FLOW + "    inputs: {x: .nan}\n", ".nan", "expected a finite number, found .nan"),
    case(FLOW + "    cache: yes\n", "yes", "expected true or false, found text ('yes')", "YAML 1.2 reads yes"),
    case(FLOW + "    cache: 12\n", "12\n", "expected true or false, found a number (12)"),
    case(
        HEAD + "flows:\n  agent:\n    retries: 1\n",
        "agent",
        "the key 'target' is missing",
        "add target: path/to/file.py:agent",
    ),
    case("project: x\n", "project", "the key 'kitaru' is missing", "begin the file with kitaru: 1"),
    case("kitaru: 1\n", "kitaru", "the key 'project' is missing", "add project: NAME"),
    case(
        "kitaru: 2\nproject: x\nwhat: ever\n", "2", "this manifest has format 2; this Kitaru knows format 1", "upgrade"
    ),
    case("kitaru: 0\nproject: x\n", "0", "expected 1, found a number (0)"),
    case("kitaru: '1'\nproject: x\n", "'1'", "expected 1, found text ('1')", "write 1 without quotes"),
    case("kitaru: -9223372036854775809\nproject: x\n", "-92", "expected 1, found a number (-9223372036854775809)"),
    case("kitaru: true\nproject: x\n", "true", "expected 1, found true"),
    case("kitaru: 1\nproject: My Project\n", "My Project", "expected lower-case letters, digits, - and _"),
    case(HEAD + "flows: {1x: {target: 'a.py:a'}}\n", "1x", "expected letters, digits, _ and -", ""),
    case(
        HEAD + "flows: {a: {target: 'a.py'}}\n", "'a.py'", "expected path/to/file.py:flow or package.module:flow; found"
    ),
    case(
        HEAD + "stacks: {prod: {type: kubernets}}\n",
        "kubernets",
        "unknown type of stack 'kubernets'; did you mean 'kubernetes'?",
        "there are: local, docker, kubernetes",
    ),
    case(HEAD + "stacks: {prod: {}}\n", "prod", "the key 'type' is missing", "local, docker, kubernetes"),
    case(HEAD + "stacks: {prod: {type: 3}}\n", "3", "expected a type of stack, found a number (3)"),
    case(
        HEAD + "stacks: {prod: {type: local, environment: conda}}\n",
        "conda",
        "expected 'current' or 'venv', found text ('conda')",
    ),
    case(
        FLOW + "    routes: {stable: '2'}\n",
        "'2'",
        "route 'stable' of flow 'agent': expected a version number",
        "write 2, without quotes",
    ),
    case(
        FLOW + "    routes: {stable: v2}\n",
        "v2",
        "route 'stable' of flow 'agent': expected a version number",
        "write 2, without quotes or v",
    ),
    case(
        FLOW + "    routes: {stable: latest}\n",
        "latest",
        "route 'stable' of flow 'agent': expected a version number",
        "write head",
    ),
    case(
        FLOW + "    routes: {stable: [1, 1]}\n", "stable", "route 'stable' of flow 'agent': a version is listed twice"
    ),
    case(FLOW + "    routes: {stable: 0}\n", "0}", "route 'stable' of flow 'agent': 0 is not a version number"),
    case(FLOW + "    routes: {default: [1, 2]}\n", "default", "default is always exclusive", "write one version, or"),
    case(FLOW + "    routes: {default: [head]}\n", "default", "default is always exclusive", "write default: head"),
    case(FLOW + "    routes:\n      default: [2]\n", "default", "default is always exclusive", "write default: 2"),
    case(
        HEAD + "targets: {p: {flows: {a: {target: 'a.py:a', routes: {default: [1, 2]}}}}}\n",
        "default",
        "default is always exclusive",
    ),
    case(FLOW + "    routes: {v2: 1}\n", "v2", "expected a tag:"),
    case(FLOW + "    routes: {3: 1}\n", "3", "expected a tag:"),
    case(
        FLOW + "moved: {agent: other}\n",
        "agent: other",
        "flow 'agent' is in this manifest, so it can't have become 'other'",
    ),
    case(
        FLOW + "moved: {old: agnt}\n",
        "agnt",
        "expected a flow of this manifest, found 'agnt'; did you mean 'agent'?",
    ),
    case(
        FLOW + "    stack: prd\nstacks: {prod: {type: docker}}\n",
        "prd",
        "unknown stack 'prd'; did you mean 'prod'?",
        "stacks of this manifest: 'local', 'prod'",
    ),
    case(
        FLOW + "protect:\n  stable: {branch: release/*}\n",
        "release/*",
        "expected the name of a branch, found text ('release/*')",
        "a rule names one branch, no pattern; leave branch out",
    ),
    case(
        FLOW + 'protect: {stable: {branch: ""}}\n',
        '""',
        "expected the name of a branch, found empty text",
        "leave branch out",
    ),
    case(
        FLOW + "protect: {stable: {branch: a b}}\n",
        "a b",
        "expected the name of a branch, found text ('a b')",
        "git check-ref-format --branch NAME",
    ),
    case(HEAD + "store: .kitaru/store\n", ".kitaru", "expected a URL such as file://", "'file://.kitaru/store'"),
    case(HEAD + "store: s4://bucket\n", "s4", "unknown protocol 's4'; did you mean 's3'?"),
    case(HEAD + "store: s3://\n", "s3", "expected a bucket behind s3://, found nothing"),
    case(HEAD + "store: s3://key:secret@bucket/x\n", "s3", "expected no credentials in the store's URL"),
    case(
        HEAD + "source: {include: [/etc]}\n",
        "/etc",
        "expected a pattern relative to the manifest; found the absolute '/etc'",
    ),
    case(
        HEAD + "source: {exclude: [a, ../b]}\n",
        "../b",
        "expected a pattern below the manifest's folder, without ..; found '../b'",
    ),
    case(FLOW + "    source: {include: ['']}\n", "''", "expected a pattern such as flows/**, found empty text"),
    case(
        HEAD + "flows: {a: {target: '/srv/a.py:a'}}\n",
        "'/srv",
        "expected a path relative to the manifest; found the absolute '/srv/a.py'",
    ),
    case(HEAD + "flows: {a: {target: 'x/../../a.py:a'}}\n", "'x/..", "expected a path below the manifest's folder"),
    case(HEAD + "flows: {a: {target: 'flows/a:a'}}\n", "'flows/a", "expected a Python file"),
    case(
        HEAD + "flows: {a: {target: 'my-package.a:a'}}\n",
        "'my-",
        "expected path/to/file.py:flow or package.module:flow",
    ),
    case(
        HEAD + "image: {requirements: ['not ok']}\n",
        "'not ok'",
        "expected a requirement such as httpx>=0.27, found text ('not ok')",
    ),
    case(
        FLOW + "    image: {requirements: ['-r x.txt']}\n",
        "'-r",
        "expected a requirement",
        "options of pip have no place here",
    ),
    case(FLOW + "    inputs: {x: !thing 1}\n", "!thing", "the tag '!thing' has no meaning here"),
    case(FLOW + "    inputs: {x: !!int abc}\n", "!!int", "'abc' is no int, as its tag says"),
    case(FLOW + "    inputs: {? [a] : 1}\n", "[a]", "expected text as a key, found a collection"),
    case(FLOW + '    inputs: {x: "\\ud800"}\n', '"\\ud800"', "expected text, found half of a surrogate pair"),
    case(
        FLOW + "    retries: 1\n    retries: 2\n",
        "retries: 2",
        "the key 'retries' is given twice; first on line 6, column 5",
    ),
    case(
        FLOW + "    inputs: {a: {b: [{c: 1, c: 2}]}}\n",
        "c: 2",
        "the key 'c' is given twice; first on line 6, column 23",
    ),
    case(
        FLOW + "    routes: {beta: {1: 50, 1: 51}}\n",
        "1: 51",
        "the key '1' is given twice; first on line 6, column 21",
        "keep one of the two",
    ),
    case("a: 1\nb: 2\nproject: [\n", "[", "not valid YAML", ""),
    case(HEAD + "flows:\n\ta: 1\n", "\ta", "expected spaces, found a tab"),
    case(HEAD + "store: a: b\n", ": b", "found ':' where no key can be", "quotes"),
    case(HEAD + "store: @x\n", "@x", "found '@', which can't begin a value", "quotes"),
    case(HEAD + "store: *x\n", "*x", "the alias '*x' names no anchor before it"),
    case(HEAD + "flows: &x {a: *x}\n", "&x", "this value holds an alias of itself"),
    case(HEAD + "flows: {<<: 3}\n", "<<", "expected a mapping, or a list of mappings, behind the merge key"),
    case(HEAD + "---\nkitaru: 1\n", "---", "expected one document, found a second"),
    case(HEAD + "store: a\x00b\n", "\x00", "expected printable text, found the character U+0000"),
    case("- kitaru\n", "- kitaru", "expected a mapping at the top (kitaru: 1, project: ...), found a list"),
    case("just text\n", "just", "expected a mapping at the top (kitaru: 1, project: ...), found text ('just text')"),
]


@pytest.mark.parametrize(("text", "needle", "message", "hint"), PROBLEMS)
def test_each_mistake_is_one_problem_with_its_place(
    folder: Path, text: str, needle: str, message: str, hint: str
) -> None:
    """A file with one mistake has one problem: what was found, what was expected, where, and what to do."""
    found = problems(folder, text)
    close = [problem for problem in found if message in problem.message]
    assert len(close) == 1, [str(problem) for problem in found]
    if not message.startswith("not valid YAML"):
        assert (close[0].line, close[0].column) == at(text, needle)
    assert hint in close[0].hint
    assert close[0].file == "kitaru.yaml"
    assert len(found) == 1, [str(problem) for problem in found]


def test_every_problem_is_told_at_once_and_in_order(folder: Path) -> None:
    """YAML's, the schema's, the checks' and an overlay's problems come together, sorted by place."""
    text = (
        "kitaru: 1\nproject: Research\nproject: b\nstor: file://x\n"
        "flows:\n  a: {target: a.py:a, stack: nowhere, retries: x}\n"
        "targets:\n  p: {flows: {a: {cache: 3}}}\nprotect: {gone: {branch: a..b}}\n"
    )
    found = problems(folder, text)
    places = [(problem.line, problem.column) for problem in found]
    assert places == sorted(places)
    assert [problem.message.split(";")[0].split(",")[0] for problem in found] == [
        "expected lower-case letters",
        "the key 'project' is given twice",
        "unknown key 'stor'",
        "unknown stack 'nowhere'",
        "expected a whole number",
        "expected true or false",
        "expected the name of a branch",
    ]


def test_a_file_that_is_not_utf_8_says_so(folder: Path) -> None:
    """The place of the first other byte is named."""
    problem = only(folder, b"kitaru: 1\nproject: caf\xe9\n")
    assert (problem.line, problem.column) == (2, 13)
    assert "expected UTF-8" in problem.message
    assert "UTF-8" in only(folder, "kitaru: 1\n".encode("utf-16")).message


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n", "~\n"])
def test_an_empty_file_leads_to_init(folder: Path, text: str) -> None:
    """No value at all is not a puzzle about missing keys."""
    problem = only(folder, text)
    assert (problem.message, problem.hint) == ("the file is empty", "write one with: kitaru init")


def test_what_is_no_readable_file_is_one_plain_problem(folder: Path) -> None:
    """Missing, a folder, a pipe, a loop of links, too large, unreadable: each named, none a traceback."""
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    with (folder / "large").open("wb") as stream:
        stream.truncate(reading.MAX_BYTES + 1)
    expected = {
        "missing.yaml": "there is no such file",
        "folder": "expected a file, found a folder",
        "folder/none/x.yaml": "there is no such file",
        "loop": "the file can't be read",
        "pipe": "expected a plain file",
        "large": "expected at most 5 MB, found more",
        "nul\0": "the file can't be read",
    }
    if os.geteuid() != 0:
        (folder / "closed").write_text(FULL)
        (folder / "closed").chmod(0)
        expected["closed"] = "the file can't be read: Permission denied"
    for name, message in expected.items():
        with pytest.raises(KitaruManifestError) as refused:
            load(folder / name)
        assert message in refused.value.problems[0].message, name
        assert refused.value.problems[0].file == name
    with pytest.raises(KitaruManifestError) as refused:
        load(Path("missing.yaml"))
    assert "kitaru init" in refused.value.hint


def test_files_outside_the_current_folder_are_named_in_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative where that is shorter and true, absolute elsewhere."""
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    put(folder / "a", "")
    monkeypatch.chdir(folder / "b")
    with pytest.raises(KitaruManifestError) as refused:
        load(Path("../a/kitaru.yaml"))
    assert refused.value.problems[0].file == str(folder.resolve() / "a" / "kitaru.yaml")


def test_a_few_lines_that_expand_to_billions_are_refused(folder: Path) -> None:
    """Aliases of aliases are counted as expanded, before anything expands them; the same for depth."""
    lines = ["kitaru: 1", "project: x", "a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "once aliases are expanded" in only(folder, "\n".join(lines)).message
    merges = [f"a{n}: &a{n} {{b: *a{n - 1}, c: *a{n - 1}}}" for n in range(1, 40)]
    assert "once aliases are expanded" in only(folder, "\n".join([*lines[:3], *merges])).message
    chain = ["a0: &a0 {}", *(f"a{n}: &a{n} {{x: *a{n - 1}}}" for n in range(1, 60))]
    assert "levels deep" in only(folder, "\n".join(chain)).message
    for deep in ("[" * 5000, "- " * 5000, "{a: " * 5000):
        assert "levels deep" in only(folder, deep).message


def test_a_flood_of_problems_is_cut_short(folder: Path) -> None:
    """Twenty thousand unknown keys are answered in bounded time, with the count of the rest or a bounded list."""
    found = problems(folder, HEAD + "".join(f"flow{n}: 1\n" for n in range(20_000)))
    assert 100 <= len(found) <= 501
