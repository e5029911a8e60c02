"""Rounds of kill -9 at random points of random flows; see ``tests.kill_harness`` for what is looked at in each.

``-n`` is how many kills. ``KITARU_KILL_STORE=s3://bucket/prefix`` (with the usual ``AWS_`` variables) plays them there,
``KITARU_KILL_SEED`` begins with another flow.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Iterator

from benchmarks.figures import Figure, counted
from tests.kill_harness import Tally, play

GOAL = "kill -9 of runners at random: nothing lost, nothing run twice"
ROUNDS = 2000


def measure(rounds: int) -> Iterator[Figure]:
    seeds = itertools.count(int(os.environ.get("KITARU_KILL_SEED", "1")))
    begun = time.perf_counter()
    url = os.environ.get("KITARU_KILL_STORE")
    tally = play(seeds, rounds=rounds, store_url=url)
    spent = time.perf_counter() - begun
    for problem in tally.problems:
        print(problem, file=sys.stderr)
    where = "an S3 store" if url else "the local store"
    yield counted("kill_rounds", tally.kills, "kills", note=f"on {where}: {_kinds(tally)}; {spent:.0f} s")
    yield counted("kill_stories", tally.stories, "executions", note=f"{tally.runs} processes")
    yield counted("kill_duels", tally.duels, "pairs of runners", note=f"{tally.fenced} runners found themselves fenced")
    yield counted("kill_problems", len(tally.problems), "problems", at_most=0)


def _kinds(tally: Tally) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(tally.kinds.items()))
