"""What a collector removed, or would remove."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KINDS = ("source archives", "source listings", "snapshots", "version tables", "outputs and other objects")


@dataclass(frozen=True, slots=True)
class Amount:
    """So many of a kind, with their size in bytes."""

    kind: str
    count: int = 0
    bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {"kind": self.kind, "count": self.count, "bytes": self.bytes}


@dataclass(frozen=True, slots=True)
class Doomed:
    """A version that goes."""

    flow: str
    version: int
    at: str
    by: str


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collector removed, or would.

    ``objects`` go now; ``later`` follow once nothing has needed them for the grace period; ``kept`` stay. ``records``
    are what is kept of the executions that go. ``at`` is the store's own time; ``restored`` counts what was put back
    because somebody came to need it meanwhile.
    """

    project: str
    store: str
    deleted: bool
    generation: int
    at: str
    versions: tuple[Doomed, ...]
    executions: tuple[str, ...]
    objects: tuple[Amount, ...]
    records: Amount
    later: Amount
    kept: Amount
    restored: int = 0

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to remove."""
        return not (self.versions or self.objects or self.records.count)

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        data: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        data["versions"] = [{name: getattr(one, name) for name in one.__slots__} for one in self.versions]
        data["executions"] = list(self.executions)
        data["objects"] = [one.to_json() for one in self.objects]
        return {name: value.to_json() if isinstance(value, Amount) else value for name, value in data.items()}


def total(sizes: Mapping[str, int], kind: str = "objects") -> Amount:
    """All of ``sizes`` (key → bytes) together."""
    return Amount(kind, len(sizes), sum(sizes.values()))


@dataclass(slots=True)
class Sorter:
    """Tells of which kind an object is, by its key and by what versions and the log say of its digest."""

    tables: set[str] = field(default_factory=set)
    snapshots: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)

    def amounts(self, sizes: Mapping[str, int]) -> tuple[Amount, ...]:
        """``sizes`` by kind; kinds that do not occur are left out."""
        groups: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}
        for key, size in sizes.items():
            groups[self.kind(key)][key] = size
        return tuple(total(found, kind) for kind, found in groups.items() if found)

    def kind(self, key: str) -> str:
        """One of ``KINDS``."""
        sha = key.rpartition("/")[2]
        if sha.endswith(".zst"):
            return KINDS[0]
        for kind, known in zip(KINDS[1:], (self.sources, self.snapshots, self.tables), strict=False):
            if sha in known:
                return kind
        return KINDS[-1]
