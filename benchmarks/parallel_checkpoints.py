"""A hundred parallel checkpoints of 50 ms, beside a hundred bare threads that sleep as long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from benchmarks.figures import Figure, compared
from benchmarks.inside import local_client, run_flow
from kitaru import checkpoint

GOAL = "100 parallel checkpoints of 50 ms"
ROUNDS = 9
CALLS = 100
SECONDS = 0.05


@checkpoint
def wait_a_moment(number: int) -> int:
    time.sleep(SECONDS)
    return number


def measure(rounds: int) -> Iterator[Figure]:
    flows: list[float] = []
    threads: list[float] = []

    def body() -> None:
        begun = time.perf_counter()
        wait_a_moment.map(list(range(CALLS)), max_concurrency=CALLS).results()
        flows.append(time.perf_counter() - begun)

    with local_client() as (client, _):
        for _round in range(rounds + 1):
            run_flow(client, body)
            threads.append(_bare_threads())
    yield compared("parallel_checkpoints", flows[1:], threads[1:], unit="s", against="100 bare threads", at_most=0.12)


def _bare_threads() -> float:
    begun = time.perf_counter()
    started = [threading.Thread(target=time.sleep, args=(SECONDS,)) for _ in range(CALLS)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return time.perf_counter() - begun
