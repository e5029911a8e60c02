"""``python -m benchmarks [NAME ...]``: JSON lines on standard output, a table at the end on standard error."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from benchmarks.figures import Figure, rounded

NAMES = (
    "checkpoint_latency",
    "thousand_checkpoints",
    "cold_script",
    "large_outputs",
    "parallel_checkpoints",
    "cli_start",
    "quiet_plan",
    "first_apply",
    "invoke_wait",
    "store_requests",
    "changed_bytes",
    "resume_after_kill",
    "wide_map",
    "large_output_memory",
    "list_executions",
    "kill_rounds",
    "races",
    "scale",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure what Kitaru promises.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(NAMES)}; all where none is named")
    parser.add_argument("-n", type=int, default=None, help="rounds of each; the default is each benchmark's own")
    parser.add_argument("--table", type=Path, default=None, help="also write the table, as Markdown, to this file")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in NAMES]
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are: {', '.join(NAMES)}")
    figures = []
    for name in given.names or NAMES:
        benchmark = import_module(f"benchmarks.{name}")
        print(f"{name}: {benchmark.GOAL}", file=sys.stderr)
        for figure in benchmark.measure(given.n or benchmark.ROUNDS):
            print(json.dumps(figure.to_json(), ensure_ascii=False), flush=True)
            figures.append(figure)
    table = "\n".join((_machine(), "", *_rows(figures)))
    print(f"\n{table}", file=sys.stderr)
    if given.table is not None:
        given.table.write_text(table + "\n", encoding="utf-8")
    return 0


def _machine() -> str:
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"Python {platform.python_version()}, {os.cpu_count()} cores, load at the end {load}"


def _rows(figures: Iterable[Figure]) -> Iterable[str]:
    yield "| metric | median (min to max) | beside, same run | ratio | goal | met |"
    yield "|---|---|---|---|---|---|"
    for figure in figures:
        spread = (
            f" ({rounded(min(figure.samples))} to {rounded(max(figure.samples))})" if len(figure.samples) > 1 else ""
        )
        beside = f"{figure.against}: {rounded(figure.beside)} {figure.unit}" if figure.beside is not None else ""
        ratio = f"{figure.ratio:.2f}" if figure.ratio is not None else ""
        bound = "" if figure.goal is None else f"{'≥' if figure.at_least else '≤'} {rounded(figure.goal)} {figure.unit}"
        met = {True: "yes", False: "**no**", None: ""}[figure.met]
        value = f"{rounded(figure.value)} {figure.unit}{spread}"
        yield f"| {figure.metric} | {value} | {beside} | {ratio} | {bound} | {met} |"


if __name__ == "__main__":
    sys.exit(main())
