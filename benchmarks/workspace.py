"""A place to measure in: a folder of its own, a home of its own, and the commands that run there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]

_UNWANTED = (
    "KITARU_",
    "GIT_",
    "TF_",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONPATH",
    "PYTHONUNBUFFERED",
    "GITHUB_STEP_SUMMARY",
)
"""Variables that change what is measured. Without compiled modules every start would compile, as no user's does."""

FLOW = '''\
"""Flow {number}: two checkpoints, one after the other."""

from kitaru import checkpoint, flow


@checkpoint
def collect_notes(topic: str) -> list[str]:
    """What is known about each word of the topic."""
    return [f"{{word}} {number}" for word in topic.split()]


@checkpoint
def write_summary(topic: str, notes: list[str]) -> str:
    """One paragraph."""
    return f"{{topic}}: {{' '.join(notes)}}"


@flow
def flow_{number:04d}(topic: str, depth: int = 1) -> str:
    """Collect notes on a topic and sum them up."""
    return write_summary(topic, collect_notes(topic))
'''


class Workspace:
    """A temporary folder with a Git repository in ``root``; everything that Kitaru keeps is below it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "repository"
        self.home = folder / "home"
        self.root.mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_UNWANTED)}
        self.environ = {
            **kept,
            "KITARU_HOME": str(self.home),
            "PYTHONPATH": str(CHECKOUT),
            # A home without Git's and Terraform's settings of this user.
            "HOME": str(folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            "CHECKPOINT_DISABLE": "1",
        }

    def write(self, path: str, text: str) -> None:
        """Write a file of the repository."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")

    def commit(self) -> None:
        """Commit all there is; the first time, make the repository."""
        if not (self.root / ".git").exists():
            self.run(["git", "init", "-q", "-b", "main"])
            self.run(["git", "config", "user.name", "Bench"])
            self.run(["git", "config", "user.email", "bench@example.com"])
        self.run(["git", "add", "-A"])
        self.run(["git", "commit", "-q", "-m", "Next"])

    def write_flows(self, count: int) -> None:
        """A repository of ``count`` flows, a file each, all declared with a route at head, and committed."""
        lines = [
            "kitaru: 1",
            "project: bench",
            "store: file://.kitaru/store",
            "source: {include: [flows/**]}",
            "flows:",
        ]
        for number in range(count):
            self.write(f"flows/flow_{number:04d}.py", FLOW.format(number=number))
            lines += [
                f"  flow_{number:04d}:",
                f"    target: flows/flow_{number:04d}.py:flow_{number:04d}",
                "    inputs: {topic: durable execution}",
                "    routes: {default: head}",
            ]
        self.write("kitaru.yaml", "\n".join(lines) + "\n")
        self.write(".gitignore", ".kitaru/\n__pycache__/\n")
        self.commit()

    def write_terraform(self, count: int) -> Path:
        """A folder with ``count`` built-in resources of Terraform, initialised; nothing is downloaded for them."""
        folder = self.folder / "terraform"
        folder.mkdir()
        blocks = [
            f'resource "terraform_data" "flow_{number:04d}" {{\n'
            f'  input = {{ target = "flows/flow_{number:04d}.py", topic = "durable execution" }}\n}}\n'
            for number in range(count)
        ]
        (folder / "main.tf").write_text("\n".join(blocks), encoding="utf-8")
        self.run(["terraform", "init", "-input=false"], cwd=folder)
        return folder

    def forget_store(self) -> None:
        """Remove the repository's store; what the home remembers stays."""
        shutil.rmtree(self.root / ".kitaru", ignore_errors=True)

    def forget_home(self) -> None:
        """Remove what Kitaru remembers between commands."""
        shutil.rmtree(self.home, ignore_errors=True)

    def kitaru(self, *arguments: str) -> str:
        """Run a ``kitaru`` command in the repository; its standard output."""
        return self.run([*kitaru_command(), *arguments])

    def run(self, command: Sequence[str], *, cwd: Path | None = None, environ: Mapping[str, str] | None = None) -> str:
        """Run a command to its end; its standard output. Raises ``RuntimeError`` with its errors where it fails."""
        done = subprocess.run(
            command,
            cwd=cwd or self.root,
            env={**self.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def seconds(self, command: Sequence[str], *, cwd: Path | None = None) -> float:
        """How long a command takes, from its start to its end."""
        begun = time.perf_counter()
        self.run(command, cwd=cwd)
        return time.perf_counter() - begun

    def bare_python(self) -> float:
        """How long a Python that does nothing takes: the floor of every command."""
        return self.seconds([sys.executable, "-c", "pass"])


@contextmanager
def workspace() -> Iterator[Workspace]:
    """A workspace for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="kitaru-bench-", ignore_cleanup_errors=True) as folder:
        yield Workspace(Path(folder).resolve())


def kitaru_command() -> list[str]:
    """The ``kitaru`` beside this Python, or the module of this checkout where none is installed."""
    installed = Path(sys.executable).parent / "kitaru"
    return [str(installed)] if installed.exists() else [sys.executable, "-m", "kitaru"]


def has_terraform() -> bool:
    """Whether Terraform is there to be measured beside."""
    return shutil.which("terraform") is not None
