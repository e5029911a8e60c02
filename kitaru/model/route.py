"""Routes: in the manifest, in the lockfile, and as a user types them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema

from kitaru.model.jsonable import record
from kitaru.model.noun import Noun

DEFAULT_TAG = "default"
"""The reserved route: always exclusive, never removed, only moved."""


APPLY = "apply"
"""The verb that moves routes unless another one is named."""


@record()
class Pin:
    """One number: an exclusive route at that version."""

    version: int


@record()
class Head:
    """The version that this commit builds."""


@record()
class Label:
    """A shared label on several versions; None stands for head."""

    versions: tuple[int | None, ...]


@record()
class Split:
    """An exclusive route, divided by percent: (version, weight) pairs that add up to 100; None stands for head."""

    weights: tuple[tuple[int | None, int], ...]


RouteTarget = Pin | Head | Label | Split

EXPECTED = (
    "expected a version number (stable: 1), head (canary: head), a list of versions (benchmark: [1, 2]), "
    "or weights that add up to 100 (beta: {2: 10, 1: 90})"
)


def _version(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{value!r} is not a version number; versions count from 1")
    return value


def parse_target(value: Any) -> RouteTarget:
    """The value of a tag in the manifest: ``1``, ``head``, ``[1, head]``, ``{2: 10, 1: 90}``. Raises ``ValueError``."""
    if isinstance(value, Pin | Head | Label | Split):
        return value
    if value == "head":
        return Head()
    if isinstance(value, int) and not isinstance(value, bool):
        return Pin(_version(value))
    if isinstance(value, list | tuple) and value:
        versions = tuple(None if item == "head" else _version(item) for item in value)
        if len(set(versions)) != len(versions):
            raise ValueError("a version is listed twice")
        return Label(versions)
    if isinstance(value, dict) and value:
        return _split(value)
    raise ValueError(EXPECTED)


def _split(value: dict[Any, Any]) -> Split:
    weights: dict[int | None, int] = {}
    for key, weight in value.items():
        number = int(key) if isinstance(key, str) and key.isdecimal() else key
        if isinstance(weight, bool) or not isinstance(weight, int) or not 0 < weight <= 100:
            raise ValueError(f"{weight!r} is not a percentage; weights are whole numbers from 1 to 100")
        version = None if number == "head" else _version(number)
        if version in weights:
            raise ValueError(f"version {number} has two weights")
        weights[version] = weight
    total = sum(weights.values())
    if total != 100:
        raise ValueError(f"the weights add up to {total}, not to 100")
    return Split(tuple(sorted(weights.items(), key=lambda pair: (pair[0] is None, pair[0] or 0))))


def target_data(wish: RouteTarget) -> Any:
    """The wish as the manifest spells it."""
    match wish:
        case Pin(version):
            return version
        case Head():
            return "head"
        case Label(versions):
            return [version or "head" for version in versions]
        case Split(weights):
            return {str(version or "head"): weight for version, weight in weights}


RouteTargetField = Annotated[
    RouteTarget,
    PlainValidator(parse_target),
    PlainSerializer(target_data),
    WithJsonSchema(
        {
            "description": "Which version the tag leads to",
            "oneOf": [
                {"type": "integer", "minimum": 1, "description": "an exclusive route at this version"},
                {"const": "head", "description": "the version that this commit builds"},
                {
                    "type": "array",
                    "minItems": 1,
                    "uniqueItems": True,
                    "items": {"anyOf": [{"type": "integer", "minimum": 1}, {"const": "head"}]},
                    "description": "a shared label",
                },
                {
                    "type": "object",
                    "minProperties": 1,
                    "patternProperties": {"^(head|[1-9][0-9]*)$": {"type": "integer", "minimum": 1, "maximum": 100}},
                    "additionalProperties": False,
                    "description": "an exclusive route, divided by percent",
                },
            ],
        }
    ),
]


class Assignment(Noun):
    """A version that holds a tag, with the snapshot that it stands for; ``weight`` in percent."""

    version: int
    snapshot: str
    weight: int = 100


class Hold(Noun):
    """The versions that rollbacks took off a route, and why: plan and apply leave it alone until the hold ends."""

    left: tuple[Assignment, ...]
    reason: str = ""


class Protection(Noun):
    """A route that moves only by apply, from a clean commit on that branch."""

    branch: str | None = Field(None, description="The only branch whose commits may move the route")
    clean: bool = Field(True, description="Refuse a commit with uncommitted changes")


class Route(Noun):
    """The versions that a tag leads to now, and the last move: author, time and verb (``via``).

    ``floor``: the commit from which apply last set it; empty if it never did.
    """

    holders: tuple[Assignment, ...]
    exclusive: bool = True
    managed: bool = False
    generation: int = 0
    at: str = ""
    by: str = ""
    via: str = APPLY
    hold: Hold | None = None
    floor: str = ""

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions that hold the tag, ascending."""
        return tuple(sorted(holder.version for holder in self.holders))

    @property
    def divided(self) -> bool:
        """Whether versions share the tag by percent."""
        return any(holder.weight != 100 for holder in self.holders)


@record()
class ByTag:
    """``--tag T``."""

    tag: str


@record()
class ByVersion:
    """``--version N``."""

    version: int


Selector = ByTag | ByVersion


def selector(*, tag: str | None = None, version: int | None = None) -> Selector:
    """The selector of ``--tag`` or ``--version``; of neither, the default tag. Raises ``ValueError`` for both."""
    if tag is not None and version is not None:
        raise ValueError("give a tag or a version, not both")
    return ByVersion(version) if version is not None else ByTag(DEFAULT_TAG if tag is None else tag)


def ascending(holders: Iterable[Assignment]) -> tuple[Assignment, ...]:
    """The holders by version."""
    return tuple(sorted(holders, key=lambda one: one.version))


def versions_named(target: RouteTarget) -> tuple[int | None, ...]:
    """The versions that a manifest names for a route; None is head.

    ``{2: 10, head: 90}`` names ``(2, None)``.
    """
    match target:
        case Head():
            return (None,)
        case Pin(version):
            return (version,)
        case Label(versions):
            return versions
        case Split(weights):
            return tuple(version for version, _ in weights)


def describe_holders(holders: tuple[Assignment, ...] | None) -> str:
    """``v2``, ``v1, v2``, ``v2 10 %, v1 90 %`` or ``nothing``."""
    texts = [f"v{holder.version}" + f" {holder.weight} %" * (holder.weight != 100) for holder in holders or ()]
    return ", ".join(texts) or "nothing"
