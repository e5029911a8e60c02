"""A pipeline's file, read as the runner reads it: its jobs' scripts, and running them for real."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.repository import CHECKOUT, Done

INSTALL = ("--install", "git+https://git.example.org/kitaru@0123456789abcdef0123456789abcdef01234567")


EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)


def load(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Script:
    """One script: where it is from, its shell text, and the names of its environment."""

    where: str
    text: str
    names: frozenset[str] = frozenset()


def scripts(path: Path) -> Iterator[Script]:
    """Every script of a workflow of GitHub or of a file of GitLab."""
    content = load(path)
    if "jobs" in content:
        for name, job in content["jobs"].items():
            for number, step in enumerate(job["steps"]):
                if "run" in step:
                    title = step.get("name", number)
                    yield Script(f"{path.name}: {name}: {title}", step["run"], frozenset(step.get("env", {})))
        return
    for name, job in content.items():
        if isinstance(job, dict):
            for part in ("before_script", "script"):
                if part in job:
                    yield Script(f"{path.name}: {name}: {part}", "\n".join(job[part]))


def step(path: Path, job: str, name: str) -> str:
    """The script of one step."""
    (found,) = [one["run"] for one in load(path)["jobs"][job]["steps"] if one.get("name") == name]
    return str(found)


def tools(folder: Path) -> str:
    """A PATH whose ``kitaru`` is this checkout's; what installs it is the one thing that a test does not run."""
    place = folder / "tools"
    place.mkdir(exist_ok=True)
    shim = place / "kitaru"
    shim.write_text(f'#!/bin/sh\nPYTHONPATH="{CHECKOUT}" exec "{sys.executable}" -m kitaru "$@"\n')
    shim.chmod(0o755)
    return f"{place}{os.pathsep}{os.environ['PATH']}"


def run(script: str, cwd: Path, environ: Mapping[str, str]) -> Done:
    """A script as GitHub's runner runs it with ``shell: bash``."""
    assert not EXPRESSION.search(script), script
    file = Path(environ["RUNNER_TEMP"]) / "step.sh"
    file.write_text(script)
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(file)],
        cwd=cwd,
        env=dict(environ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)
