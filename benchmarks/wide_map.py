"""A map of 1,000, 3,000 and 10,000 checkpoints with a bound: time and memory of each, a process of its own for each."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator

from benchmarks.figures import Figure
from benchmarks.workspace import workspace

GOAL = "a map of 10,000 checkpoints: time and memory grow linearly"
ROUNDS = 3
WIDTHS = (1_000, 3_000, 10_000)
BOUND = 32

SCRIPT = """\
import json
import resource
import sys
import time

from kitaru import checkpoint, flow

@checkpoint
def step(number: int) -> int:
    return number

@flow
def wide(count: int) -> int:
    return sum(step.map(range(count), max_concurrency=32).results())

def most() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

if __name__ == "__main__":
    count = int(sys.argv[1])
    wide.run(count=20, cache=False).wait()
    before, begun = most(), time.perf_counter()
    assert wide.run(count=count, cache=False).wait() == count * (count - 1) // 2
    print(json.dumps({"seconds": time.perf_counter() - begun, "bytes": most() - before}))
"""


def measure(rounds: int) -> Iterator[Figure]:
    taken: dict[int, list[dict[str, float]]] = {width: [] for width in WIDTHS}
    with workspace() as place:
        place.write("wide.py", SCRIPT)
        for _ in range(rounds):
            for width, samples in taken.items():
                samples.append(json.loads(place.run([sys.executable, "wide.py", str(width)])))
                place.forget_home()
                place.forget_store()
    narrow = statistics.median(sample["seconds"] / WIDTHS[0] for sample in taken[WIDTHS[0]])
    small = statistics.median(sample["bytes"] / WIDTHS[0] for sample in taken[WIDTHS[0]])
    for width, samples in taken.items():
        seconds = [sample["seconds"] for sample in samples]
        memory = [sample["bytes"] / 1e6 for sample in samples]
        yield Figure(f"wide_map_of_{width}", tuple(seconds), "s", note=f"{BOUND} at once")
        yield Figure(f"wide_map_of_{width}_memory", tuple(memory), "MB", note="more than before the map")
    yield Figure(
        f"wide_map_growth_to_{WIDTHS[-1]}",
        tuple(sample["seconds"] / WIDTHS[-1] / narrow for sample in taken[WIDTHS[-1]]),
        "×",
        goal=1.25,
        note=f"time a checkpoint, over that of {WIDTHS[0]}",
    )
    yield Figure(
        f"wide_map_memory_growth_to_{WIDTHS[-1]}",
        tuple(sample["bytes"] / WIDTHS[-1] / small for sample in taken[WIDTHS[-1]]),
        "×",
        goal=1.25,
        note=f"memory a checkpoint, over that of {WIDTHS[0]}",
    )
