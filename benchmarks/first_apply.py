"""The first apply of a repository, the import of its targets named apart, beside Terraform's first apply."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from benchmarks.figures import Figure, compared, interleave
from benchmarks.workspace import has_terraform, kitaru_command, workspace

GOAL = "a first apply, 20 flows, local store"
ROUNDS = 5
FLOWS = 20


def measure(rounds: int, flows: int = FLOWS) -> Iterator[Figure]:
    with workspace() as place:
        place.write_flows(flows)
        command = [*kitaru_command(), "apply", "--yes"]

        def first() -> float:
            place.forget_store()
            place.forget_home()
            return place.seconds(command)

        def targets_known() -> float:
            place.forget_store()
            return place.seconds(command)

        measures = [first, targets_known, place.bare_python]
        if has_terraform():
            folder = place.write_terraform(flows)

            def terraform() -> float:
                for left in ("terraform.tfstate", "terraform.tfstate.backup"):
                    (folder / left).unlink(missing_ok=True)
                shutil.rmtree(folder / ".terraform.tfstate.lock.info", ignore_errors=True)
                return place.seconds(["terraform", "apply", "-auto-approve", "-input=false"], cwd=folder)

            measures.append(terraform)
        first()
        taken = interleave(rounds, *measures)
    metric = f"first_apply_{flows}"
    against, beside = ("terraform", taken[3]) if len(taken) > 3 else ("bare Python", taken[2])
    yield compared(metric, taken[0], beside, unit="s", against=against, at_most=2.0)
    imports = [max(0.0, whole - rest) for whole, rest in zip(taken[0], taken[1], strict=True)]
    yield compared(
        f"{metric}_importing",
        imports,
        taken[2],
        unit="s",
        against="bare Python",
        note="what the first apply takes longer than one whose targets were imported before",
    )
