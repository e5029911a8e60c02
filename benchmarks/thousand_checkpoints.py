"""A flow of 1,000 checkpoints, and whether time stays linear to 10,000."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from benchmarks.checkpoint_latency import BODY, step
from benchmarks.figures import Figure, compared, interleave
from benchmarks.inside import Floor, local_client, run_flow

GOAL = "a flow of 1,000 checkpoints, warm; time linear to 10,000"
ROUNDS = 5
CHECKPOINTS = 1000


def measure(rounds: int, checkpoints: int = CHECKPOINTS) -> Iterator[Figure]:
    with local_client() as (client, store):
        floor = Floor(store.parent / "floor")

        def flow_of(count: int) -> float:
            def body() -> None:
                for number in range(count):
                    step(number)

            begun = time.perf_counter()
            run_flow(client, body)
            return time.perf_counter() - begun

        def files_alone() -> float:
            begun = time.perf_counter()
            for _ in range(checkpoints):
                floor.new_file(BODY)
            return time.perf_counter() - begun

        flow_of(20)
        short, files = interleave(rounds, lambda: flow_of(checkpoints), files_alone)
        many = 10 * checkpoints
        # The long flow stands between two short ones, so that both see the same hour of the machine.
        before, long, after = flow_of(checkpoints), flow_of(many), flow_of(checkpoints)
        floor.close()
    yield compared(
        f"flow_of_{checkpoints}", short, files, unit="s", against=f"{checkpoints} synced new files", at_most=0.5
    )
    ratio = long / many / (statistics.mean((before, after)) / checkpoints)
    yield Figure(
        f"growth_to_{many}", (ratio,), "×", goal=1.25, note="time a checkpoint, of the long flow over the short ones"
    )
