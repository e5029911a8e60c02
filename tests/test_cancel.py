"""Cancelling: asked, then ended, and recorded, wherever and whatever the execution does at the moment."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kitaru import checkpoint, flow, log, wait
from kitaru.errors import KitaruCancelledError, KitaruStateError
from kitaru.model.event import Cancelled
from kitaru.run.cancel import record_cancelled
from kitaru.run.executions import Executions
from kitaru.stacks import process
from kitaru.stacks.port import Handle
from tests.durable_flows import deployed, ran
from tests.execution_lab import PROJECT, Lab, Watched
from tests.repository import Repository, kitaru, until

STARTED = threading.Event()


@pytest.fixture(autouse=True)
def fresh() -> None:
    STARTED.clear()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "store")


@pytest.fixture
def house(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    repository = deployed(own_world / "repository")
    monkeypatch.chdir(repository.folder)
    return repository


def reader(lab: Lab) -> Executions:
    return Executions(lab.store, PROJECT, lab.clock, Watched(lambda _: None))


def invoke(name: str, folder: Path, **inputs: Any) -> str:
    done = kitaru("invoke", name, "--input", json.dumps({"folder": str(folder), **inputs})).must()
    return done.out.strip()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@checkpoint(retries=1000)
def flaky() -> None:
    STARTED.set()
    time.sleep(0.01)
    raise ConnectionError("again")


@checkpoint
def notes() -> None:
    STARTED.set()
    while True:
        time.sleep(0.01)
        log(turns=1)


@checkpoint
def quick() -> None:
    time.sleep(0.01)


@checkpoint
async def async_quick() -> None:
    await asyncio.sleep(0.01)


@flow
def in_note() -> None:
    notes()


@flow
def between_calls() -> None:
    STARTED.set()
    while True:
        quick()


@flow
def submitted() -> None:
    STARTED.set()
    while True:
        quick.submit().result()


@flow
async def in_async() -> None:
    STARTED.set()

    async def branch() -> None:
        while True:
            await async_quick()

    await asyncio.gather(branch(), branch())


@flow
def async_from_sync() -> None:
    STARTED.set()
    while True:
        async_quick()


@flow
def retrying() -> None:
    flaky()


@flow
def waiting() -> None:
    STARTED.set()
    wait(name="never")


@flow
def swallowing() -> str:
    try:
        between_calls.func()
    except Exception:
        return "swallowed"
    return "over"


BODIES = [in_note, between_calls, submitted, in_async, async_from_sync, retrying, waiting, swallowing]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.name)
def test_a_running_flow_ends_at_its_next_checkpoint_wait_or_note(lab: Lab, body: Any) -> None:
    """The execution is recorded as cancelled, by whom; within seconds its code ends, and its caller is told."""
    exec_id = lab.open(body)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            lab.go_on(body, exec_id)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert STARTED.wait(30)
    assert record_cancelled(reader(lab), exec_id, "Ann").status == "cancelled"
    assert record_cancelled(reader(lab), exec_id, "Bob").status == "cancelled"
    thread.join(30)
    assert not thread.is_alive()
    (error,) = errors
    assert isinstance(error, KitaruCancelledError)
    assert "by Ann" in error.message
    execution = lab.load(exec_id)
    assert execution.status == "cancelled"
    assert [one.by for one in lab.events(exec_id) if isinstance(one, Cancelled)] == ["Ann"]
    assert isinstance(lab.events(exec_id)[-1], Cancelled)
    assert not [call for call in execution.checkpoints if call.status == "running"]


def test_the_end_of_code_that_goes_on_is_recorded_over_its_head(lab: Lab) -> None:
    """The caller is told while the code still runs, and nothing that it does later is recorded."""
    from kitaru.run.executor import execute

    release = threading.Event()

    @checkpoint
    def stubborn() -> str:
        STARTED.set()
        while not release.is_set():
            with suppress(BaseException):
                time.sleep(0.01)
        return "done"

    @flow
    def body() -> str:
        return stubborn()

    exec_id = lab.open(body)
    forced: list[BaseException] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            execute(body, lab.recorded(exec_id), lab.host(Handle("here"), forced_end=forced.append))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert STARTED.wait(30)
    record_cancelled(reader(lab), exec_id, "Ann")
    until(lambda: forced, 30)
    assert isinstance(forced[0], KitaruCancelledError)
    assert thread.is_alive()
    assert lab.load(exec_id).status == "cancelled"
    count = len(lab.entries(exec_id))
    release.set()
    thread.join(30)
    assert isinstance(errors[0], KitaruCancelledError)
    assert len(lab.entries(exec_id)) == count


def test_recording_an_end_for_a_runner_that_writes(lab: Lab) -> None:
    """The end is recorded in a race with entries of the runner, which is fenced; a recorded end is left as it is."""

    @checkpoint
    def number(value: int) -> int:
        if value == 20:
            STARTED.set()
        return value

    @flow
    def busy() -> int:
        return sum(number(value) for value in range(100_000))

    exec_id = lab.open(busy)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            lab.go_on(busy, exec_id)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert STARTED.wait(10)
    ended = record_cancelled(reader(lab), exec_id, "Ann")
    thread.join(30)
    assert ended.status == "cancelled"
    assert isinstance(errors[0], KitaruCancelledError)
    assert isinstance(lab.events(exec_id)[-1], Cancelled)
    again = record_cancelled(reader(lab), exec_id, "Bob")
    assert again.status == "cancelled"
    assert isinstance(lab.events(exec_id)[-1], Cancelled)
    assert sum(isinstance(one, Cancelled) for one in lab.events(exec_id)) == 1


def test_cancel_reaches_a_worker_in_a_long_checkpoint(house: Repository, tmp_path: Path) -> None:
    """A worker in the middle of a long sleep ends within seconds, and its process is gone."""
    client = house.client()
    exec_id = invoke("long", tmp_path)
    until(lambda: ran(tmp_path))
    began = time.monotonic()
    done = kitaru("executions", "cancel", exec_id).must()
    assert time.monotonic() - began < 6
    assert done.out.strip() == exec_id
    execution = client.executions.get(exec_id)
    assert execution.status == "cancelled"
    worker = client.session.executions.runner.launched(exec_id)
    assert worker is not None
    until(lambda: gone(worker.data["pid"]), 10)
    with pytest.raises(KitaruCancelledError) as ended:
        client.executions.handle(exec_id).wait(5)
    assert ended.value.status == "cancelled"
    for command in ("cancel", "resume", "retry"):
        kitaru("executions", command, exec_id).refused("cancelled", code=1)


def test_a_worker_that_holds_the_interpreter_is_killed(
    house: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose every thread stands still, stuck in C, is ended from outside, and its end recorded by that."""
    monkeypatch.setattr(process, "KILL_SECONDS", 0.5)
    client = house.client()
    exec_id = invoke("stuck", tmp_path)
    runner = until(lambda: client.executions.get(exec_id).runner)
    until(lambda: ran(tmp_path))
    time.sleep(1.5)
    assert client.executions.cancel(exec_id).status == "cancelled"
    until(lambda: gone(runner.data["pid"]), 10)


def test_a_stopped_worker_is_ended(house: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was stopped (SIGSTOP) can't be asked; cancel ends it and records that."""
    monkeypatch.setattr(process, "KILL_SECONDS", 0.5)
    client = house.client()
    exec_id = invoke("steps", tmp_path)
    until(lambda: (tmp_path / "reached").exists())
    runner = until(lambda: client.executions.get(exec_id).runner)
    os.kill(runner.data["pid"], signal.SIGSTOP)
    assert client.executions.cancel(exec_id).status == "cancelled"
    until(lambda: gone(runner.data["pid"]), 10)
    assert ran(tmp_path) == ["step 1", "step 2"]


def test_nobody_runs_it(house: Repository, tmp_path: Path) -> None:
    """One that waits with nobody polling, and one whose runner died, are cancelled by whoever asks, at once."""
    client = house.client()
    asked, dead = invoke("review", tmp_path), invoke("long", tmp_path)
    until(lambda: client.executions.get(asked).suspended_at)
    runner = until(lambda: client.executions.get(dead).runner)
    os.kill(runner.data["pid"], signal.SIGKILL)
    until(lambda: client.executions.get(dead).status == "lost")
    for exec_id in (asked, dead):
        began = time.monotonic()
        assert client.executions.cancel(exec_id).status == "cancelled"
        assert time.monotonic() - began < 2


def test_cancelling_what_has_ended(house: Repository, tmp_path: Path) -> None:
    """A completed execution can't be cancelled; it stays completed."""
    (tmp_path / "go").touch()
    exec_id = invoke("steps", tmp_path)
    assert house.client().executions.handle(exec_id).wait(30) == [1, 2, 3]
    kitaru("executions", "cancel", exec_id).refused("completed", code=1)
    with pytest.raises(KitaruStateError):
        house.client().executions.handle(exec_id).cancel()
    assert house.client().executions.get(exec_id).status == "completed"


def test_a_run_of_this_process(house: Repository, tmp_path: Path) -> None:
    """handle.cancel() ends a run of this process; wait() raises that it was cancelled."""
    client = house.client()
    review = client.executions.load("flows/work.py:review")
    handle = client.executions.run(review, review.bind(kwargs={"folder": str(tmp_path), "patience": 600.0}))
    until(lambda: handle.status == "waiting")
    handle.cancel()
    with pytest.raises(KitaruCancelledError):
        handle.wait(10)
    assert handle.status == "cancelled"
