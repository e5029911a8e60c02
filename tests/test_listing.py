"""Listing executions: exact answers, newest first, for a number of requests that does not grow with their number."""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import kitaru
from kitaru import checkpoint, flow
from kitaru.errors import KitaruUserCodeError
from kitaru.model import address
from kitaru.model.event import (
    CheckpointCompleted,
    Completed,
    Event,
    ExecutionOptions,
    Failed,
    Failure,
    Handle,
    Opened,
    Started,
    Suspended,
    Value,
    WaitOpened,
    encode_entry,
)
from kitaru.model.execution import fold
from kitaru.run import index
from kitaru.run import lease as lease_module
from kitaru.run.executions import Executions
from kitaru.run.journal import encode_summary, load, read_entries
from kitaru.store import hints
from kitaru.store.port import Created, Listed, Taken
from tests.execution_lab import PROJECT, Lab, Watched

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
PAGE = 1000
NOTHING = Value("json", 4, "0" * 64, "inline", None)


class Bucket:
    """An object store that counts requests as S3 bills them: a page of a listing is one, as is a read."""

    url = "s3://bucket/prefix"
    durable_across_processes = True

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.modified: dict[str, datetime] = {}
        self.children: dict[str, list[str]] = {}
        self.requests = 0

    def put(self, key: str, body: bytes, modified: datetime = NOW) -> None:
        self.bodies[key] = body
        self.modified[key] = modified
        parts = key.split("/")
        for place in range(len(parts)):
            folder = "/".join(parts[:place]) + "/" if place else ""
            name = parts[place] + ("/" if place < len(parts) - 1 else "")
            names = self.children.setdefault(folder, [])
            at = bisect.bisect_left(names, name)
            if at == len(names) or names[at] != name:
                names.insert(at, name)

    def read(self, key: str) -> bytes | None:
        self.requests += 1
        return self.bodies.get(key)

    def create(self, key: str, body: bytes) -> Created | Taken:
        self.requests += 1
        if key in self.bodies:
            return Taken(self.bodies[key])
        self.put(key, body)
        return Created()

    def overwrite(self, key: str, body: bytes, *, durable: bool = True) -> None:
        self.requests += 1
        self.put(key, body)

    def names(self, prefix: str, *, after: str = "") -> list[str]:
        names = self.children.get(prefix, [])
        found = names[bisect.bisect_right(names, after) :]
        self.requests += max(1, -(-len(found) // PAGE))
        return list(found)

    def listed(self, prefix: str) -> list[Listed]:
        keys = [prefix + name for name in self.names(prefix)]
        return [Listed(key, len(self.bodies[key]), self.modified[key]) for key in keys]

    def remove(self, key: str) -> None:
        self.requests += 1
        if self.bodies.pop(key, None) is not None:
            folder, _, name = key.rpartition("/")
            self.children[folder + "/"].remove(name)


class Still:
    """The time stands still."""

    def now(self) -> datetime:
        return NOW

    def token(self, size: int) -> str:
        return "0" * size


class World:
    """Executions that were, and the reader that looks at them."""

    def __init__(self) -> None:
        self.store = Bucket()
        self.alive: dict[str, bool | None] = {}
        self.reader = Executions(self.store, PROJECT, Still(), Watched(lambda worker: self.alive.get(worker.id, True)))
        self.count = 0

    def events(
        self, age: timedelta, name: str, status: str, version: int | None = None, tag: str | None = None
    ) -> list[Event]:
        self.count += 1
        at = address.timestamp(NOW - age)
        opened = Opened(
            at=at,
            project=PROJECT,
            exec_id=address.exec_id(NOW - age, f"{self.count:08d}"),
            flow=name,
            target=f"f.py:{name}",
            inputs=NOTHING,
            origin="invoke",
            stack="local",
            options=ExecutionOptions(),
            version=version,
            tag=tag,
        )
        started = Started(at=at, runner=Handle(f"r{self.count}"), attempt=1)
        ends: dict[str, list[Event]] = {
            "pending": [opened],
            "running": [opened, started],
            "completed": [opened, started, Completed(at=at, output=NOTHING)],
            "failed": [opened, started, Failed(at=at, error=Failure("E", "m"))],
            "waiting": [opened, started, WaitOpened(at=at, wait="w1", name="w1"), Suspended(at=at)],
        }
        return ends[status]

    def add(
        self, age: timedelta, name: str = "f", status: str = "completed", *, hints: bool = True, **choice: Any
    ) -> str:
        """One execution with the hints that it leaves, or without; its id. ``choice``: version and tag."""
        events = self.events(age, name, status, **choice)
        execution = fold(events)
        for number, event in enumerate(events, start=1):
            body = encode_entry(number, f"w{number}", [event])
            self.store.put(address.journal_entry(PROJECT, execution.exec_id, number), body)
        if not hints:
            return execution.exec_id
        if status == "waiting":
            index.note_waiting(self.store, execution, len(events))
        elif execution.ended:
            index.note_end(self.store, execution, len(events))
        else:
            index.note_open(self.store, execution)
        return execution.exec_id

    def hint_only(self, age: timedelta, name: str, status: str) -> None:
        """One of very many that ended long ago: summary and hints, no journal, written without ado."""
        execution = fold(self.events(age, name, status))
        for key in index._ended_keys(execution, execution.status):
            self.store.put(key, hints.MARK)
        self.store.put(address.summary(PROJECT, execution.exec_id), encode_summary(execution, 3))

    def list(self, **asked: Any) -> list[str]:
        self.store.requests = 0
        return [one.exec_id for one in self.reader.newest(**asked)]


@pytest.fixture(scope="module")
def crowd() -> World:
    """100,000 executions of a year, a few of them waiting, failed or of a rare flow."""
    world = World()
    for number in range(100_000):
        age = timedelta(days=365) * (100_000 - number) / 100_000 + timedelta(hours=2)
        name = "rare" if number % 2500 == 0 else "X" if number % 2 else "Y"
        world.hint_only(age, name, "failed" if number % 1000 == 1 else "completed")
    for hours in range(1, 26):
        world.add(timedelta(hours=hours), "X", "waiting")
        world.add(timedelta(hours=hours), "Y", "waiting")
    return world


@pytest.mark.parametrize(
    ("asked", "most"),
    [
        ({}, 29),
        ({"status": "waiting", "flow": "X"}, 26),
        ({"status": "failed"}, 30),
        ({"status": "failed", "flow": "X"}, 90),
        ({"status": "completed", "flow": "rare"}, 30),
        ({"flow": "rare"}, 30),
        ({"status": "cancelled"}, 30),
        ({"status": "completed"}, 30),
    ],
    ids=str,
)
def test_twenty_of_a_hundred_thousand_cost_thirty_requests(crowd: World, asked: dict[str, str], most: int) -> None:
    """Whatever is asked for, the right twenty come, newest first, and at most thirty requests are sent."""
    found = crowd.list(limit=20, **asked)
    assert len(found) == (0 if asked.get("status") == "cancelled" else 20)
    assert found == sorted(found, reverse=True)
    assert crowd.store.requests <= most
    for one in found:
        execution = crowd.reader.get(one) if asked.get("status") == "waiting" else None
        if execution is not None:
            assert (execution.flow_name, execution.status) == ("X", "waiting")


def running(world: World, name: str, age: timedelta, entries: int) -> str:
    """One that runs, with a journal of so many entries, and what its runner leaves in the store."""
    exec_id = world.add(age, name, "running")
    at = address.timestamp(NOW - timedelta(seconds=5))
    for number in range(3, entries + 1):
        done = CheckpointCompleted(
            at=at, started=at, call=str(number), name="step", attempt=1, input_digest="", output=NOTHING
        )
        world.store.put(address.journal_entry(PROJECT, exec_id, number), encode_entry(number, f"w{number}", [done]))
    lose(world, exec_id, -timedelta(seconds=40))
    return exec_id


@pytest.fixture(scope="module")
def busy() -> World:
    """20,000 executions of a year, more of them lately; 40 wait parked, and the ten newest run, with long journals."""
    world = World()
    for number in range(20_000):
        age = timedelta(days=365) * ((20_000 - number) / 20_000) ** 2 + timedelta(seconds=90)
        name = "rare" if number % 800 == 0 else "X" if number % 2 else "Y"
        world.hint_only(age, name, "failed" if number % 10 == 1 else "completed")
    for hours in range(1, 21):
        world.add(timedelta(hours=hours * 9), "X", "waiting")
        world.add(timedelta(hours=hours * 9), "Y", "waiting")
    for seconds in range(10):
        running(world, "X" if seconds % 2 else "Y", timedelta(seconds=60 + seconds), 100)
    return world


@pytest.mark.parametrize("name", [None, "X", "rare"])
@pytest.mark.parametrize("status", [None, "waiting", "running", "lost", "pending", "failed", "completed", "cancelled"])
def test_no_filter_costs_more_where_some_run_and_many_wait(busy: World, name: str | None, status: str | None) -> None:
    """With ten running and forty parked, each filter takes thirty requests; if they may fit, one more for each."""
    found = busy.list(flow=name, status=status, limit=20)
    assert busy.store.requests <= (40 if status in ("lost", "waiting") else 30)
    there = {
        (None, None): 20, (None, "waiting"): 20, (None, "running"): 10, (None, "failed"): 20, (None, "completed"): 20,
        ("X", None): 20, ("X", "waiting"): 20, ("X", "running"): 5, ("X", "failed"): 20, ("X", "completed"): 20,
        ("rare", None): 20, ("rare", "completed"): 20,
    }  # fmt: skip
    assert len(found) == there.get((name, status), 0)


def lose(world: World, exec_id: str, ago: timedelta) -> None:
    """Its runner's lease lapsed so long ago."""
    execution = replace(load(world.store, PROJECT, exec_id), checkpoints=(), waits=())
    entries = len(read_entries(world.store, PROJECT, exec_id))
    written, until = NOW - ago - timedelta(seconds=45), NOW - ago
    world.store.put(index.open_key(execution), index.Sign(execution, entries, written, until).encode(), written)


def bare(world: World, exec_id: str) -> None:
    """Its hint is no lease."""
    world.store.put(index.open_key(load(world.store, PROJECT, exec_id)), hints.MARK)


def marks(world: World) -> set[str]:
    """The executions that are marked as lost."""
    return {key.rpartition("/")[2][:21] for key in world.store.bodies if key.endswith("~lost")}


@pytest.fixture(scope="module")
def deserted() -> World:
    """3,000 executions of a year; 300 lost their runners, long ago and lately, by lease or before the first one; ten
    run, and ten wait. A first listing has met the lost ones.
    """
    world = World()
    for number in range(3000):
        age = timedelta(days=365) * (3000 - number) / 3000 + timedelta(hours=2)
        if number % 10 == 5:
            exec_id = running(world, "X" if number % 20 == 5 else "Y", age, 2 + number % 4)
            lose(world, exec_id, timedelta(hours=1))
            if number % 30 == 5:
                bare(world, exec_id)
        else:
            world.hint_only(age, "X" if number % 2 else "Y", "failed" if number % 10 == 1 else "completed")
    for number in range(10):
        running(world, "X" if number % 2 else "Y", timedelta(seconds=60 + number), 50)
        world.add(timedelta(days=3 * number + 1), "X" if number % 2 else "Y", "waiting")
    assert len(world.list(status="running")) == 10
    assert len(marks(world)) == 300
    return world


@pytest.mark.parametrize("name", [None, "X"])
@pytest.mark.parametrize("status", [None, "waiting", "running", "lost", "pending", "failed", "completed", "cancelled"])
def test_no_filter_costs_more_where_many_are_lost(deserted: World, name: str | None, status: str | None) -> None:
    """Three hundred that somebody has met before are passed over by name, and cost one read each where asked for."""
    found = deserted.list(flow=name, status=status, limit=20)
    # Ten run, and may be lost by now: that is a read each, beside those of the twenty that are shown.
    assert deserted.store.requests <= (40 if status in ("lost", "waiting") else 30)
    some = {"waiting": 10, "running": 10, "pending": 0, "cancelled": 0}.get(status or "", 20)
    assert len(found) == (some // 2 if name and some == 10 else some)
    assert found == sorted(found, reverse=True)


def test_a_mark_says_what_the_journal_says(deserted: World) -> None:
    """Lost ones are listed by their marks as a look at each shows them, all of them."""
    found = list(deserted.reader.newest(status="lost"))
    assert {one.exec_id for one in found} == marks(deserted)
    for one in found[::40]:
        assert one.summary() == deserted.reader.get(one.exec_id).summary()


def test_lost_is_marked_only_once_it_is_certain(world: World) -> None:
    """A lease that has just lapsed may be the other clock: ten minutes later, or of a dead process, it is not."""
    fresh, old, dead, begun = (running(world, "f", timedelta(hours=1, seconds=n), 4) for n in range(4))
    lose(world, fresh, timedelta(minutes=9))
    lose(world, old, timedelta(minutes=11))
    world.alive[world.reader.get(dead).runner.id] = False  # type: ignore[union-attr]
    never = world.add(timedelta(hours=2), "f", "pending")
    assert world.list(status="lost") == [fresh, old, dead, never]
    assert marks(world) == {old, dead, never}
    assert world.list(status="lost") == [fresh, old, dead, never]
    assert world.list(status="running") == [begun]


def test_a_runner_that_comes_back_while_it_is_marked_is_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it records something or renews its lease between the look and the mark: no mark stays."""
    recorded, renewed = (running(world, "f", timedelta(hours=1, seconds=n), 4) for n in range(2))
    for one in (recorded, renewed):
        lose(world, one, timedelta(minutes=15))
    put = world.store.overwrite

    def meanwhile(key: str, body: bytes, *, durable: bool = True) -> None:
        put(key, body)
        if key.endswith(f"{recorded}~f~~~lost"):
            event = Started(at=address.timestamp(NOW), runner=Handle("r2"), attempt=1)
            world.store.put(address.journal_entry(PROJECT, recorded, 5), encode_entry(5, "other.1", [event]))
        if key.endswith(f"{renewed}~f~~~lost"):
            lose(world, renewed, -timedelta(seconds=45))

    monkeypatch.setattr(world.store, "overwrite", meanwhile)
    assert recorded in world.list(status="running")
    assert world.list(status="running") == [recorded, renewed]
    assert marks(world) == set()


def test_a_mark_that_is_removed_meanwhile_is_not_believed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the listing of names and the look at one its runner may have come back."""
    exec_id = running(world, "f", timedelta(hours=1), 4)
    lose(world, exec_id, timedelta(minutes=15))
    assert world.list(status="lost") == [exec_id] and marks(world) == {exec_id}
    read = world.store.read

    def late(key: str) -> bytes | None:
        if key.endswith("~lost"):
            world.store.remove(key)
            lose(world, exec_id, -timedelta(seconds=45))
        return read(key)

    monkeypatch.setattr(world.store, "read", late)
    assert world.list(status="lost") == []
    assert world.list(status="running") == [exec_id]


def test_one_that_ended_without_its_hints_is_never_marked(world: World) -> None:
    """A lapsed lease says that it runs; its journal, one entry on, that it has ended."""
    exec_id = running(world, "f", timedelta(hours=1), 4)
    lose(world, exec_id, timedelta(minutes=15))
    end = Completed(at=address.timestamp(NOW), output=NOTHING)
    world.store.put(address.journal_entry(PROJECT, exec_id, 5), encode_entry(5, "w5", [end]))
    assert world.list(status="lost") == []
    assert world.list(status="completed") == [exec_id]
    assert marks(world) == set()


def test_a_live_execution_costs_one_read(busy: World) -> None:
    """What its runner's lease says of it is shown, and its journal, however long, is not read."""
    assert len(busy.list(status="running")) == 10
    reads = busy.store.requests
    assert len(busy.list(status="running", limit=3)) == 3
    assert reads - busy.store.requests == 7


def test_a_lease_vouches_only_for_a_runner_that_lives(world: World) -> None:
    """A dead process, a lapsed lease, and none at all: then the journal is asked."""
    dead, lapsed, unleased = (running(world, "f", timedelta(minutes=5, seconds=n), 4) for n in range(3))
    world.alive[world.reader.get(dead).runner.id] = False  # type: ignore[union-attr]
    lose(world, lapsed, timedelta(seconds=1))
    bare(world, unleased)
    for one in (lapsed, unleased):
        world.alive[world.reader.get(one).runner.id] = None  # type: ignore[union-attr]
    assert world.list(status="lost") == [dead, lapsed, unleased]
    assert world.list(status="running") == []


def test_a_run_that_ends_is_never_shown_as_running(world: World) -> None:
    """From before its end is recorded its lease is not believed, so that no list shows it as it was."""
    exec_id = running(world, "f", timedelta(minutes=5), 4)
    assert world.list(status="running") == [exec_id]
    opened = next(event for event in world.events(timedelta(0), "f", "pending") if isinstance(event, Opened))
    run = SimpleNamespace(
        store=world.store,
        opened=replace(opened, exec_id=exec_id),
        clock=Still(),
        host=SimpleNamespace(lease_seconds=45.0, forced_end=None),
        history=SimpleNamespace(headlines=[Started(at=opened.at, runner=Handle("r"), attempt=1)]),
    )
    lease_module.Lease(run).ending()  # type: ignore[arg-type]
    assert world.list(status="running") == [exec_id]
    end = Completed(at=address.timestamp(NOW), output=NOTHING)
    world.store.put(address.journal_entry(PROJECT, exec_id, 5), encode_entry(5, "w5", [end]))
    assert world.list(status="running") == []
    assert world.list(status="completed") == [exec_id]


@pytest.fixture
def world() -> World:
    return World()


def test_every_filter_agrees_with_a_full_look(world: World) -> None:
    """For each flow and status, what the hints find is what a look at every execution finds."""
    ages = [timedelta(minutes=3), timedelta(hours=1), timedelta(days=2), timedelta(days=900)]
    for age in ages:
        for name in ("f", "g"):
            for status in ("running", "completed", "failed", "waiting"):
                world.add(age + timedelta(seconds=world.count), name, status)
    world.alive["r2"] = False
    everything = [(one.exec_id, one.flow_name, one.status) for one in world.reader.newest()]
    assert len(everything) == 32
    for name in (None, "f", "g", "h"):
        for status in (None, "pending", "running", "waiting", "completed", "failed", "cancelled", "lost"):
            expected = [i for i, f, s in everything if name in (None, f) and status in (None, s)]
            assert world.list(flow=name, status=status) == expected, (name, status)
            assert world.list(flow=name, status=status, limit=2) == expected[:2]


def test_lists_by_version_tag_and_time(world: World) -> None:
    """Each alone and with others; what was run from source has no version."""
    ages = [timedelta(minutes=3), timedelta(hours=1), timedelta(days=2), timedelta(days=900)]
    made: list[tuple[str, timedelta, str, int | None, str | None]] = []
    for age in ages:
        for status in ("waiting", "completed", "failed"):
            for version, tag in ((1, "default"), (2, "default"), (2, "stable"), (None, None)):
                when = age + timedelta(seconds=world.count)
                made.append((world.add(when, "f", status, version=version, tag=tag), when, status, version, tag))
    made.sort(reverse=True)
    since, until = NOW - timedelta(days=3), NOW - timedelta(minutes=30)
    for version in (None, 1, 2, 3):
        for tag in (None, "default", "stable"):
            for status in (None, "failed", "waiting", ("failed", "completed")):
                asked = {"version": version, "tag": tag, "status": status}
                fits = [
                    one
                    for one in made
                    if version in (None, one[3])
                    if tag in (None, one[4])
                    if status is None or one[2] in ((status,) if isinstance(status, str) else status)
                ]
                assert world.list(**asked) == [one[0] for one in fits], asked
                timed = [one[0] for one in fits if timedelta(minutes=30) <= one[1] <= timedelta(days=3)]
                assert world.list(**asked, since=since, until=until) == timed, asked
                assert world.list(**asked, since=since, until=until, limit=2) == timed[:2], asked


def test_a_renamed_flow_is_listed_whole_and_others_cost_the_same(world: World) -> None:
    """Under each of its names all of its executions come, newest first; flows never renamed take no more requests."""
    ages = [timedelta(minutes=3), timedelta(hours=1), timedelta(days=2), timedelta(days=900)]
    names = {"f": "fgh", "g": "fgh", "h": "fgh", "k": "k"}
    for age in ages:
        for name in names:
            for status in ("running", "completed", "failed", "waiting"):
                world.add(age + timedelta(seconds=world.count), name, status)
    everything = [(one.exec_id, one.flow_name, one.status) for one in world.reader.newest()]
    statuses = (None, "running", "waiting", "completed", "failed", "lost")
    before = {status: (world.list(flow="k", status=status), world.store.requests) for status in statuses}
    for present, was in (("h", "g"), ("g", "f")):
        world.store.put(address.renamed_hint(PROJECT, present, was), hints.MARK)
    for name, all_names in names.items():
        for status in statuses:
            expected = [i for i, f, s in everything if f in all_names and status in (None, s)]
            assert world.list(flow=name, status=status) == expected, (name, status)
            assert world.list(flow=name, status=status, limit=5) == expected[:5]
    for status in statuses:
        assert (world.list(flow="k", status=status), world.store.requests) == before[status]
    assert world.list() == [i for i, _, _ in everything]


def test_what_is_in_no_index_yet_is_found(world: World) -> None:
    """Between its opening and its hints, and between its end and its hints, an execution shows up in every list."""
    running = world.add(timedelta(seconds=30), "f", "running", hints=False)
    ended = world.add(timedelta(seconds=20), "f", "completed", hints=False)
    assert world.list(flow="f") == [ended, running]
    assert world.list(status="completed") == [ended]
    assert world.list(status="running", flow="f") == [running]


def test_a_reader_repairs_what_a_crash_left(world: World) -> None:
    """An execution that ended and whose runner died before it could say so is indexed by who finds it open."""
    ended = world.add(timedelta(hours=5), "f", "completed", hints=False)
    index.note_open(world.store, world.reader.get(ended))
    assert world.list(status="running") == []
    assert world.list(status="completed") == [ended]
    assert world.store.requests <= 14
    assert not [key for key in world.store.bodies if "/index/open/" in key]


def test_an_unfiltered_list_repairs_too(world: World) -> None:
    """One that is in no index at all is back in them once somebody listed it."""
    ended = world.add(timedelta(hours=5), "f", "failed", hints=False)
    assert world.list(status="failed") == []
    assert world.list() == [ended]
    assert world.list(status="failed", flow="f") == [ended]


def test_parked_means_what_the_journal_says(world: World) -> None:
    """The hint of a waiting execution is not left where somebody has gone on with it meanwhile."""
    events = world.events(timedelta(hours=1), "f", "waiting")
    execution = fold(events)
    for number, event in enumerate([*events, Started(at=execution.created_at, runner=Handle("r"), attempt=1)], 1):
        world.store.put(address.journal_entry(PROJECT, execution.exec_id, number), encode_entry(number, "w", [event]))
    index.note_waiting(world.store, execution, len(events))
    assert index.open_key(execution, index.WAITING) not in world.store.bodies


def test_one_that_no_runner_ever_took_is_not_forgotten(world: World) -> None:
    """An execution whose worker never began is in no index; a list that meets it once leads to it for ever."""
    lost = world.add(timedelta(minutes=30), "f", "pending", hints=False)
    assert world.list(status="lost") == []
    assert world.list() == [lost]
    assert world.list(status="lost", flow="f") == [lost]
    young = world.add(timedelta(minutes=5), "f", "pending", hints=False)
    assert world.list(status="lost", limit=1) == [young]
    assert f"{PROJECT}/index/open/{young}~f~~" in world.store.bodies


def test_a_worker_that_died_before_its_first_entry_leaves_its_reason(world: World) -> None:
    """Its output is the failure that is shown of the lost execution; other executions show their own."""
    lost = world.add(timedelta(hours=1), "f", "pending")
    failed = world.add(timedelta(hours=1), "f", "failed")
    reader = Executions(world.store, PROJECT, Still(), Watched(lambda _: None, Handle("w"), "no module named kitaru"))
    execution = reader.get(lost)
    assert execution.failure is not None
    assert (execution.status, execution.failure.message) == ("lost", "no module named kitaru")
    assert reader.get(failed).failure == Failure("E", "m")


# --- the hints that a real run leaves ---------------------------------------------------------------------------------


@checkpoint
def slowly(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


BROKEN = [True]


@flow
def breaking(seconds: float = 0.0) -> float:
    slowly(seconds)
    if BROKEN[0]:
        raise ValueError("broken")
    return seconds


def index_of(lab: Lab) -> list[str]:
    root = f"{PROJECT}/index/"

    def below(prefix: str) -> Iterator[str]:
        for name in lab.store.names(prefix):
            yield from below(prefix + name) if name.endswith("/") else [prefix + name]

    return [key.removeprefix(root) for key in below(root)]


def until_written(lab: Lab, exec_id: str, status: str) -> None:
    from tests.repository import until

    until(lambda: [key for key in index_of(lab) if key == f"ended/by-status/{status}/{exec_id}~breaking~~"])
    until(lambda: not [key for key in index_of(lab) if key.startswith("open/")])


def test_a_run_leaves_its_hints_and_takes_them_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed run is indexed as failed; taken up again it is open, and then completed, and failed nowhere."""
    monkeypatch.setattr(lease_module, "OPEN_AFTER", 0.05)
    lab = Lab(tmp_path)
    exec_id = lab.open(breaking, seconds=1.2)
    BROKEN[0] = True
    seen: list[str] = []

    threading.Timer(0.9, lambda: seen.extend(index_of(lab))).start()
    with pytest.raises(KitaruUserCodeError):
        lab.go_on(breaking, exec_id)
    assert seen == [f"open/{exec_id}~breaking~~"]
    until_written(lab, exec_id, "failed")
    BROKEN[0] = False
    lab.go_on(breaking, exec_id)
    until_written(lab, exec_id, "completed")
    assert sorted(index_of(lab)) == [
        f"ended/by-flow/breaking/{exec_id}~completed~~",
        f"ended/by-status/completed/{exec_id}~breaking~~",
    ]


@flow
def holding_on(seconds: float) -> float:
    return slowly(seconds)


def marked(lab: Lab, exec_id: str) -> bool:
    """Whether it is marked as lost."""
    return any(key == f"open/{exec_id}~holding_on~~~lost" for key in index_of(lab))


def reader_of(lab: Lab, *, alive: bool | None, later: timedelta = timedelta(0)) -> Executions:
    class Later:
        def now(self) -> datetime:
            return datetime.now(UTC) + later

        def token(self, size: int) -> str:
            return "0" * size

    return Executions(lab.store, PROJECT, Later(), Watched(lambda _runner: alive))


def test_a_lost_execution_that_goes_on_is_lost_no_more(tmp_path: Path) -> None:
    """Its mark is gone as soon as its new runner has begun, long before it ends."""
    from tests.repository import until

    lab = Lab(tmp_path)
    exec_id = lab.open(holding_on, seconds=2.0)
    started = Started(at=address.timestamp(datetime.now(UTC)), runner=Handle("r"), attempt=1)
    lab.store.create(address.journal_entry(PROJECT, exec_id, 2), encode_entry(2, "old.1", [started]))
    assert [one.exec_id for one in reader_of(lab, alive=False).newest(status="lost")] == [exec_id]
    assert marked(lab, exec_id)
    thread = threading.Thread(target=lab.go_on, args=(holding_on, exec_id))
    thread.start()
    until(lambda: not marked(lab, exec_id))
    found = list(reader_of(lab, alive=None).newest(status="running"))
    assert thread.is_alive() and [one.exec_id for one in found] == [exec_id]
    thread.join(20)
    assert [one.exec_id for one in reader_of(lab, alive=False).newest(status="completed")] == [exec_id]
    assert not [key for key in index_of(lab) if key.startswith("open/")]


def test_one_that_nobody_began_in_time_is_lost_until_somebody_does(tmp_path: Path) -> None:
    """Opened long ago, marked as lost, and run after all: its mark goes when its start is recorded."""
    from tests.repository import until

    lab = Lab(tmp_path)
    moment = datetime.now(UTC) - timedelta(minutes=15)
    lab.clock.now = lambda: moment  # type: ignore[method-assign]
    exec_id = lab.open(holding_on, seconds=2.0)
    del lab.clock.now
    assert [one.exec_id for one in reader_of(lab, alive=None).newest()] == [exec_id]
    assert marked(lab, exec_id)
    thread = threading.Thread(target=lab.go_on, args=(holding_on, exec_id))
    thread.start()
    until(lambda: not marked(lab, exec_id))
    assert [one.exec_id for one in reader_of(lab, alive=None).newest(status="running")] == [exec_id]
    thread.join(20)


def test_a_fresh_result_is_listed_at_once(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has a result in hand finds it in every list, though its hints may still be on their way."""
    monkeypatch.chdir(own_world)
    BROKEN[0] = False
    for _ in range(5):
        handle = breaking.run()
        client = kitaru.KitaruClient()
        assert handle.wait() == 0.0
        assert client.executions.list(flow="breaking", status="completed", limit=1)[0].exec_id == handle.exec_id


def test_a_runner_is_never_in_the_way(world: World) -> None:
    """An info that names no process is no reason to fail."""
    world.add(timedelta(seconds=10), "f", "running")
    assert Handle("r") and world.list(status="running")


def test_a_damaged_execution_hides_no_other(tmp_path: Path) -> None:
    """One journal that can't be read is shown as damaged; all other executions are listed as ever."""
    client = kitaru.KitaruClient(store=str(tmp_path / "store"), project="p")

    @flow
    def fine() -> int:
        return 1

    @flow
    def broken() -> int:
        raise ValueError("no")

    kept = client.executions.run(fine, {})
    assert kept.wait() == 1
    failed = client.executions.run(broken, {})
    with pytest.raises(KitaruUserCodeError):
        failed.wait()
    folder = tmp_path / "store" / "p" / "executions" / failed.exec_id
    while not (folder / "summary.json").exists():  # it is written once the journal has the end
        time.sleep(0.01)
    (folder / "summary.json").write_bytes(b'{"format": 1, "n"')
    (journal,) = (folder / "journal").iterdir()
    journal.write_bytes(b"x" * 40 + journal.read_bytes()[40:])
    reader = kitaru.KitaruClient(store=str(tmp_path / "store"), project="p")
    found = {one.exec_id: one.flow_name for one in reader.executions.list()}
    assert found == {kept.exec_id: "fine", failed.exec_id: "(damaged)"}
