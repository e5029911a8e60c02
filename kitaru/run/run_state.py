"""What one runner holds while it runs an execution."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kitaru.core.replay import (
    CallIdentity,
    Compute,
    Decision,
    Offers,
    RecordedCall,
    RecordedCalls,
    Reraise,
    Reuse,
    calls_under_way,
)
from kitaru.errors import KitaruDivergenceError, KitaruIntegrityError
from kitaru.flows.flow import Flow
from kitaru.flows.future import CheckpointFuture
from kitaru.flows.retry import Retry, settled, with_further
from kitaru.manifest.port import AnswerCheck
from kitaru.model.address import CROCKFORD, timestamp
from kitaru.model.event import (
    AttemptFailed,
    Cancelled,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointLost,
    CheckpointStarted,
    Completed,
    Event,
    Failed,
    Failure,
    Opened,
    Started,
    Value,
)
from kitaru.ports import Clock
from kitaru.run.cache import Cache
from kitaru.run.failures import failure_of, roots_of
from kitaru.run.halting import UnderWay
from kitaru.run.interrupts import Interrupts
from kitaru.run.journal import Fenced, Journal, Stopped, read_events
from kitaru.run.lease import Presence
from kitaru.run.pool import ThreadPool
from kitaru.run.port import Mask
from kitaru.run.replay import taken_events
from kitaru.run.waits import WaitBook
from kitaru.source.port import NO_CODE, CodeBase
from kitaru.store.port import Store

if TYPE_CHECKING:
    from kitaru.run.event_loop import LoopThread
    from kitaru.run.output import Capture

LOOK_SECONDS = 0.25
"""While a call waits for its next attempt: between two looks at whether there is to be one."""

MAX_THREADS = 128
"""How many submitted checkpoints of one run are under way at once."""


class RunState:
    """One execution in this process: its journal, what was recorded before, its threads."""

    def __init__(
        self,
        flow: Flow[..., Any],
        store: Store,
        clock: Clock,
        project: str,
        exec_id: str,
        entries: tuple[bytes, ...],
        code: Callable[[], CodeBase] = lambda: NO_CODE,
        mask: Mask | None = None,
        check_answer: AnswerCheck | None = None,
    ) -> None:
        """All as ``execute`` takes it."""
        events = read_events(entries, exec_id)
        self.opened = _opening(events, exec_id)
        self.flow = flow
        self.store = store
        self.clock = clock
        self.project = project
        self.exec_id = exec_id
        self.process = os.getpid()
        self.journal = Journal(store, project, exec_id, written=len(entries), write_id=clock.token(16))
        self.journal.when_fenced = self.halt  # what runs here is for nothing then, and might write nothing for hours
        self.history = History(events)
        self.recorded = RecordedCalls(events)
        self._deciding = threading.Lock()
        self.offers = Offers(events)
        """What this run may take over from the execution that it replays."""
        self.retry = self._policy()
        """The policy of the flow's own retries."""
        self.interrupts = Interrupts()
        self.keeps_outputs = self.retry.further > 0
        """Whether the body may run again in this process, and will ask for what finished."""
        self.pool = ThreadPool(MAX_THREADS, f"kitaru-{exec_id}")
        self.commit_pool = ThreadPool(MAX_THREADS, f"kitaru-commit-{exec_id}")
        self.loop_thread: LoopThread | None = None
        self.capture: Capture | None = None
        self.tasks: set[Any] = set()
        """Tasks of submitted async calls: the loop itself holds them only weakly."""
        self.futures: list[CheckpointFuture[Any]] = []
        self.halted: BaseException | None = None
        """Why the run goes no further though nothing failed: cancelled, left, taken over by another runner."""
        self.cancel_recorded = False  # over the head of code that does not react
        self.under_way = UnderWay()
        self.waits = WaitBook(events)
        self.abandoned: BaseException | None = None
        """Why calls that wait for their turn must not begin any more."""
        self.diverged: KitaruDivergenceError | None = None
        self.home = flow.func.__module__
        self.mask = mask
        self.check_answer = check_answer
        self.cache = Cache(store, self.opened, code, home=self.home, resumed=len(entries) > 1)
        self.presence = Presence(store, self.opened)
        self.logged: dict[str, dict[str, Any]] = {}
        """The metadata of calls, by their keys, as far as this run knows it."""

    def _policy(self) -> Retry:
        given, flow = self.opened.options, self.flow
        policy = Retry.from_json(given.retry) if given.retry else with_further(flow.options.retries, given.retries)
        return settled(policy, flow.func.__globals__, f"flow {flow.name!r}", recorded=True)

    def now(self) -> str:
        """The present, as events carry it."""
        return timestamp(self.clock.now())

    def decide(self, call: CallIdentity) -> Decision:
        """What ``call`` takes: an outcome that is recorded, else one of the execution that this one replays."""
        with self._deciding:
            decision = self.recorded.decide(call)
            if not isinstance(decision, Compute) or self.recorded.get(decision.call) is not None:
                return decision
            offer = self.offers.take(call)
            if offer is None:
                return decision
            taken = RecordedCall(call.name, call.input_digest, offer.output, failure=offer.error, offer=offer)
            self.recorded[decision.call] = taken
        if offer.output is not None:
            return Reuse(offer.output, decision.call)
        assert offer.error is not None
        return Reraise(offer.error, decision.call)

    def took(self, key: str, output: Value | None = None) -> None:
        """The offer for this call fits: record that, with ``output`` where it is stored anew. Durable with what comes
        next; until then the offer stands.
        """
        known = self.recorded[key]
        offer = known.offer
        if offer is None:
            return
        notes, outcome = taken_events(offer, key, replace(known, output=output or known.output), self.now())
        for event in (*notes, outcome):
            self.journal.buffer(event)
        self.recorded.add(outcome)

    def failure_of(self, error: BaseException) -> Failure:
        """``error`` as this run records it."""
        return failure_of(error, roots_of(self.flow.func.__code__.co_filename, self.opened.target), self.mask)

    def check(self) -> None:
        """Raise what stopped this run, if anything did; no further call may be made then."""
        if self.journal.stopped is not None:
            raise self.journal.stopped
        if self.halted is not None:
            raise self.halted
        if self.diverged is not None:
            raise self.diverged

    def halt(self, reason: BaseException) -> bool:
        """Stop what is under way, and let nothing more begin; False where the run was told so before."""
        with self.waits.leaving:
            if self.halted is not None:
                return False
            self.halted = self.abandoned = reason
        if isinstance(reason, (Fenced, Stopped)):
            self.journal.stop(reason)
        self.interrupts.stop(reason)
        return True

    def begin_again(self, failed: AttemptFailed) -> None:
        """Before the body runs once more."""
        self.recorded.add(failed)
        self.recorded.begin_again()
        self.waits.begin_again()
        self.futures = []
        self.abandoned = None
        self.interrupts.reset()

    def pause(self, seconds: float) -> None:
        """Wait between two attempts, unless the body has failed; raises what stops the run meanwhile."""
        deadline = time.monotonic() + seconds
        while self.abandoned is None and (left := deadline - time.monotonic()) > 0:
            self.interrupts.pause(min(left, LOOK_SECONDS))
            self.check()

    def chance(self) -> float:
        """A number from 0 to 1."""
        letters = enumerate(self.clock.token(6), start=1)
        return float(sum(CROCKFORD.index(letter) / 32.0**place for place, letter in letters))

    def close(self) -> None:
        """Let go of the threads."""
        self.pool.close()
        self.commit_pool.close()
        self.interrupts.close()
        self.cache.close()
        if self.loop_thread is not None:
            self.loop_thread.close()
            self.loop_thread = None


def _opening(events: Sequence[Event], exec_id: str) -> Opened:
    if not events or not isinstance(events[0], Opened):
        raise KitaruIntegrityError(
            f"the journal of {exec_id} does not begin with the event that opens it",
            hint="the store is damaged there: restore the journal from a backup",
        )
    return events[0]


class History:
    """What the recorded events say about the attempts at the flow body."""

    def __init__(self, events: Sequence[Event]) -> None:
        checkpoints = (CheckpointStarted, CheckpointCompleted, CheckpointFailed, CheckpointLost)
        self.headlines = [event for event in events if not isinstance(event, checkpoints)]
        """The events without their checkpoints."""
        self.attempt = 1
        """The attempt that comes now: a new one after a failed one, the same again after a crash."""
        self.failures = 0
        """How many retries of the flow are used up."""
        self.under_way = calls_under_way(events)
        """Attempts that were under way when the last runner ended without a word."""
        self.seen = max(event.at for event in events)
        """The last sign of life in the journal."""
        self.ended: Completed | Cancelled | None = None
        """An end that is final. A failure is not: the execution can be taken up again."""
        for event in events:
            if isinstance(event, Started):
                self.attempt = event.attempt
                self.ended = None
            elif isinstance(event, AttemptFailed):
                self.attempt, self.failures = event.attempt + 1, self.failures + 1
            elif isinstance(event, Failed):
                self.attempt, self.failures = self.attempt + 1, 0
            elif isinstance(event, (Completed, Cancelled)):
                self.ended = event
