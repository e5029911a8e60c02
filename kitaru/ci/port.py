"""The answer of a forge, for the rooms above; the contract of a forge is ``forge.Forge``."""

from __future__ import annotations

from kitaru.model.jsonable import record


@record()
class Placed:
    """A text on a forge: ``action`` is ``created``, ``updated`` or ``unchanged``; ``url`` its address."""

    action: str
    url: str
