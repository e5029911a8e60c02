"""Requests to the store, counted: an invoke up to the flow's first line, a checkpoint, a quiet plan.

The local store is counted in the process; the bucket by a proxy before an S3 server, with the command line and the
worker as they are, so that nothing which any of them asks is missed.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.counting_store import CountingStore, count_requests
from benchmarks.figures import Figure, counted
from benchmarks.inside import local_client, run_flow
from benchmarks.workspace import Workspace, workspace
from kitaru import KitaruClient, checkpoint
from tests.fault_proxy import FaultProxy
from tests.s3_servers import S3Server, await_http, free_port_pairs, running

GOAL = "store requests: invoke, checkpoint, quiet plan"
ROUNDS = 100
"""Checkpoints that are counted."""

MARK = "/the-first-line-of-the-flow"

FLOW = """\
import os
import urllib.request

from kitaru import checkpoint, flow

@checkpoint
def step(number: int) -> int:
    return number

@flow
def marked(count: int = 10) -> int:
    urllib.request.urlopen(os.environ["BENCH_MARK"]).close()
    return sum(step(number) for number in range(count))
"""

MANIFEST = """\
kitaru: 1
project: bench
source: {include: [flow.py]}
flows:
  marked:
    target: flow.py:marked
    routes: {default: head}
"""


@checkpoint
def step(number: int) -> int:
    return number


@checkpoint
def wait_a_moment(number: int) -> int:
    time.sleep(0.02)
    return number


def measure(rounds: int) -> Iterator[Figure]:
    yield from _checkpoints(rounds)
    with _bucket() as (proxy, url, environ), workspace() as place:
        place.environ |= {**environ, "KITARU_STORE": url, "BENCH_MARK": proxy.endpoint + MARK}
        place.write("flow.py", FLOW)
        place.write("kitaru.yaml", MANIFEST)
        place.commit()
        place.kitaru("apply", "--yes")
        yield from _invoke(place, proxy)
        yield from _quiet_plan(place, proxy)


def _checkpoints(rounds: int) -> Iterator[Figure]:
    with local_client() as (client, _):
        counting = count_requests(client)
        writes, requests = _slope(client, counting, rounds, cache=False)
        yield counted("writes_a_checkpoint", writes, "writes", at_most=1, note="what one more adds to a flow")
        yield counted("requests_a_checkpoint", requests, "requests", at_most=1)
        with_hints, _ = _slope(client, counting, rounds, cache=True)
        yield counted(
            "writes_a_checkpoint_and_its_hint",
            with_hints,
            "writes",
            note="cache on: a hint later, which nothing awaits",
        )
        alone = _counted_run(client, counting, lambda: None)[0]
        every = lambda: wait_a_moment.map(list(range(rounds)), max_concurrency=rounds).results()  # noqa: E731
        shared = (_counted_run(client, counting, every)[0] - alone) / rounds
        yield counted(
            "writes_a_concurrent_checkpoint", shared, "writes", at_most=1, note=f"{rounds} at once share entries"
        )


def _slope(client: KitaruClient, counting: CountingStore, rounds: int, *, cache: bool) -> tuple[float, float]:
    """Writes and requests that each further checkpoint of a flow costs."""
    few = _counted_run(client, counting, lambda: [step(number) for number in range(rounds)], cache=cache)
    more = _counted_run(client, counting, lambda: [step(-number) for number in range(1, 2 * rounds + 1)], cache=cache)
    return (more[0] - few[0]) / rounds, (more[1] - few[1]) / rounds


def _counted_run(
    client: KitaruClient, counting: CountingStore, body: Callable[[], Any], *, cache: bool = False
) -> tuple[int, int]:
    before = counting.writes, sum(counting.calls.values())
    run_flow(client, body, cache=cache)
    while any(thread.name == "kitaru-summary" for thread in threading.enumerate()):
        time.sleep(0.01)
    return counting.writes - before[0], sum(counting.calls.values()) - before[1]


def _invoke(place: Workspace, proxy: FaultProxy) -> Iterator[Figure]:
    for metric, note in (("invoke_first_time", "its source was never here"), ("invoke", "its source was here before")):
        if metric == "invoke_first_time":
            place.forget_home()
        proxy.requests.clear()
        place.kitaru("invoke", "marked", "--wait")
        asked = [request for request in proxy.requests if "probe" not in request[1]]
        until = next(place for place, (_, path) in enumerate(asked) if path == MARK)
        # A caller that waits looks at the journal again and again; its looks are not part of the start.
        looks = [n for n, (method, path) in enumerate(asked[:until]) if method == "GET" and "/journal/" in path]
        begun = [request for n, request in enumerate(asked[:until]) if n not in looks]
        reads = sum(method in ("GET", "HEAD") for method, _ in begun)
        writes = sum(method in ("PUT", "POST") for method, _ in begun)
        yield counted(f"{metric}_reads", reads, "reads", at_most=4, note=note)
        yield counted(f"{metric}_writes", writes, "writes", at_most=1, note=note)


def _quiet_plan(place: Workspace, proxy: FaultProxy) -> Iterator[Figure]:
    proxy.requests.clear()
    place.kitaru("plan")
    reads = [path for method, path in proxy.requests if method in ("GET", "HEAD") and "list-type" not in path]
    lists = [path for method, path in proxy.requests if "list-type" in path]
    writes = [path for method, path in proxy.requests if method in ("PUT", "POST", "DELETE")]
    yield counted("quiet_plan_reads", len(reads), "reads", at_most=3)
    yield counted("quiet_plan_writes", len(writes), "writes", at_most=0)
    yield counted("quiet_plan_lists", len(lists), "lists", at_most=0)


@contextmanager
def _bucket() -> Iterator[tuple[FaultProxy, str, dict[str, str]]]:
    """A bucket behind a proxy that counts: the proxy, the store's address, what reaches it as variables."""
    with tempfile.TemporaryDirectory(prefix="kitaru-bench-", ignore_cleanup_errors=True) as folder:
        port = free_port_pairs(1)[0]
        server = S3Server(f"http://127.0.0.1:{port}", "testing", "testing")
        with running([sys.executable, "-m", "tests.s3_servers", str(port)], Path(folder)) as process:
            await_http(server.endpoint, process, Path(folder))
            bucket = server.new_bucket()
            with _Marked(server.endpoint) as proxy:
                yield proxy, f"s3://{bucket}/store", {**server.environment(), "AWS_ENDPOINT_URL": proxy.endpoint}


class _Marked(FaultProxy):
    """A proxy that answers the flow's own mark, and passes everything else on."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.choose = lambda _method, path: "204-Mark-before" if path == MARK else None
