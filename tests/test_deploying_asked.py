"""deploy and its kin asked in odd ways: from elsewhere, about another's flow, with images and tags that are none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kitaru import KitaruClient
from kitaru.client.arguments import asked_image, read_image
from kitaru.client.session import Session
from kitaru.errors import KitaruUsageError
from kitaru.settings import Asked
from tests.repository import FLOWS, MANIFEST, Done, Repository, kitaru

AGENT = "flows/work.py:agent"


def do(repository: Repository, *arguments: str | Path) -> Done:
    return kitaru(*arguments, cwd=repository.folder)


def test_a_flow_of_another_manifest_is_named_with_its_place(own_world: Path) -> None:
    """In a monorepo the command says which manifest declares the flow; the command that it names does the rest."""
    repository = Repository.make(own_world / "repository")
    other = MANIFEST.replace("agent", "greeter").replace("file://.kitaru", f"file://{repository.folder}/.kitaru")
    repository.write("b/kitaru.yaml", other)
    repository.write("b/flows/work.py", FLOWS)
    repository.commit()
    kitaru("deploy", "flows/work.py:greeter", cwd=repository.folder / "b").must()
    words = ("flow", "tag", "greeter", "stable", "--version", "1", "--exclusive")
    done = do(repository, *words).must()
    assert "b/kitaru.yaml of this repository declares greeter and was left as it is" in done.err
    assert "kitaru import greeter, typed beside it" in done.err
    alone = do(repository, *words, "--manifest-only")
    alone.refused("does not declare greeter: b/kitaru.yaml of this repository does", "beside b/kitaru.yaml")
    do(repository, "import", "greeter").refused("b/kitaru.yaml declares it", "typed beside b/kitaru.yaml")
    kitaru("import", "greeter", cwd=repository.folder / "b").must()
    assert "stable: 1" in (repository.folder / "b/kitaru.yaml").read_text(encoding="utf-8")
    assert "greeter" not in (repository.folder / "kitaru.yaml").read_text(encoding="utf-8")


def test_a_hold_that_ends_is_said(repository: Repository) -> None:
    """Tagging a route to where a rollback holds it moves nothing, and ends the hold all the same."""
    do(repository, "deploy", AGENT).must()
    do(repository, "deploy", AGENT).must()
    do(repository, "rollback", "agent").must()
    words = ("flow", "tag", "agent", "default", "--version", "1", "--exclusive", "--no-manifest")
    done = do(repository, *words).must()
    assert "agent: default* leads to v1 already; the rollback's hold ends" in done.out
    assert "hold" not in do(repository, *words).must().out


@pytest.mark.parametrize(
    "image", ["null", "12", "3.12", "3.12.1", "true", '"{}"', '""', "[]", "Python:3.12", "-x", "a b", "python:"]
)
def test_an_image_that_is_none_is_refused(repository: Repository, image: str) -> None:
    """On the command line and in Python alike; no version is made."""
    do(repository, "deploy", AGENT, f"--image={image}").refused("image")
    client = repository.client()
    if image != '"{}"':
        with pytest.raises(KitaruUsageError, match="image"):
            client.deployments.deploy(AGENT, image=image)
    assert client.session.releases.head().generation == 0


@pytest.mark.parametrize(
    "name",
    [
        "python",
        "python:3.12-slim",
        "ghcr.io/acme/base_image:1.2",
        "localhost:5000/a/b",
        "a--b__c.d",
        f"x@sha256:{'a' * 64}",
    ],
)
def test_names_of_container_images_are_taken(name: str) -> None:
    """With and without registry, tag and digest."""
    image = asked_image(name)
    assert image is not None and image.base_image == name
    assert read_image(f" {name}\n") == name


def test_image_settings_as_json_text_are_settings(repository: Repository) -> None:
    """In Python as on the command line: never the name of a base image."""
    made = repository.client().deployments.deploy(AGENT, image='{"requirements": ["httpx"]}')
    assert made.details is not None
    assert made.details.image.requirements == ("httpx",)
    assert made.details.image.base_image is None


@pytest.mark.parametrize(
    ("verb", "given"),
    [
        ("deploy", {"target": AGENT, "tag": ["a", "b"]}),
        ("deploy", {"target": AGENT, "exclusive": "yes"}),
        ("deploy", {"target": AGENT, "manifest": "none"}),
        ("tag", {"flow": "agent", "tag": ["a"], "version": 1}),
        ("tag", {"flow": "agent", "tag": "a", "version": 1, "exclusive": "yes"}),
        ("untag", {"flow": "agent", "tag": None}),
        ("promote", {"flow": "agent", "source": ["a"], "to": "b"}),
        ("promote", {"flow": "agent", "source": "default", "to": ["b"]}),
        ("rollback", {"flow": "agent", "tag": {"a": 1}}),
        ("rollback", {"flow": "agent", "write": "no"}),
        ("delete", {"flow": "agent", "version": 1, "manifest": "only"}),
    ],
)
def test_arguments_of_another_kind_are_refused(repository: Repository, verb: str, given: dict[str, Any]) -> None:
    """A list of tags, a text for a switch: said in words, and nothing has happened."""
    client = repository.client()
    client.deployments.deploy(AGENT)
    generation = client.session.releases.head().generation
    with pytest.raises(KitaruUsageError):
        getattr(client.deployments, verb)(**given)
    assert client.session.releases.head().generation == generation


SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from flows.work import agent
made = agent.deploy(topic="a")
print(json.dumps([made.flow, made.version]))
"""


def test_a_flow_is_deployed_where_its_file_is_at_home(repository: Repository, own_world: Path) -> None:
    """A script that runs elsewhere deploys by the manifest around the flow's file: its store, its project."""
    nowhere = own_world / "nowhere"
    nowhere.mkdir()
    before = (repository.folder / "kitaru.yaml").read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(repository.folder)],
        cwd=nowhere,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["agent", 1]
    assert repository.client().deployments.get("agent", version=1).version == 1
    assert (repository.folder / "kitaru.yaml").read_bytes() != before


def test_which_session_a_file_belongs_to(
    repository: Repository, own_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest of the current folder where the file is below it; one that was named, always."""
    file = repository.folder / "flows/work.py"
    other = Repository.make(own_world / "other")
    monkeypatch.chdir(repository.folder)
    here = Session(Asked())
    assert here.around(file) is here
    assert here.around(own_world / "lonely.py") is here
    assert here.around(other.folder / "flows/work.py").settings.manifest == other.folder.resolve() / "kitaru.yaml"
    named = Session(Asked(manifest=repository.folder / "kitaru.yaml"))
    assert named.around(other.folder / "flows/work.py") is named


def test_history_of_a_former_name_has_the_whole_rename(repository: Repository) -> None:
    """What a generation that renames a flow did to it is the flow's own, though under its new name."""
    do(repository, "deploy", AGENT).must()
    text = (repository.folder / "kitaru.yaml").read_text(encoding="utf-8")
    renamed = text.replace("  agent:\n", "  scout:\n").replace("default: 1", "default: head\n      canary: head")
    repository.manifest(renamed.replace("flows:\n", "moved: {agent: scout}\nflows:\n", 1))
    repository.change("flows/work.py", '"hello"', '"good day"')
    repository.commit()
    repository.apply()
    client = KitaruClient(manifest=repository.folder / "kitaru.yaml")
    newest = client.history.list("agent").generations[0]
    assert newest.others == 0
    assert len(newest.edits) >= 3
    assert client.history.list("scout").generations[0].others == 0


def test_a_repository_without_a_commit_names_the_next_step(own_world: Path) -> None:
    """The working tree is packed, but its version names a commit."""
    repository = Repository.make(own_world / "repository")
    subprocess.run(["git", "update-ref", "-d", "HEAD"], cwd=repository.folder, check=True, timeout=30)
    do(repository, "deploy", AGENT).refused("has no commit yet", "git add -A && git commit")
