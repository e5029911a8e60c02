"""A plan that finds nothing to do, at 20, 200 and 1,000 flows, beside Terraform's with as many resources."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.figures import Figure, compared, interleave
from benchmarks.workspace import has_terraform, kitaru_command, workspace

GOAL = "a quiet plan, 20, 200 and 1,000 flows, local store; the time for each flow falls"
ROUNDS = 9
SIZES = ((20, 3.0), (200, 1.5), (1000, 1.5))
"""Flows, and how many times Terraform's time is the goal."""


def measure(rounds: int, sizes: tuple[tuple[int, float], ...] = SIZES) -> Iterator[Figure]:
    smaller: tuple[int, tuple[float, ...]] | None = None
    for flows, times in sizes:
        with workspace() as place:
            place.write_flows(flows)
            place.kitaru("apply", "--yes")
            command = [*kitaru_command(), "plan"]
            answer = place.run(command)
            if "No changes" not in answer:
                raise RuntimeError(f"the plan is not quiet:\n{answer}")
            measures = [lambda place=place, command=command: place.seconds(command), place.bare_python]
            if has_terraform():
                folder = place.write_terraform(flows)
                place.run(["terraform", "apply", "-auto-approve", "-input=false"], cwd=folder)
                theirs = ["terraform", "plan", "-input=false"]
                measures.append(lambda place=place, theirs=theirs, folder=folder: place.seconds(theirs, cwd=folder))
            taken = interleave(rounds, *measures)
        metric = f"quiet_plan_{flows}"
        yield compared(f"{metric}_over_python", taken[0], taken[1], unit="s", against="bare Python")
        if len(taken) > 2:
            yield compared(metric, taken[0], taken[2], unit="s", against=f"terraform, {flows} resources", times=times)
        each = tuple(1000 * seconds / flows for seconds in taken[0])
        if smaller is not None:
            yield compared(
                f"{metric}_per_flow", each, smaller[1], unit="ms", against=f"the same at {smaller[0]} flows", times=1.0
            )
        smaller = flows, each
