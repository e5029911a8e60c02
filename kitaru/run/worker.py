"""The worker, the process that runs an execution: ``python -m kitaru.run.worker``, its order on standard input.

A runner starts it; people do not. Its start is part of every invoke, so what it imports is counted.
"""

from __future__ import annotations

import json
import os
import sys

from kitaru import wiring
from kitaru.errors import KitaruError, KitaruUsageError
from kitaru.stacks.port import RunOrder


def main() -> int:
    """Carry out the order. The exit code: 0 completed, 1 failed, 2 no order, 3 cancelled, 143 told to stop.

    How the execution went is in its journal; what is printed here matters only where the journal can't be written.
    """
    try:
        order = decode_order(sys.stdin.buffer.read())
        _close_input()
        return wiring.run_order(order)
    except KitaruError as error:
        print(f"error: {error.message}", f"hint: {error.hint}", sep="\n", file=sys.stderr)
        return error.exit_code


def decode_order(body: bytes) -> RunOrder:
    """The order that a runner wrote. ``KitaruUsageError`` for anything else."""
    try:
        content = json.loads(body)
        return RunOrder(
            project=content["project"],
            exec_id=content["exec_id"],
            store_url=content["store_url"],
            snapshot=content["snapshot"].encode("utf-8", "surrogateescape"),
            journal_head=tuple(entry.encode("utf-8", "surrogateescape") for entry in content["journal_head"]),
            takes_over=content.get("takes_over") is True,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KitaruUsageError(
            "the worker expects an order on its standard input, as a runner writes it", hint="kitaru invoke FLOW"
        ) from error


def _close_input() -> None:
    """Let a flow that reads its standard input find the end of it, rather than what is left of the order."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


if __name__ == "__main__":
    ended_as = main()
    wiring.before_end(ended_as)
    sys.exit(ended_as)
