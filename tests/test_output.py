"""What a flow prints and logs is found by call and attempt, still printed, and never holds a secret."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kitaru import checkpoint, flow
from kitaru.masking import Masking
from kitaru.run.logs import LogWriter
from tests.execution_lab import PROJECT, CountingStore, Lab, read_lines
from tests.repository import CHECKOUT, finish, start, until
from tests.run_process import Process


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
    lab.go_on(talking, exec_id)
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
    lab.go_on(silent, exec_id)
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
        lab.go_on(logging_flow, exec_id)
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
        threading.Thread(target=lab.go_on, args=(one, exec_id))
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
    run = threading.Thread(target=lab.go_on, args=(following, exec_id))
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
lab.go_on(threaded, exec_id)
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
        lab.go_on(crowd, exec_id)
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
    lab.go_on(progressing, exec_id)
    assert [text for _, text, *_ in lines(lab, exec_id)] == ["from Windows", "100 %", "20 %", "40 %"]


def test_children_are_heard_in_order_and_once(tmp_path: Path) -> None:
    """A child's lines belong to the checkpoint that ran it; Python's own are not doubled; all still reach the real
    output.
    """
    ran = Process(
        tmp_path,
        """
        @checkpoint
        def one():
            print("python before")
            shell("echo child out; echo child err >&2")
            print("python after")
            shell("printf unfinis; sleep 0.1; echo hed")
            os.system("echo from the system")
            subprocess.run(["echo", "given stdout"], stdout=sys.stdout, check=True)
            sys.stdout.buffer.write(b"as bytes\\n")

        @checkpoint
        def two():
            shell("echo second")

        @flow
        def main():
            shell("echo body")
            one()
            two()
        """,
    )
    lines = ran.end()
    assert [text for stream, text, call in lines if call == "1" and stream == "stdout"] == [
        "python before",
        "child out",
        "python after",
        "unfinished",
        "from the system",
        "given stdout",
        "as bytes",
    ]
    assert ("stderr", "child err", "1") in lines
    assert [text for _, text, call in lines if call == "2"] == ["second"]
    assert ("stdout", "body", None) in lines
    shown = (tmp_path / "out").read_text()
    for text in ("body", "python before", "child out", "given stdout", "second"):
        assert shown.count(text) == 1
    assert "child err" in (tmp_path / "err").read_text()


def test_much_output_of_many_children(tmp_path: Path) -> None:
    """Megabytes from children that run side by side arrive whole: no line is lost, cut or mixed."""
    ran = Process(
        tmp_path,
        """
        @checkpoint
        def loud(n):
            shell(f"for i in $(seq 4000); do echo line-{n}-$i-{'x' * 80}; done")

        @flow
        def main():
            loud.map([1, 2, 3]).results()
        """,
    )
    lines = ran.end()
    assert sorted(text for _, text, _ in lines) == sorted(
        f"line-{n}-{i}-{'x' * 80}" for n in (1, 2, 3) for i in range(1, 4001)
    )


def test_threads_and_forks_belong_to_their_checkpoint(tmp_path: Path) -> None:
    """A plain thread, a thread's thread and a forked process print for the checkpoint that started them."""
    ran = Process(
        tmp_path,
        """
        def deeper():
            inner = threading.Thread(target=print, args=("from the inner thread",))
            inner.start()
            inner.join()
            logging.getLogger("deep").warning("logged in a thread")

        @checkpoint
        def starts():
            outer = threading.Thread(target=deeper)
            outer.start()
            outer.join()
            child = multiprocessing.get_context("fork").Process(target=print, args=("from the fork",))
            child.start()
            child.join()

        @flow
        def main():
            starts()
        """,
    )
    assert sorted(ran.end()) == [
        ("log", "deep: logged in a thread", "1"),
        ("stdout", "from the fork", "1"),
        ("stdout", "from the inner thread", "1"),
    ]


def test_a_killed_process_leaves_what_it_had_flushed(tmp_path: Path) -> None:
    """After kill -9 every line older than a flush is there, children's lines too."""
    ran = Process(
        tmp_path,
        """
        @checkpoint
        def long():
            print("python line")
            shell("echo child line")
            time.sleep(60)

        @flow
        def main():
            long()
        """,
    )
    try:
        until(lambda: len(ran.lines()) >= 2)
    finally:
        ran.process.send_signal(signal.SIGKILL)
        ran.process.wait()
    assert sorted(ran.lines()) == [("stdout", "child line", "1"), ("stdout", "python line", "1")]


def test_secrets_never_reach_the_store(tmp_path: Path) -> None:
    """Values of secrets, and of variables whose names tell, are *** in every line, whoever printed them."""
    secret = json.dumps({"OPENAI_API_KEY": "sk-from-the-secret", "short": "abc"})
    ran = Process(
        tmp_path,
        """
        @checkpoint
        def tells():
            print("key:", os.environ["MY_API_KEY"], "abc")
            shell("echo password $DB_PASSWORD")
            print("sk-from-the-secret")
            logging.getLogger("x").warning("token=%s", os.environ["GITHUB_TOKEN"])

        @flow
        def main():
            tells()
        """,
        MY_API_KEY="key-0123456789",
        DB_PASSWORD="p@ss word.*+",
        GITHUB_TOKEN="ghp_abcdefgh",
        KITARU_SECRET_OPENAI=secret,
    )
    texts = [text for _, text, _ in ran.end()]
    assert sorted(texts) == ["***", "key: *** abc", "password ***", "x: token=***"]


def test_a_line_is_masked_before_it_is_cut(tmp_path: Path) -> None:
    """A secret at the place where a long line is cut leaves no half behind."""
    from kitaru.model.execution import LogLine
    from kitaru.run.logs import LINE_LIMIT

    lab = Lab(tmp_path)
    writer = LogWriter(lab.store, PROJECT, "ex-000000000000000000", lambda: None, Masking({"A_KEY": "secretsecret"}))
    writer.add(LogLine("2026-11-22T00:00:00.000000Z", "stdout", "x" * (LINE_LIMIT - 5) + "secretsecret"))
    writer.flush()
    assert "secret" not in read_lines(lab.store, PROJECT, "ex-000000000000000000")[0][0].text


AT_ONCE = """
together = threading.Barrier(2)

@checkpoint
def works(n):
    together.wait(120)
    print(f"{n} says")
    shell(f"echo {n} by a child")
    thread = threading.Thread(target=print, args=(f"{n} by a thread",))
    thread.start()
    thread.join()
    together.wait(120)
    if n == 2:
        shell("echo has $MY_API_KEY")

@flow
def main():
    works.map([1, 2]).results()
"""


def test_children_and_threads_of_calls_side_by_side_are_the_flow_s(tmp_path: Path) -> None:
    """While several calls run, text without a context is the body's; what a call prints itself is its own."""
    ran = Process(tmp_path, AT_ONCE, MY_API_KEY="key-0123456789")
    lines = Counter((text, call) for _, text, call in ran.end() if not text.startswith("has"))
    own = [(f"{n} says", str(n)) for n in (1, 2)]
    assert lines == Counter([*own, *((f"{n} by a {kind}", None) for n in (1, 2) for kind in ("child", "thread"))])
    texts = [text for _, text, _ in ran.lines()]
    assert "has ***" in texts
    assert "has key-0123456789" in (tmp_path / "out").read_text()


def test_nothing_of_the_standard_library_is_replaced(tmp_path: Path) -> None:
    """While a flow runs, processes and threads are started by the functions that Python came with."""
    ran = Process(
        tmp_path,
        """
        before = subprocess.Popen.__init__, os.system, os.fork, threading.Thread.start, list(sys.meta_path)

        @checkpoint
        def looks():
            now = subprocess.Popen.__init__, os.system, os.fork, threading.Thread.start, list(sys.meta_path)
            print(all(one is other or one == other for one, other in zip(now, before)))

        @flow
        def main():
            looks()
        """,
    )
    assert ran.end() == [("stdout", "True", "1")]


def test_a_thread_of_a_script_prints_for_no_run(tmp_path: Path) -> None:
    """In a program with other things to do, a thread without the flow's context is the program's own."""

    @checkpoint
    def begins() -> None:
        thread = threading.Thread(target=print, args=("aside",))
        thread.start()
        thread.join()
        print("own")

    @flow
    def body() -> None:
        begins()

    lab = Lab(tmp_path)
    exec_id = lab.open(body)
    run = threading.Thread(target=lambda: lab.go_on(body, exec_id))
    run.start()
    run.join()
    assert lines(lab, exec_id) == [("stdout", "own", "begins", "1", 1)]


def test_lines_of_forks_stay_whole(tmp_path: Path) -> None:
    """Forked processes of one call that print at the same time never get into each other's lines; a flush is obeyed."""
    ran = Process(
        tmp_path,
        """
        def speak(k):
            for i in range(1000):
                print(f"fork {k} line {i}")

        def begin():
            print("begun, ", end="", flush=True)
            while not Path(__file__).with_name("seen").exists():
                time.sleep(0.01)
            print("ended", end="")

        @checkpoint
        def works():
            context = multiprocessing.get_context("fork")
            forks = [context.Process(target=speak, args=(k,)) for k in range(4)]
            for one in forks:
                one.start()
            for one in forks:
                one.join()
            last = context.Process(target=begin)
            last.start()
            last.join()

        @flow
        def main():
            works()
        """,
    )
    until(lambda: "begun, " in (tmp_path / "out").read_text())
    (tmp_path / "seen").touch()
    expected = [f"fork {k} line {i}" for k in range(4) for i in range(1000)]
    assert Counter(ran.end()) == Counter(("stdout", text, "1") for text in [*expected, "begun, ended"])


def test_a_child_that_writes_without_end_holds_nobody_up(tmp_path: Path) -> None:
    """A print, and the end of a call, take what was written by then; they do not wait for a pause."""
    script = tmp_path / "endless.py"
    script.write_text(
        """
import subprocess, time
from kitaru.run.output import Descriptors

descriptors, size = Descriptors(), 0

def sink(stream, text):
    global size
    size += len(text)

descriptors.attach(sink)
child = subprocess.Popen(["yes"])
while size < 1 << 20:
    time.sleep(0.01)
for _ in range(20):
    descriptors.drain()
child.kill()
child.wait()
descriptors.give_back()
subprocess.run(["echo", "after"])
"""
    )
    environ = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, script], env=environ, stdout=out, check=True, timeout=30)
    assert (tmp_path / "out").read_text().endswith("\nafter\n")


RUN_FLOW = """
import logging, subprocess, sys
from kitaru import checkpoint, flow

logging.basicConfig(level=logging.INFO)

@checkpoint
def count(n: int) -> int:
    for i in range(2):
        subprocess.run(f"echo {n} line {i}; echo {n} error {i} >&2", shell=True, check=True)
    logging.info("counted")
    return n

@flow
def main() -> int:
    return sum(count(n) for n in range(2))
"""


def test_kitaru_run_and_its_logs(own_world: Path) -> None:
    """``kitaru run``, and ``executions logs --checkpoint`` after it: each line once, with the right call."""
    (own_world / "flows.py").write_text(RUN_FLOW)
    url = f"file://{own_world / 'store'}"

    def kitaru(*words: str) -> str:
        done = finish(start(*words, cwd=own_world, KITARU_STORE=url, KITARU_PROJECT="default"), timeout=120)
        assert done.code == 0, (words, done.out, done.err)
        return done.out

    shown = kitaru("run", "flows.py:main")
    assert shown.count("1 line 1") == 1
    exec_id = json.loads(kitaru("executions", "list", "-o", "json"))["items"][0]["exec_id"]
    printed = kitaru("executions", "logs", exec_id, "--checkpoint", "count", "-o", "json").splitlines()
    found = [json.loads(line) for line in printed]
    expected = [
        (str(n + 1), stream, f"{n} {word} {i}")
        for n in range(2)
        for i in range(2)
        for stream, word in (("stdout", "line"), ("stderr", "error"))
    ]
    logged = [(str(n + 1), "log", "root: counted") for n in range(2)]
    assert Counter((line["call"], line["stream"], line["text"]) for line in found) == Counter(expected + logged)
