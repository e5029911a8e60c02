"""The key by which one checkpoint call takes the result of another, and the difference of two keys. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kitaru.model.address import canonical_json, digest

FORMAT = 2
"""Part of every key: results of a release that made keys in another way are not found."""

MOST_NOTED = 1_000
"""Calls of one checkpoint in one execution that are noted for explanations."""

Word = Literal["hit", "miss", "off", "opaque"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A checkpoint apart from its inputs: digests of its source, its closure, its options and its surroundings by name.

    ``Recipe("collect", {"source": "9f…", "closure": "c1…", "Python": "3.12"})``
    """

    name: str
    parts: Mapping[str, str]

    @property
    def digest(self) -> str:
        """64 hexadecimal digits: the place of this recipe's results."""
        return digest(canonical_json({"format": FORMAT, "name": self.name, "parts": dict(self.parts)}))


@dataclass(frozen=True, slots=True)
class CacheNote:
    """The cache's word on one call. ``inputs``: a digest of each argument. ``why``: a sentence for people."""

    call: str
    word: Word
    inputs: Mapping[str, str] = field(default_factory=dict)
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """As it is kept for explanations."""
        return {"call": self.call, "word": self.word, "inputs": dict(self.inputs), "why": self.why}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CacheNote:
        """The inverse of ``to_json``."""
        return cls(data["call"], data["word"], dict(data["inputs"]), data["why"])


def explain_miss(
    recipe: Mapping[str, str],
    call: CacheNote,
    earlier: Mapping[str, str] | None,
    earlier_calls: Iterable[CacheNote],
    earlier_id: str,
) -> str:
    """Why a call was computed, compared with the newest execution before it that had this checkpoint."""
    if call.why:
        return call.why
    if earlier is None:
        return "no earlier execution had this checkpoint"
    if changed := changed_names(earlier, recipe):
        return f"since {earlier_id}: {'; '.join(changed)}"
    comparable = [other for other in earlier_calls if other.inputs]
    if not comparable:
        return f"{earlier_id} recorded no call of it that can be compared"
    # The call with the fewest differing inputs; of equals the one at the same place.
    nearest = min(
        comparable, key=lambda other: (len(changed_names(other.inputs, call.inputs)), other.call != call.call)
    )
    if differing := changed_names(nearest.inputs, call.inputs):
        return f"the inputs differ from call {nearest.call} of {earlier_id}: {'; '.join(differing)}"
    return f"call {nearest.call} of {earlier_id} had the same inputs, but left no result that could be taken"


def changed_names(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names that differ: ``["source changed", "limit is new", "old is gone"]``."""
    changed = [f"{name} changed" for name in now if name in before and before[name] != now[name]]
    added = [f"{name} is new" for name in now if name not in before]
    gone = [f"{name} is gone" for name in before if name not in now]
    return changed + added + gone
