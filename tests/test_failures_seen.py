"""What a failure that the flow has seen means: on resume it is met again, on a new attempt what failed is computed."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kitaru import checkpoint, flow, log, save, wait
from kitaru.errors import KitaruExecutionError
from kitaru.flows.flow import Flow
from kitaru.model import address
from kitaru.run.journal import RunSuspended, Stopped
from tests.execution_lab import PROJECT, FailingStore, Lab, PowerCut

RAN: Counter[str] = Counter()
FAILS: dict[str, int] = {}
"""How often each checkpoint fails before it has a result, by its name; once unless it says otherwise."""


@pytest.fixture(autouse=True)
def fresh() -> None:
    RAN.clear()
    FAILS.clear()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "store")


def tried(name: str, value: Any) -> Any:
    RAN[name] += 1
    if RAN[name] <= FAILS.get(name, 1):
        raise ConnectionError(f"{name} is away")
    return value


@checkpoint(cache=False)
def flaky(x: int) -> str:
    return str(tried("flaky", f"ok {x}"))


@checkpoint(cache=False)
def other(x: int) -> str:
    return str(tried("other", f"other {x}"))


@checkpoint(cache=False)
async def flaky_async(x: int) -> str:
    return str(tried("flaky_async", f"ok {x}"))


@checkpoint(cache=False, retries=2)
def stubborn(x: int) -> str:
    return str(tried("stubborn", f"ok {x}"))


@checkpoint(cache=False)
def odd(x: int) -> int:
    RAN[f"odd {x}"] += 1
    if x % 2 and RAN[f"odd {x}"] == 1:
        raise ConnectionError(f"{x} is odd")
    return x


@checkpoint(cache=False)
def fallback(x: int) -> str:
    RAN["fallback"] += 1
    return f"fallback {x}"


@checkpoint(cache=False)
def big(x: int) -> str:
    RAN["big"] += 1
    return f"big {x} {RAN['big']}"


@checkpoint(cache=False)
def publish(text: Any, fine: bool = True) -> str:
    RAN["publish"] += 1
    return f"{text} now {fine}"


# --- resume -----------------------------------------------------------------------------------------------------------


@flow
def asks(x: int) -> str:
    try:
        text = flaky(x)
    except ConnectionError:
        if not wait(schema=bool, name="use_fallback", question="Use it?", timeout=0):
            return "given up"
        text = fallback(x)
    return publish(text, True)


@flow
def asks_after_a_map(x: int) -> str:
    outcomes = odd.map(range(x), on_error="collect").outcomes()
    failed = [str(one.error) for one in outcomes if not one.ok]
    return f"{failed} {wait(schema=bool, name='go_on', timeout=0)}"


@flow
async def asks_async(x: int) -> str:
    try:
        text = await flaky_async(x)
    except ConnectionError:
        return f"given up: {await wait(schema=bool, name='go_on', timeout=0)}"
    return text


@flow
def asks_beside(x: int) -> str:
    text = stubborn.submit(x)
    text.exception()
    return f"{wait(schema=bool, name='go_on', timeout=0)}: {text.exception()}"


def leave(lab: Lab, flow_: Flow[..., Any], **inputs: Any) -> str:
    """Run it until its runner leaves, as it waits."""
    exec_id = lab.open(flow_, **inputs)
    with pytest.raises(RunSuspended):
        lab.go_on(flow_, exec_id)
    return exec_id


def answer(lab: Lab, exec_id: str, value: Any, wait_id: str = "w1") -> None:
    body = address.canonical_json({"value": value, "by": "ann", "at": address.timestamp(lab.clock.now())})
    lab.store.create(address.wait_answer(PROJECT, exec_id, wait_id), body)


@pytest.mark.parametrize(
    ("flow_", "fails", "runs", "result"),
    [
        (asks, {}, {"flaky": 1}, "given up"),
        (asks_after_a_map, {}, {f"odd {n}": 1 for n in range(3)}, "['1 is odd'] False"),
        (asks_async, {}, {"flaky_async": 1}, "given up: False"),
        (asks_beside, {"stubborn": 9}, {"stubborn": 3}, "False: stubborn is away"),
    ],
    ids=["caught", "collected", "async", "submitted"],
)
def test_an_answer_counts_though_what_led_to_the_question_would_succeed_now(
    lab: Lab, flow_: Flow[..., Any], fails: dict[str, int], runs: dict[str, int], result: str
) -> None:
    """The runner leaves, somebody answers: the recorded failure is met again, no retry is used up, the answer used."""
    FAILS.update(fails)
    exec_id = leave(lab, flow_, x=3)
    answer(lab, exec_id, False)
    assert lab.go_on(flow_, exec_id) == result
    assert runs == RAN
    assert [one.value and one.value.inline for one in lab.load(exec_id).waits] == [False]


@checkpoint(cache=False)
def explain(error: Any) -> str:
    RAN["explain"] += 1
    return f"{type(error).__name__}: {error}"


@flow
def hands_on(x: int) -> str:
    try:
        return flaky(x)
    except ConnectionError as error:
        text = explain(error)
    return f"{text} {wait(schema=bool, name='go_on', timeout=0)}"


def test_a_failure_that_is_handed_to_a_checkpoint_is_the_same_when_it_is_met_again(lab: Lab) -> None:
    """What is recorded for it is found; that is no divergence."""
    exec_id = leave(lab, hands_on, x=3)
    answer(lab, exec_id, True)
    assert lab.go_on(hands_on, exec_id) == "ConnectionError: flaky is away True"
    assert RAN == {"flaky": 1, "explain": 1}


@flow
def notes_only(x: int) -> str:
    try:
        return flaky(x)
    except ConnectionError:
        log(went="without")
        save("apology", "sorry")
        return fallback(x)


@pytest.mark.parametrize("after", [False, True], ids=["before-the-write", "after-the-write"])
def test_a_recorded_failure_is_met_again_wherever_the_runner_ended(tmp_path: Path, after: bool) -> None:
    """Killed at any write: what failed for good runs again only where its failure is not recorded."""
    for cut in range(1, 20):
        RAN.clear()
        lab = Lab(tmp_path / f"{after}-{cut}")
        exec_id = lab.open(notes_only, x=5)
        store = FailingStore(lab.store, cut, after=after)
        with suppress(PowerCut, Stopped):
            lab.go_on(notes_only, exec_id, store=store)
        if not store.is_out:
            assert cut > 3
            return
        known = any(call.status == "failed" for call in lab.load(exec_id).checkpoints)
        result = lab.go_on(notes_only, exec_id)
        assert result == ("fallback 5" if known else "ok 5")
        assert lab.load(exec_id).metadata == ({"went": "without"} if known else {})
        assert RAN["flaky"] == (1 if known else 2)
    pytest.fail("the execution never came to its end")


# --- a new attempt ----------------------------------------------------------------------------------------------------


@flow(retries=1)
def cleans_up(x: int) -> str:
    try:
        text = flaky(x)
    except ConnectionError:
        fallback(x)
        raise
    return publish(text)


@flow(retries=1)
def cleans_up_from(x: int) -> str:
    try:
        text = flaky(x)
    except ConnectionError as error:
        fallback(x)
        raise RuntimeError("no luck") from error
    return publish(text)


@flow(retries=1)
def cleans_up_silently(x: int) -> str:
    try:
        text = flaky(x)
    except ConnectionError:
        fallback(x)
        raise RuntimeError("no luck") from None
    return publish(text)


@flow(retries=1)
def forgets_why(x: int) -> str:
    text = None
    with suppress(ConnectionError):
        text = flaky(x)
    if text is None:
        fallback(x)
        raise RuntimeError("no luck")
    return publish(text)


@flow(retries=1)
async def gathers(x: int) -> str:
    texts = await asyncio.gather(flaky_async(x), return_exceptions=True)
    for text in texts:
        if isinstance(text, BaseException):
            fallback(x)
            raise text
    return publish(texts[0])


@flow(retries=1)
def groups(x: int) -> str:
    outcomes = flaky.map([x], on_error="collect").outcomes()
    if errors := [one.error for one in outcomes if isinstance(one.error, Exception)]:
        fallback(x)
        raise ExceptionGroup("no luck", errors)
    return publish(outcomes[0].value)


RAISING = [cleans_up, cleans_up_from, cleans_up_silently, forgets_why, gathers, groups]


@pytest.mark.parametrize("how", ["flow retry", "taken up again"])
@pytest.mark.parametrize("flow_", RAISING, ids=lambda one: one.name)
def test_a_flow_that_cleans_up_and_raises_can_be_retried(lab: Lab, flow_: Flow[..., Any], how: str) -> None:
    """The failed call is computed anew, and the body may take another way from there."""
    exec_id = lab.open(flow_, x=5, retries=None if how == "flow retry" else 0)
    if how == "taken up again":
        with pytest.raises(KitaruExecutionError):
            lab.go_on(flow_, exec_id)
    assert lab.go_on(flow_, exec_id) == "ok 5 now True"
    assert (RAN["fallback"], RAN["publish"]) == (1, 1)
    before = lab.entries(exec_id)
    assert lab.go_on(flow_, exec_id) == "ok 5 now True" and lab.entries(exec_id) == before


@pytest.mark.parametrize("flow_", RAISING, ids=lambda one: one.name)
@pytest.mark.parametrize("after", [False, True], ids=["before-the-write", "after-the-write"])
def test_a_power_cut_at_any_write_of_a_flow_that_is_retried(tmp_path: Path, flow_: Flow[..., Any], after: bool) -> None:
    """Whatever moment it dies at, it comes to the same end, and nothing recorded runs again."""
    for cut in range(1, 30):
        RAN.clear()
        lab = Lab(tmp_path / f"{after}-{cut}")
        exec_id = lab.open(flow_, x=5)
        store = FailingStore(lab.store, cut, after=after)
        with suppress(PowerCut, Stopped):
            lab.go_on(flow_, exec_id, store=store)
        if not store.is_out:
            assert cut > 5
            return
        done = {call.name for call in lab.load(exec_id).checkpoints if call.status == "completed"}
        before = RAN.copy()
        assert lab.go_on(flow_, exec_id) == "ok 5 now True"
        again = RAN - before
        assert not done & set(again), f"ran again after write {cut}"
    pytest.fail("the execution never came to its end")


@flow(retries=1)
def two_ways(x: int) -> str:
    try:
        text = flaky(x)
    except ConnectionError:
        fallback(x)
        first, second = big(x), big(x)
        text = f"{first}, {second}"
        raise
    return f"{text}: {big(x)}, {big(x)}, {big(x)}"


@pytest.mark.parametrize("after", [False, True], ids=["before-the-write", "after-the-write"])
def test_what_an_earlier_attempt_finished_is_kept_where_the_same_is_called(tmp_path: Path, after: bool) -> None:
    """At another place, too, each result once and the first one first; also after a kill at any write."""
    for cut in range(1, 30):
        RAN.clear()
        lab = Lab(tmp_path / f"{after}-{cut}")
        exec_id = lab.open(two_ways, x=5)
        store = FailingStore(lab.store, cut, after=after)
        with suppress(PowerCut, Stopped):
            lab.go_on(two_ways, exec_id, store=store)
        known = {call.output.inline for call in lab.load(exec_id).checkpoints if call.output}
        result = lab.go_on(two_ways, exec_id)
        if not store.is_out:
            assert result == "ok 5: big 5 1, big 5 2, big 5 3"
            assert RAN == {"flaky": 2, "fallback": 1, "big": 3}
            return
        found = {call.output.inline for call in lab.load(exec_id).checkpoints if call.output}
        assert known <= found and len(set(result.partition(": ")[2].split(", "))) == 3
    pytest.fail("the execution never came to its end")


@flow(retries=1)
def one_caught_one_not(x: int) -> str:
    try:
        first = flaky(x)
    except ConnectionError:
        first = fallback(x)
    return f"{first} and {other(x)}"


def test_a_retry_of_the_body_computes_every_call_that_failed(lab: Lab) -> None:
    """The one that the body went on from, too; the results of calls that it makes no more stay recorded."""
    exec_id = lab.open(one_caught_one_not, x=5)
    assert lab.go_on(one_caught_one_not, exec_id) == "ok 5 and other 5"
    assert RAN == {"flaky": 2, "fallback": 1, "other": 2}
    assert [call.name for call in lab.load(exec_id).checkpoints if call.output] == ["flaky", "fallback", "other"]


@flow(retries=1)
def maps(x: int) -> list[int]:
    return odd.map(range(x), on_error="collect").results()


@flow(retries=1)
def submits(x: int) -> list[str]:
    first = flaky.submit(x)
    first.settled()
    second = other(x)
    return [first.result(), second]


@pytest.mark.parametrize("flow_", [maps, submits], ids=lambda one: one.name)
def test_one_retry_is_enough_for_all_that_failed_together(lab: Lab, flow_: Flow[..., Any]) -> None:
    """A map names one failure of several, and a future's may be unseen: none of them was handled."""
    exec_id = lab.open(flow_, x=6)
    assert lab.go_on(flow_, exec_id) == ([0, 1, 2, 3, 4, 5] if flow_ is maps else ["ok 6", "other 6"])


@flow(retries=1)
def asks_and_fails(x: int) -> str:
    try:
        text = flaky(x)
    except ConnectionError:
        if wait(schema=bool, name="clean_up", question="Clean up?", timeout=0):
            fallback(x)
        wait(schema=bool, name="release", question="Release?", timeout=0)
        raise
    return f"{text}: {wait(schema=bool, name='release', question='Release?', timeout=0)}"


def test_an_answer_is_kept_where_the_same_is_asked(lab: Lab) -> None:
    """In the new attempt the body asks less: it finds the answer at another place, and is not asked again."""
    exec_id = leave(lab, asks_and_fails, x=5)
    answer(lab, exec_id, True)
    with pytest.raises(RunSuspended):
        lab.go_on(asks_and_fails, exec_id)
    answer(lab, exec_id, False, "w2")
    assert lab.go_on(asks_and_fails, exec_id) == "ok 5: False"
    assert [one.status for one in lab.load(exec_id).waits] == ["answered", "answered"]


@flow
def asks_otherwise(x: int) -> str:
    try:
        text = flaky(x)
    except ConnectionError:
        wait(schema=bool, name="clean_up", timeout=0)
        raise
    return f"{text}: {wait(schema=str, name='who', timeout=0)}"


def test_another_question_at_the_place_of_one_that_was_answered_is_a_wait_of_its_own(lab: Lab) -> None:
    """It has an id of its own, so that it takes nobody else's answer; the old one is of an earlier attempt."""
    exec_id = leave(lab, asks_otherwise, x=5)
    answer(lab, exec_id, True)
    with pytest.raises(KitaruExecutionError):
        lab.go_on(asks_otherwise, exec_id)
    with pytest.raises(RunSuspended):
        lab.go_on(asks_otherwise, exec_id)
    assert [one.wait_id for one in lab.load(exec_id).open_waits] == ["w1@2"]
    answer(lab, exec_id, "ann", "w1@2")
    assert lab.go_on(asks_otherwise, exec_id) == "ok 5: ann"


def test_a_retried_flow_that_fails_again_goes_on_trying(lab: Lab) -> None:
    """Attempt after attempt: the failed call is computed, the cleaning up kept, until it gets through."""
    FAILS["flaky"] = 3
    exec_id = lab.open(cleans_up, x=5, retries=0)
    for _ in range(3):
        with pytest.raises(KitaruExecutionError):
            lab.go_on(cleans_up, exec_id)
    assert lab.go_on(cleans_up, exec_id) == "ok 5 now True"
    assert (RAN["flaky"], RAN["fallback"]) == (4, 1)
    (first, *_), calls = lab.load(exec_id).checkpoints, lab.load(exec_id).checkpoints
    assert [one.number for one in first.attempts] == [1, 2, 3, 4] and len(calls) == 3
