"""Appliers and taggers of many processes at once: no version twice, no gap, no lost move, one serial order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kitaru.store.local import LocalStore
from tests.racing import FLOWS, SHARED, Raced, check_serial, race
from tests.s3_servers import S3Server

PROCESSES, ROUNDS = 8, 5


def checked(store: Any, raced: Raced) -> None:
    head = check_serial(store, raced.told)
    applies = [one for one in raced.told if one.verb == "apply"]
    assert len(raced.told) == PROCESSES * ROUNDS
    assert len(applies) == PROCESSES * -(-ROUNDS // 2)
    assert sum(state.latest for state in head.flows.values()) == FLOWS + len(applies)
    for flow, state in head.flows.items():
        tagged = {one.version for one in raced.told if (one.flow, one.tag) == (flow, SHARED)}
        assert tagged == set(state.routes[SHARED].versions)


@pytest.fixture
def raced_here(own_world: Path) -> tuple[LocalStore, Raced]:
    store = LocalStore(own_world / "store", f"file://{own_world / 'store'}")
    return store, race(own_world, store.url, {}, processes=PROCESSES, rounds=ROUNDS)


def test_on_a_local_folder(raced_here: tuple[LocalStore, Raced]) -> None:
    """The log from generation 1 explains what each of eight processes was told; and the check can fail."""
    store, raced = raced_here
    checked(store, raced)
    wrong = [replace(one, version=one.version + 1) if at == 0 else one for at, one in enumerate(raced.told)]
    with pytest.raises(AssertionError):
        check_serial(store, wrong)
    with pytest.raises((AssertionError, KeyError)):
        check_serial(store, raced.told[1:])


def test_on_a_bucket(own_world: Path, seaweedfs: S3Server) -> None:
    """The same on an S3 server."""
    from kitaru.store.s3 import S3Store

    url = seaweedfs.new_prefix()
    raced = race(own_world, url, seaweedfs.environment(), processes=PROCESSES, rounds=ROUNDS)
    checked(S3Store(url, seaweedfs.options()), raced)
