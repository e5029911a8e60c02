"""Waits: a flow asks, its runner leaves, somebody answers, and it goes on where it was."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from kitaru import KitaruClient, checkpoint, flow, wait
from kitaru.errors import (
    KitaruCancelledError,
    KitaruConflictError,
    KitaruContextError,
    KitaruDivergenceError,
    KitaruStateError,
    KitaruUsageError,
    KitaruUserCodeError,
    KitaruWaitValidationError,
)
from kitaru.flows.flow import Flow
from kitaru.model import address
from kitaru.model.event import Started, Suspended, WaitAborted, WaitAnswered, WaitOpened
from kitaru.run import waits as engine_waits
from kitaru.run.journal import Fenced, RunSuspended
from tests.durable_flows import deployed, ran
from tests.execution_lab import PROJECT, Lab
from tests.repository import Repository, kitaru, until

RAN: list[str] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    RAN.clear()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "store")


def leave_answer(lab: Lab, exec_id: str, place: str, **content: Any) -> None:
    body = json.dumps({"by": "Ann", "at": "2026-01-01T00:00:00.000000Z", **content}).encode()
    lab.store.create(address.wait_answer(PROJECT, exec_id, place), body)


def asked(lab: Lab, flow: Flow[..., Any], **inputs: Any) -> str:
    """Run until the runner leaves."""
    exec_id = lab.open(flow, **inputs)
    with pytest.raises(RunSuspended):
        lab.go_on(flow, exec_id)
    return exec_id


@checkpoint
def note(text: str) -> str:
    RAN.append(text)
    return text


@checkpoint
async def slow_note(text: str, seconds: float) -> str:
    await asyncio.sleep(seconds)
    RAN.append(text)
    return text


@dataclass
class Verdict:
    approved: bool
    note: str = ""


class Model(BaseModel):
    score: int


@flow
def one() -> list[Any]:
    first = note("before")
    answer = wait(schema=bool, name="approve", question="Go on?", timeout=0, metadata={"risk": "low"})
    return [first, answer, note("after")]


def test_the_runner_leaves_and_an_answer_brings_it_back(lab: Lab) -> None:
    """A wait records its question and lets the runner go; with the answer the flow goes on, and runs nothing twice."""
    exec_id = asked(lab, one)
    waiting = lab.load(exec_id)
    assert waiting.status == "waiting"
    (opened,) = waiting.open_waits
    assert (opened.wait_id, opened.name, opened.question) == ("w1", "approve", "Go on?")
    assert (opened.schema, opened.metadata) == ({"type": "boolean"}, {"risk": "low"})
    assert waiting.suspended_at is not None
    leave_answer(lab, exec_id, "w1", value=True)
    assert lab.go_on(one, exec_id) == ["before", True, "after"]
    assert RAN == ["before", "after"]
    done = lab.load(exec_id)
    assert (done.status, done.waits[0].status, done.waits[0].by) == ("completed", "answered", "Ann")
    kinds = [type(event) for event in lab.events(exec_id)]
    assert kinds.count(WaitOpened) == kinds.count(WaitAnswered) == kinds.count(Suspended) == 1
    assert kinds.count(Started) == 2


def test_a_runner_that_still_polls_takes_the_answer_itself(lab: Lab) -> None:
    """Within the timeout the answer is found by the runner that asked; it never leaves."""

    @flow
    def patient() -> int:
        return wait(schema=int, timeout=30) + 1

    exec_id = lab.open(patient)
    threading.Timer(0.4, lambda: leave_answer(lab, exec_id, "w1", value=41)).start()
    assert lab.go_on(patient, exec_id) == 42
    assert not any(isinstance(event, Suspended) for event in lab.events(exec_id))


@pytest.mark.parametrize(
    ("schema", "given", "expected"),
    [
        (None, {"any": [1]}, {"any": [1]}),
        (str, "text", "text"),
        (float, 3, 3.0),
        (Literal["a", "b"], "b", "b"),
        (Verdict, {"approved": True}, Verdict(True)),
        (Model, {"score": 7}, Model(score=7)),
        (list[int], [1, 2], [1, 2]),
        ({"type": "string", "minLength": 2}, "ok", "ok"),
    ],
)
def test_an_answer_comes_as_the_type_that_was_asked_for(lab: Lab, schema: Any, given: Any, expected: Any) -> None:
    """The flow gets the author's type, the first time and when the recorded answer is met again."""
    got: list[Any] = []

    @flow
    def asking() -> None:
        got.append(wait(schema=schema, timeout=0))
        wait(name="second", timeout=0)

    exec_id = asked(lab, asking)
    leave_answer(lab, exec_id, "w1", value=given)
    with pytest.raises(RunSuspended):
        lab.go_on(asking, exec_id)
    leave_answer(lab, exec_id, "w2", value=None)
    lab.go_on(asking, exec_id)
    assert got == [expected, expected]
    assert type(got[0]) is type(got[1]) is type(expected)


def test_parallel_branches_ask_at_the_same_time(lab: Lab) -> None:
    """Branches of an async flow wait side by side; each is answered on its own, in any order."""

    async def branch(text: str) -> str:
        answer = await wait(schema=str, name=text, timeout=0)
        return f"{text}: {answer}"

    @flow
    async def two() -> list[str]:
        return await asyncio.gather(branch("left"), branch("right"))

    exec_id = asked(lab, two)
    assert [(one.wait_id, one.name) for one in lab.load(exec_id).open_waits] == [("1/w1", "left"), ("2/w1", "right")]
    leave_answer(lab, exec_id, "2/w1", value="R")
    with pytest.raises(RunSuspended):
        lab.go_on(two, exec_id)
    assert [one.name for one in lab.load(exec_id).open_waits] == ["left"]
    leave_answer(lab, exec_id, "1/w1", value="L")
    assert lab.go_on(two, exec_id) == ["left: L", "right: R"]


def test_the_runner_stays_while_checkpoints_run(lab: Lab) -> None:
    """A wait whose timeout is over does not cut off what runs beside it: that is finished and recorded first."""

    @flow
    async def beside() -> list[Any]:
        async def ask() -> Any:
            return await wait(timeout=0)

        return list(await asyncio.gather(ask(), slow_note("beside", 1.0)))

    exec_id = asked(lab, beside)
    assert RAN == ["beside"]
    assert [call.status for call in lab.load(exec_id).checkpoints] == ["completed"]

    @flow
    def submitted() -> Any:
        future = slow_note.submit("submitted", 1.0)
        return [wait(timeout=0), future.result()]

    exec_id = asked(lab, submitted)
    assert RAN == ["beside", "submitted"]
    leave_answer(lab, exec_id, "w1", value=1)
    assert lab.go_on(submitted, exec_id) == [1, "submitted"]
    assert RAN == ["beside", "submitted"]


def test_no_flow_swallows_the_signal_to_leave(lab: Lab) -> None:
    """``except Exception`` around a wait does not catch the runner's leaving."""

    @flow
    def swallowing() -> str:
        try:
            wait(timeout=0)
        except Exception:
            return "swallowed"
        return "answered"

    exec_id = asked(lab, swallowing)
    assert lab.load(exec_id).status == "waiting"


def test_an_abort_cancels(lab: Lab) -> None:
    """Somebody who declines to answer ends the execution; it can't be taken up again."""
    exec_id = asked(lab, one)
    leave_answer(lab, exec_id, "w1", abort=True)
    with pytest.raises(KitaruCancelledError, match="Ann"):
        lab.go_on(one, exec_id)
    assert lab.load(exec_id).status == "cancelled"
    assert any(isinstance(event, WaitAborted) for event in lab.events(exec_id))
    with pytest.raises(KitaruCancelledError):
        lab.go_on(one, exec_id)
    assert RAN == ["before"]


def test_an_answer_in_the_moment_of_leaving_is_not_lost(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that comes after the last look and before the runner has left is taken by that runner."""
    exec_id = lab.open(one)
    real = engine_waits.Poll._leave

    def late(self: Any) -> None:
        leave_answer(lab, exec_id, "w1", value=True)
        real(self)

    monkeypatch.setattr(engine_waits.Poll, "_leave", late)
    assert lab.go_on(one, exec_id) == ["before", True, "after"]


def test_two_who_go_on_after_the_same_answer(lab: Lab) -> None:
    """Of two runners that take up an answered execution one claims it; the other is fenced before it runs anything."""
    exec_id = asked(lab, one)
    leave_answer(lab, exec_id, "w1", value=True)
    entries = lab.entries(exec_id)
    assert lab.go_on(one, exec_id) == ["before", True, "after"]
    count = len(RAN)
    from kitaru.run.executor import execute
    from kitaru.stacks.port import Handle

    with pytest.raises(Fenced):
        execute(one, lab.recorded(exec_id, entries), lab.host(Handle("late")))
    assert len(RAN) == count


def test_a_renamed_wait_is_a_divergence(lab: Lab) -> None:
    """Where the code asks something else than was recorded, it says what was expected and what came."""
    exec_id = asked(lab, one)

    @flow(retries=0)
    def changed() -> list[Any]:
        return [note("before"), wait(schema=bool, name="other", timeout=0)]

    changed.name = "one"
    with pytest.raises(KitaruDivergenceError, match=r"'approve' then, and is 'other' now"):
        lab.go_on(changed, exec_id)


def test_where_a_wait_may_stand(lab: Lab) -> None:
    """A wait outside a flow or in a checkpoint is refused; so are options that are none."""
    with pytest.raises(KitaruContextError, match="outside a flow"):
        wait()

    @checkpoint
    def asks() -> Any:
        return wait()

    @flow
    def nested() -> Any:
        return asks()

    exec_id = lab.open(nested)
    with pytest.raises(Exception, match=r"inside checkpoint 'asks'"):
        lab.go_on(nested, exec_id)

    given: dict[str, Any] = {}

    @flow
    def wrong() -> Any:
        return wait(**given)

    for options, words in (
        ({"timeout": -1}, "timeout"),
        ({"name": " "}, "name"),
        ({"metadata": {"a": float("nan")}}, "metadata"),
        ({"schema": "boolean"}, "schema"),
    ):
        given.clear()
        given.update(options)
        with pytest.raises(KitaruUserCodeError, match=words):
            lab.run(wrong)


def test_a_wait_that_is_not_awaited_is_told(lab: Lab) -> None:
    """In an async flow a wait must be awaited; its mere truth value is refused."""

    @flow
    async def forgot() -> str:
        return "yes" if wait(schema=bool, timeout=0) else "no"

    with pytest.raises(Exception, match="must be awaited"):
        lab.run(forgot)


def test_a_failed_flow_meets_its_answers_again(lab: Lab) -> None:
    """A recorded answer stays through a retry of the flow and through a resume after a failure."""
    failing = [True]

    @flow
    def fails_later() -> str:
        answer = wait(schema=str, name="word", timeout=0)
        if failing:
            raise LookupError("not yet")
        return answer

    exec_id = asked(lab, fails_later)
    leave_answer(lab, exec_id, "w1", value="hello")
    with pytest.raises(Exception, match="not yet"):
        lab.go_on(fails_later, exec_id)
    failing.clear()
    assert lab.go_on(fails_later, exec_id) == "hello"


# --- as people use it: client, command line, worker -------------------------------------------------------------------


@pytest.fixture
def house(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    repository = deployed(own_world / "repository")
    monkeypatch.chdir(repository.folder)
    return repository


def invoke(folder: Path, **inputs: Any) -> str:
    done = kitaru("invoke", "review", "--input", json.dumps({"folder": str(folder), **inputs})).must()
    return done.out.strip()


def left(client: KitaruClient, exec_id: str) -> bool:
    return client.executions.get(exec_id).suspended_at is not None


def test_from_question_to_answer_at_the_command_line(house: Repository, tmp_path: Path) -> None:
    """The worker leaves, input resumes it at once, and nothing that finished runs again."""
    client = house.client()
    exec_id = invoke(tmp_path)
    until(lambda: left(client, exec_id))
    runner = client.executions.get(exec_id).runner
    assert runner is not None
    until(
        lambda: (
            not Path(f"/proc/{runner.data['pid']}/cmdline").exists()
            or not Path(f"/proc/{runner.data['pid']}/cmdline").read_bytes()
        )
    )
    shown = kitaru("executions", "get", exec_id).must()
    assert "waiting" in shown.out
    assert "Publish it?" in shown.out
    assert "kitaru executions input" in shown.out
    kitaru("executions", "resume", exec_id).refused(
        "waits for an answer", "Publish it?", "kitaru executions input", code=1
    )
    kitaru("executions", "input", exec_id, "--value", '"maybe"').refused("true or false", "waits on")
    kitaru("executions", "input", exec_id, "--value", "maybe").refused("not JSON")
    kitaru("executions", "input", exec_id).refused("--value", "Publish it?")
    kitaru("executions", "input", exec_id, "--wait", "nope", "--value", "true").refused("approve")
    assert client.executions.get(exec_id).status == "waiting"
    kitaru("executions", "input", exec_id, "--wait", "approve", "--value", "true").must()
    assert client.executions.handle(exec_id).wait(30) == "DRAFT ON TEA"
    assert ran(tmp_path) == ["draft", "publish"]
    kitaru("executions", "input", exec_id, "--value", "true").refused("completed", code=1)
    lines = [line.text for line in client.executions.logs(exec_id)]
    assert lines == ["asking", "asking"]


def test_the_first_answer_counts(house: Repository, tmp_path: Path) -> None:
    """Of two who answer at once one is taken; the other is told who was first, and nothing runs twice."""
    exec_id = invoke(tmp_path)
    until(lambda: left(house.client(), exec_id))
    outcomes: list[Any] = []
    gate = threading.Barrier(4)

    def answer(value: bool) -> None:
        client = house.client()
        gate.wait()
        try:
            client.executions.input(exec_id, value=value)
            outcomes.append(value)
        except KitaruConflictError as error:
            outcomes.append(error)
        except KitaruStateError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=answer, args=(number % 2 == 0,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (taken,) = [one for one in outcomes if isinstance(one, bool)]
    assert any("was answered by" in str(one) for one in outcomes if isinstance(one, KitaruConflictError))
    result = house.client().executions.handle(exec_id).wait(30)
    assert result == ("DRAFT ON TEA" if taken else "dropped")
    assert ran(tmp_path).count("draft") == 1


def test_interactive_input_shows_the_question_and_asks_until_it_fits(house: Repository, tmp_path: Path) -> None:
    """--interactive prints question and schema, takes y and n, and asks again for what doesn't fit."""
    exec_id = invoke(tmp_path)
    until(lambda: left(house.client(), exec_id))
    kitaru("executions", "input", exec_id, "-i", stdin="perhaps\n").refused("Publish it?", "approve [y/n]", "no answer")
    done = kitaru("executions", "input", exec_id, "--interactive", stdin="perhaps\ny\n").must()
    assert "true or false" in done.err
    assert house.client().executions.handle(exec_id).wait(30) == "DRAFT ON TEA"


def test_an_abort_at_the_command_line(house: Repository, tmp_path: Path) -> None:
    """--abort cancels, whether a runner polls or nobody runs it."""
    client = house.client()
    gone, polling = invoke(tmp_path), invoke(tmp_path, patience=60, topic="coffee")
    until(lambda: left(client, gone))
    until(lambda: client.executions.pending_waits(polling))
    for exec_id in (gone, polling):
        kitaru("executions", "input", exec_id, "--abort").must()
        until(lambda exec_id=exec_id: client.executions.get(exec_id).status == "cancelled")
        with pytest.raises(KitaruCancelledError):
            client.executions.handle(exec_id).wait(5)
    assert ran(tmp_path) == ["draft", "draft"]


def test_answered_without_resuming(house: Repository, tmp_path: Path) -> None:
    """--no-resume leaves the answer; resume then goes on, from any client."""
    exec_id = invoke(tmp_path)
    until(lambda: left(house.client(), exec_id))
    kitaru("executions", "input", exec_id, "--value", "false", "--no-resume").must()
    assert house.client().executions.get(exec_id).status == "waiting"
    assert list(house.client().executions.pending_waits(exec_id)) == []
    kitaru("executions", "resume", exec_id).must()
    assert house.client().executions.handle(exec_id).wait(30) == "dropped"


def test_waiting_for_one_that_waits_says_so(house: Repository, tmp_path: Path) -> None:
    """invoke --wait on an execution that waits ends with exit 1, the question and how to answer it."""
    inputs = json.dumps({"folder": str(tmp_path)})
    done = kitaru("invoke", "review", "--input", inputs, "--wait")
    done.refused("Publish it?", "kitaru executions input", code=1)


def test_a_run_in_this_process(house: Repository, tmp_path: Path) -> None:
    """``.run()`` of a flow that waits: wait() names the command; the answer given here goes on in this process."""
    client = house.client()
    review = client.executions.load("flows/work.py:review")
    handle = client.executions.run(review, review.bind(kwargs={"folder": str(tmp_path)}))
    with pytest.raises(KitaruStateError, match="waits for an answer") as told:
        handle.wait(30)
    assert "kitaru executions input" in told.value.hint
    assert handle.status == "waiting"
    with pytest.raises(KitaruStateError):
        handle.get()
    with pytest.raises(KitaruWaitValidationError):
        client.executions.input(handle.exec_id, value=3)
    assert client.executions.input(handle.exec_id, value=True).wait(30) == "DRAFT ON TEA"
    assert handle.wait(30) == "DRAFT ON TEA"
    assert ran(tmp_path) == ["draft", "publish"]


def test_kitaru_run_goes_on_where_it_was_answered(house: Repository, tmp_path: Path) -> None:
    """A run from source that waits ends with exit 1; input goes on with it in its own process, and shows the result."""
    inputs = json.dumps({"folder": str(tmp_path)})
    done = kitaru("run", "flows/work.py:review", "--input", inputs).refused("Publish it?", code=1)
    exec_id = next(word for word in done.err.split() if word.startswith("ex-"))
    answered = kitaru("executions", "input", exec_id, "--value", "true").must()
    assert answered.out.splitlines()[-1] == "DRAFT ON TEA"


def test_several_waits_need_a_name(lab: Lab, own_world: Path) -> None:
    """Where several are pending, input without --wait lists them."""

    @flow
    async def pair() -> list[Any]:
        async def ask(name: str) -> Any:
            return await wait(name=name, timeout=0)

        return list(await asyncio.gather(ask("one"), ask("two")))

    exec_id = asked(lab, pair)
    client = KitaruClient(store=lab.store.url, project=PROJECT)
    assert [one.name for one in client.executions.pending_waits(exec_id)] == ["one", "two"]
    with pytest.raises(KitaruUsageError, match="one, two"):
        client.executions.input(exec_id, value=1)
    client.executions.input(exec_id, wait="one", value=1, resume=False)
    with pytest.raises(KitaruConflictError, match="was answered by"):
        client.executions.input(exec_id, wait="one", value=1, resume=False)
    client.executions.input(exec_id, value=2, resume=False)
    assert lab.go_on(pair, exec_id) == [1, 2]


def test_signals_are_no_exceptions() -> None:
    """What stops a flow derives from BaseException alone."""
    for signal in (RunSuspended, Fenced):
        assert not issubclass(signal, Exception)


def test_polling_slows_down(lab: Lab) -> None:
    """The pause between two looks grows from 0.05 to 2 seconds."""
    from kitaru.flows.waiting import Question
    from kitaru.run.state import RunState

    exec_id = lab.open(one)
    run = RunState(one, lab.recorded(exec_id), lab.host())
    poll = engine_waits.Poll(run, "w1", Question("x", None, None, None, None, None))
    poll.open()
    pauses = [poll.pause for _ in range(30)]
    assert pauses[0] == 0.05
    assert pauses[-1] == 2.0
    assert pauses == sorted(pauses)
    assert time.monotonic() < run.waits.polled["w1"]
    run.cache.close()
