"""One captured line of what a flow printed or logged."""

from __future__ import annotations

from kitaru.model.record import record
from kitaru.model.recorded import Record


@record()
class LogLine(Record):
    """``stream`` is ``stdout``, ``stderr`` or ``log``; ``level`` a logging level's name, for ``log`` only.

    ``checkpoint``, ``call`` and ``attempt`` say whose line it is; absent for the flow body.
    """

    at: str
    stream: str
    text: str
    level: str | None = None
    checkpoint: str | None = None
    call: str | None = None
    attempt: int | None = None
