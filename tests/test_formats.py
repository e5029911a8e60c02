"""Stores that earlier releases wrote load, resolve and go on, for ever: ``tests/stores`` keeps one of each format."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from kitaru import KitaruClient
from kitaru.errors import KitaruError
from kitaru.model import address
from kitaru.model.lockfile import Lockfile
from tests.repository import MANIFEST, Repository, kitaru

STORES = Path(__file__).parent / "stores"
FORMATS = sorted(path.name for path in STORES.glob("format-*"))


@pytest.fixture(params=FORMATS)
def old(request: pytest.FixtureRequest, own_world: Path, monkeypatch: pytest.MonkeyPatch) -> KitaruClient:
    """A client of a copy of the old store, from an empty folder."""
    store = own_world / "store"
    shutil.copytree(STORES / request.param, store)
    folder = own_world / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KITARU_STORE", f"file://{store}")
    monkeypatch.setenv("KITARU_PROJECT", "research")
    return KitaruClient()


def test_there_is_a_store_of_format_1() -> None:
    """The first format has its fixture, and it says nothing of the machine that made it."""
    assert "format-1" in FORMATS
    text = b"".join(path.read_bytes() for path in (STORES / "format-1").rglob("*.json"))
    assert b"/home/" not in text
    assert b"/tmp/" not in text
    assert b'"traceback":"Trace' not in text


@pytest.mark.parametrize("hint", [True, False], ids=["with its hint", "without"])
def test_its_lock_log_loads(old: KitaruClient, hint: bool, own_world: Path) -> None:
    """Flows, versions, routes and history are there, from the hint and from the log alone."""
    if not hint:
        (own_world / "store" / address.lock_hint("research")).unlink()
    lock = old.session.releases.head(verified=True)
    assert lock.generation == 2
    assert {name: (state.latest, state.retired) for name, state in lock.flows.items()} == {
        "agent": (2, False),
        "fragile": (2, False),
        "parcels": (2, False),
        "once": (1, True),
    }
    (agent, fragile, parcels) = old.deployments.flows()
    assert agent.routes == {"default": (1,), "canary": (2,), "stable": (1,), "benchmark": (1, 2)}
    assert (agent.exclusive["benchmark"], fragile.routes) == (False, {"default": (2,)})
    assert parcels.routes == {"default": (1,)}
    first = old.session.releases.entry(1)
    assert first is not None
    assert (first[0].by, first[0].message) == ("fixture", "fixture")


def test_its_digests_still_hold(old: KitaruClient, own_world: Path) -> None:
    """What is read and written again is the same bytes: no release changes the digest of what an earlier one stored."""
    for flow in ("agent", "fragile", "parcels"):
        for one in old.deployments.list(flow):
            found = old.deployments.get(flow, version=one.version)
            assert found.details is not None
            assert found.details.digest == one.snapshot
    hint = Lockfile.parse((own_world / "store" / address.lock_hint("research")).read_bytes())
    assert old.session.releases.head().state_digest == hint.checksum


def test_its_versions_can_be_invoked(old: KitaruClient) -> None:
    """Default, a tag and a number lead to snapshots that still run, after their archives were verified."""
    for selector in ({}, {"tag": "canary"}, {"version": 2}):
        result = old.deployments.invoke("agent", {"topic": "again"}, **selector).wait(30)  # type: ignore[arg-type]
        assert result["topic"] == "again"


def test_its_executions_are_told(old: KitaruClient) -> None:
    """A completed execution gives its recorded result, a failed one its failure; a used key is remembered."""
    completed = old.executions.latest(flow="agent")
    failed = old.executions.latest(status="failed")
    assert (completed.flow_name, failed.flow_name) == ("agent", "fragile")
    assert old.executions.handle(completed.exec_id).get()["topic"] == "durable execution"
    assert failed.failure is not None
    assert failed.failure.message == "the gate is closed"
    again = old.deployments.invoke("agent", idempotency_key="fixture")
    assert (again.exec_id, again.reused) == (completed.exec_id, True)
    assert kitaru("executions", "get", failed.exec_id).must().out


def test_its_bytes_in_containers_are_read(old: KitaruClient) -> None:
    """Bytes in a list come back as they were, and a call that takes them is reused."""
    packed = old.executions.get(old.executions.latest(flow="parcels").exec_id)
    output = packed.checkpoints[0].output
    assert output is not None
    assert (output.format, output.stored) == ("json+types", "object")
    parts = [bytes(range(250)) * 280, {"size": 70000}]
    assert old.executions.value(output, "the parts") == parts
    assert old.executions.result(packed) == [70000, parts]
    (reused, anew) = old.executions.plan_replay(packed.exec_id, from_="weigh").calls
    assert (reused.name, reused.action, anew.action) == ("pack", "reuse", "rerun")
    assert old.executions.replay(packed.exec_id, from_="weigh").wait(30) == [70000, parts]


def test_its_protected_route_stays_protected(old: KitaruClient) -> None:
    """The rule that an apply wrote into that store binds every command of today."""
    with pytest.raises(KitaruError, match=r"stable.*main"):
        old.deployments.tag("agent", "stable", version=2, exclusive=True)
    assert old.deployments.invoke("agent", {"topic": "still"}, tag="stable").wait(30)["topic"] == "still"


def test_its_open_execution_is_resumed(old: KitaruClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failed execution goes on where it stopped: what finished before is not computed again."""
    failed = old.executions.get(old.executions.latest(status="failed").exec_id)
    calls = {call.name: call for call in failed.checkpoints}
    recorded = calls["collect"].output
    assert recorded is not None
    monkeypatch.setitem(os.environ, "FIXTURE_MAY_PASS", "1")
    notes, token = old.executions.resume(failed.exec_id).wait(30)
    assert notes == recorded.inline
    assert token == notes["token"]
    assert KitaruClient().executions.get(failed.exec_id).status == "completed"


def test_it_takes_new_generations(old: KitaruClient, own_world: Path) -> None:
    """An apply of today goes on from the old history: versions count on, and the retired flow comes back as v2.

    The commit that a route was last set from is known as well: unrelated work moves it only by force.
    """
    files = {"flows/work.py": "from kitaru import flow\n@flow\ndef agent(topic: str) -> str:\n    return topic\n"}
    once = "  once:\n    target: flows/work.py:agent\n    routes: {default: head}\n"
    repository = Repository.make(own_world / "repository", files, MANIFEST + once)
    client = repository.client(store=os.environ["KITARU_STORE"])
    with pytest.raises(KitaruError, match="this commit is not later"):
        client.apply()
    assert client.apply(force=True).generation == 3
    lock = old.session.releases.head()
    assert {name: state.latest for name, state in lock.flows.items()} == {
        "agent": 3,
        "fragile": 2,
        "once": 2,
        "parcels": 2,
    }
    assert client.plan().is_empty
    assert old.deployments.invoke("agent", {"topic": "new"}).wait(30) == "new"


def test_what_is_written_now_is_of_the_newest_format(repository: Repository) -> None:
    """The newest fixture is of the format that this release writes: a new format brings a new fixture."""
    repository.apply()
    for name in (address.lock_hint("research"), address.generation("research", 1)):
        written = json.loads((repository.store_folder / name).read_bytes())["format"]
        assert f"format-{written}" == FORMATS[-1]
