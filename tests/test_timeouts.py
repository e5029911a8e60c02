"""Timeouts: an attempt that takes too long is stopped, has ended before the next one begins, and is recorded."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from kitaru import Retry, checkpoint, errors, flow
from kitaru.run.interrupts import Interrupts, RunStopped
from tests.execution_lab import Lab

UNDER_WAY: list[str] = []


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    UNDER_WAY.clear()
    return Lab(tmp_path / "store")


def busy(seconds: float) -> None:
    """Takes its time in Python code."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.005)


@checkpoint(timeout=0.2, retries=1)
def spins(name: str) -> str:
    assert not UNDER_WAY, "two attempts at once"
    UNDER_WAY.append(name)
    try:
        busy(60)
    except Exception:
        raise AssertionError("a timeout must not be swallowed by except Exception") from None
    finally:
        UNDER_WAY.remove(name)
    return name


@flow
def spinning() -> str:
    return spins("a")


def test_a_sync_attempt_is_stopped_and_counts_as_failed(lab: Lab) -> None:
    """Both attempts end after their 0.2 seconds, one after the other, with a KitaruTimeoutError that says where."""
    exec_id = lab.open(spinning)
    started = time.monotonic()
    with pytest.raises(errors.KitaruExecutionError, match=r"stopped after 0\.2 seconds") as caught:
        lab.go_on(spinning, exec_id)
    assert 0.4 <= time.monotonic() - started < 10
    assert isinstance(caught.value.__cause__, errors.KitaruTimeoutError)
    (call,) = lab.load(exec_id).checkpoints
    assert [attempt.status for attempt in call.attempts] == ["failed", "failed"]
    failure = call.attempts[0].failure
    assert failure is not None
    assert failure.type == "kitaru.errors:KitaruTimeoutError"
    assert "busy" in failure.traceback


def test_an_attempt_in_time_is_not_touched(lab: Lab) -> None:
    """Thousands of calls that end before their timeout leave nothing behind."""

    @checkpoint(timeout=5)
    def quick(i: int) -> int:
        return i

    @flow
    def many() -> int:
        return sum(quick(i) for i in range(500)) + sum(quick.map(range(200)).results())

    assert lab.run(many) == sum(range(500)) + sum(range(200))
    assert not [thread for thread in threading.enumerate() if thread.name == "kitaru-alarms"]


def test_submitted_attempts_are_stopped_each_by_its_own_time(lab: Lab) -> None:
    """Of five calls beside each other those that are quick enough succeed."""

    @checkpoint(timeout=0.5)
    def takes(seconds: float) -> float:
        busy(seconds)
        return seconds

    @flow
    def several() -> list[Any]:
        futures = takes.map([0.01, 30, 0.02, 30, 0.03], on_error="collect")
        return [type(outcome.error).__name__ if outcome.error else outcome.value for outcome in futures.outcomes()]

    assert lab.run(several) == [0.01, "KitaruTimeoutError", 0.02, "KitaruTimeoutError", 0.03]


def test_an_async_attempt_is_cancelled(lab: Lab) -> None:
    """Its task sees the cancellation; the loop and its neighbours go on. Its own TimeoutError stays its own."""
    seen: list[str] = []

    @checkpoint(timeout=0.2, retries=1)
    async def sleeps() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    @checkpoint(timeout=30)
    async def own() -> None:
        raise TimeoutError("mine")

    @checkpoint
    async def fine() -> int:
        await asyncio.sleep(0.3)
        return 7

    @flow
    async def gathering() -> list[Any]:
        found = await asyncio.gather(sleeps(), own(), fine(), return_exceptions=True)
        return [str(one) if isinstance(one, Exception) else one for one in found]

    late, mine, value = lab.run(gathering)
    assert "was stopped after 0.2 seconds" in late and mine == "mine" and value == 7
    assert seen == ["cancelled", "cancelled"]


def test_an_async_checkpoint_of_a_sync_flow_is_cancelled(lab: Lab) -> None:
    """The same where the run's own loop carries it."""

    @checkpoint(timeout=0.2)
    async def sleeps() -> None:
        await asyncio.sleep(60)

    @flow
    def plain() -> str:
        try:
            sleeps()
        except errors.KitaruTimeoutError as error:
            return str(error)
        return "no"

    assert "was stopped after 0.2 seconds" in lab.run(plain)


@pytest.mark.parametrize("ending", ["returns", "yields", "raises"])
def test_an_async_attempt_that_comes_back_late_has_failed(lab: Lab, ending: str) -> None:
    """It blocked the loop past its time, so that no cancellation came: its result counts no more than a sync one's."""
    tries: list[float] = []

    @checkpoint(timeout=0.2, retries=1)
    async def blocks() -> int:
        tries.append(time.monotonic())
        if len(tries) == 2:
            return 7
        time.sleep(0.9)
        if ending == "yields":
            await asyncio.sleep(0)
        if ending == "raises":
            raise ValueError("mine")
        return 1

    @flow
    async def calling() -> int:
        return await blocks()

    def on_a_thread() -> None:
        results.append(lab.go_on(calling, exec_id))

    exec_id, results = lab.open(calling), list[int]()
    thread = threading.Thread(target=on_a_thread)
    thread.start()
    thread.join(30)
    assert results == [7] and tries[1] - tries[0] >= 0.9
    (call,) = lab.load(exec_id).checkpoints
    first, second = call.attempts
    assert (first.status, second.status) == ("failed", "completed")
    assert first.failure is not None and "told to stop after 0.2 seconds, and its code did not" in first.failure.message


def test_async_code_that_computes_is_stopped(lab: Lab) -> None:
    """A step that does not yield is stopped between two instructions; what runs beside it goes on after that."""

    @checkpoint(timeout=0.2)
    async def spins() -> None:
        busy(60)

    @checkpoint(timeout=30)
    async def fine() -> int:
        await asyncio.sleep(0.05)
        return 7

    @flow
    async def gathering() -> list[Any]:
        found = await asyncio.gather(spins(), fine(), return_exceptions=True)
        return [str(one) if isinstance(one, Exception) else one for one in found]

    started = time.monotonic()
    late, value = lab.run(gathering)
    assert "spins" in late and "after 0.2 seconds" in late and value == 7
    assert time.monotonic() - started < 20


def test_async_code_that_swallows_everything_is_stopped_again(lab: Lab) -> None:
    """Each bare except of it delays the end by about a second, and its late result does not count."""
    caught: list[type[BaseException]] = []

    @checkpoint(timeout=0.2)
    async def stubborn() -> str:
        await asyncio.sleep(0)
        for _ in range(2):
            try:
                busy(60)
            except BaseException as error:
                caught.append(type(error))
        return "late"

    @flow
    async def calling() -> str:
        return await stubborn()

    with pytest.raises(errors.KitaruExecutionError, match=r"told to stop after 0\.2 seconds, and its code"):
        lab.run(calling)
    assert [one.__name__ for one in caught] == ["Interrupted", "Interrupted"]


def test_the_end_of_an_async_attempt_has_time_to_tidy_up(lab: Lab) -> None:
    """What takes the cancellation is not stopped at once: awaiting and computing for a moment are possible."""
    tidied: list[str] = []

    @checkpoint(timeout=0.2)
    async def tidies() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            busy(0.2)
            await asyncio.sleep(0.01)
            tidied.append("whole")

    @flow
    async def calling() -> None:
        await tidies()

    with pytest.raises(errors.KitaruExecutionError, match=r"after 0\.2 seconds"):
        lab.run(calling)
    assert tidied == ["whole"]


def test_a_flow_is_stopped_with_all_it_does_and_tried_again(lab: Lab) -> None:
    """Body, inline call, submitted calls: all have ended before the second attempt; finished calls don't run again."""
    ran: list[str] = []

    @checkpoint
    def done(name: str) -> str:
        ran.append(name)
        return name

    @checkpoint
    def long(name: str) -> str:
        ran.append(name)
        UNDER_WAY.append(name)
        try:
            busy(0.0 if ran.count(name) > 1 else 60)
        finally:
            UNDER_WAY.remove(name)
        return name

    @flow(timeout=0.4, retries=1)
    def whole() -> list[str]:
        assert not UNDER_WAY
        first = done("done")
        beside = long.submit("beside")
        return [first, long("inline"), beside.result()]

    exec_id = lab.open(whole, timeout=0.4)
    started = time.monotonic()
    assert lab.go_on(whole, exec_id) == ["done", "inline", "beside"]
    assert time.monotonic() - started < 10
    assert ran.count("done") == 1
    attempts = lab.load(exec_id).attempts
    assert [attempt.status for attempt in attempts] == ["failed", "completed"]
    assert attempts[0].failure is not None and attempts[0].failure.type == "kitaru.errors:KitaruTimeoutError"


def test_an_async_flow_is_stopped(lab: Lab) -> None:
    """Its body and its tasks are cancelled."""
    seen: list[str] = []

    @checkpoint
    async def sleeps(name: str) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append(name)
            raise

    @flow(timeout=0.3)
    async def waiting() -> None:
        beside = sleeps.submit("beside")
        await sleeps("inline")
        await beside

    with pytest.raises(errors.KitaruExecutionError, match=r"flow 'waiting' was stopped after 0\.3 seconds"):
        lab.go_on(waiting, lab.open(waiting, timeout=0.3))
    assert sorted(seen) == ["beside", "inline"]


def test_an_async_flow_that_comes_back_late_has_failed(lab: Lab) -> None:
    """Its body blocked the loop past the flow's time, so that its cancellation never came."""

    @flow(timeout=0.2)
    async def blocks() -> int:
        time.sleep(0.9)
        return 1

    with pytest.raises(errors.KitaruExecutionError, match=r"flow 'blocks' was told to stop after 0\.2 seconds, and"):
        lab.go_on(blocks, lab.open(blocks, timeout=0.2))


def test_async_calls_that_outlive_the_body_end_with_the_flow_s_time(lab: Lab) -> None:
    """A body that returned before its submitted calls leaves them what is left of the flow's time, and no more."""

    @checkpoint
    async def sleeps() -> None:
        await asyncio.sleep(20)

    @flow(timeout=0.3)
    async def leaves() -> int:
        sleeps.submit()
        return 1

    began = time.monotonic()
    with pytest.raises(errors.KitaruExecutionError, match=r"flow 'leaves' was stopped after 0\.3 seconds"):
        lab.go_on(leaves, lab.open(leaves, timeout=0.3))
    assert time.monotonic() - began < 15


def test_a_flow_that_only_waits_is_stopped(lab: Lab) -> None:
    """A body that waits for a submitted call ends with that call."""

    @checkpoint
    def long() -> None:
        busy(60)

    @flow(timeout=0.3)
    def waiting() -> None:
        long.submit().result()

    with pytest.raises(errors.KitaruExecutionError, match="was stopped after"):
        lab.go_on(waiting, lab.open(waiting, timeout=0.3))


def test_code_that_swallows_everything_is_stopped_again(lab: Lab) -> None:
    """A bare except delays the end by about a second, and the late result does not count."""
    caught: list[BaseException] = []

    @checkpoint(timeout=0.2)
    def stubborn() -> str:
        for _ in range(2):
            try:
                busy(60)
            except BaseException as error:
                caught.append(error)
        return "late"

    @flow
    def calling() -> str:
        return stubborn()

    with pytest.raises(errors.KitaruExecutionError, match=r"told to stop after 0\.2 seconds, and its code"):
        lab.run(calling)
    assert len(caught) == 2


@pytest.mark.parametrize("word", ["", "async "], ids=["sync", "async"])
def test_a_blocked_main_thread_is_woken(tmp_path: Path, word: str) -> None:
    """In a process whose main thread runs the flow, as a worker's does, even time.sleep is stopped in time."""
    script = tmp_path / "sleeper.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import time, sys
            from pathlib import Path
            from kitaru import flow, checkpoint, errors
            from tests.execution_lab import Lab

            @checkpoint(timeout=0.3)
            {word}def sleeps():
                time.sleep(60)

            @flow
            {word}def calling():
                {word and "await "}sleeps()

            started = time.monotonic()
            try:
                Lab(Path(sys.argv[1])).run(calling)
            except errors.KitaruExecutionError as error:
                print(error, round(time.monotonic() - started))
            """
        )
    )
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, script, tmp_path / "store"],
        capture_output=True,
        text=True,
        timeout=50,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert "was stopped after 0.3 seconds" in done.stdout, done.stderr
    assert int(done.stdout.split()[-1]) < 30


@pytest.mark.parametrize("wrong", [0, -1, True, "3", float("inf"), float("nan")])
def test_a_wrong_timeout_is_refused_where_it_is_written(wrong: Any) -> None:
    """Positive numbers of seconds only."""
    with pytest.raises(errors.KitaruUsageError, match="timeout of"):
        checkpoint(timeout=wrong)(busy)
    with pytest.raises(errors.KitaruUsageError, match="timeout of"):
        flow(timeout=wrong)(busy)


def test_the_engine_is_never_hit() -> None:
    """Work that is shielded ends whole, whenever the stop comes; the code around it learns of it right after."""
    for turn in range(60):
        interrupts = Interrupts()
        whole: list[int] = []
        begun: list[int] = []

        def engine(whole: list[int] = whole, begun: list[int] = begun) -> None:
            begun.append(1)
            for _ in range(300):
                pass
            whole.append(1)

        def user(interrupts: Interrupts = interrupts) -> None:
            while True:
                interrupts.shielded(engine)

        stopper = threading.Timer(0.001 + turn * 0.0001, interrupts.stop, [RunStopped("now")])
        stopper.start()
        with pytest.raises(RunStopped, match="now"):
            interrupts.run(user)
        assert len(whole) == len(begun)
        stopper.join()
        interrupts.close()


def test_a_policy_gives_up_on_a_timeout_where_it_says_so(lab: Lab) -> None:
    """A timeout is an error like others: not_on names it."""
    tries: list[int] = []

    @checkpoint(timeout=0.1, retries=Retry(attempts=5, backoff=0, not_on=(errors.KitaruTimeoutError,)))
    def spin() -> None:
        tries.append(1)
        busy(60)

    @flow
    def calling() -> None:
        spin()

    with pytest.raises(errors.KitaruExecutionError):
        lab.run(calling)
    assert tries == [1]


def test_attempts_that_the_end_of_the_flow_stopped_are_recorded(lab: Lab) -> None:
    """Each is cancelled and says why, and no number is given twice: of both attempts at a flow that is late."""

    @checkpoint
    def naps() -> None:
        busy(30)

    @flow(timeout=0.3, retries=1)
    def late() -> None:
        naps()

    exec_id = lab.open(late, timeout=0.3, retries=1)
    with pytest.raises(errors.KitaruUserCodeError):
        lab.go_on(late, exec_id)
    (call,) = lab.load(exec_id).checkpoints
    assert call.status == "cancelled" and call.ended_at is not None
    assert [(one.number, one.status) for one in call.attempts] == [(1, "cancelled"), (2, "cancelled")]
    for one in call.attempts:
        assert one.failure is not None and one.failure.message == "stopped, as the time of the flow was over"


def test_a_call_that_its_flow_cancelled_does_not_run_for_ever(lab: Lab) -> None:
    """The flow goes on and completes; the call is shown as cancelled, and its next one is another attempt."""

    @checkpoint
    async def sleeps(n: int) -> int:
        await asyncio.sleep(n)
        return n

    @flow
    async def impatient() -> str:
        try:
            await asyncio.wait_for(sleeps(60), 0.2)
        except TimeoutError:
            return f"instead: {await sleeps(0)}"
        return "in time"

    exec_id = lab.open(impatient)
    assert lab.go_on(impatient, exec_id) == "instead: 0"
    first, second = lab.load(exec_id).checkpoints
    assert (first.status, second.status) == ("cancelled", "completed")
    (attempt,) = first.attempts
    assert attempt.status == "cancelled"
    assert attempt.failure is not None and attempt.failure.message == "stopped, as the flow cancelled its task"
    assert lab.load(exec_id).status == "completed"
