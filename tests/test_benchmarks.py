from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import figures
from benchmarks.__main__ import NAMES

ROOT = Path(__file__).resolve().parents[1]

TINY = {
    "checkpoint_latency": "measure(3)",
    "thousand_checkpoints": "measure(1, checkpoints=20)",
    "cold_script": "measure(1)",
    "large_outputs": "measure(1)",
    "parallel_checkpoints": "measure(1)",
    "cli_start": "measure(1)",
    "quiet_plan": "measure(1, sizes=((2, 3.0),))",
    "first_apply": "measure(1, flows=2)",
    "invoke_wait": "measure(1)",
    "store_requests": "measure(4)",
    "changed_bytes": "measure(1, files=20)",
    "resume_after_kill": "measure(1)",
    "wide_map": "measure(1)",
    "large_output_memory": "measure(1)",
    "list_executions": "measure(1)",
    "kill_rounds": "measure(2)",
    "races": "measure(2, processes=2)",
    "scale": "measure(1, flows=3, versions=4, generations=9)",
}
"""What each benchmark is asked for here: as little as shows that it still runs."""

COUNTED = {
    "writes_a_checkpoint",
    "requests_a_checkpoint",
    "invoke_reads",
    "invoke_writes",
    "quiet_plan_reads",
    "quiet_plan_writes",
    "quiet_plan_lists",
    "changed_archives",
    "scale_plan_reads",
    "scale_invoke_reads",
    "scale_invoke_writes",
    "scale_lock_root",
}
"""Figures that are counts, the same on every machine: their goals hold here as well."""


def test_every_benchmark_is_tried_here() -> None:
    """The list that the command knows, the scripts that there are and the ones tried here are the same."""
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if "\nGOAL = " in path.read_text("utf-8")}
    assert scripts == set(NAMES) == set(TINY)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_yields_figures_as_json(name: str) -> None:
    """Each one runs; a figure is a JSON object with metric, n, value, unit and spread; counts meet their goals."""
    script = (
        f"import json\nfrom benchmarks import {name}\n"
        f"for figure in {name}.{TINY[name]}:\n    print(json.dumps(figure.to_json()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found
    for figure in found:
        assert {"metric", "n", "value", "unit", "min", "median", "max"} <= set(figure)
        assert figure["n"] >= 1
        assert figure["min"] <= figure["value"] == figure["median"] <= figure["max"]
        assert ("against" in figure) == ("beside" in figure)
        if figure["metric"] in COUNTED:
            assert figure["met"], figure


def test_the_command_prints_json_lines_and_a_table(tmp_path: Path) -> None:
    """`python -m benchmarks NAME` keeps standard output for JSON lines, and writes the table where it is told to."""
    table = tmp_path / "table.md"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "parallel_checkpoints", "-n", "1", "--table", str(table)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["metric"] for line in done.stdout.splitlines()] == ["parallel_checkpoints"]
    assert re.search(r"^\| parallel_checkpoints \| .* \|$", table.read_text("utf-8"), re.MULTILINE)


def test_an_unknown_benchmark_is_named_with_those_there_are() -> None:
    """A name that is none ends with exit code 2, and the names that are some."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "checkpoint"],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "there is no benchmark checkpoint; there are: checkpoint_latency" in done.stderr


def test_a_figure_is_its_median_beside_the_median_of_another() -> None:
    """Value, ratio and goal come from medians; a goal may be a bound, a least, or so many times what stands beside."""
    figure = figures.compared("x", [3.0, 1.0, 2.0], [4.0, 1.0, 1.0], unit="s", against="y", times=1.5)
    assert (figure.value, figure.beside, figure.ratio, figure.goal, figure.met) == (2.0, 1.0, 2.0, 1.5, False)
    assert figures.compared("x", [300.0], [600.0], unit="MB/s", against="y", at_least=300).met is True
    assert figures.counted("x", 3, "reads", at_most=3).met is True
    assert figures.counted("x", 3, "reads").met is None
