"""What a pipeline asks of the forge that runs it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from kitaru.model.jsonable import record


@record()
class Placed:
    """What became of a text on a forge (``created``, ``updated`` or ``unchanged``), and its address."""

    action: str
    url: str


class Forge(Protocol):
    """Where the repository is hosted and its pipelines run, as one job sees it.

    Every method raises ``KitaruBackendError`` where the forge refuses or does not answer. A text is found again by its
    first line, an HTML comment, and only among those that the job's own token wrote.
    """

    name: str

    def request_number(self) -> int | None:
        """The pull or merge request that the job is for; None where it is for none."""
        ...

    def comment(self, number: int, body: str) -> Placed:
        """Keep exactly one comment with the first line of ``body`` on that request, and make it say ``body``."""
        ...

    def issue(self, title: str, body: str) -> Placed:
        """The same with one open issue."""
        ...

    def close_issue(self, body: str) -> str | None:
        """Close that issue; its address, None where none is open."""
        ...

    def reviewed(self, artifact: str) -> Iterator[tuple[str, bytes]]:
        """The plans last shown on the requests that were merged here since the last apply: what to call them, bytes."""
        ...

    def approved(self, run: str, artifact: str) -> tuple[str, bytes]:
        """The plan that an earlier apply on this branch made and did not carry out."""
        ...
