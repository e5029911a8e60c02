"""The state of one execution in its runner: its records, its decisions, and the calls under way."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
from kitaru.errors import KitaruDivergenceError
from kitaru.flows.flow import Flow
from kitaru.flows.future import CheckpointFuture
from kitaru.flows.options import Retry
from kitaru.manifest.port import AnswerCheck
from kitaru.masking import Masking
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
    Handle,
    Opened,
    Started,
    Value,
)
from kitaru.ports import Clock
from kitaru.run.cache import RunCache
from kitaru.run.journal import Journal, Recorded, RunExpired
from kitaru.run.lease import LEASE_SECONDS, ForcedEnd
from kitaru.run.output import Descriptors
from kitaru.run.replay import taken_events
from kitaru.run.user_code import failure_of, roots_of
from kitaru.run.waits import WaitBook
from kitaru.source.port import NO_CODE, CodeBase

LOOK_SECONDS = 0.25
"""While a thread of the run waits, between two looks at whether the run goes on."""


@dataclass(frozen=True)
class Host:
    """The process that runs an execution, and its means.

    ``code``: the code that runs, asked for by the first call that may be cached. ``mask`` takes secrets out of records,
    but not out of values. ``descriptors``: the output of the process, which is the execution's, too. ``check_answer``:
    the misfits of an answer and its schema. ``forced_end``: called by another thread with the reason, once the
    execution was cancelled, or taken over by another runner, while the flow's code goes on.
    """

    clock: Clock
    runner: Handle
    code: Callable[[], CodeBase] = lambda: NO_CODE
    mask: Masking | None = None
    descriptors: Descriptors | None = None
    check_answer: AnswerCheck | None = None
    forced_end: ForcedEnd | None = None
    lease_seconds: float = LEASE_SECONDS


class RunState:
    """One execution in this process. It holds no thread, no stream and no event loop."""

    def __init__(self, flow: Flow[..., Any], recorded: Recorded, host: Host) -> None:
        events, entries = recorded.events(), recorded.entries
        self.opened = recorded.opened
        self.flow = flow
        self.store = store = recorded.store
        self.project = project = recorded.project
        self.exec_id = exec_id = recorded.exec_id
        self.host = host
        self.clock = clock = host.clock
        self.mask = host.mask
        self.check_answer = host.check_answer
        self.home = flow.func.__module__
        self.process = os.getpid()
        self.journal = Journal(store, project, exec_id, written=len(entries), write_id=clock.token(16))
        self.journal.when_fenced = self.halt
        self.history = History(events)
        self.recorded = RecordedCalls(events)
        self.offers = Offers(events)
        """Outcomes that this run may take over from the execution that it replays."""
        self._deciding = threading.Lock()
        self.retry = _policy(flow, self.opened)
        """The policy of the flow's own retries."""
        self.keeps_outputs = self.retry.further > 0
        self.waits = WaitBook(events)
        self.under_way: dict[str, CheckpointStarted] = {}
        """The attempts that have begun and whose outcome is not recorded yet, by call."""
        self.futures: list[CheckpointFuture[Any]] = []
        """The calls that this attempt at the body submitted."""
        self.deadline: float | None = None
        """The end of the flow's time, on the monotonic clock."""
        self.halted: BaseException | None = None
        """Why the run goes no further though nothing failed: cancelled, suspended, taken over by another runner."""
        self.abandoned: BaseException | None = None
        """Why calls that wait for their turn don't begin any more."""
        self.diverged: KitaruDivergenceError | None = None
        self.cache = RunCache(store, self.opened, host.code, home=self.home, resumed=len(entries) > 1)
        self.logged: dict[str, dict[str, Any]] = {}
        """The metadata of calls, by their keys, as far as this run knows it."""

    def now(self) -> str:
        """The present, as events carry it."""
        return timestamp(self.clock.now())

    def decide(self, call: CallIdentity) -> Decision:
        """The outcome that ``call`` takes: a recorded one, else one of the execution that this one replays."""
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
        """The offer for this call fits: record that, with ``output`` if it is stored anew. Durable with the next
        entry; until then the offer stands.
        """
        known = self.recorded[key]
        offer = known.offer
        if offer is None:
            return
        notes, outcome = taken_events(offer, key, replace(known, output=output or known.output), self.now())
        for event in (*notes, outcome):
            self.journal.buffer(event)
        self.recorded.add(outcome)

    def keep(self, event: CheckpointCompleted | CheckpointFailed | CheckpointLost) -> None:
        """Remember the outcome of an attempt, if the body may run again in this process and ask for it."""
        if self.keeps_outputs:
            self.recorded.add(event)

    def failure_of(self, error: BaseException) -> Failure:
        """``error`` as this run records it."""
        return failure_of(error, roots_of(self.flow.func.__code__.co_filename, self.opened.target), self.mask)

    def check(self) -> None:
        """Raise the reason if no call may be made any more."""
        self.must_go_on()
        reason = self.journal.stopped or self.diverged
        if reason is not None:
            raise reason

    def must_go_on(self) -> None:
        """Raise the reason if calls under way are to end, too: the run is halted, or the flow's time is over."""
        if self.halted is not None:
            raise self.halted
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise RunExpired

    def halt(self, reason: BaseException) -> bool:
        """Write nothing more, and let no call begin; False if the run was halted before."""
        with self.waits.leaving:
            if self.halted is not None:
                return False
            self.halted = self.abandoned = reason
        self.journal.stop(reason)
        return True

    def begin_again(self, failed: AttemptFailed) -> None:
        """Before the body runs once more."""
        self.recorded.add(failed)
        self.recorded.begin_again()
        self.waits.begin_again()
        self.futures = []
        self.abandoned = self.deadline = None

    def sleep(self, seconds: float) -> None:
        """Wait in this thread; raises the reason as soon as the run goes no further."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, LOOK_SECONDS))
            self.check()

    def pause(self, seconds: float) -> None:
        """Wait between two attempts, unless the body has failed meanwhile; otherwise as ``sleep``."""
        end = time.monotonic() + seconds
        while self.abandoned is None and (left := end - time.monotonic()) > 0:
            self.sleep(min(left, LOOK_SECONDS))

    def chance(self) -> float:
        """A number from 0 to 1."""
        letters = enumerate(self.clock.token(6), start=1)
        return float(sum(CROCKFORD.index(letter) / 32.0**place for place, letter in letters))


def _policy(flow: Flow[..., Any], opened: Opened) -> Retry:
    given = opened.options
    own = flow.options.retries
    policy = Retry.from_json(given.retry) if given.retry else replace(own, attempts=given.retries + 1)
    return flow.settled(policy, recorded=True)


class History:
    """The attempts at the flow's body, as recorded events tell of them."""

    def __init__(self, events: Sequence[Event]) -> None:
        checkpoints = (CheckpointStarted, CheckpointCompleted, CheckpointFailed, CheckpointLost)
        self.headlines = [event for event in events if not isinstance(event, checkpoints)]
        """The events without their checkpoints."""
        self.attempt = 1
        """The attempt that comes now: a new one after a failed one, the same again after a crash."""
        self.failures = 0
        """How many retries of the flow are used up."""
        self.under_way = calls_under_way(events)
        """Attempts of calls that were under way when the last runner ended without an end in the journal."""
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
