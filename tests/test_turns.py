"""Writers that lose a race for the lock log: a pause that grows, and few requests, until it is their turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kitaru.errors import KitaruStoreFormatError
from kitaru.model import address
from kitaru.model.address import canonical_json
from kitaru.model.lockfile import Generation, Lockfile
from kitaru.release import releases as releases_module
from kitaru.release.releases import LONGEST_PAUSE, Lost, Releases, Turns
from kitaru.store.local import LocalStore
from tests.lock_strategies import mint
from tests.repository import Repository, WallClock, Watched

PROJECT = "research"
AGENT = "flows/work.py:agent"


@pytest.fixture
def store(tmp_path: Path) -> Watched:
    return Watched(LocalStore(tmp_path / "store", "file://x"))


def log_of(store: Watched) -> Releases:
    return Releases(store, PROJECT, WallClock())


def written(releases: Releases, flow: str, versions: int = 1) -> Lockfile:
    """So many generations, each with a version of that flow."""
    for _ in range(versions):
        lock = releases.head(verified=True)
        latest = lock.flows[flow].latest if flow in lock.flows else 0
        outcome = releases.append(lock, [mint(flow, latest + 1)], by="Ann")
        assert isinstance(outcome, Lockfile)
        lock = outcome
    return lock


def lost(releases: Releases, lock: Lockfile) -> Lost:
    outcome = releases.append(lock, [mint("mine", 1)], by="Bob")
    assert isinstance(outcome, Lost)
    return outcome


def waited() -> tuple[list[float], Callable[[float], None]]:
    pauses: list[float] = []
    return pauses, pauses.append


@pytest.mark.parametrize(("ahead", "reads"), [(1, 1), (2, 2), (3, 3)])
def test_a_loser_reads_only_what_it_has_not_seen(store: Watched, ahead: int, reads: int) -> None:
    """The winner's entry came with the refusal: one read finds that there is no other, where three were needed."""
    releases = log_of(store)
    before = written(releases, "first")
    newest = written(log_of(store), "theirs", ahead)
    turns = Turns(releases, waited()[1])
    outcome = lost(releases, before)
    store.calls.clear()
    assert turns.again(outcome) == newest
    assert [verb for verb, _ in store.calls] == ["read"] * reads


def test_a_loser_that_is_far_behind_asks_the_hint(store: Watched) -> None:
    """Fifty generations later it does not read them one by one."""
    releases = log_of(store)
    before = written(releases, "first")
    newest = written(log_of(store), "theirs", 50)
    outcome = lost(releases, before)
    store.calls.clear()
    assert Turns(releases, waited()[1]).again(outcome) == newest
    assert store.count("read") == releases_module.READS_ON + 3


def test_pauses_grow_and_are_bounded(store: Watched) -> None:
    """Up to twice, four times, eight times what an attempt takes, and never more than two seconds."""
    releases = log_of(store)
    before = written(releases, "first")
    written(log_of(store), "theirs")
    outcome = lost(releases, before)
    highest: list[float] = []
    for _ in range(60):
        pauses, wait = waited()
        turns = Turns(releases, wait)
        for _ in range(14):
            turns.again(replace(outcome, seconds=0.01))
        highest = [max(pair) for pair in zip(highest or pauses, pauses, strict=True)]
    limits = [min(0.01 * 2**lost_, LONGEST_PAUSE) for lost_ in range(1, 15)]
    assert all(0 <= pause <= limit for pause, limit in zip(highest, limits, strict=True))
    assert all(pause > limit / 2 for pause, limit in zip(highest, limits, strict=True)), "they are all but constant"
    pauses, wait = waited()
    Turns(releases, wait).again(replace(outcome, seconds=60.0))
    assert pauses[0] <= LONGEST_PAUSE


def test_the_pause_knows_how_long_the_attempt_took(store: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow store is left alone for longer."""
    releases = log_of(store)
    before = written(releases, "first")
    written(log_of(store), "theirs")
    create = store.create

    def slowly(key: str, body: bytes) -> Any:
        time.sleep(0.05)
        return create(key, body)

    monkeypatch.setattr(store, "create", slowly)
    assert 0.05 <= lost(releases, before).seconds < 5


def test_edits_that_do_not_hold_wait_for_nobody(store: Watched) -> None:
    """No race was lost: the state is looked at anew, at once."""
    releases = log_of(store)
    lock = written(releases, "first")
    broken = releases.append(lock, [mint("first", 7)], by="Ann")
    assert isinstance(broken, tuple)
    pauses, wait = waited()
    assert Turns(releases, wait).again(broken) == lock
    assert not pauses


def test_what_a_loser_built_upon_may_be_wrong(store: Watched) -> None:
    """An entry that does not follow from the state that it lost with: the log alone says what is so."""
    releases = log_of(store)
    before = written(releases, "first")
    newest = written(log_of(store), "theirs")
    outcome = replace(lost(releases, before), before=before.model_copy(update={"entry": "0" * 64}))
    assert Turns(releases, waited()[1]).again(outcome) == newest


def test_a_newer_format_stops_a_loser(store: Watched, tmp_path: Path) -> None:
    """A generation that it can't read is no ground to write the next one on."""
    releases = log_of(store)
    before = written(releases, "first")
    written(log_of(store), "theirs", 2)
    outcome = lost(releases, before)
    path = tmp_path / "store" / address.generation(PROJECT, 3)
    entry = Generation.model_validate_json(path.read_bytes()).data()
    path.unlink()
    path.write_bytes(canonical_json({**entry, "format": 2, "shards": []}))
    with pytest.raises(KitaruStoreFormatError):
        Turns(releases, waited()[1]).again(outcome)


def test_writers_in_turn_make_one_history(store: Watched) -> None:
    """Twelve threads that all want each generation: every number once, no gap, and each gets its turn."""
    begun = threading.Barrier(12)

    def work(worker: int) -> int:
        releases, races = log_of(store), 0
        begun.wait()
        for own in range(1, 5):
            lock, turns = releases.head(verified=True), Turns(releases)
            while True:
                shared = lock.flows["shared"].latest if "shared" in lock.flows else 0
                edits = [mint("shared", shared + 1), mint(f"own_{worker}", own)]
                outcome = releases.append(lock, edits, by=f"w{worker}")
                if isinstance(outcome, Lockfile):
                    break
                races += 1
                lock = turns.again(outcome)
        return races

    with ThreadPoolExecutor(12) as pool:
        races = sum(pool.map(work, range(12)))
    lock = log_of(store).head(verified=True)
    assert (lock.generation, lock.flows["shared"].latest) == (48, 48)
    assert all(lock.flows[f"own_{worker}"].latest == 4 for worker in range(12))
    assert races, "there was no race at all"


def beaten(repository: Repository, monkeypatch: pytest.MonkeyPatch, flow: str, times: int) -> Watched:
    """The store of a client that is beaten to so many generations, each time by a version of ``flow``.

    Of ``agent`` it is a whole deploy, since whoever comes next reads its version table.
    """
    watched = Watched(repository.store())
    create, left = watched.create, [times]

    def create_second(key: str, body: bytes) -> Any:
        if left[0] and key.startswith(address.generations(PROJECT)):
            left[0] -= 1
            if flow == "agent":
                repository.client().deployments.release(AGENT, {}, manifest="leave")
            else:
                written(Releases(repository.store(), PROJECT, WallClock()), flow)
        return create(key, body)

    monkeypatch.setattr(watched, "create", create_second)
    return watched


@pytest.mark.parametrize("flow", ["other", "agent"])
def test_a_deploy_that_is_beaten_uploads_again_only_what_changed(
    own_world: Path, monkeypatch: pytest.MonkeyPatch, flow: str
) -> None:
    """Another flow's generation costs the loser one create and one read more; its own flow's another number."""
    repository = Repository.make(own_world / "work")
    repository.apply()
    plain = beaten(repository, monkeypatch, flow, 0)
    calm = repository.client(wrap=lambda _: plain).deployments
    first = calm.release(AGENT, {}, manifest="leave")
    watched = beaten(repository, monkeypatch, flow, 3)
    begun = len(watched.calls)
    client = repository.client(wrap=lambda _: watched)
    done = client.deployments.release(AGENT, {}, manifest="leave")
    assert done.version == (first.version or 0) + (1 if flow == "other" else 4)
    assert done.generation == first.generation + 4
    lost_ = len(watched.calls) - begun - len(plain.calls)
    if flow == "other":
        # Three races: the create that failed, and the look at what comes next.
        assert lost_ <= 3 * 2
    else:
        assert lost_ > 3 * 2


def test_who_never_lost_never_waits(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else writes: no verb pauses, whatever it writes; and the pause that is not made can be seen."""

    def refuse(self: Turns, outcome: object) -> Lockfile:
        raise AssertionError("it waits")

    monkeypatch.setattr(Turns, "again", refuse)
    repository = Repository.make(own_world / "work")
    assert repository.apply().changed
    verbs = repository.client().deployments
    done = verbs.release(AGENT, {}, manifest="leave")
    assert verbs.tag("agent", "stable", version=done.version or 0, exclusive=True, manifest="leave").changed
    second = beaten(repository, monkeypatch, "other", 1)
    with pytest.raises(AssertionError, match="it waits"):
        repository.client(wrap=lambda _: second).deployments.tag(
            "agent", "stable", version=1, exclusive=True, manifest="leave"
        )
