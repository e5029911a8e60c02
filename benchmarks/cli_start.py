"""``kitaru --version`` and ``kitaru --help``, beside a Python that does nothing and beside Terraform's."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.figures import Figure, compared, interleave
from benchmarks.workspace import has_terraform, kitaru_command, workspace

GOAL = "`kitaru --version` / `--help`"
ROUNDS = 15

ASKED = (("version", "--version", "version", 3), ("help", "--help", "-help", 12))


def measure(rounds: int) -> Iterator[Figure]:
    with workspace() as place:
        for metric, ours, theirs, times in ASKED:
            command = [*kitaru_command(), ours]
            place.run(command)
            measures = [lambda command=command: place.seconds(command), place.bare_python]
            if has_terraform():
                measures.append(lambda theirs=theirs: place.seconds(["terraform", theirs]))
            taken = interleave(rounds, *measures)
            yield compared(metric, taken[0], taken[1], unit="s", against="bare Python", times=times)
            if len(taken) > 2:
                yield compared(f"{metric}_beside_terraform", taken[0], taken[2], unit="s", against="terraform")
