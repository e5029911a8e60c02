"""Twenty outputs of 1 MB each, hashed and durable, beside plain synced files of the same bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from benchmarks.figures import Figure, compared
from benchmarks.inside import Floor, local_client, run_flow
from kitaru import checkpoint

GOAL = "20 outputs of 1 MB each"
ROUNDS = 9
OUTPUTS = 20
SIZE = 1_000_000

_bodies: list[bytes] = []


@checkpoint
def produce(number: int) -> bytes:
    return _bodies[number]


def measure(rounds: int) -> Iterator[Figure]:
    flows: list[float] = []
    files: list[float] = []
    with local_client() as (client, store):
        floor = Floor(store.parent / "floor")

        def body() -> None:
            begun = time.perf_counter()
            for number in range(OUTPUTS):
                produce(number)
            flows.append(OUTPUTS * SIZE / 1e6 / (time.perf_counter() - begun))

        for _ in range(rounds + 1):
            # New bytes every time: an object that is there already is not written again.
            _bodies[:] = [os.urandom(SIZE) for _ in range(OUTPUTS)]
            run_flow(client, body)
            begun = time.perf_counter()
            for content in _bodies:
                floor.new_file(content)
            files.append(OUTPUTS * SIZE / 1e6 / (time.perf_counter() - begun))
        floor.close()
    yield compared(
        "large_outputs", flows[1:], files[1:], unit="MB/s", against="synced new files, not hashed", at_least=300
    )
