"""deploy, build and the verbs that move routes: what the store has then, and that the manifest agrees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kitaru import KitaruClient
from kitaru.core.routing import flow_name, same_target
from kitaru.errors import KitaruBackendError, KitaruStateError, KitaruUsageError
from kitaru.manifest import edit as manifest_edits
from kitaru.model.lockfile import Lockfile
from kitaru.model.manifest import Manifest
from tests.repository import CHECKOUT, FLOWS, MANIFEST, Done, Repository, git, kitaru, new_git

AGENT = "flows/work.py:agent"


def do(repository: Repository, *arguments: str | Path) -> Done:
    return kitaru(*arguments, cwd=repository.folder)


def table(repository: Repository, flow: str = "agent", *options: str) -> list[str]:
    """The first three columns of ``flow deployments list``, without the flow's name."""
    lines = do(repository, "flow", "deployments", "list", flow, *options).must().out.splitlines()[1:]
    return [" ".join([cells[1], *_tags(cells)]) for cells in map(str.split, lines)]


def _tags(cells: list[str]) -> list[str]:
    found = []
    for cell in cells[2:]:
        found.append(cell.rstrip(","))
        if not cell.endswith(","):
            break
    return found


def quiet(repository: Repository) -> None:
    """The next plan finds nothing to do, before the manifest is committed and after."""
    done = do(repository, "plan", "--allow-dirty", "--detailed-exitcode")
    assert done.code == 0, done.said
    repository.commit()
    done = do(repository, "plan", "--detailed-exitcode")
    assert done.code == 0, done.said


def head(repository: Repository) -> Lockfile:
    return repository.client().session.releases.head()


def manifest(repository: Repository) -> str:
    return (repository.folder / "kitaru.yaml").read_text(encoding="utf-8")


@pytest.fixture
def fresh(own_world: Path) -> Repository:
    """A manifest that declares no flow yet."""
    text = "kitaru: 1\nproject: research\nstore: file://.kitaru/store # here\nflows: {}\n"
    return Repository.make(own_world / "repository", manifest=text)


# --- deploy and build -------------------------------------------------------------------------------------------------


def test_each_deploy_mints_a_version(fresh: Repository) -> None:
    """Even of equal content; the first gets default, later ones move it; the manifest has the flow, and a number."""
    done = do(fresh, "deploy", AGENT, "--input", '{"topic": "x"}').must()
    assert "agent v1  default*" in done.out and "kitaru.yaml says so too" in done.out
    assert "try it: kitaru invoke agent --wait" in done.out
    quiet(fresh)
    assert "default: v1 → v2" in do(fresh, "deploy", AGENT).must().out
    assert table(fresh) == ["1 -", "2 default*"]
    quiet(fresh)
    text = manifest(fresh)
    assert "store: file://.kitaru/store # here\n" in text and "default: 2" in text and "topic: x" in text
    assert repository_snapshot(fresh, 1) == repository_snapshot(fresh, 2)


def repository_snapshot(repository: Repository, version: int) -> str:
    return repository.client().deployments.get("agent", version=version).snapshot


def test_the_first_deploy_gets_default_besides(fresh: Repository) -> None:
    """--tag canary at the very first deploy: the flow can be invoked by its name alone as well."""
    do(fresh, "deploy", AGENT, "--tag", "canary", "--exclusive").must()
    assert table(fresh) == ["1 canary* default*"]
    quiet(fresh)


def test_build_leaves_a_version_without_a_route(fresh: Repository) -> None:
    """Nothing leads to it until a tag is moved, the first version too, and the manifest agrees."""
    done = do(fresh, "build", AGENT).must()
    assert "next: kitaru flow tag agent canary --version 1 --exclusive" in done.out
    assert table(fresh) == ["1 -"]
    quiet(fresh)
    do(fresh, "invoke", "agent", "--input", '{"topic": "x"}').refused("not routed as default")
    do(fresh, "deploy", AGENT, "--tag", "canary").must()
    assert table(fresh) == ["1 -", "2 canary"]
    quiet(fresh)


@pytest.mark.parametrize("wish", ["head", "{head: 10, 1: 90}"])
def test_routes_that_follow_head_stay_where_they_are(repository: Repository, wish: str) -> None:
    """A canary moves neither default nor a divided route, though the manifest led them to the newest version."""
    repository.apply()
    repository.manifest(MANIFEST + f"      beta: {wish}\n".replace("10, 1: 90", "10, 2: 90"))
    repository.change("flows/work.py", '"hello"', '"hi"')
    repository.commit()
    if wish == "head":
        repository.apply()
    else:
        repository.manifest(MANIFEST + "      beta: {1: 100}\n")
        repository.commit()
        repository.apply()
        repository.manifest(MANIFEST + "      beta: {1: 90, head: 10}\n")
        repository.commit()
        repository.apply()
    before = {tag: route.holders for tag, route in head(repository).flows["agent"].routes.items()}
    repository.change("flows/work.py", '"hi"', '"good day"')
    done = do(repository, "deploy", AGENT, "--tag", "canary", "--exclusive").must()
    assert "note: default stays where it is, so the manifest now says so" in done.err
    after = {tag: route.holders for tag, route in head(repository).flows["agent"].routes.items()}
    assert {tag: after[tag] for tag in before} == before
    assert after["canary"][0].version == 3
    quiet(repository)


def test_build_takes_out_a_route_that_would_lead_there(repository: Repository) -> None:
    """A manifest that leads default to head, and a build: the next apply must not route it."""
    done = do(repository, "build", AGENT).must()
    assert "default was taken out of the manifest" in done.err
    quiet(repository)


def test_a_deployed_tag_that_follows_head_still_does(repository: Repository) -> None:
    """default: head and a deploy to default agree; the file is not touched."""
    before = manifest(repository)
    do(repository, "deploy", AGENT).must()
    do(repository, "deploy", AGENT).must()
    assert manifest(repository) == before
    assert table(repository) == ["1 -", "2 default*"]
    quiet(repository)


def test_uncommitted_source_is_built_and_said(repository: Repository) -> None:
    """The working tree as it is, untracked files too; the manifest's own change does not count."""
    do(repository, "deploy", AGENT, "--tag", "canary", "--exclusive").must()
    assert not repository.client().deployments.get("agent", version=1).commit_dirty
    done = do(repository, "deploy", AGENT, "--input", '{"topic": "y"}').must()
    assert "not committed" not in done.err
    repository.change("flows/work.py", '"hello"', '"hi"')
    done = do(repository, "deploy", AGENT).must()
    assert "note: built with 1 file not committed (flows/work.py); that is recorded" in done.err
    assert repository.client().deployments.get("agent", version=3).commit_dirty
    quiet(repository)


def test_labels_and_exclusive_tags_do_not_mix(fresh: Repository) -> None:
    """A shared tag on an exclusive one is refused before anything is built or written."""
    do(fresh, "deploy", AGENT, "--tag", "canary", "--exclusive").must()
    text, at = manifest(fresh), head(fresh).generation
    do(fresh, "deploy", AGENT, "--tag", "canary").refused("pass --exclusive to move it")
    do(fresh, "flow", "tag", "agent", "canary", "--version", "1").refused("pass --exclusive to move it")
    assert (manifest(fresh), head(fresh).generation) == (text, at)


IMAGES = {
    "python:3.12-slim": {"base_image": "python:3.12-slim"},
    '{"apt_packages": ["jq"]}': {"apt_packages": ["jq"]},
    '"python:3.13"': {"base_image": "python:3.13"},
    "@plain.txt": {"base_image": "python:3.12-slim"},
    "@text.json": {"base_image": "python:3.13"},
    "@object.json": {"base_image": "x", "requirements": ["httpx"]},
}


@pytest.mark.parametrize("given", list(IMAGES))
def test_the_shapes_of_an_image(fresh: Repository, given: str) -> None:
    """A base image, JSON, and a file with plain text, a JSON string or a JSON object."""
    folder = fresh.folder / ".kitaru"
    folder.mkdir()
    (folder / "plain.txt").write_text("python:3.12-slim\n")
    (folder / "text.json").write_text('"python:3.13"')
    (folder / "object.json").write_text('{"base_image": "x", "requirements": ["httpx"]}')
    text = given.replace("@", f"@{folder}/")
    do(fresh, "deploy", AGENT, "--image", text).must()
    details = fresh.client().deployments.get("agent").details
    assert details is not None and details.image.data() == IMAGES[given]
    quiet(fresh)
    # Given again in part, the rest stays.
    do(fresh, "deploy", AGENT, "--image", '{"user": "me"}').must()
    details = fresh.client().deployments.get("agent").details
    assert details is not None and details.image.data() == {**IMAGES[given], "user": "me"}
    quiet(fresh)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((AGENT, "--image", '{"requirement": []}'), "requirement: Extra inputs"),
        ((AGENT, "--image", "[1]"), "expected python:3.12-slim or an object of image settings"),
        ((AGENT, "--image", "@nope"), "nope can't be read"),
        ((AGENT, "--image", '{"a"'), "this image is neither a base image nor image settings"),
        ((AGENT, "--image", "two words"), "expected a container image such as python:3.12-slim, found 'two words'"),
        ((AGENT, "--input", "[1]"), "expected an object"),
        ((AGENT, "--input", '{"topi": "x"}'), "did you mean topic?"),
        ((AGENT, "--stack", "prod"), "asks for stack prod, which is not declared; there are: local"),
        ((AGENT, "--tag", "V 2"), "can't be a tag"),
        ((AGENT, "--manifest-only", "--no-manifest"), "exclude each other"),
        (("flows/work.py:agnt",), "did you mean agent?"),
        (("flows/wrk.py:agent",), "there is no file flows/wrk.py"),
        (("flows/work.py",), "names no flow"),
        (("nobody",), "names no flow"),
        (("/etc/hosts.py:x",), "there is no file"),
    ],
)
def test_deploys_that_are_refused(fresh: Repository, words: tuple[str, ...], said: str) -> None:
    """In words, with exit code 2, and neither the store nor the manifest has changed."""
    text = manifest(fresh)
    do(fresh, "deploy", *words).refused(said)
    assert head(fresh).generation == 0 and manifest(fresh) == text


def test_targets(repository: Repository) -> None:
    """A file from any folder, a module, or the manifest's own name for it: all the same flow."""
    repository.manifest(MANIFEST.replace("  agent:", "  my-agent:"))
    repository.commit()
    for place, target in (
        ("", AGENT),
        ("flows", "work.py:agent"),
        ("flows", AGENT),
        ("", "./flows/../flows/work.py:agent"),
        ("", "flows.work:agent"),
        ("", "my-agent"),
        ("", str(repository.folder / "flows" / "work.py") + ":agent"),
    ):
        kitaru("build", target, cwd=repository.folder / place).must()
    (flow,) = repository.client().deployments.flows()
    assert (flow.flow, flow.latest) == ("my-agent", 7)
    assert "agent:" not in manifest(repository).replace("my-agent:", "")


def test_names_that_clash() -> None:
    """A name that the manifest uses for another target, and a target with two names, are told apart by people."""
    made = Manifest.model_validate(
        {"kitaru": 1, "project": "p", "flows": {"a": {"target": "x.py:a"}, "b": {"target": "x:c"}}}
    )
    assert flow_name(made, "x.py:c") == "b" and flow_name(made, "x.py:new") == "new" and flow_name(made, "x:a") == "a"
    with pytest.raises(KitaruUsageError, match=r"declares a already, with target x\.py:a, not y\.py:a"):
        flow_name(made, "y.py:a")
    twice = made.model_copy(update={"flows": {**made.flows, "c2": made.flows["b"]}})
    with pytest.raises(KitaruUsageError, match="more than once: b, c2"):
        flow_name(twice, "x.py:c")
    assert same_target("pkg/__init__.py:f", "pkg:f") and not same_target("a.py:f", "a.py:g")


def test_without_a_manifest(own_world: Path) -> None:
    """The store alone, and the Git repository around the file is the source; no repository or commit is told."""
    folder = own_world / "bare"
    (folder / "flows").mkdir(parents=True)
    (folder / "flows" / "work.py").write_text(FLOWS)
    kitaru("deploy", AGENT, cwd=folder).refused("is not in a Git repository", "git init")
    new_git(folder)
    kitaru("deploy", AGENT, cwd=folder).refused("has no commit yet", "git add -A && git commit")
    Repository(folder).commit()
    kitaru("deploy", "work.py:agent", "--manifest-only", cwd=folder / "flows").refused("no kitaru.yaml", "kitaru init")
    done = kitaru("deploy", "work.py:agent", "-o", "json", cwd=folder / "flows").must().json
    assert (done["item"]["flow"], done["item"]["target"], done["item"]["manifest"]) == ("agent", AGENT, None)
    assert kitaru("invoke", "agent", "--input", '{"topic": "x"}', "--wait", cwd=folder).must().out == "HELLO X\n"
    kitaru("flow", "tag", "agent", "stable", "--version", "1", "--exclusive", cwd=folder).must()
    assert not (folder / "kitaru.yaml").exists()


# --- the manifest -----------------------------------------------------------------------------------------------------


def test_manifest_only(repository: Repository) -> None:
    """For a pull request: the file asks for what the command would have done, and apply then does it."""
    repository.apply()
    repository.change("flows/work.py", '"hello"', '"hi"')
    done = do(repository, "deploy", AGENT, "--tag", "canary", "--exclusive", "--manifest-only").must()
    assert "+      canary: head" in done.out and "+      default: 1" in done.out
    assert head(repository).generation == 1
    repository.commit()
    repository.apply()
    assert table(repository) == ["1 default*", "2 canary*"]
    for words, line in (
        (("flow", "tag", "agent", "stable", "--version", "2", "--exclusive"), "+      stable: 2"),
        (("flow", "tag", "agent", "bench", "--version", "2"), "+      bench: [2]"),
        (("promote", "agent", "canary", "--to", "default"), "+      default: 2"),
        (("flow", "untag", "agent", "canary"), "-      canary: head"),
    ):
        assert line in do(repository, *words, "--manifest-only").must().out
    assert head(repository).generation == 2
    repository.commit()
    repository.apply(prune=True)
    assert table(repository) == ["1 -", "2 bench default* stable*"]


def test_no_manifest(repository: Repository) -> None:
    """The store alone; the plan shows the drift."""
    repository.apply()
    before = manifest(repository)
    repository.change("flows/work.py", '"hello"', '"good day"')
    repository.commit()
    do(repository, "deploy", AGENT, "--no-manifest", "--tag", "canary").must()
    do(repository, "flow", "tag", "agent", "default", "--version", "1", "--exclusive", "--no-manifest").must()
    assert manifest(repository) == before
    assert "default" in do(repository, "plan").must().out


def test_the_manifest_of_another_place_is_left_alone(repository: Repository, own_world: Path) -> None:
    """--store or --project that are not the manifest's: what it says is not about them."""
    before = manifest(repository)
    done = do(repository, "deploy", AGENT, "--store", f"file://{own_world / 's'}").must()
    assert "kitaru.yaml was left as it is: it is about store file://.kitaru/store" in done.err
    done = do(repository, "deploy", AGENT, "--project", "other").must()
    assert "it is about project research, this is other" in done.err
    assert manifest(repository) == before and head(repository).generation == 0


def test_a_flow_that_the_manifest_does_not_have(repository: Repository) -> None:
    """Its routes move in the store, and it is said how the manifest gets it."""
    do(repository, "deploy", "flows/work.py:greeter", "--no-manifest").must()
    before = manifest(repository)
    done = do(repository, "flow", "tag", "greeter", "stable", "--version", "1", "--exclusive").must()
    assert "kitaru import greeter adds it" in done.err
    assert manifest(repository) == before
    do(repository, "flow", "tag", "greeter", "x", "--version", "1", "--manifest-only").refused(
        "does not declare greeter"
    )


def test_an_edit_that_can_not_be_made_is_refused_first(repository: Repository) -> None:
    """Routes that another flow shares by an anchor, and a file that is no manifest: the store has not changed."""
    text = MANIFEST.replace("    routes:\n      default: head\n", "    routes: &both {default: head}\n")
    repository.manifest(text + "  greeter:\n    target: flows/work.py:greeter\n    routes: *both\n")
    for words in (
        ("deploy", "agent", "--tag", "canary"),
        ("deploy", "agent", "--tag", "canary", "--manifest-only"),
    ):
        do(repository, *words).refused(
            "can't be changed here by a command", "aliases such as *both", "edit the file by hand"
        )
    assert head(repository).generation == 0
    do(repository, "deploy", "agent", "--no-manifest").must()
    do(repository, "flow", "tag", "agent", "x", "--version", "1").refused("can't be changed here by a command")
    assert head(repository).generation == 1
    whole = manifest(repository)
    repository.manifest(whole + "nonsense: 1\n")
    do(repository, "flow", "tag", "agent", "x", "--version", "1").refused("unknown key 'nonsense'")
    repository.manifest(whole)
    assert head(repository).generation == 1


def test_a_manifest_that_can_not_be_written_afterwards(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store has changed then: exit 0, with a warning, since repeating it would mint another version."""

    def write(*_: Any) -> None:
        raise KitaruBackendError("kitaru.yaml can't be written: the disk is full")

    monkeypatch.setattr(manifest_edits, "write", write)
    done = do(repository, "deploy", AGENT, "--tag", "canary", "-o", "json").must()
    assert "warning: done in the store, but kitaru.yaml could not be changed: " in done.err
    assert done.json["item"]["version"] == 1 and "disk is full" in done.json["item"]["manifest"]["problem"]


def test_an_overlay_is_edited_where_it_has_its_own_word(repository: Repository) -> None:
    """--target production: its routes move in its overlay, and in its store; the plain manifest stays as it is."""
    overlay = """\
targets:
  production:
    store: file://.kitaru/production  # the real one
    flows:
      agent:
        routes: {default: 1}
"""
    repository.manifest(MANIFEST + overlay)
    repository.commit()
    for words in (
        ("deploy", AGENT),
        ("deploy", AGENT, "--tag", "canary", "--exclusive"),
        ("flow", "tag", "agent", "default", "--version", "2", "--exclusive"),
    ):
        do(repository, *words, "--target", "production").must()
        do(repository, "plan", "--target", "production", "--allow-dirty", "--detailed-exitcode").must()
    text = manifest(repository)
    assert text.startswith(MANIFEST) and "routes: {default: 2, canary: 2}" in text and "# the real one" in text
    assert table(repository, "agent", "--target", "production") == ["1 -", "2 canary* default*"]
    assert head(repository).generation == 0


def test_monorepo(own_world: Path) -> None:
    """Each manifest has its own flows; a name that another one declares in the same project is not taken over."""
    repository = Repository.make(own_world / "repository")
    other = MANIFEST.replace("agent", "greeter").replace("file://.kitaru", f"file://{repository.folder}/.kitaru")
    repository.write("b/kitaru.yaml", other)
    repository.write("b/flows/work.py", FLOWS)
    repository.commit()
    kitaru("deploy", "flows/work.py:greeter", cwd=repository.folder / "b").must()
    do(repository, "deploy", AGENT).must()
    repository.commit()
    for place in ("", "b"):
        kitaru("plan", "--detailed-exitcode", cwd=repository.folder / place).must()
    done = kitaru("deploy", AGENT, cwd=repository.folder / "b")
    done.refused("agent of project research is declared by kitaru.yaml at the root")


def test_a_rename_that_is_still_to_be_made(repository: Repository) -> None:
    """A new name would take the number 1 of a flow that has versions under its old one."""
    repository.apply()
    text = MANIFEST.replace("  agent:", "  researcher:").replace("flows:\n", "moved: {agent: researcher}\nflows:\n")
    repository.manifest(text)
    do(repository, "deploy", AGENT).refused("renames agent to researcher, and that is still to be done", code=1)
    repository.commit()
    repository.apply()
    do(repository, "deploy", AGENT).must()
    assert table(repository, "researcher") == ["1 -", "2 -", "3 default*"]


# --- routes -----------------------------------------------------------------------------------------------------------


def grown(repository: Repository, versions: int = 3) -> None:
    for number in range(versions):
        repository.change("flows/work.py", 'GREETING = "', f'GREETING = "{number}')
        do(repository, "build" if number else "deploy", AGENT).must()


def test_every_verb_leaves_a_quiet_plan(repository: Repository) -> None:
    """Tags, labels, promotion, deletion: whatever moves in the store, the manifest agrees."""
    grown(repository)
    for words in (
        ("flow", "tag", "agent", "stable", "--version", "1", "--exclusive"),
        ("flow", "tag", "agent", "bench", "--version", "1"),
        ("flow", "tag", "agent", "bench", "--version", "2"),
        ("flow", "tag", "agent", "bench", "--version", "3"),
        ("flow", "untag", "agent", "bench", "--version", "1"),
        ("flow", "tag", "agent", "default", "--version", "2", "--exclusive"),
        ("promote", "agent", "default", "--to", "stable"),
        ("flow", "deployments", "delete", "--yes", "agent", "--version", "1"),
        ("flow", "untag", "agent", "stable"),
        ("flow", "tag", "agent", "bench", "--version", "3", "--exclusive"),
        ("flow", "tag", "agent", "bench", "--version", "3", "--exclusive"),
    ):
        do(repository, *words).must()
        quiet(repository)
    assert table(repository) == ["2 default*", "3 bench*"]


def test_deleted_versions(repository: Repository) -> None:
    """An exclusive holder stays, with the command that moves the tag; a number is never used again."""
    grown(repository)
    done = do(repository, "flow", "deployments", "delete", "--yes", "agent", "--version", "1")
    done.refused("v1 of agent holds the exclusive tag default", code=1)
    assert "kitaru flow tag agent default --version 3 --exclusive" in done.err
    do(repository, "flow", "tag", "agent", "bench", "--version", "3").must()
    gone = do(repository, "flow", "deployments", "delete", "--yes", "agent", "--version", "3", "-o", "json").must().json
    assert gone["item"]["labels_lost"] == ["bench"]
    do(repository, "invoke", "agent", "--version", "3", "--input", '{"topic": "x"}').refused("was deleted by")
    do(repository, "flow", "tag", "agent", "x", "--version", "3").refused("was deleted by")
    do(repository, "flow", "deployments", "delete", "--yes", "agent", "--version", "3").refused("was deleted by")
    do(repository, "build", AGENT).must()
    assert table(repository) == ["1 default*", "2 -", "4 -"]
    assert "bench" not in manifest(repository)


def test_rollback(repository: Repository) -> None:
    """At once, with a hold that plan and apply honour; the edit is printed; when it is made, the hold ends."""
    grown(repository)
    do(repository, "flow", "tag", "agent", "default", "--version", "3", "--exclusive").must()
    repository.commit()
    done = do(repository, "rollback", "agent", "-m", "v3 is slow").must()
    assert "agent: default* v3 → v1" in done.out
    assert "-      default: 3" in done.out and "+      default: 1" in done.out
    repository.apply()
    assert table(repository)[0] == "1 default*"
    assert "held" in do(repository, "plan").must().out
    (route,) = [head(repository).flows["agent"].routes["default"]]
    assert route.hold is not None and route.hold.reason == "v3 is slow" and route.via == "rollback"
    repository.change("kitaru.yaml", "default: 3", "default: 1")
    repository.commit()
    repository.apply()
    assert head(repository).flows["agent"].routes["default"].hold is None
    assert "leads to v1 already" in do(repository, "rollback", "agent", "--to", "1").must().out


def test_a_label_becomes_a_route(repository: Repository) -> None:
    """Leading to the same version, and not the same thing at all: the answer, its JSON and history say so."""
    grown(repository)
    beta = ("flow", "tag", "agent", "beta", "--version", "2", "--no-manifest")
    do(repository, *beta).must()
    assert "agent: beta* stays at v2, now an exclusive route" in do(repository, *beta, "--exclusive").must().out
    assert "beta stays at v2, now an exclusive route" in do(repository, "history", "--limit", "1").must().out
    done = do(repository, *beta, "--exclusive", "-o", "json").must().json["item"]
    assert (done["changed"], done["converted"]) == (False, False)


def test_rollback_to_and_back(repository: Repository) -> None:
    """--to N, --write; what a rollback left, it leads to again by its number alone. Git is not asked."""
    grown(repository)
    done = do(repository, "rollback", "agent", "--to", "2", "--write").must()
    assert "default: 2" in manifest(repository) and "kitaru.yaml says so too" in done.out
    repository.commit()
    repository.apply()
    do(repository, "rollback", "agent", "--to", "-1").refused("nowhere else before but v1, which a rollback left")
    do(repository, "rollback", "agent", "--to", "1").must()
    assert table(repository)[0] == "1 default*"
    do(repository, "rollback", "agent", "--to", "9").refused("has no version 9")
    do(repository, "rollback", "agent", "stable").refused("no tag stable")
    text = (repository.folder / "kitaru.yaml").read_text()
    repository.manifest(f"{text}protect: {{default: {{branch: main}}}}\n")
    do(repository, "rollback", "agnt").refused("did you mean 'agent'?")
    do(repository, "rollback", "nope").refused("nope has no deployments yet")
    do(repository, "rollback", "agent").refused("is protected", code=1)
    repository.manifest(text)
    do(repository, "rollback", "agent", "--to", "0").refused("expected a version, or -1")
    do(repository, "flow", "tag", "agent", "stable", "--version", "1", "--exclusive").must()
    do(repository, "rollback", "agent", "stable").refused("has led nowhere else before")


def test_rollback_of_weights_a_rename_and_a_quiet_move(own_world: Path) -> None:
    """What it led to before is told by the log: weights come back as they were, under an older name too."""
    repository = Repository.make(own_world / "repository", manifest=MANIFEST.replace("head", "1"))
    grown(repository)
    repository.manifest(manifest(repository).replace("default: 1", "default: {1: 90, 2: 10}"))
    repository.commit()
    repository.apply()
    do(repository, "flow", "tag", "agent", "default", "--version", "3", "--exclusive").must()
    text = manifest(repository).replace("  agent:", "  researcher:")
    repository.manifest(text.replace("flows:\n", "moved: {agent: researcher}\nflows:\n"))
    repository.commit()
    repository.apply()
    for number in range(20):
        do(repository, "flow", "tag", "researcher", f"t{number}", "--version", "1", "--no-manifest").must()
    done = do(repository, "rollback", "researcher", "--write").must()
    assert "default* v3 → v1 90 %, v2 10 %" in done.out
    assert "default: {2: 10, 1: 90}" in manifest(repository)


def test_protected_routes(repository: Repository) -> None:
    """No verb moves one, in an emergency neither; the error says how it moves; the manifest alone may be edited."""
    grown(repository)
    do(repository, "flow", "tag", "agent", "stable", "--version", "1", "--exclusive").must()
    do(repository, "flow", "tag", "agent", "stable", "--version", "2", "--exclusive").must()
    do(repository, "flow", "tag", "agent", "gold", "--version", "3").must()
    repository.manifest(manifest(repository) + "protect: {stable: {branch: main}, gold: {branch: main}}\n")
    repository.commit()
    at = head(repository).generation
    for words in (
        ("flow", "tag", "agent", "stable", "--version", "1", "--exclusive"),
        ("flow", "tag", "agent", "stable", "--version", "1", "--exclusive", "--no-manifest"),
        ("flow", "untag", "agent", "stable"),
        ("promote", "agent", "default", "--to", "stable"),
        ("rollback", "agent", "stable"),
        ("deploy", AGENT, "--tag", "stable", "--exclusive"),
        ("flow", "deployments", "delete", "--yes", "agent", "--version", "3"),
    ):
        do(repository, *words).refused("is protected: it moves only by apply, from branch main", code=1)
    assert head(repository).generation == at
    do(repository, "rollback", "agent", "stable", "--manifest-only").must()
    repository.commit()
    repository.apply()
    assert table(repository)[0] == "1 default* stable*"


# --- the SDK ----------------------------------------------------------------------------------------------------------


def test_an_imported_flow_deploys_itself(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """From any folder of the repository, with inputs by name, by position or in inputs=; one client sees it all."""
    repository.write(
        "flows/named.py",
        "from kitaru import flow\n\n@flow\ndef odd(tag: str, stack: int = 1) -> str:\n    return tag * stack\n",
    )
    repository.commit()
    monkeypatch.chdir(repository.folder / "flows")
    monkeypatch.syspath_prepend(str(repository.folder))
    from flows.named import odd  # type: ignore[import-not-found]
    from flows.work import agent  # type: ignore[import-not-found]

    first = agent.deploy(topic="x")
    assert (first.flow, first.version, first.tags, first.target) == ("agent", 1, {"default": True}, AGENT)
    second = agent.deploy("y", tag="canary", exclusive=True, image="python:3.12", stack="local")
    assert (second.version, second.tags) == (2, {"canary": True})
    assert agent.deployment().version == 1 and agent.deployment(tag="canary").version == 2
    made = odd.deploy(inputs={"tag": "a", "stack": 2}, tag="mine")
    assert (made.flow, made.tags) == ("odd", {"default": True, "mine": False})
    client = KitaruClient()
    assert client.plan(allow_dirty=True).is_empty
    assert client.deployments.build(agent).tags == {}
    moved = client.deployments.tag("agent", "default", version=3, exclusive=True)
    assert (moved.before, moved.after, moved.changed) == ("v1", "v3", True)
    assert not client.deployments.tag("agent", "default", version=3, exclusive=True).changed
    assert client.deployments.promote("agent", "canary", to="default").after == "v2"
    assert client.deployments.rollback("agent").after == "v3"
    client.deployments.tag("agent", "default", version=3, exclusive=True)
    client.deployments.untag("agent", "canary")
    assert client.deployments.delete("agent", version=2).version == 2
    assert client.plan(allow_dirty=True).is_empty
    with pytest.raises(KitaruStateError, match="holds the exclusive tag"):
        client.deployments.delete("agent", version=3)
    with pytest.raises(KitaruUsageError, match="unexpected keyword argument 'topik'"):
        agent.deploy(topik="x")


def test_in_memory(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same verbs on a store that lives in this process."""
    repository.manifest(MANIFEST.replace("file://.kitaru/store", "memory://deploying"))
    repository.commit()
    monkeypatch.chdir(repository.folder)
    client = KitaruClient()
    assert client.deployments.deploy(AGENT, {"topic": "x"}).version == 1
    assert client.deployments.deploy(AGENT, tag="canary", exclusive=True, manifest="leave").version == 2
    assert client.deployments.rollback("agent", to=2, manifest="leave").held
    assert [dict(one.tags) for one in client.deployments.list("agent")] == [{}, {"canary": True, "default": True}]


def test_a_drawn_version_says_so(repository: Repository) -> None:
    """executions get shows which version a divided route gave, from what, and by what."""
    grown(repository, 2)
    repository.manifest(manifest(repository) + "      beta: {2: 10, 1: 90}\n")
    repository.commit()
    repository.apply()
    words = ("--tag", "beta", "--input", '{"topic": "x"}', "--idempotency-key", "k", "--wait", "-o", "json")
    item = do(repository, "invoke", "agent", *words).must().json["item"]
    shown = do(repository, "executions", "get", item["exec_id"]).must().out
    assert f"  route     beta: v{item['version']} (drawn from v1 90 %, v2 10 % by idempotency key)" in shown
    found = do(repository, "executions", "get", item["exec_id"], "-o", "json").must().json["item"]
    assert found["draw"] == {"weights": {"1": 90, "2": 10}, "by": "idempotency key"}


# --- races ------------------------------------------------------------------------------------------------------------

RACER = """
import sys
from kitaru import KitaruClient
from kitaru.manifest import edit as manifest_edits

role, number = sys.argv[1:]
for turn in range(5):
    deployments = KitaruClient().deployments
    if role == "deploy":
        deployments.deploy("flows/work.py:agent")
    else:
        deployments.tag("agent", f"label-{number}-{turn}", version=1)
        if turn % 2:
            deployments.tag("agent", "shared", version=1)
        elif turn:
            deployments.untag("agent", f"label-{number}-{turn - 1}")
"""


def test_many_at_once_in_one_working_tree(repository: Repository, own_world: Path) -> None:
    """Three that deploy and three that tag: no gap, no version twice, no lost move, and the manifest agrees."""
    do(repository, "deploy", AGENT).must()
    repository.commit()
    script = own_world / "racer.py"
    script.write_text(RACER)
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), "deploy" if number < 3 else "tag", str(number)],
            cwd=repository.folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(6)
    ]
    for process in processes:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    client = repository.client()
    assert [one.version for one in client.deployments.list("agent")] == list(range(1, 17))
    routes = head(repository).flows["agent"].routes
    assert routes["default"].versions == (16,) and routes["shared"].versions == (1,)
    assert set(routes) == {"default", "shared", *(f"label-{n}-{turn}" for n in (3, 4, 5) for turn in (0, 2, 4))}
    releases = client.session.releases
    entries = [releases.entry(number) for number in range(1, head(repository).generation + 1)]
    assert all(entries)
    quiet(repository)
    assert json.loads(do(repository, "store", "verify", "-o", "json").must().out)
    assert git(repository.folder, "status", "--porcelain") == ""
