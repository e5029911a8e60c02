"""``log``: metadata reaches the call or the execution it was said in, merges, and survives what results survive."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kitaru
from kitaru import checkpoint, flow
from kitaru.errors import KitaruContextError, KitaruUserCodeError, KitaruValueError
from kitaru.model.event import CheckpointStarted, MetadataLogged, Opened, Value
from kitaru.model.execution import artifact_id, fold, merge, split_artifact_id
from tests.execution_lab import PROJECT, CountingStore, Lab

LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)
OBJECTS = st.dictionaries(
    st.text("abc", min_size=1, max_size=2),
    st.recursive(LEAVES, lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3)),
    max_size=4,
)


def at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def leaves(tree: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found = []
    for key, value in tree.items():
        found += leaves(value, (*path, key)) if isinstance(value, dict) else [((*path, key), value)]
    return found


@given(OBJECTS, OBJECTS)
def test_the_newer_wins_and_nothing_else_is_lost(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Each leaf of the newer is in the merge; each older leaf is, unless the newer replaced it or one above it."""
    merged = merge(old, new)
    assert all(at(merged, path) == value for path, value in leaves(new))
    for path, value in leaves(old):
        replaced = False
        part: Any = new
        for place, key in enumerate(path):
            if not isinstance(part, dict) or key not in part:
                break
            part = part[key]
            replaced = not isinstance(part, dict) or place == len(path) - 1
        if not replaced:
            assert at(merged, path) == value
    assert merge(merged, new) == merged
    assert merge(old, {}) == old == merge({}, old)


@given(OBJECTS, OBJECTS)
def test_a_merge_changes_neither_side(old: dict[str, Any], new: dict[str, Any]) -> None:
    """What was logged stays as it was logged, also when the merge is merged into again."""
    before = copy.deepcopy((old, new))
    merge(merge(old, new), {"a": {"b": {"c": 1}}, "b": {"a": {}}})
    assert (old, new) == before


@given(st.lists(st.tuples(st.sampled_from([None, "1", "2/1"]), OBJECTS), max_size=6))
def test_the_fold_keeps_calls_apart(logged: list[tuple[str | None, dict[str, Any]]]) -> None:
    """What one call logs is the merge of its own notes in their order, whatever others log in between."""
    value = Value("json", 2, "", "inline", {})
    opened = Opened(at="", project="p", exec_id="e", flow="f", target="t", inputs=value, origin="run", stack="local")
    calls = [CheckpointStarted(at="", call=call, name="c", attempt=1) for call in ("1", "2/1")]
    execution = fold([opened, *(MetadataLogged(at="", call=call, values=values) for call, values in logged), *calls])
    found = {None: execution.metadata, **{call.call_id: call.metadata for call in execution.checkpoints}}
    for call in (None, "1", "2/1"):
        expected: dict[str, Any] = {}
        for owner, values in logged:
            expected = merge(expected, values) if owner == call else expected
        assert found[call] == expected


@given(st.sampled_from([None, "3", "1.2/3"]), st.text(min_size=1, max_size=20))
def test_an_artifact_id_can_be_taken_apart(call: str | None, name: str) -> None:
    """Whatever the name, the id gives back execution, call and name."""
    exec_id = "ex-000000000000000000"
    assert split_artifact_id(artifact_id(exec_id, call, name)) == (exec_id, call, name)


@dataclass
class Cost:
    tokens: int


@checkpoint(retries=1)
def priced(n: int) -> int:
    kitaru.log(cost={"tokens": n}, model="small")
    if n == 2 and not TRIED:
        TRIED.append(n)
        raise ValueError("once")
    kitaru.log(cost={"euros": 0.1}, model="large", parts=(1, 2))
    return n


TRIED: list[int] = []


@flow
def noted() -> int:
    kitaru.log(stage="begun", sizes={"a": 1})
    total = priced(1) + priced(2)
    kitaru.log(stage="done", sizes={"b": 2})
    return total


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    TRIED.clear()
    return Lab(tmp_path / "store")


def test_metadata_goes_to_the_call_or_to_the_execution(lab: Lab) -> None:
    """Objects merge, scalars and lists are replaced; what a failed attempt logged stays."""
    exec_id = lab.open(noted)
    assert lab.go_on(noted, exec_id) == 3
    execution = lab.load(exec_id)
    assert execution.metadata == {"stage": "done", "sizes": {"a": 1, "b": 2}}
    assert [call.metadata for call in execution.checkpoints] == [
        {"cost": {"tokens": n, "euros": 0.1}, "model": "large", "parts": [1, 2]} for n in (1, 2)
    ]


def test_logging_costs_no_request(tmp_path: Path) -> None:
    """Metadata travels in the entry that the checkpoint writes anyway."""

    @checkpoint
    def chatty() -> int:
        for n in range(20):
            kitaru.log(**{f"key{n}": n})
        return 1

    @flow
    def talk() -> int:
        return chatty()

    lab = Lab(tmp_path, lambda inner: CountingStore(inner))
    assert isinstance(lab.store, CountingStore)
    exec_id = lab.open(talk)
    lab.go_on(talk, exec_id)
    assert len(lab.store.of("create", "/journal/")) == 3
    assert len(lab.load(exec_id).checkpoints[0].metadata) == 20


def test_a_resumed_execution_keeps_what_was_logged(lab: Lab) -> None:
    """Reused checkpoints keep their metadata, in the journal and in the summary that lists show."""
    broken = [True]

    @flow
    def halting() -> int:
        kitaru.log(tries={"first": broken[0]} if broken[0] else {"second": True})
        value = priced(1)
        if broken[0]:
            raise RuntimeError("later")
        return value

    exec_id = lab.open(halting)
    with pytest.raises(KitaruUserCodeError):
        lab.go_on(halting, exec_id)
    broken[0] = False
    assert lab.go_on(halting, exec_id) == 1
    execution = lab.load(exec_id)
    assert execution.checkpoints[0].metadata["model"] == "large"
    assert execution.metadata == {"tries": {"first": True, "second": True}}
    from kitaru.model import address
    from kitaru.run.journal import read_summary

    def summary_of() -> Any:
        return read_summary(lab.store.read(address.summary(PROJECT, exec_id)) or b"{}")

    for _ in range(100):
        if summary_of() is not None and summary_of().status == "completed":
            break
        import time

        time.sleep(0.02)
    assert summary_of().metadata == execution.metadata


def test_async_checkpoints_log_to_themselves(lab: Lab) -> None:
    """Two that run side by side do not mix."""

    @checkpoint
    async def wave(n: int) -> int:
        kitaru.log(n=n)
        await asyncio.sleep(0.01)
        kitaru.log(again=n)
        return n

    @flow
    async def sea() -> int:
        return sum(await asyncio.gather(wave(1), wave(2)))

    exec_id = lab.open(sea)
    assert lab.go_on(sea, exec_id) == 3
    found = [call.metadata for call in lab.load(exec_id).checkpoints]
    assert sorted(found, key=lambda one: one["n"]) == [{"n": 1, "again": 1}, {"n": 2, "again": 2}]


def test_models_are_plain_and_the_caller_may_change_his_own(lab: Lab) -> None:
    """A dataclass becomes an object; changing a list after ``log`` changes nothing that was logged."""
    mine = [1]

    @flow
    def plain_flow() -> None:
        kitaru.log(cost=Cost(3), mine=mine)
        mine.append(2)

    exec_id = lab.open(plain_flow)
    lab.go_on(plain_flow, exec_id)
    assert lab.load(exec_id).metadata == {"cost": {"tokens": 3}, "mine": [1]}


@pytest.mark.parametrize(("value", "says"), [(object(), "bad="), (len, "bad="), ("x" * 70_000, "more than")])
def test_what_cannot_be_logged_is_refused_by_name(lab: Lab, value: Any, says: str) -> None:
    """The error names the key, or the limit; the flow can go on from it."""

    @flow
    def refused() -> str:
        with pytest.raises(KitaruValueError, match=says) as caught:
            kitaru.log(fine=1, bad=value)
        return caught.value.hint

    assert "save(" in lab.run(refused)


@pytest.mark.parametrize("call", [lambda: kitaru.log(a=1), lambda: kitaru.save("a", 1), lambda: kitaru.load("ex", "a")])
def test_outside_a_flow_notes_have_no_place(call: Any) -> None:
    """The error says where to call it."""
    with pytest.raises(KitaruContextError, match="outside a flow"):
        call()
