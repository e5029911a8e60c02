"""Where the modules of a project are found: in its own folders, whatever else this machine has.

One rule for planning, running, isolated checkpoints and ``kitaru run``. A name of the standard library, or of a library
that Kitaru itself uses, means that library. Any other name means the project's module first; a copy of the project that
an editable installation or PYTHONPATH leads to is not looked at.
"""

from __future__ import annotations

import os
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
from types import CodeType, ModuleType
from typing import Any

from kitaru.model.address import LIBRARIES, RESERVED

INSTALLED = ("site-packages", "dist-packages")
_STANDARD = (str(Path(os.__file__).parent), str(Path(os.__file__).parent / "lib-dynload"))


class ForeignModuleError(ModuleNotFoundError):
    """A module is found outside the source only, in a copy of it."""

    def __init__(self, message: str, *, name: str, hint: str) -> None:
        super().__init__(message, name=name)
        self.hint = hint


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
            entries = path
            if finder is PathFinder and path is None:
                entries = [entry for entry in sys.path if entry not in self.places]
            spec = finder.find_spec(name, entries)
            if spec is not None:
                return spec
        return None

    def _refuse_copy(self, name: str, spec: ModuleSpec | None) -> None:
        """Refuse a module that another copy of the project has, at the same path in it."""
        if spec is None:
            return
        for origin in _homes(spec):
            same = None if _is_installed(origin) else self._counterpart(name, Path(origin))
            if same is None:
                continue
            raise ForeignModuleError(
                f"No module named {name!r} in the source: it is found in {origin}, outside of it",
                name=name,
                hint=f"the source has {same[1]}; say in kitaru.yaml: source: {{roots: [{same[0]}]}}",
            )

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
    sys.path_hooks[:] = [_SourceHook(finder), *(hook for hook in sys.path_hooks if not isinstance(hook, _SourceHook))]
    sys.path_importer_cache.clear()
    for name in {name.partition(".")[0] for name in sys.modules} - RESERVED - {"__main__"}:
        loaded = getattr(sys.modules.get(name), "__spec__", None)
        if loaded is not None and finder.disowns(name, loaded):
            for each in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
                del sys.modules[each]


class _SourceHook:
    """Makes the importer of each folder of the source, for ``sys.path_hooks``."""

    def __init__(self, finder: ProjectFinder) -> None:
        self._finder = finder

    def __call__(self, folder: str) -> FileFinder:
        if not self._finder.holds(folder):
            raise ImportError(folder)
        return FileFinder(
            folder,
            (ExtensionFileLoader, EXTENSION_SUFFIXES),
            (SourceLoader, [".py"]),
            (SourcelessFileLoader, [".pyc"]),
        )


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
