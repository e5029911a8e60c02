"""What a caller holds of a deployed version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Deployment(Protocol):
    """A released version, as ``.deploy()`` and ``.deployment()`` return it. The client's ``Deployment`` is one."""

    @property
    def flow(self) -> str:
        """The flow's name."""
        ...

    @property
    def version(self) -> int:
        """Its number: 1, 2, 3, and so on; never used for another one."""
        ...

    @property
    def tags(self) -> Mapping[str, bool]:
        """The tags that led here when it was looked up, and whether each is exclusive."""
        ...

    @property
    def snapshot(self) -> str:
        """The digest of what it runs."""
        ...

    @property
    def created_at(self) -> str:
        """When it was made."""
        ...

    @property
    def by(self) -> str:
        """Who made it."""
        ...

    @property
    def commit_sha(self) -> str | None:
        """The commit that it was made from."""
        ...

    @property
    def commit_dirty(self) -> bool:
        """Whether the working tree had changes that were not committed."""
        ...

    @property
    def target(self) -> str:
        """Where the flow is in its source."""
        ...

    @property
    def stack(self) -> str:
        """The name of the stack that runs it."""
        ...

    @property
    def input_schema(self) -> Mapping[str, Any] | None:
        """A JSON Schema of its inputs."""
        ...
