"""However a checkpoint or a flow ends other than by an Exception: a failure, recorded and retried like any other."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from kitaru import Retry, checkpoint, errors, flow
from tests.execution_lab import Lab

RAN: list[Any] = []


class OddError(BaseException):
    """No ``Exception``."""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    RAN.clear()
    return Lab(tmp_path / "store")


def end(kind: str) -> None:
    if kind == "exit":
        sys.exit(3)
    raise {"generator": GeneratorExit("shut"), "odd": OddError("odd")}[kind]


@checkpoint(retries=1)
def inline(kind: str) -> None:
    RAN.append(kind)
    end(kind)


@checkpoint(retries=1)
async def asynchronous(kind: str) -> None:
    RAN.append(kind)
    await asyncio.sleep(0)
    end(kind)


@checkpoint(retries=1, runtime="isolated")
def isolated(kind: str) -> None:
    end(kind)


@checkpoint(retries=Retry(attempts=3, backoff=0, not_on=(SystemExit,)))
def inline_at_once(kind: str) -> None:
    end(kind)


@checkpoint(retries=Retry(attempts=3, backoff=0, not_on=(SystemExit,)), runtime="isolated")
def isolated_at_once(kind: str) -> None:
    end(kind)


@flow
def calls(step: str, kind: str) -> None:
    globals()[step](kind)


@flow
def submits(step: str, kind: str) -> None:
    globals()[step].submit(kind)


@flow
async def awaits(step: str, kind: str) -> None:
    await globals()[step](kind)


SAID = {"exit": r"called sys\.exit\(3\)", "generator": "raised GeneratorExit: shut", "odd": "raised OddError: odd"}


@pytest.mark.parametrize("kind", ["exit", "generator", "odd"])
@pytest.mark.parametrize(
    ("body", "step"),
    [
        (calls, "inline"),
        (submits, "inline"),
        (calls, "asynchronous"),
        (submits, "asynchronous"),
        (awaits, "asynchronous"),
    ],
    ids=["calls", "submits", "calls-async", "submits-async", "awaits"],
)
def test_an_attempt_that_ends_otherwise_is_tried_again(lab: Lab, body: Any, step: str, kind: str) -> None:
    """With one retry there are two attempts, the execution has failed, and the message says how the code ended."""
    exec_id = lab.open(body, step=step, kind=kind)
    with pytest.raises(errors.KitaruUserCodeError, match=SAID[kind]):
        lab.go_on(body, exec_id)
    execution = lab.load(exec_id)
    assert execution.status == "failed"
    assert [(one.status, len(one.attempts)) for one in execution.checkpoints] == [("failed", 2)]
    assert [kind, kind] == RAN
    assert "test_ends_of_code.py" in str(execution.failure and execution.failure.traceback)


@pytest.mark.parametrize("kind", ["exit", "generator"])
def test_a_process_of_its_own_makes_no_difference(lab: Lab, kind: str) -> None:
    """An isolated checkpoint ends in the same words, after as many attempts."""
    exec_id = lab.open(calls, step="isolated", kind=kind)
    with pytest.raises(errors.KitaruUserCodeError, match=SAID[kind]):
        lab.go_on(calls, exec_id)
    assert [len(one.attempts) for one in lab.load(exec_id).checkpoints] == [2]


@pytest.mark.parametrize("step", ["inline_at_once", "isolated_at_once"])
def test_not_on_keeps_an_exit_from_a_retry(lab: Lab, step: str) -> None:
    """not_on=(SystemExit,) means sys.exit(), wherever the checkpoint runs."""
    exec_id = lab.open(calls, step=step, kind="exit")
    with pytest.raises(errors.KitaruUserCodeError, match=r"sys\.exit"):
        lab.go_on(calls, exec_id)
    assert [len(one.attempts) for one in lab.load(exec_id).checkpoints] == [1]


@pytest.mark.parametrize("kind", ["exit", "generator", "odd"])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_flow_that_ends_otherwise_has_failed(lab: Lab, kind: str, is_async: bool) -> None:
    """The flow's own body: a failure that says so, its retries included, and never an execution without an end."""

    @flow(retries=1)
    def plain(kind: str) -> None:
        RAN.append(kind)
        end(kind)

    @flow(retries=1)
    async def awaiting(kind: str) -> None:
        RAN.append(kind)
        end(kind)

    body: Any = awaiting if is_async else plain
    exec_id = lab.open(body, kind=kind)
    with pytest.raises(errors.KitaruUserCodeError, match=f"the flow {SAID[kind]}"):
        lab.go_on(body, exec_id)
    assert lab.load(exec_id).status == "failed"
    assert len(RAN) >= 1


def test_a_flow_can_catch_what_an_exit_became(lab: Lab) -> None:
    """``except Exception`` around a checkpoint takes its sys.exit() too, now and when the flow goes on."""

    @flow
    def careful() -> str:
        try:
            inline("exit")
        except Exception as error:
            return str(error)
        return "went well"

    exec_id = lab.open(careful)
    assert "checkpoint 'inline' called sys.exit(3)" in lab.go_on(careful, exec_id)
