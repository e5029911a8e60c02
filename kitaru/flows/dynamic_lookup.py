"""Code that looks names up as it runs, so that what it reaches can't be read from it: what may be meant."""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kitaru.flows.project_source import is_project_file, source_of

IMPORTING = frozenset(
    {"import_module", "__import__", "modules", "resolve_name", "entry_points", "spec_from_file_location", "run_path"}
)
"""Names that reach modules by a text."""

LOOKING_UP = IMPORTING | {
    "getattr",
    "globals",
    "vars",
    "locals",
    "eval",
    "exec",
    "__dict__",
    "attrgetter",
    "methodcaller",
    "getmembers",
    "__subclasses__",
}
"""Names that reach functions by a text."""

OWN_NAMES = frozenset({"globals", "vars", "locals", "eval", "exec"})
"""Those that reach names of the module they stand in."""

MOST_FILES = 2_000
"""Files of a project that are read where any of them may be meant."""

_SKIPPED = ("site-packages", "node_modules", "__pycache__", "build", "dist")


def is_dynamic(names: set[str]) -> bool:
    """Whether code that mentions these names looks others up as it runs."""
    return not LOOKING_UP.isdisjoint(names)


def texts_of(code: types.CodeType) -> Iterator[str]:
    """The texts in ``code``: some may be names of modules."""
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from texts_of(constant)
        elif isinstance(constant, str):
            yield constant


def load_own(module: str) -> bool:
    """Whether that is a module of the project, which a function imports when it runs: it is imported now."""
    if module in sys.modules:
        return True
    try:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None or not is_project_file(spec.origin):
            return False
        importlib.import_module(module)
    except Exception:  # the function may well expect that
        return False
    return True


def modules_among(names: set[str], space: dict[str, Any]) -> set[str]:
    """Modules of the project that ``space`` has under one of ``names``, and those in them: ``package.module``."""
    found: set[str] = set()
    todo = [space]
    while todo:
        inside = todo.pop()
        for value in [inside[name] for name in names & inside.keys()]:
            if not isinstance(value, types.ModuleType) or value.__name__ in found:
                continue
            if source_of(value.__name__, None) is not None:
                found.add(value.__name__)
                todo.append(vars(value))
    return found


def project_texts(file: str, module: str) -> Iterator[tuple[str, str]]:
    """Path and text of each Python file beside and below the outermost package of ``module``, which ``file`` holds."""
    place = Path(file)
    if not place.is_file():
        return
    root = place.resolve().parent
    package = getattr(sys.modules.get(module), "__package__", None) or ""
    for _ in package.split(".") if package else ():
        root = root.parent
    count = 0
    for folder, inner, names in os.walk(root):
        here = Path(folder)
        inner[:] = sorted(one for one in inner if not one.startswith(".") and one not in _SKIPPED)
        if "pyvenv.cfg" in names:
            inner[:] = []
            continue
        for name in sorted(names):
            if name.endswith(".py") and count < MOST_FILES:
                count += 1
                try:
                    yield (here / name).relative_to(root).as_posix(), (here / name).read_text("utf-8", "replace")
                except OSError:
                    continue


def subclasses_of(value: Any) -> list[type]:
    """The classes of the project that derive from the class ``value``, however far."""
    if not isinstance(value, type) or value is type or source_of(value.__module__, None) is None:
        return []
    found: list[type] = []
    todo: list[type] = list(value.__subclasses__())
    while todo:
        one = todo.pop()
        if one not in found:
            found.append(one)
            todo += one.__subclasses__()
    return found
