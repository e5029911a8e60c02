"""Whatever moment a runner is killed at, another one goes on: nothing is lost, nothing that was recorded runs again."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import pytest

from tests.kill_child import Order
from tests.kill_flows import EFFECTS, RUN, program
from tests.kill_harness import Tally, play, processes_of
from tests.repository import until
from tests.s3_servers import S3Server

LOCAL_ROUNDS = 40
S3_ROUNDS = 8
FIRST_SEED = 20_260


def settled(tally: Tally, rounds: int) -> None:
    """So many kills, and nothing wrong with any of them."""
    assert not tally.problems, "\n".join(tally.problems)
    assert tally.kills >= rounds and tally.stories > 1


@pytest.mark.timeout(180)
def test_runners_that_are_killed_at_random_lose_nothing_on_a_local_store() -> None:
    """Every execution comes to the result of an undisturbed one, whatever happened to its runners."""
    tally = play(itertools.count(FIRST_SEED), rounds=LOCAL_ROUNDS)
    settled(tally, LOCAL_ROUNDS)
    assert tally.duels and tally.fenced and tally.orphans_looked_for


@pytest.mark.timeout(180)
def test_runners_that_are_killed_at_random_lose_nothing_on_s3(
    seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same holds where the store is a bucket."""
    environment = seaweedfs.environment()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    tally = play(
        itertools.count(2 * FIRST_SEED), rounds=S3_ROUNDS, store_url=seaweedfs.new_prefix(), environment=environment
    )
    settled(tally, S3_ROUNDS)


def test_random_flows_differ_and_are_the_same_for_the_same_seed() -> None:
    """A seed names one flow: what went wrong can be played again."""
    sources = [program(seed).source for seed in range(50)]
    assert sources == [program(seed).source for seed in range(50)]
    assert len({source.partition("\n")[2] for source in sources}) == 50
    kinds = ("async def main", "retries=1", "large(", "gather(", ".map(", "wait(", "broken(", "after=", "apart.submit(")
    for kind in (*kinds, "v = apart("):
        assert any(kind in source.partition("@flow")[2] for source in sources), kind


def test_what_a_runner_left_behind_would_be_found(tmp_path: Path) -> None:
    """The look for processes of a run finds one that has its variables, and no other's, until it ends."""
    order = Order("", tmp_path, "", "", 7, tmp_path / "effects", tmp_path / "acks", {})
    mine = {**os.environ, RUN: "7", EFFECTS: str(order.effects)}
    with subprocess.Popen(["sleep", "60"], env=mine) as child, subprocess.Popen(["sleep", "60"]) as other:
        until(lambda: processes_of(order) == [child.pid])
        child.kill()
        until(lambda: processes_of(order) == [])
        other.kill()
