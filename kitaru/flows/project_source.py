"""The text of the project's own modules, taken apart once: functions, classes, and the statements that bind a name."""

from __future__ import annotations

import ast
import os
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

_OWN = str(Path(__file__).resolve().parents[1]) + os.sep
_LIBRARY_FOLDERS = ("site-packages", "dist-packages")
_STANDARD = tuple(
    {os.path.realpath(path) + os.sep for name in ("stdlib", "platstdlib") if (path := sysconfig.get_path(name))}
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@lru_cache(maxsize=4096)
def is_project_file(file: str) -> bool:
    """Whether the project itself holds that file: no library, not Python's own, not Kitaru."""
    path = Path(file).resolve()
    if not path.is_file():
        return not file.startswith("<frozen")  # typed in somewhere: whose else should it be
    library = any(folder in path.parts for folder in _LIBRARY_FOLDERS)
    return not library and not str(path).startswith((*_STANDARD, _OWN))


def source_of(module: str, file: str | None) -> ModuleSource | None:
    """The source of a loaded module of the project; None for any other, and for one that can't be read."""
    loaded = sys.modules.get(module)
    place = getattr(loaded, "__file__", None) or file
    if not place or not place.endswith(".py") or not is_project_file(place):
        return None
    name = getattr(loaded, "__package__", None) or ""
    try:
        changed = Path(place).stat().st_mtime_ns
    except OSError:
        return None
    return _read(place, str(name), changed)


@lru_cache(maxsize=1024)
def _read(file: str, package: str, _changed: int) -> ModuleSource | None:
    try:
        text = Path(file).read_text("utf-8")
        return ModuleSource(text, file, package)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


class ModuleSource:
    """One module's text. What it gives is without comments, docstrings and layout."""

    def __init__(self, text: str, file: str, package: str) -> None:
        self.text = text
        self._tree = ast.parse(text)
        self._package = package
        self._codes = {
            (code.co_firstlineno, code.co_name): code for code in _codes(compile(text, file, "exec", dont_inherit=True))
        }
        self._functions: dict[tuple[int, str], Function] = {}
        self._classes: dict[str, ast.ClassDef] = {}
        self._bindings: dict[str, list[ast.stmt]] = {}
        self._index(self._tree.body, "")
        self._bind(self._tree.body)

    def function(self, code: types.CodeType, drops: Callable[[str], bool]) -> str | None:
        """The function that ``code`` runs, without the decorators that ``drops`` says don't matter.

        None where the text is not what is loaded: it was edited since, or is no def.
        """
        key = (code.co_firstlineno, code.co_name)
        node = self._functions.get(key)
        if node is None or self._codes.get(key) != code:
            return None
        decorators = [text for text in map(ast.unparse, node.decorator_list) if not drops(text)]
        return "\n".join([*(f"@{text}" for text in decorators), _text(node)])

    def names_of(self, code: types.CodeType) -> set[str]:
        """Every name in the function that ``code`` runs, its decorators included."""
        node = self._functions.get((code.co_firstlineno, code.co_name))
        return _names(node) if node is not None else set()

    def imports_of(self, code: types.CodeType) -> list[str]:
        """Modules that the function imports itself, when it runs."""
        node = self._functions.get((code.co_firstlineno, code.co_name))
        found: list[str] = []
        for one in ast.walk(node) if node is not None else ():
            if isinstance(one, ast.Import):
                found += [alias.name for alias in one.names]
            elif isinstance(one, ast.ImportFrom):
                module = self._absolute(one)
                found += [module, *(f"{module}.{alias.name}" for alias in one.names)]
        return found

    def defined_class(self, qualname: str) -> str | None:
        """The class of that name."""
        node = self._classes.get(qualname)
        return _text(node) if node is not None else None

    def names_of_class(self, qualname: str) -> set[str]:
        """Every name in that class."""
        return _names(self._classes[qualname])

    def statements(self, name: str) -> tuple[str, set[str]] | None:
        """The statements of the module that bind ``name``, and the names in them."""
        found = self._bindings.get(name)
        if not found:
            return None
        return "\n".join(ast.unparse(_stripped(node)) for node in found), set().union(*map(_names, found))

    def is_literal(self, name: str) -> bool:
        """Whether ``name`` is bound once, to something written out."""
        found = self._bindings.get(name, [])
        if len(found) != 1 or not isinstance(found[0], ast.Assign | ast.AnnAssign) or found[0].value is None:
            return False
        try:
            ast.literal_eval(found[0].value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return False
        return True

    def imported_from(self, name: str) -> tuple[str, str] | None:
        """Module and name that ``name`` was imported from."""
        for node in self._bindings.get(name, []):
            if isinstance(node, ast.ImportFrom):
                module = self._absolute(node)
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return module, alias.name
        return None

    def _absolute(self, node: ast.ImportFrom) -> str:
        parts = self._package.split(".") if node.level else []
        return ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])

    def _index(self, body: list[ast.stmt], prefix: str) -> None:
        for node in _statements(body):
            if isinstance(node, Function):
                first = min([node.lineno, *(item.lineno for item in node.decorator_list)])
                self._functions[first, node.name] = node
                self._index(node.body, f"{prefix}{node.name}.<locals>.")
            elif isinstance(node, ast.ClassDef):
                self._classes[f"{prefix}{node.name}"] = node
                self._index(node.body, f"{prefix}{node.name}.")

    def _bind(self, body: list[ast.stmt]) -> None:
        for node in _statements(body):
            for name in _bound(node):
                self._bindings.setdefault(name, []).append(node)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a body, those inside if, try, with and loops included, but not those of functions."""
    for node in body:
        yield node
        if isinstance(node, Function | ast.ClassDef):
            continue
        for part in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(node, part, []))
        for handler in getattr(node, "handlers", []):
            yield from _statements(handler.body)


def _bound(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    if isinstance(node, Function | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.For | ast.With | ast.Expr):
        return {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
    return set()


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _names(node: ast.AST) -> set[str]:
    found = set()
    for one in ast.walk(node):
        if isinstance(one, ast.Name):
            found.add(one.id)
        elif isinstance(one, ast.Attribute):
            found.add(one.attr)
    return found


def _text(node: Function | ast.ClassDef) -> str:
    decorators, node.decorator_list = node.decorator_list, [] if isinstance(node, Function) else node.decorator_list
    try:
        return ast.unparse(_stripped(node))
    finally:
        node.decorator_list = decorators


def _stripped(node: ast.stmt) -> ast.AST:
    """A copy of ``node`` without docstrings."""
    fresh = ast.parse(ast.unparse(node))
    for one in ast.walk(fresh):
        if isinstance(one, Function | ast.ClassDef) and ast.get_docstring(one, clean=False) is not None:
            one.body = one.body[1:] or [ast.Pass()]
    return fresh
