"""Ctrl-C in every phase: the command ends at once, in words, and what was not yet committed has not happened."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kitaru import wiring
from kitaru.store.port import Store
from tests.fault_proxy import FaultProxy
from tests.repository import (
    CHECKOUT,
    MANIFEST,
    Done,
    Repository,
    finish,
    kitaru,
    remote,
    start,
    until,
)
from tests.s3_servers import S3Server

INTERRUPTED = 130


def do(repository: Repository, *arguments: str | Path) -> Done:
    return kitaru(*arguments, cwd=repository.folder)


def interrupt(process: subprocess.Popen[str]) -> Done:
    """Ctrl-C as a terminal sends it: to the whole group. Twice, where the first one is slow to be heard."""
    os.killpg(process.pid, signal.SIGINT)
    done = finish(process, timeout=30)
    assert "Traceback" not in done.err, done.err
    assert "Exception ignored" not in done.err, done.err
    return done.must(INTERRUPTED)


def test_ctrl_c_while_a_flow_is_imported(repository: Repository, own_world: Path) -> None:
    """An import that takes long is given up, its child with it, and nothing is written."""
    mark = own_world / "importing"
    repository.write(
        "flows/work.py",
        f"import os, time, pathlib\npathlib.Path({str(mark)!r}).write_text(str(os.getpid()))\ntime.sleep(60)\n",
    )
    repository.commit()
    process = start("plan", cwd=repository.folder)
    child = int(until(lambda: mark.exists() and mark.read_text()))
    assert "interrupted" in interrupt(process).err
    until(lambda: not alive(child))
    assert not repository.store_folder.exists()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("words", "method", "part"),
    [
        (["plan"], "GET", "kitaru.lock"),
        (["apply", "--yes"], "PUT", "objects/source"),
        (["apply", "--yes"], "PUT", "/lock/"),
    ],
    ids=["plan", "upload", "commit"],
)
def test_ctrl_c_while_the_store_is_slow(
    repository: Repository, moto_s3: S3Server, words: list[str], method: str, part: str
) -> None:
    """Given up in the middle of a request; the store is before or after, and the same again ends in one place."""
    url = moto_s3.new_prefix()
    with FaultProxy(moto_s3.endpoint) as proxy:
        environ = {**moto_s3.environment(), "AWS_ENDPOINT_URL": proxy.endpoint}
        stuck: list[str] = []

        def choose(verb: str, path: str) -> str | None:
            if verb == method and part in path and not stuck:
                stuck.append(path)
                return "silent"
            return None

        proxy.choose = choose
        process = start(*words, "--store", url, cwd=repository.folder, **environ)
        until(lambda: stuck)
        time.sleep(0.2)
        begun = time.monotonic()
        assert "interrupted" in interrupt(process).err
        assert time.monotonic() - begun < 15
    # A request that was under way may land after its sender is gone; only the commit itself is to be seen then.
    environ = moto_s3.environment()
    count = remote(repository, url, "flow", "list", "-o", "json", **environ).must().json["count"]
    assert count == 0 or part == "/lock/"
    done = remote(repository, url, "apply", "--yes", "-o", "json", **environ).must()
    assert (done.json["item"]["generation"], done.json["item"]["changed"]) == (1, count == 0)


def on_terminal(repository: Repository, keys: bytes, *words: str) -> tuple[int, str]:
    """A command on a pseudo-terminal; ``keys`` are typed once it asks."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(repository.folder)
        os.environ["PYTHONPATH"] = str(CHECKOUT)
        os.execv(sys.executable, [sys.executable, "-m", "kitaru", *words])
    shown = b""
    typed = False
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
        if b"[y/N]" in shown and not typed:
            typed = True
            os.write(terminal, keys)
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), shown.decode(errors="replace")


@pytest.mark.parametrize(
    ("keys", "code", "generation"),
    [(b"\x03", INTERRUPTED, 0), (b"n\n", 1, 0), (b"\n", 1, 0), (b"\x04", INTERRUPTED, 0), (b"y\n", 0, 1)],
    ids=["ctrl-c", "no", "enter", "end of input", "yes"],
)
def test_the_question_before_apply(repository: Repository, keys: bytes, code: int, generation: int) -> None:
    """On a terminal apply asks; anything but yes changes nothing."""
    repository.plan()
    found, shown = on_terminal(repository, keys, "apply")
    assert "Traceback" not in shown, shown
    assert (found, repository.client().session.releases.head().generation) == (code, generation), shown


WAITING = """
import time
from pathlib import Path
from typing import Any
from kitaru import checkpoint, flow

@checkpoint
def first(folder: str) -> int:
    with open(f"{folder}/first", "a") as file:
        file.write("ran\\n")
    return 1

@checkpoint
def second(folder: str) -> str:
    Path(folder, "reached").touch()
    while not Path(folder, "go").exists():
        time.sleep(0.01)
    return "through"

@flow
def waiting(folder: str) -> str:
    first(folder)
    return second(folder)
"""


@pytest.fixture
def waiting(own_world: Path) -> tuple[Repository, Path]:
    gate = own_world / "gate"
    gate.mkdir()
    manifest = MANIFEST.replace("  agent:", "  waiting:").replace("flows/work.py:agent", "flows/w.py:waiting")
    return Repository.make(own_world / "repository", {"flows/w.py": WAITING}, manifest), gate


def test_ctrl_c_while_waiting_for_a_result(waiting: tuple[Repository, Path]) -> None:
    """Only the waiting ends: the execution goes on, and the words say where to look."""
    repository, gate = waiting
    repository.apply()
    given = json.dumps({"folder": str(gate)})
    process = start("invoke", "waiting", "--input", given, "--wait", cwd=repository.folder)
    until((gate / "reached").exists)
    assert "kitaru executions get ex-" in interrupt(process).err
    (execution,) = repository.client().executions.list()
    assert execution.status == "running"
    (gate / "go").touch()
    assert repository.client().executions.handle(execution.exec_id).wait(30) == "through"


def test_ctrl_c_while_it_runs_here(waiting: tuple[Repository, Path]) -> None:
    """kitaru run is given up: the process ends soon, and what finished is not run again by a resume."""
    repository, gate = waiting
    given = json.dumps({"folder": str(gate)})
    process = start("run", "flows/w.py:waiting", "--input", given, cwd=repository.folder)
    until((gate / "reached").exists)
    time.sleep(0.3)
    interrupt(process)
    (execution,) = repository.client().executions.list()
    assert execution.status == "lost"
    (gate / "go").touch()
    done = do(repository, "executions", "resume", execution.exec_id).must()
    assert "through" in done.out
    assert (gate / "first").read_text() == "ran\n"


# --- has anything changed? --------------------------------------------------------------------------------------------


class Stopping:
    """A real store in which Ctrl-C comes at one write: before it is carried out, or after."""

    def __init__(self, inner: Store, part: str, *, after: bool) -> None:
        self._inner, self._part, self._after = inner, part, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def create(self, key: str, body: bytes) -> Any:
        found = self._inner.create(key, body) if self._after or self._part not in key else None
        if self._part in key:
            raise KeyboardInterrupt
        return found

    def overwrite(self, key: str, body: bytes, *, durable: bool = True) -> None:
        if self._part in key:
            raise KeyboardInterrupt
        self._inner.overwrite(key, body, durable=durable)


@pytest.mark.parametrize(
    ("part", "after", "code", "words"),
    [
        ("objects/", True, INTERRUPTED, "interrupted; no route has moved"),
        ("/lock/", False, INTERRUPTED, "interrupted while generation 1 was being written; it was not there"),
        ("/lock/", True, 0, "Applied: generation 1 of project research."),
        ("kitaru.lock", True, 0, "Applied: generation 1 of project research."),
    ],
    ids=["build", "before the commit", "after the commit", "hint"],
)
def test_ctrl_c_says_what_an_apply_has_done(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, part: str, after: bool, code: int, words: str
) -> None:
    """Before the commit no route has moved; after it the result is printed, for it can't be taken back."""
    opened = wiring.open_store
    monkeypatch.setattr(wiring, "open_store", lambda settings: Stopping(opened(settings), part, after=after))
    done = do(repository, "apply", "--yes").must(code)
    assert words in done.said
    monkeypatch.undo()
    assert repository.client().session.releases.head().generation == (code == 0)


def test_an_interrupted_build_after_an_earlier_apply(repository: Repository) -> None:
    """What the same client committed before is not taken for what was interrupted."""
    client = repository.client()
    client.apply()
    repository.change("flows/work.py", "hello", "good day")
    repository.commit()
    client.session.store = Stopping(client.session.store, "objects/", after=True)  # type: ignore[assignment]
    client.session.releases._store = client.session.store
    with pytest.raises(KeyboardInterrupt):
        client.apply()


def test_ctrl_c_in_the_first_moments(repository: Repository) -> None:
    """From the first import of Kitaru's on there is no traceback, and the words say that nothing has changed."""
    wait, told, committed = 0.04, 0, False
    while not committed and wait < 2:
        process = start("apply", "--yes", cwd=repository.folder)
        time.sleep(wait)
        os.killpg(process.pid, signal.SIGINT)
        done = finish(process)
        committed = repository.client().session.releases.head().generation == 1
        assert committed == (done.code == 0), done.said
        if "/kitaru/" in done.err or "interrupted" in done.err:
            # Anything else is Python's own start, which is nobody's to catch.
            assert "Traceback" not in done.err, done.err
            assert "interrupted; no" in done.must(INTERRUPTED).err
            told += 1
        wait += 0.07
    assert told
