"""Leases: a runner's sign of life, who is taken for lost, and that a runner which was only asleep does no harm."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru import KitaruClient, checkpoint, flow
from kitaru.errors import KitaruCancelledError, KitaruStateError, KitaruUsageError
from kitaru.model import address
from kitaru.model.address import timestamp
from kitaru.model.event import (
    CheckpointCompleted,
    CheckpointLost,
    CheckpointStarted,
    Completed,
    Started,
    decode_entry,
)
from kitaru.model.execution import LogLine
from kitaru.run.executions import Executions, damaged
from kitaru.run.index import Sign, open_key, read_sign
from kitaru.run.journal import Fenced, Journal
from kitaru.run.lease import lapses, last_seen
from kitaru.run.logs import LogWriter
from kitaru.settings import lease_seconds
from kitaru.stacks.port import Handle
from tests.durable_flows import deployed, ran
from tests.execution_lab import PROJECT, CountingStore, FailingStore, Lab, PowerCut, WallClock, Watched, read_lines
from tests.repository import Repository, kitaru, until

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GATE = threading.Event()


@pytest.fixture(autouse=True)
def fresh() -> None:
    GATE.clear()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "store")


@checkpoint
def hold(text: str) -> str:
    GATE.wait(30)
    return text


@flow
def holding() -> str:
    return hold("held")


def run_in_thread(
    lab: Lab, body: Any, exec_id: str, *, store: Any = None, seconds: float = 2.0
) -> tuple[Any, list[Any]]:
    from kitaru.run.executor import execute

    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(
                execute(
                    body,
                    lab.recorded(exec_id, store=store),
                    lab.host(Handle("runner-1"), lease_seconds=seconds),
                )
            )
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


def lease_of(lab: Lab, exec_id: str) -> Sign | None:
    return read_sign(lab.store.read(open_key(lab.load(exec_id))))


def readers(lab: Lab, *, alive: bool | None, later: float = 0.0, seconds: float = 2.0) -> Executions:
    class Later(WallClock):
        def now(self) -> datetime:
            return super().now() + timedelta(seconds=later)

    return Executions(lab.store, PROJECT, Later(), Watched(lambda _runner: alive), seconds)


def test_the_lease_is_renewed_and_says_what_is_done(lab: Lab) -> None:
    """While a long checkpoint runs the lease is written and renewed, with the execution as it stands."""
    exec_id = lab.open(holding)
    thread, outcome = run_in_thread(lab, holding, exec_id)
    first = until(lambda: lease_of(lab, exec_id))
    assert (first.execution.runner, first.execution.status) == (Handle("runner-1"), "running")
    assert first.entries >= 2
    until(lambda: lease_of(lab, exec_id).until > first.until)  # type: ignore[union-attr]
    time.sleep(2.5)
    # Past the time that one lease holds, a reader elsewhere still sees it run.
    assert readers(lab, alive=None).get(exec_id).status == "running"
    GATE.set()
    thread.join(10)
    assert outcome == ["held"]


def test_a_runner_that_was_asleep_takes_the_mark_away(lab: Lab) -> None:
    """Its lease lapsed while it slept and a reader marked it as lost: its next renewal, once awake, ends that."""
    exec_id = lab.open(holding)
    thread, outcome = run_in_thread(lab, holding, exec_id)
    until(lambda: lease_of(lab, exec_id))
    mark = f"{address.open_hints(PROJECT)}{exec_id}~holding~~~lost"
    lab.store.overwrite(mark, b"{}")
    before = lease_of(lab, exec_id)
    until(lambda: lease_of(lab, exec_id) != before)
    assert lab.store.read(mark) is not None  # It was awake all the time, and nobody's clock is that wrong.
    awake = lab.clock.now
    lab.clock.now = lambda: awake() + timedelta(minutes=10)  # type: ignore[method-assign]
    until(lambda: lab.store.read(mark) is None)
    GATE.set()
    thread.join(10)
    assert outcome == ["held"]


def test_a_short_run_writes_no_lease(lab: Lab) -> None:
    """A run that ends within its first seconds costs no request for a lease, nor for a look at cancel requests."""
    GATE.set()
    watched = CountingStore(lab.store)
    exec_id = lab.open(holding)
    assert lab.go_on(holding, exec_id, store=watched) == "held"
    assert not watched.of("overwrite", "index/open")
    assert not watched.of("read", "journal")


def test_who_is_lost(lab: Lab) -> None:
    """Lost is a dead process of this machine at once, any other whose lease has lapsed, and one of this machine that
    lives but is silent for much longer; nobody else.
    """
    exec_id = lab.open(holding)
    thread, _ = run_in_thread(lab, holding, exec_id)
    until(lambda: lease_of(lab, exec_id))
    assert readers(lab, alive=False).get(exec_id).status == "lost"
    assert readers(lab, alive=None).get(exec_id).status == "running"
    assert readers(lab, alive=True).get(exec_id).status == "running"
    assert readers(lab, alive=None, later=10).get(exec_id).status == "lost"
    assert readers(lab, alive=True, later=10).get(exec_id).status == "running"
    assert readers(lab, alive=True, later=30).get(exec_id).status == "lost"
    GATE.set()
    thread.join(10)
    assert readers(lab, alive=False, later=10).get(exec_id).status == "completed"


@given(age=st.floats(0, 200), left=st.floats(-100, 100), own=st.booleans(), seconds=st.floats(1, 100))
def test_when_a_lease_lapses(age: float, left: float, own: bool, seconds: float) -> None:
    """A lease of that very runner decides by its end; without one the runner's start does."""
    began = NOW - timedelta(seconds=age)
    execution = replace(damaged("lab", "ex-01m8rws2q3tba12qcw", ""), runner=Handle("me"), runner_since=timestamp(began))
    holder = replace(execution, runner=Handle("me" if own else "another"))
    sign = Sign(holder, 1, NOW - timedelta(seconds=age / 2), NOW + timedelta(seconds=left))
    bare = lapses(execution, None, seconds)
    assert abs(bare - began - timedelta(seconds=seconds)) < timedelta(milliseconds=2)
    assert lapses(execution, sign, seconds) == (sign.until if own else bare)
    assert last_seen(execution, sign) >= last_seen(execution, None)
    assert (last_seen(execution, sign) > last_seen(execution, None)) == (own and age > 0.002) or age <= 0.002


def test_a_damaged_lease_is_no_lease() -> None:
    """What can't be read as a lease is passed over: it is only a hint."""
    for body in (None, b"", b"{}", b"[]", b"\xff", b'{"entries": 1, "execution": {}}', b'{"until": "soon"}'):
        assert read_sign(body) is None


def test_a_runner_that_finds_itself_replaced_stops(lab: Lab) -> None:
    """At its next renewal a runner sees that another one writes the journal, and stops without an entry of its own."""
    exec_id = lab.open(holding)
    thread, outcome = run_in_thread(lab, holding, exec_id)
    until(lambda: len(lab.entries(exec_id)) == 2)
    from kitaru.run.cancel import record_cancelled

    record_cancelled(readers(lab, alive=None), exec_id, "Ann")
    before = lab.entries(exec_id)
    time.sleep(1.0)
    GATE.set()
    thread.join(10)
    assert isinstance(outcome[0], KitaruCancelledError)
    assert lab.entries(exec_id) == before


def test_a_store_that_fails_for_a_while_does_not_end_the_run(lab: Lab) -> None:
    """A renewal that fails is made up for; the run goes on."""
    from kitaru.errors import KitaruStoreError

    class Moody(CountingStore):
        def overwrite(self, key: str, body: bytes, *, durable: bool = True) -> None:
            super().overwrite(key, body, durable=durable)
            if "index/open" in key and len(self.of("overwrite", "index/open")) < 3:
                raise KitaruStoreError("not now")

    moody = Moody(lab.store)
    exec_id = lab.open(holding)
    thread, outcome = run_in_thread(lab, holding, exec_id, store=moody)
    until(lambda: len(moody.of("overwrite", "index/open")) >= 4)
    GATE.set()
    thread.join(10)
    assert outcome == ["held"]


def test_the_time_that_a_lease_holds_is_configurable() -> None:
    """KITARU_LEASE_SECONDS is a number of seconds from 1; anything else is refused in words."""
    assert lease_seconds({}) == 45
    assert lease_seconds({"KITARU_LEASE_SECONDS": "2.5"}) == 2.5
    for text in ("0", "-1", "soon", "1e9", "nan"):
        with pytest.raises(KitaruUsageError, match="KITARU_LEASE_SECONDS"):
            lease_seconds({"KITARU_LEASE_SECONDS": text})


# --- with real processes ----------------------------------------------------------------------------------------------


@pytest.fixture
def house(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    repository = deployed(own_world / "repository")
    monkeypatch.chdir(repository.folder)
    monkeypatch.setenv("KITARU_LEASE_SECONDS", "2")
    return repository


def begun(house: Repository, folder: Path) -> tuple[KitaruClient, str, Any]:
    exec_id = kitaru("invoke", "steps", "--input", json.dumps({"folder": str(folder)})).must().out.strip()
    client = house.client()
    until(lambda: (folder / "reached").exists())
    runner = until(lambda: client.executions.get(exec_id).runner)
    return client, exec_id, runner


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_a_runner_that_slept_too_long_is_fenced(house: Repository, tmp_path: Path) -> None:
    """Stopped past its lease and replaced, a runner that wakes writes nothing more and exits; no entry is doubled."""
    client, exec_id, runner = begun(house, tmp_path)
    os.kill(runner.data["pid"], signal.SIGSTOP)
    try:
        until(lambda: client.executions.get(exec_id).status == "lost")
        kitaru("executions", "resume", exec_id).must()
        until(lambda: ran(tmp_path).count("step 2") == 2)
        successor = client.executions.get(exec_id)
        assert successor.runner is not None
        assert successor.runner.data["pid"] != runner.data["pid"]
    finally:
        os.kill(runner.data["pid"], signal.SIGCONT)
    # It wakes while its successor is in the middle of the same checkpoint.
    until(lambda: gone(runner.data["pid"]))
    (tmp_path / "go").touch()
    assert client.executions.handle(exec_id).wait(30) == [1, 2, 3]
    events = _events(client, exec_id)
    completed = [event.call for event in events if isinstance(event, CheckpointCompleted)]
    assert completed == ["1", "2", "3"]
    assert sum(isinstance(event, Completed) for event in events) == 1
    starts = [event.runner.data["pid"] for event in events if isinstance(event, Started)]
    assert starts == [runner.data["pid"], successor.runner.data["pid"]]


def test_a_runner_that_slept_and_was_not_replaced_goes_on(house: Repository, tmp_path: Path) -> None:
    """A laptop that was closed: the execution looks lost meanwhile, and goes on by itself."""
    client, exec_id, runner = begun(house, tmp_path)
    os.kill(runner.data["pid"], signal.SIGSTOP)
    until(lambda: client.executions.get(exec_id).status == "lost")
    os.kill(runner.data["pid"], signal.SIGCONT)
    until(lambda: client.executions.get(exec_id).status == "running")
    (tmp_path / "go").touch()
    assert client.executions.handle(exec_id).wait(30) == [1, 2, 3]
    assert ran(tmp_path) == ["step 1", "step 2", "step 3"]


def test_a_killed_runner_is_lost_at_once_and_replaced(house: Repository, tmp_path: Path) -> None:
    """kill -9: lost at the next look on the same machine; resume runs only what was not finished."""
    client, exec_id, runner = begun(house, tmp_path)
    os.kill(runner.data["pid"], signal.SIGKILL)
    began = time.monotonic()
    until(lambda: client.executions.get(exec_id).status == "lost")
    assert time.monotonic() - began < 1.5
    (tmp_path / "go").touch()
    kitaru("executions", "resume", exec_id, "--wait").must()
    assert ran(tmp_path) == ["step 1", "step 2", "step 2", "step 3"]


def test_an_attempt_that_was_killed_is_recorded_by_whoever_goes_on(house: Repository, tmp_path: Path) -> None:
    """Both attempts are there, the first with why it ended and when it was last seen; so the logs call the second 2."""
    client, exec_id, runner = begun(house, tmp_path)
    until(lambda: any(call.call_id == "2" for call in client.executions.get(exec_id).checkpoints))
    os.kill(runner.data["pid"], signal.SIGKILL)
    until(lambda: client.executions.get(exec_id).status == "lost")
    (tmp_path / "go").touch()
    kitaru("executions", "resume", exec_id, "--wait").must()
    first, second, third = client.executions.get(exec_id).checkpoints
    assert [len(call.attempts) for call in (first, second, third)] == [1, 2, 1]
    lost, completed = second.attempts
    assert (lost.number, lost.status, completed.number, completed.status) == (1, "failed", 2, "completed")
    assert lost.failure is not None and lost.failure.type == "RunnerLost"
    assert f"process {runner.data['pid']}" in lost.failure.message and "without a word" in lost.failure.message
    assert lost.started_at <= (lost.ended_at or "") <= completed.started_at
    assert second.status == "completed" and second.failure is None
    assert "RunnerLost" in kitaru("executions", "get", exec_id, "--output", "json").must().out
    assert "2 attempts" in kitaru("executions", "get", exec_id).must().out


# --- attempts that a runner had under way when it was lost ------------------------------------------------------------


TRIES: list[int] = []


@checkpoint(retries=1)
def trying(number: int) -> int:
    TRIES.append(number)
    print(f"try {len(TRIES)}")
    if len(TRIES) == 1:
        time.sleep(1.5)
        raise PowerCut
    if len(TRIES) == 2:
        raise ConnectionError("not yet")
    return number


@flow
def trying_flow() -> int:
    return trying(5)


class Unplugged(CountingStore):
    """What is written after the power went out does not arrive."""

    def create(self, key: str, body: bytes) -> Any:
        if len(TRIES) > 1:
            raise PowerCut
        return super().create(key, body)


def test_a_lost_attempt_uses_up_no_retry(lab: Lab) -> None:
    """A checkpoint with one retry has it still after its runner was lost; attempts are numbered through, also in logs;
    and for the record of the lost one no entry is written but the one by which the new runner takes over.
    """
    TRIES.clear()
    exec_id = lab.open(trying_flow)
    with pytest.raises(PowerCut):
        lab.go_on(trying_flow, exec_id)
    before = len(lab.entries(exec_id))
    assert isinstance(lab.events(exec_id)[-1], CheckpointStarted)
    assert lab.go_on(trying_flow, exec_id) == 5
    (call,) = lab.load(exec_id).checkpoints
    assert [(one.number, one.status, one.failure and one.failure.type) for one in call.attempts] == [
        (1, "failed", "RunnerLost"),
        (2, "failed", "ConnectionError"),
        (3, "completed", None),
    ]
    taken = decode_entry(lab.entries(exec_id)[before])
    assert [type(event) for event in taken.events] == [Started, CheckpointLost]
    lines, _ = read_lines(lab.store, PROJECT, exec_id)
    assert [(line.text, line.attempt) for line in lines] == [("try 1", 1), ("try 2", 2), ("try 3", 3)]


def test_what_was_lost_is_recorded_once(lab: Lab) -> None:
    """A runner that is lost as well, before it ran anything, adds nothing to what is known of the first."""
    TRIES.clear()
    exec_id = lab.open(trying_flow)
    with pytest.raises(PowerCut):
        lab.go_on(trying_flow, exec_id)
    for _ in range(2):
        store = FailingStore(lab.store, 2, after=False)
        with pytest.raises(PowerCut):
            lab.go_on(trying_flow, exec_id, store=store)
        TRIES[1:] = []
    assert sum(isinstance(event, CheckpointLost) for event in lab.events(exec_id)) == 1


def test_the_end_of_a_lost_attempt_is_its_runners_last_sign_of_life(lab: Lab) -> None:
    """The lease tells how long a lost attempt went on at least, though the journal was silent for long."""
    exec_id = lab.open(holding)
    slow, fenced = run_in_thread(lab, holding, exec_id)
    first = until(lambda: lease_of(lab, exec_id))
    seen = until(lambda: (lease := lease_of(lab, exec_id)) and lease.until > first.until and lease.at)
    other, outcome = run_in_thread(lab, holding, exec_id)
    until(lambda: any(isinstance(event, CheckpointLost) for event in lab.events(exec_id)))
    GATE.set()
    slow.join(10)
    other.join(10)
    assert (outcome, [type(one) for one in fenced]) == (["held"], [Fenced])
    (call,) = lab.load(exec_id).checkpoints
    lost, completed = call.attempts
    assert lost.started_at < timestamp(seen) <= (lost.ended_at or "") <= completed.started_at


def test_a_log_line_of_an_attempt_comes_after_its_beginning(lab: Lab) -> None:
    """Lines are not stored before the journal says that their attempt began, however short it was until then."""
    journal = Journal(lab.store, PROJECT, lab.open(holding), written=1, write_id="w")
    journal.buffer(CheckpointStarted(at=timestamp(NOW), call="1", name="hold", attempt=1))
    seen: list[int] = []

    class Watching(CountingStore):
        def create(self, key: str, body: bytes) -> Any:
            seen.append(len(lab.entries(journal.exec_id)))
            return super().create(key, body)

    logs = LogWriter(Watching(lab.store), PROJECT, journal.exec_id, lambda: None)
    logs.add(LogLine(timestamp(NOW), "stdout", "said", None, "hold", "1", 1))
    logs.flush(journal.settle)
    assert seen == [2]
    journal.settle()
    assert journal.written == len(lab.entries(journal.exec_id)) == 2, "nothing more to write, nothing written"


# --- runners that never began -----------------------------------------------------------------------------------------


def test_a_worker_killed_before_its_first_entry_is_lost_at_once(house: Repository, tmp_path: Path) -> None:
    """On the machine that launched it nobody waits for a process that is gone: the execution can be resumed."""
    client = house.client()
    exec_id = client.deployments.invoke("steps", inputs={"folder": str(tmp_path)}).exec_id
    worker = client.session.executions.runner.launched(exec_id)
    assert worker is not None
    os.kill(worker.data["pid"], signal.SIGKILL)
    assert client.executions.get(exec_id).runner is None
    until(lambda: client.executions.get(exec_id).status == "lost")
    (tmp_path / "go").touch()
    assert client.executions.resume(exec_id).wait(30) == [1, 2, 3]
    assert ran(tmp_path) == ["step 1", "step 2", "step 3"]


def test_elsewhere_a_pending_execution_is_given_a_minute(house: Repository, tmp_path: Path) -> None:
    """Where nobody can see the process, resume is refused, and says how long its runner may still take to begin."""
    client = house.client()
    exec_id = client.deployments.invoke("steps", inputs={"folder": str(tmp_path)}).exec_id
    folder = client.session.settings.cache / "workers"
    worker = client.session.executions.runner.launched(exec_id)
    assert worker is not None
    os.kill(worker.data["pid"], signal.SIGKILL)
    until(lambda: gone(worker.data["pid"]))
    (folder / f"{exec_id}.json").unlink()
    assert client.executions.get(exec_id).status == "pending"
    with pytest.raises(KitaruStateError, match=r"not within (59|60) s, it is lost and can be resumed"):
        client.executions.resume(exec_id)


def test_a_worker_that_lives_may_take_its_time(lab: Lab) -> None:
    """More than a minute after its launch an execution is still pending where its process is seen to live."""
    exec_id = lab.open(holding)
    opened = replace(lab.load(exec_id), origin="invoke")
    process = Handle("w")

    def reader(alive: bool | None, later: float) -> Executions:
        class Later(WallClock):
            def now(self) -> datetime:
                return super().now() + timedelta(seconds=later)

        return Executions(lab.store, PROJECT, Later(), Watched(lambda _: alive, process), 2.0)

    assert reader(True, 300).held(opened) is True
    assert reader(None, 30).held(opened) is True
    assert reader(None, 61).held(opened) is False
    assert reader(False, 0).held(opened) is False


def _events(client: KitaruClient, exec_id: str) -> list[Any]:
    from kitaru.run.journal import read_entries, read_events

    return read_events(read_entries(client.session.store, client.session.project, exec_id), exec_id)
