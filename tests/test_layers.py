"""The picture of the house stays true: who may import whom, who may load what, and how large a room may grow."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "kitaru"
LONGEST_FILE = 400
LONGEST_FUNCTION = 60

ALLOWED = {
    "surfaces": {"surfaces", "client", "wiring", "model", "errors", "ports", "settings", "_version"},
    "client": {"client", "wiring", "settings", "engine", "core", "authoring", "ports", "model", "errors"},
    "wiring": {"wiring", "settings", "adapters", "engine", "authoring", "ports", "model", "errors"},
    "settings": {"model", "errors"},
    "engine": {"engine", "core", "authoring", "ports", "model", "errors"},
    "adapters": {"adapters", "authoring", "ports", "model", "errors", "_version"},
    "core": {"core", "model", "errors"},
    "authoring": {"authoring", "ports", "model", "errors"},
    "ports": {"model", "errors"},
    "model": {"model", "errors"},
    "errors": set(),
    "_version": set(),
}
"""Room → rooms that it may import from. ``kitaru/__init__`` and ``__main__`` are doors, with their own test."""

ALSO_ALLOWED = {
    # The child that imports the user's modules: what it meets there is authoring's.
    "kitaru.surfaces.describe": {"authoring"},
    # The child that runs one checkpoint: it has neither a store nor settings to wire.
    "kitaru.surfaces.isolated": {"engine"},
}

ONLY_HERE = {
    "s3fs": {"adapters/s3_store.py"},
    "fsspec": {"adapters/object_store.py", "adapters/s3_store.py"},
    "botocore": {"adapters/s3_store.py", "adapters/s3_errors.py"},
    "aiobotocore": {"adapters/s3_store.py", "adapters/s3_errors.py"},
    "git": {"adapters/provenance.py"},
    "jinja2": {"adapters/ci_files.py", "adapters/scaffold.py", "surfaces/views/timeline_html.py"},
    "jsonschema": {"adapters/input_schema.py"},
    "docker": set(),
    "kubernetes": set(),
    "boto3": set(),
    "rich": set(),
}


@dataclass(frozen=True)
class Import:
    """One import: by whom, of what, on which line, and whether it counts when the module runs."""

    module: str
    wanted: str
    line: int
    typing_only: bool


def modules() -> dict[str, Path]:
    """Dotted name → file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def imports(module: str) -> tuple[Import, ...]:
    """Every import of a module, those inside functions and those by ``import_module("...")`` included."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in node.body
        for inner in ast.walk(child)
    }
    return tuple(
        Import(module, wanted, node.lineno, id(node) in typing_only)
        for node in ast.walk(tree)
        for wanted in _wanted(node, module)
    )


def _wanted(node: ast.AST, module: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{module}:{node.lineno}: relative imports hide who is meant"
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            yield whole if whole in MODULES else str(node.module)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__"):
        yield _spelled(node.args[0], module)


def _spelled(argument: ast.expr, module: str) -> str:
    """The text of an import's name; of an f-string, as much as stands before its first field."""
    if isinstance(argument, ast.Constant):
        return str(argument.value)
    if isinstance(argument, ast.JoinedStr):
        start = argument.values[0]
        assert isinstance(start, ast.Constant), f"{module}:{argument.lineno}"
        return str(start.value).rstrip(".")
    # A name that is looked up: the doors and the formats, which are checked on their own.
    return ""


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "kitaru"


def inner(found: Import) -> bool:
    return found.wanted.split(".")[0] == "kitaru"


INSIDE = [name for name in MODULES if name not in ("kitaru", "kitaru.__main__")]


@pytest.mark.parametrize("module", INSIDE)
def test_imports_go_downward_only(module: str) -> None:
    """A module imports from its own room and the rooms below it, at whatever place the import stands."""
    wrong = [
        f"line {found.line}: {found.wanted}"
        for found in imports(module)
        if inner(found) and room(found.wanted) not in ALLOWED[room(module)] | ALSO_ALLOWED.get(module, set())
    ]
    assert not wrong, f"{module}: {wrong}"


def test_only_wiring_meets_the_adapters() -> None:
    """Nobody but wiring imports an adapter, save adapters themselves and the two processes that they start."""
    outside = {
        found.module
        for module in INSIDE
        for found in imports(module)
        if inner(found) and room(found.wanted) == "adapters" and room(module) not in ("adapters", "wiring")
    }
    assert not outside


def test_the_core_does_nothing() -> None:
    """core, model and errors touch no file, no process, no network, no clock and no chance."""
    forbidden = {"os", "pathlib", "subprocess", "socket", "time", "random", "secrets", "threading", "shutil"}
    wrong = [
        f"{module}:{found.line} {found.wanted}"
        for module in INSIDE
        if room(module) in ("core", "model", "errors")
        for found in imports(module)
        if found.wanted.split(".")[0] in forbidden and not found.typing_only
    ]
    assert not wrong


def test_no_module_imports_itself_by_a_detour() -> None:
    """There is no cycle, with imports inside functions counted; those for annotations alone are not run."""
    arrows = {
        module: {
            found.wanted
            for found in imports(module)
            if not found.typing_only and found.wanted in MODULES and found.wanted != module
        }
        for module in MODULES
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join((*path[path.index(module) :], module))
        if module in done:
            return
        for following in sorted(arrows[module]):
            visit(following, (*path, module))
        done.add(module)

    for module in sorted(arrows):
        visit(module, ())


@pytest.mark.parametrize("library", sorted(ONLY_HERE))
def test_a_heavy_library_has_one_home(library: str) -> None:
    """s3fs, Git, Jinja and their like are imported by the module that needs them, and by no other."""
    users = {
        MODULES[module].relative_to(PACKAGE).as_posix()
        for module in MODULES
        for found in imports(module)
        if found.wanted.split(".")[0] == library
    }
    assert users <= ONLY_HERE[library]


def test_typer_stays_in_the_command_line() -> None:
    """Only the command line parses a command line."""
    users = {module for module in MODULES for found in imports(module) if found.wanted.split(".")[0] == "typer"}
    assert users
    assert all(module.startswith("kitaru.surfaces.cli") for module in users)


def test_only_surfaces_print_prompt_and_exit() -> None:
    """Below the surfaces nothing prints to standard output, asks, or ends the process."""
    wrong = []
    for module in INSIDE:
        if room(module) == "surfaces":
            continue
        for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            to_log = any(keyword.arg == "file" for keyword in node.keywords)
            if called in ("input", "exit", "quit", "sys.exit") or (called == "print" and not to_log):
                wrong.append(f"{module}:{node.lineno} {called}")
    # The child that imports the user's modules answers its parent on standard output.
    assert [one for one in wrong if not one.startswith("kitaru.adapters.discovery")] == []


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_rooms_stay_small(path: Path) -> None:
    """A file has at most 400 lines and a function at most 60."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{node.name}: {length} lines"


def test_no_room_for_everything() -> None:
    """No module is called utils, helpers, common or base."""
    assert not {path.stem for path in PACKAGE.rglob("*.py")} & {"utils", "util", "helpers", "common", "base", "misc"}


def test_importing_kitaru_loads_next_to_nothing() -> None:
    """``import kitaru`` brings neither a library nor the model; ``from kitaru import flow`` brings no library."""
    import subprocess
    import sys

    heavy = ["pydantic", "typer", "rich", "fsspec", "s3fs", "git", "jinja2", "jsonschema", "ruamel", "asyncio"]
    code = f"import sys, kitaru\nfrom kitaru import flow, checkpoint\nprint(sorted(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
