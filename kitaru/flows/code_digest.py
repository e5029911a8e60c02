"""What code a function is, and reaches: digests by name, the same on every machine, for the cache.

From the function on, every name that its code mentions is followed to what the project itself defines: functions,
classes, methods, constants, modules; decorators and closures included. Libraries are not followed: their versions are
part of the environment. Source counts without comments, docstrings, layout and Kitaru's own decorators; code without
readable source counts by its instructions. A value that says nothing about itself (a client, a model) counts by the
statements that made it, and where those can't be found, by the whole text of its module.

Functions and classes that a container or object holds count as it holds them now (``held_code``). Where code looks
names up as it runs (``getattr``, ``globals``), every module of the project that it mentions counts with all that it
defines; where it imports by a name that is not written out, every file of the project does.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any

from kitaru.errors import KitaruSourceError
from kitaru.flows.checkpoint import Checkpoint
from kitaru.flows.dynamic_lookup import (
    IMPORTING,
    OWN_NAMES,
    is_dynamic,
    load_own,
    modules_among,
    project_texts,
    subclasses_of,
    texts_of,
)
from kitaru.flows.flow import Flow
from kitaru.flows.held_code import held_code, held_marks, is_own_class
from kitaru.flows.project_source import is_project_file, source_of

MOST_PARTS = 5_000
"""More than this is no code that somebody wrote."""

_SIMPLE = (str, int, float, complex, bool, bytes, type(None), type(...), range, PurePath, re.Pattern, enum.Enum)


def code_parts(func: Callable[..., Any]) -> dict[str, str]:
    """Digests of everything that ``func`` reaches, by name: ``collect``, ``lib.text.clean``, ``LIMIT``.

    Names of the function's own module stand alone, so that they are the same whatever that module is called today.
    """
    return reached(func).parts


class Reached:
    """What a function reached when it was looked at: ``parts`` as ``code_parts`` gives them."""

    def __init__(self, parts: dict[str, str], holders: list[Any]) -> None:
        self.parts = parts
        self._holders = [(holder, held_marks(holder)) for holder in holders]

    def stands(self) -> bool:
        """Whether the containers that it reached still hold the same functions and classes."""
        return all(held_marks(holder) == marks for holder, marks in self._holders)


def reached(func: Callable[..., Any]) -> Reached:
    """``code_parts``, and whether they still are what they were."""
    walk = _Walk(func)
    return Reached(walk.parts(), walk.holders)


class _Walk:
    """One function, and all that is reached from it."""

    def __init__(self, func: Callable[..., Any]) -> None:
        self._home = getattr(func, "__module__", "") or ""
        self._parts: dict[str, str] = {}
        self._seen: set[Any] = set()
        self._kept: list[Any] = []  # keeps ids of what was seen from being given to something else
        self._todo: list[tuple[str, Any]] = [(getattr(func, "__qualname__", "?"), func)]
        self.holders: list[Any] = []
        """What may hold other functions when it is looked at again."""
        self._holding: set[int] = set()

    def parts(self) -> dict[str, str]:
        while self._todo:
            name, value = self._todo.pop()
            if len(self._parts) > MOST_PARTS:
                raise KitaruSourceError(f"{name} reaches more code than can be followed")
            self._visit(name, value)
        return dict(sorted(self._parts.items()))

    # --- kinds of values ----------------------------------------------------------------------------------------------

    def _visit(self, name: str, value: Any) -> None:
        value = _unwrapped(value)
        if isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, types.MethodType):
            self._visit(name, value.__func__)
            self._instance(name, value.__self__)
        elif isinstance(value, functools.partial):
            self._visit(name, value.func)
            self._visit(f"{name}.arguments", (value.args, value.keywords))
        elif isinstance(value, types.ModuleType):
            self._whole_module(value.__name__)
        elif (text := _constant(value)) is not None:
            self._add(name, text)
        elif not isinstance(value, (types.BuiltinFunctionType, types.MethodWrapperType)):
            self._instance(name, value)

    def _function(self, func: types.FunctionType) -> None:
        if not self._is_new(func):
            return
        if not is_project_file(func.__code__.co_filename):
            # A library's decorator: what it wraps, or chooses from, may be the project's.
            self._held(self._named(func.__module__, func.__qualname__), func)
            return
        name = self._named(func.__module__, func.__qualname__)
        source = source_of(func.__module__, func.__code__.co_filename)
        text = source.function(func.__code__, _own_decorators(func.__globals__)) if source is not None else None
        self._add(name, text if text is not None else _instructions(func.__code__))
        cells = _cells(func)
        for default, value in _defaults(func):
            self._visit_later(f"{name}({default}=)", value)
        for cell, value in cells.items():
            self._visit_later(f"{name}.{cell}", value)
        mentioned = source.names_of(func.__code__) if source is not None and text is not None else set()
        mentioned |= set(_names(func.__code__))
        self._mentions(mentioned, func.__globals__, func.__module__)
        imports = source.imports_of(func.__code__) if source is not None else list(_names(func.__code__))
        imports = [imported for imported in imports if load_own(imported)]
        for imported in imports:
            self._imported(imported, mentioned)
        if is_dynamic(mentioned):
            self._looked_up(func, mentioned, imports)
        if (wrapped := getattr(func, "__wrapped__", None)) is not None:
            self._visit_later(name, wrapped)

    def _class(self, cls: type) -> None:
        source = source_of(cls.__module__, None)
        if source is None or not self._is_new(cls):
            return
        name = self._named(cls.__module__, cls.__qualname__)
        text = source.defined_class(cls.__qualname__)
        space = vars(sys.modules.get(cls.__module__, types))
        for base in cls.__bases__:
            self._visit_later(base.__qualname__, base)
        if text is None:
            for key, member in vars(cls).items():
                self._visit_later(f"{name}.{key}", member)
            return
        self._add(name, text)
        mentioned = source.names_of_class(cls.__qualname__)
        self._mentions(mentioned, space, cls.__module__)
        self._held(name, cls)
        for member in vars(cls).values():  # a method may look names up, and has a way of its own to them
            method = _unwrapped(member)
            if isinstance(method, types.FunctionType) and is_dynamic(set(_names(method.__code__))):
                self._visit_later(f"{name}.{method.__name__}", method)

    def _instance(self, name: str, value: Any) -> None:
        """Something that says nothing about itself: its class, and what it holds where that is plain."""
        if not self._is_new(value):
            return
        if isinstance(value, (list, tuple, set, frozenset, dict)):
            for member in _members(value):
                self._visit_later(name, member)
            return
        self._visit_later(type(value).__qualname__, type(value))
        self._add(f"{name}:type", f"{type(value).__module__}.{type(value).__qualname__}")
        self._held(name, value)

    def _held(self, name: str, value: Any) -> None:
        """The functions and classes in a container or object count, and which stands where in it."""
        if id(value) in self._holding:
            return
        self._holding.add(id(value))
        found = held_code(value)
        if found or not isinstance(value, types.FunctionType):  # what a decorator wraps stays
            self.holders.append(value)
        if not found:
            return
        said = [f"{place}={self._named(one.__module__, one.__qualname__)}" for place, one in found]
        self._add(f"{name}:holds", "\n".join(said))
        for _, one in found:
            self._visit_later(one.__qualname__, one)

    # --- names --------------------------------------------------------------------------------------------------------

    def _mentions(self, names: set[str], space: dict[str, Any], module: str) -> None:
        for name in sorted(names & space.keys()):
            value = space[name]
            if isinstance(value, types.ModuleType):
                self._imported(value.__name__, names)
            else:
                self._global(name, value, module)

    def _global(self, name: str, value: Any, module: str) -> None:
        """What a module calls ``name``. Where its value can't tell what it is, the statements that made it do."""
        plain = _unwrapped(value)
        if isinstance(plain, (types.FunctionType, type, types.MethodType, functools.partial)):
            self._visit_later(self._named(module, name), value)
            return
        if _is_library(plain):
            return
        source = source_of(module, None)
        if source is None:
            return
        home = source.imported_from(name)
        if home is not None and home[0] in sys.modules and source_of(home[0], None) is not None:
            self._global(home[1], getattr(sys.modules[home[0]], home[1], value), home[0])
            return
        text = None if isinstance(value, (list, dict, set)) and source.is_literal(name) else _constant(value)
        if not isinstance(value, _SIMPLE):
            self._held(self._named(module, name), value)
        if text is not None:
            self._add(self._named(module, name), text)
        elif self._is_new((module, name)):
            found = source.statements(name)
            if found is None:
                self._whole_module(module)
                return
            self._add(self._named(module, name), found[0])
            self._mentions(found[1] - {name}, vars(sys.modules[module]), module)
            self._visit_later(self._named(module, name), type(value))

    def _imported(self, module: str, names: set[str]) -> None:
        """A module of the project that is mentioned: each of its names that is mentioned, too."""
        loaded = sys.modules.get(module)
        if loaded is None or source_of(module, None) is None:
            return
        space = vars(loaded)
        key = (module, frozenset(names & space.keys()))
        if self._is_new(key):
            self._mentions(set(key[1]), space, module)

    def _looked_up(self, func: types.FunctionType, names: set[str], imports: list[str]) -> None:
        """Which names ``func`` asks for is known only when it runs: all that it may find counts."""
        modules = {*modules_among(names, func.__globals__), *imports}
        if names & OWN_NAMES:
            modules.add(func.__module__)
        if names & IMPORTING:
            modules |= {name for name in texts_of(func.__code__) if name in sys.modules}
            for place, text in project_texts(func.__code__.co_filename, func.__module__):
                self._add(f"files:{place}", text)
        for module in sorted(modules):
            self._all_of(module)
        if "__subclasses__" in names:
            for value in [func.__globals__.get(name) for name in sorted(names)]:
                for cls in subclasses_of(value):
                    self._visit_later(cls.__qualname__, cls)

    def _all_of(self, module: str) -> None:
        """A module with all that it defines, and what that reaches."""
        if source_of(module, None) is None or not self._is_new(("all of", module)):
            return
        self._whole_module(module)
        for name, value in list(vars(sys.modules[module]).items()):
            plain = _unwrapped(value)
            own = isinstance(plain, types.FunctionType) or (isinstance(plain, type) and is_own_class(plain))
            if own or isinstance(plain, (list, dict, set, tuple)):
                self._global(name, value, module)

    def _whole_module(self, module: str) -> None:
        source = source_of(module, None)
        if source is not None:
            self._add(f"{self._named(module, '')}*", source.text)

    # --- bookkeeping --------------------------------------------------------------------------------------------------

    def _named(self, module: str, name: str) -> str:
        return name if module == self._home else f"{module}.{name}"

    def _visit_later(self, name: str, value: Any) -> None:
        self._todo.append((name, value))

    def _add(self, name: str, text: str) -> None:
        found = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        known = self._parts.get(name)
        if known is not None and known != found:  # two things of one name: both count, in no order
            found = hashlib.sha256("".join(sorted((known, found))).encode()).hexdigest()
        self._parts[name] = found

    def _is_new(self, value: Any) -> bool:
        key = value if isinstance(value, tuple) and value and isinstance(value[0], str) else id(value)
        if key in self._seen:
            return False
        self._seen.add(key)
        self._kept.append(value)
        return True


def _unwrapped(value: Any) -> Any:
    """The function in what decorates it without code of the project's own."""
    for _ in range(20):
        if isinstance(value, (Checkpoint, Flow)):
            value = value.func
        elif isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        elif isinstance(value, property):
            value = value.fget
        elif isinstance(value, functools.cached_property):
            value = value.func
        elif not isinstance(value, (types.FunctionType, type)) and isinstance(
            getattr(value, "__wrapped__", None), types.FunctionType
        ):
            value = value.__wrapped__
        else:
            break
    return value


def _constant(value: Any, depth: int = 0) -> str | None:
    """A text that is equal for equal values, in every process; None for what has none."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__qualname__}.{value.name}={_constant(value.value, depth + 1)}"
    if isinstance(value, re.Pattern):
        return f"re:{value.pattern!r}:{value.flags}"
    if type(value) in _SIMPLE or isinstance(value, PurePath):
        return f"{type(value).__name__}:{value!r}"
    if depth > 20 or type(value) not in (list, tuple, set, frozenset, dict):
        return None
    pairs = value.items() if isinstance(value, dict) else ((item, None) for item in value)
    texts = []
    for key, item in pairs:
        left, right = _constant(key, depth + 1), _constant(item, depth + 1)
        if left is None or right is None:
            return None
        texts.append(f"{left}={right}")
    if isinstance(value, (set, frozenset)):
        texts.sort()
    return f"{type(value).__name__}:[{','.join(texts)}]"


def _is_library(value: Any) -> bool:
    """Whether a function or class comes from outside the project."""
    return isinstance(value, (types.BuiltinFunctionType, types.MethodWrapperType, types.ModuleType))


def _members(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.keys()
        yield from value.values()
    else:
        yield from value


def _own_decorators(space: dict[str, Any]) -> Callable[[str], bool]:
    """Whether a decorator, as written, is one of Kitaru's own: its options are no code."""

    def own(text: str) -> bool:
        name, _, rest = text.partition("(")[0].partition(".")
        found = space.get(name)
        for part in filter(None, rest.split(".")):
            found = getattr(found, part, None)
        return getattr(found, "__module__", "").startswith("kitaru.")

    return own


def _cells(func: types.FunctionType) -> dict[str, Any]:
    found = {}
    for name, cell in zip(func.__code__.co_freevars, func.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not filled yet
            continue
    return found


def _defaults(func: types.FunctionType) -> Iterator[tuple[str, Any]]:
    count = func.__code__.co_argcount
    names = func.__code__.co_varnames[:count]
    given = func.__defaults__ or ()
    yield from zip(names[count - len(given) :], given, strict=True)
    yield from (func.__kwdefaults__ or {}).items()


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _instructions(code: types.CodeType) -> str:
    """A function without source: what it does, under this release of Python."""
    constants = [
        _instructions(item) if isinstance(item, types.CodeType) else _constant(item) or type(item).__name__
        for item in code.co_consts
    ]
    return f"{sys.version_info[:2]}{code.co_code.hex()}{code.co_names}{code.co_varnames}{constants}"
