"""``client.artifacts``: the named values that executions saved."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

from kitaru.client.session import Session
from kitaru.client.values import plain_value, read_value
from kitaru.model.execution import Artifact
from kitaru.run.executions import find, read_artifacts, select


@dataclass(frozen=True, slots=True, repr=False)
class ArtifactRef:
    """An artifact, without its bytes: ``load()`` reads those."""

    record: Artifact
    _session: Session

    def __repr__(self) -> str:
        return f"<ArtifactRef {self.artifact_id}: {self.kind}, {self.size} bytes>"

    @property
    def artifact_id(self) -> str:
        """``ex-…:3:report``."""
        return self.record.artifact_id

    @property
    def exec_id(self) -> str:
        """The execution that it was asked of."""
        return self.record.exec_id

    @property
    def name(self) -> str:
        """As it was saved."""
        return self.record.name

    @property
    def kind(self) -> str:
        """``save``'s ``type``."""
        return self.record.kind

    @property
    def producing_call(self) -> str | None:
        """The checkpoint call that saved it; None for the flow body."""
        return self.record.call

    @property
    def checkpoint(self) -> str | None:
        """That call's checkpoint."""
        return self.record.checkpoint

    @property
    def created_at(self) -> str:
        """When, RFC 3339 in UTC."""
        return self.record.created_at

    @property
    def size(self) -> int:
        """Bytes, as stored."""
        return self.record.value.size

    @property
    def tags(self) -> tuple[str, ...]:
        """As they were given."""
        return tuple(self.record.tags)

    def load(self, *, as_plain: bool = False) -> Any:
        """The value as its own type, ``KitaruValueError`` if this process can't import that; ``as_plain``: as
        JSON-like data, of any type.
        """
        subject = f"artifact {self.name!r}"
        if as_plain:
            return plain_value(self._session, self.record.value, subject)
        return read_value(self._session, self.record.value, subject, exec_id=self.exec_id)

    def to_json(self) -> dict[str, Any]:
        """As JSON data, the value's record included."""
        return self.record.to_json()


class Artifacts:
    """Verbs about artifacts."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(
        self,
        exec_id: str,
        *,
        name: str | None = None,
        kind: str | None = None,
        producing_call: str | None = None,
        limit: int | None = None,
    ) -> list[ArtifactRef]:
        """The artifacts of an execution, oldest first. ``producing_call``: a call's id, or a checkpoint's name."""
        session = self._session
        there = read_artifacts(session.store, session.project, session.executions.full_id(exec_id))
        found = select(there, name=name, kind=kind, producing_call=producing_call)
        return [ArtifactRef(one, session) for one in islice(found, limit)]

    def get(self, artifact_id: str) -> ArtifactRef:
        """The artifact with that id. ``KitaruUsageError`` if there is none."""
        session = self._session
        return ArtifactRef(find(session.store, session.project, artifact_id), session)
