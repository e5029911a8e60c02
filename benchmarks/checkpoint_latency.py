"""One more durable checkpoint: small value, warm process, local store, beside what the disk itself takes."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.figures import Figure, compared
from benchmarks.inside import Floor, local_client, run_flow
from kitaru import checkpoint

GOAL = "one more durable checkpoint (small value, warm process, local store)"
ROUNDS = 1000
BODY = b"x" * 500
"""Bytes: as long as the journal entry of such a checkpoint."""


@checkpoint
def step(number: int) -> int:
    return number + 1


def measure(rounds: int) -> Iterator[Figure]:
    with local_client() as (client, store):
        floor = Floor(store.parent / "floor")
        taken: list[tuple[float, float, float]] = []
        processor: list[tuple[float, float]] = []

        def interleaved() -> None:
            for number in range(rounds):
                begun = time.perf_counter()
                step(number)
                stepped = time.perf_counter()
                floor.append(BODY)
                appended = time.perf_counter()
                floor.new_file(BODY)
                taken.append((stepped - begun, appended - stepped, time.perf_counter() - appended))

        def processor_time() -> None:
            for number in range(rounds):
                begun = time.process_time()
                step(number)
                stepped = time.process_time()
                floor.new_file(BODY)
                processor.append((stepped - begun, time.process_time() - stepped))

        run_flow(client, lambda: [step(number) for number in range(20)])
        run_flow(client, interleaved)
        run_flow(client, processor_time)
        floor.close()
    steps, appends, files = ([1000 * sample for sample in column] for column in zip(*taken, strict=True))
    yield compared("checkpoint", steps, files, unit="ms", against="new file, fsync, rename, fsync folder", at_most=0.5)
    yield compared("checkpoint_over_new_file", steps, files, unit="ms", against="a synced new file", times=2)
    yield compared("checkpoint_over_append", steps, appends, unit="ms", against="one append + fdatasync")
    ours, theirs = ([1000 * sample for sample in column] for column in zip(*processor, strict=True))
    yield compared(
        "checkpoint_cpu",
        ours,
        theirs,
        unit="ms",
        against="processor time of a synced new file",
        at_most=0.25,
        note="user and system time of the whole process",
    )
