"""Runs from source: ``kitaru run`` owns its process, and does as a worker does; ``.run()`` is a guest in another's."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from kitaru import wiring
from kitaru.model.address import parse_timestamp
from kitaru.model.execution import Execution
from kitaru.run.journal import load
from kitaru.settings import Asked
from tests.execution_lab import read_lines
from tests.repository import CHECKOUT, Done, Repository, finish, kitaru, start, until

PROJECT = "default"
SECRET = "sk-live-0123456789"
GIVEN = '{"topic": "tea"}'
PROLOGUE = "import asyncio, os, subprocess, sys, threading, time\nfrom pathlib import Path\n"
PROLOGUE += "from kitaru import checkpoint, flow, log, save, wait\n"


class Home:
    """A folder with flows.py, and the store that its runs are kept in."""

    def __init__(self, folder: Path, source: str) -> None:
        self.folder = folder / "project"
        self.folder.mkdir()
        (self.folder / "flows.py").write_text(PROLOGUE + textwrap.dedent(source))
        self.url = f"file://{folder / 'store'}"
        self.store = wiring.open_store(_settings(self.url))

    def start(self, *words: str, **environ: str) -> subprocess.Popen[str]:
        return start(*words, cwd=self.folder, KITARU_STORE=self.url, KITARU_PROJECT=PROJECT, **environ)

    def kitaru(self, *words: str, **environ: str) -> Done:
        return finish(self.start(*words, **environ), timeout=60)

    def newest(self) -> str:
        return str(self.kitaru("executions", "list", "-o", "json").must().json["items"][0]["exec_id"])

    def begun(self) -> str:
        """The id of the first execution, once it is there."""
        executions = Path(self.url.removeprefix("file://")) / PROJECT / "executions"
        return str(until(lambda: executions.exists() and next((one.name for one in executions.iterdir()), "")))

    def load(self, exec_id: str) -> Execution:
        return load(self.store, PROJECT, exec_id)

    def lines(self, exec_id: str) -> list[tuple[str, str, str | None]]:
        return [(one.stream, one.text, one.checkpoint) for one in read_lines(self.store, PROJECT, exec_id)[0]]


def _settings(url: str) -> Any:
    return wiring.settle(Asked(store=url, project=PROJECT))


def test_a_timeout_stops_code_that_blocks(own_world: Path) -> None:
    """Two attempts of a second each take two seconds, where the code sleeps for a minute; the flow's own, too."""
    home = Home(
        own_world,
        """
        @checkpoint(timeout=1, retries=1)
        def blocked():
            time.sleep(60)

        @flow
        def calling():
            blocked()

        @checkpoint
        def reads():
            os.read(os.pipe()[0], 1)

        @flow(timeout=1)
        def whole():
            reads()

        @checkpoint(timeout=1)
        def inline():
            time.sleep(60)

        @flow
        async def beside_a_loop():
            await asyncio.sleep(0)
            inline()
        """,
    )
    for name, least in (("calling", 2), ("whole", 1), ("beside_a_loop", 1)):
        done = home.kitaru("run", f"flows.py:{name}").must(1)
        assert "was stopped after 1 second\n" in done.err
        execution = home.load(home.newest())
        assert execution.started_at is not None and execution.ended_at is not None
        assert least <= _seconds(execution.started_at, execution.ended_at) < 20, name


def _seconds(start: str, end: str) -> float:
    return (parse_timestamp(end) - parse_timestamp(start)).total_seconds()


def test_child_processes_are_in_the_logs_and_still_shown(own_world: Path) -> None:
    """What a checkpoint's child prints is its own line in the logs; it is shown once, in order; words of the command
    are in no log, and the result is the last thing on standard output.
    """
    home = Home(
        own_world,
        """
        @checkpoint
        def speaks():
            print("python first")
            subprocess.run(["echo", "child out"], check=True)
            os.system("echo child err >&2")
            print("python last")
            return "result"

        @flow
        def main():
            return speaks()

        @flow
        def asks():
            subprocess.run(["echo", "before the question"], check=True)
            return wait(schema=bool, name="fine", question="Is it?")
        """,
    )
    done = home.kitaru("run", "flows.py:main").must()
    exec_id = home.newest()
    assert done.out == "python first\nchild out\npython last\nresult\n"
    assert done.err.count("child err") == 1
    assert sorted(home.lines(exec_id)) == [
        ("stderr", "child err", "speaks"),
        ("stdout", "child out", "speaks"),
        ("stdout", "python first", "speaks"),
        ("stdout", "python last", "speaks"),
    ]
    process = home.start("run", "flows.py:asks", "-o", "json")
    exec_id = until(lambda: next((one for one in [home.newest()] if one != exec_id), ""))
    until(lambda: home.load(exec_id).open_waits)
    time.sleep(1.5)  # so that the command has told of it
    home.kitaru("executions", "input", exec_id, "--value", "true").must()
    done = finish(process).must()
    assert "waits for an answer" in done.err
    assert home.lines(exec_id) == [("stdout", "before the question", None)]
    assert done.out.startswith("before the question\n{") and done.out.endswith("}\n")


def test_a_child_that_goes_on_can_still_write(own_world: Path) -> None:
    """A process that a checkpoint leaves behind writes for the flow, and the command ends without it."""
    home = Home(
        own_world,
        """
        @checkpoint
        def leaves():
            return subprocess.Popen("sleep 0.5; echo late; echo $? > done", shell=True).pid

        @flow
        def main():
            leaves()
            time.sleep(1.5)
        """,
    )
    done = home.kitaru("run", "flows.py:main").must()
    assert "late" in done.out
    assert (home.folder / "done").read_text() == "0\n"
    assert home.lines(home.newest()) == [("stdout", "late", None)]


@pytest.mark.parametrize("name", ["sync", "async_"])
def test_ctrl_c_leaves_what_can_be_resumed(own_world: Path, name: str) -> None:
    """The command ends at once, in words; what finished is recorded, and resume goes on."""
    home = Home(
        own_world,
        """
        @checkpoint
        def first():
            return 1

        def waits():
            if not Path("again").exists():
                Path("here").touch()
                time.sleep(60)

        @flow
        def sync():
            found = first()
            waits()
            return found + 1

        @flow
        async def async_():
            found = first()
            if not Path("again").exists():
                Path("here").touch()
                await asyncio.sleep(60)
            return found + 1
        """,
    )
    process = home.start("run", f"flows.py:{name}")
    until(lambda: (home.folder / "here").exists())
    begun = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    done = finish(process).must(130)
    assert time.monotonic() - begun < 15
    assert "Traceback" not in done.err and "kitaru executions resume" in done.err
    (home.folder / "again").touch()
    exec_id = home.newest()
    assert [call.name for call in home.load(exec_id).checkpoints] == ["first"]
    assert home.kitaru("executions", "resume", exec_id).must().out == "2\n"
    assert len(home.load(exec_id).checkpoints[0].attempts) == 1


def test_cancelling_ends_code_that_does_not_react(own_world: Path) -> None:
    """Whether it blocks, waits between attempts or swallows everything: the process of the command ends."""
    home = Home(
        own_world,
        """
        @checkpoint(retries=100, timeout=0.3)
        def fails():
            time.sleep(60)

        @flow
        def retrying():
            fails()

        @flow
        def blocked():
            time.sleep(60)

        @flow
        def deaf():
            Path("here").touch()
            while True:
                try:
                    time.sleep(60)
                except BaseException:
                    pass
        """,
    )
    for name, words in (("blocked", "cancelled"), ("retrying", "cancelled"), ("deaf", "cancelled")):
        known = {one["exec_id"] for one in home.kitaru("executions", "list", "-o", "json").must().json["items"]}
        process = home.start("run", f"flows.py:{name}")
        exec_id = until(lambda known=known: next((one for one in [_newest(home)] if one and one not in known), ""))
        until(lambda exec_id=exec_id: home.load(exec_id).status == "running")
        begun = time.monotonic()
        home.kitaru("executions", "cancel", exec_id).must()
        assert words in finish(process).must(1).err
        assert time.monotonic() - begun < 30
        assert home.load(exec_id).status == "cancelled"


def _newest(home: Home) -> str:
    items = home.kitaru("executions", "list", "-o", "json").must().json["items"]
    return items[0]["exec_id"] if items else ""


def test_no_secret_reaches_the_store(own_world: Path) -> None:
    """Messages, tracebacks of every attempt, causes and notes, previews of arguments, metadata, questions: a failing
    run leaves no secret in any file; what is returned is the user's to decide, and stays whole.
    """
    source = """
        KEY = os.environ["SERVICE_TOKEN"]

        @checkpoint(retries=1)
        def fails(key, nested):
            print("print", key)
            subprocess.run(["echo", "child", key])
            log(url=f"https://x/?key={key}", more={"deep": [key]})
            try:
                raise KeyError(key)
            except KeyError as error:
                error.add_note(f"the key was {key}")
                raise ExceptionGroup(f"group {key}", [ValueError(key), error]) from error

        @checkpoint(runtime="isolated")
        def apart(key):
            raise ValueError(f"apart {key}")

        @flow(retries=1)
        def failing():
            for call in (lambda: apart(KEY), lambda: fails(KEY, {"list": [KEY]})):
                try:
                    call()
                except Exception as error:
                    last = error
            raise RuntimeError(f"with {KEY}") from last

        @flow
        def asking():
            wait(schema=bool, name="ok", question=f"use {KEY}?", metadata={"key": KEY}, timeout=0)

        @checkpoint
        def gives():
            return {"key": KEY}

        @flow
        def giving():
            return gives()["key"]
        """
    home = Home(own_world, source)
    done = home.kitaru("run", "flows.py:failing", SERVICE_TOKEN=SECRET).must(1)
    assert "RuntimeError: with ***" in done.err
    home.kitaru("run", "flows.py:asking", SERVICE_TOKEN=SECRET)
    files = [one for one in Path(home.url.removeprefix("file://")).rglob("*") if one.is_file()]
    assert len(files) > 4
    assert not [one for one in files if SECRET.encode() in one.read_bytes()]
    text = b"".join(one.read_bytes() for one in files).decode()
    for words in ("group ***", "the key was ***", "apart ***", "with ***", "use ***?", "https://x/?key=***"):
        assert words in text, words
    assert home.kitaru("run", "flows.py:giving", SERVICE_TOKEN=SECRET).must().out == f"{SECRET}\n"


def test_a_flow_that_cannot_be_imported_tells_no_secret(own_world: Path) -> None:
    """What an invoked flow raises before it begins is masked as well: the worker records that itself."""
    repository = Repository.make(own_world / "repository")
    kitaru("apply", "--yes", cwd=repository.folder).must()
    text = (repository.folder / "flows" / "work.py").read_text()
    line = "if 'SERVICE_TOKEN' in os.environ: raise ValueError(os.environ['SERVICE_TOKEN'])"
    repository.write("flows/work.py", f"{text}\n\nimport os\n{line}\n")
    repository.commit()
    kitaru("apply", "--yes", cwd=repository.folder).must()
    done = finish(
        start("invoke", "agent", "--input", GIVEN, "--wait", cwd=repository.folder, SERVICE_TOKEN=SECRET)
    ).must(1)
    assert "***" in done.err and SECRET not in done.err
    files = [one for one in repository.store_folder.rglob("*") if one.is_file()]
    assert not [one for one in files if SECRET.encode() in one.read_bytes()]


# --- .run() in a program of the user's --------------------------------------------------------------------------------


def script(home: Home, text: str) -> Done:
    (home.folder / "script.py").write_text(PROLOGUE + "from flows import *\n" + textwrap.dedent(text))
    environ = {**os.environ, "PYTHONPATH": str(CHECKOUT), "KITARU_STORE": home.url, "KITARU_PROJECT": PROJECT}
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=home.folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_a_guest_says_truly_when_blocked_code_ended(own_world: Path) -> None:
    """In a thread code that blocks in C can't be woken: the next attempt waits for it, the message says how long."""
    home = Home(
        own_world,
        """
        running = []

        @checkpoint(timeout=0.5, retries=1)
        def blocked():
            assert not running, "two attempts at once"
            running.append(1)
            try:
                time.sleep(2)
            finally:
                running.pop()

        @flow
        def calling():
            blocked()
        """,
    )
    done = script(home, "calling.run().wait()").must(1)
    told = re.compile(r"had 0\.5 seconds, and its code did not return before [23](\.\d+)? seconds were over")
    assert told.search(done.err)
    (call,) = home.load(home.newest()).checkpoints
    assert len(call.attempts) == 2
    assert all(attempt.failure and told.search(attempt.failure.message) for attempt in call.attempts)


def test_a_guest_leaves_the_descriptors_alone(own_world: Path) -> None:
    """Child processes of a script get the script's own standard output, and only what Python prints is in the logs."""
    home = Home(
        own_world,
        """
        @checkpoint
        def speaks():
            print("python")
            subprocess.run(["echo", "child"], check=True)
            return [os.fstat(1).st_ino, os.fstat(2).st_ino]

        @flow
        def main():
            return speaks()
        """,
    )
    done = script(home, "print(main.run().wait() == [os.fstat(1).st_ino, os.fstat(2).st_ino])").must()
    assert sorted(done.out.split()) == ["True", "child", "python"]
    assert home.lines(home.newest()) == [("stdout", "python", "speaks")]
