"""Fan-outs in which calls fail: which of the others still run, what the caller gets, and ten thousand of them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from kitaru import checkpoint, errors, flow
from tests.execution_lab import Lab

RAN: list[int] = []
ROOT = Path(__file__).parents[1]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    RAN.clear()
    return Lab(tmp_path / "store")


@checkpoint
def picky(n: int) -> int:
    RAN.append(n)
    if n % 3 == 1:
        raise ValueError(f"not {n}")
    return n


@checkpoint
async def apicky(n: int) -> int:
    RAN.append(n)
    await asyncio.sleep(0)
    if n % 3 == 1:
        raise ValueError(f"not {n}")
    return n


@pytest.mark.parametrize("which", [picky, apicky], ids=["sync", "async"])
def test_the_first_failure_keeps_the_rest_from_beginning(lab: Lab, which: Any) -> None:
    """By default: calls after the failed one don't run, and results() raises that failure."""

    @flow
    def mapping() -> list[int]:
        return which.map(range(50), max_concurrency=1).results()  # type: ignore[no-any-return]

    with pytest.raises(errors.KitaruUserCodeError, match="not 1"):
        lab.run(mapping)
    assert RAN == [0, 1]


@pytest.mark.parametrize("which", [picky, apicky], ids=["sync", "async"])
def test_collected_all_of_them_run(lab: Lab, which: Any) -> None:
    """Each has an outcome; those that failed don't fail the flow by themselves, and are recorded as failed."""

    @flow
    def mapping() -> Any:
        futures = which.map(range(7), max_concurrency=2, on_error="collect")
        outcomes = futures.outcomes()
        assert futures.done()
        return [one.value if one.ok else str(one.error) for one in outcomes]

    exec_id = lab.open(mapping)
    expected = [0, "not 1", 2, 3, "not 4", 5, 6]
    assert lab.go_on(mapping, exec_id) == expected
    assert sorted(RAN) == list(range(7))
    statuses = [call.status for call in lab.load(exec_id).checkpoints]
    assert (statuses.count("completed"), statuses.count("failed")) == (5, 2)


def test_collected_and_never_looked_at_the_flow_completes(lab: Lab) -> None:
    """product with on_error="collect": nobody has to ask."""

    @flow
    def ignoring() -> int:
        picky.product([1], on_error="collect")
        return 1

    assert lab.run(ignoring) == 1


def test_asked_for_plain_results_a_collected_failure_is_raised(lab: Lab) -> None:
    """results() raises the first error in order, after all of them ran."""

    @flow
    def mapping() -> Any:
        return picky.map([4, 0, 1], on_error="collect").results()

    with pytest.raises(errors.KitaruUserCodeError, match="not 4"):
        lab.run(mapping)
    assert sorted(RAN) == [0, 1, 4]


def test_a_failed_fan_out_goes_on_where_it_stopped(lab: Lab) -> None:
    """Calls that did not begin are made when the execution is taken up again; finished ones are not."""
    good: list[int] = []

    @checkpoint
    def later(n: int) -> int:
        RAN.append(n)
        if n == 2 and not good:
            raise OSError("once")
        return n

    @flow
    def mapping() -> list[int]:
        return later.map(range(6), max_concurrency=1).results()

    exec_id = lab.open(mapping)
    with pytest.raises(errors.KitaruUserCodeError):
        lab.go_on(mapping, exec_id)
    good.append(1)
    assert lab.go_on(mapping, exec_id) == list(range(6))
    assert RAN == [0, 1, 2, 2, 3, 4, 5]


def test_a_wrong_word_is_refused(lab: Lab) -> None:
    """Only fail and collect."""

    @flow
    def mapping() -> None:
        picky.map([1], on_error="ignore")  # type: ignore[call-overload]

    with pytest.raises(errors.KitaruExecutionError, match='must be "fail" or "collect"'):
        lab.run(mapping)


def test_ten_thousand_items_take_linear_time_and_memory(tmp_path: Path) -> None:
    """10,000 mapped items, a tenth of which fail: at most four times what 2,500 take, and under 300 MB."""
    script = tmp_path / "many.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys, time
            from pathlib import Path
            from kitaru import flow, checkpoint
            from tests.execution_lab import Lab

            @checkpoint
            def item(n):
                if n % 10 == 0:
                    raise ValueError(n)
                return n

            @flow
            def many(n):
                futures = item.map(range(n), max_concurrency=32, on_error="collect")
                return sum(one.ok for one in futures.outcomes())

            lab = Lab(Path(sys.argv[1]))
            for count in (500, 2500, 10000):
                started = time.process_time()
                assert lab.run(many, n=count) == count * 9 // 10
                print(time.process_time() - started)
            # Not ru_maxrss: a child inherits what its parent once took.
            print(int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024)
            """
        )
    )
    done = subprocess.run(
        [sys.executable, script, tmp_path / "store"],
        capture_output=True,
        text=True,
        timeout=280,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _, fewer, more, megabytes = map(float, done.stdout.split())
    assert more < 4 * 1.6 * fewer + 1
    assert megabytes < 300


def test_progress_can_be_watched(lab: Lab) -> None:
    """The number of futures that are done grows while the calls run."""

    @checkpoint
    def napping(n: int) -> int:
        time.sleep(0.02)
        return n

    @flow
    def watching() -> bool:
        futures = napping.map(range(20), max_concurrency=2)
        seen = {sum(future.done() for future in futures)}
        while not futures.done():
            seen.add(sum(future.done() for future in futures))
            time.sleep(0.005)
        return len(seen) > 2 and all(future.done() for future in futures)

    assert lab.run(watching)
