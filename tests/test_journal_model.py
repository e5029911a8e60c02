"""The journal against a model of it, with any number of runners that act in any order, die, and wake up late."""

from __future__ import annotations

import itertools
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kitaru.errors import KitaruStoreError
from kitaru.model import address
from kitaru.model.event import (
    CheckpointCompleted,
    CheckpointStarted,
    Completed,
    Event,
    Failed,
    Failure,
    Handle,
    Opened,
    Started,
    Value,
    decode_entry,
)
from kitaru.run import journal as journal_module
from kitaru.run.journal import Fenced, Journal, Stopped, load, open_execution, read_entries
from kitaru.store.local import LocalStore
from kitaru.store.port import Created, Store, Taken

EXEC = "ex-000000000000000000"
PROJECT = "p"
AT = "2026-11-21T00:00:00.000000Z"
NOTHING = Value("json", 4, "0" * 64, "inline", None)
TRIES = 4
"""How often the journal tries a write; see ``RETRY_DELAYS``."""


class PowerCut(BaseException):
    """The process is gone."""


@dataclass
class Fault:
    """What happens to the next creates: the first ``refused`` fail, after they took effect where ``lands``."""

    refused: int = 0
    lands: bool = False
    cut: bool = False


class Channel:
    """One runner's way to the store, on which creates can fail, be cut off, or be held up."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.url = inner.url
        self.durable_across_processes = inner.durable_across_processes
        self.fault = Fault()
        self.held: threading.Event | None = None
        self.arrived = threading.Event()

    def read(self, key: str) -> bytes | None:
        return self._inner.read(key)

    def names(self, prefix: str, *, after: str = "") -> list[str]:
        return self._inner.names(prefix, after=after)

    def overwrite(self, key: str, body: bytes, *, durable: bool = True) -> None:
        raise AssertionError("a journal overwrites nothing")

    def remove(self, key: str) -> None:
        raise AssertionError("a journal removes nothing")

    def create(self, key: str, body: bytes) -> Created | Taken:
        if self.held is not None:
            held, self.held = self.held, None
            self.arrived.set()
            held.wait()
        fault = self.fault
        if fault.refused:
            fault.refused -= 1
            if fault.lands:
                self._inner.create(key, body)
            if fault.cut:
                raise PowerCut
            raise KitaruStoreError("no reply", hint="try again")
        return self._inner.create(key, body)


@dataclass
class Runner:
    """A journal, and what the model knows of whoever writes it. ``seen``: entries there are, as far as it knows."""

    name: str
    channel: Channel
    journal: Journal
    seen: int
    over: type[BaseException] | None = None
    buffered: list[Event] = field(default_factory=list)


class JournalMachine(RuleBasedStateMachine):
    """Runners and their journals; beside them ``slots``, what every entry must be: its writer and its events."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="kitaru-journal-")
        self._store = LocalStore(Path(self._folder.name), "file://model")
        self._count = itertools.count(1)
        self._delays = journal_module.RETRY_DELAYS
        journal_module.RETRY_DELAYS = (0.0,) * (TRIES - 1)  # type: ignore[assignment]
        self.slots: list[tuple[str, tuple[Event, ...]]] = []
        self.runners: list[Runner] = []

    def teardown(self) -> None:
        journal_module.RETRY_DELAYS = self._delays
        self._folder.cleanup()

    # --- what runners do ---

    @initialize()
    def begin(self) -> None:
        opened = Opened(
            at=AT, project=PROJECT, exec_id=EXEC, flow="f", target="t:f", inputs=NOTHING, origin="run", stack="local"
        )
        assert isinstance(open_execution(self._store, opened, "invoker.1"), bytes)
        again = open_execution(self._store, opened, "another.1")
        assert isinstance(again, Taken)
        self.slots.append(("invoker", (opened,)))

    @precondition(lambda self: len(self.runners) < 6)
    @rule()
    def a_runner_reads_the_journal(self) -> None:
        """It may act at once, or much later, when others have gone on."""
        self._join()

    @precondition(lambda self: len(self.runners) < 6)
    @rule()
    def a_runner_takes_over(self) -> None:
        runner = self._join()
        started = Started(at=AT, runner=Handle(runner.name), attempt=1)
        self._commit(runner, [started])

    @precondition(lambda self: self.runners)
    @rule(data=st.data(), count=st.integers(1, 3))
    def a_runner_commits(self, data: st.DataObject, count: int) -> None:
        self._commit(self._any(data), [self._event(data) for _ in range(count)])

    @precondition(lambda self: self.runners)
    @rule(data=st.data(), replaced=st.booleans())
    def a_runner_keeps_an_event_for_later(self, data: st.DataObject, replaced: bool) -> None:
        runner = self._any(data)
        event = self._event(data)
        runner.journal.buffer(event)
        if replaced:
            runner.journal.unbuffer(event)
        elif runner.over is None:
            runner.buffered.append(event)

    @precondition(lambda self: self.runners)
    @rule(data=st.data())
    def a_runner_flushes(self, data: st.DataObject) -> None:
        runner = self._any(data)
        runner.journal.flush()
        if runner.over is None and runner.buffered:
            self._expect(runner, [])

    @precondition(lambda self: self.runners)
    @rule(data=st.data(), count=st.integers(2, 5))
    def a_runner_commits_from_several_threads(self, data: st.DataObject, count: int) -> None:
        """The first entry is held up until the others have come: they share the next one."""
        runner = self._any(data)
        if runner.over is not None:
            return
        events = [self._event(data) for _ in range(count)]
        channel, held = runner.channel, threading.Event()
        channel.held, channel.arrived = held, threading.Event()
        outcomes: list[BaseException | None] = [None] * count
        threads = [
            threading.Thread(target=_noting(outcomes, place, lambda event=event: runner.journal.commit(event)))
            for place, event in enumerate(events)
        ]
        threads[0].start()
        assert channel.arrived.wait(10)
        for thread in threads[1:]:
            thread.start()
        deadline = time.monotonic() + 10
        while _waiting(runner.journal) < count - 1:
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        held.set()
        for thread in threads:
            thread.join(10)
        if self._expect(runner, [events[0]]):
            written = decode_entry(self._body(len(self.slots) + 1)).events
            assert sorted(map(str, written)) == sorted(map(str, events[1:])), "the others share one entry"
            assert self._expect(runner, list(written))
            assert outcomes == [None] * count
        else:
            assert all(isinstance(outcome, Fenced) for outcome in outcomes)

    @precondition(lambda self: self.runners)
    @rule(data=st.data(), landed=st.booleans())
    def a_runner_dies_beside_a_write(self, data: st.DataObject, landed: bool) -> None:
        """Before it took effect, or after it did and before the runner knew."""
        runner = self._any(data)
        if runner.over is not None:
            return
        event = self._event(data)
        runner.channel.fault = Fault(refused=1, lands=landed, cut=True)
        assert isinstance(_outcome(lambda: runner.journal.commit(event)), PowerCut)
        if landed and runner.seen == len(self.slots):
            self.slots.append((runner.name, (*runner.buffered, event)))
        runner.over = Stopped

    @precondition(lambda self: self.runners)
    @rule(data=st.data(), refused=st.integers(1, TRIES), landed=st.booleans())
    def a_runner_gets_no_reply(self, data: st.DataObject, refused: int, landed: bool) -> None:
        """It tries the same bytes again: an entry of its own that landed is no conflict. At last it gives up."""
        runner = self._any(data)
        if runner.over is not None:
            return
        event = self._event(data)
        runner.channel.fault = Fault(refused=refused, lands=landed)
        outcome = _outcome(lambda: runner.journal.commit(event))
        if refused < TRIES:
            assert self._expect(runner, [event]) == (outcome is None)
            return
        assert isinstance(outcome, KitaruStoreError)
        if landed and runner.seen == len(self.slots):
            self.slots.append((runner.name, (*runner.buffered, event)))
        runner.over = KitaruStoreError

    @precondition(lambda self: self.runners)
    @rule(data=st.data())
    def a_runner_is_told_to_stop(self, data: st.DataObject) -> None:
        runner = self._any(data)
        runner.journal.stop(Stopped())
        runner.over = runner.over or Stopped

    @precondition(lambda self: len(self._able()) > 1)
    @rule(data=st.data())
    def two_runners_race_for_a_slot(self, data: st.DataObject) -> None:
        """Both know all that is there, and write at the same moment: one gets through."""
        places = sorted(data.draw(st.permutations(self._able()))[:2])
        pair = [self.runners[place] for place in places]
        events = [self._event(data) for _ in pair]
        outcomes: list[BaseException | None] = [None, None]
        together = threading.Barrier(2)

        def commit(runner: Runner, event: Event) -> None:
            together.wait(10)
            runner.journal.commit(event)

        threads = [
            threading.Thread(target=_noting(outcomes, place, lambda one=one, event=event: commit(one, event)))
            for place, (one, event) in enumerate(zip(pair, events, strict=True))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Fenced", "NoneType"]
        winner = outcomes.index(None)
        assert self._expect(pair[winner], [events[winner]])
        assert not self._expect(pair[1 - winner], [events[1 - winner]])
        # What is drawn from here on must not depend on who won.
        for place, runner in zip(places, (pair[winner], pair[1 - winner]), strict=True):
            self.runners[place] = runner

    # --- what must hold ---

    @invariant()
    def each_slot_holds_what_its_one_writer_committed(self) -> None:
        entries = [decode_entry(body) for body in read_entries(self._store, PROJECT, EXEC)]
        assert [entry.number for entry in entries] == list(range(1, len(self.slots) + 1))
        assert [(entry.write.partition(".")[0], entry.events) for entry in entries] == self.slots
        assert len({entry.write for entry in entries}) == len(entries)

    @invariant()
    def whoever_was_overtaken_never_comes_back(self) -> None:
        writers = [name for name, _ in itertools.groupby(self.slots, key=lambda slot: slot[0])]
        assert len(writers) == len(set(writers))

    @invariant()
    def a_runner_knows_whether_it_was_overtaken(self) -> None:
        for runner in self.runners:
            if runner.over is None:
                assert runner.journal.written == runner.seen
                assert (runner.journal.overtaken() is not None) == (len(self.slots) > runner.seen)

    @invariant()
    def the_fold_of_the_journal_is_that_of_the_model(self) -> None:
        if not self.slots:
            return
        execution = load(self._store, PROJECT, EXEC)
        status, completed, running, stopped = "pending", set[str](), set[str](), set[str]()
        for event in (event for _, events in self.slots for event in events):
            if isinstance(event, Started):
                status = "running"
            elif isinstance(event, Completed):
                status = "completed"
            elif isinstance(event, Failed):
                status = "failed"
                stopped |= running
                running = set()
            elif isinstance(event, CheckpointCompleted):
                completed.add(event.call)
            elif isinstance(event, CheckpointStarted):
                running.add(event.call)
        assert execution.status == status
        found = {call.call_id: call.status for call in execution.checkpoints}
        expected = dict.fromkeys(stopped, "cancelled") | dict.fromkeys(running, "running")
        assert found == expected | dict.fromkeys(completed, "completed")

    # --- details ---

    def _join(self) -> Runner:
        channel = Channel(self._store)
        name = f"runner{next(self._count)}"
        written = len(read_entries(channel, PROJECT, EXEC))
        assert written == len(self.slots)
        journal = Journal(channel, PROJECT, EXEC, written=written, write_id=name)
        runner = Runner(name, channel, journal, written)
        self.runners.append(runner)
        return runner

    def _able(self) -> list[int]:
        """The places of runners that know all that is there, and hold nothing back."""
        return [
            place
            for place, one in enumerate(self.runners)
            if one.over is None and one.seen == len(self.slots) and not one.buffered
        ]

    def _any(self, data: st.DataObject) -> Runner:
        return data.draw(st.sampled_from(self.runners), label="runner")

    def _event(self, data: st.DataObject) -> Event:
        call = str(next(self._count))
        error = Failure(type="ValueError", message=call, traceback="", origin="user_code")
        return data.draw(
            st.sampled_from(
                [
                    CheckpointStarted(at=AT, call=call, name="step", attempt=1),
                    CheckpointCompleted(
                        at=AT, started=AT, call=call, name="step", attempt=1, input_digest="", output=NOTHING
                    ),
                    CheckpointCompleted(
                        at=AT, started=AT, call=call, name="step", attempt=1, input_digest="", output=NOTHING
                    ),
                    Started(at=AT, runner=Handle(call), attempt=1),
                    Failed(at=AT, error=error),
                    Completed(at=AT, output=NOTHING),
                ]
            ),
            label="event",
        )

    def _commit(self, runner: Runner, events: list[Event]) -> None:
        over = runner.over
        outcome = _outcome(lambda: runner.journal.commit(*events))
        if over is not None:
            assert isinstance(outcome, over), f"{runner.name} was through, and got {outcome!r}"
            return
        assert self._expect(runner, events) == (outcome is None)
        assert outcome is None or isinstance(outcome, Fenced)

    def _expect(self, runner: Runner, events: list[Event]) -> bool:
        """Put into the model what a write of this runner must have done; whether it got through."""
        if runner.over is not None:
            return False
        if runner.seen < len(self.slots):
            runner.over = Fenced
            return False
        self.slots.append((runner.name, (*runner.buffered, *events)))
        runner.buffered = []
        runner.seen = len(self.slots)
        return True

    def _body(self, number: int) -> bytes:
        body = self._store.read(address.journal_entry(PROJECT, EXEC, number))
        assert body is not None
        return body


def _outcome(action: Callable[[], None]) -> BaseException | None:
    try:
        action()
    except BaseException as error:
        return error
    return None


def _noting(outcomes: list[BaseException | None], place: int, action: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        outcomes[place] = _outcome(action)

    return run


def _waiting(journal: Journal) -> int:
    """How many events wait for the entry after the one that is being written."""
    batch = journal._next
    return len(batch.events) if batch is not None else 0


JournalMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestJournal = JournalMachine.TestCase
