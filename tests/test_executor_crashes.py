"""Whatever moment an execution dies at, going on gives the same result and repeats nothing that was recorded."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kitaru import checkpoint, flow
from kitaru.model.event import CheckpointCompleted
from kitaru.run.executor import execute
from kitaru.run.journal import Fenced, Stopped, read_entries
from kitaru.stacks.port import Handle
from tests.execution_lab import PROJECT, FailingStore, Lab, PowerCut

EFFECTS = ""


def did(what: str) -> None:
    """A side effect that outlives the process."""
    with open(EFFECTS, "a") as file:
        file.write(f"{what}\n")


def effects(path: Path) -> Counter[str]:
    return Counter(path.read_text().split()) if path.exists() else Counter()


@checkpoint
def double(n: int) -> int:
    did(f"double-{n}")
    return 2 * n


@checkpoint
def large(n: int) -> bytes:
    did(f"large-{n}")
    return bytes([n]) * 70_000


@checkpoint(retries=2)
def third_time(n: int) -> int:
    tries = effects(Path(EFFECTS))[f"third-{n}"]
    did(f"third-{n}")
    if tries < 2:
        raise ValueError("not yet")
    return 3 * n


@checkpoint
async def later(n: int) -> int:
    did(f"later-{n}")
    await asyncio.sleep(0)
    return n + 100


@flow(retries=1)
def mixed(n: int) -> dict[str, Any]:
    first = double(n)
    mapped = double.map(range(10, 14), max_concurrency=2)
    total = sum(mapped.results())
    size = len(large(7))
    retried = third_time(first)
    waited = later(5)
    chained = double.submit(double.submit(50))
    if not effects(Path(EFFECTS))["body-failed"]:
        did("body-failed")
        raise RuntimeError("the first attempt of the body fails")
    return {"total": total, "size": size, "retried": retried, "waited": waited, "chained": chained}


@flow
async def branches(n: int) -> list[int]:
    async def branch(i: int) -> int:
        one = await later(i)
        two = await later(one)
        return two + double(two)

    return await asyncio.gather(*[branch(i) for i in range(n)])


EXPECTED = {"total": 92, "size": 70_000, "retried": 12, "waited": 105, "chained": 200}


@pytest.fixture(autouse=True)
def effects_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "effects.txt"
    monkeypatch.setattr(sys.modules[__name__], "EFFECTS", str(path))
    return path


def recorded(lab: Lab, exec_id: str) -> set[str]:
    return {event.call for event in lab.events(exec_id) if isinstance(event, CheckpointCompleted)}


@pytest.mark.parametrize("after", [False, True], ids=["before-the-write", "after-the-write"])
@pytest.mark.parametrize(
    ("flow_object", "inputs", "expected"),
    [(mixed, {"n": 2}, EXPECTED), (branches, {"n": 3}, [(200 + i) * 3 for i in range(3)])],
    ids=["mixed", "branches"],
)
def test_a_power_cut_at_any_write_loses_nothing(
    tmp_path: Path, effects_file: Path, flow_object: Any, inputs: dict[str, Any], expected: Any, after: bool
) -> None:
    """Cut at write k, for every k: the result is the same, and no recorded checkpoint runs again."""
    for cut in range(1, 60):
        effects_file.unlink(missing_ok=True)
        lab = Lab(tmp_path / f"store-{after}-{cut}")
        exec_id = lab.open(flow_object, **inputs)
        store = FailingStore(lab.store, cut, after=after)
        try:
            whole = lab.go_on(flow_object, exec_id, store=store)
        except (PowerCut, Stopped):
            whole = None
        if not store.is_out:
            assert whole == expected
            assert cut > 4
            return
        kept = recorded(lab, exec_id)
        calls = {call.call_id: call for call in lab.load(exec_id).checkpoints}
        before = effects(effects_file)
        assert lab.go_on(flow_object, exec_id) == expected
        again = effects(effects_file) - before
        for key in kept:
            args = calls[key].args
            assert args is not None
            short = {"third_time": "third"}.get(calls[key].name, calls[key].name)
            assert again[f"{short}-{args['n']}"] == 0, f"{calls[key].name} ran again after write {cut}"
        assert lab.load(exec_id).status == "completed"
        assert recorded(lab, exec_id) >= kept
    pytest.fail("the execution never came to its end")


class Unavailable(Exception):
    """With a constructor of its own."""

    def __init__(self, service: str, code: int) -> None:
        super().__init__(f"{service}: {code}")


@checkpoint
def unavailable_once(n: int) -> int:
    tries = effects(Path(EFFECTS))["unavailable"]
    did("unavailable")
    if tries == 0:
        raise Unavailable("search", 503)
    return n


@flow
def falls_back(n: int) -> list[int]:
    try:
        first = unavailable_once(n)
    except Unavailable:
        first = double(n)
    return [first, double(30), double(31)]


@pytest.mark.parametrize("after", [False, True], ids=["before-the-write", "after-the-write"])
def test_a_body_that_went_on_from_a_failure_goes_on_from_it_again(
    tmp_path: Path, effects_file: Path, after: bool
) -> None:
    """A failure that the flow caught before the power cut is met again, so that the calls after it still fit."""
    for cut in range(1, 20):
        effects_file.unlink(missing_ok=True)
        lab = Lab(tmp_path / f"store-{after}-{cut}")
        exec_id = lab.open(falls_back, n=5)
        store = FailingStore(lab.store, cut, after=after)
        with suppress(PowerCut, Stopped):
            lab.go_on(falls_back, exec_id, store=store)
        if not store.is_out:
            assert cut > 4
            return
        went_on = len(recorded(lab, exec_id)) > 0
        result = lab.go_on(falls_back, exec_id)
        if went_on:
            assert result == [10, 60, 62] and effects(effects_file)["unavailable"] == 1
        else:
            assert result in ([5, 60, 62], [10, 60, 62])
    pytest.fail("the execution never came to its end")


CHILD = """
import sys, tests.test_executor_crashes as t
from pathlib import Path
from tests.execution_lab import Lab
t.EFFECTS = sys.argv[2]
lab = Lab(Path(sys.argv[1]))
print(lab.go_on(getattr(t, sys.argv[4]), sys.argv[3]), flush=True)
"""


@flow
def long_one(n: int) -> int:
    total = 0
    for i in range(n):
        total += double(i)
    return total + sum(double.map(range(1000, 1000 + n)).results())


def test_kill_9_at_random_moments_repeats_no_recorded_checkpoint(tmp_path: Path, effects_file: Path) -> None:
    """A real process, killed again and again: each checkpoint that was recorded ran once after its record at most."""
    lab = Lab(tmp_path / "store")
    exec_id = lab.open(long_one, n=60)
    chance = random.Random(7)
    command = [sys.executable, "-c", CHILD, str(tmp_path / "store"), str(effects_file), exec_id, "long_one"]
    kept: set[str] = set()
    kills = 0
    for _ in range(12):
        before = effects(effects_file)
        child = subprocess.Popen(command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE)
        while effects(effects_file) == before and child.poll() is None:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.02))
        kills += child.poll() is None
        child.kill()
        child.communicate()
        again = effects(effects_file) - before
        names = {call.call_id: f"double-{call.args['n']}" for call in lab.load(exec_id).checkpoints if call.args}
        assert not [key for key in kept if again[names[key]]]
        kept = recorded(lab, exec_id)
        if lab.load(exec_id).ended:
            break
    assert kills >= 2
    before = effects(effects_file)
    assert lab.go_on(long_one, exec_id) == sum(2 * i for i in range(60)) + sum(2 * i for i in range(1000, 1060))
    assert sum((effects(effects_file) - before).values()) == 120 - len(kept)


def test_a_runner_that_lost_its_execution_writes_nothing_more(tmp_path: Path) -> None:
    """Two runners of one execution: the one whose next entry is taken stops, and can't be caught by the flow."""
    lab = Lab(tmp_path / "store")
    exec_id = lab.open(stubborn, n=1)
    stale = read_entries(lab.store, PROJECT, exec_id)
    assert lab.go_on(stubborn, exec_id) == 2
    told = lab.entries(exec_id)
    with pytest.raises(Fenced):
        execute(stubborn, lab.recorded(exec_id, stale), lab.host(Handle("other")))
    assert lab.entries(exec_id) == told


@flow
def stubborn(n: int) -> int:
    try:
        return double(n)
    except Exception:
        return -1
