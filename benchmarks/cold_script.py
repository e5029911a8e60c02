"""The first flow of a cold process, one checkpoint: ``python script.py``, beside a Python that does nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from benchmarks.figures import Figure, compared, interleave
from benchmarks.workspace import Workspace, workspace

GOAL = "first flow of a cold process, one checkpoint (`python script.py`)"
ROUNDS = 15

SCRIPT = """\
from kitaru import checkpoint, flow

@checkpoint
def greet(name: str) -> str:
    return f"hello {name}"

@flow
def greeting(name: str) -> str:
    return greet(name)

if __name__ == "__main__":
    print(greeting.run(name="you").wait())
"""


def measure(rounds: int) -> Iterator[Figure]:
    with workspace() as place:
        place.write("script.py", SCRIPT)
        yield from _measured(place, "cold_script", rounds)
    with workspace() as place:
        place.write_flows(3)
        place.write("script.py", SCRIPT)
        yield from _measured(place, "cold_script_beside_a_manifest", rounds)


def _measured(place: Workspace, metric: str, rounds: int) -> Iterator[Figure]:
    def script() -> float:
        return place.seconds([sys.executable, "script.py"])

    script()
    scripts, bare = interleave(rounds, script, place.bare_python)
    yield compared(metric, scripts, bare, unit="s", against="bare Python", at_most=0.3)
