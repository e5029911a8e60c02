"""The options of flows and checkpoints, checked at decoration; ``Retry``, and the pure function that decides by it."""

from __future__ import annotations

import builtins
import functools
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, ParamSpec, TypeVar, cast

from kitaru.errors import KitaruUsageError
from kitaru.flows.signature import Parameters

P = ParamSpec("P")
R = TypeVar("R")

Kinds = tuple[type[BaseException] | str, ...]
"""Exception types, or their names: of a built-in one (``ConnectionError``), of one that the flow's own module knows
(``OutOfStock``), or with the module (``shop.errors:OutOfStock``, ``shop.errors.OutOfStock``).
"""

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*(\.([^\W\d]\w*|<locals>))*)?")

LIKE_ENOUGH = 0.7
"""From which similarity a name is proposed for another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Further attempts after a failed one.

    ``attempts`` counts all of them, the first included. Before the second one passes ``backoff`` seconds, before each
    later one ``factor`` times as much, at most ``max_backoff``; each wait is varied by up to ``jitter`` (0.1: ten
    percent) either way. Only errors of the types in ``on`` are tried again (empty: all, ``sys.exit()`` too), and none
    of those in ``not_on``. No attempt begins ``total`` seconds after the first one began.
    """

    attempts: int = 3
    backoff: float = 0.5
    factor: float = 2.0
    max_backoff: float = 60.0
    jitter: float = 0.1
    on: Kinds = ()
    not_on: Kinds = ()
    total: float | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if name in ("on", "not_on"):
                object.__setattr__(self, name, _kinds(name, value))
            elif value is not None or name != "total":
                _check(name, value, "Retry")

    @property
    def further(self) -> int:
        """How many attempts may follow the first."""
        return self.attempts - 1

    def to_json(self) -> dict[str, Any]:
        """As it is recorded. Exception types become their names."""
        written = {name: getattr(self, name) for name in self.__slots__}
        for name in ("on", "not_on"):
            written[name] = [kind if isinstance(kind, str) else type_name(kind) for kind in written[name]]
        return {name: value for name, value in written.items() if value is not None and value != []}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Retry:
        """The inverse of ``to_json``; keys that are not known are skipped."""
        known: dict[str, Any] = {name: data[name] for name in cls.__slots__ if name in data}
        return cls(**known)


@dataclass(frozen=True, slots=True)
class Cache:
    """``@checkpoint(cache=Cache(version="2"))``: the source does not count, only ``version``. ``run.cache`` obeys it.

    ``KitaruUsageError`` for a version that is no text, or an empty one.
    """

    version: str

    def __post_init__(self) -> None:
        _check("version", self.version, "Cache()")


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a decorator; None leaves one open.

    ``timeout``: seconds for each attempt. Of a flow: ``stack``, and ``image``: a base image's name, a mapping, or
    ``ImageSettings``. Of a checkpoint: ``type``, a word for people; ``runtime``: ``inline`` or ``isolated``;
    ``serializer``: ``pickle``.
    """

    retries: Retry
    cache: bool | Cache | None = None
    timeout: float | None = None
    stack: str | None = None
    image: Any = None
    type: str | None = None
    runtime: str | None = None
    serializer: str | None = None


class Decorated(Generic[P, R]):
    """A function with options: a flow or a checkpoint."""

    kind: ClassVar[str]

    def __init__(self, func: Callable[P, R], options: Options) -> None:
        functools.update_wrapper(cast("Callable[..., Any]", self), func)
        self.func = func
        self.name = func.__name__
        self.options = options
        self.is_async = inspect.iscoroutinefunction(func)
        self.parameters = Parameters(func)
        self._policy: Retry | None = None

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}>"

    def policy(self) -> Retry:
        """Which failures are followed by another attempt. ``KitaruUsageError`` for an exception that is not there."""
        if self._policy is None:
            self._policy = self.settled(self.options.retries)
        return self._policy

    def settled(self, policy: Retry, *, recorded: bool = False) -> Retry:
        """``policy`` with its exceptions looked up by name; see ``settled``."""
        return settled(policy, self.func.__globals__, f"{self.kind} {self.name!r}", recorded=recorded)


def checked(owner: str, *, retries: Any = 0, timeout: Any = None, cache: Any = None, **others: Any) -> Options:
    """The options of ``owner`` (``flow 'research'``). ``KitaruUsageError`` for a wrong one."""
    _check("retries", retries, owner)
    check(owner, timeout=timeout, cache=None if isinstance(cache, Cache) else cache, **others)
    seconds = None if timeout is None else float(timeout)
    return Options(retries=policy_of(retries), timeout=seconds, cache=cache, **others)


def check(owner: str, **options: Any) -> None:
    """``KitaruUsageError`` for an option that has a wrong value; None stands for one that was left out."""
    for name, value in options.items():
        if value is not None and name in _RULES:
            _check(name, value, owner)


def _check(name: str, value: Any, owner: str) -> None:
    fits, expected, hint = _RULES[name]
    if not fits(value):
        raise KitaruUsageError(f"{name} of {owner} must be {expected}, not {value!r:.80}", hint=hint)


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(least: float, most: float = sys.float_info.max) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


_RULES: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "retries": (
        lambda value: isinstance(value, Retry) or _whole(0)(value),
        "a whole number from 0",
        "retries=2 means up to two further attempts; retries=Retry(attempts=3, backoff=1) waits between them.",
    ),
    "cache": (lambda value: isinstance(value, bool), "True or False", ""),
    "timeout": (
        lambda value: _number(0)(value) and value > 0,
        "a number of seconds above 0",
        "timeout=30 stops an attempt that takes longer than 30 seconds.",
    ),
    "runtime": (lambda value: value in ("inline", "isolated"), '"inline" or "isolated" or left out', ""),
    "serializer": (lambda value: value == "pickle", '"pickle" or left out', ""),
    "max_concurrency": (_whole(1), "a whole number from 1", ""),
    "on_error": (lambda value: value in ("fail", "collect"), '"fail" or "collect"', ""),
    "version": (
        lambda value: isinstance(value, str) and value != "",
        "a text",
        'Cache(version="2"): change it whenever the function, or code that it calls, gives other results.',
    ),
    "attempts": (_whole(1), "a whole number from 1", "Retry(attempts=3) means: the first attempt, and up to two more."),
    "backoff": (_number(0), "a number from 0", ""),
    "factor": (_number(1), "a number from 1", ""),
    "max_backoff": (_number(0), "a number from 0", ""),
    "jitter": (_number(0, 1), "a number from 0 to 1", ""),
    "total": (_number(0), "a number from 0", ""),
}
"""Option → the test of its value, the values that pass it, and a hint."""


def check_function(func: Any, decorator: str) -> Callable[..., Any]:
    """``func`` if it can be decorated: a named function or coroutine function that returns rather than yields."""
    if not inspect.isfunction(func):
        raise KitaruUsageError(
            f"{decorator} decorates a function, not {func!r:.80}",
            hint=f"@staticmethod goes above {decorator}."
            if isinstance(func, (staticmethod, classmethod))
            else f"{decorator} goes above def or async def.",
        )
    if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
        raise KitaruUsageError(
            f"{decorator} {func.__name__!r} is a generator, whose position can't be recorded",
            hint="Return a list instead.",
        )
    if not func.__name__.isidentifier():
        raise KitaruUsageError(f"{decorator} needs a function with a name, not a lambda", hint="Write it with def.")
    return func


def policy_of(retries: int | Retry) -> Retry:
    """``retries=`` as a policy: a number of further attempts is made at once, after any error."""
    return retries if isinstance(retries, Retry) else Retry(attempts=retries + 1, backoff=0.0, jitter=0.0)


def settled(policy: Retry, known: Mapping[str, Any], owner: str, *, recorded: bool = False) -> Retry:
    """The policy with its exceptions looked up by name: built in, else in ``known``, the names of the module of
    ``owner`` (``flow research``), else in the module that they name, if that is loaded.

    ``KitaruUsageError`` for an unknown name; a ``recorded`` policy keeps it.
    """
    found: dict[str, Kinds] = {}
    for option in ("on", "not_on"):
        given: Kinds = getattr(policy, option)
        kinds = tuple(_found(kind, known) if isinstance(kind, str) else kind for kind in given)
        missing = [name for name, kind in zip(given, kinds, strict=True) if kind is None]
        if missing and not recorded:
            raise _unknown(str(missing[0]), option, known, owner)
        found[option] = tuple(kind or name for name, kind in zip(given, kinds, strict=True))
    return policy if found == {"on": policy.on, "not_on": policy.not_on} else replace(policy, **found)  # type: ignore[arg-type]


def _found(name: str, known: Mapping[str, Any]) -> type[BaseException] | str | None:
    """The type of that name; the name itself if its module isn't loaded; None if there is no such type."""
    module, _, bare = name.rpartition(":") if ":" in name else name.rpartition(".")
    space = known
    if module not in ("", "builtins", "__main__", known.get("__name__")):
        if module not in sys.modules:
            return name
        space = vars(sys.modules[module])
    value = space.get(bare.split(".")[0])
    for part in bare.split(".")[1:]:
        value = getattr(value, part, None)
    if _is_kind(value):
        return value
    value = getattr(builtins, bare, None) if module in ("", "builtins") else None
    return value if _is_kind(value) else None


def _unknown(name: str, option: str, known: Mapping[str, Any], owner: str) -> KitaruUsageError:
    import difflib  # Here, as every flow imports this module and almost none makes a mistake.

    there = [one for one, value in [*known.items(), *vars(builtins).items()] if _is_kind(value)]
    near = difflib.get_close_matches(name.rpartition(":")[2].rpartition(".")[2], there, n=1, cutoff=LIKE_ENOUGH)
    where = "" if ":" in name or "." in name else ", neither built in nor known to its module"
    return KitaruUsageError(
        f"{option} of {owner}'s Retry names {name!r}: there is no such exception{where}"
        + (f"; did you mean {near[0]}?" if near else ""),
        hint=f"Give the class itself: Retry({option}=({near[0] if near else 'ConnectionError'},)).",
    )


def next_delay(policy: Retry, error: BaseException, *, failed: int, elapsed: float, chance: float) -> float | None:
    """Seconds to wait before the next attempt; None: give up.

    ``failed`` attempts were made (at least one), the last of them ended with ``error``; ``elapsed`` seconds have passed
    since the first began. ``chance``, from 0 to 1, places the wait within its jitter.
    """
    meant = (not policy.on or _is_any(error, policy.on)) and not _is_any(error, policy.not_on)
    if failed >= policy.attempts or not meant:
        return None
    delay = policy.backoff
    for _ in range(failed - 1):  # not a power, which overflows
        if delay >= policy.max_backoff or not delay or policy.factor == 1:
            break
        delay *= policy.factor
    delay = min(policy.max_backoff, delay)
    delay = min(policy.max_backoff, delay * (1 + policy.jitter * (2 * chance - 1)))
    if policy.total is not None and elapsed + delay >= policy.total:
        return None
    return delay


def type_name(kind: type) -> str:
    """``module:Qualified.Name``; the bare name for built-in types."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}:{kind.__qualname__}"


def _is_any(error: BaseException, kinds: Kinds) -> bool:
    """Whether it is of one of the kinds, or stands for an exception that is: of ``sys.exit()`` an error is made."""
    cause = error.__cause__
    if cause is not None and not isinstance(cause, Exception) and _is_any(cause, kinds):
        return True
    names = {type_name(base).replace(":", ".") for base in type(error).__mro__}
    return any(
        kind.removeprefix("builtins.").replace(":", ".") in names if isinstance(kind, str) else isinstance(error, kind)
        for kind in kinds
    )


def _is_kind(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _kinds(name: str, given: Any) -> Kinds:
    kinds = (given,) if isinstance(given, (type, str)) else given
    if not isinstance(kinds, (tuple, list)) or not all(isinstance(kind, str) or _is_kind(kind) for kind in kinds):
        raise KitaruUsageError(
            f"{name} of Retry must hold exception types, not {given!r:.80}", hint=f"Retry({name}=(ConnectionError,))"
        )
    for kind in kinds:
        if isinstance(kind, str) and not _NAME.fullmatch(kind):
            raise KitaruUsageError(
                f"{name} of Retry holds {kind!r:.80}, which names no exception",
                hint=f"Give the class itself: Retry({name}=(ConnectionError,)).",
            )
    return tuple(kinds)
