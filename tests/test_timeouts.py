"""Timeouts: an attempt that takes too long has failed, has ended before the next one begins, and is recorded."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from kitaru import Retry, checkpoint, errors, flow
from kitaru.run.user_code import Interrupted, uninterrupted, user_code
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


def on_a_thread(lab: Lab, flow_: Any, **options: Any) -> tuple[str, Any]:
    """Run it as a script does that goes on beside its flow: the execution's id, and the result or the error."""
    exec_id, outcome = lab.open(flow_, **options), list[Any]()

    def run() -> None:
        try:
            outcome.append(lab.go_on(flow_, exec_id))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    return exec_id, outcome[0]


# --- on the main thread -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("work", [busy, time.sleep], ids=["in Python", "in C"])
def test_an_attempt_is_interrupted_and_counts_as_failed(lab: Lab, work: Any) -> None:
    """Both attempts end soon after their 0.2 seconds, one after the other, with an error that names the line."""

    @checkpoint(timeout=0.2, retries=1)
    def spins(name: str) -> str:
        assert not UNDER_WAY, "two attempts at once"
        UNDER_WAY.append(name)
        try:
            work(60)
        except Exception:
            raise AssertionError("a timeout must not be swallowed by except Exception") from None
        finally:
            UNDER_WAY.remove(name)
        return name

    @flow
    def spinning() -> str:
        return spins("a")

    exec_id = lab.open(spinning)
    started = time.monotonic()
    with pytest.raises(errors.KitaruExecutionError, match=r"stopped after 0\.2 seconds") as caught:
        lab.go_on(spinning, exec_id)
    assert 0.4 <= time.monotonic() - started < 30
    assert isinstance(caught.value.__cause__, errors.KitaruTimeoutError)
    (call,) = lab.load(exec_id).checkpoints
    assert [attempt.status for attempt in call.attempts] == ["failed", "failed"]
    failure = call.attempts[0].failure
    assert failure is not None and failure.type == "kitaru.errors:KitaruTimeoutError"
    assert "work(60)" in failure.traceback


def test_an_attempt_in_time_is_not_touched(lab: Lab) -> None:
    """Calls that end before their timeout leave neither a timer nor a handler of the signal behind."""

    @checkpoint(timeout=5)
    def quick(i: int) -> int:
        return i

    @flow
    def many() -> int:
        return sum(quick(i) for i in range(200)) + sum(quick.map(range(100)).results())

    assert lab.run(many) == sum(range(200)) + sum(range(100))
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def test_code_that_swallows_everything_is_interrupted_again(lab: Lab) -> None:
    """A bare except delays the end by about a second, and the late result does not count."""
    caught: list[type[BaseException]] = []

    @checkpoint(timeout=0.2)
    def stubborn() -> str:
        for _ in range(2):
            try:
                busy(60)
            except BaseException as error:
                caught.append(type(error))
        return "late"

    @flow
    def calling() -> str:
        return stubborn()

    with pytest.raises(errors.KitaruExecutionError, match=r"had 0\.2 seconds, and its code did not return"):
        lab.run(calling)
    assert caught == [Interrupted, Interrupted]


def test_a_program_that_uses_the_signal_itself_keeps_it(lab: Lab) -> None:
    """Then the attempt is not interrupted, and has failed when it returns."""
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _frame: rung.append(number))
    try:

        @checkpoint(timeout=0.1)
        def late() -> None:
            busy(0.9)

        @flow
        def calling() -> None:
            late()

        with pytest.raises(errors.KitaruExecutionError, match=r"had 0\.1 seconds"):
            lab.run(calling)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert rung == []


def test_the_engine_is_never_interrupted() -> None:
    """Work of the engine ends whole, whenever the time is over; the code around it is interrupted right after."""

    class Late(Exception):
        pass

    for turn in range(20):
        whole: list[int] = []
        begun: list[int] = []

        @uninterrupted
        def engine(whole: list[int] = whole, begun: list[int] = begun) -> None:
            begun.append(1)
            for _ in range(300):
                pass
            whole.append(1)

        def user(engine: Any = engine) -> None:
            while True:
                engine()

        with pytest.raises(Late):
            user_code(user, 0.001 + turn * 0.001, lambda _spent: Late())
        assert len(whole) == len(begun)


def test_the_inner_limit_ends_the_inner_code_alone() -> None:
    """The code around it goes on, until its own time is over."""

    def inner() -> str:
        try:
            uninterrupted(user_code)(lambda: busy(60), 0.1, lambda _spent: KeyError("inner"))
        except KeyError:
            busy(60)
        return "never"

    with pytest.raises(ValueError, match="outer"):
        user_code(inner, 0.3, lambda _spent: ValueError("outer"))


# --- on other threads -------------------------------------------------------------------------------------------------


def test_submitted_attempts_that_overran_have_failed(lab: Lab) -> None:
    """Of calls on threads those that are quick enough succeed; the next attempt waits for the end of a late one."""
    under_way = threading.Semaphore(1)
    tries: list[float] = []

    @checkpoint(timeout=0.3)
    def takes(seconds: float) -> float:
        busy(seconds)
        return seconds

    @checkpoint(timeout=0.3, retries=1)
    def twice() -> str:
        assert under_way.acquire(blocking=False), "two attempts at once"
        tries.append(time.monotonic())
        busy(0.9 if len(tries) == 1 else 0.0)
        under_way.release()
        return "in time"

    @flow
    def several() -> list[Any]:
        again = twice.submit()
        futures = takes.map([0.01, 0.9, 0.02], on_error="collect")
        first = [type(outcome.error).__name__ if outcome.error else outcome.value for outcome in futures.outcomes()]
        return [*first, again.result()]

    assert lab.run(several) == [0.01, "KitaruTimeoutError", 0.02, "in time"]


def test_a_flow_beside_a_script_finds_its_overrun_attempts(lab: Lab) -> None:
    """Nothing interrupts a thread: the attempt has failed when it returns, whether with a value or an error."""

    @checkpoint(timeout=0.2)
    def late(kind: str) -> str:
        busy(0.9)
        if kind == "raises":
            raise ValueError("mine")
        return kind

    @flow
    def calling() -> list[str]:
        found = []
        for kind in ("returns", "raises"):
            try:
                found.append(late(kind))
            except errors.KitaruTimeoutError as error:
                found.append(str(error))
        return found

    _, result = on_a_thread(lab, calling)
    assert len(result) == 2 and all("had 0.2 seconds, and its code did not return" in one for one in result), result


def test_a_flow_s_time_on_a_thread_is_over_at_its_next_call(lab: Lab) -> None:
    """What finished is recorded; the flow's body goes no further."""
    ran: list[int] = []

    @checkpoint
    def step(n: int) -> int:
        busy(0.3)
        ran.append(n)
        return n

    @flow(timeout=0.5)
    def steps() -> int:
        return sum(step(n) for n in range(100))

    exec_id, error = on_a_thread(lab, steps, timeout=0.5)
    assert "flow 'steps'" in str(error) and "0.5 seconds" in str(error)
    assert len(ran) < 5 and lab.load(exec_id).status == "failed"


# --- async code -------------------------------------------------------------------------------------------------------


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
    assert "after 0.2 seconds" in late and mine == "mine" and value == 7
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

    assert "after 0.2 seconds" in lab.run(plain)


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

    exec_id = lab.open(calling)
    assert lab.go_on(calling, exec_id) == 7
    assert tries[1] - tries[0] >= 0.9
    (call,) = lab.load(exec_id).checkpoints
    first, second = call.attempts
    assert (first.status, second.status) == ("failed", "completed")
    assert first.failure is not None and "had 0.2 seconds, and its code did not" in first.failure.message


def test_the_end_of_an_async_attempt_has_time_to_tidy_up(lab: Lab) -> None:
    """The code that takes the cancellation may await and compute for a moment."""
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

    with pytest.raises(errors.KitaruExecutionError, match=r"0\.2 seconds"):
        lab.run(calling)
    assert tidied == ["whole"]


# --- the flow's own time ----------------------------------------------------------------------------------------------


def test_a_flow_is_stopped_with_all_it_does_and_tried_again(lab: Lab) -> None:
    """The body and its calls have ended before the second attempt begins; finished calls don't run again."""
    ran: list[str] = []

    @checkpoint
    def done(name: str) -> str:
        ran.append(name)
        return name

    @checkpoint
    def long(name: str, seconds: float) -> str:
        ran.append(name)
        UNDER_WAY.append(name)
        try:
            busy(0.0 if ran.count(name) > 1 else seconds)
        finally:
            UNDER_WAY.remove(name)
        return name

    @flow(timeout=0.4, retries=1)
    def whole() -> list[str]:
        assert not UNDER_WAY
        first = done("done")
        beside = long.submit("beside", 1.0)
        return [first, long("inline", 60), beside.result()]

    exec_id = lab.open(whole, timeout=0.4)
    started = time.monotonic()
    assert lab.go_on(whole, exec_id) == ["done", "inline", "beside"]
    assert time.monotonic() - started < 30
    assert (ran.count("done"), ran.count("beside")) == (1, 1)
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

    with pytest.raises(errors.KitaruExecutionError, match=r"flow 'blocks' had 0\.2 seconds, and"):
        lab.go_on(blocks, lab.open(blocks, timeout=0.2))


def test_calls_that_outlive_the_body_end_with_the_flow_s_time(lab: Lab) -> None:
    """A body that returned before its submitted async calls leaves them what is left of the flow's time."""

    @checkpoint
    async def sleeps() -> None:
        await asyncio.sleep(60)

    @flow(timeout=0.3)
    async def leaves() -> int:
        sleeps.submit()
        return 1

    @flow(timeout=0.3)
    def leaves_too() -> int:
        sleeps.submit()
        return 1

    began = time.monotonic()
    for body in (leaves, leaves_too):
        with pytest.raises(errors.KitaruExecutionError, match=rf"flow '{body.name}'.* 0\.3 seconds"):
            lab.go_on(body, lab.open(body, timeout=0.3))
    assert time.monotonic() - began < 40


def test_a_flow_that_only_waits_is_stopped(lab: Lab) -> None:
    """Of a body that waits for an async call on the run's own loop, the call is cancelled."""

    @checkpoint
    async def long() -> None:
        await asyncio.sleep(60)

    @flow(timeout=0.3)
    def waiting() -> None:
        long()

    with pytest.raises(errors.KitaruExecutionError, match=r"0\.3 seconds"):
        lab.go_on(waiting, lab.open(waiting, timeout=0.3))


# --- records ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [0, -1, True, "3", float("inf"), float("nan")])
def test_a_wrong_timeout_is_refused_where_it_is_written(wrong: Any) -> None:
    """Positive numbers of seconds only."""
    with pytest.raises(errors.KitaruUsageError, match="timeout of"):
        checkpoint(timeout=wrong)(busy)
    with pytest.raises(errors.KitaruUsageError, match="timeout of"):
        flow(timeout=wrong)(busy)


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
