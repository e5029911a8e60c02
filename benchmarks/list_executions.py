"""``executions list --limit 20`` with filters among 100,000 stored executions: requests to an object store, counted."""

from __future__ import annotations

import bisect
import os
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from benchmarks.figures import Figure, counted
from benchmarks.inside import local_client
from kitaru import KitaruClient
from kitaru.model import address
from kitaru.model.event import (
    Completed,
    Event,
    Failed,
    Failure,
    Handle,
    Opened,
    Started,
    Suspended,
    Value,
    WaitOpened,
    encode_entry,
)
from kitaru.model.execution import fold
from kitaru.run.index import Sign, note_end, note_waiting, open_key
from kitaru.store.port import Created, Listed, Taken

GOAL = "100,000 executions stored: `executions list --limit 20` with filters"
ROUNDS = 5
STORED = int(os.environ.get("KITARU_LIST_STORED", "100000"))
PAGE = 1000
"""How many names an object store gives for one request."""

FLOWS = 25
LIMIT = 20
RUNNING = 10
PROJECT = "bench"
NOTHING = Value("json", 2, address.digest(b"{}"), "inline", {})

ASKED: tuple[tuple[str, dict[str, str]], ...] = (
    ("plain", {}),
    ("lost", {"status": "lost"}),
    ("completed", {"status": "completed"}),
    ("waiting", {"status": "waiting"}),
    ("waiting_of_flow", {"status": "waiting", "flow": "flow_02"}),
    ("running", {"status": "running"}),
    ("failed", {"status": "failed"}),
    ("failed_of_flow", {"status": "failed", "flow": "flow_02"}),
    ("completed_of_flow", {"status": "completed", "flow": "flow_02"}),
    ("flow", {"flow": "flow_02"}),
    ("rare_flow", {"flow": "flow_rare"}),
)


class PagedStore:
    """A store in memory that lists as an object store does, a page at a time, and counts what it is asked for."""

    url = "s3://bench/store"
    durable_across_processes = True

    def __init__(self) -> None:
        self._bodies: dict[str, bytes] = {}
        self._children: dict[str, list[str]] = {}
        self.requests: Counter[str] = Counter()

    def read(self, key: str) -> bytes | None:
        self.requests["reads"] += 1
        return self._bodies.get(key)

    def create(self, key: str, body: bytes) -> Created | Taken:
        self.requests["writes"] += 1
        if key in self._bodies:
            return Created() if self._bodies[key] == body else Taken(self._bodies[key])
        self._put(key, body)
        return Created()

    def overwrite(self, key: str, body: bytes, *, durable: bool = True) -> None:  # noqa: ARG002
        self.requests["writes"] += 1
        self._put(key, body)

    def names(self, prefix: str, *, after: str = "") -> list[str]:
        names = self._children.get(prefix, [])
        found = names[bisect.bisect_right(names, after) :]
        self.requests["listings"] += max(1, -(-len(found) // PAGE))
        return found

    def listed(self, prefix: str) -> Iterator[Listed]:
        keys = [prefix + name for name in self.names(prefix)]
        return (Listed(key, len(self._bodies[key]), datetime.now(UTC)) for key in keys)

    def remove(self, key: str) -> None:
        self.requests["writes"] += 1
        if self._bodies.pop(key, None) is not None:
            folder, _, name = key.rpartition("/")
            self._children[f"{folder}/"].remove(name)

    def _put(self, key: str, body: bytes) -> None:
        self._bodies[key] = body
        place = 0
        while place < len(key):
            cut = key.find("/", place) + 1 or len(key)
            names = self._children.setdefault(key[:place], [])
            spot = bisect.bisect_left(names, key[place:cut])
            if spot == len(names) or names[spot] != key[place:cut]:
                names.insert(spot, key[place:cut])
            place = cut


def measure(rounds: int) -> Iterator[Figure]:
    store = PagedStore()
    fill(store, STORED)
    with local_client():
        client = KitaruClient(store="file:///nowhere", project=PROJECT)
        vars(client.session)["store"] = store
        begun = time.perf_counter()
        client.executions.list(status="running")
        note = f"the first time that anybody meets those that are lost: {dict(sorted(store.requests.items()))}"
        yield Figure("list_first_own_time", (time.perf_counter() - begun,), "s", note=note)
        for metric, asked in ASKED:
            seconds: list[float] = []
            for _ in range(rounds):
                store.requests.clear()
                begun = time.perf_counter()
                found = client.executions.list(**asked, limit=LIMIT)
                seconds.append(time.perf_counter() - begun)
            note = f"{len(found)} found among {STORED}: {dict(sorted(store.requests.items()))}"
            # Whether one that runs has lost its runner since, or asks something, only its lease says.
            most = 30 + RUNNING if metric.startswith(("lost", "waiting")) else 30
            yield counted(f"list_{metric}", store.requests.total(), "requests", at_most=most, note=note)
            yield Figure(f"list_{metric}_own_time", tuple(seconds), "s", note="the store answers at once")


def fill(store: PagedStore, count: int) -> None:
    """Executions of a year, closer together towards now: most completed, one in ten failed, one in a hundred
    lost its runner, 40 wait, 10 run.
    """
    now = datetime.now(UTC)
    year = timedelta(days=365)
    for number in range(count):
        # Use grows: some ten an hour at the beginning, a hundred an hour at the end.
        moment = now - year * ((count - number) / count) ** 1.3
        flow = "flow_rare" if number % (count // 5) == 1 else f"flow_{number // 3 % FLOWS:02d}"
        _write(store, moment, f"{number:08d}"[-8:], flow, _kind(number, count))


def _kind(number: int, count: int) -> str:
    if number % (count // 40) == 7:
        return "waiting"
    if count - number <= RUNNING:
        return "running"
    if number % 100 == 51:
        return "lost"
    return "failed" if number % 10 == 3 else "completed"


def _write(store: PagedStore, moment: datetime, token: str, flow: str, kind: str) -> None:
    at = address.timestamp(moment)
    exec_id = address.exec_id(moment, token)
    opened = Opened(
        at=at,
        project=PROJECT,
        exec_id=exec_id,
        flow=flow,
        target=f"flows.py:{flow}",
        inputs=NOTHING,
        origin="invoke",
        stack="local",
    )
    events: list[Event] = [opened, Started(at=at, runner=Handle("r", "process 1 on elsewhere"), attempt=1)]
    if kind == "waiting":
        events += [WaitOpened(at=at, wait="w1", name="approve"), Suspended(at=at)]
    elif kind == "failed":
        events.append(Failed(at=at, error=Failure("ValueError", "no", "", "user_code")))
    elif kind == "completed":
        events.append(Completed(at=at, output=NOTHING))
    store.create(address.journal_entry(PROJECT, exec_id, 1), encode_entry(1, f"{token}.1", events[:1]))
    store.create(address.journal_entry(PROJECT, exec_id, 2), encode_entry(2, f"{token}.2", events[1:]))
    if kind in ("completed", "failed"):
        note_end(store, fold(events), 2, open_hint=False)
    elif kind == "waiting":
        note_waiting(store, fold(events), 2)
    else:
        until = datetime.now(UTC) + timedelta(hours=-1 if kind == "lost" else 1)
        store.overwrite(open_key(fold(events)), Sign(fold(events), 2, moment, until).encode())
