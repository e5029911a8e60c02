"""Small frozen values that cost next to nothing to declare.

``dataclass(frozen=True)`` writes and compiles six methods a class, which is most of what importing a module of them
takes. A record has one method of its own, its ``__init__``, and shares the rest; that it never changes is held by the
type checker, not at run time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast, dataclass_transform

Kind = TypeVar("Kind", bound=type)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(*, kw_only: bool = False) -> Callable[[Kind], Kind]:
    """A class of values with slots, equal and hashed by their fields; ``dataclasses.replace`` and ``fields`` work."""

    def decorate(cls: Kind) -> Kind:
        made = cast("Any", dataclass(slots=True, repr=False, eq=False, kw_only=kw_only)(cls))
        made.__eq__, made.__hash__, made.__repr__ = _equal, _hash, _shown
        return cast("Kind", made)

    return decorate


def _contents(value: Any) -> tuple[Any, ...]:
    return tuple([getattr(value, name) for name in value.__slots__])


def _equal(self: Any, other: object) -> bool:
    return _contents(self) == _contents(other) if other.__class__ is self.__class__ else NotImplemented


def _hash(self: Any) -> int:
    return hash(_contents(self))


def _shown(self: Any) -> str:
    content = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
    return f"{type(self).__qualname__}({content})"
