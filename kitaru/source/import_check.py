"""Finds imports of modules that the working tree has and the snapshot lacks.

A flow that imports an ignored or excluded file works on its author's machine and fails elsewhere. A tree that leaves no
Python file out is never parsed.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from kitaru.errors import Problem
from kitaru.model.address import RESERVED
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

    ``files`` are the tree's files with their contents; ``explain`` gives the reason why a path was left out.
    ``folders`` are those of ``path.py:flow`` targets, relative to the tree: a run has them on ``sys.path``, too.
    """
    missing = left_out_modules(tree, worktree, folders)
    if not missing:
        return []
    words = "|".join(sorted({re.escape(name.rpartition(".")[2]) for name in missing}))
    mentioned = re.compile(rf"\b(?:{words})\b".encode())
    lines: dict[tuple[str, str], int] = {}
    for file, body in files:
        if file.path.endswith(".py") and mentioned.search(body):
            for name, line in imports(body, file.path):
                if name in missing:
                    lines.setdefault((file.path, name), line)
    return [
        Problem(
            f"imports {name} ({missing[name]}), which is not in the snapshot: {explain(missing[name])}",
            file=path,
            line=line,
            hint=f"commit {missing[name]}, or take it in with source.include / source.exclude",
        )
        for (path, name), line in lines.items()
    ]


def left_out_modules(tree: SourceTree, worktree: Path, folders: Collection[str] = ()) -> Mapping[str, str]:
    """Module names that only a file of ``worktree`` provides, with its path: ``{"lib.text": "lib/text.py"}``."""
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
    """Paths of Python files below ``folder``, without hidden folders, virtual environments and installed packages."""
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


def shadowed_imports(root: Path, target: str, roots: Sequence[str] = ()) -> Problem | None:
    """The problem of a target that imports a module of the project with a reserved name (``json.py``); None if none.

    The order of imports would decide whether Python takes the project's module or the library's. Follows the target's
    imports through the source at ``root``.
    """
    place = target.partition(":")[0]
    folders = [*(root / each for each in roots), root]
    if place.endswith(".py"):
        folders.append((root / place).parent)
    own = {name: path for folder in reversed(folders) for name, path in _reserved(folder)}
    if not own:
        return None
    waiting = [root / place] if place.endswith(".py") else list(_files_of(place, folders))
    seen = set(waiting)
    while waiting:
        file = waiting.pop()
        path = os.path.relpath(file, root)
        try:
            body = file.read_bytes()
        except OSError:
            continue
        for name, line in imports(body, path):
            top = name.partition(".")[0]
            if top in own:
                shown = os.path.relpath(own[top], root)
                return Problem(
                    f"{path}:{line} imports {top}: the project's {shown} has the name of a module of Python or Kitaru",
                    file=path,
                    line=line,
                    hint=f"give {shown} another name, or put it into a package of yours",
                )
            following = [each for each in _files_of(name, folders) if each not in seen]
            seen.update(following)
            waiting += following
    return None


def _reserved(folder: Path) -> Iterator[tuple[str, Path]]:
    """The modules of a folder that have reserved names, with their paths: ``("json", Path("lib/json.py"))``."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name.partition(".")[0]
            if name not in RESERVED or name == OWN_PACKAGE:
                continue
            package = Path(entry.path, "__init__.py").is_file()
            if package or (entry.name.endswith((".py", ".so", ".pyc")) and entry.is_file()):
                yield name, Path(entry.path)


def _files_of(name: str, folders: Sequence[Path]) -> Iterator[Path]:
    """The files that a dotted name may mean in the source."""
    for folder in folders:
        base = folder.joinpath(*name.split("."))
        yield from (path for path in (base.with_name(f"{base.name}.py"), base / "__init__.py") if path.is_file())


def imports(body: bytes, path: str) -> Iterator[tuple[str, int]]:
    """Every module name that the Python in ``body`` may import, with its line: ``("a.b", 3)``.

    ``import a.b`` needs ``a`` and ``a.b``; ``from a import b`` may need ``a.b``. ``path``, relative to the tree,
    resolves relative imports. Code that can't be parsed imports nothing.
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
