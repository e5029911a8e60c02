"""What authors note beside results: metadata, which merges, and named artifacts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from kitaru.model.event import ArtifactSaved, MetadataLogged
from kitaru.model.record import record
from kitaru.model.recorded import Record, Value

FLOW = "flow"
"""Stands in an artifact's id where another has its call: it was saved in the flow body."""


@record(kw_only=True)
class Artifact(Record):
    """A named value of an execution. ``call`` is the checkpoint call that saved it, None for the flow body.

    ``kind`` is what the author called it: ``output`` unless they said otherwise.
    """

    artifact_id: str
    exec_id: str
    name: str
    kind: str
    created_at: str
    value: Value
    call: str | None = None
    checkpoint: str | None = None
    tags: list[str] = field(default_factory=list)


def artifact_id(exec_id: str, call: str | None, name: str) -> str:
    """``ex-…:3:report``; ``ex-…:flow:report`` where the flow body saved it. A name may hold colons, the rest can't."""
    return f"{exec_id}:{call or FLOW}:{name}"


def split_artifact_id(text: str) -> tuple[str, str | None, str] | None:
    """Execution, call and name; None for what is no artifact's id."""
    parts = text.split(":", 2)
    if len(parts) != 3 or not all(parts):
        return None
    exec_id, call, name = parts
    return exec_id, None if call == FLOW else call, name


def merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """``old`` with ``new`` over it: objects merge, key by key and at every depth; everything else is replaced.

    Shares no object with either that a later merge would change.
    """
    merged = dict(old)
    for key, value in new.items():
        before = merged.get(key)
        if isinstance(value, Mapping):
            merged[key] = merge(before if isinstance(before, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


class Notes:
    """The fold of an execution's notes, by the call that they belong to; None stands for the flow body.

    They come before, between or after their call's own events, and stay whatever becomes of it.
    """

    def __init__(self) -> None:
        self._metadata: dict[str | None, dict[str, Any]] = {}
        self._artifacts: dict[tuple[str | None, str], ArtifactSaved] = {}

    def log(self, event: MetadataLogged) -> None:
        """Merge what was logged."""
        self._metadata[event.call] = merge(self._metadata.get(event.call, {}), event.values)

    def save(self, event: ArtifactSaved) -> None:
        """Keep the artifact; the newest of a name in one call is the one that counts."""
        self._artifacts.pop((event.call, event.name), None)
        self._artifacts[event.call, event.name] = event

    def metadata(self, call: str | None) -> dict[str, Any]:
        """The metadata of a call, or of the execution."""
        return self._metadata.get(call, {})

    def artifact_ids(self, exec_id: str) -> dict[str | None, tuple[str, ...]]:
        """The ids of the artifacts of each call that saved some, in the order in which they were saved."""
        found: dict[str | None, tuple[str, ...]] = {}
        for call, name in self._artifacts:
            found[call] = (*found.get(call, ()), artifact_id(exec_id, call, name))
        return found

    def artifacts(self, exec_id: str, names: Mapping[str, str]) -> list[Artifact]:
        """All artifacts, oldest first; ``names``: the checkpoint of each call."""
        return [
            Artifact(
                artifact_id=artifact_id(exec_id, event.call, event.name),
                exec_id=exec_id,
                name=event.name,
                kind=event.type,
                created_at=event.at,
                value=event.value,
                call=event.call,
                checkpoint=names.get(event.call or ""),
                tags=event.tags,
            )
            for event in self._artifacts.values()
        ]
