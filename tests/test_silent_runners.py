"""Runners that live and say nothing: what is shown of them, who may take over, and what they print afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kitaru import KitaruClient, checkpoint, flow
from kitaru.errors import KitaruStateError, KitaruUsageError
from kitaru.model.event import Handle, Started
from kitaru.model.execution import LogLine
from kitaru.run.executions import Executions
from kitaru.run.index import Sign, open_key
from kitaru.run.journal import Fenced
from kitaru.run.lease import PATIENCE, Lease
from kitaru.run.logs import LogWriter
from kitaru.run.state import RunState
from kitaru.stacks.process import process_alive, process_at_work, process_handle
from tests.execution_lab import PROJECT, Lab, WallClock, Watched, read_lines
from tests.repository import kitaru, until

SOURCE = """
import ctypes
import time
from pathlib import Path
from kitaru import checkpoint, flow

@checkpoint
def holding(folder: str) -> int:
    time.sleep(1)  # so that it is recorded that it began
    Path(folder, "reached").touch()
    ctypes.PyDLL(None).sleep(9)  # a call that keeps the interpreter's lock
    return 1

@checkpoint
def late(folder: str) -> int:
    before = time.time()
    Path(folder, "reached").touch()
    while time.time() - before < 40:
        now = time.time()
        time.sleep(0.02)
        if time.time() - now > 2 or Path(folder, "go").exists():
            break
    if not Path(folder, "go").exists():
        for number in range(50):
            print("late", number, flush=True)
            time.sleep(0.02)
    print("in time", flush=True)
    return 3

@flow
def holds(folder: str) -> int:
    return holding(folder)

@flow
def lates(folder: str) -> int:
    return late(folder)
"""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "store")


@pytest.fixture
def source(own_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "z.py").write_text(SOURCE)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KITARU_LEASE_SECONDS", "2")
    return folder


@contextmanager
def running(source: Path, name: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A process of its own that runs the flow from source, once its checkpoint has begun; and the execution's id."""
    given = f'{{"folder": "{source}"}}'
    process = subprocess.Popen(
        [sys.executable, "-m", "kitaru", "run", f"z.py:{name}", "--input", given],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: (source / "reached").exists())
        client = KitaruClient()
        exec_id = client.executions.latest().exec_id
        until(lambda: client.executions.get(exec_id).status == "running")
        yield process, exec_id
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def test_a_process_that_holds_the_interpreter_is_not_lost(source: Path) -> None:
    """It can't renew its lease; on its own machine it is seen to live, so it shows as running, and for how long it was
    silent; resume is refused and says what helps.
    """
    client = KitaruClient()
    with running(source, "holds") as (process, exec_id):
        looks = set()
        begun = time.monotonic()
        while time.monotonic() - begun < 6:
            execution = client.executions.get(exec_id)
            looks.add(execution.status)
            time.sleep(0.5)
        assert looks == {"running"}
        assert [one.status for one in client.executions.list(limit=1)] == ["running"]
        shown = kitaru("executions", "get", exec_id).must().out
        assert "no sign of life for" in shown
        assert "in holding for" in shown
        with pytest.raises(KitaruStateError) as refused:
            client.executions.resume(exec_id)
        assert f"end process {process.pid}" in refused.value.hint
        assert process.wait(30) == 0
    assert client.executions.get(exec_id).status == "completed"


def test_what_a_replaced_runner_prints_is_not_kept(source: Path) -> None:
    """Stopped past its lease and replaced, a runner that wakes and prints adds no line to the logs."""
    client = KitaruClient()
    with running(source, "lates") as (process, exec_id):
        process.send_signal(signal.SIGSTOP)
        until(lambda: client.executions.get(exec_id).status == "lost")
        (source / "go").touch()
        kitaru("executions", "resume", exec_id).must()
        until(lambda: client.executions.get(exec_id).status == "completed")
        (source / "go").unlink()
        process.send_signal(signal.SIGCONT)
        process.wait(30)
    texts = [line.text for line in client.executions.logs(exec_id)]
    assert texts == ["in time"]


def test_a_stopped_process_lives_and_is_not_at_work() -> None:
    """A reader waits for no process that was stopped, and cancel still finds it to end it."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        runner = process_handle(process.pid)
        assert (process_alive(runner), process_at_work(runner)) == (True, True)
        os.kill(process.pid, signal.SIGSTOP)
        until(lambda: process_at_work(runner) is None)
        assert process_alive(runner) is True
    finally:
        process.kill()
        process.wait()
    assert (process_alive(runner), process_at_work(runner)) == (False, False)


@checkpoint
def step() -> int:
    return 1


@flow
def steps() -> int:
    return step()


class Later(WallClock):
    """The real time and so many seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.seconds)


def begun(lab: Lab) -> tuple[RunState, str]:
    """An execution that a runner began, with a lease of 2 seconds from now."""
    exec_id = lab.open(steps)
    run = RunState(steps, lab.recorded(exec_id), lab.host(lease_seconds=2.0))
    run.journal.commit(Started(at=run.now(), runner=Handle("r"), attempt=1))
    now = datetime.now(UTC)
    sign = Sign(lab.load(exec_id), 2, now, now + timedelta(seconds=2))
    lab.store.overwrite(open_key(run.opened), sign.encode())
    return run, exec_id


@pytest.mark.parametrize(
    ("alive", "later", "status"),
    [
        (True, 10.0, "running"),
        (True, PATIENCE * 2 + 5.0, "lost"),
        (None, 1.0, "running"),
        (None, 10.0, "lost"),
        (False, 0.0, "lost"),
    ],
)
def test_patience_ends(lab: Lab, alive: bool | None, later: float, status: str) -> None:
    """A process that is seen to live has ten times as long as one that can't be seen, and not for ever."""
    run, exec_id = begun(lab)
    clock = Later()
    clock.seconds = later
    found = Executions(lab.store, PROJECT, clock, Watched(lambda _runner: alive), 2.0)
    assert found.get(exec_id).status == status
    assert [one.status for one in found.newest()] == [status]
    run.cache.close()


def test_whether_a_runner_still_holds_costs_a_read_only_after_a_sleep(lab: Lab) -> None:
    """While its lease holds nobody is asked; afterwards the next entry tells, and the lines of a replaced one go."""
    run, exec_id = begun(lab)
    clock = run.clock = Later()
    keeping = Lease(run)
    keeping.tick(time.monotonic())
    writer = LogWriter(lab.store, PROJECT, exec_id, lambda: None, None, keeping.holds)

    def say(text: str) -> list[str]:
        writer.add(LogLine(run.now(), "stdout", text, None, "step", "1", 1))
        writer.flush()
        return [line.text for line in read_lines(lab.store, PROJECT, exec_id)[0]]

    assert say("early") == ["early"]
    other = RunState(steps, lab.recorded(exec_id), lab.host())
    clock.seconds = 60.0
    assert say("slept, and was not replaced") == ["early", "slept, and was not replaced"]
    other.journal.commit(Started(at=run.now(), runner=Handle("s"), attempt=1))
    assert say("replaced") == ["early", "slept, and was not replaced"]
    assert isinstance(run.journal.stopped, Fenced)
    assert say("replaced") == ["early", "slept, and was not replaced"]
    run.cache.close()
    other.cache.close()


@pytest.mark.parametrize("text", ["abc", "0", "-3", "nan", "inf"])
def test_a_wrong_lease_is_refused_before_anything_is_opened(
    source: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """KITARU_LEASE_SECONDS is checked first: no execution is left that nobody runs."""
    monkeypatch.setenv("KITARU_LEASE_SECONDS", text)
    ended = kitaru("run", "z.py:holds", "--input", '{"folder": "x"}')
    assert (ended.code, "KITARU_LEASE_SECONDS" in ended.err, "ex-" in ended.err) == (2, True, False)
    monkeypatch.delenv("KITARU_LEASE_SECONDS")
    assert KitaruClient().executions.list() == []


def test_a_short_bucket_name_is_named_as_the_mistake() -> None:
    """s3://b/kit has the form of an address: what is wrong is its bucket."""
    from kitaru.store.open import open_store

    with pytest.raises(KitaruUsageError, match="is not the address of an S3 store") as caught:
        open_store("s3://b/kit", base=Path())
    assert "the bucket's whole name of 3 to 63 characters" in caught.value.hint
