"""The cache across executions: what is taken, what is not, and what it says about it."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kitaru import Cache, checkpoint, errors, flow, wait
from kitaru.flows.flow import Flow
from kitaru.model import address
from kitaru.model.event import CheckpointCompleted, CheckpointStarted
from kitaru.run.cache import CacheReport, explain
from kitaru.run.journal import RunSuspended
from kitaru.source.port import CodeBase
from tests.execution_lab import PROJECT, CountingStore, Lab

RAN: list[Any] = []


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    RAN.clear()
    return Lab(tmp_path / "store")


@checkpoint
def double(n: int) -> int:
    RAN.append(n)
    return 2 * n


@checkpoint
def large(n: int) -> bytes:
    RAN.append(n)
    return bytes(n)


@checkpoint
def takes(thing: Any, n: int = 1) -> int:
    RAN.append(n)
    return n


@checkpoint(cache=False)
def never(n: int) -> int:
    RAN.append(n)
    return n


@checkpoint
def fails(n: int) -> int:
    RAN.append(n)
    raise ValueError(n)


@flow
def doubling(n: int) -> int:
    return double(n)


def settled() -> None:
    """Until the hints of every run are written."""
    import threading

    deadline = time.monotonic() + 20
    while any(thread.name == "kitaru-cache" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def run(lab: Lab, which: Flow[..., Any], *, cache: bool = True, **inputs: Any) -> str:
    exec_id = lab.open(which, cache=cache, **inputs)
    lab.go_on(which, exec_id)
    settled()
    return exec_id


def why(lab: Lab, exec_id: str) -> list[CacheReport]:
    return explain(lab.store, PROJECT, lab.load(exec_id))


def test_an_earlier_result_is_taken_without_running_the_body(lab: Lab) -> None:
    """The second execution makes one event, which says where the result is from; a third one says the same."""
    first = run(lab, doubling, n=4)
    second = run(lab, doubling, n=4)
    third = run(lab, doubling, n=4)
    assert RAN == [4]
    events = lab.events(second)
    (completed,) = [event for event in events if isinstance(event, CheckpointCompleted)]
    assert completed.cached_from == f"{first}/1"
    assert completed.output.inline == 8
    assert not [event for event in events if isinstance(event, CheckpointStarted)]
    (call,) = lab.load(third).checkpoints
    assert (call.status, call.cached_from) == ("completed", f"{first}/1")
    assert call.started_at == call.ended_at
    assert why(lab, first)[0].word == "miss"
    assert why(lab, second)[0] == CacheReport("1", "double", "hit", f"computed by {first}, call 1")


def test_other_inputs_are_computed_and_the_argument_is_named(lab: Lab) -> None:
    """n=5 after n=4 misses, and the explanation says which argument differs."""
    first = run(lab, doubling, n=4)
    second = run(lab, doubling, n=5)
    assert RAN == [4, 5]
    assert why(lab, first)[0].why == "no earlier execution had this checkpoint"
    assert why(lab, second)[0].why == f"the inputs differ from call 1 of {first}: n changed"


def test_calls_of_one_execution_keep_their_own_results(lab: Lab) -> None:
    """Three equal calls of one execution are three computations, and three hits in the next one."""

    @flow
    def three() -> list[int]:
        return [double(1), double(1), double.submit(1).result()]

    run(lab, three)
    assert RAN == [1, 1, 1]
    second = run(lab, three)
    assert RAN == [1, 1, 1]
    assert [report.word for report in why(lab, second)] == ["hit"] * 3


def test_switched_off_nothing_is_taken(lab: Lab) -> None:
    """By the decorator, and for the whole execution; both say so."""

    @flow
    def both(n: int) -> int:
        return never(n) + double(n)

    run(lab, both, n=1)
    second = run(lab, both, n=1)
    third = lab.open(both, cache=True, cache_asked=False, n=1)
    lab.go_on(both, third)
    assert RAN == [1, 1, 1, 1, 1]
    reports = why(lab, second)
    assert [report.word for report in reports] == ["off", "hit"]
    assert "@checkpoint(cache=False) of never" in reports[0].why
    assert [report.why for report in why(lab, third)] == ["the cache is switched off for this execution"] * 2


def test_failures_are_never_served(lab: Lab) -> None:
    """A call that failed is made again in the next execution."""

    @flow
    def failing() -> int:
        return fails(1)

    for _ in range(2):
        with pytest.raises(errors.KitaruUserCodeError):
            lab.go_on(failing, lab.open(failing, cache=True))
        settled()
    assert RAN == [1, 1]


def test_an_input_without_a_form_is_not_cacheable(lab: Lab) -> None:
    """An object that can't be told from another of its type makes every call a computation, and is named."""

    @flow
    def opaque() -> int:
        return takes(object(), n=2) + takes({"f": [lambda: 1]}, n=2) + takes({"plain": [(1, 2.5), b"x"]}, n=3)

    run(lab, opaque)
    second = run(lab, opaque)
    assert RAN == [2, 2, 3, 2, 2]
    reports = why(lab, second)
    assert [report.word for report in reports] == ["opaque", "opaque", "hit"]
    assert reports[0].why == "thing: a object can't be told from another one"


def test_a_large_result_is_referenced_and_verified(lab: Lab) -> None:
    """It is not stored twice; where its bytes are damaged or gone, the body runs, and the result is whole again."""

    @flow
    def making() -> int:
        return len(large(100_000))

    exec_id = run(lab, making)
    counting = CountingStore(lab.store)
    second = lab.open(making, cache=True)
    lab.go_on(making, second, store=counting)
    settled()
    assert RAN == [100_000]
    assert not counting.of("create", "objects/")
    (call,) = lab.load(exec_id).checkpoints
    assert call.output is not None
    key = address.blob(PROJECT, call.output.sha256)
    lab.store.remove(key)
    run(lab, making)
    assert RAN == [100_000, 100_000]
    assert lab.store.read(key) == bytes(100_000)
    lab.store.overwrite(key, b"something else")
    third = lab.open(making, cache=True)
    with suppress(errors.KitaruError):
        lab.go_on(making, third)
    settled()
    assert RAN == [100_000] * 3


def test_a_damaged_hint_is_a_miss(lab: Lab) -> None:
    """Whatever stands there, the run computes and goes on."""
    first = run(lab, doubling, n=1)
    (key,) = [f"{address.cache_hints(PROJECT, recipe)}{name}" for recipe, name in hints(lab)]
    for body in (b"{", b"[]", b'{"exec_id": 1}', b'{"exec_id":"ex-1","call":"1","output":{"format":"json"}}'):
        lab.store.overwrite(key, body)
        run(lab, doubling, n=1)
    assert RAN == [1] * 5
    assert first


def test_a_hint_that_a_power_cut_left_empty_is_a_miss_and_is_written_again(lab: Lab) -> None:
    """Hints are not synced: what a machine that lost power leaves of them says nothing, and stands in nobody's way."""
    run(lab, doubling, n=1)
    (key,) = [f"{address.cache_hints(PROJECT, recipe)}{name}" for recipe, name in hints(lab)]
    root = Path(lab.store.url.removeprefix("file://"))
    (record,) = [one for one in (root / PROJECT / "index/cache/seen").rglob("*") if one.is_file()]
    for one in (root / key, record):
        one.write_bytes(b"")
    exec_id = run(lab, doubling, n=1)
    assert RAN == [1, 1]
    assert lab.load(exec_id).status == "completed"
    run(lab, doubling, n=1)
    assert RAN == [1, 1], "it was written again"


def test_hints_are_written_without_waiting_for_the_disk(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be lost: only what is trusted is synced."""
    asked: list[tuple[str, bool]] = []
    real = lab.store.overwrite

    def overwrite(key: str, body: bytes, *, durable: bool = True) -> None:
        asked.append((key, durable))
        real(key, body, durable=durable)

    monkeypatch.setattr(lab.store, "overwrite", overwrite)
    run(lab, doubling, n=1)
    cached = [durable for key, durable in asked if "/index/cache/" in key]
    assert cached == [False, False]


def hints(lab: Lab) -> list[tuple[str, str]]:
    found = []
    for short in lab.store.names(f"{PROJECT}/index/cache/"):
        if short != "seen/":
            for recipe in lab.store.names(f"{PROJECT}/index/cache/{short}"):
                found += [
                    (recipe.rstrip("/"), name) for name in lab.store.names(f"{PROJECT}/index/cache/{short}{recipe}")
                ]
    return found


def test_a_hundred_calls_cost_one_listing(lab: Lab) -> None:
    """Misses ask nothing of the store beyond one listing a checkpoint; a hit is one read."""

    @flow
    def many(start: int) -> int:
        return sum(double(n) for n in range(start, start + 100))

    counting = CountingStore(lab.store)
    lab.go_on(many, lab.open(many, cache=True, start=0), store=counting)
    assert len(counting.of("names", "index/cache")) == 1
    assert not counting.of("read", "index/cache")
    settled()
    counting = CountingStore(lab.store)
    lab.go_on(many, lab.open(many, cache=True, start=50), store=counting)
    assert len(RAN) == 150
    assert len(counting.of("names", "index/cache")) == 1
    assert len(counting.of("read", "index/cache")) == 50
    assert len(counting.of("create", "journal/")) == 101
    settled()


def test_async_checkpoints_hit_too(lab: Lab) -> None:
    """In gathered tasks, and in a map."""

    @checkpoint
    async def triple(n: int) -> int:
        RAN.append(n)
        await asyncio.sleep(0)
        return 3 * n

    @flow
    async def gathering() -> list[int]:
        return [*await asyncio.gather(triple(1), triple(2)), *await triple.map([3, 4])]

    first = lab.open(gathering, cache=True)
    assert lab.go_on(gathering, first) == [3, 6, 9, 12]
    settled()
    second = lab.open(gathering, cache=True)
    assert lab.go_on(gathering, second) == [3, 6, 9, 12]
    assert sorted(RAN) == [1, 2, 3, 4]
    assert all(call.cached_from for call in lab.load(second).checkpoints)


def test_a_result_that_no_longer_fits_its_annotation_is_computed(lab: Lab, tmp_path: Path) -> None:
    """A hit must be what the function says that it returns."""
    (recipe, inputs) = ("", "")
    run(lab, doubling, n=3)
    ((recipe, inputs),) = hints(lab)
    wrong = {"format": "text", "size": 1, "sha256": "0" * 64, "inline": "x", "type": "str"}
    body = address.canonical_json({"exec_id": "ex-0", "call": "1", "output": wrong})
    lab.store.overwrite(address.cache_hint(PROJECT, recipe, inputs), body)
    run(lab, doubling, n=3)
    assert RAN == [3, 3]


def test_the_flow_may_change_what_it_was_given(lab: Lab) -> None:
    """A hit is a value of its own each time, and what is published is what was returned."""

    @checkpoint
    def listing() -> list[int]:
        RAN.append(1)
        return [1]

    @flow
    def changing() -> list[int]:
        first, second = listing(), listing()
        first.append(2)
        return [*first, *second]

    for _ in range(3):
        exec_id = lab.open(changing, cache=True)
        assert lab.go_on(changing, exec_id) == [1, 2, 1]
        settled()
    assert RAN == [1, 1]


@checkpoint
def ordered() -> dict[str, Any]:
    RAN.append(1)
    return {"b": 1, "a": {"z": 1, "y": 2}}


@flow
def ordering() -> str:
    return repr(ordered())


def test_a_hit_keeps_the_order_of_keys(lab: Lab) -> None:
    """The value is the one that was computed, its order included."""
    results = []
    for _ in range(2):
        results.append(lab.go_on(ordering, lab.open(ordering, cache=True)))
        settled()
    assert RAN == [1]
    assert results == [repr({"b": 1, "a": {"z": 1, "y": 2}})] * 2


def code(**parts: str) -> CodeBase:
    return CodeBase({"source": "1", "Python": "3.12", **parts}, {}, lambda _file: True)


def run_with(lab: Lab, which: Flow[..., Any], base: CodeBase, **inputs: Any) -> str:
    exec_id = lab.open(which, cache=True, **inputs)
    lab.go_on(which, exec_id, code=base)
    settled()
    return exec_id


@pytest.mark.parametrize("part", ["source", "installed distributions", "requirements", "Python", "image.environment"])
def test_every_part_of_the_code_is_part_of_the_key(lab: Lab, part: str) -> None:
    """A run on other source, libraries or Python computes, and the explanation names the part."""
    first = run_with(lab, doubling, code(**{part: "a"}), n=1)
    same = run_with(lab, doubling, code(**{part: "a"}), n=1)
    other = run_with(lab, doubling, code(**{part: "b"}), n=1)
    assert RAN == [1, 1]
    assert lab.load(same).checkpoints[0].cached_from == f"{first}/1"
    assert why(lab, other)[0].why == f"since {same}: {part} changed"


def test_source_without_a_digest_is_not_cached_and_says_so(lab: Lab) -> None:
    """In doubt the body runs."""
    unknown = CodeBase({"Python": "3.12"}, {"source": "lib.py changed after this process began"}, lambda _file: True)
    for _ in range(2):
        exec_id = run_with(lab, doubling, unknown, n=1)
    assert RAN == [1, 1]
    assert [(one.word, one.why) for one in why(lab, exec_id)] == [("opaque", "lib.py changed after this process began")]


def test_a_version_stands_in_place_of_the_source(lab: Lab) -> None:
    """Other source, and none, find the result of that version; another version does not."""

    def versioned(version: str) -> Flow[..., Any]:
        @checkpoint(cache=Cache(version=version))
        def paid(n: int) -> int:
            RAN.append(version)
            return n

        @flow
        def paying(n: int) -> int:
            return paid(n)

        return paying

    notebook = CodeBase({"Python": "3.12"}, {"source": "no file"}, lambda _file: False)
    run_with(lab, versioned("1"), code(source="a"), n=1)
    run_with(lab, versioned("1"), code(source="b"), n=1)
    run_with(lab, versioned("1"), notebook, n=1)
    assert RAN == ["1"]
    run_with(lab, versioned("2"), code(source="b"), n=1)
    assert RAN == ["1", "2"]


@pytest.mark.parametrize("version", ["", None, 2])
def test_a_version_is_a_text(version: Any) -> None:
    """Anything else is refused at the decorator."""
    with pytest.raises(errors.KitaruUsageError, match="version of Cache"):
        Cache(version=version)


@dataclass
class Factor:
    by: int


def made(factor: Any) -> Flow[..., Any]:
    """A flow whose checkpoint differs by its closure alone."""

    @checkpoint
    def scaled(n: int) -> int:
        RAN.append(n)
        value = factor() if callable(factor) else factor[0] if isinstance(factor, list) else factor
        return n * (value.by if hasattr(value, "by") else int(value))

    @flow
    def scaling(n: int) -> int:
        return scaled(n)

    return scaling


def three() -> int:
    return 3


@pytest.mark.parametrize(
    "make",
    [
        lambda k: k,
        lambda k: [k],
        Factor,
        lambda k: [Factor(k)],
        lambda k: functools.partial(int, k),
        lambda k: lambda: k,
        lambda k: Factor(k).__class__(k),
    ],
    ids=["int", "list", "dataclass", "list of dataclasses", "partial", "lambda", "instance"],
)
def test_a_closure_counts_by_value(lab: Lab, make: Callable[[int], Any]) -> None:
    """Checkpoints of one factory share results if what they captured is equal, and only then."""
    results = []
    for number in (2, 3, 2):
        exec_id = lab.open(made(make(number)), cache=True, n=10)
        results.append(lab.go_on(made(make(number)), exec_id))
        settled()
    assert results == [20, 30, 20]
    assert RAN == [10, 10], "the third was a hit"


class Client:
    by = 2


def local_class() -> Any:
    class Local:
        by = 2

    return Local


@pytest.mark.parametrize(
    ("captured", "reason"),
    [
        (Client(), "factor of made.<locals>.scaled: a Client can't be told from another one"),
        (Client().__init__, "factor of made.<locals>.scaled: a method-wrapper can't be told from another one"),
        (
            local_class(),
            "factor of made.<locals>.scaled: the class local_class.<locals>.Local is made in a function",
        ),
    ],
)
def test_a_closure_without_value_identity_is_not_cached(lab: Lab, captured: Any, reason: str) -> None:
    """The explanation names the variable and the class."""
    for _ in range(2):
        with suppress(errors.KitaruError):
            exec_id = lab.open(made(captured), cache=True, n=1)
            lab.go_on(made(captured), exec_id)
        settled()
    assert RAN == [1, 1]
    assert [(one.word, one.why) for one in why(lab, exec_id)] == [("opaque", reason)]


def test_functions_of_one_name_are_told_apart_by_their_place(lab: Lab) -> None:
    """Two lambdas of one line, two defaults."""
    plus, minus = (lambda: 2), (lambda: 3)
    assert plus.__qualname__ == minus.__qualname__
    for function, result in ((plus, 20), (minus, 30)):
        assert lab.go_on(made(function), lab.open(made(function), cache=True, n=10)) == result
        settled()


def test_code_from_no_file_of_the_source_is_not_cached(lab: Lab) -> None:
    """A cell of a notebook, a text that was executed."""
    outside = CodeBase({"source": "1"}, {}, lambda _file: False)
    for _ in range(2):
        exec_id = run_with(lab, doubling, outside, n=1)
    assert RAN == [1, 1]
    assert "double comes from no file of the source" in why(lab, exec_id)[0].why


@checkpoint(cache=True)
def always(n: int) -> int:
    RAN.append(n)
    return n


@pytest.mark.parametrize(
    ("asked", "flow_says", "hits"),
    [
        # always says True, double says nothing, never says False
        (None, True, [True, True, False]),
        (None, False, [True, False, False]),
        (True, False, [True, True, True]),
        (False, True, [False, False, False]),
    ],
)
def test_the_nearest_word_wins(lab: Lab, asked: bool | None, flow_says: bool, hits: list[bool]) -> None:
    """The checkpoint's word wins over the flow's, and the call's over both."""

    @flow
    def all_three() -> int:
        return always(1) + double(2) + never(3)

    for _ in range(2):
        exec_id = lab.open(all_three, cache=flow_says, cache_asked=asked)
        lab.go_on(all_three, exec_id)
        settled()
    assert [bool(call.cached_from) for call in lab.load(exec_id).checkpoints] == hits


def test_an_option_that_changes_nothing_keeps_the_results(lab: Lab) -> None:
    """Retries and a timeout are not part of the key; the serializer is."""

    def with_options(**options: Any) -> Flow[..., Any]:
        @checkpoint(**options)
        def plain(n: int) -> int:
            RAN.append(n)
            return n

        @flow
        def calling(n: int) -> int:
            return plain(n)

        return calling

    for options in ({}, {"retries": 2, "timeout": 60}, {"serializer": "pickle"}):
        run(lab, with_options(**options), n=1)
    assert RAN == [1, 1]


def test_after_a_persons_answer_only_cache_true_takes_earlier_results(lab: Lab) -> None:
    """Other calls are computed and say why; a checkpoint that says ``cache=True`` has a hit."""

    @checkpoint(cache=True)
    def certain(n: int) -> int:
        RAN.append(f"certain {n}")
        return n

    @flow
    def asking() -> list[Any]:
        before = double(1)
        return [before, wait(schema=bool, name="go", timeout=0), double(2), certain(3)]

    def answered() -> str:
        exec_id = lab.open(asking, cache=True)
        with pytest.raises(RunSuspended):
            lab.go_on(asking, exec_id)
        answer = b'{"by": "Ann", "at": "2026-01-01T00:00:00.000000Z", "value": true}'
        lab.store.create(address.wait_answer(PROJECT, exec_id, "w1"), answer)
        assert lab.go_on(asking, exec_id) == [2, True, 4, 3]
        settled()
        return exec_id

    first = answered()
    second = answered()
    assert RAN == [1, 2, "certain 3", 2]
    calls = {call.call_id: call.cached_from for call in lab.load(second).checkpoints}
    assert calls == {"1": f"{first}/1", "2": None, "3": f"{first}/3"}
    reports = {report.call_id: report for report in why(lab, second)}
    assert (reports["2"].word, reports["3"].word) == ("off", "hit")
    assert reports["2"].why == "a person has answered, and the checkpoint does not say cache=True"
