"""The guides' first story, from an installed wheel, every command a process of its own: on a folder and on a bucket."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.repository import Done, Repository, git, new_git
from tests.s3_servers import S3Server

RESEARCH = """
from kitaru import checkpoint, flow

@checkpoint
def collect_notes(topic: str) -> str:
    return f"notes on {topic}"

@checkpoint
def write_summary(notes: str) -> str:
    return f"summary of {notes}"

@flow
def research_agent(topic: str) -> str:
    notes = collect_notes(topic)
    return write_summary(notes)

if __name__ == "__main__":
    print(research_agent.run(topic="durable execution").wait())
"""

MANIFEST = """\
kitaru: 1
project: research
{store}flows:
  research_agent:
    target: flows/research.py:research_agent
    inputs: {{topic: durable execution}}
    image: {{secret_environment_from: [openai-creds]}}
    routes:
{routes}
"""


@dataclass
class Person:
    """Somebody with an installed Kitaru, a folder and an environment."""

    python: Path
    folder: Path
    home: Path
    environ: dict[str, str] = field(default_factory=dict)

    def run(self, *command: str) -> Done:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        done = subprocess.run(
            command,
            cwd=self.folder,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
            check=False,
            env={**kept, "HOME": str(self.home), "GIT_CONFIG_NOSYSTEM": "1", **self.environ},
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def kitaru(self, *words: str) -> Done:
        return self.run(str(self.python), "-m", "kitaru", *words)


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, own_world: Path) -> tuple[str, dict[str, str]]:
    """Where the store is: its address, and the variables that lead there."""
    if request.param == "folder":
        return f"file://{own_world / 'shared' / 'store'}", {}
    server: S3Server = request.getfixturevalue("seaweedfs")
    return server.new_prefix(), server.environment()


def person(installed: Path, folder: Path, environ: dict[str, str]) -> Person:
    folder.mkdir(parents=True, exist_ok=True)
    home = folder.parent / f"home of {folder.name}"
    home.mkdir()
    return Person(installed, folder, home, environ)


def test_deploy_canary_promote(installed: Path, own_world: Path, place: tuple[str, dict[str, str]]) -> None:
    """Producer: init, plan, apply, canary, promote, stable. Consumer: invokes by name from an empty folder."""
    store, environ = place
    producer = person(installed, own_world / "producer", environ)
    new_git(producer.folder)
    repository = Repository(producer.folder)
    repository.write("flows/research.py", RESEARCH)

    # While developing: run from source, no store chosen yet.
    ran = producer.run(str(installed), "flows/research.py").must()
    assert ran.out == "summary of notes on durable execution\n"

    # Step 1: the first version.
    assert "flows/research.py:research_agent" in producer.kitaru("init").must().out
    assert (producer.folder / "kitaru.yaml").exists()

    def declare(**routes: object) -> None:
        lines = "\n".join(f"      {tag}: {json.dumps(wish)}" for tag, wish in routes.items())
        repository.manifest(MANIFEST.format(store=f"store: {store}\n", routes=lines))
        repository.commit()

    declare(default=1)
    assert "valid: project research, 1 flow" in producer.kitaru("validate").must().out
    assert "v1 from flows/research.py:research_agent" in producer.kitaru("plan").must().out
    assert "generation 1" in producer.kitaru("apply", "--yes").must().out
    assert producer.kitaru("plan", "--detailed-exitcode").code == 0
    row = producer.kitaru("flow", "deployments", "list", "research_agent").must().out.splitlines()[1]
    assert row.split()[:3] == ["research_agent", "1", "default*"]
    producer.kitaru("flow", "deployments", "show", "research_agent").must()

    # Step 2: a consumer invokes the default route.
    consumer = person(
        installed, own_world / "consumer", {**environ, "KITARU_STORE": store, "KITARU_PROJECT": "research"}
    )
    given = ("--input", '{"topic": "serverless routing"}', "--wait")
    consumer.kitaru("invoke", "research_agent", *given).refused("KITARU_SECRET_OPENAI_CREDS is not set", code=1)
    consumer.environ["KITARU_SECRET_OPENAI_CREDS"] = '{"OPENAI_API_KEY": "sk-not-a-real-one"}'
    assert consumer.kitaru("invoke", "research_agent", *given).must().out == "summary of notes on serverless routing\n"
    script = (
        "from kitaru import KitaruClient\n"
        'handle = KitaruClient().deployments.invoke(flow="research_agent", inputs={"topic": "serverless routing"})\n'
        "print(handle.exec_id)\n"
        "print(handle.wait())\n"
    )
    exec_id, result = consumer.run(str(installed), "-c", script).must().out.splitlines()
    assert result == "summary of notes on serverless routing"
    shown = consumer.kitaru("executions", "get", exec_id, "-o", "json").must().json["item"]
    assert (shown["status"], shown["version"], shown["tag"]) == ("completed", 1, "default")
    consumer.kitaru("invoke", "nobody").refused("nobody has no deployments yet")
    consumer.kitaru("invoke", "research_agent", "--tag", "stable").refused("its tags: default")

    # Step 3: a canary, without moving default.
    repository.change("flows/research.py", "summary of", "fine summary of")
    declare(default=1, canary="head")
    out = producer.kitaru("plan").must().out
    assert "~ flows/research.py" in out
    assert "canary → v2" in out
    producer.kitaru("apply", "--yes").must()
    rows = producer.kitaru("flow", "deployments", "list", "research_agent").must().out.splitlines()[1:]
    assert [row.split()[:3] for row in rows] == [
        ["research_agent", "1", "default*"],
        ["research_agent", "2", "canary*"],
    ]
    given = ("--input", '{"topic": "tag routing"}', "--wait")
    assert consumer.kitaru("invoke", "research_agent", *given).must().out == "summary of notes on tag routing\n"
    canary = consumer.kitaru("invoke", "research_agent", "--tag", "canary", *given).must()
    assert canary.out == "fine summary of notes on tag routing\n"

    # Step 4: promote, and a stable route; a label on both is ambiguous; a version is a hard pin.
    declare(default=2, stable=2, canary="head", benchmark=[1, 2])
    done = producer.kitaru("apply", "--yes").must()
    assert "default: v1 → v2" in done.out
    assert consumer.kitaru("invoke", "research_agent", *given).must().out == canary.out
    assert consumer.kitaru("invoke", "research_agent", "--tag", "stable", *given).must().out == canary.out
    pinned = consumer.kitaru("invoke", "research_agent", "--version", "1", *given).must()
    assert pinned.out == "summary of notes on tag routing\n"
    consumer.kitaru("invoke", "research_agent", "--tag", "benchmark", *given).refused("ambiguous", "v1, v2")

    # A plan after an apply is empty from another clone, by another person with an empty cache.
    git(producer.folder, "clone", "-q", ".", str(own_world / "another"))
    another = person(installed, own_world / "another", environ)
    unchanged = another.kitaru("plan", "--detailed-exitcode").must(0).out
    assert unchanged.startswith("No changes: 1 flow as the manifest says.")
    assert list((own_world / "consumer").iterdir()) == []


def test_the_wheel_holds_what_it_needs(wheel: Path) -> None:
    """Schemas, templates, the typing marker and the licence are in the wheel; tests and examples are not."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for kind in ("schemas", "templates"):
        folder = Path(__file__).parents[1] / kind
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert {f"kitaru/_data/{kind}/{name}" for name in there} <= names
    assert "kitaru/py.typed" in names
    assert any(name.endswith("LICENSE") for name in names)
    assert {name.split("/")[0] for name in names if not name.split("/")[0].endswith(".dist-info")} == {"kitaru"}


def test_the_wheel_works_where_there_is_no_checkout(installed: Path, own_world: Path) -> None:
    """The installed package is the wheel's, and schema and init find their files in it."""
    somebody = person(installed, own_world / "somebody", {})
    where = somebody.run(str(installed), "-c", "import kitaru; print(kitaru.__file__)").must().out
    assert str(installed.parents[1]) in where
    assert somebody.kitaru("schema").must().json["title"]
    new_git(somebody.folder)
    Repository(somebody.folder).write("flows/research.py", RESEARCH)
    somebody.kitaru("init").must()
    somebody.kitaru("init").must()
    git(somebody.folder, "add", "-A")
    git(somebody.folder, "commit", "-q", "-m", "first")
    somebody.kitaru("apply", "--yes").must()
    done = somebody.kitaru("invoke", "research_agent", "--input", '{"topic": "x"}', "--wait").must()
    assert done.out == "summary of notes on x\n"


def test_s3_keeps_what_apply_promises(installed: Path, own_world: Path, seaweedfs: S3Server) -> None:
    """Two applies at once over HTTP: every flow once, one history; then a lost hint, and the same answer."""
    store, environ = seaweedfs.new_prefix(), seaweedfs.environment()
    manifest = "kitaru: 1\nproject: research\nflows:\n" + "".join(
        f"  flow_{n}: {{target: 'many.py:flow_{n}', routes: {{default: head}}}}\n" for n in range(6)
    )
    code = "from kitaru import flow\n" + "".join(f"@flow\ndef flow_{n}() -> int:\n    return {n}\n" for n in range(6))
    repository = Repository.make(own_world / "r", {"many.py": code}, manifest)
    env = {**os.environ, **environ, "KITARU_STORE": store}
    command = [str(installed), "-m", "kitaru", "apply", "--yes", "-o", "json"]
    halves = [[f"flow_{n}" for n in range(3)], [f"flow_{n}" for n in range(2, 6)], []]
    processes = [
        subprocess.Popen([*command, *half], cwd=repository.folder, env=env, text=True, stdout=-1, stderr=-1)
        for half in halves
    ]
    answers = [process.communicate(timeout=120) for process in processes]
    for process, (out, err) in zip(processes, answers, strict=True):
        assert process.returncode in (0, 1), err
        assert process.returncode == 0 or "somebody else was first" in err, err
        assert "Traceback" not in err
        assert json.loads(out)["command"] == "apply"
    assert any(process.returncode == 0 for process in processes)
    final = subprocess.run(command, cwd=repository.folder, env=env, capture_output=True, text=True, check=True)
    assert final.returncode == 0
    listed = subprocess.run(
        [str(installed), "-m", "kitaru", "flow", "list", "-o", "json"],
        cwd=repository.folder,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    flows = json.loads(listed.stdout)["items"]
    assert [(one["flow"], one["latest"]) for one in flows] == [(f"flow_{n}", 1) for n in range(6)]
