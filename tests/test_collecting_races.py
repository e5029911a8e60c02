"""store gc beside an apply and beside a run: in whatever order their steps fall, nothing that is needed is missing."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kitaru.errors import KitaruConflictError
from kitaru.model import address
from kitaru.model.event import Completed, Handle, Opened, Started
from kitaru.model.lockfile import Lockfile
from kitaru.model.plan import Plan
from kitaru.release.applier import Applier
from kitaru.release.releases import Releases
from kitaru.release.workshop import Workshop
from kitaru.run.journal import Journal, load, open_execution
from kitaru.source.bundle import read_archive
from kitaru.store import objects
from kitaru.store.port import Store
from kitaru.upkeep.collect import Collected, Collector, Terms
from kitaru.upkeep.verify import verify
from kitaru.values import stored
from kitaru.values.stored import Encoded, encode
from kitaru.wiring import Silent
from tests.applying import new_version
from tests.execution_lab import WallClock
from tests.repository import Repository
from tests.turns import AgedStore, Turns

PROJECT = "research"
MONTH = timedelta(days=30)
SAMPLES = 120


def orders(first: int, second: int, samples: int) -> Iterator[list[int]]:
    """Orders in which two actors of so many calls may take turns.

    One stops after k calls, for every k; the other then comes through, or gets as far as its call j before the one
    goes on; and others by chance.
    """
    for k in range(first + 1):
        for j in range(1, second + 1):
            yield [0] * k + [1] * j + [0] * first
            yield [1] * j + [0] * k + [1] * second
    chance = random.Random(7)
    for _ in range(samples):
        switch = chance.uniform(0.1, 0.9)
        order, actor = [], 0
        for _ in range(first + second):
            actor = 1 - actor if chance.random() < switch else actor
            order.append(actor)
        yield order


def collect(store: Store, project: str = PROJECT, **terms: Any) -> Collected:
    releases = Releases(store, project, WallClock())
    made = Collector(store, project, releases, WallClock(), Silent(), Terms(**terms))
    return made.collect(delete=True, by="Bob")


def faults(store: Store) -> list[str]:
    """What a deep look finds wrong, or missing of any version that is not deleted."""
    Releases(store, PROJECT, WallClock()).head(verified=True)
    found = verify(store, PROJECT, Silent(), check_archive=read_archive)
    return [fault.message for fault in found.problems]


# --- beside an apply --------------------------------------------------------------------------------------------------


class World:
    """v1 is live; snapshot, listing and archive of v2 lie there, a month old: an apply died before its commit.

    What comes now is the apply of v2 once more, which finds all three, beside a collector that finds them as well.
    """

    def __init__(self, folder: Path) -> None:
        self.repository = Repository.make(folder)
        self.start = AgedStore()
        self.client(self.start).apply()
        new_version(self.repository, "second")
        client = self.client(self.start)
        self.plan: Plan = client.plan()
        self.workshop: Workshop = client.project.workshop(allow_dirty=False)
        lock = Releases(self.start, PROJECT, WallClock()).head()
        self.applier(self.start).prepared(self.plan.builds, self.plan.edits, lock, self.workshop, "Ann")
        self.start.pass_time(MONTH)

    def client(self, store: Store) -> Any:
        return self.repository.client(wrap=lambda _: store)

    def applier(self, store: Store) -> Applier:
        return Applier(store, PROJECT, Releases(store, PROJECT, WallClock()), WallClock(), Silent())

    def apply(self, store: Store) -> Lockfile:
        return self.applier(store).apply(self.plan, self.workshop, by="Ann", saved=False)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PAUSE_SECONDS", 0.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    patch = pytest.MonkeyPatch()
    patch.setenv("KITARU_HOME", str(folder / "home"))
    for name in ("KITARU_STORE", "KITARU_PROJECT"):
        patch.delenv(name, raising=False)
    yield World(folder / "r")
    patch.undo()


def calls_of(store: AgedStore, actor: Callable[[Store], Any]) -> int:
    """How many calls an actor makes alone."""
    turns = Turns(store.copy(), [])
    turns.run(actor)
    return len(turns.calls)


def interleaved(world: World, samples: int, *, whole: bool = True) -> tuple[int, list[list[str]], set[int]]:
    """How many orders were tried, what was missing after each, and how many objects the collector removed in them.

    Not ``whole``: up to the first that loses something.
    """
    first, second = calls_of(world.start, world.apply), calls_of(world.start, collect)
    missing, tried, removed = [], 0, set()
    for order in orders(first, second, samples):
        objects._written.clear()
        store = world.start.copy()
        done: list[Collected] = []
        Turns(store, order).run(world.apply, lambda seat, done=done: done.append(collect(seat)))  # type: ignore[misc]
        tried += 1
        removed.add(sum(amount.count for amount in done[0].objects))
        if found := faults(store):
            missing.append(found)
            if not whole:
                break
    return tried, missing, removed


def test_an_apply_and_a_collector_in_any_order(world: World) -> None:
    """All that the newest state leads to is there, whoever took which step when."""
    tried, missing, removed = interleaved(world, SAMPLES)
    assert tried > 500
    assert not missing
    assert {1, 4} <= removed


def test_without_the_touch_some_order_loses_objects(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the test above can fail: an object that was there stays old."""
    monkeypatch.setattr(objects, "_is_young", lambda *_: True)
    assert interleaved(world, 0, whole=False)[1]


def test_without_waiting_some_order_loses_objects(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The touch comes between the collector's last look and the removal."""
    monkeypatch.setattr(objects, "outwait_collectors", lambda *_: None)
    assert interleaved(world, 0, whole=False)[1]


def test_an_apply_that_loses_to_a_deletion_keeps_the_version_deleted(world: World) -> None:
    """A collector deletes v1 while an apply of v3 is under way: the new table says so, or the apply is refused."""
    store = world.start.copy()
    world.apply(store)
    store.pass_time(MONTH)
    new_version(world.repository, "third")
    client = world.client(store)
    plan, workshop = client.plan(), client.project.workshop(allow_dirty=False)

    def apply(seat: Store) -> None:
        with suppress(KitaruConflictError):
            world.applier(seat).apply(plan, workshop, by="Ann", saved=False)

    prune = partial(collect, keep_versions=1)
    first, second = calls_of(store, apply), calls_of(store, prune)
    for order in random.Random(3).sample(list(orders(first, second, 60)), 150):
        copy = store.copy()
        Turns(copy, order).run(apply, prune)
        assert not faults(copy)
        versions = [one.version for one in world.client(copy).deployments.list("agent")]
        assert versions in ([2], [2, 3], [3])
        deletions = Releases(copy, PROJECT, WallClock()).head().flows["agent"].deletions
        assert deletions == (2 if versions == [3] else 1)


def test_an_apply_whose_own_version_was_deleted_is_refused(world: World) -> None:
    """A plan that leads a route to v1 does not go on once v1 is deleted, however the count of deletions came about."""
    store = world.start.copy()
    world.apply(store)
    repository, client = world.repository, world.client(store)
    manifest = (repository.folder / "kitaru.yaml").read_text()
    repository.manifest(manifest.replace("default: head", "default: head\n      stable: 1"))
    try:
        plan, workshop = client.plan(allow_dirty=True), client.project.workshop(allow_dirty=True)
        applier = world.applier(store)
        store.pass_time(MONTH)
        collect(store, keep_versions=1)
        before = Releases(store, PROJECT, WallClock()).head()
        assert before.flows["agent"].deletions == 1
        with pytest.raises(KitaruConflictError, match="route stable: a version was deleted in the meantime"):
            applier.apply(plan, workshop, by="Ann", saved=False)
        assert Releases(store, PROJECT, WallClock()).head() == before
    finally:
        repository.manifest(manifest)


# --- beside a run -----------------------------------------------------------------------------------------------------

BODY = "a large result " * 10_000


def run_world() -> tuple[AgedStore, str, Encoded]:
    """An execution under way, which is about to have a result; the same bytes lie there, a month old."""
    store = AgedStore()
    encoded = encode(BODY, subject="result")
    stored.put(store, PROJECT, encoded)
    store.pass_time(MONTH)
    clock = WallClock()
    at = address.timestamp(clock.now())
    inputs = encode({}, subject="inputs").value
    exec_id = address.exec_id(clock.now(), clock.token(8))
    opened = Opened(
        at=at,
        project=PROJECT,
        exec_id=exec_id,
        flow="agent",
        target="a.py:agent",
        inputs=inputs,
        origin="run",
        stack="local",
    )
    open_execution(store, opened, "w")
    journal = Journal(store, PROJECT, exec_id, written=1, write_id="w")
    journal.commit(Started(at=at, runner=Handle("r"), attempt=1))
    return store, exec_id, encoded


def finish(store: Store, exec_id: str, encoded: Encoded) -> None:
    """What a runner does at the end, as another process would: it has written nothing before."""
    objects._written.clear()
    stored.put(store, PROJECT, encoded)
    journal = Journal(store, PROJECT, exec_id, written=2, write_id="x")
    journal.commit(Completed(at=address.timestamp(WallClock().now()), output=encoded.value))


def run_interleaved() -> tuple[int, int]:
    """How many orders were tried, and after how many the result was missing."""
    start, exec_id, encoded = run_world()
    end = partial(finish, exec_id=exec_id, encoded=encoded)
    tried, missing = 0, 0
    for order in orders(calls_of(start, end), calls_of(start, collect), SAMPLES):
        store = start.copy()
        Turns(store, order).run(end, collect)
        tried += 1
        output = load(store, PROJECT, exec_id).output
        assert output is not None
        missing += store.read(address.blob(PROJECT, output.sha256)) is None
    return tried, missing


def test_a_run_and_a_collector_in_any_order() -> None:
    """The result that a journal names is there, also where the same bytes were garbage a moment before."""
    tried, missing = run_interleaved()
    assert tried > 150
    assert not missing


def test_without_waiting_some_order_loses_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the test above can fail."""
    monkeypatch.setattr(objects, "outwait_collectors", lambda *_: None)
    assert run_interleaved()[1]


def test_an_execution_opened_meanwhile_keeps_its_inputs() -> None:
    """An execution that was not there when the journals were read, with inputs that were garbage."""
    start, _, encoded = run_world()
    clock = WallClock()
    moment = start.now

    def invoke(store: Store) -> None:
        objects._written.clear()
        stored.put(store, PROJECT, encoded)
        opened = Opened(
            at=address.timestamp(moment),
            project=PROJECT,
            exec_id=address.exec_id(moment, clock.token(8)),
            flow="agent",
            target="a.py:agent",
            inputs=encoded.value,
            origin="run",
            stack="local",
        )
        open_execution(store, opened, clock.token(8))

    for order in orders(calls_of(start, invoke), calls_of(start, collect), 40):
        store = start.copy()
        Turns(store, order).run(invoke, collect)
        assert store.read(address.blob(PROJECT, encoded.value.sha256)) is not None
