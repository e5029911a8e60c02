"""What a second invoke with the same idempotency key does: the README's table, row by row."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from kitaru import KitaruClient
from tests.durable_flows import deployed
from tests.repository import Done, Repository, kitaru, until

KEY = ("--idempotency-key", "job 7")


@pytest.fixture
def house(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    repository = deployed(own_world / "repository")
    monkeypatch.chdir(repository.folder)
    return repository


def invoke(flow: str, folder: Path, *more: str, **inputs: object) -> Done:
    return kitaru("invoke", flow, "--input", json.dumps({"folder": str(folder), **inputs}), *KEY, *more)


def reach(client: KitaruClient, exec_id: str, status: str) -> None:
    until(lambda: client.executions.get(exec_id).status == status)


def fail(client: KitaruClient, folder: Path) -> str:
    exec_id = invoke("review", folder / "missing").must().out.strip()
    reach(client, exec_id, "failed")
    return exec_id


def lose(client: KitaruClient, folder: Path) -> str:
    exec_id = invoke("steps", folder).must().out.strip()
    until(lambda: (folder / "reached").exists())
    runner = client.executions.get(exec_id).runner
    assert runner is not None
    os.kill(runner.data["pid"], signal.SIGKILL)
    reach(client, exec_id, "lost")
    return exec_id


def cancel(client: KitaruClient, folder: Path) -> str:
    exec_id = invoke("steps", folder).must().out.strip()
    until(lambda: (folder / "reached").exists())
    client.executions.cancel(exec_id)
    return exec_id


def complete(client: KitaruClient, folder: Path) -> str:
    (folder / "go").touch()
    exec_id = invoke("steps", folder).must().out.strip()
    reach(client, exec_id, "completed")
    return exec_id


def ask(client: KitaruClient, folder: Path) -> str:
    exec_id = invoke("review", folder).must().out.strip()
    until(lambda: client.executions.get(exec_id).suspended_at)
    return exec_id


Bring = Callable[[KitaruClient, Path], str]


@pytest.mark.parametrize(
    ("flow", "bring", "status", "says", "code", "shows"),
    [
        ("steps", complete, "completed", "kitaru executions get {}", 0, "3"),
        ("review", fail, "failed", "kitaru executions retry {}", 1, "FileNotFoundError"),
        ("steps", lose, "lost", "kitaru executions resume {}", 1, "lost its runner"),
        ("steps", cancel, "cancelled", "start afresh with another key", 1, "was cancelled by"),
        ("review", ask, "waiting", "kitaru executions input {}", 1, "Publish it?"),
    ],
    ids=["completed", "failed", "lost", "cancelled", "waiting"],
)
def test_the_first_one_answers(
    house: Repository, tmp_path: Path, flow: str, bring: Bring, status: str, says: str, code: int, shows: str
) -> None:
    """The same key gives the first execution, its status and what to do; nothing runs, and other inputs are refused."""
    client = house.client()
    first = bring(client, tmp_path)
    folder = Path(client.executions.value(client.executions.get(first).inputs, "inputs")["folder"])
    again = invoke(flow, folder).must()
    assert again.out.strip() == first
    assert f"it is {status}" in again.err
    assert says.format(first) in again.err
    data = invoke(flow, folder, "-o", "json").must().json["item"]
    assert (data["exec_id"], data["reused"], data["status"]) == (first, True, status)
    waited = invoke(flow, folder, "--wait").must(code)
    assert shows in waited.said
    invoke(flow, tmp_path / "elsewhere").refused(first, code=1)
    assert client.executions.get(first).status == status
    assert len(client.executions.list()) == 1


def test_the_first_one_is_under_way(house: Repository, tmp_path: Path) -> None:
    """The same key follows an execution that still runs, and waits for its result."""
    client = house.client()
    first = invoke("steps", tmp_path).must().out.strip()
    until(lambda: (tmp_path / "reached").exists())
    again = invoke("steps", tmp_path).must()
    assert again.out.strip() == first
    assert "it is running" in again.err
    assert f"kitaru executions logs {first} --follow" in again.err
    invoke("steps", tmp_path / "elsewhere").refused(first, code=1)
    (tmp_path / "go").touch()
    data = invoke("steps", tmp_path, "--wait", "-o", "json").must().json["item"]
    assert (data["exec_id"], data["result"]) == (first, [1, 2, 3])
    assert len(client.executions.list()) == 1


def test_a_new_key_starts_afresh(house: Repository, tmp_path: Path) -> None:
    """Where the first one can't go on, another key gives another execution."""
    first = cancel(house.client(), tmp_path)
    (tmp_path / "go").touch()
    fresh = kitaru(
        "invoke", "steps", "--input", json.dumps({"folder": str(tmp_path)}), "--idempotency-key", "job 8", "--wait"
    ).must()
    assert json.loads(fresh.out) == [1, 2, 3]
    assert {one.status for one in house.client().executions.list()} == {"cancelled", "completed"}
    assert first in [one.exec_id for one in house.client().executions.list(status="cancelled")]
