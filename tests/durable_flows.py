"""Flows that ask, take long and fail, in a repository of their own: for the tests of waits, cancels and replays."""

from __future__ import annotations

from pathlib import Path

from tests.repository import Repository

FLOWS = """
import asyncio
import ctypes
import time
from dataclasses import dataclass
from pathlib import Path

from kitaru import checkpoint, flow, wait


@dataclass
class Verdict:
    approved: bool
    note: str = ""


def noted(folder: str, what: str) -> None:
    with open(f"{folder}/ran", "a") as file:
        file.write(what + "\\n")


@checkpoint
def draft(folder: str, topic: str) -> str:
    noted(folder, "draft")
    return f"draft on {topic}"


@checkpoint
def publish(folder: str, text: str) -> str:
    noted(folder, "publish")
    return text.upper()


@flow
def review(folder: str, topic: str = "tea", patience: float = 0.0) -> str:
    text = draft(folder, topic)
    print("asking")
    if wait(schema=bool, name="approve", question="Publish it?", timeout=patience):
        return publish(folder, text)
    return "dropped"


@checkpoint
def sleepy(folder: str) -> str:
    noted(folder, "sleepy")
    time.sleep(120)
    return "woke"


@checkpoint
def deaf(folder: str) -> str:
    noted(folder, "deaf")
    time.sleep(1)
    # Holds the interpreter's lock: no other thread of this process runs.
    ctypes.PyDLL(None).sleep(120)
    return "woke"


@checkpoint
def step(folder: str, number: int) -> int:
    noted(folder, f"step {number}")
    if not Path(folder, "go").exists() and number == 2:
        Path(folder, "reached").touch()
        while not Path(folder, "go").exists():
            time.sleep(0.02)
    return number


@flow
def long(folder: str) -> str:
    return sleepy(folder)


@flow
def stuck(folder: str) -> str:
    return deaf(folder)


@flow
def steps(folder: str) -> list[int]:
    return [step(folder, 1), step(folder, 2), step(folder, 3)]
"""

NAMES = ("review", "long", "stuck", "steps")
MANIFEST = (
    "kitaru: 1\nproject: research\nstore: file://.kitaru/store\nsource: {include: ['flows/**']}\nflows:\n"
    + "".join(f"  {name}: {{target: 'flows/work.py:{name}', routes: {{default: head}}}}\n" for name in NAMES)
)


def deployed(folder: Path) -> Repository:
    """The flows, applied."""
    repository = Repository.make(folder, {"flows/work.py": FLOWS}, MANIFEST)
    repository.apply()
    return repository


def ran(folder: Path) -> list[str]:
    """What the checkpoints noted, in order."""
    path = folder / "ran"
    return path.read_text().split("\n")[:-1] if path.exists() else []
