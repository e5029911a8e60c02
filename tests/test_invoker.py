"""From a flow's name and a route to an execution that goes on by itself, from the snapshot and from nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kitaru import FlowHandle, KitaruClient
from kitaru.errors import (
    KitaruConflictError,
    KitaruExecutionError,
    KitaruInputError,
    KitaruIntegrityError,
    KitaruSelectorError,
    KitaruStackError,
    KitaruStateError,
    KitaruTimeoutError,
    KitaruUserCodeError,
)
from kitaru.model import address
from kitaru.model.execution import Execution
from tests.repository import CHECKOUT, FLOWS, MANIFEST, Done, Repository, Watched, finish, kitaru, start, until

GATED = """
import os, time
from pathlib import Path
from kitaru import checkpoint, flow

@checkpoint
def first(folder: str) -> int:
    with open(f"{folder}/first", "a") as file:
        file.write("ran\\n")
    return os.getpid()

@checkpoint
def second(folder: str) -> str:
    Path(folder, "reached").touch()
    print("waiting at the gate", flush=True)
    while not Path(folder, "go").exists():
        time.sleep(0.01)
    return "through"

@flow
def gated(folder: str) -> list:
    return [first(folder), second(folder)]

@flow
def brittle(folder: str) -> int:
    pid = first(folder)
    if not Path(folder, "go").exists():
        raise RuntimeError("closed")
    return pid

@flow
def broken(word: str = "boom") -> str:
    raise RuntimeError(f"the {word} went off")
"""
GATED_MANIFEST = (
    MANIFEST
    + "  gated:\n    target: flows/gated.py:gated\n    routes: {default: head}\n"
    + "  brittle:\n    target: flows/gated.py:brittle\n    routes: {default: head}\n"
    + "  broken:\n    target: flows/gated.py:broken\n    routes: {default: head}\n"
)


@pytest.fixture
def deployed(own_world: Path) -> Repository:
    """agent, gated and broken, applied once."""
    repository = Repository.make(
        own_world / "repository", {"flows/work.py": FLOWS, "flows/gated.py": GATED}, GATED_MANIFEST
    )
    repository.apply()
    return repository


@pytest.fixture
def gate(own_world: Path) -> Path:
    folder = own_world / "gate"
    folder.mkdir()
    return folder


def executions(repository: Repository) -> list[Execution]:
    return repository.client().executions.list()


def refused(repository: Repository, kind: type[Exception], flow: str, inputs: dict[str, Any], **given: Any) -> str:
    """Invoking is refused with this kind of error, and no execution came of it."""
    before = len(executions(repository))
    with pytest.raises(kind) as found:
        repository.client().deployments.invoke(flow, inputs, **given)
    assert len(executions(repository)) == before
    error: Any = found.value
    return f"{error.message}\n{error.hint}"


# --- the way there ----------------------------------------------------------------------------------------------------


def test_an_invoked_flow_gives_its_result(deployed: Repository) -> None:
    """By name alone: the default version runs in a process of its own and its result comes back."""
    handle = deployed.client().deployments.invoke("agent", {"topic": "routing"})
    assert handle.wait(30) == "HELLO ROUTING"
    execution = deployed.client().executions.get(handle.exec_id)
    assert (execution.status, execution.flow_name, execution.version, execution.tag) == (
        "completed",
        "agent",
        1,
        "default",
    )
    assert [call.name for call in execution.checkpoints] == ["collect", "write"]
    assert execution.runner is not None
    assert execution.runner.data["pid"] != os.getpid()


def test_it_runs_what_was_deployed_and_not_what_lies_there(deployed: Repository) -> None:
    """After the file was changed, and after it was removed, an invoke still runs the snapshot."""
    deployed.change("flows/work.py", "hello", "good day")
    assert deployed.client().deployments.invoke("agent", {"topic": "x"}).wait(30) == "HELLO X"
    for path in (deployed.folder / "flows").iterdir():
        path.unlink()
    assert deployed.client().deployments.invoke("agent", {"topic": "y"}).wait(30) == "HELLO Y"


def test_an_execution_stays_with_its_version(deployed: Repository, gate: Path) -> None:
    """A route that moves while an execution runs moves the next one only."""
    handle = deployed.client().deployments.invoke("gated", {"folder": str(gate)})
    until((gate / "reached").exists)
    deployed.change("flows/gated.py", '"through"', '"another way"')
    deployed.commit()
    deployed.apply()
    (gate / "go").touch()
    assert handle.wait(30)[1] == "through"
    assert deployed.client().executions.get(handle.exec_id).version == 1
    assert deployed.client().deployments.invoke("gated", {"folder": str(gate)}).wait(30)[1] == "another way"
    assert deployed.client().deployments.invoke("gated", {"folder": str(gate)}, version=1).wait(30)[1] == "through"


def test_a_consumer_needs_store_and_project_only(
    deployed: Repository, own_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From an empty folder, with an empty home, two variables are all it takes."""
    empty = own_world / "empty"
    empty.mkdir()
    monkeypatch.setenv("KITARU_HOME", str(own_world / "another home"))
    monkeypatch.setenv("KITARU_STORE", f"file://{deployed.store_folder}")
    monkeypatch.setenv("KITARU_PROJECT", "research")
    monkeypatch.chdir(empty)
    assert KitaruClient().deployments.invoke("agent", {"topic": "x"}).wait(30) == "HELLO X"
    done = kitaru("invoke", "agent", "--input", '{"topic": "y"}', "--wait", cwd=empty)
    assert done.must().out == "HELLO Y\n"
    assert list(empty.iterdir()) == []


def test_representative_inputs_are_overridden_one_by_one(own_world: Path) -> None:
    """What the manifest gives holds until the caller says otherwise."""
    inputs = "  greeter:\n    target: flows/work.py:greeter\n    inputs: {name: Ann, times: 2}\n"
    repository = Repository.make(own_world / "r", None, MANIFEST + inputs)
    repository.apply()
    invoke = repository.client().deployments.invoke
    assert invoke("greeter").wait(30) == "hello Ann hello Ann"
    assert invoke("greeter", {"times": 1}).wait(30) == "hello Ann"


@pytest.mark.parametrize("flows", [1, 50])
def test_an_invoke_costs_three_reads_and_one_write(own_world: Path, flows: int) -> None:
    """By tag, at any number of flows: hint, slot behind it, snapshot; then the journal's first entry. Nothing else."""
    names = [f"flow_{number}" for number in range(flows)]
    code = "from kitaru import flow\n" + "".join(f"@flow\ndef {name}() -> int:\n    return 1\n" for name in names)
    manifest = "kitaru: 1\nproject: research\nstore: file://.kitaru/store\nflows:\n" + "".join(
        f"  {name}: {{target: 'many.py:{name}', routes: {{default: 1}}}}\n" for name in names
    )
    repository = Repository.make(own_world / "r", {"many.py": code}, manifest)
    repository.apply()
    seen: list[Watched] = []
    client = repository.client(wrap=lambda store: seen.append(Watched(store)) or seen[0])
    handle = client.deployments.invoke("flow_0", tag="default")
    calls = list(seen[0].calls)
    assert [verb for verb, _ in calls] == ["read", "read", "read", "create"]
    assert handle.wait(30) == 1


# --- refused ----------------------------------------------------------------------------------------------------------


def test_selectors_that_lead_nowhere(deployed: Repository) -> None:
    """No such flow, tag or version: what there is, the next command, and no execution."""
    assert "did you mean 'agent'?" in refused(deployed, KitaruSelectorError, "agnt", {})
    assert "no deployments yet" in refused(deployed, KitaruSelectorError, "zzz", {})
    assert "its tags: default" in refused(deployed, KitaruSelectorError, "agent", {}, tag="stable")
    assert "agent has no version 4; it has v1" in refused(deployed, KitaruSelectorError, "agent", {}, version=4)
    assert "not both" in refused(deployed, ValueError, "agent", {}, version=1, tag="default")


def test_an_ambiguous_label_is_refused(deployed: Repository) -> None:
    """A shared tag on two versions leads nowhere until it is on one."""
    deployed.change("flows/work.py", "hello", "good day")
    deployed.manifest(GATED_MANIFEST.replace("default: head\n  gated", "default: 1\n      benchmark: [1, 2]\n  gated"))
    deployed.commit()
    deployed.apply()
    assert "ambiguous: it is a shared label on v1, v2" in refused(
        deployed, KitaruSelectorError, "agent", {"topic": "x"}, tag="benchmark"
    )


def test_inputs_are_checked_before_anything_exists(deployed: Repository) -> None:
    """Every input that doesn't fit is told at once."""
    said = refused(deployed, KitaruInputError, "agent", {"topic": 3, "tpic": "x"})
    assert "topic: expected text, got 3" in said
    assert "tpic is not an input; did you mean topic?" in said
    assert "kitaru flow deployments show agent --version 1" in said
    assert "topic" in refused(deployed, KitaruInputError, "agent", {})
    assert "NaN" in refused(deployed, KitaruInputError, "agent", {"topic": float("nan")})
    assert refused(deployed, KitaruInputError, "agent", {"topic": object()})


def test_a_damaged_snapshot_never_runs(deployed: Repository) -> None:
    """Bytes that are not what their digest says: refused by name, and no execution."""
    details = deployed.client().deployments.get("agent")
    path = deployed.store_folder / address.blob("research", details.snapshot)
    body = path.read_bytes()
    path.unlink()
    path.write_bytes(body.replace(b"flows/work.py:agent", b"flows/evil.py:agent"))
    assert "is not what its digest says" in refused(deployed, KitaruIntegrityError, "agent", {"topic": "x"})
    path.unlink()
    assert "is missing from the store" in refused(deployed, KitaruIntegrityError, "agent", {"topic": "x"})


def test_a_damaged_archive_ends_in_a_failed_execution(deployed: Repository, own_world: Path) -> None:
    """Source that is not what its digest says is not run by a machine that has to fetch it; the execution says why."""
    import shutil

    (archive,) = deployed.store_folder.rglob("*.tar.zst")
    body = archive.read_bytes()
    archive.unlink()
    archive.write_bytes(body[:-20] + b"x" * 20)
    shutil.rmtree(own_world / "home" / "kitaru" / "cache" / "sources")
    handle = deployed.client().deployments.invoke("agent", {"topic": "x"})
    with pytest.raises(KitaruExecutionError) as failed:
        handle.wait(30)
    assert failed.value.failure_origin != "user_code"
    assert deployed.client().executions.get(handle.exec_id).status == "failed"


def test_a_store_of_this_process_alone_is_refused(deployed: Repository) -> None:
    """memory:// can't be seen by a worker: said before anything is opened."""
    client = deployed.client(store="memory://here")
    with pytest.raises(KitaruStackError, match="lives inside this process"):
        client.deployments.invoke("agent", {"topic": "x"})


def test_requirements_that_this_python_does_not_meet(own_world: Path) -> None:
    """The error names them and the way out, and no execution exists."""
    image = "    image: {requirements: ['no-such-library-of-ours>=9']}\n    routes:"
    repository = Repository.make(own_world / "r", None, MANIFEST.replace("    routes:", image))
    repository.apply()
    said = refused(repository, KitaruStackError, "agent", {"topic": "x"})
    assert "no-such-library-of-ours" in said
    assert "venv" in said
    assert "no stack nope" in refused(repository, KitaruStackError, "agent", {"topic": "x"}, stack="nope")


# --- idempotency ------------------------------------------------------------------------------------------------------


def test_a_key_leads_to_one_execution(deployed: Repository) -> None:
    """The same key and inputs give the execution that there is, even after it ended; another key gives another."""
    start = deployed.client().deployments.invoke
    first = start("agent", {"topic": "x"}, idempotency_key="order 17 / ü")
    assert not first.reused
    first.wait(30)
    again = start("agent", {"topic": "x"}, idempotency_key="order 17 / ü")
    assert (again.exec_id, again.reused) == (first.exec_id, True)
    assert start("agent", {"topic": "x"}, idempotency_key="order 18").exec_id != first.exec_id
    assert len(executions(deployed)) == 2


def test_a_key_with_other_inputs_is_refused(deployed: Repository) -> None:
    """One key, two different requests: the second is told which execution has the key."""
    first = deployed.client().deployments.invoke("agent", {"topic": "x"}, idempotency_key="k")
    said = refused(deployed, KitaruConflictError, "agent", {"topic": "y"}, idempotency_key="k")
    assert first.exec_id in said


def test_one_key_from_eight_threads_is_one_execution(deployed: Repository) -> None:
    """Callers that race with one key all get the same execution, and it runs once."""
    from concurrent.futures import ThreadPoolExecutor

    def call(_: int) -> str:
        return deployed.client().deployments.invoke("agent", {"topic": "x"}, idempotency_key="k").exec_id

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(call, range(8)))
    assert len(found) == 1
    (execution,) = executions(deployed)
    assert FlowHandle(deployed.client().session, execution.exec_id).wait(30) == "HELLO X"


# --- the command ------------------------------------------------------------------------------------------------------


def invoke(repository: Repository, *arguments: str) -> Done:
    return kitaru("invoke", *arguments, cwd=repository.folder)


def test_wait_prints_the_result_alone(deployed: Repository) -> None:
    """--wait: the result on standard output, the id on standard error; with -o json one object."""
    done = invoke(deployed, "agent", "--input", '{"topic": "x"}', "--wait").must()
    assert done.out == "HELLO X\n"
    assert "by default" in done.err
    data = invoke(deployed, "agent", "--input", '{"topic": "x"}', "--wait", "-o", "json").must().json
    assert (data["command"], data["item"]["result"], data["item"]["status"]) == ("invoke", "HELLO X", "completed")


def test_without_wait_the_id_is_printed_alone(deployed: Repository) -> None:
    """The command is over, the execution is not; its id is all of standard output."""
    done = invoke(deployed, "agent", "--input", '{"topic": "x"}').must()
    exec_id = done.out.strip()
    assert address.EXEC_ID.fullmatch(exec_id)
    assert FlowHandle(deployed.client().session, exec_id).wait(30) == "HELLO X"


def test_a_failed_flow_exits_1(deployed: Repository) -> None:
    """--wait on a flow that raises: exit 1, its own words, the next command, and no traceback of Kitaru's."""
    done = invoke(deployed, "broken", "--wait").must(1)
    assert "RuntimeError: the boom went off" in done.err
    assert "hint: kitaru executions get" in done.err
    assert "kitaru/run/" not in done.err
    data = invoke(deployed, "broken", "--wait", "-o", "json").must(1).json["error"]
    assert (data["code"], data["status"], data["failure_origin"]) == ("user-code", "failed", "user_code")
    assert address.EXEC_ID.fullmatch(data["exec_id"])


def test_follow_shows_what_it_prints(deployed: Repository, gate: Path) -> None:
    """--follow shows the flow's own output while it runs, then the result."""
    (gate / "go").touch()
    inputs = json.dumps({"folder": str(gate)})
    done = invoke(deployed, "gated", "--input", inputs, "--follow").must()
    assert "waiting at the gate" in done.err
    assert '"through"' in done.out


def test_a_timeout_leaves_the_execution_running(deployed: Repository, gate: Path) -> None:
    """--timeout: exit 1 and where to look; the execution goes on to its end."""
    inputs = json.dumps({"folder": str(gate)})
    done = invoke(deployed, "gated", "--input", inputs, "--wait", "--timeout", "0.2")
    done.refused("it goes on", code=1)
    (execution,) = executions(deployed)
    handle = FlowHandle(deployed.client().session, execution.exec_id)
    with pytest.raises(KitaruTimeoutError):
        handle.wait(0.05)
    with pytest.raises(KitaruStateError, match="has not ended"):
        handle.get()
    (gate / "go").touch()
    assert handle.wait(30)[1] == "through"
    assert handle.get()[1] == "through"


def test_a_flow_goes_on_after_its_caller_is_gone(deployed: Repository, gate: Path) -> None:
    """The command that invoked it has exited, by a signal of a closed terminal even; the execution completes."""
    command = start("invoke", "gated", "--input", json.dumps({"folder": str(gate)}), "--wait", cwd=deployed.folder)
    until((gate / "reached").exists)
    os.killpg(command.pid, signal.SIGHUP)
    finish(command)
    (execution,) = executions(deployed)
    assert execution.status == "running"
    (gate / "go").touch()
    assert FlowHandle(deployed.client().session, execution.exec_id).wait(30)[1] == "through"


# --- killed -----------------------------------------------------------------------------------------------------------


def test_a_killed_worker_is_lost_and_can_be_resumed(deployed: Repository, gate: Path) -> None:
    """kill -9: status lost, the error says how to go on; resumed, the finished checkpoint is not run again."""
    handle = deployed.client().deployments.invoke("gated", {"folder": str(gate)})
    until((gate / "reached").exists)
    done = kitaru("executions", "resume", handle.exec_id, cwd=deployed.folder)
    done.refused("is running in process", "only a failed or lost execution", code=1)
    worker = deployed.client().executions.get(handle.exec_id).runner
    assert worker is not None
    os.kill(worker.data["pid"], signal.SIGKILL)
    until(lambda: deployed.client().executions.get(handle.exec_id).status == "lost")
    with pytest.raises(KitaruStateError, match="lost its runner"):
        handle.wait(30)
    (gate / "go").touch()
    done = kitaru("executions", "resume", handle.exec_id, "--wait", "-o", "json", cwd=deployed.folder).must()
    assert done.json["item"]["status"] == "completed"
    assert (gate / "first").read_text() == "ran\n"
    # What the first checkpoint gave was computed by the worker that was killed.
    assert done.json["item"]["result"] == [worker.data["pid"], "through"]


def test_a_failed_execution_can_be_resumed(deployed: Repository, gate: Path) -> None:
    """resume --wait waits for the new end and never tells the old one; the finished checkpoint is not run again."""
    handle = deployed.client().deployments.invoke("brittle", {"folder": str(gate)})
    with pytest.raises(KitaruUserCodeError, match="closed"):
        handle.wait(30)
    kitaru("executions", "resume", handle.exec_id, "--wait", cwd=deployed.folder).must(1)
    (gate / "go").touch()
    done = kitaru("executions", "resume", handle.exec_id, "--wait", "-o", "json", cwd=deployed.folder).must()
    assert (done.json["item"]["status"], (gate / "first").read_text()) == ("completed", "ran\n")
    done = kitaru("executions", "resume", handle.exec_id, cwd=deployed.folder)
    done.refused("only a failed or lost execution", code=1)


def test_a_failed_execution_tells_what_where_and_why(deployed: Repository) -> None:
    """A flow that raises is a KitaruUserCodeError with id, status and origin; it is on record as failed."""
    handle = deployed.client().deployments.invoke("broken", {"word": "bang"})
    with pytest.raises(KitaruUserCodeError) as failed:
        handle.wait(30)
    error = failed.value
    assert (error.exec_id, error.status, error.failure_origin) == (handle.exec_id, "failed", "user_code")
    assert "RuntimeError: the bang went off" in error.message
    assert handle.status == "failed"
    done = kitaru("executions", "get", handle.exec_id, cwd=deployed.folder).must()
    assert "the bang went off" in done.out
    assert f"kitaru executions retry {handle.exec_id}" in done.out


def test_a_script_may_end_before_its_run(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain script with .run() and no manifest: the interpreter waits, and the execution is on record."""
    script = own_world / "script.py"
    script.write_text(FLOWS + '\nif __name__ == "__main__":\n    print(agent.run(topic="x").exec_id)\n')
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        cwd=own_world,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        timeout=60,
        check=True,
    )
    monkeypatch.chdir(own_world)
    execution = KitaruClient().executions.get(done.stdout.strip())
    assert (execution.status, execution.version, execution.snapshot) == ("completed", None, None)
