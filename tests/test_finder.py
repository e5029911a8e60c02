"""A project's modules come from its own source, whatever this machine has beside it."""

from __future__ import annotations

import json
import os
import py_compile
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from kitaru.errors import Problem
from kitaru.model.address import LIBRARIES
from kitaru.model.snapshot import FlowFacts
from kitaru.source.discovery import PLACEHOLDER, Job, describe
from kitaru.source.import_check import shadowed_imports

FLOW = "from kitaru import flow\n{imports}\n\n@flow\ndef quote({parameters}):\n    return {value}\n"
LOAD = """
import json, sys
from pathlib import Path
from kitaru.flows.loading import load_target
root, target, *roots = sys.argv[1:]
try:
    flow = load_target(Path(root), target, roots, alone=True)
    print(json.dumps([flow.func.__module__, flow.func()]))
except Exception as error:
    print(json.dumps([error.message, error.hint]))
"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, body in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)
    return root


def load(root: Path, target: str, *roots: str, beside: Path | None = None) -> list[object]:
    """The module and the result of the flow, in a process that also imports from ``beside``; else message and hint."""
    path = os.pathsep.join(filter(None, [str(beside) if beside else "", os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(root), target, *roots],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        cwd=root.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: list[object] = json.loads(done.stdout)
    return answer


def shop(root: Path, price: int) -> Path:
    imports = "from shop.prices import PRICE"
    return write(
        root,
        {
            "src/shop/__init__.py": "",
            "src/shop/prices.py": f"PRICE = {price}\n",
            "src/shop/flows.py": FLOW.format(imports=imports, parameters="", value="PRICE"),
        },
    )


@pytest.mark.parametrize(
    ("target", "roots"), [("src/shop/flows.py:quote", ()), ("shop.flows:quote", ("src",)), ("shop.flows:quote", ())]
)
def test_an_editable_copy_is_never_what_runs(tmp_path: Path, target: str, roots: tuple[str, ...]) -> None:
    """With the working tree on the path, the source's own modules are found, or none."""
    source, working = shop(tmp_path / "source", 1), shop(tmp_path / "work", 999)
    answer = load(source, target, *roots, beside=working / "src")
    if roots or target.startswith("src"):
        assert answer == ["shop.flows", 1]
    else:
        assert "roots: [src]" in str(answer[1])


def test_a_dependency_in_the_source_is_not_taken_from_a_copy(tmp_path: Path) -> None:
    """A module that the source holds out of reach is refused, with the root to name, rather than found elsewhere."""
    imports = "from common import PRICE"
    files = {
        "flow.py": FLOW.format(imports=imports, parameters="", value="PRICE"),
        "libs/common/src/common.py": "PRICE = 1\n",
    }
    source, working = write(tmp_path / "source", files), write(tmp_path / "work", files)
    write(working, {"libs/common/src/common.py": "PRICE = 999\n"})
    place = "libs/common/src"
    assert f"roots: [{place}]" in str(load(source, "flow.py:quote", beside=working / place)[1])
    assert load(source, "flow.py:quote", place, beside=working / place) == ["flow", 1]


def test_a_missing_submodule_is_not_taken_from_a_copy(tmp_path: Path) -> None:
    """A module that was added to a package since is not there."""
    source, working = shop(tmp_path / "source", 1), shop(tmp_path / "work", 999)
    write(working, {"src/shop/added.py": "PRICE = 2\n"})
    flow = FLOW.format(imports="from shop.added import PRICE", parameters="", value="PRICE")
    write(source, {"src/shop/flows.py": flow})
    assert "shop.added" in str(load(source, "src/shop/flows.py:quote", beside=working / "src")[0])


def test_libraries_that_are_not_of_the_project_are_found(tmp_path: Path) -> None:
    """What only PYTHONPATH has, and the source has nothing of, is a library like any other."""
    source = write(tmp_path / "source", {"f.py": FLOW.format(imports="import extra", parameters="", value="extra.X")})
    beside = write(tmp_path / "lib", {"extra.py": "X = 5\n"})
    assert load(source, "f.py:quote", beside=beside) == ["f", 5]


def test_a_file_named_as_its_folder(tmp_path: Path) -> None:
    """``train/train.py`` and a neighbour of ``etl/etl.py`` are imported as when they run as scripts."""
    imports = "from etl import ROWS"
    files = {
        "train/train.py": FLOW.format(imports="", parameters="", value="1"),
        "etl/etl.py": "ROWS = 3\n",
        "etl/load.py": FLOW.format(imports=imports, parameters="", value="ROWS"),
    }
    source = write(tmp_path / "source", files)
    assert load(source, "train/train.py:quote") == ["train", 1]
    assert load(source, "etl/load.py:quote") == ["load", 3]


def test_compiled_files_beside_the_source_do_not_count(tmp_path: Path) -> None:
    """A ``.pyc`` that Python would prefer to the source is not read, and none is written."""
    source = shop(tmp_path / "source", 1)
    prices = source / "src/shop/prices.py"
    py_compile.compile(str(prices))
    assert list(source.rglob("*.pyc"))
    state = prices.stat()
    prices.write_text("PRICE = 7\n")
    os.utime(prices, ns=(state.st_atime_ns, state.st_mtime_ns))
    before = sorted(source.rglob("*.pyc"))
    assert load(source, "src/shop/flows.py:quote") == ["shop.flows", 7]
    assert sorted(source.rglob("*.pyc")) == before


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["email", "queue", "secrets", "packaging"])
def test_a_module_with_a_name_of_python_is_refused_where_it_is_imported(tmp_path: Path, name: str) -> None:
    """Whether it is imported by the flow or by what the flow imports, at the top or in a function."""
    flow = FLOW.format(imports="import helper", parameters="", value="1")
    root = write(tmp_path, {"f.py": flow, "helper.py": f"def g():\n    import {name}\n", f"{name}.py": "X = 1\n"})
    problem = shadowed_imports(root, "f.py:quote")
    assert problem is not None and (problem.file, problem.line) == ("helper.py", 2) and f"{name}.py" in problem.message
    assert isinstance(describe([Job(root, {"f": "f.py:quote"})])["f"], Problem)


def test_a_module_with_a_name_of_python_that_is_not_imported_is_no_matter(tmp_path: Path) -> None:
    """The flow runs; whatever of Kitaru imports that name finds the library."""
    files = {"f.py": FLOW.format(imports="", parameters="", value="1")}
    files |= dict.fromkeys(["email.py", "queue.py", "packaging.py", "typing_extensions.py"], "raise RuntimeError\n")
    root = write(tmp_path / "source", files)
    assert isinstance(describe([Job(root, {"f": "f.py:quote"})])["f"], FlowFacts)
    assert load(root, "f.py:quote") == ["f", 1]


def test_the_reserved_names_are_those_of_kitaru_and_all_that_it_needs() -> None:
    """A library that comes to Kitaru's dependencies comes to the list."""
    needed, seen = {"kitaru"}, set()
    modules: set[str] = set()
    while needed:
        name = needed.pop()
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        tops = {file.parts[0].removesuffix(".py") for file in found.files or () if file.suffix == ".py"}
        modules |= {top for top in tops if top.isidentifier()}
        for text in found.requires or ():
            requirement = Requirement(text)
            extras = ["", "s3"] if name == "kitaru" else [""]
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": each}) for each in extras):
                needed |= {requirement.name} - seen
    assert modules - LIBRARIES <= {"anyio", "certifi", "h11", "httpcore", "httpx", "test_ruamel", "_yaml"}


# --- what an import sees ----------------------------------------------------------------------------------------------


def test_an_import_sees_the_image_and_not_the_shell(tmp_path: Path) -> None:
    """``image.environment`` decides; another variable is not there, and of a secret only its name."""
    imports = "import os\nfrom typing import Literal"
    parameters = ", ".join(
        f'{name}: Literal[os.environ.get("{variable}", "absent")]'
        for name, variable in (("a", "MODEL"), ("b", "OTHER"), ("c", "API_KEY"))
    )
    root = write(tmp_path, {"f.py": FLOW.format(imports=imports, parameters=parameters, value="1")})
    shell = {**os.environ, "MODEL": "tiny", "OTHER": "x", "API_KEY": "sk-real-secret"}
    job = Job(root, {"f": "f.py:quote"}, environment={"MODEL": "large"})
    facts = describe([job], environ=shell, secrets={"API_KEY"})["f"]
    assert isinstance(facts, FlowFacts), facts
    text = json.dumps(facts.input_schema)
    assert "tiny" not in text and "sk-real-secret" not in text
    seen = {name: value["const"] for name, value in facts.input_schema["properties"].items()}
    assert seen == {"a": "large", "b": "absent", "c": PLACEHOLDER}


def test_a_variable_that_is_hidden_is_named_in_the_hint(tmp_path: Path) -> None:
    """``os.environ["MODEL"]`` at the top of a module says where to declare the variable."""
    body = FLOW.format(imports='import os\nos.environ["MODEL"]', parameters="", value="1")
    root = write(tmp_path, {"f.py": body})
    problem = describe([Job(root, {"f": "f.py:quote"})], environ={**os.environ, "MODEL": "x"})["f"]
    assert isinstance(problem, Problem) and "image.environment" in problem.hint
