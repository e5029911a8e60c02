"""Output that Python's own streams never see: child processes, C code, threads; and secrets, which nobody sees."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from kitaru import checkpoint, flow
from kitaru.run.logs import LogWriter, read_lines
from kitaru.run.masking import Masking, secret_values
from tests.execution_lab import PROJECT, Lab
from tests.repository import until
from tests.run_process import Process


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


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"A_KEY": "0123456789", "KEY": "abcdefgh", "MONKEY": "abcdefghi"}, {"0123456789", "abcdefgh"}),
        ({"A_TOKEN": "short"}, set()),
        ({"my_password": "long enough"}, {"long enough"}),
        ({"KITARU_SECRET_DB": '{"URL": "postgres://me"}'}, {'{"URL": "postgres://me"}', "postgres://me"}),
        ({"KITARU_SECRET_DB": "no json at all"}, {"no json at all"}),
        ({"KITARU_SECRET_VARIABLES": "DSN,OTHER", "DSN": "postgres://me"}, {"postgres://me"}),
        (
            {"SSH_KEY": "-----BEGIN\nAAAABBBBCCCC\nshort\n"},
            {"-----BEGIN\nAAAABBBBCCCC\nshort\n", "-----BEGIN", "AAAABBBBCCCC"},
        ),
    ],
)
def test_what_counts_as_secret(environ: dict[str, str], expected: set[str]) -> None:
    """Secrets and their members, what a runner named, what a name tells; nothing shorter than eight characters."""
    assert secret_values(environ) == expected


def test_the_longer_secret_is_hidden_first() -> None:
    """Where one secret begins with another, nothing of the longer is left."""
    mask = Masking({"A_KEY": "12345678", "B_KEY": "1234567890"})
    assert mask("x 1234567890 y 12345678 z") == "x *** y *** z"
    assert Masking({"HOME": "/root"})("/root") == "/root"


def test_a_line_is_masked_before_it_is_cut(tmp_path: Path) -> None:
    """A secret at the place where a long line is cut leaves no half behind."""
    from kitaru.model.execution import LogLine
    from kitaru.run.logs import LINE_LIMIT

    lab = Lab(tmp_path)
    writer = LogWriter(lab.store, PROJECT, "ex-000000000000000000", lambda: None, Masking({"A_KEY": "secretsecret"}))
    writer.add(LogLine("2026-11-22T00:00:00.000000Z", "stdout", "x" * (LINE_LIMIT - 5) + "secretsecret"))
    writer.flush()
    assert "secret" not in read_lines(lab.store, PROJECT, "ex-000000000000000000")[0][0].text


# --- in a process that has other things to do: threads only -----------------------------------------------------------


def test_a_thread_inherits_for_as_long_as_its_attempt_goes_on(tmp_path: Path) -> None:
    """What a thread prints is its checkpoint's, then the flow body's, and nobody's once the run is over."""
    gates = [threading.Event() for _ in range(3)]
    done = threading.Event()
    start = threading.Thread.start

    def speak() -> None:
        for number, gate in enumerate(gates):
            gate.wait(20)
            print(f"line {number}")
            spoken[number].set()
        done.set()

    spoken = [threading.Event() for _ in range(3)]

    @checkpoint
    def starts() -> None:
        threading.Thread(target=speak).start()
        gates[0].set()
        spoken[0].wait(20)

    @flow
    def body() -> None:
        starts()
        gates[1].set()
        spoken[1].wait(20)

    lab = Lab(tmp_path)
    exec_id = lab.open(body)
    run = threading.Thread(target=lambda: lab.go_on(body, exec_id, capture=True))
    run.start()
    run.join()
    gates[2].set()
    assert done.wait(20)
    time.sleep(0.05)
    found: list[tuple[Any, ...]] = [(one.text, one.call) for one in read_lines(lab.store, PROJECT, exec_id)[0]]
    assert found == [("line 0", "1"), ("line 1", None)]
    assert threading.Thread.start is start
