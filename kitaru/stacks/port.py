"""What the rest of Kitaru asks of a stack: start an execution, and tell whether it still runs."""

from __future__ import annotations

from typing import Protocol

from kitaru.model.jsonable import Record, record


@record()
class RunnerInfo:
    """Who runs an execution: enough to find the process again on the same host."""

    runner_id: str
    host: str
    pid: int
    started: str
    """The process's start, in the kernel's own words, so that a reused pid is told apart. Empty where unknown."""


ORDER_FORMAT = 1


@record(kw_only=True)
class RunOrder(Record):
    """A worker's order: an execution in a store, by name, as its caller saw it.

    ``entries``: how many entries its journal had. If another runner has added one since, that one has the execution.
    ``takes_over``: another runner may have begun, or may be about to; without it this is the execution's first one.

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
        """Raise ``KitaruStackError`` where this stack can't run the snapshot (requirements, ...). Starts nothing."""
        ...

    def launch(self, order: RunOrder, snapshot: bytes) -> RunnerInfo:
        """Start a worker with this order and return at once; the execution goes on when the caller exits.

        ``snapshot``: the one that the execution is pinned to, which ``check`` passed.
        """
        ...

    def startup_failure(self, exec_id: str) -> str:
        """What a worker said before it ended, where it never got as far as the journal; else empty."""
        ...

    def alive(self, runner: RunnerInfo) -> bool | None:
        """Whether that process still runs; None where it can't be known from here (another host)."""
        ...
