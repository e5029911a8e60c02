"""The worker, the process that runs an execution: ``python -m kitaru.wiring.worker``, its order on standard input.

A runner starts it. Its start is part of every invoke, so every import here is counted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kitaru.errors import KitaruCancelledError, KitaruError, KitaruExecutionError, KitaruUsageError
from kitaru.flows import binding
from kitaru.settings import cache_folder, lease_seconds
from kitaru.stacks.port import ORDER_FORMAT, RunOrder
from kitaru.wiring.running import leave_process, this_process
from kitaru.wiring.settling import SystemClock, check_answer, environment, secret_mask

if TYPE_CHECKING:
    from kitaru.source.port import CodeBase


def main() -> int:
    """Carry out the order. The exit code: 0 completed, 1 failed, 2 no order, 3 cancelled, 143 asked to stop.

    The journal has the result; the output here matters only if the journal can't be written.
    """
    try:
        order = decode_order(sys.stdin.buffer.read())
        _close_input()
        return run_order(order)
    except KitaruError as error:
        print(secret_mask(environment())(f"error: {error.message}\nhint: {error.hint}"), file=sys.stderr)
        return error.exit_code
    except Exception:  # for the worker's log, see `startup_failure`
        import traceback

        print(secret_mask(environment())(traceback.format_exc()), file=sys.stderr)
        return 1


def decode_order(body: bytes) -> RunOrder:
    """The order that a runner wrote. Raises ``KitaruUsageError`` for anything else."""
    try:
        order = RunOrder.from_json(json.loads(body))
    except ValueError as error:
        raise KitaruUsageError(
            "the worker expects an order on its standard input, as a runner writes it", hint="kitaru invoke FLOW"
        ) from error
    if order.format != ORDER_FORMAT:
        raise KitaruUsageError(
            f"the order has format {order.format}, and this worker's Kitaru reads format {ORDER_FORMAT}",
            hint="install the same release of Kitaru on both sides",
        )
    return order


def _close_input() -> None:
    """Make standard input empty, so that a flow does not read the order."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def before_end(code: int) -> None:
    """End the worker's children if its execution did not complete.

    Does not return if the worker or its execution was stopped: this process ends with its children, without a wait for
    threads. Else Python waits for threads, and for ``multiprocessing`` children unless the execution failed.
    """
    from kitaru.run.order import COMPLETED, FAILED
    from kitaru.stacks.process import end_workers, leave_with_children

    if code not in (COMPLETED, FAILED):
        leave_with_children(code)
    if code == FAILED:
        end_workers()


def run_order(order: RunOrder) -> int:
    """Carry out a runner's order in this process, and return the exit code."""
    from kitaru.flows.loading import load_target
    from kitaru.local_cache import hold
    from kitaru.run import order as work
    from kitaru.run.executor import execute
    from kitaru.run.output import Descriptors
    from kitaru.source.unpacked import ensure_source
    from kitaru.store.open import open_store

    environ = environment()
    store = open_store(order.store, base=Path.cwd())
    clock, mask, descriptors = SystemClock(), secret_mask(environ), Descriptors()
    cache = cache_folder(environ)
    if Path(sys.prefix).parent == cache / "environments":
        # Held until the worker ends, as a flow may run longer than an unused environment is kept.
        hold(Path(sys.prefix))

    def run(flow: Any, entries: tuple[bytes, ...], snapshot: Mapping[str, Any]) -> int:
        try:
            execute(
                flow,
                store=store,
                clock=clock,
                project=order.project,
                exec_id=order.exec_id,
                entries=entries,
                takes_over=order.takes_over,
                runner=this_process(),
                capture=True,
                code=partial(_codebase, snapshot, Path.cwd()),
                lease_seconds=lease_seconds(environ),
                forced_end=leave_process,
                mask=mask,
                descriptors=descriptors,
                check_answer=check_answer,
            )
        except KitaruExecutionError as error:
            print(f"error: {error.message}", file=sys.stderr)
            return work.CANCELLED if isinstance(error, KitaruCancelledError) else work.FAILED
        return work.COMPLETED

    return work.run_order(
        order,
        store=store,
        clock=clock,
        unpack=partial(ensure_source, cache / "sources"),
        load=partial(load_target, alone=True),
        execute=run,
        mask=mask,
    )


def _codebase(snapshot: Mapping[str, Any], root: Path) -> CodeBase:
    from kitaru.source.worktree import codebase

    return codebase(root, since=binding.IMPORTED, source=snapshot["source"], image=snapshot.get("image"))


if __name__ == "__main__":
    exit_code = main()
    before_end(exit_code)
    sys.exit(exit_code)
