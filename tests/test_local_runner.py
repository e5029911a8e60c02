"""The local stack's runner: real processes, started, found again and outlived."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kitaru.errors import KitaruStackError
from kitaru.model.address import canonical_json
from kitaru.ports import Step
from kitaru.stacks.local import LocalRunner, secret_variable
from kitaru.stacks.port import Handle, RunOrder
from kitaru.stacks.process import process_handle, this_host

EXEC_ID = "ex-0123456789abcdefgh"

SCRIPT = """#!/bin/sh
# Stands where a Python would: keeps what it was given, then waits to be ended.
cat > "{folder}/order"
env > "{folder}/environ"
echo "$@" > "{folder}/arguments"
echo "said by the worker"
touch "{folder}/ready"
exec sleep 60
"""


class Steps:
    def __init__(self) -> None:
        self.messages: list[str] = []

    def step(self, step: Step) -> None:
        assert step.phase == "environment"
        self.messages.append(step.message)


@pytest.fixture
def started() -> Iterator[list[Handle]]:
    """Workers that a test starts; ended afterwards, by pid and only where it is still that process."""
    workers: list[Handle] = []
    yield workers
    for worker in workers:
        if process_handle(worker.data["pid"]).id == worker.id:
            os.kill(worker.data["pid"], signal.SIGKILL)


@pytest.fixture
def stand_in(tmp_path: Path) -> str:
    """An interpreter that shows what the runner gave it."""
    path = tmp_path / "stand-in"
    path.write_text(SCRIPT.format(folder=tmp_path))
    path.chmod(0o755)
    return str(path)


def make_runner(tmp_path: Path, **given: Any) -> LocalRunner:
    settings: dict[str, Any] = {
        "environment": "current",
        "cache": tmp_path / "cache",
        "environ": dict(os.environ),
    }
    return LocalRunner(**{**settings, **given})


def make_snapshot(**image: Any) -> bytes:
    return canonical_json({"format": 1, "flow": "f", "target": "f.py:f", "source": "0" * 64, "image": image})


ORDER = RunOrder(store="file://store", project="research", exec_id=EXEC_ID, snapshot=b"{}")


def wait_for(condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


# --- check ------------------------------------------------------------------------------------------------------------


def test_all_unmet_requirements_are_in_one_error(tmp_path: Path) -> None:
    """The error lists each requirement with what is installed, and the hint installs them."""
    runner = make_runner(tmp_path)
    with pytest.raises(KitaruStackError) as caught:
        runner.check(make_snapshot(requirements=["packaging>=999", "pytest", "no-such-package"]))

    first, *unmet = caught.value.message.splitlines()
    assert sys.executable in first
    assert [line.split(": ")[0] for line in unmet] == ["  packaging>=999", "  no-such-package"]
    assert unmet[1].endswith("not installed")
    assert caught.value.hint.startswith(f"{sys.executable} -m pip install 'packaging>=999' no-such-package ")
    assert "environment: venv" in caught.value.hint


def test_an_image_without_requirements_is_fine_and_cheap(tmp_path: Path) -> None:
    """No requirements: nothing to say, and neither packaging nor importlib.metadata is imported."""
    steps = Steps()
    make_runner(tmp_path, report=steps).check(make_snapshot())
    assert steps.messages == []

    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from kitaru.stacks.local import LocalRunner\n"
        "runner = LocalRunner(environment='current', cache=Path(), environ={})\n"
        f"runner.check({make_snapshot()!r})\n"
        "print(sorted({'packaging', 'importlib.metadata', 'pydantic', 'zipfile'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_container_settings_are_refused(tmp_path: Path) -> None:
    """What only a container can apply is refused with the cure, unless the caller chose this stack."""
    snapshot = make_snapshot(base_image="python:3.11-slim", apt_packages=["git"])
    runner = make_runner(tmp_path)
    with pytest.raises(KitaruStackError, match="without base_image, apt_packages") as caught:
        runner.check(snapshot)
    assert "--stack local" in caught.value.hint
    runner.check(snapshot, chosen=True)


@pytest.mark.parametrize("chosen", [False, True])
def test_a_secret_that_is_not_set_is_refused(tmp_path: Path, chosen: bool) -> None:
    """The error names the variable to set, and how."""
    runner = make_runner(tmp_path, environ={})
    with pytest.raises(KitaruStackError, match="KITARU_SECRET_OPENAI_CREDS is not set") as caught:
        runner.check(make_snapshot(secret_environment_from=["openai-creds"]), chosen=chosen)
    assert caught.value.hint.startswith("export KITARU_SECRET_OPENAI_CREDS=")


@pytest.mark.parametrize("value", ["sk-very-secret", '["sk-very-secret"]', '{"KEY": 1}'])
def test_a_secret_of_another_shape_is_refused_unseen(tmp_path: Path, value: str) -> None:
    """A secret must be a JSON object of strings; the error never shows what it is instead."""
    runner = make_runner(tmp_path, environ={secret_variable("creds"): value})
    with pytest.raises(KitaruStackError, match="KITARU_SECRET_CREDS") as caught:
        runner.check(make_snapshot(secret_environment_from=["creds"]))
    assert "sk-very-secret" not in caught.value.message + caught.value.hint


# --- launch -----------------------------------------------------------------------------------------------------------


def test_the_order_arrives_on_standard_input(tmp_path: Path, stand_in: str, started: list[Handle]) -> None:
    """Arguments are seen by every user of the machine; they say nothing but which module runs."""
    started.append(make_runner(tmp_path, python=stand_in).launch(ORDER))
    wait_for((tmp_path / "ready").exists)

    assert RunOrder.parse((tmp_path / "order").read_bytes()) == ORDER
    assert (tmp_path / "arguments").read_text() == "-P -m kitaru.wiring.worker\n"


def test_the_worker_gets_environment_and_secrets(tmp_path: Path, stand_in: str, started: list[Handle]) -> None:
    """The image's variables go over those of the shell, and a secret's over both."""
    environ = {
        "PATH": os.environ["PATH"],
        "MODE": "shell",
        "TOKEN": "shell",
        "KEPT": "yes",
        "KITARU_SECRET_MY_CREDS": '{"TOKEN": "secret"}',
    }
    image = {"environment": {"MODE": "image", "TOKEN": "image"}, "secret_environment_from": ["my-creds", "other"]}
    runner = make_runner(tmp_path, python=stand_in, environ=environ)
    started.append(runner.launch(replace(ORDER, snapshot=make_snapshot(**image))))
    wait_for((tmp_path / "ready").exists)

    found = dict(line.split("=", 1) for line in (tmp_path / "environ").read_text().splitlines())
    assert (found["MODE"], found["TOKEN"], found["KEPT"]) == ("image", "secret", "yes")


def test_a_checkout_shows_kitaru_and_nothing_beside_it(tmp_path: Path, stand_in: str, started: list[Handle]) -> None:
    """What is put on the worker's path holds the package of the running Kitaru alone."""
    started.append(make_runner(tmp_path, python=stand_in, environ={"PATH": os.environ["PATH"]}).launch(ORDER))
    wait_for((tmp_path / "ready").exists)
    found = dict(line.split("=", 1) for line in (tmp_path / "environ").read_text().splitlines())
    [visible] = list(Path(found["PYTHONPATH"]).iterdir())
    assert (visible.name, (visible / "errors.py").exists()) == ("kitaru", True)


def test_a_worker_outlives_its_starter_and_its_terminal(tmp_path: Path, stand_in: str, started: list[Handle]) -> None:
    """The starter exits at once, its whole process group is hung up on, and the worker runs on in its own session."""
    code = (
        "import os, sys, json\n"
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from kitaru.stacks.local import LocalRunner\n"
        "from kitaru.stacks.port import RunOrder\n"
        "folder = Path(sys.argv[1])\n"
        "runner = LocalRunner(environment='current', cache=folder / 'cache',\n"
        "                     python=sys.argv[2], environ=os.environ)\n"
        "order = replace(RunOrder.parse(sys.stdin.buffer.read()), snapshot=b'{}')\n"
        "print(json.dumps(runner.launch(order).to_json()), flush=True)\n"
        "os.close(1)\n"
        "os.kill(0, 1)\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), stand_in],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    # communicate() returns when nobody holds the pipe any more: a worker that kept it would hold up a CI job.
    said, _ = starter.communicate(ORDER.token(), timeout=20)
    worker = Handle.from_json(json.loads(said))
    started.append(worker)

    assert starter.returncode == -signal.SIGHUP
    wait_for((tmp_path / "ready").exists)
    assert make_runner(tmp_path).alive(worker) is True
    assert os.getsid(worker.data["pid"]) == worker.data["pid"]


def test_launching_is_quick(tmp_path: Path, stand_in: str, started: list[Handle]) -> None:
    """The caller has its answer long before the worker has begun: the median of several launches is below 30 ms."""
    runner = make_runner(tmp_path, python=stand_in)
    durations = []
    for _ in range(7):
        begun = time.perf_counter()
        started.append(runner.launch(ORDER))
        durations.append(time.perf_counter() - begun)
    assert sorted(durations)[3] < 0.03


def test_a_python_that_can_not_start_is_an_error(tmp_path: Path) -> None:
    """A missing interpreter is named at once, before anything could wait for it."""
    with pytest.raises(KitaruStackError, match="no-python"):
        make_runner(tmp_path, python=str(tmp_path / "no-python")).launch(ORDER)


def test_why_a_worker_died_early_can_be_read(tmp_path: Path) -> None:
    """A worker that ends before its journal says anything leaves its last words; of two launches, the newer one's."""
    runner = make_runner(tmp_path, environ={**os.environ, "PYTHONHOME": "/nowhere"})
    assert runner.launched(EXEC_ID) is None
    first = runner.launch(ORDER)
    wait_for(lambda: not runner.alive(first))
    wait_for(lambda: "encodings" in runner.startup_failure(first))

    path = tmp_path / "python"
    path.write_text("#!/bin/sh\necho 'no room left' >&2\nexit 3\n")
    path.chmod(0o755)
    runner = make_runner(tmp_path, python=str(path))
    second = runner.launch(ORDER)
    wait_for(lambda: not runner.alive(second))
    assert runner.launched(EXEC_ID) == second
    assert runner.startup_failure(second) == "no room left"


def test_the_log_is_private(tmp_path: Path, stand_in: str, started: list[Handle]) -> None:
    """What a worker prints is for its owner's eyes only."""
    started.append(make_runner(tmp_path, python=stand_in).launch(ORDER))
    assert (tmp_path / "cache" / "workers" / f"{EXEC_ID}.log").stat().st_mode & 0o777 == 0o600


def test_old_logs_are_removed(tmp_path: Path, stand_in: str, started: list[Handle]) -> None:
    """A launch removes logs that nobody wrote to for weeks, at most once a day, and no other file."""
    runner = make_runner(tmp_path, python=stand_in)
    started.append(runner.launch(ORDER))
    logs = tmp_path / "cache" / "workers"
    long_ago = time.time() - 15 * 24 * 3600
    for name in ("ex-old.log", "notes.txt"):
        (logs / name).touch()
        os.utime(logs / name, (long_ago, long_ago))
    started.append(runner.launch(ORDER))
    assert (logs / "ex-old.log").exists()

    os.utime(logs / ".pruned", (long_ago, long_ago))
    started.append(runner.launch(ORDER))
    assert not (logs / "ex-old.log").exists()
    assert (logs / "notes.txt").exists()
    assert (logs / f"{EXEC_ID}.log").exists()


def test_a_folder_that_can_not_be_written_is_an_error(tmp_path: Path) -> None:
    """What is in the way of a launch is said as an error of the stack, with the folder's name."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "workers").write_text("a file")
    with pytest.raises(KitaruStackError, match="workers") as caught:
        make_runner(tmp_path).launch(ORDER)
    assert "can be written" in caught.value.hint


# --- alive ------------------------------------------------------------------------------------------------------------


def test_an_ended_worker_leaves_no_zombie(tmp_path: Path, stand_in: str) -> None:
    """In a parent that lives on, a worker that ends is taken away, and is not alive."""
    runner = make_runner(tmp_path, python=stand_in)
    worker = runner.launch(ORDER)
    wait_for((tmp_path / "ready").exists)
    assert runner.alive(worker) is True

    os.kill(worker.data["pid"], signal.SIGKILL)
    wait_for(lambda: runner.alive(worker) is False)
    wait_for(lambda: state_of(worker.data["pid"]) == "gone")


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_a_zombie_is_not_alive() -> None:
    """A process that ended and was not yet collected does not count as running."""
    child = subprocess.Popen(["true"])
    info = process_handle(child.pid)
    wait_for(lambda: state_of(child.pid) == "Z")
    assert make_runner(Path()).alive(info) is False
    child.wait()


def test_parent_and_worker_agree_on_who_the_worker_is(tmp_path: Path) -> None:
    """A process describes itself as its parent does: both can write it down."""
    code = (
        "import os, json\n"
        "from kitaru.stacks.process import process_handle\n"
        "print(json.dumps(process_handle(os.getpid()).to_json()), flush=True)\n"
        "input()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    said = Handle.from_json(json.loads(child.stdout.readline()))
    assert said == process_handle(child.pid)
    child.communicate(b"\n")


def test_a_reused_pid_is_told_apart() -> None:
    """The same pid with another start is another process."""
    me = process_handle(os.getpid())
    runner = make_runner(Path())
    assert runner.alive(me) is True
    assert runner.alive(replace(me, data={**me.data, "started": "1"})) is False


def test_other_machines_and_earlier_boots() -> None:
    """Nothing is said of another machine or container; this machine's processes ended with its last shutdown."""
    me = process_handle(os.getpid())
    name, machine, boot, namespace = this_host().split(" ")

    def alive(host: str) -> bool | None:
        return make_runner(Path()).alive(replace(me, data={**me.data, "host": host}))

    assert alive(f"elsewhere {machine} {boot}x {namespace}") is None
    assert alive(f"{name} {machine} {boot} pid:[1]") is None
    if machine != "-":
        assert alive(f"{name} {machine} 00000000-0000 {namespace}") is False
    assert alive(f"{name} - 00000000-0000 {namespace}") is None
    assert alive("vm") is None
    assert make_runner(Path()).alive(Handle("job-1", "job 1 of a cluster")) is None
