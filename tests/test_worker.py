"""The worker, as a process of its own: from an order to a journal that says how the execution went."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kitaru.errors import KitaruUsageError
from kitaru.model import address
from kitaru.model.event import ExecutionOptions, Opened
from kitaru.model.execution import Execution
from kitaru.model.snapshot import ImageSettings, LocalStack, NamedStack, Snapshot, SourceFile, SourceTree
from kitaru.run.journal import load, open_execution, read_entries
from kitaru.source import bundle
from kitaru.source.folders import ensure_source, holds_tree
from kitaru.stacks.local import LocalRunner
from kitaru.stacks.port import RunOrder
from kitaru.store.local import LocalStore
from kitaru.store.port import Taken
from kitaru.values.stored import encode

CHECKOUT = Path(__file__).resolve().parents[1]
PROJECT = "research"

GREET = """
import os, sys
from kitaru import checkpoint, flow
from lib.words import word

@checkpoint
def greet(name: str) -> str:
    return f"{word} {name}"

@flow
def greeting(name: str) -> dict:
    heavy = {"pydantic", "typer", "rich", "git", "jsonschema", "fsspec", "zstandard", "tarfile", "packaging"}
    return {
        "said": greet(name),
        "cwd": os.getcwd(),
        "path": list(sys.path),
        "input": sys.stdin.read(),
        "heavy": sorted(heavy & set(sys.modules)),
    }
"""

STEPS = """
import os, time
from pathlib import Path
from kitaru import checkpoint, flow

@checkpoint
def first(folder: str) -> str:
    with open(f"{folder}/first", "a") as file:
        file.write("ran\\n")
    return "one"

@checkpoint
def second(folder: str) -> str:
    Path(folder, "reached").touch()
    while not Path(folder, "go").exists():
        time.sleep(0.01)
    return "two"

@flow
def steps(folder: str) -> list[str]:
    return [first(folder), second(folder)]
"""


SUBMITTED = STEPS.replace("second(folder)]", "second.submit(folder).result()]")
ASYNC = (
    STEPS.replace("def second", "async def second")
    .replace("time.sleep", "await asyncio.sleep")
    .replace("def steps", "async def steps")
    .replace("[first(folder), second(folder)]", "[first(folder), await second(folder)]")
    .replace("import os, time", "import asyncio, os")
)


@dataclass(frozen=True)
class World:
    """A store, a home for the cache, and a folder that plays the caller's working tree."""

    folder: Path

    @property
    def store(self) -> LocalStore:
        return LocalStore(self.folder / "store", f"file://{self.folder / 'store'}")

    @property
    def tree(self) -> Path:
        return self.folder / "tree"

    def environ(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KITARU_", "PYTHON"))}
        return {**kept, "KITARU_HOME": str(self.folder / "home"), **more}

    def runner(self, **given: Any) -> LocalRunner:
        settings: dict[str, Any] = {
            "environment": "current",
            "cache": self.folder / "home" / "cache",
            "environ": self.environ(),
        }
        return LocalRunner(**{**settings, **given})

    def open(self, files: dict[str, str], target: str, inputs: dict[str, Any], **image: Any) -> RunOrder:
        """Store source and snapshot, open an execution, and give the order for its worker."""
        content = {path: text.encode() for path, text in files.items()}
        listed = tuple(
            SourceFile(path=path, mode=0o100644, size=len(body), sha256=hashlib.sha256(body).hexdigest())
            for path, body in sorted(content.items())
        )
        source = bundle.tree_digest(SourceTree(files=listed))
        archive = bundle.pack((file, content[file.path]) for file in listed)
        self.store.create(address.source_archive(PROJECT, source), archive)
        snapshot = Snapshot(
            flow=target.rpartition(":")[2],
            target=target,
            source=source,
            image=ImageSettings(**image),
            stack=NamedStack(name="local", spec=LocalStack(type="local")),
        )
        exec_id = address.exec_id(datetime.now(UTC), os.urandom(4).hex().translate(str.maketrans("ilou", "wxyz")))
        opened = Opened(
            at=address.timestamp(datetime.now(UTC)),
            project=PROJECT,
            exec_id=exec_id,
            flow=snapshot.flow,
            target=target,
            inputs=encode(inputs, subject="the inputs", typed=False).value,
            origin="invoke",
            stack="local",
            options=ExecutionOptions(),
            version=1,
            snapshot=snapshot.digest,
        )
        entry = open_execution(self.store, opened, f"test-{exec_id}")
        assert not isinstance(entry, Taken)
        self.store.create(address.blob(PROJECT, snapshot.digest), snapshot.canonical())
        return RunOrder(store=self.store.url, project=PROJECT, exec_id=exec_id)

    def work(self, order: RunOrder, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run the worker in the working tree, to its end."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "kitaru.wiring.worker"],
            input=encoded(order).decode(),
            capture_output=True,
            text=True,
            cwd=self.tree,
            env=self.environ(**{"PYTHONPATH": str(self.kitaru_alone()), **environ}),
            timeout=60,
        )

    def kitaru_alone(self) -> Path:
        """A folder that shows this checkout's package and nothing beside it."""
        alone = self.folder / "alone"
        alone.mkdir(exist_ok=True)
        if not (alone / "kitaru").exists():
            (alone / "kitaru").symlink_to(CHECKOUT / "kitaru")
        return alone

    def snapshot(self, order: RunOrder) -> bytes:
        body = self.store.read(address.blob(PROJECT, self.execution(order).snapshot or ""))
        assert body is not None
        return body

    def execution(self, order: RunOrder) -> Execution:
        return load(self.store, PROJECT, order.exec_id)

    def result(self, order: RunOrder) -> Any:
        execution = self.execution(order)
        assert execution.status == "completed", execution.failure
        assert execution.output is not None
        return execution.output.inline


def encoded(order: RunOrder) -> bytes:
    return order.token()


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "tree").mkdir()
    return World(tmp_path)


def wait_for(condition: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


GREETING = {"flows/greet.py": GREET, "lib/words.py": "word = 'hello'\n", "src/only.py": ""}


# --- the place --------------------------------------------------------------------------------------------------------


def test_a_flow_runs_from_its_snapshot_and_not_from_the_working_tree(world: World) -> None:
    """Modules of the snapshot win, its folder is the working folder, and the caller's tree is nowhere on the path."""
    (world.tree / "lib").mkdir()
    (world.tree / "lib" / "words.py").write_text("word = 'changed since'\n")
    (world.tree / "src").mkdir()
    (world.tree / "other").mkdir()
    order = world.open(GREETING, "flows/greet.py:greeting", {"name": "you"})
    visible = os.pathsep.join((str(world.kitaru_alone()), ".", str(world.tree), "src", str(world.tree / "other")))

    done = world.work(order, PYTHONPATH=visible)

    assert done.returncode == 0, done.stderr
    found = world.result(order)
    root = Path(found["cwd"])
    assert found["said"] == "hello you"
    assert root.is_relative_to(world.folder / "home" / "cache")
    assert str(root) in found["path"] and str(world.tree) not in found["path"]


def test_the_worker_imports_no_more_than_it_needs(world: World) -> None:
    """With the source unpacked already, no heavy library is loaded when the flow begins; standard input is empty."""
    order = world.open(GREETING, "flows/greet.py:greeting", {"name": "you"})
    assert world.work(order).returncode == 0
    again = world.open(GREETING, "flows/greet.py:greeting", {"name": "me"})
    assert world.work(again).returncode == 0
    assert world.result(again)["heavy"] == []
    assert world.result(again)["input"] == ""


def test_a_launched_worker_completes_by_itself(world: World) -> None:
    """The runner's worker needs nobody: the journal ends with the result, and the process is gone."""
    runner = world.runner()
    order = world.open(GREETING, "flows/greet.py:greeting", {"name": "you"}, environment={"MODE": "test"})
    runner.check(world.snapshot(order))
    worker = runner.launch(replace(order, snapshot=world.snapshot(order)))
    wait_for(lambda: runner.alive(worker) is False)
    assert world.result(order)["said"] == "hello you", runner.startup_failure(worker)
    recorded = world.execution(order).runner
    assert recorded is not None
    assert (recorded.id, recorded.shown) == (worker.id, worker.shown)


# --- what keeps a flow from its first line ----------------------------------------------------------------------------


def failure_of(world: World, order: RunOrder, **environ: str) -> tuple[str, str]:
    """Run it; it must fail, and say so in the journal: origin and message."""
    done = world.work(order, **environ)
    execution = world.execution(order)
    assert (done.returncode, execution.status) == (1, "failed"), done.stderr
    assert execution.failure is not None
    assert execution.failure.message.splitlines()[0] in done.stderr
    return execution.failure.origin, execution.failure.message


def test_an_import_error_is_in_the_journal(world: World) -> None:
    """A module that can't be imported fails the execution with file, line and cause."""
    order = world.open({"flows/bad.py": "import os\nimport no_such_thing\n"}, "flows/bad.py:f", {})
    origin, message = failure_of(world, order)
    assert origin == "runtime"
    assert "flows/bad.py:2" in message
    assert "no_such_thing" in message


def test_a_module_that_exits_is_in_the_journal(world: World) -> None:
    """sys.exit at import is a failure, not the end of the worker without a word."""
    origin, message = failure_of(world, world.open({"bad.py": "import sys\nsys.exit(0)\n"}, "bad.py:f", {}))
    assert (origin, "sys.exit" in message) == ("runtime", True)


def test_a_damaged_archive_is_in_the_journal(world: World) -> None:
    """Bytes that are not the source that the snapshot names never run; the failure is the backend's."""
    order = world.open(GREETING, "flows/greet.py:greeting", {"name": "you"})
    [archive] = (world.folder / "store").rglob("*.tar.zst")
    body = bytearray(archive.read_bytes())
    body[len(body) // 2] ^= 0xFF
    archive.chmod(0o644)
    archive.write_bytes(body)
    origin, message = failure_of(world, order)
    assert (origin, "source archive" in message) == ("backend", True)


def test_a_missing_archive_is_in_the_journal(world: World) -> None:
    """The failure names the key that is not there."""
    order = world.open(GREETING, "flows/greet.py:greeting", {"name": "you"})
    [archive] = (world.folder / "store").rglob("*.tar.zst")
    archive.unlink()
    origin, message = failure_of(world, order)
    assert (origin, archive.name in message) == ("backend", True)


def test_a_damaged_snapshot_never_runs(world: World) -> None:
    """Bytes that are not those that the execution was opened with fail it; the failure is the backend's."""
    order = world.open(GREETING, "flows/greet.py:greeting", {"name": "you"})
    other = world.open({"f.py": "print('ran')\n"}, "f.py:f", {})
    world.store.overwrite(address.blob(PROJECT, world.execution(order).snapshot or ""), world.snapshot(other))
    origin, message = failure_of(world, order)
    assert (origin, "snapshot" in message) == ("backend", True)


def test_a_store_that_only_the_opener_sees_is_refused(world: World) -> None:
    """memory:// of another process is another store: the worker says so and ends."""
    order = replace(world.open(GREETING, "flows/greet.py:greeting", {"name": "you"}), store="memory://here")
    done = world.work(order)
    assert done.returncode == 1
    assert "no other process can see" in done.stderr


def test_an_order_that_is_none_is_explained(world: World) -> None:
    """Started by hand, the worker says what it expects instead of showing a traceback."""
    for body in (b"", b"{}", b"[]", b'{"project": 1}'):
        with pytest.raises(KitaruUsageError, match="expects an order"):
            RunOrder.parse(body)
    done = subprocess.run(
        [sys.executable, "-m", "kitaru.wiring.worker"], input=b"", capture_output=True, cwd=CHECKOUT, timeout=60
    )
    assert (done.returncode, b"expects an order" in done.stderr, b"Traceback" in done.stderr) == (2, True, False)


def test_a_worker_that_comes_late_writes_nothing(world: World) -> None:
    """Where another worker went on meanwhile, the one with the older journal stops at its first write."""
    order = world.open(GREETING, "flows/greet.py:greeting", {"name": "you"})
    assert world.work(order).returncode == 0
    before = read_entries(world.store, PROJECT, order.exec_id)
    assert world.work(order).returncode == 1
    assert read_entries(world.store, PROJECT, order.exec_id) == before


def test_a_flow_that_exits_is_no_success(world: World) -> None:
    """sys.exit(0) in a flow's body does not make the worker look as if the flow had completed."""
    code = "import sys\nfrom kitaru import flow\n@flow\ndef f():\n    sys.exit(0)\n"
    order = world.open({"f.py": code}, "f.py:f", {})
    done = world.work(order)
    assert (done.returncode, "sys.exit(0)" in done.stderr) == (1, True)
    assert world.execution(order).status != "completed"


# --- interrupted ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("code", [STEPS, SUBMITTED, ASYNC], ids=["inline", "submitted", "async"])
def test_an_ended_worker_leaves_a_journal_to_resume(world: World, number: signal.Signals, code: str) -> None:
    """Told to stop, or killed, in a checkpoint: nothing terminal is recorded; the next worker redoes that one alone."""
    folder = world.folder / "effects"
    folder.mkdir()
    order = world.open({"steps.py": code}, "steps.py:steps", {"folder": str(folder)})
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "kitaru.wiring.worker"],
        stdin=subprocess.PIPE,
        cwd=world.tree,
        env=world.environ(PYTHONPATH=str(world.kitaru_alone())),
    )
    assert worker.stdin is not None
    worker.stdin.write(encoded(order))
    worker.stdin.close()
    wait_for((folder / "reached").exists)
    worker.send_signal(number)
    ended = worker.wait(timeout=20)

    assert ended == (128 + signal.SIGTERM if number == signal.SIGTERM else -signal.SIGKILL)
    assert not world.execution(order).ended
    (folder / "go").touch()
    entries = len(read_entries(world.store, PROJECT, order.exec_id))
    assert world.work(replace(order, after=entries)).returncode == 0
    assert world.result(order) == ["one", "two"]
    assert (folder / "first").read_text() == "ran\n"


# --- requests ---------------------------------------------------------------------------------------------------------

COUNTED = """
import sys
from pathlib import Path
from kitaru.store import open as stores
from kitaru.store.appended import AppendingStore
from kitaru.stacks.port import RunOrder
from kitaru.wiring.worker import run_order

class Counting(AppendingStore):
    made = []
    def read(self, key):
        self.made.append(f"read {key}")
        return super().read(key)
    def create(self, key, body):
        self.made.append(f"create {key}")
        return super().create(key, body)
    def overwrite(self, key, body, *, durable=True):
        self.made.append(f"overwrite {key}")
        super().overwrite(key, body, durable=durable)
    def names(self, prefix, *, after=""):
        self.made.append(f"names {prefix}")
        return super().names(prefix, after=after)

sys.modules["request_log"] = Counting
stores.AppendingStore = Counting
sys.exit(run_order(RunOrder.parse(sys.stdin.buffer.read())))
"""

COUNTING = """
import request_log
from kitaru import checkpoint, flow

@flow
def counting() -> list[str]:
    return list(request_log.made)
"""


def test_the_requests_before_the_flow_begins(world: World) -> None:
    """The journal, the snapshot, and the source where it is not unpacked yet; nothing is written."""
    files = {"f.py": COUNTING}
    seen = []
    for _ in range(2):
        order = world.open(files, "f.py:counting", {})
        done = subprocess.run(
            [sys.executable, "-P", "-c", COUNTED],
            input=encoded(order),
            capture_output=True,
            cwd=world.tree,
            env=world.environ(PYTHONPATH=str(world.kitaru_alone())),
        )
        assert done.returncode == 0, done.stderr
        seen.append(world.result(order))
    *read, fetched = seen[0]
    assert fetched.startswith(f"read {PROJECT}/objects/source/")
    kinds = [line.removeprefix(f"read {PROJECT}/").partition("/")[0] for line in seen[1]]
    assert (len(read), kinds) == (2, ["executions", "objects"])


# --- the unpacked source ----------------------------------------------------------------------------------------------


def test_any_change_of_an_unpacked_source_tells(tmp_path: Path) -> None:
    """A change of path, mode or byte makes a folder another tree."""
    bodies = {"a/b.py": (0o100644, b"x = 1\n"), "run": (0o100755, b"#!/bin/sh\n"), "link": (0o120000, b"a/b.py")}
    listed = [
        SourceFile(path=path, mode=mode, size=len(body), sha256=hashlib.sha256(body).hexdigest())
        for path, (mode, body) in bodies.items()
    ]
    archive = bundle.pack((file, bodies[file.path][1]) for file in listed)
    sha = bundle.tree_digest(SourceTree(files=tuple(listed)))
    fetched: list[int] = []

    def fetch() -> bytes:
        fetched.append(1)
        return archive

    root = ensure_source(tmp_path, sha, fetch)
    assert holds_tree(root, sha)
    assert ensure_source(tmp_path, sha, fetch) == root
    assert fetched == [1]

    def changed(change: Callable[[], object], undo: Callable[[], object]) -> bool:
        change()
        found = holds_tree(root, sha)
        undo()
        assert holds_tree(root, sha)
        return not found

    code, run, link, extra = root / "a" / "b.py", root / "run", root / "link", root / "extra.py"
    assert changed(lambda: code.write_bytes(b"x = 2\n"), lambda: code.write_bytes(b"x = 1\n"))
    assert changed(lambda: run.chmod(0o644), lambda: run.chmod(0o755))
    assert changed(extra.touch, extra.unlink)
    assert changed(lambda: (link.unlink(), link.symlink_to("run")), lambda: (link.unlink(), link.symlink_to("a/b.py")))
    code.write_bytes(b"x = 3\n")
    assert ensure_source(tmp_path, sha, fetch) != root
    assert not holds_tree(tmp_path / "nothing", sha)


# --- the virtual environment ------------------------------------------------------------------------------------------

IN_VENV = """
import sys
import flowlib
from kitaru import flow

@flow
def where() -> dict:
    import kitaru.errors
    return {"answer": flowlib.answer, "prefix": sys.prefix, "kitaru": kitaru.errors.__file__}
"""


def make_wheel(folder: Path) -> Path:
    path = folder / "flowlib-1.0-py3-none-any.whl"
    files = {
        "flowlib.py": "answer = 42\n",
        "flowlib-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: flowlib\nVersion: 1.0\n",
        "flowlib-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for place, body in files.items():
            archive.writestr(place, body)
        archive.writestr("flowlib-1.0.dist-info/RECORD", "".join(f"{place},,\n" for place in files))
    return path


def test_a_flow_runs_in_its_own_environment(world: World) -> None:
    """With ``environment: venv`` the worker is another Python, which has the requirements and this Kitaru."""
    runner = world.runner(environment="venv")
    requirement = f"flowlib @ {make_wheel(world.folder).as_uri()}"
    order = world.open({"f.py": IN_VENV}, "f.py:where", {}, requirements=(requirement,))
    runner.check(world.snapshot(order))
    worker = runner.launch(replace(order, snapshot=world.snapshot(order)))
    wait_for(lambda: runner.alive(worker) is False)
    assert world.execution(order).ended, runner.startup_failure(worker)
    found = world.result(order)
    assert found["answer"] == 42
    assert Path(found["prefix"]).is_relative_to(world.folder / "home" / "cache" / "environments")
    assert Path(found["kitaru"]).resolve().is_relative_to(CHECKOUT / "kitaru")
