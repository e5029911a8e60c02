"""The protocol through which a pipeline uses its forge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from kitaru.model.jsonable import record


@record()
class Placed:
    """A text on a forge: ``action`` is ``created``, ``updated`` or ``unchanged``; ``url`` its address."""

    action: str
    url: str


class Forge(Protocol):
    """The host of the repository and its pipelines, as one job sees it.

    Every method raises ``KitaruBackendError`` if the forge refuses or does not answer. A text is found again by its
    first line, an HTML comment, and only among those that the job's own token wrote.
    """

    name: str

    def request_number(self) -> int | None:
        """The number of the job's pull or merge request; None if it has none."""
        ...

    def comment(self, number: int, body: str) -> Placed:
        """Keep exactly one comment with the first line of ``body`` on that request, with the text ``body``."""
        ...

    def issue(self, title: str, body: str) -> Placed:
        """Keep exactly one open issue with the first line of ``body``, with the text ``body``."""
        ...

    def close_issue(self, body: str) -> str | None:
        """Close that issue; its address, None if none is open."""
        ...

    def reviewed(self, artifact: str) -> Iterator[tuple[str, bytes]]:
        """The plans last shown on the requests merged since the last apply: ``("pull request #7", b"…")``."""
        ...

    def approved(self, run: str, artifact: str) -> tuple[str, bytes]:
        """The plan of an earlier apply on this branch that was not carried out: ``("run 7", b"…")``."""
        ...
