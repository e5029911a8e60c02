"""The answer of a forge to a text that a pipeline keeps there."""

from __future__ import annotations

from kitaru.model.jsonable import record


@record()
class Placed:
    """A text on a forge: ``action`` is ``created``, ``updated`` or ``unchanged``; ``url`` its address."""

    action: str
    url: str
