"""The worker, the process that runs an execution: ``python -m kitaru.wiring.worker``, its order on standard input.

A runner starts it. It reads the journal and the snapshot, loads the flow from its source, and runs it; a failure before
the flow's first line ends in the journal like any other. Its start is part of every invoke, so each import is counted.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kitaru.errors import (
    KitaruBackendError,
    KitaruCancelledError,
    KitaruError,
    KitaruExecutionError,
    KitaruIntegrityError,
    KitaruStackError,
    KitaruUsageError,
)
from kitaru.masking import Masking
from kitaru.model import address
from kitaru.settings import cache_folder, lease_seconds
from kitaru.stacks.port import RunOrder
from kitaru.wiring import SystemClock, check_answer, leave_process, snapshot_code, this_process

if TYPE_CHECKING:
    from kitaru.model.event import Origin
    from kitaru.run.journal import Recorded
    from kitaru.store.port import Store

COMPLETED = 0
FAILED = 1
CANCELLED = 3
STOPPED = 128 + signal.SIGTERM
"""Exit codes. ``STOPPED``: the worker was told to end; the execution can be resumed from what is recorded.
``CANCELLED``: so was the execution.
"""


class Terminated(SystemExit):
    """SIGTERM came. A ``SystemExit``, as an event loop swallows other exceptions."""


def main() -> int:
    """Carry out the order. The exit code: 0 completed, 1 failed, 2 no order, 3 cancelled, 143 asked to stop.

    The journal has the result; the output here matters only if the journal can't be written.
    """
    mask = Masking(os.environ)
    try:
        order = RunOrder.parse(sys.stdin.buffer.read())
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)  # so that the flow does not read the order
        os.close(nothing)
        return run_order(order)
    except KitaruError as error:
        print(mask(f"error: {error.message}\nhint: {error.hint}"), file=sys.stderr)
        return error.exit_code
    except Exception:  # for the worker's log, see `startup_failure`
        import traceback

        print(mask(traceback.format_exc()), file=sys.stderr)
        return FAILED


def before_end(code: int) -> None:
    """End the worker's children if its execution did not complete.

    Does not return if the worker or its execution was stopped: this process ends with its children, without a wait for
    threads. Else Python waits for threads, and for ``multiprocessing`` children unless the execution failed.
    """
    from kitaru.stacks.process import end_workers, leave_with_children

    if code not in (COMPLETED, FAILED):
        leave_with_children(code)
    if code == FAILED:
        end_workers()


def run_order(order: RunOrder) -> int:
    """Carry out a runner's order in this process, on its main thread; the exit code.

    SIGTERM ends it with what is recorded. ``KitaruError`` only if the store can't be read, or can't be written to
    record a failure.
    """
    from kitaru.run.executor import execute
    from kitaru.run.journal import Fenced, RunSuspended
    from kitaru.run.output import Descriptors
    from kitaru.run.state import Host
    from kitaru.store.open import open_store

    environ = os.environ
    store = open_store(order.store, base=Path.cwd())
    mask, cache = Masking(environ), cache_folder(environ)
    try:
        with _stopping_on_sigterm():
            recorded = _read_journal(order, store)
            try:
                snapshot = _read_snapshot(recorded)
                flow = _load_flow(order, store, snapshot, cache)
            except (Exception, SystemExit) as error:
                if isinstance(error, Terminated):
                    raise
                _record_failure(recorded, error, mask)
                return FAILED
            host = Host(
                SystemClock(),
                this_process(),
                code=partial(snapshot_code, Path.cwd(), snapshot),
                mask=mask,
                descriptors=Descriptors(),
                check_answer=check_answer,
                forced_end=leave_process,
                lease_seconds=lease_seconds(environ),
            )
            execute(flow, recorded, host, takes_over=order.after > 0)
            return COMPLETED
    except Terminated:
        return STOPPED
    except RunSuspended:
        # Nothing runs until an answer comes; whoever gives it starts the next worker.
        return COMPLETED
    except KitaruExecutionError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return CANCELLED if isinstance(error, KitaruCancelledError) else FAILED
    except SystemExit as error:
        print(f"error: the flow ended its own process: sys.exit({error.code!r})", file=sys.stderr)
    except Fenced as fenced:
        print(f"stopped: {fenced}", file=sys.stderr)
    return FAILED


def _read_journal(order: RunOrder, store: Store) -> Recorded:
    """The entries after which this worker goes on: of a new execution the first, and that of a replay's offers."""
    from kitaru.run.journal import Recorded
    from kitaru.store.log import read_many

    if not store.durable_across_processes:
        raise KitaruStackError(
            f"the execution was opened in {store.url}, which no other process can see",
            hint="use a file:// or s3:// store",
        )

    def read(first: int, last: int) -> tuple[bytes, ...]:
        keys = [address.journal_entry(order.project, order.exec_id, number) for number in range(first, last + 1)]
        return tuple(body for body in read_many(store, keys) if body)

    entries = read(1, order.after or 1)
    if len(entries) != (order.after or 1):
        raise KitaruUsageError(
            f"execution {order.exec_id} is not in project {order.project} of {store.url}, or not whole",
            hint="kitaru executions list",
        )
    recorded = Recorded(store, order.project, order.exec_id, entries)
    if recorded.opened.original_exec_id is not None and not order.after:
        recorded.entries += read(2, 2)
    return recorded


def _read_snapshot(recorded: Recorded) -> dict[str, Any]:
    """The snapshot that the execution was opened with, as JSON data; its digest says that Kitaru wrote it."""
    from kitaru.store.objects import get_object

    opened, sha = recorded.opened, recorded.opened.snapshot
    if sha is None:
        raise KitaruIntegrityError(f"the journal of {opened.exec_id} does not say which snapshot it runs")
    body = get_object(recorded.store, opened.project, sha, f"snapshot of {opened.exec_id}")
    snapshot: dict[str, Any] = json.loads(body)
    return snapshot


def _load_flow(order: RunOrder, store: Store, snapshot: Mapping[str, Any], cache: Path) -> Any:
    """The flow from its unpacked source, in which this process works from now on.

    Children of the flow leave no compiled files in the source, which is verified each time.
    """
    from kitaru.flows.loading import load_target
    from kitaru.local_cache import hold
    from kitaru.source.folders import ensure_source

    if Path(sys.prefix).parent == cache / "environments":
        # Held until the worker ends, as a flow may run longer than an unused environment is kept.
        hold(Path(sys.prefix))
    source = snapshot["source"]
    root = ensure_source(cache / "sources", source, lambda: _fetch_archive(store, order.project, source))
    caller = _working_folder()
    os.chdir(root)
    sys.path[:] = [entry for entry in sys.path if entry not in ("", ".", str(caller))]
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    return load_target(root, snapshot["target"], tuple(snapshot.get("roots") or ()), alone=True)


def _working_folder() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # It was removed since the worker started.
        return None


def _fetch_archive(store: Store, project: str, source: str) -> bytes:
    key = address.source_archive(project, source)
    body = store.read(key)
    if body is None:
        raise KitaruIntegrityError(
            f"the source archive of the snapshot is missing from the store ({key})",
            hint="restore that key from a backup, or deploy the same commit again",
        )
    return body


def _record_failure(recorded: Recorded, error: BaseException, mask: Masking) -> None:
    """Record in the journal, and in the worker's own log, why the flow never began."""
    from kitaru.run.index import record_failed_start
    from kitaru.run.user_code import failure_of

    folder = _working_folder()  # the source's, once that was found
    failure = failure_of(error, (str(folder),) if folder is not None else (), mask)
    hint = error.hint if isinstance(error, KitaruError) else ""
    message = f"{failure.message}\n{mask(hint)}" if hint else failure.message
    origin: Origin = "backend" if isinstance(error, KitaruBackendError) else "runtime"
    print(f"error: {message}", failure.traceback, sep="\n", file=sys.stderr)
    failure = replace(failure, message=message, origin=origin)
    store, project, exec_id = recorded.store, recorded.project, recorded.exec_id
    record_failed_start(store, SystemClock(), project, exec_id, recorded.entries, failure)


@contextmanager
def _stopping_on_sigterm() -> Iterator[None]:
    """Turn the first SIGTERM into ``Terminated`` on the main thread; a second one ends the process at once."""

    def stop(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Terminated(STOPPED)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


if __name__ == "__main__":
    exit_code = main()
    before_end(exit_code)
    sys.exit(exit_code)
