"""What a worker does with its order: the source in place, the flow loaded, the flow run.

Whatever keeps a flow from its first line ends in the journal as a failure, so that whoever waits learns why.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from kitaru.errors import (
    KitaruBackendError,
    KitaruError,
    KitaruExecutionError,
    KitaruIntegrityError,
    KitaruStackError,
)
from kitaru.model import address
from kitaru.model.event import Failed, Opened, Origin
from kitaru.ports import Clock
from kitaru.run.failures import failure_of
from kitaru.run.halting import Left
from kitaru.run.index import note_state
from kitaru.run.journal import Fenced, Journal, read_events
from kitaru.run.port import Mask
from kitaru.stacks.port import RunOrder
from kitaru.stacks.process import leave_with_children
from kitaru.store.port import Store

COMPLETED = 0
FAILED = 1
STOPPED = 128 + signal.SIGTERM
CANCELLED = 3
"""Exit codes of a worker. ``STOPPED``: it was told to end; the execution can be resumed from what is recorded.
``CANCELLED``: so was the execution.
"""

Unpack = Callable[[str, Callable[[], bytes]], Path]
"""From a source digest, and a function that fetches its archive, to the verified folder."""

Load = Callable[[Path, str, tuple[str, ...]], Any]
"""From the folder, a target and the folders to import from to the flow."""

Execute = Callable[[Any], int]
"""Runs the loaded flow to its end, which its journal records, and gives the exit code."""


class Terminated(SystemExit):
    """SIGTERM came. A ``SystemExit``, which an event loop lets through where it swallows other exceptions."""


def run_order(
    order: RunOrder,
    *,
    store: Store,
    clock: Clock,
    unpack: Unpack,
    load: Load,
    execute: Execute,
    mask: Mask | None = None,
) -> int:
    """Carry out ``order`` in this process, on its main thread; the exit code.

    Reads nothing from the store where the source lies unpacked, and writes nothing before the flow does. SIGTERM ends
    it with what is recorded. ``mask`` takes secrets out of the reason why the flow never began. Raises ``KitaruError``
    only where the store can't be told of a failure.
    """
    try:
        with _stopping_on_sigterm():
            try:
                flow = _prepare(order, store, unpack, load)
            except Terminated:
                raise
            except (Exception, SystemExit) as error:
                _record_failure(order, store, clock, error, mask)
                return FAILED
            return execute(flow)
    except Terminated:
        return STOPPED
    except Left:
        # Nothing runs until somebody answers; whoever does starts the next worker.
        return COMPLETED
    except KitaruExecutionError as error:
        print(f"error: {error.message}", file=sys.stderr)
    except SystemExit as error:
        print(f"error: the flow ended its own process: sys.exit({error.code!r})", file=sys.stderr)
    except Fenced as fenced:
        print(f"stopped: {fenced}", file=sys.stderr)
    return FAILED


def _prepare(order: RunOrder, store: Store, unpack: Unpack, load: Load) -> Any:
    if not store.durable_across_processes:
        raise KitaruStackError(
            f"the execution was opened in {store.url}, which no other process can see",
            hint="use a file:// or s3:// store",
        )
    snapshot = read_order_snapshot(order)
    source = snapshot["source"]
    root = unpack(source, lambda: _fetch_archive(store, order.project, source))
    enter_source(root, _working_folder())
    return load(root, snapshot["target"], tuple(snapshot.get("roots") or ()))


def leave_process(error: KitaruExecutionError) -> NoReturn:
    """Leave at once, in a process that exists for one execution: that one's end is recorded, and the code that is under
    way does not react.
    """
    print(f"error: {error.message}; it did not end by itself", file=sys.stderr, flush=True)
    leave_with_children(FAILED)


def read_order_snapshot(order: RunOrder) -> dict[str, Any]:
    """The snapshot of the order as plain JSON data, once it is the one that the execution was opened with.

    No model is needed to read it: its digest says that it is what a Kitaru wrote. Raises ``KitaruIntegrityError``.
    """
    opened = read_events(order.journal_head[:1], order.exec_id)
    if not opened or not isinstance(opened[0], Opened):
        raise KitaruIntegrityError(f"the order for {order.exec_id} does not say how it was opened")
    expected = opened[0].snapshot
    found = address.digest(order.snapshot)
    if expected is not None and found != expected:
        raise KitaruIntegrityError(
            f"the order holds snapshot {address.short(found)}, and the execution was opened with "
            f"{address.short(expected)}",
            hint="invoke the flow again; if that fails too, restore the snapshot from a backup",
        )
    content: dict[str, Any] = json.loads(order.snapshot)
    return content


def enter_source(root: Path, caller: Path | None) -> None:
    """Make ``root`` the working folder, and take the caller's folder off the import path.

    Children of the flow leave no compiled files in the source, which is verified each time.
    """
    os.chdir(root)
    sys.path[:] = [entry for entry in sys.path if entry not in ("", ".", str(caller))]
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


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


def _record_failure(order: RunOrder, store: Store, clock: Clock, error: BaseException, mask: Mask | None) -> None:
    """Say in the journal, and in the worker's own log, why the flow never began."""
    folder = _working_folder()  # the source's, once that was found
    failure = failure_of(error, (str(folder),) if folder is not None else (), mask)
    hint = error.hint if isinstance(error, KitaruError) else ""
    message = f"{failure.message}\n{mask(hint) if mask is not None else hint}" if hint else failure.message
    origin: Origin = "backend" if isinstance(error, KitaruBackendError) else "runtime"
    print(f"error: {message}", failure.traceback, sep="\n", file=sys.stderr)
    journal = Journal(store, order.project, order.exec_id, written=len(order.journal_head), write_id=clock.token(26))
    journal.commit(
        Failed(at=address.timestamp(clock.now()), error=replace(failure, message=message, origin=origin), calls=[])
    )
    note_state(store, order.project, order.exec_id, order.journal_head)


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
