"""The protocol of a stack: it starts workers, knows if they still run, and ends them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kitaru.errors import KitaruUsageError
from kitaru.model.event import Handle as Handle

ORDER_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOrder:
    """An execution to run, and its store. ``token`` is all that its worker gets; it reads the rest from the store.

    ``after``: for an execution that is resumed, the number of journal entries that were read when that was decided.
    The worker goes on after these, so that of two that are started, one is fenced. 0 for an execution that is new.
    ``snapshot``: that of the execution, for the stack; checked by ``Runner.check``.
    """

    store: str
    project: str
    exec_id: str
    after: int = 0
    snapshot: bytes = field(default=b"", compare=False, repr=False)

    def token(self) -> bytes:
        """The order for the worker.

        >>> RunOrder(store="s3://bucket/kitaru", project="research", exec_id="ex-1").token()
        b'{"format": 1, "store": "s3://bucket/kitaru", "project": "research", "exec_id": "ex-1", "after": 0}'
        """
        place = {"store": self.store, "project": self.project, "exec_id": self.exec_id, "after": self.after}
        return json.dumps({"format": ORDER_FORMAT, **place}).encode()

    @classmethod
    def parse(cls, token: bytes) -> RunOrder:
        """The order in a token. Raises ``KitaruUsageError`` for anything else, and for one of another format."""
        try:
            content = json.loads(token)
            order_format, after = content["format"], int(content.get("after", 0))
            store, project, exec_id = (str(content[name]) for name in ("store", "project", "exec_id"))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise KitaruUsageError(
                "the worker expects an order on its standard input, as a runner writes it", hint="kitaru invoke FLOW"
            ) from error
        if order_format != ORDER_FORMAT:
            raise KitaruUsageError(
                f"the order has format {order_format}, and this worker's Kitaru reads format {ORDER_FORMAT}",
                hint="install the same release of Kitaru on both sides",
            )
        return cls(store=store, project=project, exec_id=exec_id, after=after)


class Runner(Protocol):
    """Runs executions of snapshots on one stack, each by a worker with a ``Handle``."""

    def lacks(self, snapshot: bytes, *, chosen: bool = False) -> Sequence[tuple[str, str]]:
        """What the stack can't give the snapshot, each with its cure: secrets, image settings that it can't honour.

        ``chosen``: the caller named this stack, and so does without such settings.
        """
        ...

    def check(self, snapshot: bytes, *, chosen: bool = False) -> None:
        """Raise ``KitaruStackError`` if this stack can't run the snapshot: for what it ``lacks``, requirements, ...

        Starts nothing.
        """
        ...

    def launch(self, order: RunOrder) -> Handle:
        """Start a worker with this order and return at once; the execution goes on when the caller exits."""
        ...

    def launched(self, exec_id: str) -> Handle | None:
        """The newest worker that was launched for an execution; None if this stack, seen from here, knows none."""
        ...

    def alive(self, handle: Handle) -> bool | None:
        """Whether that worker is at work; None if that can't be known from here, or it is halted for now."""
        ...

    def stop(self, handle: Handle) -> None:
        """End that worker, with its children, within seconds; nothing if it has ended or can't be reached from here."""
        ...

    def startup_failure(self, handle: Handle) -> str:
        """The last output of a worker that ended before it reached the journal; empty if there is none."""
        ...
