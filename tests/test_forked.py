"""Processes that a flow's code forks: they compute and print, record nothing, and say so where they try."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kitaru import checkpoint, flow
from tests.execution_lab import Lab

FORKS = """
import asyncio, json, multiprocessing, os, sys, threading
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from kitaru import KitaruClient, checkpoint, flow, load, log, save, wait
from kitaru.errors import KitaruContextError

FORK = multiprocessing.get_context("fork")

def note(what):
    with open("ran", "a") as file:
        file.write(f"{what}\\n")

@checkpoint
def step(n: int) -> int:
    note(f"step {n}")
    return n * 2

@checkpoint
async def later(n: int) -> int:
    note(f"later {n}")
    return n * 2

HELD = threading.Event()

@checkpoint
def held() -> int:
    HELD.wait(30)
    return 1

def helper(n):
    return step(n)

def told(work, *args):
    # What came of it, as the parent hears it.
    try:
        return work(*args)
    except KitaruContextError as error:
        return f"{error.message}; {error.hint}"

def status(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

def forked(work, *args):
    process = os.fork()
    if not process:
        work(*args)
        note("went on")
        os._exit(0)
    return status(process)

def caught(work, *args):
    process = os.fork()
    if not process:
        with open("told", "w") as file:
            file.write(str(told(work, *args)))
        os._exit(0)
    assert status(process) == 0
    with open("told") as file:
        return file.read()

VERBS = {
    "call": lambda: step(100), "submit": lambda: step.submit(100), "map": lambda: step.map([100]),
    "async": lambda: later(100), "log": lambda: log(a=1), "save": lambda: save("a", 1),
    "load": lambda: load(EXEC[0], "early"), "wait": lambda: wait(schema=bool, name="ok"),
}
EXEC = []

def pool(work, args):
    with FORK.Pool(2) as workers:
        return workers.map(work, args)

def executor(work, args):
    with ProcessPoolExecutor(2, mp_context=FORK) as workers:
        return list(workers.map(work, args))

def process(work, args):
    one = FORK.Process(target=work, args=args)
    one.start()
    one.join()
    return one.exitcode

def double(n):
    note(f"double {n}")
    return n * 2

def comes_out(how):
    # A child that falls out of the function that it was forked in.
    child = os.fork()
    if not child:
        if how == "raises":
            raise ValueError("in the child")
        if how == "says":
            sys.exit("said by the child")
        if how == "uses":
            step(100)
        return 7
    return 10 + status(child)

async def comes_out_later(how):
    await asyncio.sleep(0)
    return comes_out(how)

@checkpoint
def in_checkpoint(how: str) -> int:
    return comes_out(how)

@checkpoint(timeout=60)
async def in_async(how: str) -> int:
    return await comes_out_later(how)

@checkpoint(runtime="isolated")
def in_isolated(how: str) -> list:
    return [comes_out(how), forked(lambda: save("a", 1))]

@checkpoint
def verbs_in_checkpoint() -> dict:
    EXEC.append(save("early", 1).partition(":")[0])
    return {verb: caught(VERBS[verb]) for verb in ("log", "save", "load", "wait", "call")}

@checkpoint
def pooled() -> list:
    return [told(pool, log_and_double, [1, 2]), pool(double, [1, 2])]

def log_and_double(n):
    log(n=n)
    return double(n)

@flow
def main(how: str) -> Any:
    what, _, more = how.partition("-")
    if what == "verbs":
        EXEC.append(save("early", 1).partition(":")[0])
        found = {verb: caught(VERBS[verb]) for verb in VERBS}
    elif what == "inside":
        found = verbs_in_checkpoint()
    elif what == "pending":
        future = held.submit()
        found = caught(future.result)
        HELD.set()
    elif what == "pool":
        found = [told(pool, helper, [1, 2]), told(executor, helper, [1, 2]), process(step, (3,)), pool(double, [4, 5])]
    elif what == "pooled":
        found = pooled()
    elif what == "plain":
        found = forked(step, 100)
    elif what == "body":
        found = comes_out(more)
        if found == 7:
            return found
    else:
        found = {"checkpoint": in_checkpoint, "async": in_async, "isolated": in_isolated}[what](more)
    return [found, step(1)]

@flow
async def main_async(how: str) -> Any:
    found = await comes_out_later(how)
    return found if found == 7 else [found, await later(1)]

if __name__ == "__main__":
    what, _, more = sys.argv[1].partition("-")
    handle = main_async.run(how=more, cache=False) if what == "abody" else main.run(how=sys.argv[1], cache=False)
    result = handle.wait()
    execution = KitaruClient().executions.get(handle.exec_id)
    calls = [(call.name, call.status, len(call.attempts)) for call in execution.checkpoints]
    print("result", json.dumps([result, calls, execution.status]), flush=True)
"""

SAYS = (
    "in a process that was forked from the one that runs the execution, and records nothing; Call it in the flow's own"
)


@dataclass(frozen=True, slots=True)
class Done:
    """What the flow gave, its calls, what of its code ran, and what was on standard error."""

    found: Any
    last: Any
    calls: list[list[Any]]
    ran: list[str]
    err: str


def forks(folder: Path, how: str) -> Done:
    """Run the flow in a process of its own; it must complete, and end."""
    (folder / "forks.py").write_text(FORKS)
    environ = {**os.environ, "KITARU_STORE": f"file://{folder}/store", "HOME": str(folder)}
    command = [sys.executable, "forks.py", how]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("result ")]
    (found, last), calls, status = json.loads(line.removeprefix("result "))
    assert status == "completed"
    path = folder / "ran"
    return Done(found, last, calls, path.read_text().splitlines() if path.exists() else [], done.stderr)


def test_a_fork_of_the_body_is_told_that_it_records_nothing(tmp_path: Path) -> None:
    """Whatever it tries, it is told before any code of a checkpoint runs; the flow goes on in its own process."""
    done = forks(tmp_path, "verbs")
    subjects = {"call": "checkpoint 'step'", "submit": "checkpoint 'step'", "map": "checkpoint 'step'"}
    subjects |= {"async": "checkpoint 'later'"} | {verb: f"{verb}()" for verb in ("log", "save", "load", "wait")}
    assert {verb: text.partition(" was called")[0] for verb, text in done.found.items()} == subjects
    assert all(f"was called {SAYS}" in text for text in done.found.values()), done.found
    assert (done.ran, done.last, done.calls) == (["step 1"], 2, [["step", "completed", 1]])


def test_a_fork_of_a_checkpoint_is_told_the_same(tmp_path: Path) -> None:
    """Its notes are neither kept nor lost in silence."""
    done = forks(tmp_path, "inside")
    assert set(done.found) == {"log", "save", "load", "wait", "call"}
    assert all(f"was called {SAYS}" in text for text in done.found.values()), done.found
    assert (done.ran, done.calls[0]) == (["step 1"], ["verbs_in_checkpoint", "completed", 1])


def test_a_fork_does_not_wait_for_a_call_that_it_cannot_see_end(tmp_path: Path) -> None:
    """The threads that run submitted calls are its parent's: ``result()`` says so instead of waiting for ever."""
    done = forks(tmp_path, "pending")
    assert done.found.startswith("result() of checkpoint 'held' was called in a process that was forked")
    assert sorted(done.calls) == [["held", "completed", 1], ["step", "completed", 1]]


def test_workers_of_a_pool_pass_it_on(tmp_path: Path) -> None:
    """``Pool`` and ``ProcessPoolExecutor`` raise it in the flow, a ``Process`` ends with 1; plain functions run."""
    done = forks(tmp_path, "pool")
    by_pool, by_executor, by_process, doubled = done.found
    assert SAYS in by_pool and SAYS in by_executor and by_process == 1 and doubled == [8, 10]
    assert sorted(done.ran) == ["double 4", "double 5", "step 1"]
    assert "KitaruContextError: checkpoint 'step' was called in a process" in done.err
    assert (done.last, done.calls) == (2, [["step", "completed", 1]])


def test_workers_of_a_pool_in_a_checkpoint_pass_it_on(tmp_path: Path) -> None:
    """The same for notes; what the workers return is the checkpoint's to record."""
    done = forks(tmp_path, "pooled")
    assert done.found[0].startswith("log() was called in a process that was forked") and done.found[1] == [2, 4]
    assert sorted(done.ran) == ["double 1", "double 2", "step 1"]


def test_a_plain_fork_that_calls_a_checkpoint_ends_with_an_error(tmp_path: Path) -> None:
    """It ends where the error leaves the body, with status 1 and the reason; neither goes on."""
    done = forks(tmp_path, "plain")
    assert (done.found, done.ran, done.calls) == (1, ["step 1"], [["step", "completed", 1]])
    assert "KitaruContextError: checkpoint 'step' was called in a process that was forked" in done.err
    assert "run/user_code.py" not in done.err


@pytest.mark.parametrize("where", ["body", "abody", "checkpoint", "async", "isolated"])
@pytest.mark.parametrize(
    ("how", "status", "says"),
    [
        ("returns", 0, ""),
        ("raises", 1, "ValueError: in the child"),
        ("says", 1, "said by the child"),
        ("uses", 1, "KitaruContextError: checkpoint 'step' was called"),
    ],
)
def test_a_fork_ends_where_it_comes_out(tmp_path: Path, where: str, how: str, status: int, says: str) -> None:
    """Out of the body or a checkpoint, sync, async or isolated: 0 where it returned, else 1 and the reason, once."""
    done = forks(tmp_path, f"{where}-{how}")
    found = done.found
    if where == "isolated":
        found, saved = found
        assert saved == 1 and "KitaruContextError: save() was called in a process that was forked" in done.err
    assert (found, done.last) == (10 + status, 2)
    assert done.ran == (["later 1"] if where == "abody" else ["step 1"])
    assert done.err.count(says) == 1 if says else where == "isolated" or not done.err


@checkpoint
def named(func: int, *, args: int) -> int:
    return func + args


@checkpoint
async def named_later(func: int, *, args: int) -> int:
    return func * args


@flow
def naming(func: int = 1, args: int = 2) -> list[int]:
    return [named(func, args=args), named(func=5, args=6), named_later.submit(func=3, args=4).result()]


@flow
async def naming_later(func: int = 1, args: int = 2) -> int:
    return await named_later(func=func, args=args)


def test_parameters_may_have_any_name(tmp_path: Path) -> None:
    """What stands around the user's code takes none of its keywords for its own."""
    lab = Lab(tmp_path / "store")
    assert lab.run(naming, func=7, args=8) == [15, 11, 12]
    assert lab.run(naming_later, func=7, args=8) == 56
