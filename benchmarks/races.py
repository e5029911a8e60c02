"""Fifty processes that apply and tag in one project at once: each checked against one serial order, and timed."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, counted
from kitaru.store.local import LocalStore
from kitaru.store.port import Store
from tests.racing import Raced, check_serial, race
from tests.s3_servers import S3Server, serving_seaweedfs

GOAL = "50 processes × 20 applies and tags, a local folder and a bucket: no version twice, no gap, no lost move"
ROUNDS = 20
"""Deeds of each process."""

PROCESSES = int(os.environ.get("KITARU_RACERS", "50"))


def measure(rounds: int, processes: int = PROCESSES) -> Iterator[Figure]:
    for name, place in (("local", _local_folder), ("s3", _bucket)):
        with tempfile.TemporaryDirectory(prefix="kitaru-bench-", ignore_cleanup_errors=True) as text:
            folder = Path(text).resolve()
            with place(folder) as (store, environ):
                raced = race(folder, store.url, environ, processes=processes, rounds=rounds)
                begun = time.perf_counter()
                head = check_serial(store, raced.told)
                replayed = time.perf_counter() - begun
            yield counted(
                f"races_{name}_generations",
                head.generation,
                "generations",
                note=f"one serial order explains what {processes} processes were told; replayed in {replayed:.1f} s",
            )
            yield from _figures(name, raced)


def _figures(name: str, raced: Raced) -> Iterator[Figure]:
    done = len(raced.told)
    yield counted(f"races_{name}_throughput", done / raced.seconds, "deeds/s", note=f"{done} in {raced.seconds:.1f} s")
    for verb in ("apply", "tag"):
        seconds = [one.seconds for one in raced.told if (one.verb == "apply") == (verb == "apply")]
        yield Figure(f"races_{name}_{verb}", tuple(seconds), "s", note="until it has succeeded, all attempts together")
        calls = tuple(float(one.requests) for one in raced.told if (one.verb == "apply") == (verb == "apply"))
        yield Figure(f"races_{name}_{verb}_calls", calls, "calls", note="of the store, all attempts together")
    by_process: dict[str, float] = {}
    for one in raced.told:
        by_process[one.who] = by_process.get(one.who, 0.0) + one.seconds
    median = statistics.median(by_process.values())
    most = max(one.attempts for one in raced.told)
    yield counted(f"races_{name}_worst_wait", max(one.seconds for one in raced.told), "s", note=f"attempts: {most}")
    yield counted(
        f"races_{name}_slowest_process", max(by_process.values()) / median, "×", note="beside the median process"
    )


@contextmanager
def _local_folder(folder: Path) -> Iterator[tuple[Store, dict[str, str]]]:
    yield LocalStore(folder / "store", f"file://{folder / 'store'}"), {}


@contextmanager
def _bucket(folder: Path) -> Iterator[tuple[Store, dict[str, str]]]:
    # s3fs takes half a second to import, which other benchmarks need not pay.
    from kitaru.store.s3 import S3Store

    with serving_seaweedfs(folder / "server") as server:
        yield _store(S3Store, server), server.environment()


def _store(store: Any, server: S3Server) -> Store:
    made: Store = store(f"s3://{server.new_bucket()}/store", server.options())
    return made
