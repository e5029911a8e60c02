"""What only an earlier attempt at the flow's body made is told apart, once it is certain that none comes to it."""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kitaru import KitaruClient, checkpoint, flow, wait
from kitaru.cli.views.executions import execution_lines, progress_line
from kitaru.cli.views.page import execution_page
from kitaru.data_files import template
from kitaru.errors import KitaruExecutionError, KitaruInputError, KitaruStateError, KitaruUsageError
from kitaru.flows.flow import Flow
from kitaru.flows.retry import Retry
from kitaru.model.event import AttemptFailed, Event, Failed, Value
from kitaru.model.execution import Execution, fold
from tests.execution_lab import Lab
from tests.repository import until

RAN: Counter[str] = Counter()
FAILS: dict[str, int] = {}
"""How often a checkpoint fails before it has a result; once unless it says otherwise."""

WAYS: list[list[str]] = []
"""The labels of the steps that each attempt at ``goes`` makes."""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    RAN.clear()
    FAILS.clear()
    yield
    RAN["go"] += 1


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "store")


def tried(name: str, value: str) -> str:
    RAN[name] += 1
    if RAN[name] <= FAILS.get(name, 1):
        raise ConnectionError(f"{name} is away")
    return value


@checkpoint(cache=False)
def flaky() -> str:
    return tried("flaky", "ok")


@checkpoint(cache=False)
async def flaky_async() -> str:
    await asyncio.sleep(0.2)
    return tried("flaky_async", "ok")


@checkpoint(cache=False, retries=Retry(attempts=2, backoff=60))
def patient() -> str:
    return tried("patient", "ok")


@checkpoint(cache=False)
def step(label: str) -> str:
    RAN[label] += 1
    return label


@checkpoint(cache=False)
def fallback() -> str:
    RAN["fallback"] += 1
    return "sorry"


@checkpoint(cache=False)
def publish(text: str) -> str:
    RAN["publish"] += 1
    return f"{text}, published"


def superseded(execution: Execution) -> set[str]:
    return {call.call_id for call in execution.checkpoints if call.superseded}


def labels(execution: Execution) -> set[str]:
    """Of the steps that are superseded."""
    return {call.args["label"] for call in execution.checkpoints if call.superseded and call.name == "step"}


# --- what is superseded -----------------------------------------------------------------------------------------------


@flow
def goes() -> list[str]:
    way, made = WAYS[min(RAN["flaky"], len(WAYS) - 1)], []
    try:
        flaky()
    except ConnectionError:
        for label in way:
            step(label)
        raise
    for label in way:
        made.append(step(label))
    return made


def passed_by(ways: Sequence[Sequence[str]]) -> set[str]:
    """Of an execution whose last attempt failed: the steps for which the last attempt that came to the place where
    they stood last had another one.
    """
    found = set()
    for label in {label for way in ways for label in way}:
        last = max(number for number, way in enumerate(ways) if label in way)
        if any(len(way) > ways[last].index(label) for way in ways[last + 1 :]):
            found.add(label)
    return found


way = st.lists(st.sampled_from("abcde"), unique=True, max_size=4)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(way, min_size=1, max_size=4), st.booleans())
@example([["a"], ["a"], ["b"]], True)  # kept by the second attempt, and left out by the third
def test_what_the_last_attempt_did_not_come_to_is_superseded(ways: list[list[str]], completes: bool) -> None:
    """Where it completed: all that it left out. Where it failed: what it had something else for. While it is under way
    nothing is that it may yet come to.
    """
    RAN.clear()
    WAYS[:] = ways
    FAILS["flaky"] = len(ways) - 1 if completes else len(ways)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        lab = Lab(Path(folder))
        exec_id = lab.open(goes, retries=len(ways) - 1)
        with suppress(KitaruExecutionError):
            lab.go_on(goes, exec_id)
        events = lab.events(exec_id)
    end = fold(events)
    assert end.status == ("completed" if completes else "failed")
    made = {label for way in ways for label in way}
    assert labels(end) == (made - set(ways[-1]) if completes else passed_by(ways))
    assert not any(call.superseded for call in end.checkpoints if call.name == "flaky")
    shown = [fold(events[:number]) for number in range(1, len(events))]
    assert all(superseded(one) <= superseded(end) for one in shown if completes and not one.ended)


def attempt(lab: Lab, exec_id: str) -> Execution:
    with suppress(KitaruExecutionError):
        lab.go_on(goes, exec_id)
    return lab.load(exec_id)


def test_an_attempt_that_failed_early_says_nothing_of_what_came_later(lab: Lab) -> None:
    """What it did not come to stands as the attempts before it left it; taken up again, all may yet be met."""
    WAYS[:] = [["a", "b"], ["c", "b"], [], ["a", "b"]]
    FAILS["flaky"] = 3
    exec_id = lab.open(goes)
    assert labels(attempt(lab, exec_id)) == set()
    assert labels(attempt(lab, exec_id)) == {"a"}
    assert labels(attempt(lab, exec_id)) == {"a"}
    under_way = fold([*lab.events(exec_id), next(one for one in lab.events(exec_id) if one.kind == "started")])
    assert (under_way.status, labels(under_way)) == ("running", set())
    assert labels(attempt(lab, exec_id)) == {"c"}
    assert RAN == {"flaky": 4, "a": 1, "b": 1, "c": 1}


@flow(retries=1)
def gives_up() -> str:
    try:
        text = flaky()
    except ConnectionError:
        patient.submit()
        until(lambda: RAN["patient"])
        time.sleep(0.3)
        raise
    return publish(text)


def test_a_call_that_came_to_no_end_is_superseded_too(lab: Lab) -> None:
    """It was between two attempts of its own when the body failed: it is not under way for ever."""
    exec_id = lab.open(gives_up)
    assert lab.go_on(gives_up, exec_id) == "ok, published"
    events = lab.events(exec_id)
    ended = next(number for number, event in enumerate(events) if isinstance(event, AttemptFailed))
    between = fold(events[: ended + 1])
    assert [(call.name, call.status) for call in between.checkpoints] == [("flaky", "failed"), ("patient", "cancelled")]
    found = [(call.call_id, call.name, call.status, bool(call.superseded)) for call in lab.load(exec_id).checkpoints]
    assert found == [
        ("1", "flaky", "completed", False),
        ("2", "patient", "cancelled", True),
        ("2@2", "publish", "completed", False),
    ]
    made = next(number for number, event in enumerate(events) if getattr(event, "call", "") == "2@2")
    assert superseded(fold(events[:made])) == set()
    assert superseded(fold(events[: made + 1])) == {"2"}


# --- waits ------------------------------------------------------------------------------------------------------------


@flow(retries=1)
async def asks_while_it_fails() -> str:
    try:
        text = await flaky_async()
    except ConnectionError:
        RAN["asks"] += 1
        await asyncio.gather(asked(), fails_soon())
    RAN["second way"] += 1
    while not RAN["go"]:
        await asyncio.sleep(0.05)
    return text


async def asked() -> None:
    await wait(schema={"type": "boolean"}, name="clean_up", question="Clean up?", timeout=60)


async def fails_soon() -> None:
    await asyncio.sleep(0.5)
    raise ConnectionError("nobody answered")


@pytest.fixture
def client(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> KitaruClient:
    monkeypatch.chdir(own_world)
    return KitaruClient(store=f"file://{own_world}/store", project="lab")


def test_nobody_is_asked_what_only_an_earlier_attempt_asked(client: KitaruClient) -> None:
    """Neither while the next attempt goes another way nor after it; who answers is told so."""
    handle = client.executions.run(asks_while_it_fails, {})
    until(lambda: RAN["asks"] and client.executions.get(handle.exec_id).status == "waiting")
    until(lambda: RAN["second way"] and client.executions.get(handle.exec_id).status == "running")
    assert client.executions.pending_waits(handle.exec_id) == []
    (left,) = client.executions.get(handle.exec_id).waits
    for name in ("clean_up", left.wait_id):
        with pytest.raises(KitaruStateError, match=r"'clean_up' of .* is not asked any more") as refused:
            client.executions.input(handle.exec_id, wait=name, value=True)
        assert "answered" not in refused.value.message
    with pytest.raises(KitaruStateError, match="waits for nothing"):
        client.executions.input(handle.exec_id, value=True)
    assert [one.exec_id for one in client.executions.list(status="waiting")] == []
    RAN["go"] += 1
    assert handle.wait(30) == "ok"
    (left,) = client.executions.get(handle.exec_id).waits
    assert (left.status, left.superseded) == ("cancelled", True)
    with pytest.raises(KitaruStateError, match="waits for nothing"):
        client.executions.input(handle.exec_id, wait="clean_up", value=True)


# --- what people see --------------------------------------------------------------------------------------------------


@flow(retries=1)
def cleans_up() -> str:
    try:
        text = flaky()
    except ConnectionError:
        fallback()
        raise
    return publish(text)


def read(value: Value | None) -> Any:
    return value.inline if value else None


@pytest.mark.parametrize("width", [60, 100])
@pytest.mark.parametrize("plain", [False, True])
def test_a_picture_marks_what_is_superseded(lab: Lab, width: int, plain: bool) -> None:
    """By a sign of its own, which the legend explains, and where there is room by the word."""
    exec_id = lab.open(cleans_up)
    lab.go_on(cleans_up, exec_id)
    lines = execution_lines(lab.load(exec_id), read, width=width, plain=plain)
    rows = {line.split()[1]: line for line in lines if re.match(r"  \S (flaky|fallback|publish)\b", line)}
    sign = "/" if plain else "↷"
    assert {name for name, row in rows.items() if row.startswith(f"  {sign} ")} == {"fallback"}
    assert {name for name, row in rows.items() if row.endswith("superseded")} == ({"fallback"} if width > 70 else set())
    assert sum(f"{sign} superseded: the last attempt took another way" in line for line in lines) == 1
    assert all(len(line) <= width for line in lines if line.startswith("    ") and "superseded" in line)
    assert "fallback 1 of 1" not in progress_line(lab.load(exec_id))


@checkpoint(cache=False)
def odd(number: int) -> int:
    RAN[f"odd {number}"] += 1
    if number == 3:
        raise ConnectionError("odd")
    return number


@flow(retries=1)
def fans_out() -> str:
    try:
        text = flaky()
    except ConnectionError:
        odd.map(range(30), on_error="collect").outcomes()
        raise
    return f"{text} {odd.map(range(50, 60)).results()}"


def test_many_calls_say_how_many_are_superseded_and_fail_by_none_of_them(lab: Lab) -> None:
    """One line for all of a checkpoint's calls: the failure that only the first attempt met is not its state."""
    exec_id = lab.open(fans_out)
    lab.go_on(fans_out, exec_id)
    assert len(superseded(lab.load(exec_id))) == 30
    lines = execution_lines(lab.load(exec_id), read)
    (row,) = [line for line in lines if "40 x" in line]
    assert row.startswith("  ✓ odd") and row.endswith("1 failed, 30 superseded")
    assert not any(line.startswith("  ✗ odd") for line in lines)


def test_the_page_marks_what_is_superseded(lab: Lab) -> None:
    """The row is dimmed and says it, the search finds it, the heading counts it."""
    exec_id = lab.open(cleans_up)
    lab.go_on(cleans_up, exec_id)
    page = execution_page(lab.load(exec_id), template=template("execution.html.j2"), read=read)
    rows = re.findall(r'<details class="(call[^"]*)" data-find="([^"]*)"', page)
    assert rows == [("call", "flaky 1"), ("call superseded", "fallback 2 superseded"), ("call", "publish 2@2")]
    assert page.count("<small>superseded</small>") == 1
    assert "superseded · 1</h2>" in page
    assert "call 2 · " in page and "superseded: the last attempt took another way</section>" in page


def test_the_page_of_an_execution_of_one_attempt_says_nothing_of_it(lab: Lab) -> None:
    """No count of nought."""
    FAILS["flaky"] = 0
    exec_id = lab.open(cleans_up)
    lab.go_on(cleans_up, exec_id)
    body = execution_page(lab.load(exec_id), template=template("execution.html.j2"), read=read).partition("<main>")[2]
    assert "superseded" not in body
    assert "superseded" not in "\n".join(execution_lines(lab.load(exec_id), read))
    assert all("superseded" not in call for call in lab.load(exec_id).to_json()["checkpoints"])


def test_a_replay_knows_only_the_way_that_was_taken(client: KitaruClient) -> None:
    """Of a completed execution, and of one that is under way and has not come to it: neither can be its beginning."""
    handle = client.executions.run(cleans_up, {})
    assert handle.wait(30) == "ok, published"
    plan = client.executions.plan_replay(handle.exec_id, from_="publish", flow=cleans_up)
    assert [call.name for call in plan.calls] == ["flaky", "publish"]
    with pytest.raises(KitaruUsageError, match="no call or wait 'fallback'"):
        client.executions.plan_replay(handle.exec_id, from_="fallback", flow=cleans_up)


# --- what the next attempt computes anew ------------------------------------------------------------------------------


@flow(timeout=0.5, retries=1)
def goes_on_too_long() -> str:
    try:
        text = flaky()
    except ConnectionError:
        text = fallback()
    RAN["body"] += 1
    if RAN["body"] == 1:
        while True:
            time.sleep(0.01)
    return publish(text)


@checkpoint(cache=False)
def slow() -> str:
    RAN["slow"] += 1
    while RAN["slow"] == 1:
        time.sleep(0.01)
    return "done"


@flow(timeout=0.5, retries=1)
def calls_too_long() -> str:
    try:
        text = flaky()
    except ConnectionError:
        text = fallback()
    return publish(f"{text} {slow()}")


@pytest.mark.parametrize(
    ("flow_", "result"), [(goes_on_too_long, "sorry, published"), (calls_too_long, "sorry done, published")]
)
def test_a_flow_whose_time_is_over_has_failed_by_no_call(lab: Lab, flow_: Flow[..., Any], result: str) -> None:
    """What its body went on from is met again, and nothing is superseded."""
    exec_id = lab.open(flow_, timeout=0.5)
    assert lab.go_on(flow_, exec_id) == result
    assert (RAN["flaky"], RAN["fallback"]) == (1, 1)
    assert [event.calls for event in lab.events(exec_id) if isinstance(event, AttemptFailed)] == [[]]
    assert superseded(lab.load(exec_id)) == set()


@flow(timeout=0.5, retries=1)
def forgets_a_call() -> str:
    future = flaky.submit()
    RAN["body"] += 1
    while RAN["body"] == 1:
        time.sleep(0.01)
    return publish(future.result())


def test_a_failure_that_nobody_saw_before_the_time_was_over_is_computed_anew(lab: Lab) -> None:
    """The submitted call had failed, and the body had not asked for it yet: one retry of the flow is enough."""
    exec_id = lab.open(forgets_a_call, timeout=0.5)
    assert lab.go_on(forgets_a_call, exec_id) == "ok, published"
    assert [event.calls for event in lab.events(exec_id) if isinstance(event, AttemptFailed)] == [["1"]]


@checkpoint(cache=False)
def late() -> str:
    return tried("late", "at last")


def without(number: int) -> Flow[..., Any]:
    """The same flow as before its inputs were changed, and after."""

    def body(x: int) -> str:
        try:
            text = flaky()
        except ConnectionError:
            text = fallback()
        return publish(f"{text} {late()}")

    def other(y: int) -> str:
        return body(y)

    made = flow(other if number else body)
    made.name = "changed"
    return made


def test_inputs_that_no_longer_fit_have_failed_by_no_call(lab: Lab) -> None:
    """The body did not begin: what it went on from before is met again once the code is mended."""
    exec_id = lab.open(without(0), x=1)
    with pytest.raises(KitaruExecutionError, match="late is away"):
        lab.go_on(without(0), exec_id)
    with pytest.raises((KitaruExecutionError, KitaruInputError)):
        lab.go_on(without(1), exec_id)
    ends: list[Event] = [event for event in lab.events(exec_id) if isinstance(event, Failed)]
    assert [getattr(event, "calls", None) for event in ends] == [["3"], []]
    assert lab.go_on(without(0), exec_id) == "sorry at last, published"
    assert (RAN["flaky"], RAN["fallback"]) == (1, 1)
