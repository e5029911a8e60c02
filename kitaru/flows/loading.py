"""From a target (``flows/research.py:research_agent`` or ``package.module:flow``) to the flow it names.

Planning, ``kitaru run`` and the worker load through this one function, so that a module has the same name, and finds
the same neighbours, wherever it runs.
"""

from __future__ import annotations

import importlib
import importlib.util
import keyword
import os
import re
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from kitaru.errors import KitaruSourceError, KitaruUsageError, Problem
from kitaru.flows.checkpoint import Checkpoint
from kitaru.flows.finder import take_over, take_over_process
from kitaru.flows.flow import Flow
from kitaru.model.address import RESERVED

_MOST_FRAMES = 6
_MOST_FILES = 5_000
_MOST_CAUSE = 500


class MissingModuleError(KitaruSourceError):
    """A module that the code imports is not there; ``module`` is its dotted name."""

    def __init__(self, message: str, *, module: str, problems: tuple[Problem, ...], hint: str) -> None:
        super().__init__(message, problems=problems, hint=hint)
        self.module = module


def load_target(root: Path, target: str, roots: Sequence[str] = (), *, alone: bool = False) -> Flow[..., Any]:
    """Import what ``target`` names from the source tree at ``root``, and return the flow.

    ``roots`` are folders of the tree to import from besides the tree itself, such as ``src``. A target that is a file
    sees its neighbours, too, as when the file is run as a script. ``flows/research.py`` becomes ``flows.research``;
    a file of a package (a folder with ``__init__.py``) is imported from the folder above its package. With no ``:name``
    the only flow of the module is meant. ``alone``: this process exists for the source, see ``take_over_process``.

    Raises ``KitaruSourceError`` with one problem: no such file or module, an import that raises, no such name, no flow.
    """
    root = root.resolve()
    place, _, name = target.partition(":")
    places = places_of(root, target, roots)
    (take_over_process if alone else take_over)(root, places)
    # What was on disk a moment ago is not asked again: the tree may have been unpacked since.
    importlib.invalidate_caches()
    if _is_path(place):
        module = _import_file(root, place, [*(root / each for each in roots), root], places)
    else:
        module = _import_module(root, place)
    flow = _flow_in(module, name, place)
    _check_policies(module, flow, place)
    return flow


def places_of(root: Path, target: str, roots: Sequence[str] = ()) -> tuple[Path, ...]:
    """The folders that a target's modules are found in, the first one first.

    ``places_of(root, "src/shop/flows.py:quote")`` is ``(root, root/"src", root/"src/shop")`` for a package ``shop``.
    """
    places = [*(root / each for each in roots), root]
    place = target.partition(":")[0]
    if _is_path(place):
        folder = Path(os.path.normpath(root / place)).parent
        places += [each for each in (_above_package(folder, root), folder) if each.is_relative_to(root)]
    return tuple(dict.fromkeys(places))


def _above_package(folder: Path, root: Path) -> Path:
    """The folder that holds the package which ``folder`` belongs to; ``folder`` itself where it is no package."""
    while (folder / "__init__.py").is_file() and folder != root:
        folder = folder.parent
    return folder


def _is_path(place: str) -> bool:
    return place.endswith(".py") or "/" in place


# --- the module -------------------------------------------------------------------------------------------------------


def _import_file(root: Path, place: str, roots: Sequence[Path], places: Sequence[Path]) -> ModuleType:
    path = Path(os.path.normpath(root / place))
    if not path.is_relative_to(root) or not path.is_file():
        raise _no_file(root, place)
    parts = _module_path(path, roots, places)
    if not all(part.isidentifier() and not keyword.iskeyword(part) for part in parts):
        return _import_unnamable(root, path, place)
    name = ".".join(parts)
    if parts[0] in RESERVED:
        raise _name_taken(place, name)
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise _name_taken(place, name) from error
        raise _import_failed(root, place, error) from error
    if not _is_file(module, path):
        raise _name_taken(place, name)
    return module


def _module_path(path: Path, roots: Sequence[Path], places: Sequence[Path]) -> tuple[str, ...]:
    """The parts of the name that a file is imported by: its path below its package's folder, or its root.

    Where another module has the name of the folder (``etl/etl.py`` beside ``etl/load.py``, or ``code/`` and the
    standard library's ``code``), the file's own name, as when it is run as a script.
    """
    base = _above_package(path.parent, roots[-1])
    if base == path.parent:
        base = max((each for each in roots if path.is_relative_to(each)), key=lambda each: len(each.parts))
    parts = path.relative_to(base).with_suffix("").parts
    if parts[-1] == "__init__" and len(parts) > 1:
        parts = parts[:-1]
    if len(parts) > 1 and (parts[0] in RESERVED or _is_module(parts[0], base, places)):
        return (path.stem,)
    return parts


def _is_module(name: str, base: Path, places: Sequence[Path]) -> bool:
    """Whether ``name`` is something else in the project than the folder ``name`` of ``base``."""
    spec = PathFinder.find_spec(name, [str(place) for place in places])
    return spec is not None and spec.loader is not None and spec.origin != str(base / name / "__init__.py")


def _is_file(module: ModuleType, path: Path) -> bool:
    """Whether ``module`` was made from ``path``; one whose own file has gone meanwhile was not."""
    try:
        return bool(module.__file__) and path.samefile(str(module.__file__))
    except OSError:
        return False


def _import_unnamable(root: Path, path: Path, place: str) -> ModuleType:
    """Import a file whose path is no module name (``my-flows/a.py``), under a name made from it."""
    name = re.sub(r"\W", "_", path.relative_to(root).with_suffix("").as_posix().replace("/", "__"))
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path):
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise _problem(place, f"{place} is no Python file: expected a name that ends with .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _import_failed(root, place, error) from error
    return module


def _import_module(root: Path, name: str) -> ModuleType:
    if name.partition(".")[0] in RESERVED:
        raise _problem(
            name, f"{name} is a module of Python or of a library of Kitaru", hint="give the project's another name"
        )
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise _no_module(root, name, error) from error
        raise _import_failed(root, name, error) from error
    file = getattr(module, "__file__", None)
    if file and not Path(file).is_relative_to(root):
        raise _no_module(root, name, ModuleNotFoundError(name=name))
    return module


def _no_module(root: Path, target: str, error: ModuleNotFoundError) -> MissingModuleError:
    """No module of that name in the source; perhaps it is there below a folder to import from, such as ``src``."""
    relative = target.replace(".", "/")
    inside = next((path for end in (".py", "/__init__.py") for path in sorted(root.glob(f"*/{relative}{end}"))), None)
    hint = getattr(error, "hint", "")
    if inside is not None and not hint:
        folder = inside.relative_to(root).parts[0]
        hint = f"the source has {inside.relative_to(root)}; say in kitaru.yaml: source: {{roots: [{folder}]}}"
    name = error.name or target
    problem = Problem(
        f"there is no module {name} in the source",
        hint=hint or "targets are module.path:flow or path.py:flow",
    )
    return MissingModuleError(problem.message, module=name, problems=(problem,), hint=problem.hint)


# --- the flow ---------------------------------------------------------------------------------------------------------


def _flow_in(module: ModuleType, name: str, place: str) -> Flow[..., Any]:
    flows = {key: value for key, value in vars(module).items() if isinstance(value, Flow)}
    own = sorted(key for key, value in flows.items() if value.func.__module__ == module.__name__) or sorted(flows)
    if not name:
        if len(own) == 1:
            return flows[own[0]]
        if own:
            choices = ", ".join(f"{place}:{key}" for key in own)
            raise _problem(place, f"{place} holds several flows: {', '.join(own)}", hint=f"say which: {choices}")
        raise _problem(place, f"{place} holds no flow", hint="decorate a function with @flow (from kitaru import flow)")
    if not hasattr(module, name):
        near = _near(name, own, 0.5)
        what = f"; did you mean {near[0]}?" if near else f"; its flows are {', '.join(own)}" if own else ""
        hint = (
            f"{place}:{near[0]}" if near else "" if own else "decorate a function with @flow (from kitaru import flow)"
        )
        raise _problem(place, f"there is no {name} in {place}{what}", hint=hint)
    value = getattr(module, name)
    if isinstance(value, Flow):
        return value
    if isinstance(value, Checkpoint):
        raise _problem(
            place,
            f"{name} in {place} is a checkpoint, not a flow",
            hint=f"call {name} from a function decorated with @flow",
        )
    if isinstance(value, FunctionType):
        line = value.__code__.co_firstlineno
        raise _problem(
            place,
            f"{name} in {place} is a plain function",
            hint="decorate it with @flow (from kitaru import flow)",
            line=line,
        )
    raise _problem(
        place,
        f"{name} in {place} is no flow but {_a(type(value).__name__)}",
        hint="name a function decorated with @flow",
    )


def _check_policies(module: ModuleType, flow: Flow[..., Any], place: str) -> None:
    """Refuse a retry policy that waits for an exception which there is not: no failure would ever be tried again."""
    owner: Flow[..., Any] | Checkpoint[..., Any] = flow
    try:
        flow.policy()
        for owner in [one for one in vars(module).values() if isinstance(one, Checkpoint)]:
            owner.policy()
    except KitaruUsageError as error:
        line = owner.func.__code__.co_firstlineno
        raise _problem(place, error.message, hint=error.hint, line=line) from error


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


# --- what went wrong --------------------------------------------------------------------------------------------------


def _problem(place: str, message: str, *, hint: str = "", line: int = 0) -> KitaruSourceError:
    problem = Problem(message, file=place, line=line, hint=hint)
    return KitaruSourceError(message, problems=(problem,), hint=hint)


def _no_file(root: Path, place: str) -> KitaruSourceError:
    there: list[str] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        above = os.path.relpath(folder, root)
        there += [os.path.normpath(f"{above}/{name}") for name in names if name.endswith(".py")]
        if len(there) > _MOST_FILES:
            break
    same_name = sorted(path for path in there if path.rpartition("/")[2] == place.rpartition("/")[2])
    near = same_name[:1] or _near(place, sorted(there), 0.6)
    what = f"; did you mean {near[0]}?" if near else ""
    return _problem(
        place, f"there is no file {place} in the source{what}", hint="" if near else "commit it, or correct the target"
    )


def _near(name: str, there: list[str], cutoff: float) -> list[str]:
    """The name most like ``name``, if any is."""
    import difflib  # Here, as every worker imports this module and almost none makes a mistake.

    return difflib.get_close_matches(name, there, n=1, cutoff=cutoff)


def _name_taken(place: str, name: str) -> KitaruSourceError:
    top = name.partition(".")[0]
    other = None if top in RESERVED else sys.modules.get(name) or sys.modules.get(top)
    where = getattr(other, "__file__", None) or "Python or a library of Kitaru"
    package = "" if name == top else f" (or add {top}/__init__.py, if it is your own package)"
    return _problem(
        place,
        f"{place} can't be imported as {name}: that name belongs to {where}",
        hint=f"give {top} another name{package}",
    )


def _import_failed(root: Path, place: str, error: BaseException) -> KitaruSourceError:
    import traceback  # Here, for the same reason as difflib above.

    # The first line: notes follow it.
    cause = traceback.format_exception_only(error)[0].strip()[:_MOST_CAUSE]
    if isinstance(error, SystemExit):
        cause = "it ends the process (sys.exit)"
    frames = [
        (os.path.relpath(frame.filename, root), frame.lineno or 0, frame.name, (frame.line or "").strip())
        for frame in traceback.extract_tb(error.__traceback__)
        if _is_own(root, frame.filename)
    ]
    file, line, column = (frames[-1][0], frames[-1][1], 0) if frames else (place, 0, 0)
    if isinstance(error, SyntaxError) and error.filename:
        cause = f"{type(error).__name__}: {error.msg}"
        inside = _is_own(root, error.filename)
        file = os.path.relpath(error.filename, root) if inside else error.filename
        line, column = error.lineno or 0, max(error.offset or 0, 0)
    steps = [f"\n    {path}:{number} in {scope}: {text}" for path, number, scope, text in frames[-_MOST_FRAMES:]]
    if isinstance(error, SyntaxError) and line:
        text = f": {error.text.strip()}" if error.text else ""
        steps.append(f"\n    {file}:{line}:{column or 1}{text}")
    hint = _import_hint(error)
    problem = Problem(
        f"importing {place} failed: {cause}{''.join(steps)}", file=file, line=line, column=column, hint=hint
    )
    if isinstance(error, ModuleNotFoundError) and error.name:
        return MissingModuleError(problem.message, module=error.name, problems=(problem,), hint=hint)
    return KitaruSourceError(problem.message, problems=(problem,), hint=hint)


def _is_own(root: Path, file: str) -> bool:
    """Whether ``file`` is the user's: below the root, and not in a virtual environment there."""
    return Path(file).is_relative_to(root) and "site-packages" not in file


def _import_hint(error: BaseException) -> str:
    hint = getattr(error, "hint", "")
    if isinstance(hint, str) and hint:
        return hint
    if isinstance(error, SystemExit):
        return "put it under if __name__ == '__main__':"
    if isinstance(error, ModuleNotFoundError) and error.name:
        top = error.name.partition(".")[0]
        return f"install {top} in this environment and add it to image.requirements, or commit the module"
    return ""
