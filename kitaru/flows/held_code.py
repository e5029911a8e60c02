"""The project's functions and classes that a container or object holds at this moment: registries, dispatch tables.

Looked for in what is plain: members of dicts, lists, tuples and sets, attributes of objects, what a decorator of a
library wraps. No property is read and nothing is called. ``MOST_HELD`` and ``DEEPEST`` bound it.
"""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from kitaru.flows.checkpoint import Checkpoint
from kitaru.flows.flow import Flow
from kitaru.flows.project_source import is_project_file, source_of

MOST_HELD = 1_000
"""Things that are looked at in one container, with all that it holds."""

DEEPEST = 5
"""Containers within containers that are looked into."""

_PLAIN = (str, bytes, bytearray, int, float, complex, type(None), types.ModuleType)
_SEQUENCES = (list, tuple, set, frozenset, deque)

Held = tuple[str, Any]
"""Where it stands in the container, where that can be said (``plug``), and the function or class."""


def held_code(value: Any) -> list[Held]:
    """What ``value`` holds now, itself not included; in a stable order where the container has one."""
    return list(_Search().within(value, "", 0))


def held_marks(value: Any) -> tuple[Any, ...]:
    """Something that differs once ``value`` holds other functions or classes; for this process only."""
    try:
        return tuple((place, id(getattr(held, "__code__", held))) for place, held in held_code(value))
    except RuntimeError:  # another thread changes it right now
        return (object(),)


def is_own_class(cls: type) -> bool:
    """Whether the project itself defines that class."""
    return source_of(cls.__module__, None) is not None


class _Search:
    """One look into one container."""

    def __init__(self) -> None:
        self._left = MOST_HELD
        self._seen: set[int] = set()

    def within(self, value: Any, place: str, depth: int) -> Iterator[Held]:
        if depth > DEEPEST or isinstance(value, _PLAIN) or id(value) in self._seen:
            return
        self._seen.add(id(value))
        if isinstance(value, types.FunctionType):
            depth = max(depth, 1)  # beside the function, what wraps it may keep caches: those are no code
        for key, member in _members(value):
            self._left -= 1
            if self._left < 0:
                return
            yield from self._found(member, f"{place}.{key}" if place and key else place or key, depth)

    def _found(self, value: Any, place: str, depth: int) -> Iterator[Held]:
        if isinstance(value, _PLAIN):
            return
        if isinstance(value, (Checkpoint, Flow)):
            value = value.func
        if isinstance(value, (staticmethod, classmethod, types.MethodType)):
            yield from self._found(value.__func__, place, depth)
            if isinstance(value, types.MethodType) and not isinstance(value.__self__, type):
                yield from self._found(value.__self__, place, depth + 1)
        elif isinstance(value, types.FunctionType) and is_project_file(value.__code__.co_filename):
            yield place, value
        elif isinstance(value, type):
            if is_own_class(value):
                yield place, value
        else:
            if is_own_class(type(value)):
                yield place, type(value)
            elif depth and not _is_transparent(value):
                return  # a library's object inside another thing: its insides are its own affair
            yield from self.within(value, place, depth + 1)


def _is_transparent(value: Any) -> bool:
    """Whether what is inside may well be the project's: containers, and what wraps a function."""
    wraps = (types.FunctionType, functools.partial, types.MappingProxyType)
    return isinstance(value, (dict, *_SEQUENCES, *wraps)) or hasattr(type(value), "__wrapped__") or _wrapped(value)


def _wrapped(value: Any) -> bool:
    return "__wrapped__" in (getattr(value, "__dict__", None) or ())


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (dict, types.MappingProxyType)):
        for key, member in list(islice(value.items(), MOST_HELD)):
            yield _key(key), member
            yield "", key
    elif isinstance(value, (set, frozenset)):
        yield from (("", member) for member in sorted(islice(value, MOST_HELD), key=_written))
    elif isinstance(value, _SEQUENCES):
        for member in list(islice(value, MOST_HELD)):
            yield "", member
    elif isinstance(value, functools.partial):
        yield from (("", member) for member in (value.func, value.args, value.keywords))
    elif isinstance(value, types.FunctionType):
        for cell in value.__closure__ or ():
            try:
                yield "", cell.cell_contents
            except ValueError:  # not filled yet
                continue
        yield from list(vars(value).items())
    if isinstance(value, type):
        yield from ((name, member) for name, member in list(vars(value).items()) if _is_transparent(member))
    elif not isinstance(value, types.FunctionType):
        yield from _attributes(value)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    own = getattr(value, "__dict__", None)
    if isinstance(own, Mapping):
        yield from list(own.items())
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            descriptor = cls.__dict__.get(name)
            if isinstance(descriptor, types.MemberDescriptorType):
                try:
                    yield name, descriptor.__get__(value, cls)
                except AttributeError:  # not set yet
                    continue


def _key(key: Any) -> str:
    return key if isinstance(key, str) else repr(key) if isinstance(key, (int, bool, float, bytes)) else ""


def _written(member: Any) -> str:
    """Members of sets come in the order of this: a set has none of its own."""
    return f"{getattr(member, '__module__', '')}.{getattr(member, '__qualname__', type(member).__qualname__)}"
