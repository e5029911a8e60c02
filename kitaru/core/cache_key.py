"""What two checkpoint calls must have in common for one to take the other's result, and why they don't. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kitaru.model.address import canonical_json, digest
from kitaru.values.codec import Summaries, argument_digests

FORMAT = 1
"""Part of every key: results of a release that keyed them otherwise are not found."""

MOST_NOTED = 1_000
"""Calls of one checkpoint in one execution that are noted for explanations."""

Word = Literal["hit", "miss", "off", "opaque"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a checkpoint is, apart from its inputs.

    ``code`` holds digests by name of all that it reaches; ``options`` those that change the result; ``requirements``
    the libraries that its image asks for.
    """

    name: str
    code: Mapping[str, str]
    options: Mapping[str, Any]
    requirements: tuple[str, ...] = ()
    python: str = ""

    @property
    def digest(self) -> str:
        """64 hexadecimal digits: where results of this recipe are kept."""
        return digest(canonical_json({"format": FORMAT, **self.to_json()}))

    def to_json(self) -> dict[str, Any]:
        """As it is kept for explanations."""
        return {
            "name": self.name,
            "code": dict(self.code),
            "options": dict(self.options),
            "requirements": list(self.requirements),
            "python": self.python,
        }


@dataclass(frozen=True, slots=True)
class Inputs:
    """The arguments of one call: a digest of all of them, digests by name, and the names of those that have none."""

    digest: str
    parts: Mapping[str, str] = field(default_factory=dict)
    opaque: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Noted:
    """What one call got from the cache; ``why`` is for people."""

    call: str
    word: Word
    inputs: Mapping[str, str] = field(default_factory=dict)
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """As it is kept for explanations."""
        return {"call": self.call, "word": self.word, "inputs": dict(self.inputs), "why": self.why}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Noted:
        """The inverse of ``to_json``."""
        return cls(data["call"], data["word"], dict(data["inputs"]), data["why"])


def inputs_of(arguments: Mapping[str, Any], whole: str, home: str, summaries: Summaries | None = None) -> Inputs:
    """What the cache needs of a call's bound arguments, whose digest is ``whole``; ``summaries`` made that."""
    parts, opaque = {}, []
    for name, found in argument_digests(arguments, home, summaries):
        if found is None:
            opaque.append(name)
        else:
            parts[name] = found[:16]
    return Inputs(whole, parts, tuple(opaque))


def call_key(recipe: str, inputs: str) -> str:
    """The key that a completed call records."""
    return digest(f"{recipe}\n{inputs}".encode())


def explain_miss(
    recipe: Mapping[str, Any],
    call: Noted,
    earlier: Mapping[str, Any] | None,
    earlier_calls: Iterable[Noted],
    earlier_id: str,
) -> str:
    """Why a call was run, against the newest execution before it that had this checkpoint."""
    if call.why:
        return call.why
    if earlier is None:
        return "no earlier execution had this checkpoint"
    since = f"since {earlier_id}"
    if changed := changed_names(earlier["code"], recipe["code"]):
        return f"the code changed {since}: {'; '.join(changed)}"
    if changed := changed_names(earlier["options"], recipe["options"]):
        return f"its options changed {since}: {'; '.join(changed)}"
    if list(earlier["requirements"]) != list(recipe["requirements"]):
        return f"the image's requirements changed {since}"
    if earlier["python"] != recipe["python"]:
        return f"Python changed {since}: {earlier['python']} became {recipe['python']}"
    nearest = _nearest(call, earlier_calls)
    if nearest is None:
        return f"{earlier_id} recorded no call of it that can be compared"
    differing = changed_names(nearest.inputs, call.inputs)
    if differing:
        return f"the inputs differ from call {nearest.call} of {earlier_id}: {'; '.join(differing)}"
    return f"call {nearest.call} of {earlier_id} had the same inputs, but left no result that could be taken"


def changed_names(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, each named: ``helper changed``, ``limit is new``, ``old is gone``."""
    changed = [f"{name} changed" for name in now if name in before and before[name] != now[name]]
    added = [f"{name} is new" for name in now if name not in before]
    gone = [f"{name} is gone" for name in before if name not in now]
    return changed + added + gone


def _nearest(call: Noted, earlier: Iterable[Noted]) -> Noted | None:
    """The earlier call with the fewest differing inputs; of equals the one at the same place."""
    found = [one for one in earlier if one.inputs]
    return min(
        found, key=lambda one: (len(changed_names(one.inputs, call.inputs)), one.call != call.call), default=None
    )
