"""``kitaru init``: find the flows of a repository, and write a first ``kitaru.yaml`` for them.

Flows are found by reading source code: nothing is imported, so a broken file costs only its own flows.
"""

from __future__ import annotations

import ast
import os
import re
import unicodedata
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from jinja2 import Environment, FunctionLoader, StrictUndefined

from kitaru import data_files
from kitaru.errors import KitaruBackendError, KitaruManifestError, KitaruUsageError, Problem
from kitaru.manifest import reading
from kitaru.manifest.yaml import quote, shown
from kitaru.model.address import FLOW_NAME, PROJECT_NAME

SCHEMA_FILE = "kitaru.schema.json"
"""The schema for editors, beside the manifest: a fresh clone has it, and it is that of the Kitaru in use."""

_NOT_OURS = re.compile(r"\..*|venv|env|site-packages|node_modules|build|dist|__pycache__|.*\.egg-info")
"""Folders of tools: hidden ones, environments, bytecode, builds."""


@dataclass(frozen=True, slots=True)
class ScaffoldResult:
    """The result of ``init``.

    ``created``: whether the manifest was written; an existing one is never touched. ``flows`` are all flows,
    ``undeclared`` those that an existing manifest lacks, with ``paste`` the YAML block for them. ``written`` are the
    files that this run wrote or changed. ``project`` is empty, and ``undeclared`` too, if an existing manifest can't be
    loaded; ``problems`` then has the reason, beside the files that are not valid Python.
    """

    manifest: Path
    created: bool
    project: str
    flows: tuple[FoundFlow, ...]
    undeclared: tuple[FoundFlow, ...]
    paste: str
    written: tuple[Path, ...]
    problems: tuple[Problem, ...]


def scaffold(root: Path, *, files: Sequence[Path], project: str | None = None) -> ScaffoldResult:
    """Write ``kitaru.yaml``, lines of ``.gitignore`` and the schema for editors below ``root``, if they are missing.

    ``files`` are searched for flows; absolute, or relative to ``root``. ``project`` defaults to the folder's name.
    Raises ``KitaruUsageError`` for a name that can't be a project's, ``KitaruBackendError`` if writing fails.
    """
    if not root.is_dir():
        raise KitaruUsageError(f"expected a folder, and {root} is none", hint="kitaru init runs in an existing folder")
    if project is not None and not PROJECT_NAME.fullmatch(project):
        raise KitaruUsageError(
            f"{project!r} can't name a project: expected lower-case letters, digits, - and _, beginning with a letter "
            "or digit",
            hint=f"kitaru init --project {project_name(project)}",
        )
    found, problems = find_flows(root, files)
    path = root / reading.MANIFEST_NAME
    name, flows = project or project_name(root.resolve().name), name_apart(found)
    try:
        if not os.path.lexists(path):
            include = source_of(root, files, flows)
            text = _render("kitaru.yaml.j2", project=name, flows=flows, schema=SCHEMA_FILE, include=include)
            with suppress(FileExistsError):  # another process wrote it just now: theirs stays
                with path.open("x", encoding="utf-8", newline="\n") as stream:
                    stream.write(text)
                written = (path, *_write_surroundings(root))
                return ScaffoldResult(path, True, name, tuple(flows), (), "", written, tuple(problems))
        written = _write_surroundings(root)
    except OSError as error:
        place = error.filename or path
        hint = "check the folder's permissions, then: kitaru init"
        raise KitaruBackendError(f"{place} can't be written: {error.strerror or error}", hint=hint) from error
    try:
        manifest = reading.load(path).manifest
    except KitaruManifestError as error:
        return ScaffoldResult(path, False, "", tuple(flows), (), "", written, (*error.problems, *problems))
    overlaid = (flow for overlay in manifest.targets.values() for flow in (overlay.flows or {}).values())
    targets = [*(flow.target for flow in manifest.flows.values()), *(str(flow.get("target")) for flow in overlaid)]
    # A module path may leave out the folders that are on the import path, ``src/`` say.
    declared = tuple(f".{_module(target)}" for target in targets)
    known = [flow for flow in found if f".{_module(flow.target)}".endswith(declared)]
    flows = name_apart([flow for flow in found if flow not in known], taken=manifest.flows)
    paste = "".join(_render("flow.yaml.j2", flow=flow) for flow in flows)
    paste = paste if manifest.flows or not paste else f"flows:\n{paste}"
    every = tuple(sorted([*known, *flows], key=lambda flow: (flow.file, flow.line)))
    return ScaffoldResult(path, False, manifest.project, every, tuple(flows), paste, written, tuple(problems))


def project_name(text: str) -> str:
    """The nearest text that can name a project."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_-]+", "-", plain).strip("-_")[:63].rstrip("-_") or "project"


def _module(target: str) -> str:
    """``flows/research.py:agent`` and ``flows.research:agent`` as the same text."""
    place, _, name = target.partition(":")
    if place.endswith(".py"):
        place = os.path.normpath(place[: -len(".py")]).replace("/", ".").removesuffix(".__init__")
    return f"{place}:{name}"


def _write_surroundings(root: Path) -> tuple[Path, ...]:
    """The lines of ``.gitignore`` and the schema for editors, if they are missing or stale; the files that changed."""
    changed = []
    schema, text = root / SCHEMA_FILE, data_files.schema("kitaru").encode()
    if not schema.is_file() or schema.read_bytes() != text:
        schema.write_bytes(text)
        changed.append(schema)
    ignore = root / ".gitignore"
    body = ignore.read_bytes() if ignore.exists() else b""
    known = {line.strip().strip("/") for line in body.decode("utf-8", "replace").splitlines()}
    environments = sorted(f"{config.parent.name}/" for config in root.glob("*/pyvenv.cfg"))
    wanted = dict.fromkeys([*data_files.template("gitignore").splitlines(), *environments])
    missing = [line for line in wanted if line.strip("/") not in known]
    if any(not line.startswith("#") for line in missing):
        ending = b"\r\n" if b"\r\n" in body else b"\n"
        gap = b"" if not body or body.endswith(b"\n") else ending
        with ignore.open("ab") as stream:  # appending keeps the rest, whatever its encoding
            stream.write(gap + b"".join(line.encode() + ending for line in missing))
        changed.append(ignore)
    return tuple(changed)


def _render(name: str, **values: Any) -> str:
    environment = Environment(
        loader=FunctionLoader(data_files.template),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["yaml"] = quote
    return environment.get_template(name).render(**values)


# --- flows in source code ---------------------------------------------------------------------------------------------

_NOT_PYTHON = (SyntaxError, ValueError, RecursionError, MemoryError)
_TEST_FILE = re.compile(r"test_.*\.py|.*_test\.py|conftest\.py")


class Parameter(NamedTuple):
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

    ``files`` are absolute, or relative to ``root``; those outside it, tests, files of tools (an environment, a build)
    and files that are not Python are passed over.
    """
    flows: list[FoundFlow] = []
    problems: list[Problem] = []
    for file in _python_files(root, files):
        if _TEST_FILE.fullmatch(PurePosixPath(file).name):
            continue
        try:
            found = _flows_in(file, (root / file).read_bytes())
            if found and (":" in file or "\\" in file or file.startswith("~") or not file.isprintable()):
                message = "expected a path without ':' or '\\' that begins with no '~', so that a target can name it"
                problems.append(Problem(message, file=shown(file)))
            else:
                flows += found
        except OSError as error:
            problems.append(Problem(f"can't be read: {error.strerror or error}", file=file))
        except _NOT_PYTHON as error:
            reason, line, column = (getattr(error, name, None) for name in ("msg", "lineno", "offset"))
            message = f"not valid Python: {reason or error}"
            problems.append(Problem(message, file=file, line=line or 0, column=column or 0))
    return flows, problems


def source_of(root: Path, files: Sequence[Path], flows: Sequence[FoundFlow]) -> list[str]:
    """Patterns for ``source.include``: the folders of the flows, and those of the modules that they import.

    >>> source_of(root, files, flows)
    ['flows/**', 'lib/**']
    """
    modules: dict[str, list[str]] = {}
    for file in _python_files(root, files):
        modules.setdefault(_top(file), []).append(file)
    beside = {file.removesuffix(".py") for file in modules.get("", ())}
    waiting, taken = [_top(flow.file) for flow in flows], set[str]()
    while waiting:
        top = waiting.pop()
        if top not in taken:
            taken.add(top)
            names = {name for file in modules[top] for name in _imported_modules(root / file)}
            waiting += [name for name in names if name in modules] + [""] * bool(names & beside)
    return ["*.py"] * ("" in taken) + [f"{top}/**" for top in sorted(taken - {""})]


def _top(file: str) -> str:
    """The first folder of a path; empty for a file beside the manifest."""
    return file.partition("/")[0] if "/" in file else ""


def _imported_modules(path: Path) -> set[str]:
    """The first names of the modules that a file imports; none for a file that is not valid Python."""
    try:
        meanings = _imported(_parsed(path.read_bytes(), str(path))).values()
    except (OSError, *_NOT_PYTHON):
        return set()
    return {meaning.partition(".")[0] for meaning in meanings}


def _python_files(root: Path, files: Sequence[Path]) -> list[str]:
    """The paths of Python files below ``root``, sorted, without those in folders of tools."""
    environments = {config.parent.name for config in root.glob("*/pyvenv.cfg")}
    paths = set[str]()
    for file in files:
        path = PurePosixPath(file)
        if path.is_relative_to(root):
            path = path.relative_to(root)
        is_ours = not any(_NOT_OURS.fullmatch(name) or name in environments for name in path.parts[:-1])
        if path.suffix == ".py" and not path.is_absolute() and is_ours:
            paths.add(str(path))
    return sorted(paths)


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


def _flows_in(file: str, body: bytes) -> list[FoundFlow]:
    if b"kitaru" not in body:
        return []
    module = _parsed(body, file)
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


def _parsed(body: bytes, file: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an odd escape in a text of the user's
        return ast.parse(body, filename=file)


def _imported(module: ast.Module) -> dict[str, str]:
    """Imported name → its meaning: ``f`` → ``kitaru.flow`` after ``from kitaru import flow as f``."""
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


def _functions(body: Sequence[ast.AST]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions that a module has as attributes: its own, and those inside ``if``, ``try`` and ``with``."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            yield statement
        elif not isinstance(statement, ast.ClassDef):
            for block in ("body", "handlers", "orelse", "finalbody"):
                inner = getattr(statement, block, None)
                yield from _functions(inner if isinstance(inner, list) else [])


def _is_flow(decorator: ast.expr, names: dict[str, str]) -> bool:
    name = ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator)
    first, dot, rest = name.partition(".")
    meaning = f"{names.get(first, '')}{dot}{rest}"
    return meaning.startswith("kitaru.") and meaning.endswith(".flow")


def _required(arguments: ast.arguments) -> Iterator[Parameter]:
    positional = [*arguments.posonlyargs, *arguments.args]
    required = positional[: len(positional) - len(arguments.defaults)]
    named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    for argument in [*required, *(argument for argument, default in named if default is None)]:
        annotation = ast.unparse(argument.annotation) if argument.annotation else ""
        yield Parameter(argument.arg, annotation if annotation.isprintable() and len(annotation) <= 60 else "")
