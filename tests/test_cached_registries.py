"""The cache and functions that a checkpoint finds in a registry when it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kitaru import KitaruClient, checkpoint, flow
from tests.repository import until

REGISTRY: dict[str, Callable[[int], int]] = {}
RAN: list[int] = []


def plus(number: int) -> int:
    return number + 1


def minus(number: int) -> int:
    return number - 1


@checkpoint
def applied(number: int) -> int:
    RAN.append(number)
    return REGISTRY["plug"](number)


@flow
def both(then: str) -> list[int]:
    REGISTRY["plug"] = plus
    first = applied(10)
    REGISTRY["plug"] = plus if then == "plus" else minus
    return [first, applied(20)]


@pytest.fixture
def client(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> KitaruClient:
    monkeypatch.chdir(own_world)
    return KitaruClient(store=f"file://{own_world}/store", project="lab")


def test_a_result_belongs_to_what_the_registry_held_at_the_call(client: KitaruClient) -> None:
    """A function that is replaced while the flow runs makes another result; each is found again by its own."""

    def result(then: str) -> list[int]:
        RAN.clear()
        handle = client.executions.run(both, both.bind(kwargs={"then": then}))
        found: list[int] = handle.wait(30)
        cached = [call.cached_from is not None for call in client.executions.get(handle.exec_id).checkpoints]
        assert cached == [number not in RAN for number in (10, 20)]
        return found

    assert result("plus") == [11, 21]
    assert len(RAN) == 2
    until(lambda: result("plus") == [11, 21] and not RAN)
    assert result("minus") == [11, 19]
    assert RAN == [20]
    until(lambda: result("minus") == [11, 19] and not RAN)
    assert result("plus") == [11, 21]
    assert RAN == []
