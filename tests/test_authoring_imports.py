"""Importing Kitaru costs what is used, and no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import kitaru

ROOT = Path(__file__).parent.parent
HEAVY = {
    "pydantic",
    "asyncio",
    "fsspec",
    "typer",
    "click",
    "rich",
    "importlib.metadata",
    "git",
    "jinja2",
    "numpy",
    "logging",
}


def modules(code: str, *arguments: str) -> set[str]:
    """The modules loaded after ``code`` ran in a process of its own."""
    command = [sys.executable, "-c", f"{code}\nimport sys; print('\\n'.join(sys.modules))", *arguments]
    return set(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split())


def test_import_kitaru_loads_next_to_nothing() -> None:
    """Not even typing, and none of Kitaru but two small modules."""
    bare = modules("")
    extra = modules("import kitaru") - bare
    assert {name for name in extra if name.startswith("kitaru")} == {
        "kitaru",
        "kitaru._version",
        "kitaru.flows",
        "kitaru.flows.binding",
    }
    assert "typing" not in extra - bare


def test_flow_and_checkpoint_load_no_heavy_library_and_no_engine() -> None:
    """A module that only defines flows stays cheap to import."""
    loaded = modules("from kitaru import flow, checkpoint")
    assert not loaded & HEAVY
    assert not [name for name in loaded if name.startswith(("kitaru.engine", "kitaru.adapters", "kitaru.client"))]


RUN = """
import sys
from pathlib import Path
from kitaru import checkpoint, flow
from tests.execution_lab import Lab

@checkpoint
def one(x: int) -> int:
    print("one")
    return x

@flow
def small(x: int) -> int:
    return one(x) + sum(one.map([1, 2]).results())

assert Lab(Path(sys.argv[1])).run(small, x=3) == 6
"""


def test_a_sync_flow_runs_without_heavy_libraries(tmp_path: Path) -> None:
    """Authoring, executor, journal, capture and threads: no asyncio, no pydantic, no logging."""
    assert not modules(RUN, str(tmp_path)) & HEAVY


def test_every_exported_name_of_this_layer_is_there() -> None:
    """``__all__`` is what can be imported, and dir() shows it."""
    for name in kitaru.__all__:
        assert name in dir(kitaru)
        if name.startswith("Kitaru") and name != "KitaruClient":
            assert issubclass(getattr(kitaru, name), kitaru.KitaruError)
    assert kitaru.flow is kitaru.flow and callable(kitaru.checkpoint)
    with pytest.raises(AttributeError, match="no attribute 'flowz'"):
        kitaru.flowz
