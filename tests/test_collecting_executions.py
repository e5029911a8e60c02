"""store gc and executions: what their journals name stays; who ended long ago goes with every hint, and no more."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kitaru import KitaruClient, checkpoint, flow, save
from kitaru.errors import KitaruUsageError
from kitaru.model import address
from kitaru.model.event import Completed, Failed, Failure, Handle, Opened, Started, Value, encode_entry
from kitaru.model.execution import fold
from kitaru.release.releases import Releases
from kitaru.run.index import note_end
from kitaru.store import objects
from kitaru.upkeep.collect import Collected, Collector, Terms
from kitaru.wiring import Silent
from tests.execution_lab import PROJECT, CountingStore, Lab, WallClock
from tests.repository import Repository, until
from tests.turns import AgedStore, Cut, CutStore, StoreClock

YEAR = timedelta(days=365)
MONTH = timedelta(days=30)
RUNS: list[int] = []


@checkpoint
def large(number: int) -> str:
    RUNS.append(number)
    return f"{number} " * 50_000


@flow
def work(number: int = 1) -> str:
    save("kept", "an artifact " * 10_000)
    return large(number)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    objects._written.clear()
    RUNS.clear()
    made = Lab(tmp_path)
    made.store = AgedStore()
    return made


@pytest.fixture
def aged(lab: Lab) -> AgedStore:
    assert isinstance(lab.store, AgedStore)
    return lab.store


def collect(store: Any, *, delete: bool = True, **terms: Any) -> Collected:
    releases = Releases(store, PROJECT, WallClock())
    clock: Any = StoreClock(store) if isinstance(store, AgedStore) else WallClock()
    return Collector(store, PROJECT, releases, clock, Silent(), Terms(**terms)).collect(delete=delete, by="Bob")


def run(lab: Lab, number: int) -> str:
    exec_id = lab.open(work, cache=True, number=number)
    lab.go_on(work, exec_id)
    settled(lab)
    return exec_id


def settled(lab: Lab) -> None:
    """What is written beside a run is written."""
    import threading

    until(lambda: not any(thread.name.startswith("kitaru-") for thread in threading.enumerate()))


def below(store: AgedStore, part: str) -> list[str]:
    return sorted(key for key in store.bodies if part in key)


def test_what_journals_name_stays(lab: Lab, aged: AgedStore) -> None:
    """Outputs and artifacts of executions that ended a year ago, where nobody asked for executions to go."""
    run(lab, 1)
    aged.create(address.blob(PROJECT, "ab" * 32), b"nobody names this")
    before = below(aged, "/objects/")
    aged.pass_time(YEAR)
    found = collect(aged)
    assert [(one.kind, one.count) for one in found.objects] == [("objects", 1)]
    assert len(below(aged, "/objects/")) == len(before) - 1 == 2


def test_what_an_unknown_event_names_stays(lab: Lab, aged: AgedStore) -> None:
    """A later release may write events that this one skips: a digest anywhere in a journal counts."""
    exec_id = run(lab, 1)
    sha = address.digest(b"from the future")
    aged.create(address.blob(PROJECT, sha), b"from the future")
    body = encode_entry(9, "w", ())
    content = json.loads(body) | {"events": [{"kind": "unheard_of", "at": "x", "thing": {"of": sha}}]}
    number = len(lab.entries(exec_id)) + 1
    aged.create(address.journal_entry(PROJECT, exec_id, number), address.canonical_json(content))
    aged.pass_time(YEAR)
    assert collect(aged).nothing


def test_an_execution_goes_with_everything_that_leads_to_it(lab: Lab, aged: AgedStore) -> None:
    """Journal, summary, logs, index hints, cache hints and notes; its outputs a grace period later; others stay."""
    old = run(lab, 1)
    aged.pass_time(MONTH)
    young = run(lab, 2)
    kept = [key for key in below(aged, young) if "/executions/" in key]
    planned = collect(aged, delete=False, executions_older_than=timedelta(days=20))
    assert planned.executions == (old,)
    done = collect(aged, executions_older_than=timedelta(days=20))
    assert (done.executions, done.records, done.later) == ((old,), planned.records, planned.later)
    assert done.later.count == 1  # The artifact is the young one's, too.
    assert not below(aged, old)
    assert [key for key in below(aged, young) if "/executions/" in key] == kept
    assert not any(old.encode() in body for body, _ in aged.bodies.values())
    assert len(below(aged, "/objects/")) == 3
    aged.pass_time(timedelta(days=2))
    assert collect(aged).objects[0].count == 1
    assert len(below(aged, "/objects/")) == 2
    assert not below(aged, "/gc/")
    assert lab.load(young).status == "completed"


def test_executions_that_have_not_ended_stay(lab: Lab, aged: AgedStore) -> None:
    """However old: it may wait for an answer."""
    exec_id = lab.open(work, number=1)
    aged.pass_time(YEAR)
    assert collect(aged, executions_older_than=MONTH).nothing
    assert lab.load(exec_id).status == "pending"


def test_a_collector_that_dies_at_any_call_leaves_whole_executions(lab: Lab, aged: AgedStore) -> None:
    """Stopped at call k, for every k: the old one is there in full, or its records go with the next run."""
    old = run(lab, 1)
    events = lab.events(old)
    aged.pass_time(MONTH)
    run(lab, 2)
    finished, cut = False, 0
    while not finished:
        cut += 1
        store = aged.copy()
        try:
            collect(CutStore(store, cut), executions_older_than=timedelta(days=20))
            finished = True
        except Cut:
            pass
        lab.store = store
        entries = lab.entries(old)
        assert not entries or lab.events(old) == events
        store.pass_time(timedelta(days=2))
        collect(store, executions_older_than=timedelta(days=20))
        store.pass_time(timedelta(days=2))
        collect(store)
        assert not [key for key in below(store, old) if "/index/" not in key or entries]
        assert len(below(store, "/objects/")) == 2
    assert cut > 30


def test_a_result_whose_object_is_gone_is_computed_again(lab: Lab, aged: AgedStore) -> None:
    """The cache's hint leads to bytes that are not there: a miss, and no error."""
    first = run(lab, 1)
    output = lab.load(first).output
    assert output is not None
    aged.remove(address.blob(PROJECT, output.sha256))
    second = run(lab, 1)
    assert RUNS == [1, 1]
    assert lab.load(second).checkpoints[0].cached_from is None


def test_a_result_whose_execution_is_gone_is_computed_again(lab: Lab, aged: AgedStore) -> None:
    """The hint names an execution that was collected, and its artifacts with it: a miss."""
    first = run(lab, 1)
    hit = run(lab, 1)
    assert RUNS == [1]
    assert lab.load(hit).checkpoints[0].cached_from == f"{first}/1"
    for key in below(aged, f"/executions/{first}/"):
        aged.remove(key)
    run(lab, 1)
    assert RUNS == [1, 1]


def test_hits_from_one_execution_look_for_it_once(tmp_path: Path) -> None:
    """Whether the execution is there costs one read, however many results come from it."""

    @flow
    def many() -> int:
        return len([large(number) for number in range(5)])

    counting: list[CountingStore] = []
    lab = Lab(tmp_path, wrap=lambda store: counting.append(CountingStore(store)) or counting[0])  # type: ignore[func-returns-value]
    first = lab.open(many, cache=True)
    lab.go_on(many, first)
    settled(lab)
    second = lab.open(many, cache=True)
    counting[0].calls.clear()
    lab.go_on(many, second)
    assert len(counting[0].of("read", f"{first}/journal/")) == 1
    settled(lab)


# --- executions of released versions ---------------------------------------------------------------------------------

SNAPSHOT_PROJECT = "research"


def opened(store: AgedStore, snapshot: str | None, *, end: str = "", key: str | None = None) -> str:
    """An execution of a released version, as its journal has it."""
    clock = WallClock()
    exec_id = address.exec_id(clock.now(), clock.token(8))
    at = address.timestamp(clock.now())
    nothing = Value("json", 2, address.digest(b"{}"), "inline", {})
    events: list[Any] = [
        Opened(
            at=at,
            project=SNAPSHOT_PROJECT,
            exec_id=exec_id,
            flow="agent",
            target="flows/work.py:agent",
            inputs=nothing,
            origin="invoke",
            stack="local",
            version=1,
            snapshot=snapshot,
            idempotency_key=key,
        ),
        Started(at=at, runner=Handle("r"), attempt=1),
    ]
    if end == "completed":
        events.append(Completed(at=at, output=nothing))
    elif end == "failed":
        events.append(Failed(at=at, error=Failure("ValueError", "no", "", "user_code")))
    store.create(address.journal_entry(SNAPSHOT_PROJECT, exec_id, 1), encode_entry(1, "w.1", events[:1]))
    store.create(address.journal_entry(SNAPSHOT_PROJECT, exec_id, 2), encode_entry(2, "w.2", events[1:]))
    if key is not None:
        record = {"exec_id": exec_id, "inputs": address.digest(b"{}\n"), "write": "w"}
        store.create(address.idempotency(SNAPSHOT_PROJECT, "agent", key), address.canonical_json(record))
    if end:
        note_end(store, fold(events), 2)
    return exec_id


@pytest.fixture
def released(own_world: Path) -> tuple[Repository, AgedStore, KitaruClient]:
    """Three versions."""
    repository, store = Repository.make(own_world / "r"), AgedStore()
    client = repository.client(wrap=lambda _: store)
    for word in ("", "second", "third"):
        text = (repository.folder / "flows/work.py").read_text()
        repository.write("flows/work.py", f"{text}# {word}\n")
        repository.commit()
        assert repository.client(wrap=lambda _: store).apply().changed
    return repository, store, client


def test_the_version_of_an_unfinished_execution_stays(
    released: tuple[Repository, AgedStore, KitaruClient],
) -> None:
    """Neither is it deleted by the terms, nor, when a person deleted it, do its snapshot and source go."""
    _, store, client = released
    first, second, third = client.deployments.list("agent")
    running = opened(store, first.snapshot)
    opened(store, second.snapshot, end="completed")
    store.pass_time(MONTH)
    found = client.housekeeping.collect(delete=True, keep_versions=1)
    assert [one.version for one in found.versions] == [2]
    client.deployments.delete("agent", version=1, manifest="leave")
    store.pass_time(MONTH)
    client.housekeeping.collect(delete=True)
    blob = lambda one: address.blob(SNAPSHOT_PROJECT, one.snapshot) in store.bodies  # noqa: E731
    assert [blob(one) for one in (first, second, third)] == [True, False, True]
    assert len(below(store, "objects/source/")) == 2
    at = address.timestamp(WallClock().now())
    end = Completed(at=at, output=Value("json", 2, address.digest(b"{}"), "inline", {}))
    store.create(address.journal_entry(SNAPSHOT_PROJECT, running, 3), encode_entry(3, "w.3", [end]))
    store.pass_time(MONTH)
    client.housekeeping.collect(delete=True)
    assert not blob(first)
    assert len(below(store, "objects/source/")) == 1


def test_an_idempotency_record_goes_with_its_execution(
    released: tuple[Repository, AgedStore, KitaruClient],
) -> None:
    """A record that leads to another execution stays."""
    _, store, client = released
    old = opened(store, None, end="failed", key="order-1")
    store.pass_time(YEAR)
    young = opened(store, None, end="completed", key="order-2")
    found = client.housekeeping.collect(delete=True, executions_older_than=MONTH)
    assert found.executions == (old,)
    assert below(store, "/idempotency/") == [address.idempotency(SNAPSHOT_PROJECT, "agent", "order-2")]
    assert [one.exec_id for one in client.executions.list()] == [young]
    with pytest.raises(KitaruUsageError):
        client.executions.get(old)
