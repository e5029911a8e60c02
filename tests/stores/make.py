"""Writes the fixture store of the present format: ``python -m tests.stores.make FOLDER``.

Run it once, when a format is released, and commit what it wrote as ``tests/stores/format-N``: it is data from then on,
and every later release must load it, resolve it and go on with what is open in it. Never write over an old one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]

WORK = """
import os, uuid
from kitaru import checkpoint, flow

@checkpoint
def collect(topic: str) -> dict:
    return {"topic": topic, "token": uuid.uuid4().hex}

@checkpoint
def gate(notes: dict) -> str:
    if not os.environ.get("FIXTURE_MAY_PASS"):
        raise RuntimeError("the gate is closed")
    return notes["token"]

@checkpoint
def pack(size: int) -> list:
    return [bytes(range(250)) * (size // 250), {"size": size}]

@checkpoint
def weigh(parts: list) -> int:
    return len(parts[0])

@flow
def parcels(size: int) -> list:
    parts = pack(size)
    return [weigh(parts), parts]

@flow
def agent(topic: str) -> dict:
    return collect(topic)

@flow
def fragile(topic: str) -> list:
    notes = collect(topic)
    return [notes, gate(notes)]
"""

MANIFEST = """\
kitaru: 1
project: research
flows:
  agent:
    target: flows/work.py:agent
    inputs: {topic: durable execution}
    routes: {default: 1, canary: head, stable: 1, benchmark: [1, head]}
  fragile:
    target: flows/work.py:fragile
    retries: 1
    image: {base_image: "python:3.11", environment: {MODE: fixture}}
    routes: {default: head}
  parcels:
    target: flows/work.py:parcels
    inputs: {size: 70000}
protect:
  stable: {branch: main}
"""


def main(target: Path) -> None:
    """Two versions of three flows, a pruned one, a protected route, completed executions (one whose values have bytes
    in a list) and a failed one that can be resumed.
    """
    with tempfile.TemporaryDirectory(prefix="kitaru-fixture-") as name:
        folder = Path(name)
        repository, store = folder / "repository", folder / "store"
        environ = environment(folder, store)

        def run(*command: str, code: int = 0) -> str:
            done = subprocess.run(command, cwd=repository, env=environ, capture_output=True, text=True, check=False)
            if done.returncode != code:
                raise SystemExit(f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}")
            return done.stdout

        def kitaru(*words: str, code: int = 0) -> str:
            return run(sys.executable, "-m", "kitaru", *words, code=code)

        (repository / "flows").mkdir(parents=True)
        run("git", "init", "-q", "-b", "main")
        (repository / "flows/work.py").write_text(WORK)
        once = "  once:\n    target: flows/work.py:agent\n    routes: {default: head, old: 1}\n"
        for text in (MANIFEST.replace("protect:", once + "protect:"), MANIFEST):
            (repository / "kitaru.yaml").write_text(text)
            run("git", "add", "-A")
            run("git", "commit", "-q", "-m", "fixture")
            kitaru("apply", "--yes", "--prune", "-m", "fixture")
            (repository / "flows/work.py").write_text(WORK + "\n# the second version\n")
        kitaru("invoke", "agent", "--wait", "--idempotency-key", "fixture")
        kitaru("invoke", "parcels", "--wait")
        kitaru("invoke", "fragile", "--input", '{"topic": "x"}', "--wait", code=1)
        anonymise(store)
        shutil.copytree(store, target)


def environment(folder: Path, store: Path) -> dict[str, str]:
    """Nothing of the machine that makes the fixture."""
    fixed = {f"GIT_{who}_{what}": "fixture" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    dates = {f"GIT_{who}_DATE": "2026-11-21T12:00:00Z" for who in ("AUTHOR", "COMMITTER")}
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(CHECKOUT),
        "HOME": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        "KITARU_HOME": str(folder / "home"),
        "KITARU_STORE": f"file://{store}",
        "KITARU_ACTOR": "fixture",
        **fixed,
        **dates,
    }


def anonymise(store: Path) -> None:
    """Hosts and folders out of the journals. The order of keys stays: the digests of inline values are of it."""
    for path in [*store.glob("*/executions/*/journal/*.json"), *store.glob("*/executions/*/summary.json")]:
        data = json.loads(path.read_bytes())
        path.unlink()
        path.write_text(json.dumps(scrubbed(data), ensure_ascii=False, separators=(",", ":")) + "\n")
    for folder in store.glob("*/executions/*/logs"):
        shutil.rmtree(folder)


def scrubbed(data: object) -> object:
    """``data`` without the names of this machine."""
    if isinstance(data, list):
        return [scrubbed(one) for one in data]
    if not isinstance(data, dict):
        return data
    known = {"host": "fixture-host", "pid": 1, "started": "", "runner_id": "fixture-runner"} if "pid" in data else {}
    return {key: scrubbed(value) for key, value in {**data, **known}.items()} | (
        {"traceback": ""} if "traceback" in data else {}
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
