"""From a target (``flows/research.py:research_agent`` or ``package.module:flow``) to the flow it names.

Planning, ``kitaru run``, the worker and isolated checkpoints load through this one module, so that a module has the
same name, and finds the same neighbours, wherever it runs: in the project's own folders. A name of the standard
library, or of a library that Kitaru itself uses, means that library. Any other name means the project's module first; a
copy of the project that an editable installation or PYTHONPATH leads to is not looked at.
"""

from __future__ import annotations

import importlib
import importlib.util
import keyword
import os
import re
import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    PathFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from kitaru.errors import KitaruSourceError, KitaruUsageError, Problem
from kitaru.flows.checkpoint import Checkpoint
from kitaru.flows.flow import Flow
from kitaru.model.address import LIBRARIES, RESERVED

_MOST_FRAMES = 6
_MOST_FILES = 5_000
_MOST_CAUSE = 500
INSTALLED = ("site-packages", "dist-packages")
_STANDARD = (str(Path(os.__file__).parent), str(Path(os.__file__).parent / "lib-dynload"))


class MissingModuleError(KitaruSourceError):
    """A module that the code imports is not there; ``module`` is its dotted name."""

    def __init__(self, message: str, *, module: str, problems: tuple[Problem, ...], hint: str) -> None:
        super().__init__(message, problems=problems, hint=hint)
        self.module = module


def load_target(root: Path, target: str, roots: Sequence[str] = (), *, alone: bool = False) -> Flow[..., Any]:
    """The flow that ``target`` names, imported from the source tree at ``root``.

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
    """The folder that holds the package which ``folder`` belongs to; ``folder`` itself if it is no package."""
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
    try:
        module = None if parts[0] in RESERVED else _import(root, place, name)
        # One that has another file, or its own file no more, was not made from this one.
        if module is not None and module.__file__ and path.samefile(module.__file__):
            return module
    except (ModuleNotFoundError, OSError):
        pass
    raise _name_taken(place, name)


def _import(root: Path, place: str, name: str) -> ModuleType:
    """The module of that name. ``ModuleNotFoundError`` if there is none, ``KitaruSourceError`` if it raises."""
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise
        raise _import_failed(root, place, error) from error


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
        module = _import(root, name, name)
    except ModuleNotFoundError as error:
        raise _no_module(root, name, error) from error
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
        hint = _roots_hint(str(inside.relative_to(root)), inside.relative_to(root).parts[0])
    name, hint = error.name or target, hint or "targets are module.path:flow or path.py:flow"
    message = f"there is no module {name} in the source"
    return MissingModuleError(message, module=name, problems=(Problem(message, hint=hint),), hint=hint)


def _roots_hint(file: str, folder: str) -> str:
    return f"the source has {file}; say in kitaru.yaml: source: {{roots: [{folder}]}}"


# --- the flow ---------------------------------------------------------------------------------------------------------


def _flow_in(module: ModuleType, name: str, place: str) -> Flow[..., Any]:
    flows = {key: value for key, value in vars(module).items() if isinstance(value, Flow)}
    own = sorted(key for key, value in flows.items() if value.func.__module__ == module.__name__) or sorted(flows)
    undecorated = "decorate a function with @flow (from kitaru import flow)"
    if not name:
        if len(own) == 1:
            return flows[own[0]]
        if own:
            choices = ", ".join(f"{place}:{key}" for key in own)
            raise _problem(place, f"{place} holds several flows: {', '.join(own)}", hint=f"say which: {choices}")
        raise _problem(place, f"{place} holds no flow", hint=undecorated)
    if not hasattr(module, name):
        near = _near(name, own, 0.5)
        what = f"; did you mean {near[0]}?" if near else f"; its flows are {', '.join(own)}" if own else ""
        hint = f"{place}:{near[0]}" if near else "" if own else undecorated
        raise _problem(place, f"there is no {name} in {place}{what}", hint=hint)
    value, line = getattr(module, name), 0
    if isinstance(value, Flow):
        return value
    if isinstance(value, Checkpoint):
        what, hint = "is a checkpoint, not a flow", f"call {name} from a function decorated with @flow"
    elif isinstance(value, FunctionType):
        what, hint = "is a plain function", "decorate it with @flow (from kitaru import flow)"
        line = value.__code__.co_firstlineno
    else:
        kind = type(value).__name__
        what = f"is no flow but {'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"
        hint = "name a function decorated with @flow"
    raise _problem(place, f"{name} in {place} {what}", hint=hint, line=line)


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

    frames = [
        (os.path.relpath(frame.filename, root), frame.lineno or 0, frame.name, (frame.line or "").strip())
        for frame in traceback.extract_tb(error.__traceback__)
        if _is_own(root, frame.filename)
    ]
    steps = [f"\n    {path}:{number} in {scope}: {text}" for path, number, scope, text in frames[-_MOST_FRAMES:]]
    file, line, column = (*frames[-1][:2], 0) if frames else (place, 0, 0)
    cause = traceback.format_exception_only(error)[0].strip()[:_MOST_CAUSE]  # the first line: notes follow it
    hint, module = getattr(error, "hint", ""), ""
    if isinstance(error, SystemExit):
        cause = "it ends the process (sys.exit)"
        hint = "put it under if __name__ == '__main__':"
    elif isinstance(error, SyntaxError) and error.filename:
        cause = f"{type(error).__name__}: {error.msg}"
        file = os.path.relpath(error.filename, root) if _is_own(root, error.filename) else error.filename
        line, column = error.lineno or 0, max(error.offset or 0, 0)
        if line:
            steps.append(f"\n    {file}:{line}:{column or 1}" + (f": {error.text.strip()}" if error.text else ""))
    elif isinstance(error, ModuleNotFoundError) and error.name:
        module, top = error.name, error.name.partition(".")[0]
        hint = hint or f"install {top} in this environment and add it to image.requirements, or commit the module"
    hint = hint if isinstance(hint, str) else ""
    problem = Problem(
        f"importing {place} failed: {cause}{''.join(steps)}", file=file, line=line, column=column, hint=hint
    )
    if module:
        return MissingModuleError(problem.message, module=module, problems=(problem,), hint=hint)
    return KitaruSourceError(problem.message, problems=(problem,), hint=hint)


def _is_own(root: Path, file: str) -> bool:
    """Whether ``file`` is the user's: below the root, and not in a virtual environment there."""
    return Path(file).is_relative_to(root) and "site-packages" not in file


# --- the places of modules --------------------------------------------------------------------------------------------


class ForeignModuleError(ModuleNotFoundError):
    """A module is found outside the source only, in a copy of it."""

    hint = ""


class SourceLoader(SourceFileLoader):
    """Compiles the source that it reads: a ``.pyc`` beside it is neither read nor written."""

    def get_code(self, fullname: str) -> CodeType:
        """The code of the module."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


class ProjectFinder:
    """Finds the project's modules in ``places``, folders of the source at ``root``, and all others elsewhere."""

    def __init__(self, root: Path, places: Iterable[Path]) -> None:
        self.root = str(root)
        self.places = [str(place) for place in dict.fromkeys(places)]

    def find_spec(self, name: str, path: Sequence[str] | None = None, _target: ModuleType | None = None) -> Any:
        """The module's place; None leaves the search to the next finder."""
        top, _, below = name.partition(".")
        if below:
            return self._below(name, path or ())
        if top in sys.stdlib_module_names:
            return None
        if top in LIBRARIES:
            return self._elsewhere(name)
        own, other = PathFinder.find_spec(name, self.places), None
        if own is None or own.loader is None:
            other = self._elsewhere(name)
        if own is None:
            self._refuse_copy(name, other)
            return other
        if own.loader is not None:
            return own
        if other is not None and other.origin and _is_installed(other.origin):
            return other  # a package goes before a folder without __init__.py, as everywhere in Python
        folder = ModuleSpec(name, None, is_package=True)
        # A plain list: Python would add folders of that name from all of sys.path to its own kind.
        more = other.submodule_search_locations or () if other is not None else ()
        folder.submodule_search_locations = [
            *(own.submodule_search_locations or ()),
            *(place for place in more if _is_installed(place)),
        ]
        return folder

    def _below(self, name: str, path: Sequence[str]) -> ModuleSpec | None:
        if not any(self.holds(entry) for entry in path):
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is None:
            self._refuse_copy(name, self._elsewhere(name, path))
        return spec

    def _elsewhere(self, name: str, path: Sequence[str] | None = None) -> ModuleSpec | None:
        for finder in sys.meta_path:
            if finder is self:
                continue
            others = [entry for entry in sys.path if entry not in self.places]
            spec = finder.find_spec(name, others if finder is PathFinder and path is None else path)
            if spec is not None:
                return spec
        return None

    def _refuse_copy(self, name: str, spec: ModuleSpec | None) -> None:
        """Refuse a module that another copy of the project has, at the same path in it."""
        for origin in _homes(spec) if spec else ():
            same = None if _is_installed(origin) else self._counterpart(name, Path(origin))
            if same is None:
                continue
            error = ForeignModuleError(
                f"No module named {name!r} in the source: it is found in {origin}, outside of it", name=name
            )
            error.hint = _roots_hint(same[1], same[0])
            raise error

    def _counterpart(self, name: str, origin: Path) -> tuple[str, str] | None:
        """The folder of the source, and the file below it, that stand for a file of another copy."""
        parts = origin.parts
        own = name.count(".") + 1 + (origin.name == "__init__.py")
        for start in range(1, len(parts) - own):
            file = Path(*parts[start:])
            if Path(self.root, file).exists():
                return Path(*parts[start : len(parts) - own]).as_posix(), file.as_posix()
        return None

    def disowns(self, name: str, loaded: ModuleSpec) -> bool:
        """Whether the top-level module ``name`` was loaded from another place than the project's modules come from."""
        own = PathFinder.find_spec(name, self.places)
        if own is None:
            return any(map(self.holds, _homes(loaded)))
        if own.loader is None and loaded.origin and _is_installed(loaded.origin):
            return False
        return _homes(own) != _homes(loaded)

    def holds(self, place: str) -> bool:
        """Whether a path lies in the source."""
        return place == self.root or place.startswith(f"{self.root}{os.sep}")


def take_over(root: Path, places: Sequence[Path]) -> ProjectFinder:
    """Let the project's modules come from ``places`` in this process, from now on."""
    finder = ProjectFinder(root, places)
    sys.meta_path[:] = [finder, *(one for one in sys.meta_path if not isinstance(one, ProjectFinder))]
    rest = [entry for entry in sys.path if entry not in finder.places]
    standard = max((number for number, entry in enumerate(rest, 1) if entry in _STANDARD), default=0)
    # For children that import by sys.path alone: after Python's own, before all that is installed.
    sys.path[:] = [*rest[:standard], *finder.places, *rest[standard:]]
    return finder


def take_over_process(root: Path, places: Sequence[Path]) -> None:
    """As ``take_over``, in a process that exists for this source: compiled files in it do not count, and a module that
    was loaded from elsewhere under a name of the project is forgotten."""
    finder = take_over(root, places)

    def importer(folder: str) -> FileFinder:
        if not finder.holds(folder):
            raise ImportError(folder)
        loaders = (ExtensionFileLoader, EXTENSION_SUFFIXES), (SourceLoader, [".py"]), (SourcelessFileLoader, [".pyc"])
        return FileFinder(folder, *loaders)

    sys.path_hooks.insert(0, importer)
    sys.path_importer_cache.clear()
    for name in {name.partition(".")[0] for name in sys.modules} - RESERVED - {"__main__"}:
        loaded = getattr(sys.modules.get(name), "__spec__", None)
        if loaded is not None and finder.disowns(name, loaded):
            for each in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
                del sys.modules[each]


def present() -> list[str]:
    """The root and the places of this process's project, for a process that it starts; empty without one."""
    for finder in sys.meta_path:
        if isinstance(finder, ProjectFinder):
            return [finder.root, *finder.places]
    return []


def _homes(spec: ModuleSpec) -> list[str]:
    """The file that a module is read from, or the folders of one that is folders only."""
    return [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())


def _is_installed(place: str) -> bool:
    return not set(INSTALLED).isdisjoint(Path(place).parts) or place.startswith(_STANDARD)
