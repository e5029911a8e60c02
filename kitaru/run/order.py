"""A worker carries out its order: it reads the journal and the snapshot, loads the flow from its source, and runs it.

A failure before the flow's first line ends in the journal like any other.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from kitaru.errors import (
    KitaruBackendError,
    KitaruError,
    KitaruExecutionError,
    KitaruIntegrityError,
    KitaruStackError,
    KitaruUsageError,
)
from kitaru.masking import Masking
from kitaru.model import address
from kitaru.model.event import Failed, Opened, Origin
from kitaru.ports import Clock
from kitaru.run.failures import failure_of
from kitaru.run.index import note_state
from kitaru.run.journal import Fenced, Journal, read_events
from kitaru.run.timeouts import RunSuspended
from kitaru.stacks.port import RunOrder
from kitaru.store.log import read_many
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

Execute = Callable[[Any, tuple[bytes, ...], Mapping[str, Any]], int]
"""From the loaded flow, the journal's entries and the snapshot: runs it to its end; the exit code."""


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
    mask: Masking | None = None,
) -> int:
    """Carry out ``order`` in this process, on its main thread; the exit code.

    SIGTERM ends it with what is recorded. ``mask`` takes secrets out of the reason of a failure. ``KitaruError`` only
    if the store can't be read, or can't be written to record the failure.
    """
    try:
        with _stopping_on_sigterm():
            entries = _read_journal(order, store)
            try:
                snapshot = _read_snapshot(order, store, entries[0])
                flow = _prepare(order, store, snapshot, unpack, load)
            except Terminated:
                raise
            except (Exception, SystemExit) as error:
                _record_failure(order, store, clock, entries, error, mask)
                return FAILED
            return execute(flow, entries, snapshot)
    except Terminated:
        return STOPPED
    except RunSuspended:
        # Nothing runs until somebody answers; whoever does starts the next worker.
        return COMPLETED
    except KitaruExecutionError as error:
        print(f"error: {error.message}", file=sys.stderr)
    except SystemExit as error:
        print(f"error: the flow ended its own process: sys.exit({error.code!r})", file=sys.stderr)
    except Fenced as fenced:
        print(f"stopped: {fenced}", file=sys.stderr)
    return FAILED


def _read_journal(order: RunOrder, store: Store) -> tuple[bytes, ...]:
    if not store.durable_across_processes:
        raise KitaruStackError(
            f"the execution was opened in {store.url}, which no other process can see",
            hint="use a file:// or s3:// store",
        )
    numbers = range(1, order.entries + 1)
    keys = [address.journal_entry(order.project, order.exec_id, number) for number in numbers]
    entries = tuple(body for body in read_many(store, keys) if body)
    if len(entries) != order.entries:
        raise KitaruUsageError(
            f"execution {order.exec_id} is not in project {order.project} of {store.url}, or not whole",
            hint="kitaru executions list",
        )
    return entries


def _read_snapshot(order: RunOrder, store: Store, entry: bytes) -> dict[str, Any]:
    """The snapshot that the execution was opened with, as JSON data; its digest says that Kitaru wrote it."""
    opened = read_events((entry,), order.exec_id)[0]
    if not isinstance(opened, Opened) or opened.snapshot is None:
        raise KitaruIntegrityError(f"the journal of {order.exec_id} does not say which snapshot it runs")
    key = address.blob(order.project, opened.snapshot)
    body = store.read(key)
    if body is None or address.digest(body) != opened.snapshot:
        raise KitaruIntegrityError(
            f"the snapshot of {order.exec_id} is missing or damaged ({key})",
            hint="restore that key of the store from a backup, or deploy the same commit again",
        )
    snapshot: dict[str, Any] = json.loads(body)
    return snapshot


def _prepare(order: RunOrder, store: Store, snapshot: Mapping[str, Any], unpack: Unpack, load: Load) -> Any:
    source = snapshot["source"]
    root = unpack(source, lambda: _fetch_archive(store, order.project, source))
    enter_source(root, _working_folder())
    return load(root, snapshot["target"], tuple(snapshot.get("roots") or ()))


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


def _record_failure(
    order: RunOrder,
    store: Store,
    clock: Clock,
    entries: tuple[bytes, ...],
    error: BaseException,
    mask: Masking | None,
) -> None:
    """Record in the journal, and in the worker's own log, why the flow never began."""
    folder = _working_folder()  # the source's, once that was found
    failure = failure_of(error, (str(folder),) if folder is not None else (), mask)
    hint = error.hint if isinstance(error, KitaruError) else ""
    message = f"{failure.message}\n{mask(hint) if mask is not None else hint}" if hint else failure.message
    origin: Origin = "backend" if isinstance(error, KitaruBackendError) else "runtime"
    print(f"error: {message}", failure.traceback, sep="\n", file=sys.stderr)
    journal = Journal(store, order.project, order.exec_id, written=len(entries), write_id=clock.token(26))
    journal.commit(Failed(at=address.timestamp(clock.now()), error=replace(failure, message=message, origin=origin)))
    note_state(store, order.project, order.exec_id, entries)


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
