"""A worker whose execution goes no further leaves nothing behind that it started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.repository import Repository, kitaru, until

CODE = """\
import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from kitaru import checkpoint, flow

FORK = multiprocessing.get_context("fork")
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(300)"


def tell(place, *numbers):
    Path(place).with_suffix(".new").write_text(" ".join(map(str, numbers)))
    os.replace(Path(place).with_suffix(".new"), place)


def deaf():
    child = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE)
    child.stdout.readline()
    return child.pid


@checkpoint
def forks(place):
    child = FORK.Process(target=time.sleep, args=(300,))
    child.start()
    tell(place, os.getpid(), child.pid, deaf())
    time.sleep(300)


@checkpoint
def pools(place):
    with ProcessPoolExecutor(2, mp_context=FORK) as pool:
        first = pool.submit(os.getpid).result()
        busy = [pool.submit(time.sleep, 300) for _ in range(2)]
        tell(place, os.getpid(), first)
        busy[0].result()


@checkpoint(runtime="isolated")
def alone(place):
    tell(place, os.getpid(), deaf())
    time.sleep(300)


@checkpoint(timeout=1)
def late(place):
    child = FORK.Process(target=time.sleep, args=(300,))
    child.start()
    tell(place, os.getpid(), child.pid)
    time.sleep(300)


@flow
def leaves(place: str, how: str) -> None:
    {"forks": forks, "pools": pools, "alone": alone, "late": late}[how](place)
"""

MANIFEST = """\
kitaru: 1
project: research
source: {include: [flows.py]}
flows:
  leaves:
    target: flows.py:leaves
    routes: {default: head}
"""


@pytest.fixture
def house(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    repository = Repository.make(own_world / "repository", {"flows.py": CODE}, MANIFEST)
    monkeypatch.chdir(repository.folder)
    kitaru("apply", "--yes").must()
    return repository


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def begun(how: str, place: Path) -> tuple[str, list[int]]:
    """The execution, and the numbers of its processes that are to end."""
    exec_id = kitaru("invoke", "leaves", "--input", json.dumps({"place": str(place), "how": how})).must().out.strip()
    until(place.exists)
    return exec_id, [int(number) for number in place.read_text().split()]


@pytest.mark.parametrize("how", ["forks", "pools", "alone"])
def test_a_cancelled_execution_leaves_no_process(house: Repository, tmp_path: Path, how: str) -> None:
    """Neither its worker, nor what ``multiprocessing`` started, nor a child that takes no notice of SIGTERM."""
    exec_id, processes = begun(how, tmp_path / "told")
    kitaru("executions", "cancel", exec_id).must()
    assert house.client().executions.get(exec_id).status == "cancelled"
    for process in processes:
        until(lambda process=process: gone(process), 10)


def test_a_worker_whose_flow_failed_does_not_wait_for_multiprocessing(house: Repository, tmp_path: Path) -> None:
    """A checkpoint that was stopped for its time left a process running, which would keep Python from ending."""
    exec_id, processes = begun("late", tmp_path / "told")
    until(lambda: house.client().executions.get(exec_id).status == "failed", 20)
    for process in processes:
        until(lambda process=process: gone(process), 10)
