"""Running a flow: calls, futures, retries, failures, and what reaches the store."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from kitaru import checkpoint, errors, flow
from kitaru.model.event import CheckpointStarted
from tests.execution_lab import CountingStore, Lab
from tests.executor_steps import RAN, add, chain


@pytest.fixture(autouse=True)
def fresh() -> None:
    RAN.clear()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "store")


def test_values_of_checkpoints_are_plain_values(lab: Lab) -> None:
    """A checkpoint call in the flow body returns the function's own value."""
    assert lab.run(chain, n=3) == 3
    assert RAN == [(0, 1), (1, 1), (2, 1)]


def test_one_write_a_checkpoint_and_one_before_the_first_user_line(tmp_path: Path) -> None:
    """n checkpoints cost n creates, one for the end, and none before the flow body runs."""
    lab = Lab(tmp_path, lambda inner: CountingStore(inner))
    exec_id = lab.open(chain, n=5)
    store = lab.store
    assert isinstance(store, CountingStore)
    entries = lab.entries(exec_id)
    assert len(entries) == 1
    store.calls.clear()
    assert lab.go_on(chain, exec_id) == 5
    assert len(store.of("create")) == 5 + 1
    assert [type(event) for event in lab.events(exec_id)].count(CheckpointStarted) == 0


def test_a_finished_execution_gives_its_result_again_without_running(lab: Lab) -> None:
    """Executing a completed journal returns the recorded result."""
    exec_id = lab.open(chain, n=2)
    assert lab.go_on(chain, exec_id) == 2
    RAN.clear()
    assert lab.go_on(chain, exec_id) == 2
    assert not RAN


def test_a_long_checkpoint_shows_as_running_before_it_ends(lab: Lab) -> None:
    """The start of a flow and of its checkpoint are written by a timer where no other write carries them."""
    release = threading.Event()

    @checkpoint
    def slow() -> int:
        release.wait(10)
        return 1

    @flow
    def waiting() -> int:
        return slow()

    exec_id = lab.open(waiting)
    worker = threading.Thread(target=lab.go_on, args=(waiting, exec_id))
    worker.start()
    try:
        for _ in range(200):
            if len(lab.entries(exec_id)) == 2:
                break
            time.sleep(0.02)
        execution = lab.load(exec_id)
        assert execution.status == "running"
        assert execution.runner is not None and execution.runner.shown == "process 1 on lab-host"
        assert [(call.name, call.status) for call in execution.checkpoints] == [("slow", "running")]
    finally:
        release.set()
        worker.join()
    assert lab.load(exec_id).status == "completed"


def test_checkpoints_outside_a_flow_and_inside_each_other_are_refused(lab: Lab) -> None:
    """Both are a KitaruContextError that says where the call belongs."""
    with pytest.raises(errors.KitaruContextError, match="'add' was called outside a flow"):
        add(1)
    with pytest.raises(errors.KitaruContextError, match="outside a flow"):
        add.submit(1)

    @checkpoint
    def outer() -> int:
        return add(1)

    @checkpoint
    async def aouter() -> int:
        return add.submit(1).result()

    @flow
    def nested() -> None:
        for one in (outer, aouter):
            with pytest.raises(errors.KitaruContextError, match="'add' was called inside checkpoint '"):
                one()
        assert add(1) == 2

    lab.run(nested)


def test_pickle_is_used_only_where_asked_for(lab: Lab) -> None:
    """``serializer="pickle"`` stores what has no other form."""

    @checkpoint(serializer="pickle")
    def made() -> Any:
        RAN.append("made")
        return {1: range(3), "e": ValueError("x")}

    @flow(retries=1)
    def pickled() -> str:
        value = made()
        if RAN.count("body") < 1:
            RAN.append("body")
            raise RuntimeError
        return f"{value[1]} {value['e']!r}"

    exec_id = lab.open(pickled)
    assert lab.go_on(pickled, exec_id) == "range(0, 3) ValueError('x')"
    assert RAN.count("made") == 1
    output = lab.load(exec_id).checkpoints[0].output
    assert output is not None and output.format == "pickle"


def test_large_outputs_are_objects_written_before_the_entry_that_names_them(tmp_path: Path) -> None:
    """One MB is stored under its digest, once, and the entry stays small."""

    @checkpoint
    def large() -> bytes:
        return b"x" * 1_000_000

    @flow
    def twice() -> int:
        return len(large()) + len(large())

    lab = Lab(tmp_path, lambda inner: CountingStore(inner))
    exec_id = lab.open(twice)
    store = lab.store
    assert isinstance(store, CountingStore)
    store.calls.clear()
    assert lab.go_on(twice, exec_id) == 2_000_000
    kinds = ["object" if "/objects/" in key else "entry" for key in store.of("create")]
    assert kinds == ["object", "entry", "object", "entry", "entry"]
    assert max(len(entry) for entry in lab.entries(exec_id)) < 2000
    output = lab.load(exec_id).checkpoints[0].output
    assert output is not None and (output.stored, output.format, output.size) == ("object", "bytes", 1_000_000)


def test_the_summary_comes_after_the_end_and_agrees_with_the_journal(lab: Lab) -> None:
    """The hint tells what the journal tells, without the checkpoints."""
    from dataclasses import replace

    from kitaru.model import address
    from kitaru.run.journal import read_summary
    from tests.execution_lab import PROJECT

    exec_id = lab.open(chain, n=2)
    lab.go_on(chain, exec_id)
    for _ in range(100):
        body = lab.store.read(address.summary(PROJECT, exec_id))
        if body is not None:
            break
        time.sleep(0.02)
    assert body is not None
    whole = lab.load(exec_id)
    assert read_summary(body) == replace(whole, checkpoints=(), attempts=())
    assert read_summary(b"{}") is None and read_summary(b"\xff") is None
