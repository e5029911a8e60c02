"""Isolated checkpoints: a process of their own, with its own memory, its own end, and nothing lost on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kitaru import checkpoint, errors, flow
from kitaru.masking import Masking
from kitaru.model.address import parse_timestamp
from tests import isolated_steps as steps
from tests.execution_lab import PROJECT, Lab, read_lines

ROOT = Path(__file__).parents[1]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "store")


def until(holds: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def gone(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] in "ZXx"


@flow
def calling() -> Any:
    return steps.where(steps.Parcel(2.5), note=b"\x00\xff")


def test_it_runs_in_another_process_with_typed_values_both_ways(lab: Lab) -> None:
    """Dataclasses and bytes arrive and come back; what it keeps in memory is not ours; the folder is the same."""
    found = lab.run(calling)
    assert found["pid"] != os.getpid() and gone(found["pid"])
    assert found["parcel"] == steps.Parcel(2.5)
    assert (found["held"], found["note"], found["cwd"]) == (1, b"\x00\xff", str(Path.cwd()))
    assert steps.HELD == []


def test_what_it_prints_is_captured_for_its_call(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    """Both streams, logging and grandchildren: in the runtime logs of that call, and on the terminal."""
    exec_id = lab.open(calling)
    lab.go_on(calling, exec_id)
    lines, _ = read_lines(lab.store, PROJECT, exec_id, 0)
    texts = {(line.stream, line.text, line.checkpoint) for line in lines}
    assert {
        ("stdout", "printed in the child", "where"),
        ("stdout", "by a grandchild", "where"),
        ("stderr", "to stderr", "where"),
        ("stderr", "logged in the child", "where"),
    } <= texts
    printed = capfd.readouterr()
    assert "printed in the child" in printed.out and "to stderr" in printed.err


@flow
def learning(where: str) -> str:
    return steps.learning(where)


@pytest.mark.parametrize("where", ["prints", "fork", "fails"])
def test_a_secret_that_is_set_in_the_child_is_hidden(lab: Lab, where: str) -> None:
    """Whoever prints it there: Python, a descriptor, a grandchild; and in its failure. Our own process sets nothing."""
    exec_id = lab.open(learning, where=where)
    if where == "fails":
        with pytest.raises(errors.KitaruUserCodeError):
            lab.go_on(learning, exec_id, mask=Masking(os.environ))
    else:
        assert lab.go_on(learning, exec_id, mask=Masking(os.environ)) == where
    lines, _ = read_lines(lab.store, PROJECT, exec_id, 0)
    assert [line.text for line in lines] == ["python: ***", "descriptor: ***", "grandchild: ***"]
    (call,) = lab.load(exec_id).checkpoints
    if where == "fails":
        assert call.failure is not None and call.failure.message == "refused ***"
        assert "31415" not in call.failure.traceback
    assert "X_TOKEN" not in os.environ


@pytest.mark.parametrize(
    ("kind", "expected", "says"),
    [
        ("typed", steps.OutOfStockError, "tea"),
        ("plain", ValueError, "plain"),
        ("stubborn", errors.KitaruUserCodeError, "StubbornError: tea"),
        ("exit", errors.KitaruRuntimeError, r"sys\.exit\(3\)"),
        ("killed", errors.KitaruRuntimeError, "ended by SIGKILL"),
    ],
)
def test_exceptions_come_back_as_what_they_were(lab: Lab, kind: str, expected: type[Exception], says: str) -> None:
    """With their attributes where they can be pickled; as a typed error where not; with the child's traceback."""
    caught: list[Exception] = []

    @flow
    def failing() -> None:
        try:
            steps.raising(kind)
        except Exception as error:
            caught.append(error)
            raise

    exec_id = lab.open(failing)
    with pytest.raises(errors.KitaruExecutionError, match=says):
        lab.go_on(failing, exec_id)
    (error,) = caught
    assert type(error) is expected
    if kind == "typed":
        assert isinstance(error, steps.OutOfStockError) and (error.item, error.left) == ("tea", 3)
    failure = lab.load(exec_id).checkpoints[0].failure
    assert failure is not None
    if kind in ("typed", "plain", "stubborn"):
        assert "isolated_steps.py" in failure.traceback and "in raising" in failure.traceback


def test_submitted_and_mapped_calls_run_beside_each_other(lab: Lab) -> None:
    """Each in a process of its own, from a sync flow and from an async one."""

    @flow
    def mapping() -> Any:
        return steps.where_async.map([1, 2, 3], max_concurrency=2).results(), steps.where_async.submit(4).result()

    @flow
    async def awaiting() -> Any:
        return await steps.where_async.map([1, 2]), steps.where(steps.Parcel(1))["held"]

    several, one = lab.run(mapping)
    pids = [pid for _, pid in (*several, one)]
    assert [n for n, _ in (*several, one)] == [1, 2, 3, 4]
    assert len(set(pids)) == 4 and os.getpid() not in pids
    found, held = lab.run(awaiting)
    assert [n for n, _ in found] == [1, 2] and held == 1


def test_a_late_one_is_killed_with_what_it_started(lab: Lab, tmp_path: Path) -> None:
    """Though it blocks in C: child and grandchild are gone when the failure is recorded."""
    marker = tmp_path / "pids"

    @flow
    def late() -> None:
        steps.sleeping(str(marker), 300)

    started = time.monotonic()
    with pytest.raises(errors.KitaruExecutionError, match="stopped after 3 seconds"):
        lab.run(late)
    assert time.monotonic() - started < 25
    child, grandchild = map(int, marker.read_text().split())
    assert gone(child)
    until(lambda: gone(grandchild), 10)


def test_a_late_one_that_will_not_end_is_killed_a_second_later(lab: Lab, tmp_path: Path) -> None:
    """It ignores SIGTERM: each attempt ends within about a second."""
    marker = tmp_path / "pid"

    @flow
    def late() -> None:
        steps.defiant(str(marker))

    exec_id = lab.open(late)
    with pytest.raises(errors.KitaruExecutionError, match="was stopped after 3 seconds"):
        lab.go_on(late, exec_id)
    attempts = lab.load(exec_id).checkpoints[0].attempts
    assert len(attempts) == 2
    for one in attempts:
        assert one.failure is not None and "was stopped after 3 seconds" in one.failure.message
        spent = parse_timestamp(one.ended_at or "") - parse_timestamp(one.started_at)
        assert 3.9 < spent.total_seconds() < 5.5
    assert gone(int(marker.read_text()))


def test_it_ends_with_its_parent(lab: Lab, tmp_path: Path) -> None:
    """kill -9 of the runner leaves no child behind, not even one that ignores SIGTERM."""
    marker = tmp_path / "pid"
    code = (
        "import sys; from pathlib import Path; from tests.execution_lab import Lab; from tests import isolated_steps\n"
        "Lab(Path(sys.argv[1])).run(isolated_steps.unending_flow, marker=sys.argv[2])"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "other"), str(marker)], cwd=ROOT)
    try:
        pid = int(until(lambda: marker.exists() and marker.read_text()))
        assert not gone(pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        until(lambda: gone(pid), 10)
    finally:
        parent.kill()
        parent.wait()


def test_its_notes_are_recorded(lab: Lab) -> None:
    """log and save work there as anywhere, and are part of the execution."""

    @flow
    def noted() -> int:
        return steps.noting(3)

    exec_id = lab.open(noted)
    assert lab.go_on(noted, exec_id) == 3
    (call,) = lab.load(exec_id).checkpoints
    assert call.metadata == {"rows": 3, "nested": {"a": 1, "b": 2}}


def test_checkpoints_do_not_nest_there_either(lab: Lab) -> None:
    """KitaruContextError, as inline."""

    @flow
    def nested() -> None:
        steps.nesting()

    with pytest.raises(errors.KitaruExecutionError, match="was called inside checkpoint 'nesting'"):
        lab.run(nested)


def test_what_can_not_be_sent_is_named(lab: Lab) -> None:
    """A generator has no form at all: the error names the argument."""

    @flow
    def sending() -> None:
        steps.opaque(i for i in range(3))

    with pytest.raises(errors.KitaruExecutionError, match="argument 1 of checkpoint 'opaque' is a generator"):
        lab.run(sending)


def test_a_checkpoint_that_can_not_be_found_there_is_refused(lab: Lab) -> None:
    """One that is defined inside a function has no name to import."""

    @checkpoint(runtime="isolated")
    def inner() -> None:
        pass

    @flow
    def using() -> None:
        inner()

    with pytest.raises(errors.KitaruExecutionError, match="can't be imported by a process of its own"):
        lab.run(using)


def test_a_script_is_imported_without_running_it(tmp_path: Path) -> None:
    """Checkpoints, classes and exceptions of __main__ work, and the guarded part runs once."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            from dataclasses import dataclass
            from pathlib import Path
            from kitaru import flow, checkpoint
            from tests.execution_lab import Lab

            @dataclass
            class Box:
                n: int

            class Broken(Exception):
                pass

            @checkpoint(runtime="isolated")
            def double(box: Box) -> Box:
                if box.n < 0:
                    raise Broken(str(box.n))
                return Box(2 * box.n)

            @flow
            def whole(n: int) -> list:
                try:
                    double(Box(-1))
                except Broken as error:
                    caught = str(error)
                box = double(Box(n))
                assert isinstance(box, Box), box
                return [box.n, caught]

            if __name__ == "__main__":
                print("started")
                print(Lab(Path(sys.argv[1])).run(whole, n=4))
            """
        )
    )
    done = subprocess.run(
        [sys.executable, script, tmp_path / "store"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.stdout.splitlines() == ["started", "[8, '-1']"], done.stderr


def test_a_stopped_flow_kills_it(lab: Lab, tmp_path: Path) -> None:
    """The flow's own timeout ends the child, too, though it ignores SIGTERM."""
    marker = tmp_path / "pid"
    exec_id = lab.open(steps.unending_flow, timeout=4, marker=str(marker))
    with pytest.raises(errors.KitaruExecutionError, match=r"flow 'unending_flow' .* 4 seconds"):
        lab.go_on(steps.unending_flow, exec_id)
    assert gone(int(marker.read_text()))
