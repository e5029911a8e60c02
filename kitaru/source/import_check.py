"""Imported but left out: modules that the working tree has and the snapshot has not.

A flow that imports an ignored or excluded file works on its author's machine and fails in its first run elsewhere. Only
the names of the files that were left out are looked for, so a tree that leaves no Python out is never parsed.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from kitaru.errors import Problem
from kitaru.model.snapshot import SourceFile, SourceTree

OWN_PACKAGE = "kitaru"
"""Every snapshot runs beside an installed Kitaru, also one that is made in a checkout of Kitaru itself."""

_FOREIGN_FOLDERS = frozenset({"node_modules", "__pycache__", "site-packages", "venv"})


def left_out_imports(
    files: Iterable[tuple[SourceFile, bytes]],
    tree: SourceTree,
    worktree: Path,
    *,
    explain: Callable[[str], str],
    folders: Collection[str] = (),
) -> list[Problem]:
    """A warning for every import, in the snapshot's Python, of a module that only the working tree has.

    ``files`` are the tree's files with their contents; ``explain`` says why a path was left out; ``folders`` are those
    of ``path.py:flow`` targets, relative to the tree, which are on ``sys.path`` beside its root when a flow runs.
    """
    missing = left_out_modules(tree, worktree, folders)
    if not missing:
        return []
    words = "|".join(sorted({re.escape(name.rpartition(".")[2]) for name in missing}))
    mentioned = re.compile(rf"\b(?:{words})\b".encode())
    warnings: dict[tuple[str, str], Problem] = {}
    for file, body in files:
        if not file.path.endswith(".py") or not mentioned.search(body):
            continue
        for name, line in imports(body, file.path):
            place = missing.get(name)
            if place is None or (file.path, name) in warnings:
                continue
            reason = explain(place)
            warnings[file.path, name] = Problem(
                f"imports {name} ({place}), which is not in the snapshot: {reason}",
                file=file.path,
                line=line,
                hint=f"commit {place}, or take it in with source.include / source.exclude",
            )
    return list(warnings.values())


def left_out_modules(tree: SourceTree, worktree: Path, folders: Collection[str] = ()) -> Mapping[str, str]:
    """Dotted names that import a file of ``worktree`` and nothing of ``tree``, each with the path of that file."""
    there = {file.path for file in tree.files}
    bases = ["", *folders]
    known = {name for path in there if path.endswith(".py") for name in _names(path, bases)}
    missing: dict[str, str] = {}
    for path in _python_files(worktree, ""):
        if path not in there:
            for name in _names(path, bases):
                if name not in known and name.partition(".")[0] != OWN_PACKAGE:
                    missing.setdefault(name, path)
    return missing


def _names(path: str, bases: Iterable[str]) -> Iterator[str]:
    """The dotted names under which ``path`` can be imported when ``bases`` are on ``sys.path``."""
    for base in bases:
        if not base or path.startswith(f"{base}/"):
            parts = path[len(base) + 1 if base else 0 :].removesuffix(".py").split("/")
            if parts[-1] == "__init__":
                parts.pop()
            if parts and all(part.isidentifier() for part in parts):
                yield ".".join(parts)


def _python_files(folder: Path, prefix: str) -> Iterator[str]:
    """Paths of Python files below ``folder``, but for hidden folders, virtual environments and foreign packages."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    if any(entry.name == "pyvenv.cfg" for entry in entries):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if not entry.name.startswith(".") and entry.name not in _FOREIGN_FOLDERS:
                yield from _python_files(Path(entry.path), f"{prefix}{entry.name}/")
        elif entry.name.endswith(".py"):
            yield prefix + entry.name


def imports(body: bytes, path: str) -> Iterator[tuple[str, int]]:
    """Every dotted name that the Python in ``body`` may import, wherever it stands, with its line.

    ``import a.b`` needs ``a`` and ``a.b``; ``from a import b`` may need ``a.b``. A relative import is told from
    ``path``, which is relative to the tree. Code that can't be parsed imports nothing.
    """
    try:
        module = ast.parse(body)
    except (SyntaxError, ValueError, RecursionError):
        return
    package = path.split("/")[:-1]
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _prefixes(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            start = [node.module] if node.module else []
            if node.level:
                kept = len(package) - node.level + 1
                if kept < 0:
                    continue
                start = package[:kept] + start
            yield from _prefixes(".".join(start), node.lineno)
            for alias in node.names:
                if alias.name != "*":
                    yield ".".join([*start, alias.name]), node.lineno


def _prefixes(name: str, line: int) -> Iterator[tuple[str, int]]:
    parts = name.split(".") if name else []
    for size in range(1, len(parts) + 1):
        yield ".".join(parts[:size]), line
