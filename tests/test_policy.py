"""Retry policies: when a failed attempt is made again, and how long after."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru import Retry, checkpoint, errors, flow
from kitaru.flows.loading import load_target
from kitaru.flows.options import next_delay, policy_of
from kitaru.model.event import AttemptFailed
from tests.execution_lab import Lab

RAN: list[Any] = []


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    RAN.clear()
    return Lab(tmp_path / "store")


policies = st.builds(
    Retry,
    attempts=st.integers(1, 50),
    backoff=st.floats(0, 100),
    factor=st.floats(1, 1e6),
    max_backoff=st.floats(0, 1000),
    jitter=st.floats(0, 1),
    total=st.none() | st.floats(0, 1e4),
)
chances = st.floats(0, 1)


@given(policies, st.integers(1, 10_000), st.floats(0, 1e6), chances)
def test_a_wait_keeps_every_bound(policy: Retry, failed: int, elapsed: float, chance: float) -> None:
    """No attempt beyond the number, none after the total, no wait longer than max_backoff, none below zero."""
    delay = next_delay(policy, ValueError(), failed=failed, elapsed=elapsed, chance=chance)
    if failed >= policy.attempts:
        assert delay is None
    if delay is None:
        assert failed >= policy.attempts or policy.total is not None
        return
    assert 0 <= delay <= policy.max_backoff
    assert policy.total is None or elapsed + delay < policy.total


@given(st.floats(0.01, 10), st.floats(1, 4), st.integers(1, 8))
def test_waits_grow_by_the_factor(backoff: float, factor: float, failed: int) -> None:
    """Without jitter the wait before attempt n+1 is backoff * factor**(n-1), up to the longest."""
    policy = Retry(attempts=20, backoff=backoff, factor=factor, max_backoff=1000, jitter=0)
    delay = next_delay(policy, ValueError(), failed=failed, elapsed=0, chance=0.3)
    assert delay == pytest.approx(min(1000, backoff * factor ** (failed - 1)))


@given(policies.filter(lambda policy: policy.attempts > 1 and policy.total is None), chances)
def test_jitter_stays_within_its_share(policy: Retry, chance: float) -> None:
    """The wait differs from the plain one by at most the jitter's share of it."""
    plain = next_delay(policy, ValueError(), failed=1, elapsed=0, chance=0.5)
    varied = next_delay(policy, ValueError(), failed=1, elapsed=0, chance=chance)
    assert plain is not None and varied is not None
    assert abs(varied - plain) <= plain * policy.jitter * (1 + 1e-9) + 1e-12


@given(policies)
def test_a_policy_survives_its_record(policy: Retry) -> None:
    """What is recorded decides as the policy itself did."""
    again = Retry.from_json(json.loads(json.dumps(policy.to_json())))
    assert again == policy


class Wet(ConnectionError):
    pass


@pytest.mark.parametrize("recorded", [False, True])
def test_only_the_named_errors_are_tried_again(recorded: bool) -> None:
    """on= and not_on= hold for subclasses too, also when they were recorded by name."""
    policy = Retry(on=(ConnectionError, Wet), not_on=(BrokenPipeError,))
    if recorded:
        policy = Retry.from_json(json.loads(json.dumps(policy.to_json())))

    def again(error: Exception) -> bool:
        return next_delay(policy, error, failed=1, elapsed=0, chance=0.5) is not None

    assert again(ConnectionError()) and again(ConnectionResetError()) and again(Wet())
    assert not again(BrokenPipeError())
    assert not again(ValueError())


def test_a_number_means_at_once_whatever_the_error() -> None:
    """retries=2 is three attempts without a wait."""
    policy = policy_of(2)
    assert [next_delay(policy, ValueError(), failed=n, elapsed=9, chance=0) for n in (1, 2, 3)] == [0, 0, None]


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"attempts": True},
        {"attempts": 1.5},
        {"backoff": -1},
        {"factor": 0.5},
        {"jitter": 2},
        {"max_backoff": "1"},
        {"total": float("nan")},
        {"backoff": float("inf")},
        {"on": (int,)},
        {"not_on": 3},
    ],
)
def test_a_wrong_policy_is_refused_where_it_is_written(wrong: dict[str, Any]) -> None:
    """KitaruUsageError names the setting."""
    with pytest.raises(errors.KitaruUsageError, match=next(iter(wrong))):
        Retry(**wrong)


@checkpoint(retries=Retry(attempts=3, backoff=0.15, factor=2, jitter=0, on=(OSError,)))
def flaky(kind: str) -> int:
    RAN.append(time.monotonic())
    if kind == "other":
        raise KeyError(kind)
    if len(RAN) < 3:
        raise ConnectionError(f"attempt {len(RAN)}")
    return len(RAN)


@flow
def calling(kind: str) -> int:
    return flaky(kind)


def test_attempts_wait_for_their_backoff_and_are_all_recorded(lab: Lab) -> None:
    """0.15 s before the second attempt, 0.3 s before the third; each failure stands in the journal."""
    exec_id = lab.open(calling, kind="net")
    assert lab.go_on(calling, exec_id) == 3
    assert RAN[1] - RAN[0] >= 0.15
    assert RAN[2] - RAN[1] >= 0.3
    (call,) = lab.load(exec_id).checkpoints
    assert [attempt.status for attempt in call.attempts] == ["failed", "failed", "completed"]


def test_an_error_that_is_not_meant_is_not_tried_again(lab: Lab) -> None:
    """A KeyError under on=(OSError,) fails at once."""
    exec_id = lab.open(calling, kind="other")
    with pytest.raises(errors.KitaruUserCodeError, match="KeyError"):
        lab.go_on(calling, exec_id)
    assert len(RAN) == 1


def test_an_async_checkpoint_waits_without_blocking_the_loop(lab: Lab) -> None:
    """While one call waits for its next attempt, another one goes on."""
    import asyncio

    order: list[str] = []

    @checkpoint(retries=Retry(attempts=2, backoff=0.3, jitter=0))
    async def slow() -> None:
        order.append("slow")
        if order.count("slow") < 2:
            raise OSError

    @checkpoint
    async def quick() -> None:
        await asyncio.sleep(0.1)
        order.append("quick")

    @flow
    async def both() -> None:
        await asyncio.gather(slow(), quick())

    lab.run(both)
    assert order == ["slow", "quick", "slow"]


def test_a_flow_has_a_policy_too(lab: Lab) -> None:
    """Its body runs again after the backoff, and finished checkpoints don't."""
    finished: list[int] = []

    @checkpoint
    def once() -> int:
        finished.append(1)
        return 1

    @flow(retries=Retry(attempts=3, backoff=0.1, jitter=0, not_on=(KeyError,)))
    def failing(kind: str) -> None:
        once()
        RAN.append(time.monotonic())
        raise KeyError(kind) if kind == "other" else ValueError(kind)

    exec_id = lab.open(failing, retries=2, kind="net")
    with pytest.raises(errors.KitaruUserCodeError):
        lab.go_on(failing, exec_id)
    assert len(RAN) == 3 and finished == [1]
    assert RAN[1] - RAN[0] >= 0.1 and RAN[2] - RAN[1] >= 0.2
    assert sum(isinstance(event, AttemptFailed) for event in lab.events(exec_id)) == 2

    RAN.clear()
    with pytest.raises(errors.KitaruUserCodeError):
        lab.run(failing, retries=2, kind="other")
    assert len(RAN) == 1


def test_a_call_in_its_backoff_gives_up_once_the_flow_has_failed(lab: Lab) -> None:
    """Nobody waits a minute for an attempt whose flow is lost already."""

    @checkpoint(retries=Retry(attempts=5, backoff=60, jitter=0))
    def hopeless() -> None:
        RAN.append(1)
        raise OSError

    @flow
    def failing() -> None:
        hopeless.submit()
        while not RAN:
            time.sleep(0.01)
        raise ValueError("enough")

    started = time.monotonic()
    with pytest.raises(errors.KitaruUserCodeError, match="enough"):
        lab.run(failing)
    assert time.monotonic() - started < 10
    assert RAN == [1]


class TeaOutError(Exception):
    """Known to this module by name."""


@pytest.mark.parametrize("name", ["ConnectonError", "TeaOutErorr", "Nonsense", "tests.test_policy:TeaOutErr"])
def test_an_exception_that_is_not_there_is_refused_when_it_is_used(lab: Lab, name: str) -> None:
    """A misspelt name would switch retries off without a word: the call is refused before its first attempt."""

    @checkpoint(retries=Retry(attempts=3, on=(name,)))
    def step() -> None:
        RAN.append("step")

    @flow
    def calls() -> None:
        step()

    exec_id = lab.open(calls)
    with pytest.raises(errors.KitaruUserCodeError, match=f"checkpoint 'step'.*{name}"):
        lab.go_on(calls, exec_id)
    assert RAN == []


@pytest.mark.parametrize(("name", "meant"), [("ConnectonError", "ConnectionError"), ("TeaOutErorr", "TeaOutError")])
def test_a_misspelt_exception_is_answered_with_the_one_meant(name: str, meant: str) -> None:
    """Built-in exceptions and those of the module are proposed; run() says it before anything is opened."""

    @flow(retries=Retry(on=(name,)))
    def calls() -> None: ...

    with pytest.raises(errors.KitaruUsageError, match=f"did you mean {meant}") as raised:
        calls.run()
    assert meant in raised.value.hint


@pytest.mark.parametrize("name", ["", "Connection Error", "errors:", ":OutOfStock", "3rd"])
def test_what_can_name_no_exception_is_refused_at_once(name: str) -> None:
    """Text that is no name is refused where the policy is written."""
    with pytest.raises(errors.KitaruUsageError, match="names no exception"):
        Retry(on=(name,))


@pytest.mark.parametrize(
    "name", ["TeaOutError", "Exception", f"{__name__}:TeaOutError", f"{__name__}.TeaOutError", "builtins:Exception"]
)
@pytest.mark.parametrize("owner", ["checkpoint", "flow"])
def test_a_name_stands_for_the_exception(lab: Lab, name: str, owner: str) -> None:
    """A name, alone or with its module, retries as the class would: on a checkpoint, and on a flow from its journal."""
    policy = Retry(attempts=3, backoff=0, on=(name,))

    @checkpoint(retries=policy if owner == "checkpoint" else 0)
    def step() -> None:
        RAN.append("step")
        raise TeaOutError

    @flow(retries=policy if owner == "flow" else 0)
    def calls() -> None:
        step()

    exec_id = lab.open(calls, retries=2 if owner == "flow" else 0)
    with pytest.raises(errors.KitaruUserCodeError):
        lab.go_on(calls, exec_id)
    assert len(RAN) == 3


@pytest.mark.parametrize(
    ("code", "said", "line"),
    [
        ("@flow(retries=Retry(on=('ConnectonError',)))\ndef f(): ...\n", "on of flow 'f'", 2),
        (
            "@checkpoint(retries=Retry(not_on='Nope'))\ndef c(): ...\n@flow\ndef f(): c()\n",
            "not_on of checkpoint 'c'",
            2,
        ),
    ],
)
def test_loading_a_target_finds_misspelt_exceptions(tmp_path: Path, code: str, said: str, line: int) -> None:
    """What validate, plan and run load is checked there, with file and line."""
    name = f"misspelt_{line}_{len(code)}"
    (tmp_path / f"{name}.py").write_text(f"from kitaru import Retry, checkpoint, flow\n{code}")
    with pytest.raises(errors.KitaruSourceError, match=said) as raised:
        load_target(tmp_path, f"{name}.py:f")
    assert (raised.value.problems[0].file, raised.value.problems[0].line) == (f"{name}.py", line)


def test_an_exception_defined_below_is_found(tmp_path: Path) -> None:
    """A name is looked up when it is used, so that its class may be defined after the checkpoint."""
    code = "from kitaru import Retry, flow\n@flow(retries=Retry(on=('Late',)))\ndef f(): ...\nclass Late(OSError): 1\n"
    (tmp_path / "defined_below.py").write_text(code)
    assert load_target(tmp_path, "defined_below.py:f").name == "f"
