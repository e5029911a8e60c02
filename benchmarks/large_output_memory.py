"""The most memory that a process ever held whose checkpoint gives one gigabyte, and how long that output takes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from benchmarks.figures import Figure, compared
from benchmarks.workspace import workspace

GOAL = "1 GB output: resident memory"
ROUNDS = 2
GIGABYTE = 10**9

SCRIPT = """\
import json
import os
import resource
import sys
import time

from kitaru import checkpoint, flow

SIZE = 10**9

@checkpoint
def produce() -> bytes:
    return os.urandom(1000) * (SIZE // 1000)

@flow
def giant() -> int:
    return len(produce())

def most() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

if __name__ == "__main__":
    begun = time.perf_counter()
    if sys.argv[1] == "flow":
        assert giant.run(cache=False).wait() == SIZE
    else:
        with open("plain", "wb") as file:
            file.write(produce.func())
            file.flush()
            os.fsync(file.fileno())
    print(json.dumps({"bytes": most(), "seconds": time.perf_counter() - begun}))
"""


def measure(rounds: int) -> Iterator[Figure]:
    taken: dict[str, list[dict[str, float]]] = {"flow": [], "plain": []}
    with workspace() as place:
        place.write("giant.py", SCRIPT)
        for _ in range(rounds):
            for kind, samples in taken.items():
                samples.append(json.loads(place.run([sys.executable, "giant.py", kind])))
                (place.root / "plain").unlink(missing_ok=True)
                place.forget_home()
                place.forget_store()

    def column(kind: str, name: str, unit: float) -> list[float]:
        return [sample[name] / unit for sample in taken[kind]]

    yield compared(
        "large_output_memory",
        column("flow", "bytes", GIGABYTE),
        column("plain", "bytes", GIGABYTE),
        unit="GB",
        against="the same bytes written to a plain file",
        at_most=1.3,
    )
    yield compared(
        "large_output_seconds",
        column("flow", "seconds", 1),
        column("plain", "seconds", 1),
        unit="s",
        against="the same bytes in a synced plain file, not hashed",
    )
