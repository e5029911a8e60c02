"""What a dry run says of each call is what the replay then does."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kitaru import KitaruClient, checkpoint, flow
from kitaru.core.replay import Changes, plan_replay
from kitaru.errors import KitaruStateError, KitaruUsageError, KitaruWaitValidationError
from kitaru.flows.flow import Flow
from kitaru.model import address
from kitaru.model.event import Opened
from kitaru.model.execution import Execution, ReplayPlan
from kitaru.run.replay import given_value, offers, open_replay
from kitaru.values import stored
from kitaru.values.stored import encode
from tests.execution_lab import PROJECT, Lab
from tests.repository import Repository

# --- deployed flows, each case a replay by a worker -------------------------------------------------------------------

FIRST = """
from dataclasses import dataclass

from kitaru import checkpoint, flow, wait


@dataclass
class Notes:
    topic: str
    facts: list[str]


def noted(what):
    with open(RAN, "a") as file:
        file.write(f"{what}\\n")


@checkpoint
def collect(topic: str) -> Notes:
    noted("collect")
    return Notes(topic, ["old"])


@checkpoint
def outline(notes: Notes) -> str:
    noted("outline")
    return f"{notes.topic}: {', '.join(notes.facts)}"


@checkpoint
def check(text: str) -> None:
    noted("check")


@checkpoint
def write(text: str, style: str) -> str:
    noted("write")
    return f"{text} ({style})"


@checkpoint
def spread(number: int) -> int:
    noted(f"spread {number}")
    return number * 10


@checkpoint
def total(numbers: list[int]) -> int:
    noted("total")
    return sum(numbers)


@checkpoint
def sum_up(numbers: list[int]) -> int:
    noted("sum_up")
    return -sum(numbers)


@checkpoint
def sample() -> int:
    noted("sample")
    return 1


@flow
def chain(topic: str = "tea", style: str = "plain") -> str:
    notes = collect(topic)
    return write(outline(notes), style)


@flow
def mapped(numbers: list[int]) -> int:
    return total(spread.map(numbers).results())


@flow
def sampled() -> int:
    first = [sample(), sample(), sample()]
    return total(first)


@flow
def asked(topic: str = "tea") -> str:
    text = outline(collect(topic))
    if wait(schema=bool, name="approve", timeout=0):
        return write(text, "asked")
    return "dropped"
"""

SECOND = (
    ("    return write(outline(notes), style)", "    check(notes.topic)\n    return write(outline(notes), style)"),
    ("return total(spread.map(numbers).results())", "return sum_up(spread.map(numbers).results())"),
    ("first = [sample(), sample(), sample()]", "first = [sample(), sample(), sample(), sample()]"),
    (
        '    text = outline(collect(topic))\n    if wait(schema=bool, name="approve", timeout=0):\n',
        '    agreed = wait(schema=bool, name="approve", timeout=0)\n'
        "    text = outline(collect(topic))\n    if agreed:\n",
    ),
)
INPUTS: dict[str, dict[str, Any]] = {"chain": {}, "mapped": {"numbers": [1, 2, 3]}, "sampled": {}, "asked": {}}
MANIFEST = (
    "kitaru: 1\nproject: research\nstore: file://.kitaru/store\nsource: {include: ['flows/**']}\nflows:\n"
    + "".join(
        f"  {name}: {{target: 'flows/work.py:{name}', inputs: {json.dumps(inputs)}, routes: {{default: head}}}}\n"
        for name, inputs in INPUTS.items()
    )
)


@dataclass(frozen=True)
class House:
    """The flows in two versions, and one execution of each on the first."""

    client: KitaruClient
    ran: Path
    done: dict[str, str] = field(default_factory=dict)

    def first(self, name: str) -> str:
        if name not in self.done:
            handle = self.client.deployments.invoke(flow=name, inputs=INPUTS[name], version=1)
            if name == "asked":
                with pytest.raises(KitaruStateError):
                    handle.wait(30)
                handle = self.client.executions.input(handle.exec_id, value=True)
            handle.wait(30)
            self.done[name] = handle.exec_id
        return self.done[name]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("replays")
        patch.setenv("KITARU_HOME", str(folder / "home"))
        ran = folder / "ran"
        text = f"RAN = {str(ran)!r}\n{FIRST}"
        repository = Repository.make(folder / "repository", {"flows/work.py": text}, MANIFEST)
        repository.apply()
        for old, new in SECOND:
            repository.change("flows/work.py", old, new)
        repository.commit()
        repository.apply()
        yield House(repository.client(), ran)


R, S, G, N, X = "reuse", "reuse_if_same", "override", "rerun", "incompatible"

CASES: dict[str, tuple[str, dict[str, Any], list[str], list[str], Any]] = {
    # flow, what is asked, the words for each call, what ran then, the result
    "nothing changed": ("chain", {"from_": "write"}, [R, R, N], ["write"], "tea: old (plain)"),
    "from the first": ("chain", {"from_": 1}, [N, N, N], ["collect", "outline", "write"], "tea: old (plain)"),
    "args that are those recorded": (
        "chain",
        {"from_": "write", "args": {"style": "plain", "topic": "tea"}},
        [R, R, N],
        ["write"],
        "tea: old (plain)",
    ),
    "args that don't reach the earlier calls": (
        "chain",
        {"from_": "write", "args": {"style": "loud"}},
        [S, S, N],
        ["write"],
        "tea: old (loud)",
    ),
    "args that reach the earlier calls": (
        "chain",
        {"from_": "write", "args": {"topic": "coffee"}},
        [S, S, N],
        ["collect", "outline", "write"],
        "coffee: old (plain)",
    ),
    "a given result that differs": (
        "chain",
        {"from_": "write", "overrides": {"checkpoint.collect": {"topic": "coffee", "facts": ["hot"]}}},
        [G, S, N],
        ["outline", "write"],
        "coffee: hot (plain)",
    ),
    "a given result that is the recorded one": (
        "chain",
        {"from_": "write", "overrides": {"checkpoint.collect": {"topic": "tea", "facts": ["old"]}}},
        [G, S, N],
        ["write"],
        "tea: old (plain)",
    ),
    "a result given late": (
        "chain",
        {"from_": "write", "overrides": {"checkpoint.outline": "mine"}},
        [R, G, N],
        ["write"],
        "mine (plain)",
    ),
    "a result given after the cut": (
        "chain",
        {"from_": "outline", "overrides": {"checkpoint.write": "mine"}},
        [R, N, G],
        ["outline"],
        "mine",
    ),
    "a map": ("mapped", {"from_": "total"}, [R, R, R, N], ["total"], 60),
    "a map, with other elements": (
        "mapped",
        {"from_": "total", "args": {"numbers": [1, 5, 3, 2]}},
        [S, S, S, N],
        ["spread 2", "spread 5", "total"],
        110,
    ),
    "a map, given": ("mapped", {"from_": "total", "overrides": {"checkpoint.spread": 7}}, [G, G, G, N], ["total"], 21),
    "the same call again and again": ("sampled", {"from_": 3}, [R, R, N, N], ["sample", "total"], 3),
    "after a wait": ("asked", {"from_": "write"}, [R, R, N], ["write"], "tea: old (asked)"),
    "from a wait, which is answered": (
        "asked",
        {"from_": "approve", "overrides": {"wait.approve": True}},
        [R, R, N],
        ["write"],
        "tea: old (asked)",
    ),
    "another answer": ("asked", {"from_": "write", "overrides": {"wait.approve": False}}, [R, R, N], [], "dropped"),
    "v2 with a call between": (
        "chain",
        {"from_": "write", "version": 2},
        [S, S, N],
        ["check", "write"],
        "tea: old (plain)",
    ),
    "v2 with a call removed": (
        "mapped",
        {"from_": "total", "version": 2},
        [S, S, S, X],
        ["sum_up"],
        -60,
    ),
    "v2 with one more of the same": (
        "sampled",
        {"from_": 3, "version": 2},
        [S, S, N, N],
        ["sample"] * 2 + ["total"],
        4,
    ),
    "v2 that asks first": ("asked", {"from_": "write", "version": 2}, [S, S, N], ["write"], "tea: old (asked)"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_dry_run_of_deployed_flows_says_what_happens(house: House, case: str) -> None:
    """Reuse, run, override or incompatible: as was said, and nothing else ran."""
    name, asked, words, expected, result = CASES[case]
    exec_id = house.first(name)
    client = house.client
    plan = client.executions.plan_replay(exec_id, **asked)
    assert [call.action for call in plan.calls] == words
    house.ran.write_text("")
    handle = client.executions.replay(exec_id, **asked)
    assert handle.wait(30) == result
    assert sorted(house.ran.read_text().split("\n")[:-1]) == sorted(expected)
    replayed = client.executions.get(handle.exec_id)
    given = {key.removeprefix("checkpoint."): value for key, value in asked.get("overrides", {}).items()}
    agree(
        plan,
        replayed,
        ran=Counter(line.partition(" ")[0] for line in house.ran.read_text().split("\n")[:-1]),
        output=lambda value: client.session.value(value, "an output", as_plain=True),
        given=given,
    )


def test_from_a_wait_the_question_is_asked_again(house: House) -> None:
    """What came before is reused; the new execution waits, and goes on with its own answer."""
    exec_id = house.first("asked")
    plan = house.client.executions.plan_replay(exec_id, from_="approve")
    assert [(wait.name, wait.action) for wait in plan.waits] == [("approve", "ask")]
    assert plan == house.client.executions.plan_replay(exec_id, from_="wait.approve")
    house.ran.write_text("")
    handle = house.client.executions.replay(exec_id, from_="approve")
    with pytest.raises(KitaruStateError, match="waits for an answer to 'approve'"):
        handle.wait(30)
    assert house.client.executions.input(handle.exec_id, value=False).wait(30) == "dropped"
    assert house.ran.read_text() == ""


def test_the_version_that_asked_says_at_once_what_answers_it(house: House) -> None:
    """Of the same code its questions are known: an override that can't do is refused, and nothing is opened."""
    exec_id, replay = house.first("asked"), house.client.executions.replay
    count = len(house.client.executions.list())
    with pytest.raises(KitaruUsageError, match="no wait 'nope'"):
        replay(exec_id, from_="write", overrides={"wait.nope": True})
    with pytest.raises(KitaruWaitValidationError, match="approve"):
        replay(exec_id, from_="write", overrides={"wait.approve": "yes"})
    assert len(house.client.executions.list()) == count
    planned = house.client.executions.plan_replay(exec_id, from_="write", overrides={"wait.nope": 1}, version=2)
    assert [(one.name, one.reason) for one in planned.waits if not one.wait_id] == [
        ("nope", "its answer is given, if v2 asks it")
    ]


def agree(plan: ReplayPlan, replayed: Execution, *, ran: Counter[str], output: Any, given: dict[str, Any]) -> None:
    """Hold the words against the journal of the replay, and both against what ran."""
    taken = {call.original_call_id: call for call in replayed.checkpoints if call.original_call_id}
    for call in plan.calls:
        if call.action == "reuse":
            assert taken[call.call_id].name == call.name
            assert taken[call.call_id].call_id == call.call_id
        elif call.action in ("rerun", "incompatible"):
            assert call.call_id not in taken
        if call.action == "incompatible":
            assert call.name not in {one.name for one in replayed.checkpoints}
    for one in replayed.checkpoints:
        if one.name in given:
            assert one.original_call_id is not None
            assert output(one.output) == given[one.name]
    assert ran == Counter(call.name for call in replayed.checkpoints if call.original_call_id is None)


# --- flows that are data: whatever they do, in this process -----------------------------------------------------------

RAN: list[str] = []
HEALED: list[bool] = []
"""Something, where what failed at first succeeds now."""


class Odd(Exception):
    pass


def compute(name: str, number: int) -> int:
    return (number * 7 + ord(name)) % 11


def fails(name: str, number: int) -> bool:
    """Whether the checkpoint fails on the number before it is healed."""
    return (number + ord(name)) % 3 == 0


def made(name: str, number: int) -> int:
    RAN.append(name)
    if fails(name, number) and not HEALED:
        raise Odd(f"{name} {number}")
    return compute(name, number)


@checkpoint
def a(number: int) -> int:
    return made("a", number)


@checkpoint
def b(number: int) -> int:
    return made("b", number)


@checkpoint
def c(number: int) -> int:
    return made("c", number)


@checkpoint
def clean(name: str, number: int) -> int:
    RAN.append("clean")
    return number + len(name)


STEPS = {"a": a, "b": b, "c": c}
Op = list[str]
"""How (``call``, ``map``, in which failures are collected), which checkpoint, and its argument: the input ``x``, the
last value, or a constant. What fails is caught, and cleaned up after by another call.
"""


@flow
def program(ops: list[list[str]], x: int) -> int:
    value = 0
    for how, name, argument in ops:
        number = {"x": x, "last": value, "const": 3}[argument]
        step = STEPS[name]
        if how == "map":
            outcomes = step.map([number, value, 3], on_error="collect").outcomes()
            value = sum(one.value or 0 for one in outcomes) + 5 * len([one for one in outcomes if not one.ok])
            continue
        try:
            value = step(number)
        except Odd as error:
            value = clean(str(error), number)
    return value


def expected(ops: list[Op], x: int, given: dict[str, int]) -> int:
    """What ``program`` gives, where nothing is healed."""
    value = 0
    for how, name, argument in ops:
        number = {"x": x, "last": value, "const": 3}[argument]
        each = [number, value, 3] if how == "map" else [number]
        failed = [one for one in each if name not in given and fails(name, one)]
        if failed and how != "map":
            value = given.get("clean", number + len(f"{name} {number}"))
        else:
            value = sum(given.get(name, compute(name, one)) for one in each if one not in failed) + 5 * len(failed)
    return value


HOW = st.sampled_from(["call", "call", "map"])
OPS = st.lists(
    st.tuples(HOW, st.sampled_from(sorted(STEPS)), st.sampled_from(["x", "last", "const"])).map(list),
    min_size=1,
    max_size=5,
)


def replay(lab: Lab, first: str, plan: ReplayPlan, inputs: dict[str, Any], given: dict[str, int], movable: bool) -> str:
    """Replay as the client does, of the same code or of what may be other code."""
    flow_: Flow[..., Any] = program
    opened = lab.events(first)[0]
    assert isinstance(opened, Opened)
    encoded = encode(flow_.bind(kwargs=inputs), subject="inputs")
    stored.put(lab.store, PROJECT, encoded)
    moment = lab.clock.now()
    exec_id = address.exec_id(moment, lab.clock.token(8))
    results = {name: given_value(lab.store, PROJECT, value, name) for name, value in given.items()}
    offered = offers(lab.events(first), plan, results, {}, by="", at=address.timestamp(moment), movable=movable)
    again = replace(opened, exec_id=exec_id, inputs=encoded.value, original_exec_id=first)
    open_replay(lab.store, lab.clock, again, offered)
    return exec_id


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=OPS, now=OPS, x=st.integers(0, 3), later=st.integers(0, 3), data=st.data())
def test_a_plan_says_what_any_replay_does(
    tmp_path: Path, before: list[Op], now: list[Op], x: int, later: int, data: st.DataObject
) -> None:
    """Whatever changed: what is sure happens, nothing runs that need not, and the result is that of a fresh run."""
    lab = Lab(tmp_path / "store")
    first = lab.open(program, ops=before, x=x)
    lab.go_on(program, first)
    original = lab.load(first)
    cut = data.draw(st.integers(1, len(original.checkpoints)))
    names = sorted({call.name for call in original.checkpoints})
    given = dict.fromkeys(data.draw(st.sets(st.sampled_from(names))), 100)
    ops, number = data.draw(st.sampled_from([(before, x), (before, later), (now, x), (now, later)]))
    movable = data.draw(st.booleans())
    same = (ops, number) == (before, x)
    changes = Changes(code="v2" if movable else "", inputs=not same, results=given)
    plan = plan_replay(original, cut=str(cut), changes=changes)
    if same and not given and not movable:
        assert {call.action for call in plan.calls} <= {"reuse", "rerun"}
        if "map" not in {op[0] for op in before}:  # Calls of a map begin in any order.
            assert sum(call.action == "reuse" for call in plan.calls) == cut - 1
    exec_id = replay(lab, first, plan, {"ops": ops, "x": number}, given, movable)
    RAN.clear()
    assert lab.go_on(program, exec_id) == expected(ops, number, given)
    replayed = lab.load(exec_id)
    agree(plan, replayed, ran=Counter(RAN), output=lambda value: value.inline, given=given)
    if same and not given:
        assert Counter(RAN) == Counter(call.name for call in plan.calls if call.action == "rerun")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=OPS, x=st.integers(0, 3), data=st.data(), movable=st.booleans())
def test_what_failed_before_the_cut_fails_again_though_it_would_succeed_now(
    tmp_path: Path, before: list[Op], x: int, data: st.DataObject, movable: bool
) -> None:
    """All that the body did before the cut is taken over, its failures too; so each call before it is made again."""
    lab = Lab(tmp_path / "store")
    first = lab.open(program, ops=before, x=x)
    lab.go_on(program, first)
    original = lab.load(first)
    cut = data.draw(st.integers(1, len(original.checkpoints)))
    plan = plan_replay(original, cut=str(cut), changes=Changes(code="v2" if movable else ""))
    concurrent = "map" in {op[0] for op in before}
    exec_id = replay(lab, first, plan, {"ops": before, "x": x}, {}, movable)
    RAN.clear()
    HEALED.append(True)
    try:
        lab.go_on(program, exec_id)
    finally:
        HEALED.clear()
    taken = {call.original_call_id: call for call in lab.load(exec_id).checkpoints if call.original_call_id}
    reused = [call for call in plan.calls if call.action in ("reuse", "reuse_if_same")]
    if not concurrent:
        assert len(reused) == cut - 1
    for call in reused:
        was = next(one for one in original.checkpoints if one.call_id == call.call_id)
        assert (taken[call.call_id].name, taken[call.call_id].status) == (was.name, was.status)
        assert taken[call.call_id].failure == was.failure
