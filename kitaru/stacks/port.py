"""The protocol of a stack: it starts executions, and tells if they still run."""

from __future__ import annotations

from typing import Protocol

from kitaru.model.jsonable import Record, RunnerRecord, record

ORDER_FORMAT = 1


@record(kw_only=True)
class RunOrder(Record):
    """A worker's order: the execution to run, and its store.

    ``entries``: the number of entries in its journal. If another runner has added one since, that one has the
    execution. ``takes_over``: another runner may have begun, or may be about to; false for the first runner.

    >>> RunOrder(store="s3://bucket/kitaru", project="research", exec_id="ex-…").to_json()
    {'format': 1, 'store': 's3://bucket/kitaru', 'project': 'research', 'exec_id': 'ex-…', 'entries': 1, ...}
    """

    format: int = ORDER_FORMAT
    store: str
    project: str
    exec_id: str
    entries: int = 1
    takes_over: bool = False


class Runner(Protocol):
    """Starts executions of snapshots on one stack."""

    def check(self, snapshot: bytes) -> None:
        """Raise ``KitaruStackError`` if this stack can't run the snapshot (requirements, ...). Starts nothing."""
        ...

    def launch(self, order: RunOrder, snapshot: bytes) -> RunnerRecord:
        """Start a worker with this order and return at once; the execution goes on when the caller exits.

        ``snapshot``: that of the execution, already checked by ``check``.
        """
        ...

    def startup_failure(self, exec_id: str) -> str:
        """The last output of a worker that ended before it reached the journal; empty if there is none."""
        ...

    def alive(self, runner: RunnerRecord) -> bool | None:
        """Whether that process still runs; None for a process of another host."""
        ...
