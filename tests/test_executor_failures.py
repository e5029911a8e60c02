"""Retries, failures, interrupts and divergence: what is recorded, what is raised, what can go on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from kitaru import checkpoint, errors, flow
from kitaru.flows.future import CheckpointFuture
from kitaru.model.event import Started
from kitaru.run.journal import Stopped
from kitaru.store.port import Created, Store, Taken
from tests.execution_lab import CountingStore, Lab
from tests.executor_steps import RAN, add, chain, flaky


@pytest.fixture(autouse=True)
def fresh() -> None:
    RAN.clear()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "store")


def test_checkpoint_retries_are_further_attempts_each_recorded(lab: Lab) -> None:
    """retries=2: up to three attempts, with type, message and traceback of the failed ones."""

    @flow
    def trying(good_at: int) -> int:
        return flaky(good_at)

    exec_id = lab.open(trying, good_at=3)
    assert lab.go_on(trying, exec_id) == 3
    (call,) = lab.load(exec_id).checkpoints
    assert [attempt.status for attempt in call.attempts] == ["failed", "failed", "completed"]
    failure = call.attempts[1].failure
    assert failure is not None and (failure.type, failure.message) == ("OSError", "attempt 2")
    assert "raise OSError" in failure.traceback and "kitaru/run/" not in failure.traceback
    RAN.clear()
    failed = lab.open(trying, good_at=9)
    with pytest.raises(errors.KitaruUserCodeError) as caught:
        lab.go_on(trying, failed)
    assert len(RAN) == 3
    assert caught.value.exec_id == failed and caught.value.status == "failed"
    assert caught.value.failure_origin == "user_code"
    assert isinstance(caught.value.__cause__, OSError)
    execution = lab.load(failed)
    assert execution.status == "failed" and execution.failure is not None
    assert execution.checkpoints[0].status == "failed"


def test_flow_retries_run_the_body_again_and_reuse_what_finished(lab: Lab) -> None:
    """A retried body takes finished checkpoints from the journal; only the failed one runs again."""

    @flow(retries=2)
    def retried() -> int:
        value = add(5)
        if RAN.count("body") < 2:
            RAN.append("body")
            raise RuntimeError("body")
        return value

    exec_id = lab.open(retried)
    assert lab.go_on(retried, exec_id) == 6
    assert RAN.count((5, 1)) == 1
    attempts = lab.load(exec_id).attempts
    assert [(attempt.number, attempt.status) for attempt in attempts] == [
        (1, "failed"),
        (2, "failed"),
        (3, "completed"),
    ]


def test_reused_values_are_those_recorded_not_those_changed_since(lab: Lab) -> None:
    """A flow that changes a checkpoint's list in place meets the recorded list again in its next attempt."""

    @checkpoint
    def items() -> list[int]:
        return [1]

    @flow(retries=1)
    def changing() -> list[int]:
        found = items()
        found.append(2)
        if not RAN:
            RAN.append("once")
            raise RuntimeError
        return found

    assert lab.run(changing) == [1, 2]


def test_a_failed_execution_can_be_taken_up_again(lab: Lab) -> None:
    """Executing a failed journal again computes what failed and reuses what finished."""

    @checkpoint
    def mended(n: int) -> int:
        if not Path(str(lab.store.url)[7:]).joinpath("mended").exists():
            raise OSError("broken")
        return n

    @flow
    def taken_up() -> int:
        return add(1) + mended(3)

    exec_id = lab.open(taken_up)
    with pytest.raises(errors.KitaruUserCodeError):
        lab.go_on(taken_up, exec_id)
    Path(str(lab.store.url)[7:]).joinpath("mended").touch()
    RAN.clear()
    assert lab.go_on(taken_up, exec_id) == 5
    assert not RAN
    execution = lab.load(exec_id)
    assert execution.status == "completed" and execution.failure is None
    assert [attempt.number for attempt in execution.attempts] == [1, 2]


def test_divergence_names_the_call_what_was_expected_and_what_came(lab: Lab) -> None:
    """A body that makes other calls than recorded is stopped, also where it catches every Exception."""
    order = ["add"]

    @flow
    def changed() -> Any:
        try:
            return add(1) if order[0] == "add" else flaky(1)
        finally:
            if order[0] == "add":
                raise KeyboardInterrupt

    exec_id = lab.open(changed)
    with pytest.raises(KeyboardInterrupt):
        lab.go_on(changed, exec_id)
    assert lab.load(exec_id).status == "running"
    order[0] = "flaky"
    with pytest.raises(
        errors.KitaruDivergenceError, match=r"call 1 was add\(\.\.\.\).*is flaky\(\.\.\.\) now"
    ) as caught:
        lab.go_on(swallowing(changed.func), exec_id)
    assert caught.value.exec_id == exec_id and caught.value.failure_origin == "divergence"
    failure = lab.load(exec_id).failure
    assert failure is not None and failure.origin == "divergence"


def swallowing(func: Any) -> Any:
    @flow
    def changed() -> Any:
        try:
            return func()
        except Exception:
            return "swallowed"

    return changed


def test_other_inputs_at_a_recorded_call_diverge(lab: Lab) -> None:
    """The same checkpoint with other arguments than recorded is not served the recorded value."""
    number = [1]

    @flow
    def moved() -> int:
        add(number[0])
        raise KeyboardInterrupt

    exec_id = lab.open(moved)
    with pytest.raises(KeyboardInterrupt):
        lab.go_on(moved, exec_id)
    number[0] = 2
    with pytest.raises(errors.KitaruDivergenceError, match="other inputs"):
        lab.go_on(moved, exec_id)


def test_sys_exit_in_a_flow_is_its_failure(lab: Lab) -> None:
    """A flow that ends its process is recorded as failed by its own code, and can be resumed like any other."""

    @flow
    def leaves() -> int:
        if not RAN.count("left"):
            RAN.append("left")
            raise SystemExit(3)
        return 1

    exec_id = lab.open(leaves)
    with pytest.raises(errors.KitaruUserCodeError, match=r"sys\.exit\(3\)"):
        lab.go_on(leaves, exec_id)
    assert lab.load(exec_id).status == "failed"
    assert lab.go_on(leaves, exec_id) == 1


class Told(SystemExit):
    """What a process is told to stop by."""


@pytest.mark.parametrize("signal", [KeyboardInterrupt, Told])
def test_interrupts_leave_the_journal_resumable(lab: Lab, signal: type[BaseException]) -> None:
    """Ctrl-C and exit leave no terminal event; the execution goes on from what is recorded."""

    @flow
    def interrupted() -> int:
        value = add(1)
        if not RAN.count("again"):
            RAN.append("again")
            raise signal
        return value

    exec_id = lab.open(interrupted)
    with pytest.raises(signal):
        lab.go_on(interrupted, exec_id)
    assert not lab.load(exec_id).ended
    assert lab.go_on(interrupted, exec_id) == 2
    assert RAN.count((1, 1)) == 1


def test_an_interrupted_run_records_nothing_afterwards(lab: Lab) -> None:
    """A checkpoint still under way on another thread when Ctrl-C came must not write later."""
    release = threading.Event()
    ended = threading.Event()
    outcome: list[BaseException | None] = []

    @checkpoint
    def held() -> int:
        release.wait(5)
        return 1

    def note(done: CheckpointFuture[int]) -> None:
        outcome.append(done.exception())
        ended.set()

    @flow
    def interrupted() -> None:
        future: CheckpointFuture[int] = held.submit()
        future.on_done(note)
        raise KeyboardInterrupt

    exec_id = lab.open(interrupted)
    with pytest.raises(KeyboardInterrupt):
        lab.go_on(interrupted, exec_id)
    before = lab.entries(exec_id)
    release.set()
    assert ended.wait(5)
    assert isinstance(outcome[0], Stopped)
    assert lab.entries(exec_id) == before


def test_values_that_cannot_be_stored_name_checkpoint_and_type(lab: Lab) -> None:
    """The error says which checkpoint, which type, and what to do; it is a runtime failure."""

    @checkpoint(retries=3)
    def opens() -> Any:
        RAN.append("opens")
        return {"lock": threading.Lock()}

    @flow
    def unstorable() -> None:
        opens()

    exec_id = lab.open(unstorable)
    with pytest.raises(errors.KitaruExecutionError, match=r"result of checkpoint 'opens'.*_thread:lock") as caught:
        lab.go_on(unstorable, exec_id)
    assert caught.value.failure_origin == "runtime"
    assert isinstance(caught.value.__cause__, errors.KitaruValueError)
    assert RAN == ["opens"], "retrying would not help"


def test_an_annotation_that_no_longer_fits_a_stored_value_fails_loudly(lab: Lab) -> None:
    """A recorded str is not handed to code that now promises an int."""

    def make(kind: type, value: Any, stop: bool) -> Any:
        def produce() -> Any:
            return value

        produce.__annotations__["return"] = kind
        made = checkpoint(produce)

        @flow
        def typed() -> Any:
            value = made()
            if stop:
                raise KeyboardInterrupt
            return value

        return typed

    exec_id = lab.open(make(str, "text", True))
    with pytest.raises(KeyboardInterrupt):
        lab.go_on(make(str, "text", True), exec_id)
    with pytest.raises(errors.KitaruExecutionError, match="recorded as str, which its return annotation no longer"):
        lab.go_on(make(int, 3, False), exec_id)
    loose = list[str]
    other = lab.open(make(loose, (3,), True))
    with pytest.raises(KeyboardInterrupt):
        lab.go_on(make(loose, (3,), True), other)
    assert lab.go_on(make(loose, (3,), False), other) == (3,), "what never fitted to the last member is still reused"


def test_a_result_of_another_kind_is_kept(lab: Lab) -> None:
    """A call that has run is paid for: what it returns is stored as what it is, whatever its annotation promised."""

    @checkpoint(retries=3)
    def other() -> int:
        RAN.append("other")
        return "text"  # type: ignore[return-value]

    @flow
    def trusting() -> int:
        return other()

    RAN.clear()
    exec_id = lab.open(trusting)
    assert lab.go_on(trusting, exec_id) == "text"
    assert lab.go_on(trusting, exec_id) == "text"
    assert RAN == ["other"]


def test_a_flow_is_not_told_to_pickle_its_result(lab: Lab) -> None:
    """A flow has no serializer: its hint says what has one."""

    @flow
    def opens() -> Any:
        return threading.Lock()

    with pytest.raises(errors.KitaruExecutionError, match="flow 'opens'") as caught:
        lab.go_on(opens, lab.open(opens))
    assert isinstance(caught.value.__cause__, errors.KitaruValueError)
    assert "save(name, value" in caught.value.__cause__.hint and "@checkpoint" not in caught.value.__cause__.hint


class UnwritableStore(CountingStore):
    """Says no to every journal entry from a certain one on."""

    def __init__(self, inner: Store, last: int) -> None:
        super().__init__(inner)
        self.last = last

    def create(self, key: str, body: bytes) -> Created | Taken:
        if "/journal/" in key and int(key.rpartition("/")[2][:12]) > self.last:
            raise errors.KitaruStoreError("disk full", hint="free some space")
        return super().create(key, body)


def test_a_store_that_fails_for_good_is_a_backend_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flow can't swallow it; what is recorded stays, and the execution goes on later."""
    monkeypatch.setattr("kitaru.run.journal.RETRY_DELAYS", (0.001, 0.001))

    @flow
    def writing() -> int:
        total = 0
        for i in range(5):
            try:
                total += add(i)
            except Exception:
                total += 1000
        return total

    lab = Lab(tmp_path)
    exec_id = lab.open(writing)
    store = UnwritableStore(lab.store, 3)
    with pytest.raises(errors.KitaruExecutionError, match="disk full") as caught:
        lab.go_on(writing, exec_id, store=store)
    assert caught.value.failure_origin == "backend"
    RAN.clear()
    assert lab.go_on(writing, exec_id) == 15
    assert len(RAN) == 3


def test_a_brief_outage_of_the_store_is_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused write is tried again with the same bytes before the run gives up."""
    monkeypatch.setattr("kitaru.run.journal.RETRY_DELAYS", (0.001, 0.001))
    outages = iter([True, True])

    class Outage(CountingStore):
        def create(self, key: str, body: bytes) -> Created | Taken:
            if "/journal/000000000002" in key and next(outages, False):
                raise errors.KitaruStoreError("try later")
            return super().create(key, body)

    lab = Lab(tmp_path)
    exec_id = lab.open(chain, n=2)
    assert lab.go_on(chain, exec_id, store=Outage(lab.store)) == 2


def test_inputs_that_no_longer_fit_fail_the_execution(lab: Lab) -> None:
    """Recorded inputs are checked against the signature that there is when it runs."""

    @flow
    def one(n: int) -> int:
        return n

    @flow
    def other(n: str) -> str:
        return n

    exec_id = lab.open(one, n=1)
    with pytest.raises(errors.KitaruExecutionError, match="n: expected str, got int 1") as caught:
        lab.go_on(other, exec_id)
    assert caught.value.failure_origin == "runtime"
    assert lab.load(exec_id).status == "failed"


def test_the_attempt_that_a_crash_cut_off_goes_on_under_its_number(lab: Lab) -> None:
    """A resumed attempt keeps its number; only a failed one is followed by the next."""

    @flow
    def cut() -> int:
        add(1)
        if not RAN.count("cut"):
            RAN.append("cut")
            raise KeyboardInterrupt
        return 1

    exec_id = lab.open(cut)
    with pytest.raises(KeyboardInterrupt):
        lab.go_on(cut, exec_id)
    lab.go_on(cut, exec_id)
    assert [event.attempt for event in lab.events(exec_id) if isinstance(event, Started)] == [1, 1]
    assert [attempt.status for attempt in lab.load(exec_id).attempts] == ["completed"]


FORKING = """
import os, sys
from kitaru import checkpoint, flow

@checkpoint
def forks(how: str) -> int:
    child = os.fork()
    if not child:
        if how == "exits":
            sys.exit(3)
        if how == "raises":
            raise ValueError("in the child")
        return 7
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

@flow
def parent(how: str) -> int:
    return forks(how)

@flow
def body(how: str) -> int:
    child = os.fork()
    if not child:
        return 7
    return 10 + os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

if __name__ == "__main__":
    which = body if sys.argv[1] == "body" else parent
    print("result", which.run(how=sys.argv[1], cache=False).wait(), flush=True)
"""


@pytest.mark.parametrize(("how", "result"), [("exits", 3), ("raises", 1), ("returns", 0), ("body", 10)])
def test_a_process_that_the_code_forks_records_nothing(tmp_path: Path, how: str, result: int) -> None:
    """It ends where it comes out of that code, as its own exit says; the execution goes on in the parent alone."""
    (tmp_path / "forking.py").write_text(FORKING)
    environ = {**os.environ, "KITARU_STORE": f"file://{tmp_path}/store", "HOME": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "forking.py", how], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60
    )
    assert (found.returncode, found.stdout) == (0, f"result {result}\n"), found.stderr
    assert ("in the child" in found.stderr) is (how == "raises")
