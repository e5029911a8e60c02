"""``kitaru invoke --wait`` of a small flow: command, worker, two checkpoints, result; beside two bare Python starts."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.figures import Figure, compared, interleave
from benchmarks.workspace import kitaru_command, workspace

GOAL = "`kitaru invoke --wait`, small flow, local stack, cached snapshot"
ROUNDS = 9


def measure(rounds: int) -> Iterator[Figure]:
    with workspace() as place:
        place.write_flows(1)
        place.kitaru("apply", "--yes")
        command = [*kitaru_command(), "invoke", "flow_0000", "--wait"]
        answer = place.run(command)
        if "durable 0 execution 0" not in answer:
            raise RuntimeError(f"the flow gave {answer!r}")
        waits, twice = interleave(
            rounds, lambda: place.seconds(command), lambda: place.bare_python() + place.bare_python()
        )
    yield compared("invoke_wait", waits, twice, unit="s", against="two bare Python starts", at_most=0.9)
