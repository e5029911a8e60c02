"""What the rest of Kitaru asks of a stack: start an execution, and tell whether it still runs."""

from __future__ import annotations

from typing import Protocol

from kitaru.model.jsonable import record


@record()
class RunnerInfo:
    """Who runs an execution: enough to find the process again on the same host."""

    runner_id: str
    host: str
    pid: int
    started: str
    """The process's start, in the kernel's own words, so that a reused pid is told apart. Empty where unknown."""


@record()
class RunOrder:
    """What a runner is given to start one execution; ``journal_head`` spares it the first read.

    ``takes_over``: another runner may have begun, or may be about to; without it this is the execution's first one.
    """

    project: str
    exec_id: str
    store_url: str
    snapshot: bytes
    journal_head: tuple[bytes, ...]
    takes_over: bool = False


class Runner(Protocol):
    """Starts executions of snapshots on one stack."""

    def check(self, snapshot: bytes) -> None:
        """Raise ``KitaruStackError`` where this stack can't run the snapshot (requirements, ...). Starts nothing."""
        ...

    def launch(self, order: RunOrder) -> RunnerInfo:
        """Start it and return at once; the execution goes on when the caller exits."""
        ...

    def startup_failure(self, exec_id: str) -> str:
        """What a worker said before it ended, where it never got as far as the journal; else empty."""
        ...

    def alive(self, runner: RunnerInfo) -> bool | None:
        """Whether that process still runs; None where it can't be known from here (another host)."""
        ...
