"""Replays: a new execution that takes over what another one finished, and runs the rest anew."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru import KitaruClient, checkpoint, flow, wait
from kitaru.cli.views.executions import execution_lines
from kitaru.cli.views.timeline import timeline
from kitaru.core.replay import CallIdentity, Changes, Offers, plan_replay
from kitaru.errors import KitaruInputError, KitaruStateError, KitaruUsageError
from kitaru.model.event import CheckpointCompleted, CheckpointOffered, Event, ExecutionOptions, Opened, Value
from kitaru.model.execution import CheckpointCall, Execution
from kitaru.run.journal import read_entries, read_events
from tests.durable_flows import deployed, ran
from tests.repository import Repository, kitaru, until

RAN: list[str] = []
VALUE = Value("json", 1, "0" * 64, "inline", 1)


@dataclass
class Notes:
    topic: str
    facts: list[str]


@checkpoint
def collect(topic: str) -> Notes:
    RAN.append("collect")
    return Notes(topic, ["old"])


@checkpoint
def collect_anew(topic: str) -> Notes:
    return Notes(topic, ["anew"])


@checkpoint
def outline(notes: Notes) -> str:
    RAN.append("outline")
    return f"{notes.topic}: {', '.join(notes.facts)}"


@checkpoint
def write(text: str, style: str) -> str:
    RAN.append("write")
    return f"{text} ({style})"


@flow
def article(topic: str = "tea", style: str = "plain", ask: bool = False) -> str:
    text = outline(collect(topic))
    if ask and not wait(schema=bool, name="approve", timeout=0):
        return "dropped"
    return write(text, style)


@pytest.fixture
def client(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> KitaruClient:
    monkeypatch.chdir(own_world)
    RAN.clear()
    return KitaruClient(store=f"file://{own_world}/store", project="lab")


def finished(client: KitaruClient, **inputs: Any) -> str:
    handle = client.executions.run(article, article.bind(kwargs=inputs))
    handle.wait(30)
    RAN.clear()
    return handle.exec_id


def test_a_replay_reuses_what_came_before(client: KitaruClient) -> None:
    """A new execution: what finished before the cut is taken over, with where it came from; the rest runs."""
    first = finished(client)
    handle = client.executions.replay(first, from_="write", flow=article)
    assert handle.wait(30) == "tea: old (plain)"
    assert RAN == ["write"]
    assert handle.exec_id != first
    execution = client.executions.get(handle.exec_id)
    assert execution.original_exec_id == first
    assert [(call.name, call.original_call_id) for call in execution.checkpoints] == [
        ("collect", "1"),
        ("outline", "2"),
        ("write", None),
    ]
    entries = read_entries(client.session.store, "lab", handle.exec_id)
    assert [type(event) for event in read_events(entries[:1], handle.exec_id)] == [Opened]
    assert [type(event) for event in read_events(entries[1:2], handle.exec_id)] == [CheckpointOffered] * 2
    assert client.executions.get(first).status == "completed"


@pytest.mark.parametrize(("cut", "expected"), [("outline", 2), ("2", 2), (3, 1), ("1", 3), ("collect", 3)])
def test_where_a_replay_begins(client: KitaruClient, cut: Any, expected: int) -> None:
    """By a checkpoint's name, a call's id or a position; the call at the cut runs itself."""
    first = finished(client)
    client.executions.replay(first, from_=cut, flow=article).wait(30)
    assert ["collect", "outline", "write"][-expected:] == RAN


def test_an_overridden_result_is_used_in_its_place(client: KitaruClient) -> None:
    """The given result comes as the checkpoint's own type, and what it feeds runs anew, whatever the cut."""
    first = finished(client)
    overrides = {"checkpoint.collect": {"topic": "coffee", "facts": ["new", "hot"]}}
    handle = client.executions.replay(first, from_="write", overrides=overrides, flow=article)
    assert handle.wait(30) == "coffee: new, hot (plain)"
    assert RAN == ["outline", "write"]
    handle = client.executions.replay(first, from_="write", overrides={"checkpoint.write": "given"}, flow=article)
    RAN.clear()
    assert handle.wait(30) == "given"
    assert RAN == []
    execution = client.executions.get(handle.exec_id)
    stored = execution.checkpoints[-1].output
    assert stored is not None
    assert stored.type == "str"
    assert [call.given_by for call in execution.checkpoints] == [None, None, execution.actor]
    assert execution.actor
    assert execution.unused_overrides == []
    (said,) = [one.why for one in client.executions.explain_cache(handle.exec_id) if one.name == "write"]
    assert said.startswith(f"given by {execution.actor}")
    drawn = "\n".join(timeline(execution, width=120))
    assert f"given by {execution.actor}" in drawn


def test_a_result_may_be_given_for_a_checkpoint_that_only_the_new_code_has(client: KitaruClient) -> None:
    """It comes to every call of that name; the type is that of its annotation, and the call is marked as given."""
    first = finished(client)

    @flow
    def article(topic: str = "tea", style: str = "plain", ask: bool = False) -> str:
        return outline(collect_anew(topic))

    given_notes = {"checkpoint.collect_anew": {"topic": "coffee", "facts": ["new"]}}
    plan = client.executions.plan_replay(first, from_="write", overrides=given_notes, flow=article)
    assert [(call.call_id, call.name) for call in plan.calls if call.action == "override"] == [("", "collect_anew")]
    handle = client.executions.replay(first, from_="write", overrides=given_notes, flow=article)
    assert handle.wait(30) == "coffee: new"
    call = client.executions.get(handle.exec_id).checkpoints[0]
    assert (call.name, call.original_call_id) == ("collect_anew", None)
    assert call.given_by
    with pytest.raises(KitaruInputError, match="collect_anew"):
        client.executions.replay(first, from_="write", overrides={"checkpoint.collect_anew": 5}, flow=article)
    with pytest.raises(KitaruUsageError, match="did you mean collect_anew"):
        client.executions.replay(first, from_="write", overrides={"checkpoint.collect_anw": 5}, flow=article)


def test_what_was_given_and_not_asked_for_is_told(client: KitaruClient) -> None:
    """Where the code no longer calls that checkpoint: the plan doubts it, and the execution says so in the end."""
    first = finished(client)

    @flow
    def article(topic: str = "tea", style: str = "plain", ask: bool = False) -> str:
        return write(topic, style)

    overrides = {"checkpoint.outline": "given"}
    plan = client.executions.plan_replay(first, from_="write", overrides=overrides, flow=article)
    (planned,) = [call for call in plan.calls if call.name == "outline"]
    assert planned.reason == "its result is given, if the source as it is now calls it"
    handle = client.executions.replay(first, from_="write", overrides=overrides, flow=article)
    assert handle.wait(30) == "tea (plain)"
    execution = client.executions.get(handle.exec_id)
    assert execution.unused_overrides == ["checkpoint.outline"]
    assert any("checkpoint.outline: given" in line for line in execution_lines(execution, lambda value: value))


def test_other_inputs_reuse_what_still_fits(client: KitaruClient) -> None:
    """With other inputs a recorded result is taken only where the call's own inputs are the same; no divergence."""
    first = finished(client)
    handle = client.executions.replay(first, from_="write", args={"style": "loud"}, flow=article)
    assert handle.wait(30) == "tea: old (loud)"
    assert RAN == ["write"]
    RAN.clear()
    handle = client.executions.replay(first, from_="write", args={"topic": "coffee"}, flow=article)
    assert handle.wait(30) == "coffee: old (plain)"
    assert RAN == ["collect", "outline", "write"]
    again = client.executions.get(handle.exec_id)
    assert [call.original_call_id for call in again.checkpoints] == [None, None, None]
    with pytest.raises(KitaruInputError):
        client.executions.replay(first, from_="write", args={"nope": 1}, flow=article)


def test_answers_are_taken_over_or_given(client: KitaruClient) -> None:
    """An answer from before the cut is not asked for again; --override wait.NAME gives another one."""
    handle = client.executions.run(article, article.bind(kwargs={"ask": True}))
    with pytest.raises(KitaruStateError):
        handle.wait(30)
    client.executions.input(handle.exec_id, value=True, flow=article).wait(30)
    RAN.clear()
    first = handle.exec_id
    assert client.executions.replay(first, from_="write", flow=article).wait(30) == "tea: old (plain)"
    assert RAN == ["write"]
    replayed = client.executions.replay(first, from_="write", overrides={"wait.approve": False}, flow=article)
    assert replayed.wait(30) == "dropped"
    asks = client.executions.replay(first, from_="outline", flow=article)
    with pytest.raises(KitaruStateError, match="waits for an answer"):
        asks.wait(30)
    given = client.executions.replay(first, from_="write", overrides={"wait.approve": "yes"}, flow=article)
    with pytest.raises(KitaruStateError, match="waits for an answer"):
        given.wait(30)


def test_a_replay_that_stops_is_resumed_with_what_it_took_over(client: KitaruClient) -> None:
    """A replay is an execution like others: after a failure it goes on, and reuses still."""
    first = finished(client)
    broken = [True]

    @checkpoint
    def write(text: str, style: str) -> str:
        RAN.append("write")
        if broken:
            raise LookupError("not yet")
        return f"{text} ({style})"

    @flow
    def other(topic: str, style: str, ask: bool) -> str:
        return write(outline(collect(topic)), style)

    other.name = "article"
    handle = client.executions.replay(first, from_="write", flow=other)
    with pytest.raises(Exception, match="not yet"):
        handle.wait(30)
    broken.clear()
    assert client.executions.resume(handle.exec_id, flow=other).wait(30) == "tea: old (plain)"
    assert RAN == ["write", "write"]


def test_what_a_replay_refuses(client: KitaruClient) -> None:
    """A cut, an override or a flow that leads nowhere is told, with what there is; nothing is opened."""
    first = finished(client)
    count = len(client.executions.list())
    for asked, words in (
        ({"from_": "nope"}, "collect, outline, write"),
        ({"from_": "9"}, "'9'"),
        ({"from_": "write", "overrides": {"checkpoint.nope": 1}}, "nope"),
        ({"from_": "write", "overrides": {"nope": 1}}, r"checkpoint\.NAME"),
        ({"from_": "write", "version": 2}, "not both"),
    ):
        with pytest.raises(KitaruUsageError, match=words):
            client.executions.replay(first, flow=article, **asked)  # type: ignore[arg-type]
    assert len(client.executions.list()) == count


# --- deployed versions, at the command line ---------------------------------------------------------------------------


@pytest.fixture
def house(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    repository = deployed(own_world / "repository")
    monkeypatch.chdir(repository.folder)
    return repository


def test_a_deployed_execution_is_replayed_by_a_worker(house: Repository, tmp_path: Path) -> None:
    """replay starts a new worker on the same version; --dry-run only says what it would do; --version takes another."""
    (tmp_path / "go").touch()
    exec_id = kitaru("invoke", "steps", "--input", json.dumps({"folder": str(tmp_path)})).must().out.strip()
    client = house.client()
    assert client.executions.handle(exec_id).wait(30) == [1, 2, 3]
    planned = kitaru("executions", "replay", exec_id, "--from", "3", "--dry-run", "-o", "json").must().json["item"]
    assert [call["action"] for call in planned["calls"]] == ["reuse", "reuse", "rerun"]
    assert len(client.executions.list()) == 1
    done = kitaru("executions", "replay", exec_id, "--from", "3", "--wait", "-o", "json").must()
    assert done.json["item"]["result"] == [1, 2, 3]
    assert done.json["item"]["original_exec_id"] == exec_id
    assert done.json["item"]["version"] == 1
    assert ran(tmp_path) == ["step 1", "step 2", "step 3", "step 3"]

    house.change(
        "flows/work.py",
        "return [step(folder, 1), step(folder, 2), step(folder, 3)]",
        "return [pace(folder, 1), step(folder, 2), step(folder, 3)]",
    )
    house.change(
        "flows/work.py",
        "@flow\ndef long",
        "@checkpoint\ndef pace(folder: str, number: int) -> int:\n    return -number\n\n\n@flow\ndef long",
    )
    house.commit()
    house.apply()
    done = kitaru("executions", "replay", exec_id, "--from", "3", "--version", "2", "--wait", "-o", "json").must()
    assert done.json["item"]["result"] == [-1, 2, 3]
    assert done.json["item"]["version"] == 2
    assert ran(tmp_path)[4:] == ["step 3"]
    house.change("flows/work.py", "[pace(folder, 1), step(folder, 2), step(folder, 3)]", "[pace(folder, 1)]")
    house.commit()
    house.apply()
    rows = kitaru("executions", "replay", exec_id, "--from", "3", "--tag", "default", "--dry-run").must()
    assert rows.out.count("incompatible") == 3
    assert "has no checkpoint step" in rows.out
    given_step = ("--from", "3", "--override", "checkpoint.step=5")
    done = kitaru("executions", "replay", exec_id, *given_step, "--tag", "default")
    done.refused("v3 has no checkpoint step", "pace")
    given_pace = ("--from", "3", "--override", "checkpoint.pace=7", "--override", "checkpoint.step=8")
    done = kitaru("executions", "replay", exec_id, *given_pace, "--version", "2", "--wait", "-o", "json").must()
    assert done.json["item"]["result"] == [7, 8, 8]
    shown = kitaru("executions", "get", done.json["item"]["exec_id"], "-o", "json").must().json["item"]
    assert all(call["given_by"] for call in shown["checkpoints"])
    kitaru("executions", "replay", exec_id, "--from", "3", "--args", '{"folder": 3}').refused("don't fit", "text")
    kitaru("executions", "replay", exec_id, "--from", "3", "--override", "nope").refused("checkpoint.NAME=JSON")
    kitaru("executions", "replay", exec_id, "--from", "3", "--override", "checkpoint.step=nope").refused("not JSON")


def test_a_running_execution_can_be_replayed(house: Repository, tmp_path: Path) -> None:
    """A replay takes over what is recorded so far, and leaves the original alone."""
    exec_id = kitaru("invoke", "steps", "--input", json.dumps({"folder": str(tmp_path)})).must().out.strip()
    until(lambda: (tmp_path / "reached").exists())
    client = house.client()
    until(lambda: any(call.status == "running" for call in client.executions.get(exec_id).checkpoints))
    handle = client.executions.replay(exec_id, from_="2")
    (tmp_path / "go").touch()
    assert handle.wait(30) == [1, 2, 3]
    assert client.executions.handle(exec_id).wait(30) == [1, 2, 3]
    assert ran(tmp_path).count("step 1") == 1


# --- the pure parts ---------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c"])
DIGESTS = st.sampled_from(["", "x", "y"])


@given(known=NAMES, came=NAMES, then=DIGESTS, now=st.sampled_from(["x", "y"]), key=st.sampled_from(["1", "2"]))
def test_an_offer_is_taken_once_where_it_fits(known: str, came: str, then: str, now: str, key: str) -> None:
    """Of the same code: at its own place, by a call of its name with its inputs; a given result by every such call."""
    offered = CheckpointOffered(at="", call="1", name=known, input_digest=then, output=VALUE)
    offers = Offers([offered])
    call = CallIdentity(key, came, now)
    fits = known == came and (not then or (then == now and key == "1"))
    assert offers.take(call) == (offered if fits else None)
    assert offers.take(call) == (offered if fits and not then else None)


@given(offered=st.integers(0, 6), made=st.integers(0, 8), crash=st.integers(0, 8))
def test_of_other_code_the_nth_call_takes_what_the_nth_gave(offered: int, made: int, crash: int) -> None:
    """Wherever it stands; one that has no such counterpart runs. A crash in between changes nothing."""
    events: list[Event] = [
        CheckpointOffered(at="", call=str(place), name="a", input_digest="x", output=VALUE, movable=True)
        for place in range(1, offered + 1)
    ]
    offers = Offers(events)
    found = []
    for number in range(made):
        if number == crash:
            offers = Offers(events)
        offer = offers.take(CallIdentity(f"9/{number}", "a", "x"))
        found.append(offer.call if offer is not None else None)
        done = CheckpointCompleted(
            at="",
            started="",
            call=f"9/{number}",
            name="a",
            attempt=1,
            input_digest="x",
            output=VALUE,
            original_call_id=found[-1],
        )
        events.append(done)
    assert found == [str(place) if place <= offered else None for place in range(1, made + 1)]


@st.composite
def recorded(draw: st.DrawFn) -> list[CheckpointCall]:
    count = draw(st.integers(1, 8))
    return [
        CheckpointCall(
            call_id=str(number),
            name=draw(NAMES),
            status="completed" if done else "failed",
            started_at=f"2026-01-01T00:00:{draw(st.integers(0, 59)):02}.000000Z",
            output=VALUE if done else None,
        )
        for number in range(1, count + 1)
        for done in [draw(st.booleans())]
    ]


def execution_of(calls: list[CheckpointCall]) -> Execution:
    return Execution(
        exec_id="ex",
        project="lab",
        flow_name="f",
        status="failed",
        created_at="",
        stack_name="local",
        target="f.py:f",
        origin="run",
        options=ExecutionOptions(),
        inputs=VALUE,
        checkpoints=tuple(calls),
    )


@given(calls=recorded(), data=st.data())
def test_a_plan_reuses_only_what_finished_before_the_cut(calls: list[CheckpointCall], data: st.DataObject) -> None:
    """Every call has one fate; nothing that began at or after the cut, and nothing unfinished, is reused."""
    cut = data.draw(st.sampled_from(calls))
    names = {call.name for call in calls}
    overrides = data.draw(st.sets(st.sampled_from(sorted(names))))
    plan = plan_replay(execution_of(calls), cut=cut.call_id, changes=Changes(results=overrides))
    fates = {call.call_id: call.action for call in plan.calls}
    assert sorted(fates) == sorted(call.call_id for call in calls)
    for call in calls:
        fate = fates[call.call_id]
        if call.name in overrides:
            assert fate == "override"
        elif fate in ("reuse", "reuse_if_same"):
            assert call.status == "completed"
            assert call.started_at <= cut.started_at
            assert call.call_id != cut.call_id
        elif call.status == "completed":
            assert call.started_at >= cut.started_at
