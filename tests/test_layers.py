"""The picture of the house stays true: who may import whom, who may load what, and how large a room may grow."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "kitaru"
LONGEST_FILE = 600
LONGEST_FUNCTION = 60
FULLEST_FOLDER = 25

BELOW = {"errors", "model", "data_files", "local_cache", "masking", "_version"}
PORTS = {"ports", "store", "values"}
ALLOWED = {
    "errors": set(),
    "_version": set(),
    "data_files": set(),
    "local_cache": {"errors", "model"},
    "masking": {"model"},
    "model": BELOW,
    "settings": BELOW,
    "ports": BELOW,
    "core": BELOW,
    "values": BELOW | {"store", "ports"},
    "flows": BELOW | {"ports"},
    "store": BELOW | {"ports"},
    "manifest": BELOW | {"ports"},
    "source": BELOW | {"ports"},
    "stacks": BELOW | {"ports"},
    "ci": BELOW | {"ports"},
    "release": BELOW | PORTS | {"core"},
    "run": BELOW | PORTS | {"core", "flows"},
    "upkeep": BELOW | PORTS | {"core", "release", "run"},
    "wiring": BELOW | PORTS | {"settings", "flows", "manifest", "source", "stacks", "ci", "release", "run", "upkeep"},
    "client": BELOW | PORTS | {"settings", "core", "flows", "release", "run", "upkeep", "wiring"},
    "cli": BELOW | {"client", "settings", "ports"},
}
"""Room → rooms that it may import from. ``kitaru/__init__`` and ``__main__`` are doors, with their own test."""

ABOVE_PORTS = {"release", "run", "upkeep", "wiring", "client"}
"""Rooms that may import a room's ``port.py``, its protocol, without what implements it."""

ALSO_ALLOWED = {
    # The child that imports the user's modules: it meets flows there.
    "kitaru.source.discovery_child": {"flows"},
}

NOT_YET: set[tuple[str, str]] = set()
"""Arrows between rooms that are still to be cut."""

ONLY_HERE = {
    "s3fs": {"store"},
    "fsspec": {"store"},
    "botocore": {"store"},
    "aiobotocore": {"store"},
    "git": {"source"},
    "jinja2": {"ci", "manifest", "cli"},
    "jsonschema": {"manifest"},
    "ruamel": {"manifest"},
    "docker": set(),
    "kubernetes": set(),
    "boto3": set(),
    "typer": {"cli"},
    "rich": {"cli"},
}
"""Heavy library → the rooms that may import it."""


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


def test_imports_go_downward_only() -> None:
    """A module imports from its own room and the rooms below it, at whatever place the import stands."""
    wrong = {
        f"{module}:{found.line}: {found.wanted}": (room(module), room(found.wanted))
        for module in INSIDE
        for found in imports(module)
        if inner(found)
        and room(found.wanted) not in ALLOWED[room(module)] | ALSO_ALLOWED.get(module, set()) | {room(module)}
        and not (found.wanted.endswith(".port") and room(module) in ABOVE_PORTS)
    }
    assert {place for place, arrow in wrong.items() if arrow not in NOT_YET} == set()
    assert set(wrong.values()) == NOT_YET


def test_each_room_says_what_it_owns() -> None:
    """A room's ``__init__`` says what the room owns, what it may import and what it must never know."""
    for folder in {path.parent for path in PACKAGE.glob("*/*.py")}:
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
        assert text.startswith("Owns ") and "May import: " in text and "Must never know: " in text, folder.name


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


def test_a_heavy_library_has_one_home() -> None:
    """s3fs, Git, Jinja and their like are imported by the rooms that need them, and by no other."""
    wrong = [
        f"{module}:{found.line} {found.wanted}"
        for module in MODULES
        for found in imports(module)
        if room(module) not in ONLY_HERE.get(found.wanted.split(".")[0], {room(module)})
    ]
    assert not wrong


def test_only_the_command_line_prints_prompts_and_exits() -> None:
    """Below the command line nothing prints to standard output, asks, or ends the process."""
    wrong = []
    for module in INSIDE:
        if room(module) == "cli":
            continue
        for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            to_log = any(keyword.arg == "file" for keyword in node.keywords)
            if called in ("input", "exit", "quit", "sys.exit") or (called == "print" and not to_log):
                wrong.append(f"{module}:{node.lineno} {called}")
    # Two processes of their own: one answers its parent on standard output, the other ends with an exit code.
    processes = ("kitaru.source.discovery", "kitaru.source.discovery_child", "kitaru.wiring.worker")
    assert [one for one in wrong if not one.startswith(processes)] == []


def test_only_the_room_of_stores_writes_to_one() -> None:
    """Elsewhere what is trusted goes through ``store.log`` and ``store.objects``, the rest through ``store.hints``."""
    wrong = [
        f"{module}:{node.lineno}"
        for module in INSIDE
        if room(module) != "store"
        for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("create", "overwrite", "remove")
        and ast.unparse(node.func.value).lstrip("_").rpartition(".")[2].lstrip("_") == "store"
    ]
    assert not wrong


def test_rooms_stay_small() -> None:
    """A file has at most 600 lines, a function at most 60, a folder at most 25 files."""
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= LONGEST_FILE, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                assert length <= LONGEST_FUNCTION, f"{path}: {node.name}: {length} lines"
    for folder in {path.parent for path in PACKAGE.rglob("*.py")}:
        assert len(list(folder.glob("*.py"))) <= FULLEST_FOLDER, folder


def test_no_room_for_everything() -> None:
    """No module is called utils, helpers, common or base."""
    assert not {path.stem for path in PACKAGE.rglob("*.py")} & {"utils", "util", "helpers", "common", "base", "misc"}


def test_importing_kitaru_loads_next_to_nothing() -> None:
    """``import kitaru`` brings neither a library nor the model; ``from kitaru import flow`` brings no library."""
    import subprocess
    import sys

    heavy = ["pydantic", "typer", "rich", "fsspec", "s3fs", "git", "jinja2", "jsonschema", "yaml", "asyncio"]
    code = f"import sys, kitaru\nfrom kitaru import flow, checkpoint\nprint(sorted(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
