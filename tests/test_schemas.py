from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings

from kitaru import data_files
from kitaru.cli import schema as schema_module
from kitaru.manifest.yaml import parse
from kitaru.model.manifest import Manifest
from tests.manifest_files import FLOW, FULL, HEAD, LAYERED
from tests.manifest_strategies import MANIFESTS

ROOT = Path(schema_module.__file__).resolve().parents[2]


def data(text: str) -> Any:
    tree = parse(text)
    assert not tree.problems
    return tree.data


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema_module.json_schema(name))


def test_the_published_files_are_in_step_with_the_models() -> None:
    """schemas/ holds exactly what the models say; if not: python -m kitaru.cli.schema --write schemas."""
    published = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "schemas").iterdir()}
    assert published == {f"{name}.schema.json": schema_module.render(name) for name in schema_module.PUBLISHED}
    assert data_files.schema_names() == tuple(sorted(schema_module.PUBLISHED))
    assert data_files.schema("kitaru") == schema_module.render("kitaru")


@pytest.mark.parametrize("name", list(schema_module.PUBLISHED))
def test_every_schema_is_one_of_draft_2020_12(name: str) -> None:
    """With an id, a title and a description, and every reference in it leads somewhere."""
    schema = json.loads(schema_module.render(name))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"].endswith(f":{name}")
    assert schema["title"] and schema["description"]
    text = json.dumps(schema)
    for reference in {part.split('"')[0] for part in text.split('"$ref": "#/$defs/')[1:]}:
        assert reference in schema["$defs"]


@pytest.mark.parametrize(
    "text",
    [
        FULL,
        FULL.replace("      benchmark: [1, 2]\n", "      beta: {2: 10, 1: 90}\n      mixed: [1, head]\n"),
        FULL.replace("    image: {secret_environment_from: [openai-creds]}\n", "    image: python:3.12\n"),
        HEAD + "image: python:3.11-slim\n",
        FLOW,
        LAYERED,
        HEAD,
    ],
)
def test_the_manifest_schema_accepts_what_kitaru_accepts(text: str) -> None:
    """Every example of the documentation, with an image as a bare text, and overlays that leave things out."""
    assert list(validator("kitaru").iter_errors(data(text))) == []


@settings(deadline=None, max_examples=50)
@given(MANIFESTS)
def test_the_manifest_schema_accepts_any_valid_manifest(manifest: dict[str, Any]) -> None:
    """What the models take, the schema takes."""
    Manifest.model_validate_json(json.dumps(manifest))
    assert list(validator("kitaru").iter_errors(manifest)) == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (HEAD + "oops: 1\n", []),
        (HEAD + "image: {oops: 1}\n", ["image"]),
        (HEAD + "source: {oops: 1}\n", ["source"]),
        (FLOW + "    oops: 1\n", ["flows", "agent"]),
        (FLOW + "    image: {oops: 1}\n", ["flows", "agent", "image"]),
        (HEAD + "stacks: {s: {type: local, oops: 1}}\n", ["stacks", "s"]),
        (HEAD + "stacks: {s: {type: lokal}}\n", ["stacks", "s"]),
        (HEAD + "protect: {stable: {oops: 1}}\n", ["protect", "stable"]),
        (HEAD + "targets: {p: {oops: 1}}\n", ["targets", "p"]),
        (HEAD + "targets: {p: {flows: {a: {oops: 1}}}}\n", ["targets", "p", "flows"]),
        (HEAD + "targets: {p: {stacks: {a: {oops: 1}}}}\n", ["targets", "p", "stacks"]),
        (HEAD + "targets: {p: {protect: {stable: {oops: 1}}}}\n", ["targets", "p", "protect"]),
        (FLOW + "    routes: {stable: latest}\n", ["flows", "agent", "routes", "stable"]),
        (FLOW + "    routes: {stable: 0}\n", ["flows", "agent", "routes", "stable"]),
        (FLOW + "    routes: {stable: []}\n", ["flows", "agent", "routes", "stable"]),
        (FLOW + "    routes: {beta: {one: 100}}\n", ["flows", "agent", "routes", "beta"]),
        (FLOW + "    routes: {default: [1, 2]}\n", ["flows", "agent", "routes", "default"]),
        (HEAD + "targets: {p: {flows: {a: {routes: {default: [head]}}}}}\n", ["targets", "p", "flows"]),
        (FLOW + "    routes: {Stable: 1}\n", ["flows", "agent", "routes"]),
        (FLOW + "    retries: three\n", ["flows", "agent", "retries"]),
        (HEAD + "flows: {1x: {target: 'a.py:a'}}\n", ["flows"]),
        (HEAD + "flows: {a: {target: a.py}}\n", ["flows", "a", "target"]),
        (HEAD + "flows: {a: {}}\n", ["flows", "a"]),
        ("kitaru: 2\nproject: x\n", ["kitaru"]),
        ("kitaru: 1\nproject: A b\n", ["project"]),
        ("kitaru: 1\n", []),
    ],
)
def test_the_manifest_schema_refuses_what_kitaru_refuses(text: str, place: list[str]) -> None:
    """An editor underlines the mistake, at the value or mapping that holds it."""
    errors = list(validator("kitaru").iter_errors(data(text)))
    assert [list(error.absolute_path)[: len(place)] for error in errors] == [place]


def test_all_schemas_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Into a folder, each path on a line; nothing else is understood."""
    schema_module.main(["--write", str(tmp_path / "new")])
    paths = {tmp_path / "new" / f"{name}.schema.json" for name in schema_module.PUBLISHED}
    assert set((tmp_path / "new").iterdir()) == paths == {Path(line) for line in capsys.readouterr().out.splitlines()}
    with pytest.raises(SystemExit):
        schema_module.main(["nothing"])


def test_data_files_are_read_by_plain_names_only() -> None:
    """A name is a name, never a way out of the folder."""
    assert "flows:" in data_files.template("kitaru.yaml.j2")
    for name in ("../pyproject.toml", "none", "/etc/passwd"):
        with pytest.raises(FileNotFoundError):
            data_files.template(name)
        with pytest.raises(FileNotFoundError):
            data_files.schema(name)


def test_an_installed_package_carries_its_own_data(tmp_path: Path) -> None:
    """Inside a wheel the files lie in kitaru/_data, and those are the ones that are read."""
    package = tmp_path / "kitaru"
    package.mkdir()
    shutil.copy(data_files.__file__, package / "data_files.py")
    shutil.copytree(ROOT / "templates", package / "_data" / "templates")
    shutil.copytree(ROOT / "schemas", package / "_data" / "schemas")
    (package / "__init__.py").touch()
    script = (
        "from kitaru import data_files as files\n"
        "print(files.__file__, files.template('gitignore'), files.schema_names())\n"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.startswith(str(package))
    assert ".kitaru/" in run.stdout and "lockfile" in run.stdout
