"""What a flow prints and logs is found by call and attempt, and still printed."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from kitaru import checkpoint, flow
from kitaru.run.logs import read_lines
from tests.execution_lab import PROJECT, CountingStore, Lab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "store")


def lines(lab: Lab, exec_id: str) -> list[tuple[Any, ...]]:
    found, _ = read_lines(lab.store, PROJECT, exec_id)
    return [(one.stream, one.text, one.checkpoint, one.call, one.attempt) for one in found]


@checkpoint(retries=1)
def talks(n: int) -> int:
    print("hello", n)
    print("half", end="")
    sys.stderr.write(" to\nstderr\n")
    if n == 2 and not TRIED:
        TRIED.append(n)
        raise ValueError
    return n


TRIED: list[int] = []


@flow
def talking() -> int:
    print("from the body")
    return talks(1) + talks(2)


def test_output_belongs_to_its_call_and_attempt_and_is_still_printed(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line has stream, checkpoint, call and attempt; the terminal shows what it showed before."""
    TRIED.clear()
    real = sys.stdout
    exec_id = lab.open(talking)
    lab.go_on(talking, exec_id, capture=True)
    assert sys.stdout is real
    found = lines(lab, exec_id)
    assert found[0] == ("stdout", "from the body", None, None, None)
    for call, attempt, n in (("1", 1, 1), ("2", 1, 2), ("2", 2, 2)):
        mine = [(stream, text) for stream, text, *where in found if where == ["talks", call, attempt]]
        assert mine == [("stdout", f"hello {n}"), ("stderr", " to"), ("stderr", "stderr"), ("stdout", "half")]
    shown = capsys.readouterr()
    assert shown.out == "from the body\nhello 1\nhalfhello 2\nhalfhello 2\nhalf"
    assert shown.err == " to\nstderr\n" * 3


def test_without_output_nothing_is_written(tmp_path: Path) -> None:
    """Logs cost a quiet flow no request."""

    @checkpoint
    def quiet() -> int:
        return 1

    @flow
    def silent() -> int:
        return quiet()

    lab = Lab(tmp_path, lambda inner: CountingStore(inner))
    exec_id = lab.open(silent)
    lab.go_on(silent, exec_id, capture=True)
    assert isinstance(lab.store, CountingStore)
    assert not [key for verb, key in lab.store.calls if "/logs/" in key]


def test_logging_is_captured_once_with_its_level(lab: Lab) -> None:
    """A record is one line, whether a handler prints it to stderr or not, with its traceback."""
    logger = logging.getLogger("kitaru-test")
    handler = logging.StreamHandler()

    @checkpoint
    def logs() -> None:
        logger.addHandler(handler)
        handler.setStream(sys.stderr)
        logger.warning("careful %d", 3)
        logger.propagate = False
        try:
            raise ValueError("inner")
        except ValueError:
            logger.exception("went wrong")

    @flow
    def logging_flow() -> None:
        logs()

    exec_id = lab.open(logging_flow)
    factory = logging.getLogRecordFactory()
    try:
        lab.go_on(logging_flow, exec_id, capture=True)
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
    assert logging.getLogRecordFactory() is factory
    found, _ = read_lines(lab.store, PROJECT, exec_id)
    assert [(one.stream, one.level, one.checkpoint) for one in found] == [
        ("log", "WARNING", "logs"),
        ("log", "ERROR", "logs"),
    ]
    assert found[0].text == "kitaru-test: careful 3"
    assert "ValueError: inner" in found[1].text


def test_concurrent_calls_and_runs_do_not_mix(lab: Lab) -> None:
    """Threads, tasks and a second run at the same time each keep their own lines."""

    @checkpoint
    async def says(n: int) -> int:
        print(f"a{n}")
        await asyncio.sleep(0.005)
        print(f"b{n}")
        return n

    @checkpoint
    def speaks(n: int) -> int:
        print(f"a{n}")
        time.sleep(0.005)
        print(f"b{n}")
        return n

    @flow
    async def tasks() -> None:
        await asyncio.gather(*[says(n) for n in range(1, 9)])

    @flow
    def threads() -> None:
        speaks.map(range(1, 9)).results()

    ids = [lab.open(tasks), lab.open(threads)]
    runs = [
        threading.Thread(target=lab.go_on, args=(one, exec_id), kwargs={"capture": True})
        for one, exec_id in zip((tasks, threads), ids, strict=True)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    for exec_id in ids:
        found = lines(lab, exec_id)
        assert len(found) == 16
        for stream, text, _, call, _ in found:
            assert stream == "stdout" and text[1:] == call


def test_output_reaches_the_store_while_the_checkpoint_still_runs(lab: Lab) -> None:
    """About once a second, so that a crash loses little and a follower sees it."""
    release = threading.Event()

    @checkpoint
    def long_one() -> None:
        print("working")
        release.wait(20)

    @flow
    def following() -> None:
        long_one()

    exec_id = lab.open(following)
    run = threading.Thread(target=lab.go_on, args=(following, exec_id), kwargs={"capture": True})
    run.start()
    try:
        for _ in range(250):
            if lines(lab, exec_id):
                break
            time.sleep(0.02)
        assert lines(lab, exec_id) == [("stdout", "working", "long_one", "1", 1)]
    finally:
        release.set()
        run.join()


SCRIPT = """
import sys, threading
from pathlib import Path
from tests.execution_lab import Lab
from kitaru import flow

@flow
def threaded() -> None:
    aside = threading.Thread(target=lambda: print("from a thread of its own"))
    aside.start()
    aside.join()

lab = Lab(Path(sys.argv[1]))
exec_id = lab.open(threaded)
lab.go_on(threaded, exec_id, capture=True)
print(exec_id)
"""


def test_in_a_process_of_its_own_every_threads_output_is_the_runs(lab: Lab, tmp_path: Path) -> None:
    """A worker runs one execution on its main thread: what its other threads print belongs to it."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "store")]
    out = subprocess.run(command, cwd=Path(__file__).parent.parent, check=True, capture_output=True, text=True).stdout
    printed, exec_id = out.splitlines()
    assert printed == "from a thread of its own"
    assert lines(lab, exec_id) == [("stdout", "from a thread of its own", None, None, None)]


@checkpoint
def crowded() -> None:
    def talk(name: int) -> None:
        for number in range(300):
            print(f"T{name}-{number}-end")

    threads = [threading.Thread(target=talk, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@flow
def crowd() -> None:
    crowded()


def test_lines_of_threads_that_print_at_once_stay_whole(lab: Lab) -> None:
    """``print`` writes a text and the end of its line apart; no line is merged with another thread's, or split."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        exec_id = lab.open(crowd)
        lab.go_on(crowd, exec_id, capture=True)
    finally:
        sys.setswitchinterval(before)
    found = sorted(text for _, text, *_ in lines(lab, exec_id))
    assert found == sorted(f"T{name}-{number}-end" for name in range(8) for number in range(300))


@checkpoint
def overwrites() -> None:
    print("from Windows\r")
    for percent in range(0, 101, 10):
        print(f"{percent} %", end="\r")
    print()
    print("10 %\r20 %")
    print("30 %\r40 %\r", end="")


@flow
def progressing() -> None:
    overwrites()


def test_of_what_was_written_over_the_last_is_kept(lab: Lab) -> None:
    """A carriage return at the end of a line takes nothing away; between texts the later one counts."""
    exec_id = lab.open(progressing)
    lab.go_on(progressing, exec_id, capture=True)
    assert [text for _, text, *_ in lines(lab, exec_id)] == ["from Windows", "100 %", "20 %", "40 %"]
