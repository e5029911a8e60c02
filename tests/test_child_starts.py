"""What child processes print is the call's that started them, however many calls run at once in their process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from kitaru.run.logs import read_lines
from tests.execution_lab import PROJECT
from tests.repository import CHECKOUT, finish, start, until
from tests.run_process import Process

Line = tuple[str, str, str | None]

AT_ONCE = """
together = threading.Barrier(4)

def at_once(act):
    # Four calls start their children while all four are under way, and none ends before.
    @checkpoint
    def works(n):
        together.wait(120)
        act(n)
        together.wait(120)
        return n
    return works

def say(n):
    print(f"{n} says", flush=True)
    print(f"{n} warns", file=sys.stderr, flush=True)
    os.write(1, f"{n} writes\\n".encode())

@flow
def main():
    works.map([1, 2, 3, 4]).results()
"""


def at_once(folder: Path, act: str) -> list[Line]:
    """The lines of four calls that do this at once; ``n``, call's id and number in the map, is what they are given."""
    return Process(folder, f"{AT_ONCE}\n{act}\nworks = at_once(act)\n").end()


def lines_of_each(*texts: tuple[str, str]) -> Counter[Line]:
    return Counter((stream, text.format(n=n), str(n)) for n in (1, 2, 3, 4) for stream, text in texts)


SAID = (("stdout", "{n} says"), ("stderr", "{n} warns"), ("stdout", "{n} writes"))


def test_subprocess_in_all_its_ways(tmp_path: Path) -> None:
    """``run``, ``Popen``, ``check_call``, ``os.system``, in a thread of the call's too, with what they were given."""
    lines = at_once(
        tmp_path,
        """
def act(n):
    subprocess.run(f"echo {n} out; echo {n} err >&2; printf '{n} be'; sleep 0.1; echo gun", shell=True)
    assert subprocess.Popen(["echo", f"{n} positional"], -1, None, None, None, None).wait() == 0
    subprocess.check_call(["echo", f"{n} by our stream"], stdout=sys.stdout)
    subprocess.check_call(["echo", f"{n} to the other"], stdout=sys.stderr)
    subprocess.run(f"echo {n} merged >&2", shell=True, stderr=subprocess.STDOUT)
    assert subprocess.check_output(f"echo taken; echo {n} beside it >&2", shell=True) == b"taken\\n"
    subprocess.run(["echo", f"{n} before exec"], preexec_fn=lambda: None)
    subprocess.run(["echo", f"{n} not closed"], close_fds=False)
    thread = threading.Thread(target=subprocess.run, args=(["echo", f"{n} in a thread"],))
    thread.start()
    thread.join()
    assert os.waitstatus_to_exitcode(os.system(f"echo {n} of the system; exit 3")) == 3
    sys.stdout.buffer.write(f"{n} as bytes\\n".encode())
""",
    )
    assert Counter(lines) == lines_of_each(
        ("stdout", "{n} out"),
        ("stderr", "{n} err"),
        ("stdout", "{n} begun"),
        ("stdout", "{n} positional"),
        ("stdout", "{n} by our stream"),
        ("stderr", "{n} to the other"),
        ("stdout", "{n} merged"),
        ("stderr", "{n} beside it"),
        ("stdout", "{n} before exec"),
        ("stdout", "{n} not closed"),
        ("stdout", "{n} in a thread"),
        ("stdout", "{n} of the system"),
        ("stdout", "{n} as bytes"),
    )


def test_what_the_caller_says_is_left_alone(tmp_path: Path) -> None:
    """A file, a pipe, ``DEVNULL``, descriptors that are passed on, and a terminal of its own are as without Kitaru."""
    lines = at_once(
        tmp_path,
        f"""
import pty, tempfile

def act(n):
    with tempfile.TemporaryFile() as file:
        subprocess.run(["echo", "filed"], stdout=file)
        file.seek(0)
        assert file.read() == b"filed\\n"
    subprocess.run(["echo", "dropped"], stdout=subprocess.DEVNULL)
    piped = subprocess.Popen(["echo", "piped"], stdout=subprocess.PIPE)
    plain = subprocess.Popen(["true"])
    assert piped.communicate()[0] == b"piped\\n"
    assert plain.wait() == 0 and plain.stdout is None and plain.stderr is None
    reader, writer = os.pipe()
    open_there = f"import os; os.write({{writer}}, repr(sorted(map(int, os.listdir('/proc/self/fd')))).encode())"
    subprocess.run([{sys.executable!r}, "-c", open_there], pass_fds=[writer], check=True)
    os.close(writer)
    there = eval(os.read(reader, 1000))
    os.close(reader)
    assert len(there) == 5 and {{0, 1, 2, writer}} < set(there), there  # and the folder that it listed
    process, terminal = pty.fork()
    if process == 0:
        os.execvp("echo", ["echo", "on the terminal"])
    assert os.read(terminal, 100) == b"on the terminal\\r\\n"
    os.close(terminal)
    os.waitpid(process, 0)
""",
    )
    assert lines == []


def test_forks_and_what_they_start(tmp_path: Path) -> None:
    """What a fork prints by Python, as bytes and to its descriptors, its children and its forks: all is the call's."""
    lines = at_once(
        tmp_path,
        """
def act(n):
    process = os.fork()
    if process == 0:
        say(n)
        subprocess.run(["echo", f"{n} of the fork"])
        os.system(f"echo {n} of its system")
        sys.stdout.buffer.write(f"{n} as bytes\\n".encode())
        if os.fork() == 0:
            print(f"{n} deeper")
            os._exit(0)
        os.wait()
        os._exit(0)
    assert os.waitpid(process, 0)[1] == 0
    assert os.spawnlp(os.P_WAIT, "echo", "echo", f"{n} spawned") == 0
""",
    )
    assert Counter(lines) == lines_of_each(
        *SAID,
        ("stdout", "{n} of the fork"),
        ("stdout", "{n} of its system"),
        ("stdout", "{n} as bytes"),
        ("stdout", "{n} deeper"),
        ("stdout", "{n} spawned"),
    )


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


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(tmp_path: Path, method: str) -> None:
    """Processes of ``multiprocessing``, and of a pool that the checkpoint makes, with whichever start method."""
    lines = at_once(
        tmp_path,
        f"""
from concurrent.futures import ProcessPoolExecutor

def act(n):
    context = multiprocessing.get_context({method!r})
    process = context.Process(target=say, args=(n,))
    process.start()
    process.join()
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        list(pool.map(say, [n, n]))
""",
    )
    assert Counter(lines) == lines_of_each(*(SAID * 3))


def test_async_calls_that_are_gathered(tmp_path: Path) -> None:
    """``create_subprocess_exec`` and ``_shell`` of tasks that run side by side in one thread."""
    ran = Process(
        tmp_path,
        """
        import asyncio

        @checkpoint
        async def works(n):
            child = await asyncio.create_subprocess_shell(f"sleep 0.2; echo {n} out; echo {n} err >&2")
            other = await asyncio.create_subprocess_exec("echo", f"{n} exec")
            taken = await asyncio.create_subprocess_exec("echo", "x", stdout=asyncio.subprocess.PIPE)
            assert (await taken.communicate())[0] == b"x\\n"
            await asyncio.gather(child.wait(), other.wait())
            await asyncio.to_thread(subprocess.run, ["echo", f"{n} in a thread"])

        @flow
        async def main():
            await asyncio.gather(*(works(n) for n in (1, 2, 3, 4)))
        """,
    )
    assert Counter(ran.end()) == lines_of_each(
        ("stdout", "{n} out"), ("stderr", "{n} err"), ("stdout", "{n} exec"), ("stdout", "{n} in a thread")
    )


def test_each_attempt_and_the_flow_body_have_their_own(tmp_path: Path) -> None:
    """A failed attempt's children are its own; the flow body's are nobody's else, whatever runs meanwhile."""
    ran = Process(
        tmp_path,
        """
        begun, gone_on = threading.Event(), threading.Event()
        tried = []

        @checkpoint(retries=1)
        def works():
            tried.append(1)
            shell(f"echo try {len(tried)}; printf half")
            if len(tried) == 1:
                raise ValueError("again")
            begun.set()
            gone_on.wait(120)

        @flow
        def main():
            future = works.submit()
            begun.wait(120)
            shell("echo of the body")
            gone_on.set()
            future.result()
        """,
    )
    ran.end()
    found = [(one.text, one.call, one.attempt) for one in read_lines(ran.lab.store, PROJECT, ran.exec_id)[0]]
    assert sorted(found, key=str) == [
        ("half", "1", 1),
        ("half", "1", 2),
        ("of the body", None, None),
        ("try 1", "1", 1),
        ("try 2", "1", 2),
    ]


def test_a_child_that_goes_on_is_heard_to_its_end(tmp_path: Path) -> None:
    """What it prints when its call is over is the call's still, as long as the run goes on."""
    ran = Process(
        tmp_path,
        """
        @checkpoint
        def starts():
            wait = "while [ ! -e gate ]; do sleep 0.02; done"
            folder = os.path.dirname(__file__)
            subprocess.Popen(f"echo begun; {wait}; echo gone on; touch said", shell=True, cwd=folder)

        @checkpoint
        def other():
            Path(__file__).with_name("gate").touch()
            while not Path(__file__).with_name("said").exists():
                time.sleep(0.02)

        @flow
        def main():
            starts()
            other()
        """,
    )
    assert ran.end() == [("stdout", "begun", "1"), ("stdout", "gone on", "1")]
    assert (tmp_path / "out").read_text() == "begun\ngone on\n"


def test_secrets_of_children_that_run_at_once_are_hidden(tmp_path: Path) -> None:
    """The lines of a call's own pipe are masked as every other; what goes on to the real output is as it was."""
    folder = tmp_path
    source = f"{AT_ONCE}\ndef act(n):\n    shell(f'echo {{n}} has $MY_API_KEY')\nworks = at_once(act)\n"
    ran = Process(folder, source, MY_API_KEY="key-0123456789")
    assert Counter(ran.end()) == lines_of_each(("stdout", "{n} has ***"))
    assert sorted((folder / "out").read_text().splitlines()) == [f"{n} has key-0123456789" for n in (1, 2, 3, 4)]


def test_descriptors_do_not_pile_up(tmp_path: Path) -> None:
    """A thousand calls that each start a child leave no pipe behind, a forked child that lives on holds none of theirs,
    and calls beyond what the system allows have children all the same.
    """
    ran = Process(
        tmp_path,
        """
        import resource

        def held():
            return len(os.listdir("/proc/self/fd"))

        def at_most(limit):
            deadline = time.monotonic() + 60
            while held() > limit and time.monotonic() < deadline:
                time.sleep(0.01)
            assert held() <= limit, (held(), limit)

        @checkpoint
        def works(n):
            subprocess.run(["echo", f"line {n}"])

        @checkpoint
        def forks():
            process = os.fork()
            if process == 0:
                time.sleep(60)
                os._exit(0)
            return process

        together = threading.Barrier(20)

        @checkpoint
        def crowded(n):
            together.wait(120)
            subprocess.run(["echo", f"crowd {n}"])
            together.wait(120)

        @flow
        def main():
            works(-1)
            before = held()
            lives_on = forks.submit()
            process = lives_on.result()
            works.map(list(range(300)), max_concurrency=4).results()
            at_most(before + 2)  # the two pipes of the fork that lives on
            os.kill(process, 9)
            os.waitpid(process, 0)
            at_most(before)
            resource.setrlimit(resource.RLIMIT_NOFILE, (120, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            crowded.map(list(range(20))).results()
            at_most(before)
        """,
    )
    lines = ran.end()
    assert Counter(text for _, text, _ in lines) == Counter(
        [f"line {n}" for n in range(-1, 300)] + [f"crowd {n}" for n in range(20)]
    )
    calls = {text: call for _, text, call in lines}
    assert all(calls[f"line {n}"] == str(n + 3) for n in range(300))
    filed = Counter(call is None for text, call in calls.items() if text.startswith("crowd"))
    assert filed[True] and filed[False] >= 5


def test_a_child_that_writes_without_end_holds_nobody_up(tmp_path: Path) -> None:
    """A print, and the end of a call, take what was written by then; they do not wait for a pause."""
    script = tmp_path / "endless.py"
    script.write_text(
        """
import subprocess, time
from kitaru.run.child_output import ChildOutput

children, size = ChildOutput(), 0

def sink(stream, text, owner):
    global size
    assert owner == "me"
    size += len(text)

children.attach(sink, lambda: "me")
child = subprocess.Popen(["yes"])
while size < 1 << 20:
    time.sleep(0.01)
for _ in range(20):
    children.drain("me")
children.end("me")
child.kill()
child.wait()
children.give_back()
"""
    )
    environ = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, script], env=environ, stdout=out, check=True, timeout=30)


def test_modules_that_are_loaded_later_and_all_is_put_back(tmp_path: Path) -> None:
    """``subprocess`` and ``multiprocessing`` may be imported once the run has begun; at its end all is put back."""
    script = tmp_path / "late.py"
    script.write_text(
        r"""
import os, sys
from kitaru.run.child_output import ChildOutput

if __name__ == "__main__":
    finders, system, said = list(sys.meta_path), os.system, []
    children = ChildOutput()
    children.attach(lambda *now: said.append(now), lambda: "me")
    assert not {"subprocess", "multiprocessing"} & set(sys.modules)

    import subprocess
    from multiprocessing import get_context
    from multiprocessing.process import BaseProcess

    before = subprocess.Popen.__init__.__wrapped__, BaseProcess.start.__wrapped__
    subprocess.run(["echo", "late"])
    process = get_context("spawn").Process(target=os.write, args=(1, b"spawned\n"))
    process.start()
    process.join()
    children.end("me")
    children.attach(lambda *now: said.append(now), lambda: None)
    subprocess.run(["echo", "unknown"])
    children.drain()
    children.give_back()
    assert said == [("stdout", "late\n", "me"), ("stdout", "spawned\n", "me"), ("stdout", "unknown\n", None)], said
    assert (subprocess.Popen.__init__, BaseProcess.start) == before
    assert sys.meta_path == finders and os.system is system
    loader = subprocess.__spec__.loader
    assert loader.exec_module.__func__ is type(loader).exec_module
    subprocess.run(["echo", "after"])
"""
    )
    environ = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        [sys.executable, script], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "late\nspawned\nunknown\nafter\n"


def test_a_killed_run_leaves_what_children_of_all_calls_had_printed(tmp_path: Path) -> None:
    """After kill -9 the lines that were written by then are filed by call, too."""
    source = f"{AT_ONCE}\ndef act(n):\n    shell(f'echo {{n}} out; exec sleep 60')\nworks = at_once(act)\n"
    ran = Process(tmp_path, source)
    try:
        until(lambda: len(ran.lines()) >= 4)
    finally:
        ran.process.send_signal(signal.SIGKILL)
        ran.process.wait()
    assert Counter(ran.lines()) == lines_of_each(("stdout", "{n} out"))


RUN_FLOW = """
import subprocess, threading
from kitaru import checkpoint, flow

together = threading.Barrier(4)

@checkpoint
def count(n: int) -> int:
    together.wait(120)
    for i in range(3):
        subprocess.run(f"echo {n} line {i}; echo {n} error {i} >&2", shell=True, check=True)
    together.wait(120)
    return n

@flow
def main() -> int:
    return sum(count.map([0, 1, 2, 3], max_concurrency=4).results())
"""


def test_kitaru_run_and_its_logs(own_world: Path) -> None:
    """``kitaru run`` of a map, and ``executions logs --checkpoint`` after it: each line names the right call."""
    (own_world / "flows.py").write_text(RUN_FLOW)
    url = f"file://{own_world / 'store'}"

    def kitaru(*words: str) -> str:
        began = time.monotonic()
        done = finish(start(*words, cwd=own_world, KITARU_STORE=url, KITARU_PROJECT="default"), timeout=120)
        assert done.code == 0, (words, done.out, done.err, time.monotonic() - began)
        return done.out

    shown = kitaru("run", "flows.py:main")
    assert shown.count("2 line 1") == 1
    exec_id = json.loads(kitaru("executions", "list", "-o", "json"))["items"][0]["exec_id"]
    printed = kitaru("executions", "logs", exec_id, "--checkpoint", "count", "-o", "json").splitlines()
    lines = [json.loads(line) for line in printed]
    assert Counter((line["call"], line["attempt"], line["stream"], line["text"]) for line in lines) == Counter(
        (str(n + 1), 1, stream, f"{n} {word} {i}")
        for n in range(4)
        for i in range(3)
        for stream, word in (("stdout", "line"), ("stderr", "error"))
    )
