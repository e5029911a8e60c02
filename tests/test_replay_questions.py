"""What a replay takes over of failures that the body went on from, and of answers: only what was asked just so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from kitaru import KitaruClient, checkpoint, flow, wait
from kitaru.cli.views.executions import replay_rows
from kitaru.errors import KitaruStateError, KitaruUserCodeError
from kitaru.flows.flow import Flow
from kitaru.model.execution import PlannedCall, PlannedWait, ReplayPlan

RAN: list[str] = []
AWAY: list[bool] = []
"""Something, while the service is away."""


@checkpoint(cache=False)
def flaky(x: int) -> str:
    RAN.append("flaky")
    if AWAY:
        raise ConnectionError("away")
    return f"ok {x}"


@checkpoint(cache=False)
def fallback(x: int) -> str:
    RAN.append("fallback")
    return f"fallback {x}"


@checkpoint(cache=False)
def draft(topic: str) -> str:
    RAN.append("draft")
    return f"on {topic}"


@checkpoint(cache=False)
def release(text: str, fine: Any = True) -> str:
    RAN.append("release")
    return f"{text}: {fine}"


@flow
def article(x: int = 1) -> str:
    try:
        text = flaky(x)
    except ConnectionError:
        text = fallback(x)
    return release(text)


@flow
def failing(x: int = 1) -> str:
    try:
        text = flaky(x)
    except ConnectionError:
        fallback(x)
        release("sorry")
        raise
    return release(text)


@flow
def asked(topic: str = "cats", detail: str = "short") -> str:
    text = draft(topic)
    fine = wait(
        schema=bool, name="approve", question=f"Publish {topic}?", metadata={"draft": text, "as": detail}, timeout=0
    )
    return release(text, fine)


@flow
def asks_who(topic: str = "cats", detail: str = "short") -> str:
    text = draft(topic)
    who = wait(schema=str, name="approve", question="Who?", timeout=0)
    level = wait(schema={"type": "integer"}, name="level", timeout=0)
    return release(text, f"{who} {level}")


asks_who.name = "asked"


@pytest.fixture
def client(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> KitaruClient:
    monkeypatch.chdir(own_world)
    RAN.clear()
    AWAY.clear()
    return KitaruClient(store=f"file://{own_world}/store", project="lab")


def started(client: KitaruClient, flow_: Flow[..., Any], **inputs: Any) -> Any:
    return client.executions.run(flow_, flow_.bind(kwargs=inputs))


def approved(client: KitaruClient) -> str:
    handle = started(client, asked)
    with pytest.raises(KitaruStateError, match="waits"):
        handle.wait(30)
    assert client.executions.input(handle.exec_id, value=True, flow=asked).wait(30) == "on cats: True"
    RAN.clear()
    exec_id: str = handle.exec_id
    return exec_id


@pytest.mark.parametrize("args", [None, {"x": 1}], ids=["as it was", "the same inputs"])
def test_a_failure_that_was_caught_before_the_cut_is_met_again(client: KitaruClient, args: Any) -> None:
    """The service is back, and the replay is that of the way that was taken all the same, as the dry run says."""
    AWAY.append(True)
    handle = started(client, article)
    assert handle.wait(30) == "fallback 1: True"
    RAN.clear()
    AWAY.clear()
    plan = client.executions.plan_replay(handle.exec_id, from_="release", args=args, flow=article)
    assert [(call.name, call.action) for call in plan.calls] == [
        ("flaky", "reuse_if_same"),
        ("fallback", "reuse_if_same"),
        ("release", "rerun"),
    ]
    assert plan.calls[0].reason.startswith("its failure is met again; if the source as it is now")
    replayed = client.executions.replay(handle.exec_id, from_="release", args=args, flow=article)
    assert replayed.wait(30) == "fallback 1: True"
    assert RAN == ["release"]
    found = client.executions.get(replayed.exec_id).checkpoints
    assert [(one.status, one.original_call_id) for one in found] == [
        ("failed", "1"),
        ("completed", "2"),
        ("completed", None),
    ]
    assert found[0].failure is not None and found[0].failure.message == "away"


def test_a_caught_failure_is_run_anew_where_its_inputs_are_others(client: KitaruClient) -> None:
    """It was the failure of another call."""
    AWAY.append(True)
    handle = started(client, article)
    handle.wait(30)
    RAN.clear()
    AWAY.clear()
    replayed = client.executions.replay(handle.exec_id, from_="release", args={"x": 2}, flow=article)
    assert replayed.wait(30) == "ok 2: True"
    assert RAN == ["flaky", "release"]


def test_what_an_execution_failed_by_is_run_anew_in_a_replay(client: KitaruClient) -> None:
    """Else the replay would only fail again; what comes after it is taken over where the body comes to it."""
    AWAY.append(True)
    handle = started(client, failing)
    with pytest.raises(KitaruUserCodeError, match="away"):
        handle.wait(30)
    RAN.clear()
    AWAY.clear()
    plan = client.executions.plan_replay(handle.exec_id, from_="release", flow=failing)
    assert [(call.name, call.action) for call in plan.calls] == [
        ("flaky", "rerun"),
        ("fallback", "reuse_if_same"),
        ("release", "rerun"),
    ]
    assert client.executions.replay(handle.exec_id, from_="release", flow=failing).wait(30) == "ok 1: True"
    assert RAN == ["flaky", "release"]


@pytest.mark.parametrize("args", [{"topic": "dogs"}, {"detail": "long"}], ids=["question", "metadata"])
def test_another_question_is_asked_again(client: KitaruClient, args: dict[str, str]) -> None:
    """Nobody who approved one thing has approved another, whatever the wait is called."""
    exec_id = approved(client)
    plan = client.executions.plan_replay(exec_id, from_="release", args=args, flow=asked)
    assert [one.action for one in plan.waits] == ["reuse_if_same"]
    handle = client.executions.replay(exec_id, from_="release", args=args, flow=asked)
    with pytest.raises(KitaruStateError, match="waits for an answer to 'approve'"):
        handle.wait(30)
    (waiting,) = client.executions.get(handle.exec_id).open_waits
    assert waiting.question == f"Publish {args.get('topic', 'cats')}?"
    topic = args.get("topic", "cats")
    assert client.executions.input(handle.exec_id, value=False, flow=asked).wait(30) == f"on {topic}: False"


def test_the_same_question_keeps_its_answer(client: KitaruClient) -> None:
    """With its question, schema and metadata as they were; the new execution shows them, too."""
    exec_id = approved(client)
    handle = client.executions.replay(exec_id, from_="release", flow=asked)
    assert handle.wait(30) == "on cats: True"
    assert RAN == ["release"]
    (known,) = client.executions.get(handle.exec_id).waits
    assert (known.question, known.metadata) == ("Publish cats?", {"draft": "on cats", "as": "short"})


def test_an_answer_for_other_code_is_checked_when_that_asks(client: KitaruClient) -> None:
    """Another type, and a wait that only the other code has: given answers are taken where they fit what is asked."""
    exec_id = approved(client)
    overrides = {"wait.approve": "ann", "wait.level": 3}
    plan = client.executions.plan_replay(exec_id, from_="release", overrides=overrides, flow=asks_who)
    assert [(one.wait_id, one.name, one.action) for one in plan.waits] == [
        ("w1", "approve", "override"),
        ("", "level", "override"),
    ]
    handle = client.executions.replay(exec_id, from_="release", overrides=overrides, flow=asks_who)
    assert handle.wait(30) == "on cats: ann 3"
    assert client.executions.get(handle.exec_id).unused_overrides == []


@pytest.mark.parametrize(
    ("overrides", "name", "words"),
    [
        ({"wait.approve": 7}, "approve", "expected str"),
        ({"wait.approve": "ann", "wait.level": "high"}, "level", "'high' is not of type 'integer'|expected"),
    ],
    ids=["type", "JSON Schema"],
)
def test_an_answer_that_does_not_fit_what_other_code_asks_is_put_aside(
    client: KitaruClient, overrides: dict[str, Any], name: str, words: str
) -> None:
    """The question is asked, and shows what was given and why it did not do."""
    exec_id = approved(client)
    handle = client.executions.replay(exec_id, from_="release", overrides=overrides, flow=asks_who)
    with pytest.raises(KitaruStateError, match=f"waits for an answer to '{name}'"):
        handle.wait(30)
    (waiting,) = client.executions.get(handle.exec_id).open_waits
    assert re.search(words, waiting.refused[0].reason)


def test_an_answer_that_nothing_asked_for_is_spoken_of(client: KitaruClient) -> None:
    """A name that neither the original nor the other code asks: the replay says so when it has ended."""
    exec_id = approved(client)
    handle = client.executions.replay(exec_id, from_="release", overrides={"wait.nope": 1}, flow=asked)
    assert handle.wait(30) == "on cats: True"
    assert client.executions.get(handle.exec_id).unused_overrides == ["wait.nope"]


LONG = "if its inputs are the same; if the body comes to it: flaky_service, which failed before it, is run anew"


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("name", ["draft", "write_the_summary_of_all_of_it"])
def test_a_dry_run_fits_its_terminal(width: int, name: str) -> None:
    """Reasons go on in further lines, beside their row or below it; nothing is left out."""
    calls = (
        PlannedCall("1", name, "reuse_if_same", LONG),
        PlannedCall("2", "release", "rerun", "the replay begins here"),
    )
    waits = (PlannedWait("w1", "approve", "reuse_if_same", "if the source as it is now asks the same"),)
    lines = replay_rows(ReplayPlan(calls, waits), width=width)
    assert all(len(line) <= width for line in lines)
    assert next(line for line in lines if name in line).split()[:5] == ["1", name, "reuse", "if", "same"]
    words = " ".join(" ".join(lines).split())
    assert "the replay begins here" in words and "asks the same" in words
    said = words.partition("if same ")[2].partition(" 2 release")[0]
    assert said == LONG


def test_a_wide_terminal_has_a_line_for_each_call() -> None:
    """As before, where there is room for it."""
    calls = (PlannedCall("1", "draft", "reuse_if_same", LONG), PlannedCall("2", "release", "reuse"))
    head, *rows = replay_rows(ReplayPlan(calls, ()), width=160)
    assert head.split() == ["CALL", "CHECKPOINT", "REPLAY", "WHY"]
    assert [row.split() for row in rows] == [
        ["1", "draft", "reuse", "if", "same", *LONG.split()],
        ["2", "release", "reuse"],
    ]
