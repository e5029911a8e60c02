"""A handle on one execution, in this process or elsewhere."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

from kitaru.client.session import Session
from kitaru.errors import (
    KitaruCancelledError,
    KitaruDivergenceError,
    KitaruExecutionError,
    KitaruStackError,
    KitaruStateError,
    KitaruStoreError,
    KitaruTimeoutError,
    KitaruUserCodeError,
)
from kitaru.model import address
from kitaru.model.execution import Execution, LogLine, fold, told_apart
from kitaru.run import journal
from kitaru.run.journal import Fenced, RunSuspended
from kitaru.run.logs import read_on
from kitaru.run.output import apart, cleared_by

if TYPE_CHECKING:
    from kitaru.run.invoker import Invoked, Launched

FIRST_PAUSE = 0.01
LONGEST_PAUSE = 0.5
"""Seconds between two looks at the journal, growing with the time already waited."""

LIVENESS_EVERY = 2.0
"""Seconds between two looks at whether the runner still lives."""

TOLD_EVERY = 1.0
"""Seconds between two looks at whether a run of this process asks something."""

TOLD_COST = 20
"""The looks take one part in so many of the time."""

RESUMED_WITHIN = 60.0
"""Seconds within which an execution that was answered goes on."""


class FlowHandle:
    """An execution: its id, its status, its result.

    An execution that was started here, with ``.run()``, goes on in a thread of this process; any other goes on in a
    process of its own, and is followed through its journal. One that was resumed had ``resumed_after`` entries before:
    how it ended then is not how it ends now.
    """

    def __init__(
        self,
        session: Session,
        exec_id: str,
        launched: Launched | None = None,
        *,
        invoked: Invoked | None = None,
        resumed_after: int = 0,
    ) -> None:
        self.exec_id = exec_id
        self.invoked = invoked
        """Of an invoke: the version that it chose, and whether the execution was there already."""
        self.runs_here = False
        """Whether it runs in this process, and ends with it."""
        self._session = session
        self._hosted: tuple[Callable[[], Any], Callable[[], Any]] | None = None
        self._launched = launched
        self._resumed_after = resumed_after
        self._entries: tuple[bytes, ...] = ()
        self._outcome: Any = None
        self._error: BaseException | None = None
        self._settled = threading.Event()
        self._told: Callable[[Execution], None] | None = None
        self._told_of: set[str] = set()
        self._shown: Callable[[Execution], None] | None = None
        self._printed: Callable[[str], None] | None = None

    def __repr__(self) -> str:
        return f"FlowHandle({self.exec_id!r})"

    def __dir__(self) -> list[str]:
        """The names for callers; the others serve the command line."""
        return ["cancel", "exec_id", "get", "logs", "status", "wait"]

    @property
    def reused(self) -> bool:
        """Whether an invoke led to an execution that was there already, by its idempotency key."""
        return self.invoked is not None and self.invoked.reused

    @property
    def status(self) -> str:
        """Read afresh: ``pending``, ``running``, ``waiting``, ``completed``, ``failed``, ``cancelled`` or ``lost``."""
        return self._session.executions.get(self.exec_id).status

    def wait(self, timeout: float | None = None, *, as_plain: bool = False) -> Any:
        """Block until the execution ends, and return its result; ``as_plain``: as JSON-like data, of any type.

        ``timeout`` in seconds: ``KitaruTimeoutError`` then, while the execution goes on. ``KitaruExecutionError`` (or a
        subclass) when it failed; ``KitaruStateError`` when its runner is gone, or left because it waits for an answer.
        ``KitaruValueError`` for a result of a type that can't be imported here, unless ``as_plain``.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        with cleared_by(self._printed) if self._printed is not None else nullcontext():
            self._begin(here=timeout is None and threading.current_thread() is threading.main_thread())
            if not self.runs_here or self._settles(deadline):
                if self._settled.is_set() and self._error is None:
                    return self._result(self._read(), as_plain) if as_plain else self._outcome
                # It goes on elsewhere once another runner has taken over, or when somebody answers.
                if self._error is not None and not isinstance(self._error, (Fenced, RunSuspended)):
                    raise self._error
                execution = deque(self._states(deadline), maxlen=1).pop()
                if execution.ended and self._has_begun:
                    return self._result(execution, as_plain)
        raise KitaruTimeoutError(
            f"{self.exec_id} has not ended within {timeout:g} s; it goes on",
            hint=f"kitaru executions get {self.exec_id}",
        )

    def get(self, *, as_plain: bool = False) -> Any:
        """The result of an execution that has ended, as ``wait`` gives it. ``KitaruStateError`` while it has not."""
        if self._settled.is_set():
            return self.wait(as_plain=as_plain)
        self._begin()
        execution = self._read()
        if not (execution.ended and self._has_begun):
            raise KitaruStateError(
                f"{self.exec_id} has not ended, it is {self.status}", hint="wait() blocks until it ends"
            )
        return self._result(execution, as_plain)

    def logs(self, *, follow: bool = False) -> Iterator[LogLine]:
        """The lines that the execution printed or logged; ``follow`` goes on until it ends.

        Followed: ``KitaruStateError`` if its runner is gone, ``KitaruStackError`` if its worker ended before it began.
        """
        self._begin()
        after = 0
        for _ in self._states(waits=True) if follow else [None]:
            for number, lines in read_on(self._session.store, self._session.project, self.exec_id, after):
                after = number
                yield from lines

    def cancel(self) -> None:
        """Cancel the execution; returns when that is recorded. ``KitaruStateError`` if it has ended before."""
        from kitaru.run.cancel import cancel

        cancel(self._session.executions, self.exec_id, self._session.actor)

    def tell_of_waits(self, show: Callable[[Execution], None]) -> None:
        """While ``wait()`` blocks, call ``show`` each time that the execution asks something new."""
        self._told = show

    def tell_of_progress(self, shown: Callable[[Execution], None], printed: Callable[[str], None]) -> None:
        """While ``wait()`` blocks, call ``shown`` with the execution as it stands, about once a second; and ``printed``
        with all that a run of this process prints, before it is printed.
        """
        self._shown, self._printed = shown, printed

    def start_thread(self, run: Callable[[], Any]) -> None:
        """Run the execution in the background; the interpreter waits for it, so that a script may end before its
        execution does.
        """
        self.runs_here = True
        threading.Thread(target=self._settle, args=(run,), name=f"kitaru-{self.exec_id}", daemon=False).start()

    def host(self, here: Callable[[], Any], beside: Callable[[], Any]) -> None:
        """Let the execution begin with the call that waits for it: ``here``, in the main thread, if that waits
        without a limit; else ``beside`` it, in a thread.
        """
        self.runs_here = True
        self._hosted = (here, beside)

    def fail(self, error: BaseException) -> None:
        """The execution ended with this error. Called in its thread, or in its place if that does not react."""
        self._error = error if self._error is None else self._error
        self._settled.set()

    def _begin(self, *, here: bool = False) -> None:
        if self._hosted is None:
            return
        (run_here, run_beside), self._hosted = self._hosted, None
        if not here:
            self.start_thread(run_beside)
            return
        teller = threading.Thread(target=self._settles, name=f"kitaru-teller-{self.exec_id}", daemon=True)
        teller.start()
        self._settle(run_here)
        teller.join()

    def _settle(self, run: Callable[[], Any]) -> None:
        try:
            self._outcome = run()
            self._settled.set()
        except BaseException as error:
            self.fail(error)

    def _settles(self, deadline: float = math.inf) -> bool:
        """Wait for the run of this process, and tell of it meanwhile; False if the deadline came first."""
        if self._told is None and self._shown is None:
            return self._settled.wait(None if deadline == math.inf else max(0.0, deadline - time.monotonic()))
        pause = TOLD_EVERY
        while not self._settled.wait(max(0.0, min(pause, deadline - time.monotonic()))):
            began = time.monotonic()
            if began >= deadline:
                return False
            with apart(), suppress(KitaruStoreError):  # the run meets it, too, and says so
                self._tell(self._read())
            # A long journal takes time to read, and that is the run's.
            pause = max(TOLD_EVERY, TOLD_COST * (time.monotonic() - began))
        return True

    def _tell(self, execution: Execution) -> None:
        if self._shown is not None and not execution.ended:
            self._shown(execution)
        if self._told is None or execution.ended:
            return
        new = {wait.wait_id for wait in execution.open_waits} - self._told_of
        self._told_of |= new
        if any(self._session.store.read(self._answer_key(wait_id)) is None for wait_id in new):
            self._told(execution)

    def _answer_key(self, wait_id: str) -> str:
        return address.wait_answer(self._session.project, self.exec_id, wait_id)

    @property
    def _has_begun(self) -> bool:
        """Whether the entries read so far hold any of the run that this handle follows."""
        return len(self._entries) > self._resumed_after

    def _read(self, known: Execution | None = None) -> Execution:
        """The execution as it is recorded: ``known``, if nothing was added since."""
        session, before = self._session, len(self._entries)
        self._entries = journal.read_entries(session.store, session.project, self.exec_id, self._entries)
        if not self._entries:
            return journal.load(session.store, session.project, self.exec_id)
        if known is not None and len(self._entries) == before:
            return known
        return fold(journal.read_events(self._entries, self.exec_id))

    def _states(self, deadline: float = math.inf, *, waits: bool = False) -> Iterator[Execution]:
        """The execution as it stands, again and again, until it has ended or the deadline came.

        Raises ``KitaruStateError`` if nobody goes on with it, also with its answer unless ``waits``;
        ``KitaruStackError`` if its worker ended before it began.
        """
        checked = left_since = time.monotonic()
        pause, execution = FIRST_PAUSE, None
        while True:
            execution = self._read(execution)
            if execution.ended and self._has_begun:
                yield execution
                return
            self._tell(execution)
            now = time.monotonic()
            if execution.suspended_at is None:
                left_since = now
            elif not waits:
                self._must_go_on(execution, now - left_since)
            if now - checked > LIVENESS_EVERY:
                checked = now
                self._must_have_begun(execution)
                if self._has_begun and self.status == "lost":
                    raise KitaruStateError(
                        f"{self.exec_id} lost its runner before it ended",
                        hint=f"kitaru executions resume {self.exec_id}",
                    )
            yield execution
            if now >= deadline:
                return
            time.sleep(max(0.0, min(pause, deadline - time.monotonic())))
            pause = min(LONGEST_PAUSE, pause * 1.3)

    def _must_go_on(self, execution: Execution, seconds: float) -> None:
        """Without a runner it goes on only while the one that answered is about to resume it."""
        keys = [self._answer_key(wait.wait_id) for wait in execution.open_waits]
        if not any(self._session.store.read(key) is not None for key in keys):
            raise waiting_error(execution)
        if seconds > RESUMED_WITHIN:
            raise KitaruStateError(
                f"{self.exec_id} has its answer, and nobody went on with it",
                hint=f"kitaru executions resume {self.exec_id}",
            )

    def _must_have_begun(self, execution: Execution) -> None:
        """A worker that ended before it could write to the journal left its reason with its runner."""
        launched = self._launched
        begun = execution.runner is not None and self._has_begun
        if begun or launched is None or launched.runner.alive(launched.worker) is not False:
            return
        if self._read(execution) is not execution:
            return  # it wrote between our look at the journal and our look at the process
        reason = launched.runner.startup_failure(launched.worker)
        raise KitaruStackError(
            f"the worker of {self.exec_id} ended before the flow began{': ' + reason if reason else ''}",
            hint=f"kitaru executions resume {self.exec_id}",
        )

    def _result(self, execution: Execution, as_plain: bool) -> Any:
        if execution.status != "completed":
            raise failure_of(execution)
        return self._session.result(execution, as_plain=as_plain)


def waiting_error(execution: Execution) -> KitaruStateError:
    """The error for an execution that waits without a runner."""
    waits = execution.open_waits
    asked = "; ".join(f"{wait.name!r}" + (f": {wait.question}" if wait.question else "") for wait in waits)
    chosen = f" --wait {told_apart(waits[0], waits)}" if len(waits) > 1 else ""
    return KitaruStateError(
        f"{execution.exec_id} waits for an answer to {asked}",
        hint=f"kitaru executions input {execution.exec_id}{chosen} --value JSON",
    )


def failure_of(execution: Execution) -> KitaruExecutionError:
    """The typed error of an execution that ended without a result."""
    failure = execution.failure
    origin = failure.origin if failure else "unknown"
    kind: type[KitaruExecutionError] = {
        "user_code": KitaruUserCodeError,
        "divergence": KitaruDivergenceError,
    }.get(origin, KitaruExecutionError)
    if execution.status == "cancelled":
        kind = KitaruCancelledError
    what = f"{failure.type}: {failure.message}" if failure else execution.status
    return kind(
        f"{execution.flow_name} {execution.status} ({execution.exec_id}): {what}",
        exec_id=execution.exec_id,
        status=execution.status,
        failure_origin=origin,
        hint=f"kitaru executions get {execution.exec_id}",
    )
