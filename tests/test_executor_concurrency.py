"""Futures, maps, tasks and threads of a flow."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kitaru import checkpoint, errors, flow
from kitaru.core.replay import plan_replay
from kitaru.model import address
from kitaru.model.event import Opened
from kitaru.run.replay import offers, open_replay
from tests.execution_lab import CountingStore, Lab
from tests.executor_steps import RAN, aadd, add, boom


@pytest.fixture(autouse=True)
def fresh() -> None:
    RAN.clear()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "store")


def test_concurrent_checkpoints_share_journal_entries(tmp_path: Path) -> None:
    """Forty checkpoints that finish while a slow write is in flight need a few entries, not forty."""
    lab = Lab(tmp_path, lambda inner: CountingStore(inner, delay=0.02))
    exec_id = lab.open(wide, n=40)
    assert lab.go_on(wide, exec_id) == list(range(1, 41))
    assert len(lab.entries(exec_id)) < 15
    assert len(lab.load(exec_id).checkpoints) == 40


@flow
def wide(n: int) -> list[int]:
    return add.map(range(n)).results()


def test_futures_are_passed_on_nested_and_resolved_in_the_result(lab: Lab) -> None:
    """A future may stand for its value in arguments, in containers, and in what the flow returns."""

    @checkpoint
    def total(parts: list[int], named: dict[str, tuple[int, ...]]) -> int:
        return sum(parts) + sum(named["more"])

    @flow
    def composed() -> dict[str, Any]:
        one, two = add.submit(1), add.submit(2)
        three = total.submit([one, 10], {"more": (two, 100)})
        return {
            "direct": add(one),  # type: ignore[arg-type]
            "all": three,
            "list": [two, (one,)],
        }

    assert lab.run(composed) == {"direct": 3, "all": 115, "list": [3, (2,)]}


def test_a_chain_of_submitted_calls_longer_than_the_pool_ends(lab: Lab) -> None:
    """Waiting for a dependency takes no thread: 400 dependent calls end."""

    @flow
    def dependent() -> int:
        value: Any = 0
        for _ in range(400):
            value = add.submit(value)
        result: int = value.result()
        return result

    assert lab.run(dependent) == 400


def test_after_orders_calls_that_pass_no_value(lab: Lab) -> None:
    """``after=`` holds a call back until the futures are done."""

    @checkpoint
    def first() -> None:
        time.sleep(0.05)
        RAN.append("first")

    @checkpoint
    def second() -> None:
        RAN.append("second")

    @flow
    def ordered() -> None:
        one = first.submit()
        second.submit(after=[one])

    lab.run(ordered)
    assert RAN == ["first", "second"]
    with pytest.raises(errors.KitaruUserCodeError, match="after= of add must be a future"):
        lab.run(badly_ordered)


@flow
def badly_ordered() -> None:
    add.submit(1, after=3)


def test_max_concurrency_bounds_what_runs_at_once(lab: Lab) -> None:
    """At most the given number of a map's calls run at once, sync and async."""
    running, most = 0, 0
    guard = threading.Lock()

    def enter() -> None:
        nonlocal running, most
        with guard:
            running += 1
            most = max(most, running)

    def leave() -> None:
        nonlocal running
        with guard:
            running -= 1

    @checkpoint
    def step(i: int) -> int:
        enter()
        time.sleep(0.01)
        leave()
        return i

    @checkpoint
    async def astep(i: int) -> int:
        enter()
        await asyncio.sleep(0.01)
        leave()
        return i

    @flow
    def bounded() -> list[int]:
        return step.map(range(12), max_concurrency=3).results()

    @flow
    def abounded() -> list[int]:
        return astep.map(range(12), max_concurrency=3).results()

    assert lab.run(bounded) == list(range(12)) and most == 3
    most = 0
    assert lab.run(abounded) == list(range(12)) and most == 3


def test_map_zips_product_combines_and_constants_stay(lab: Lab) -> None:
    """``map`` takes elements together, ``product`` every combination, named constants go to each call."""

    @flow
    def shapes() -> list[Any]:
        return [add.map([1, 2], [10, 20]), add.product([1, 2], [10, 20]), add.map([1, 2], b=5).results()]

    assert lab.run(shapes) == [[11, 22], [11, 21, 12, 22], [6, 7]]

    @flow
    def uneven() -> None:
        add.map([1], [1, 2])

    with pytest.raises(errors.KitaruUserCodeError, match="different lengths"):
        lab.run(uneven)


def test_a_failure_that_nobody_looked_at_fails_the_flow(lab: Lab) -> None:
    """A submitted checkpoint that failed unobserved is not lost; one whose error was asked for is the flow's affair."""

    @flow
    def careless() -> str:
        boom.submit("unseen")
        return "fine"

    @flow
    def careful() -> str:
        return type(boom.submit("seen").exception()).__name__

    with pytest.raises(errors.KitaruUserCodeError, match="unseen"):
        lab.run(careless)
    assert lab.run(careful) == "ValueError"


def test_calls_that_wait_their_turn_do_not_begin_once_the_body_failed(lab: Lab) -> None:
    """A failing body waits for the calls under way, and starts no further ones."""

    @checkpoint
    def slow(i: int) -> int:
        RAN.append(i)
        time.sleep(0.05)
        return i

    @flow
    def failing() -> None:
        slow.map(range(50), max_concurrency=2)
        raise RuntimeError("stop")

    exec_id = lab.open(failing)
    with pytest.raises(errors.KitaruUserCodeError, match="stop"):
        lab.go_on(failing, exec_id)
    assert len(RAN) <= 4
    assert {call.status for call in lab.load(exec_id).checkpoints} <= {"completed"}


def test_async_flows_gather_and_mix_with_sync_checkpoints(lab: Lab) -> None:
    """Async checkpoints overlap by gather; sync ones run inline; futures can be awaited."""

    @checkpoint
    async def naps(i: int) -> int:
        await asyncio.sleep(0.1)
        return i

    @flow
    async def overlapping() -> Any:
        gathered = await asyncio.gather(*[naps(i) for i in range(20)])
        submitted = naps.submit(50)
        chained = aadd.submit(submitted, b=add.submit(1))
        return gathered, await submitted, await chained, add(7), naps.map([1, 2])

    started = time.monotonic()
    assert lab.run(overlapping) == (list(range(20)), 50, 52, 8, [1, 2])
    assert time.monotonic() - started < 1.5


def test_waiting_for_an_async_checkpoint_on_its_own_loop_is_refused(lab: Lab) -> None:
    """``result()`` in an async flow would never return; the error says: await."""

    @flow
    async def blocking() -> int:
        return aadd.submit(1).result()

    with pytest.raises(errors.KitaruUserCodeError, match="would block the event loop"):
        lab.run(blocking)


def test_gathered_branches_keep_their_keys_whoever_is_faster(lab: Lab) -> None:
    """Each task has calls of its own: the timing of one run does not matter to the next."""
    delays = [0.03, 0.0, 0.015]

    @checkpoint
    async def named(branch: int, step: int) -> str:
        RAN.append((branch, step))
        return f"{branch}-{step}"

    @flow
    async def racing() -> list[list[str]]:
        async def branch(i: int) -> list[str]:
            found = []
            for step in range(3):
                await asyncio.sleep(delays[i])
                found.append(await named(i, step))
            return found

        result = await asyncio.gather(*[branch(i) for i in range(3)])
        if not RAN.count("stopped"):
            RAN.append("stopped")
            raise KeyboardInterrupt
        return result

    exec_id = lab.open(racing)
    with pytest.raises(KeyboardInterrupt):
        lab.go_on(racing, exec_id)
    keys = {call.call_id: call.args for call in lab.load(exec_id).checkpoints}
    assert keys == {f"{i + 1}/{j + 1}": {"branch": i, "step": j} for i in range(3) for j in range(3)}
    RAN[:] = ["stopped"]
    delays.reverse()
    assert lab.go_on(racing, exec_id) == [[f"{i}-{j}" for j in range(3)] for i in range(3)]
    assert RAN == ["stopped"]


def test_async_checkpoints_in_a_sync_flow_return_values(lab: Lab) -> None:
    """Called directly they run to completion; submitted they overlap."""

    @checkpoint
    async def naps(i: int) -> int:
        await asyncio.sleep(0.1)
        return i

    @flow
    def overlapping() -> list[Any]:
        started = time.monotonic()
        found = naps.map(range(20)).results()
        assert time.monotonic() - started < 1
        return [found, naps(3), naps.submit(add.submit(4))]

    assert lab.run(overlapping) == [list(range(20)), 3, 5]


def test_async_retries_and_failures_are_recorded_too(lab: Lab) -> None:
    """An async checkpoint's attempts are recorded as a sync one's are."""

    @checkpoint(retries=1)
    async def aflaky() -> int:
        RAN.append("try")
        if len(RAN) == 1:
            raise OSError("first")
        return 1

    @flow
    async def trying() -> int:
        return await aflaky()

    exec_id = lab.open(trying)
    assert lab.go_on(trying, exec_id) == 1
    assert [attempt.status for attempt in lab.load(exec_id).checkpoints[0].attempts] == ["failed", "completed"]


def test_context_variables_of_the_flow_reach_submitted_checkpoints(lab: Lab) -> None:
    """What a flow sets in its context is seen by a checkpoint on another thread."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    @checkpoint
    def look() -> str:
        return variable.get()

    @flow
    def setting() -> str:
        variable.set("set")
        result: str = look.submit().result()
        return result

    assert lab.run(setting) == "set"


def test_threads_of_a_run_end_with_it(lab: Lab) -> None:
    """After the run no thread of it is left."""
    lab.run(wide, n=30)
    for _ in range(100):
        left = [thread.name for thread in threading.enumerate() if thread.name.startswith("kitaru")]
        if not left:
            break
        time.sleep(0.02)
    assert not left


def test_a_sync_flow_may_run_a_loop_of_its_own(lab: Lab) -> None:
    """Inside ``asyncio.run`` in a sync body, async checkpoints are awaited as in an async flow."""

    @flow
    def own_loop() -> list[int]:
        async def main() -> list[int]:
            first = await aadd(1)
            future = aadd.submit(first)
            return [first, await future, *await asyncio.gather(aadd(10), aadd(20))]

        return asyncio.run(main())

    exec_id = lab.open(own_loop)
    assert lab.go_on(own_loop, exec_id) == [2, 3, 11, 21]
    assert sorted(call.call_id for call in lab.load(exec_id).checkpoints) == ["1", "2", "3", "4"]


def test_threads_with_the_flows_context_never_share_a_key(lab: Lab) -> None:
    """A thread of the user's own that carries the flow's context can call checkpoints; every call has its own key."""

    @flow
    def threaded() -> int:
        threads = [threading.Thread(target=contextvars.copy_context().run, args=(add, number)) for number in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(threads)

    exec_id = lab.open(threaded)
    assert lab.go_on(threaded, exec_id) == 30
    assert len({call.call_id for call in lab.load(exec_id).checkpoints}) == 30


def test_a_cancelled_body_is_a_failure_of_the_flow(lab: Lab) -> None:
    """A task that cancels the flow's own does not leave the execution running for ever."""

    @flow
    async def cancels_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    exec_id = lab.open(cancels_itself)
    with pytest.raises(errors.KitaruUserCodeError, match="was cancelled"):
        lab.go_on(cancels_itself, exec_id)
    assert lab.load(exec_id).status == "failed"


def test_large_results_of_a_map_are_reused_after_a_failure_and_in_a_replay(lab: Lab) -> None:
    """Also those that are objects of their own, which the calls read on other threads."""
    ran: list[int] = []
    ends: list[bool] = []

    @checkpoint
    def large(number: int) -> str:
        ran.append(number)
        return f"{number}" * 500_000

    @flow
    def spread() -> int:
        sizes = sum(len(text) for text in large.map([1, 2, 3]).results())
        if not ends:
            ends.append(True)
            raise ValueError("later")
        return sizes

    first = lab.open(spread, retries=1)
    assert lab.go_on(spread, first) == 1_500_000
    assert sorted(ran) == [1, 2, 3]
    original = lab.load(first)
    assert {call.output.stored for call in original.checkpoints if call.output} == {"object"}
    opened = lab.events(first)[0]
    assert isinstance(opened, Opened)
    moment = lab.clock.now()
    again = replace(opened, exec_id=address.exec_id(moment, lab.clock.token(8)), original_exec_id=first)
    plan = plan_replay(original, cut="3")
    offered = offers(lab.events(first), plan, {}, {}, by="", at=address.timestamp(moment), movable=False)
    open_replay(lab.store, lab.clock, again, offered)
    ran.clear()
    assert lab.go_on(spread, again.exec_id) == 1_500_000
    assert len(ran) == 1
