"""Who goes on with an execution says so before its code runs, and whoever learns of another one stops."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from kitaru import KitaruClient, checkpoint, flow, log
from kitaru.errors import KitaruStoreError
from kitaru.model.event import CheckpointCompleted, Completed, MetadataLogged, Started, decode_entry
from kitaru.run.journal import Fenced, Journal, read_entries
from kitaru.store.port import Created, Store, Taken
from tests.execution_lab import PROJECT, CountingStore, Lab
from tests.repository import Repository, until
from tests.s3_servers import S3Server

RAN: list[tuple[float, int]] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    RAN.clear()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "store")


@checkpoint
def slow(n: int) -> int:
    RAN.append((time.monotonic(), n))
    time.sleep(0.03)
    return n


@checkpoint
async def slow_async(n: int) -> int:
    import asyncio

    RAN.append((time.monotonic(), n))
    await asyncio.sleep(0.03)
    return n


@flow
def twelve() -> list[int]:
    return slow.map(range(12), max_concurrency=3).results()


@flow
def collecting() -> int:
    return len(slow.map(range(12), max_concurrency=3, on_error="collect").outcomes())


@flow
async def twelve_async() -> list[int]:
    return [await one for one in slow_async.map(range(12), max_concurrency=3)]


@flow
def stubborn() -> int:
    done = 0
    for n in range(40):
        try:
            done += slow(n)
        except Exception:
            done -= 1
    return done


# --- the claim --------------------------------------------------------------------------------------------------------


def test_whoever_comes_too_late_runs_nothing(lab: Lab) -> None:
    """Two take over what a killed runner left without any entry of its own: the second one runs no line of it."""
    exec_id = lab.open(twelve)
    before = lab.entries(exec_id)
    assert len(before) == 1
    assert lab.go_on(twelve, exec_id, entries=before, takes_over=True) == list(range(12))
    told, ran = lab.entries(exec_id), len(RAN)
    with pytest.raises(Fenced, match=r"journal entry 2 .* was written by another runner"):
        lab.go_on(twelve, exec_id, entries=before, takes_over=True)
    assert (len(RAN), lab.entries(exec_id)) == (ran, told) == (12, told)


@pytest.mark.parametrize(("takes_over", "claims"), [(False, 0), (True, 1)])
def test_only_who_takes_over_writes_before_the_first_line(lab: Lab, takes_over: bool, claims: int) -> None:
    """The first runner of an execution begins at once; another one's entry says that it has it, and nothing else."""
    store: Any = CountingStore(lab.store)
    seen: list[int] = []

    @flow
    def first() -> int:
        seen.append(len(store.of("create")))
        return 1

    exec_id = lab.open(first)
    lab.go_on(first, exec_id, store=store, takes_over=takes_over)
    assert seen == [claims]
    entries = [[type(event) for event in decode_entry(body).events] for body in lab.entries(exec_id)[1:]]
    assert entries == ([[Started], [Completed]] if takes_over else [[Started, Completed]])


def test_resume_takes_over_what_it_has_judged(tmp_path: Path, own_world: Path) -> None:
    """Somebody else resumed it between our look and our start: that one is left alone, and its result is ours."""
    lab = Lab(tmp_path / "store")
    mine = KitaruClient(store=lab.store.url, project=PROJECT)
    theirs = KitaruClient(store=lab.store.url, project=PROJECT)
    began = lab.clock.now
    lab.clock.now = lambda: began().replace(year=2020)  # type: ignore[method-assign]
    exec_id = lab.open(stubborn)
    other: list[Any] = []
    executions = mine.session.executions
    look = executions.get_recorded

    def look_and_wait(text: str) -> Any:
        judged = look(text)
        other.append(theirs.executions.resume(exec_id, flow=stubborn))
        until(lambda: len(RAN) >= 2)
        return judged

    executions.get_recorded = look_and_wait  # type: ignore[method-assign]
    handle = mine.executions.resume(exec_id, flow=stubborn)
    assert handle.wait(30) == other[0].wait(30) == sum(range(40))
    assert [n for _, n in RAN] == list(range(40))
    assert sum(isinstance(event, Started) for event in lab.events(exec_id)) == 1


FLOWS = """
import os, time
from kitaru import checkpoint, flow

def note(folder, what):
    with open(f"{folder}/ran", "a") as file:
        file.write(f"{os.getpid()} {what}\\n")

@checkpoint
def part(folder: str, n: int) -> int:
    note(folder, n)
    time.sleep(0.1)
    return n

@flow
def co(folder: str, n: int = 12) -> int:
    note(folder, "body")
    return sum(part.map([folder] * n, range(n), max_concurrency=3).results())
"""
MANIFEST = (
    "kitaru: 1\nproject: research\nstore: {url}\nsource: {{include: ['flows/**']}}\n"
    "flows: {{co: {{target: 'flows/work.py:co', routes: {{default: head}}}}}}\n"
)


def ran_in(folder: Path) -> dict[str, list[str]]:
    """What ran, by the process that ran it."""
    found: dict[str, list[str]] = {}
    path = folder / "ran"
    for line in path.read_text().splitlines() if path.exists() else []:
        process, _, what = line.partition(" ")
        found.setdefault(process, []).append(what)
    return found


def race(house: Repository, folder: Path, wait_for: int) -> None:
    """Kill the runner once so many checkpoints have begun, then resume it three times at once."""
    client = house.client()
    exec_id = client.deployments.invoke("co", inputs={"folder": str(folder)}).exec_id
    worker = client.session.executions.runner.launched(exec_id)
    assert worker is not None
    until(lambda: len([one for ran in ran_in(folder).values() for one in ran]) > wait_for or not wait_for)
    os.kill(worker.data["pid"], signal.SIGKILL)
    until(lambda: client.executions.get(exec_id).status == "lost")
    finished = {
        str(event.args["n"])
        for body in read_entries(client.session.store, client.session.project, exec_id)
        for event in decode_entry(body).events
        if isinstance(event, CheckpointCompleted)
    }
    (folder / "ran").unlink(missing_ok=True)
    command = [sys.executable, "-m", "kitaru", "executions", "resume", exec_id, "--wait"]
    rivals = [
        subprocess.Popen(command, cwd=house.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    ends = [(*rival.communicate(timeout=90), rival.returncode) for rival in rivals]
    # Who looks when another one has it already is refused; the others show how it ended.
    refused = re.compile(rf"error: {exec_id} is (pending|running in process \d+|completed)")
    assert [code for _, _, code in ends].count(0) >= 1, ends
    assert all(code == 0 or (code == 1 and refused.match(err)) for _, err, code in ends), ends
    (ran,) = ran_in(folder).values()
    assert sorted(ran) == sorted({"body", *map(str, range(12))} - finished)
    assert client.executions.get(exec_id).status == "completed"


@pytest.mark.parametrize("wait_for", [0, 6])
def test_of_three_that_resume_at_once_one_runs(own_world: Path, tmp_path: Path, wait_for: int) -> None:
    """Killed before or after its runner's first entry: one goes on, and nobody else runs a line of the flow."""
    house = Repository.make(tmp_path / "house", {"flows/work.py": FLOWS}, MANIFEST.format(url="file://.kitaru/store"))
    house.apply()
    race(house, tmp_path, wait_for)


def test_of_three_that_resume_at_once_one_runs_in_a_bucket(
    own_world: Path, tmp_path: Path, seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same where the store is a bucket."""
    for name, value in seaweedfs.environment().items():
        monkeypatch.setenv(name, value)
    house = Repository.make(tmp_path / "house", {"flows/work.py": FLOWS}, MANIFEST.format(url=seaweedfs.new_prefix()))
    house.apply()
    race(house, tmp_path, 0)


# --- whoever learns of it ---------------------------------------------------------------------------------------------


class Overtaken:
    """A store in which another runner writes an entry once ``after`` checkpoints have begun; or one that fails then."""

    def __init__(self, inner: Store, after: int, fails: bool = False) -> None:
        self._inner = inner
        self._after = after
        self._fails = fails
        self.learned = float("inf")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def create(self, key: str, body: bytes) -> Created | Taken:
        project, exec_id = key.split("/journal/")[0].split("/")[-3::2] if "/journal/" in key else ("", "")
        if len(RAN) < self._after or not exec_id:
            return self._inner.create(key, body)
        if self._fails:
            self.learned = min(self.learned, time.monotonic())
            raise KitaruStoreError("the store is gone")
        if self.learned == float("inf"):
            number = int(key.rpartition("/")[2].partition(".")[0])
            rival = Journal(self._inner, project, exec_id, written=number - 1, write_id="rival")
            rival.commit(MetadataLogged(at="2026-01-01T00:00:00.000000Z", call=None, values={"by": "rival"}))
        outcome = self._inner.create(key, body)
        self.learned = min(self.learned, time.monotonic())
        return outcome


@pytest.mark.parametrize("body", [twelve, collecting, twelve_async, stubborn])
def test_whoever_learns_of_another_runner_begins_nothing_more(lab: Lab, body: Any) -> None:
    """Its next entry is taken: calls that wait for their turn don't begin, and no code of the flow goes on."""
    store = Overtaken(lab.store, 5)
    exec_id = lab.open(body)
    with pytest.raises(Fenced):
        lab.go_on(body, exec_id, store=store)  # type: ignore[arg-type]
    assert store.learned < float("inf")
    late = [n for at, n in RAN if at > store.learned + 0.02]
    assert not late, (late, len(RAN))
    assert len(RAN) < 12


def test_code_under_way_is_stopped_at_its_next_note(lab: Lab) -> None:
    """What the background writes is taken: a checkpoint that is under way ends then, not when it would have."""
    store = Overtaken(lab.store, 1)
    ended: list[float] = []

    @checkpoint
    def long() -> None:
        RAN.append((time.monotonic(), 0))
        try:
            for _ in range(2_000):
                time.sleep(0.005)
                log(turns=1)
        finally:
            ended.append(time.monotonic())

    @flow
    def waits() -> None:
        long()

    exec_id = lab.open(waits)
    with pytest.raises(Fenced):
        lab.go_on(waits, exec_id, store=store)  # type: ignore[arg-type]
    assert ended[0] - store.learned < 2


def test_nothing_begins_that_could_not_be_recorded(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is gone for good: what waits for its turn in a map that collects failures does not begin."""
    monkeypatch.setattr("kitaru.run.journal.RETRY_DELAYS", ())
    store = Overtaken(lab.store, 4, fails=True)
    exec_id = lab.open(collecting)
    with pytest.raises(Exception, match="its journal can't be written"):
        lab.go_on(collecting, exec_id, store=store)  # type: ignore[arg-type]
    assert not [n for at, n in RAN if at > store.learned + 0.02]
    assert len(RAN) < 12 and threading.active_count() < 50
