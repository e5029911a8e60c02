"""Flows in source code, found by reading it: nothing is imported, so a broken file costs only its own flows."""

from __future__ import annotations

import ast
import re
import unicodedata
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from kitaru.errors import Problem
from kitaru.manifest.yaml import shown
from kitaru.model.address import FLOW_NAME

_TEST_FILE = re.compile(r"test_.*\.py|.*_test\.py|conftest\.py")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter without default; ``annotation`` as the source spells it, or empty."""

    name: str
    annotation: str


@dataclass(frozen=True, slots=True)
class FoundFlow:
    """A function decorated with ``@flow``. ``name`` is for the manifest; ``file`` is relative, ``line`` from 1."""

    name: str
    target: str
    function: str
    file: str
    line: int
    parameters: tuple[Parameter, ...] = ()


def find_flows(root: Path, files: Sequence[Path]) -> tuple[list[FoundFlow], list[Problem]]:
    """The flows at module level in ``files``, by path and line, and the files that could not be read.

    ``files`` are absolute, or relative to ``root``; those outside it, tests, and what is not Python are passed over.
    """
    flows: list[FoundFlow] = []
    problems: list[Problem] = []
    for file in sorted({_relative(root, file) for file in files} - {None}, key=str):
        assert file is not None
        if not file.endswith(".py") or _TEST_FILE.fullmatch(PurePosixPath(file).name):
            continue
        try:
            found = _flows_in(file, (root / file).read_bytes())
            if found and (":" in file or "\\" in file or not file.isprintable()):
                problems.append(
                    Problem("expected a path without ':' or '\\', so that a target can name it", file=shown(file))
                )
            else:
                flows += found
        except SyntaxError as error:
            message = f"not valid Python: {error.msg}"
            problems.append(Problem(message, file=file, line=error.lineno or 0, column=error.offset or 0))
        except OSError as error:
            problems.append(Problem(f"can't be read: {error.strerror or error}", file=file))
        except (ValueError, RecursionError, MemoryError) as error:
            problems.append(Problem(f"not valid Python: {error}", file=file))
    return flows, problems


def name_apart(flows: Sequence[FoundFlow], taken: Collection[str] = ()) -> list[FoundFlow]:
    """The flows with names that differ from each other and from ``taken``, made longer by file and folder at need."""
    used = set(taken)
    named = []
    for flow in flows:
        name = next(name for name in _names(flow) if name not in used)
        used.add(name)
        named.append(replace(flow, name=name))
    return named


def _names(flow: FoundFlow) -> Iterator[str]:
    parts = [*PurePosixPath(flow.file).with_suffix("").parts, flow.function]
    for count in range(1, len(parts) + 1):
        yield _flow_name("_".join(parts[-count:]))
    number = 2
    while True:
        yield f"{_flow_name(flow.function)[:90]}_{number}"
        number += 1


def _flow_name(text: str) -> str:
    """The nearest text that can name a flow."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", plain)[-100:].lstrip("-0123456789")
    return plain if FLOW_NAME.fullmatch(plain) and plain.strip("_") else "flow"


def _relative(root: Path, file: Path) -> str | None:
    try:
        relative = (file.relative_to(root) if file.is_absolute() else file).as_posix()
    except ValueError:
        return None
    return None if ".." in relative.split("/") else relative


def _flows_in(file: str, body: bytes) -> list[FoundFlow]:
    if b"kitaru" not in body:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an odd escape in somebody's text is not for us to print
        module = ast.parse(body, filename=file)
    names = _imported(module)
    found: dict[str, FoundFlow] = {}
    for function in _functions(module.body):
        if any(_is_flow(decorator, names) for decorator in function.decorator_list):
            found[function.name] = FoundFlow(
                name=_flow_name(function.name),
                target=f"{file}:{function.name}",
                function=function.name,
                file=file,
                line=function.lineno,
                parameters=tuple(_required(function.args)),
            )
    return sorted(found.values(), key=lambda flow: flow.line)


def _imported(module: ast.Module) -> dict[str, str]:
    """What each imported name stands for: ``f`` for ``kitaru.flow`` after ``from kitaru import flow as f``."""
    names: dict[str, str] = {}
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                if alias.name == "*":
                    names["flow"] = f"{node.module}.flow"
                else:
                    names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _functions(body: Sequence[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions that a module has as attributes: its own, and those inside ``if``, ``try`` and ``with``."""
    for statement in body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield statement
            case ast.If() | ast.With():
                yield from _functions([*statement.body, *getattr(statement, "orelse", [])])
            case ast.Try():
                handlers = [line for handler in statement.handlers for line in handler.body]
                yield from _functions([*statement.body, *handlers, *statement.orelse, *statement.finalbody])


def _is_flow(decorator: ast.expr, names: dict[str, str]) -> bool:
    expression = decorator.func if isinstance(decorator, ast.Call) else decorator
    attributes: list[str] = []
    while isinstance(expression, ast.Attribute):
        attributes.insert(0, expression.attr)
        expression = expression.value
    if not isinstance(expression, ast.Name) or expression.id not in names:
        return False
    dotted = ".".join([names[expression.id], *attributes])
    return dotted.startswith("kitaru.") and dotted.endswith(".flow")


def _required(arguments: ast.arguments) -> Iterator[Parameter]:
    positional = [*arguments.posonlyargs, *arguments.args]
    required = positional[: len(positional) - len(arguments.defaults)]
    named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    for argument in [*required, *(argument for argument, default in named if default is None)]:
        annotation = ast.unparse(argument.annotation) if argument.annotation else ""
        yield Parameter(argument.arg, annotation if annotation.isprintable() and len(annotation) <= 60 else "")
