"""When a failed attempt is made again, and how long after: ``Retry``, and the pure function that decides."""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kitaru.errors import KitaruUsageError

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
        if not isinstance(self.attempts, int) or isinstance(self.attempts, bool) or self.attempts < 1:
            raise KitaruUsageError(
                f"attempts of Retry must be a whole number from 1, not {self.attempts!r}",
                hint="Retry(attempts=3) means: the first attempt, and up to two more.",
            )
        _check_number("backoff", self.backoff, 0)
        _check_number("factor", self.factor, 1)
        _check_number("max_backoff", self.max_backoff, 0)
        _check_number("jitter", self.jitter, 0, 1)
        if self.total is not None:
            _check_number("total", self.total, 0)
        for name in ("on", "not_on"):
            object.__setattr__(self, name, _kinds(name, getattr(self, name)))

    @property
    def further(self) -> int:
        """How many attempts may follow the first."""
        return self.attempts - 1

    def to_json(self) -> dict[str, Any]:
        """As it is recorded. Exception types become their names."""
        written: dict[str, Any] = {
            "attempts": self.attempts,
            "backoff": self.backoff,
            "factor": self.factor,
            "max_backoff": self.max_backoff,
            "jitter": self.jitter,
        }
        for name in ("on", "not_on"):
            if kinds := getattr(self, name):
                written[name] = [kind if isinstance(kind, str) else type_name(kind) for kind in kinds]
        if self.total is not None:
            written["total"] = self.total
        return written

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Retry:
        """The inverse of ``to_json``; keys that are not known are skipped."""
        known: dict[str, Any] = {name: data[name] for name in cls.__slots__ if name in data}
        return cls(**known)


def policy_of(retries: int | Retry) -> Retry:
    """``retries=`` as a policy: a number of further attempts is made at once, after any error."""
    return retries if isinstance(retries, Retry) else Retry(attempts=retries + 1, backoff=0.0, jitter=0.0)


def further_attempts(retries: int | Retry) -> int:
    """How many attempts may follow the first."""
    return retries.further if isinstance(retries, Retry) else retries


def with_further(retries: int | Retry, further: int) -> Retry:
    """The policy of ``retries`` with another number of further attempts."""
    return replace(policy_of(retries), attempts=further + 1)


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
    if _is_exception(value):
        return value
    value = getattr(builtins, bare, None) if module in ("", "builtins") else None
    return value if _is_exception(value) else None


def _is_exception(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _unknown(name: str, option: str, known: Mapping[str, Any], owner: str) -> KitaruUsageError:
    import difflib  # Here, as every flow imports this module and almost none makes a mistake.

    there = [one for one, value in [*known.items(), *vars(builtins).items()] if _is_exception(value)]
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
    if failed >= policy.attempts or not _is_meant(policy, error):
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


def _is_meant(policy: Retry, error: BaseException) -> bool:
    return (not policy.on or _is_any(error, policy.on)) and not _is_any(error, policy.not_on)


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


def _kinds(name: str, given: Any) -> Kinds:
    kinds = (given,) if isinstance(given, (type, str)) else given
    if not isinstance(kinds, (tuple, list)) or not all(
        isinstance(kind, str) or (isinstance(kind, type) and issubclass(kind, BaseException)) for kind in kinds
    ):
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


def _check_number(name: str, value: Any, least: float, most: float = float("inf")) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not least <= value <= most or value == float("inf"):
        span = f"from {least} to {most:g}" if most < float("inf") else f"from {least}"
        raise KitaruUsageError(f"{name} of Retry must be a number {span}, not {value!r}")
