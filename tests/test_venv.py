"""Virtual environments for flows: built once, never half, from wheels that the tests make themselves.

All build from a copy of this checkout, so that an edit made while the tests run is no other Kitaru to them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from kitaru.errors import KitaruStackError
from kitaru.stacks.venv import MARKER, PACKAGE, ensure_environment, own_requirements

BUILD = """
import sys
from pathlib import Path
from kitaru.stacks.venv import ensure_environment
from kitaru.errors import KitaruStackError
class Tell:
    def step(self, step):
        assert step.phase == "environment"
        print(step.message, flush=True)
try:
    print(ensure_environment(Path(sys.argv[1]), sys.argv[2:], report=Tell()), flush=True)
except KitaruStackError as error:
    print(error.message, error.hint, sep="\\n")
    sys.exit(1)
"""


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """For a builder: a frozen copy of Kitaru that needs nothing, and pip without an index, as both would be slow."""
    frozen = tmp_path_factory.mktemp("checkout")
    shutil.copytree(PACKAGE, frozen / "kitaru", ignore=shutil.ignore_patterns("__pycache__"))
    (frozen / "pyproject.toml").write_text('[project]\nname = "kitaru"\ndependencies = []\n')
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    pip = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_CONFIG_FILE": os.devnull}
    return {**kept, **pip, "PYTHONPATH": str(frozen)}


def make_wheel(folder: Path, name: str, version: str, module: str) -> Path:
    """A wheel with one module of that content."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": module,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for place, body in files.items():
            archive.writestr(place, body)
        archive.writestr(f"{info}/RECORD", "".join(f"{place},,\n" for place in files) + f"{info}/RECORD,,\n")
    return path


def answer(python: Path, code: str) -> str:
    """What that Python prints, started far away from this checkout."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, "-P", "-c", code], capture_output=True, text=True, check=True, cwd="/", env=environ)
    return done.stdout.strip()


def start_build(cache: Path, environ: dict[str, str], *requirements: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-c", BUILD, str(cache), *requirements]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True, start_new_session=True)


def build(cache: Path, environ: dict[str, str], *requirements: str) -> list[str]:
    """The lines that a builder says, the last of which is its Python."""
    builder = start_build(cache, environ, *requirements)
    said = builder.communicate(timeout=240)[0].splitlines()
    assert builder.returncode == 0, said
    return said


def test_an_environment_holds_the_requirements_and_this_kitaru(tmp_path: Path, environ: dict[str, str]) -> None:
    """The new Python imports the requirement and the code that runs here; for equal requirements it is looked up."""
    wheel = str(make_wheel(tmp_path, "flowlib", "1.2", "answer = 42\n"))

    *steps, found = build(tmp_path / "cache", environ, wheel)

    python = Path(found)
    assert answer(python, "import flowlib; print(flowlib.answer)") == "42"
    assert steps[0] == "creating a virtual environment"

    assert build(tmp_path / "cache", environ, f"{wheel}  # a comment", "") == [found]

    newer = Path(build(tmp_path / "cache", environ, str(make_wheel(tmp_path, "flowlib", "1.3", "answer = 43\n")))[-1])
    ask = "import flowlib; print(flowlib.answer)"
    assert (answer(python, ask), answer(newer, ask)) == ("42", "43")


def test_pip_says_which_requirement_failed(tmp_path: Path, environ: dict[str, str]) -> None:
    """The error names the requirement in few lines, the log holds the rest, and nothing passes for finished."""
    builder = start_build(tmp_path / "cache", environ, "nowhere-to-be-found==3")
    said = builder.communicate(timeout=240)[0]

    assert builder.returncode == 1
    reason = said[said.index("the environment of the flow can't be built") :].splitlines()
    assert "nowhere-to-be-found==3" in reason[1]
    assert len(reason) <= 8
    log = Path(reason[-1].rpartition(": ")[2])
    assert "pip install" in log.read_text()
    assert list((tmp_path / "cache").rglob(MARKER)) == []


def test_a_killed_build_is_begun_anew_by_one(tmp_path: Path, environ: dict[str, str]) -> None:
    """A kill -9 in the middle leaves nothing that passes for finished; of two that come then, one builds, one waits."""
    cache = tmp_path / "cache"
    builder = start_build(cache, environ)
    assert builder.stdout is not None
    assert builder.stdout.readline() == "creating a virtual environment\n"
    deadline = time.monotonic() + 30
    while not list(cache.glob("environments/*/pyvenv.cfg")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(builder.pid, signal.SIGKILL)
    builder.communicate()
    assert list(cache.rglob(MARKER)) == []

    builders = [start_build(cache, environ) for _ in range(2)]
    said = [builder.communicate(timeout=240)[0].splitlines() for builder in builders]

    assert [builder.returncode for builder in builders] == [0, 0]
    assert said[0][-1] == said[1][-1]
    assert sorted(lines.count("creating a virtual environment") for lines in said) == [0, 1]
    assert answer(Path(said[0][-1]), "import pip; print('whole')") == "whole"
    assert len(list(cache.rglob(MARKER))) == 1


def test_what_kitaru_needs_is_told_with_its_extras() -> None:
    """A store's extra brings its library; nothing of it names Kitaru, which no index is asked for."""
    plain, with_store = own_requirements(), own_requirements(["s3"])
    assert any(line.startswith("pydantic") for line in plain)
    assert [line for line in with_store if line not in plain] == ["s3fs>=2026.9"]
    assert not any(line.startswith("kitaru") for line in with_store)


def test_another_kitaru_than_the_running_one_is_refused(tmp_path: Path) -> None:
    """A flow runs with the Kitaru that starts it."""
    with pytest.raises(KitaruStackError, match=r"image\.requirements|name kitaru"):
        ensure_environment(tmp_path / "cache", ["kitaru==0.0.1"])
