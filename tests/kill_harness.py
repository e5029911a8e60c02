"""Kills runners with signal 9 at random points of random flows, has others go on, and looks for what must never be.

One *story* is one execution: it is run, killed, taken up by another process, killed again, and at last brought to its
end. A *round* is one kill. Children are forked from a server that has everything imported, so that rounds are quick.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from kitaru.flows.loading import load_target
from kitaru.model import address
from kitaru.model.event import AttemptFailed, CheckpointCompleted, CheckpointFailed
from kitaru.model.execution import Execution
from kitaru.store.open import open_store
from tests.execution_lab import PROJECT, Lab, read_lines
from tests.kill_child import Child, Cut, Order, Report
from tests.kill_flows import EFFECTS, RUN, Program, program

PRELOAD = [
    "tests.kill_child",
    "kitaru.store.s3",
    "kitaru.client.executions",
    "kitaru.run.executor",
    "kitaru.run.event_loop",
]
PAST = "past-"
"""Begins the labels by which a flow's body says that it has the result of a call."""

HALTING = 0.1
"""Seconds in which a runner that has learned of another one must have ended the code that it had under way."""

ORPHANED = 5.0
"""Seconds for which a process that a killed runner had started may outlive it."""

KILLS = 6
"""The most kills in one story; then its runner is left alone."""


@dataclass(slots=True)
class Tally:
    """What the rounds came to. ``problems`` is empty where everything held."""

    stories: int = 0
    kills: int = 0
    duels: int = 0
    fenced: int = 0
    stopped_at_work: int = 0
    """Runners that had begun when another one took over."""
    orphans_looked_for: int = 0
    """Runners that may have started processes, and left none of them behind."""
    runs: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def count_kill(self, kind: str) -> None:
        self.kills += 1
        self.kinds[kind] = self.kinds.get(kind, 0) + 1


class Harness:
    """Stories, one after the other, in a folder of their own."""

    def __init__(
        self, folder: Path, store_url: str | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        """``store_url``: where all executions go; a new local folder for each story where it is None.

        ``environment`` is what the children need to reach it; this process has it already.
        """
        self.folder = folder
        self.tally = Tally()
        self.environment = dict(environment or {})
        self._store_url = store_url
        self._runs = 0
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)

    def play(self, seed: int) -> None:
        """One story; what is wrong with it goes to the tally."""
        Story(self, seed).tell()
        self.tally.stories += 1

    def next_run(self) -> int:
        """The number of the next child."""
        self._runs += 1
        self.tally.runs += 1
        return self._runs

    def store_url(self, name: str) -> str:
        """Of the story of that name."""
        return self._store_url or f"file://{self.folder / name / 'store'}"

    def start(self, order: Order) -> Child:
        """A child that has begun to run."""
        return Child(self._context, order)


class Story:
    """One execution, from its beginning to its end over several processes."""

    def __init__(self, harness: Harness, seed: int) -> None:
        self._harness = harness
        self._chance = random.Random(seed * 7919 + 1)
        self._seed = seed
        self._program: Program = program(seed)
        self._folder = harness.folder / f"story-{seed}"
        self._sources = self._folder / "sources"
        self._effects = self._folder / "effects.txt"
        self._begun = False
        self._acked: dict[int, str] = {}
        self._seen: tuple[bytes, ...] = ()
        self._loose_runs: dict[int, tuple[set[str], float]] = {}
        """Runs that lost to another one: what was recorded before they began, and when they learned of the other.

        Until they learned of it they may have run what that one recorded.
        """

    def tell(self) -> None:
        """All of it."""
        self._program.write(self._sources)
        flow = load_target(self._sources, self._program.target)
        expected, undisturbed, spent = self._undisturbed(flow)
        if expected.outcome != "done":
            self._problem(f"undisturbed it {expected.outcome}: {expected.result}")
            return
        lab = self._lab(self._harness.store_url(f"story-{self._seed}"))
        exec_id = self._open(lab, flow)
        report = self._disturb(lab, exec_id, expected.writes, spent)
        if report.outcome != "done" or report.result != expected.result:
            self._problem(f"{report.outcome} with {report.result!r:.300}, not {expected.result!r:.300}")
            return
        self._compare(lab.load(exec_id), undisturbed)
        before = lab.entries(exec_id)
        if lab.go_on(flow, exec_id) != expected.result or lab.entries(exec_id) != before:
            self._problem("what was completed gave another result, or wrote something")
        self._check_logs(lab, exec_id)

    def _undisturbed(self, flow: Any) -> tuple[Report, Execution | None, float]:
        lab = self._lab(f"file://{self._folder / 'undisturbed'}")
        exec_id = self._open(lab, flow)
        effects = self._folder / "undisturbed.txt"
        begun = time.monotonic()
        report = self._harness.start(self._order(lab, exec_id, effects=effects, takes_over=False)).report()
        return report, lab.load(exec_id), time.monotonic() - begun

    def _disturb(self, lab: Lab, exec_id: str, writes: int, spent: float) -> Report:
        """Kill its runners until one gets through; how that one ended."""
        tally = self._harness.tally
        for _ in range(KILLS):
            if self._chance.random() < 0.25:
                report = self._duel(lab, exec_id, spent)
            else:
                report = self._round(lab, exec_id, writes, spent)
            if report is not None:
                return report
        child = self._harness.start(self._order(lab, exec_id, takes_over=True))
        report = child.report()
        self._check_after(lab, exec_id, child.order)
        tally.fenced += report.outcome == "fenced"
        return report

    def _round(self, lab: Lab, exec_id: str, writes: int, spent: float) -> Report | None:
        """One child that is killed; its report where it was quicker."""
        cut = None
        kind = "at a moment"
        if self._chance.random() < 0.6:
            when: Literal["before", "during", "after"] = self._chance.choice(["before", "during", "after"])
            cut = Cut(self._chance.randint(1, max(1, writes * 2 // 3)), when, self._chance.uniform(0, 0.002))
            kind = f"{when} a write"
        child = self._harness.start(self._order(lab, exec_id, cut=cut))
        if cut is None and not child.ended_within(self._chance.uniform(0, spent * 0.8)):
            child.kill()
        report = child.report()
        self._check_after(lab, exec_id, child.order)
        if report.outcome != "killed":
            return report
        self._harness.tally.count_kill(kind)
        return None

    def _duel(self, lab: Lab, exec_id: str, spent: float) -> Report | None:
        """Two runners at once; one of them may be killed. The report of the one that got through."""
        tally = self._harness.tally
        tally.duels += 1
        self._begun = True
        finished = {event.args["label"] for event in lab.events(exec_id) if isinstance(event, CheckpointCompleted)}
        orders = [self._order(lab, exec_id, by_client=False, takes_over=True) for _ in range(2)]
        head = lab.entries(exec_id)
        if len(head) == 1 or self._chance.random() < 0.5:
            # Both were told to go on from here, whatever the other one does meanwhile: one of them comes too late.
            orders = [replace(order, head=head) for order in orders]
        rivals = [self._harness.start(order) for order in orders]
        if self._chance.random() < 0.4 and not rivals[0].ended_within(self._chance.uniform(0, spent)):
            rivals[0].kill()
        reports = [rival.report() for rival in rivals]
        acks = [sorted(self._acks(rival.order)) for rival in rivals]
        if all(acks) and not (acks[0][-1] < acks[1][0] or acks[1][-1] < acks[0][0]):
            self._problem(f"two runners wrote in turn: {acks}")
        for rival, report in zip(rivals, reports, strict=True):
            if report.outcome != "done":
                self._loose_runs[rival.order.run] = finished, report.learned or float("inf")
        for rival, report, taken in zip(rivals, reports, acks, strict=True):
            if report.outcome == "fenced":
                tally.fenced += 1
                did = [label for run, _, label in self._effects_all() if run == rival.order.run]
                tally.stopped_at_work += bool(did)
                if did and not taken:
                    self._problem(f"a runner that never got hold of the execution ran its code: {did[:3]}")
            if report.outcome == "killed":
                tally.count_kill("beside another runner")
            if report.outcome == "failed":
                self._problem(f"a rival failed: {report.result}")
            if report.late:
                self._problem(f"a runner that had lost wrote on: {report.late[:3]}")
            self._check_after(lab, exec_id, rival.order)
        for report in reports:
            if report.outcome == "done":
                return report
        return None

    # --- what must hold ---

    def _check_orphans(self, order: Order) -> None:
        """The runner is gone, and soon so are the processes of its isolated checkpoints."""
        if not self._program.starts_processes:
            return
        deadline = time.monotonic() + ORPHANED
        while left := processes_of(order):
            if time.monotonic() > deadline:
                self._problem(f"{len(left)} processes of run {order.run} outlived it by {ORPHANED:g} s: {left}")
                return
            time.sleep(0.01)
        self._harness.tally.orphans_looked_for += 1

    def _check_after(self, lab: Lab, exec_id: str, order: Order) -> None:
        """No entry is lost, changed, doubled or out of sequence, and nothing that was recorded ran again."""
        self._check_orphans(order)
        names = lab.store.names(address.journal(PROJECT, exec_id))
        entries = lab.entries(exec_id)
        if names != [f"{number:012d}.json" for number in range(1, len(entries) + 1)]:
            self._problem(f"the journal's entries are {names}")
        if entries[: len(self._seen)] != self._seen:
            self._problem("entries that were there are gone or changed")
        self._seen = entries
        for number, digest in self._acks(order).items():
            if self._acked.setdefault(number, digest) != digest:
                self._problem(f"entry {number} was granted twice")
        for number, digest in self._acked.items():
            if number > len(entries) or hashlib.sha256(entries[number - 1]).hexdigest() != digest:
                self._problem(f"entry {number} was granted, and is not there")
        self._check_writers([json.loads(entry) for entry in entries])
        self._check_once(lab.events(exec_id))

    def _check_writers(self, contents: list[dict[str, Any]]) -> None:
        writers = [content["write"].partition(".")[0] for content in contents]
        changes = [writer for place, writer in enumerate(writers) if not place or writers[place - 1] != writer]
        if len(changes) != len(set(changes)):
            self._problem(f"a writer came back after another took over: {changes}")
        if [content["n"] for content in contents] != list(range(1, len(contents) + 1)):
            self._problem("entries say other numbers than their names")

    def _check_once(self, events: list[Any]) -> None:
        done: dict[str, str] = {}
        calls: set[str] = set()
        for event in events:
            if isinstance(event, CheckpointCompleted):
                if event.call in calls:
                    self._problem(f"call {event.call} was completed twice")
                calls.add(event.call)
                done[event.args["label"]] = event.at
        effects = self._effects_all()
        failed = self._check_failed(events, effects)
        passed = {label: at for _, at, label in reversed(effects) if label.startswith(PAST)}
        for run, at, label in effects:
            if run in self._loose_runs:
                self._check_loose(run, at, label)
            if run in self._loose_runs or label.startswith(PAST):
                continue
            if label in done and at > address.parse_timestamp(done[label]).timestamp() + 0.000_01:
                self._problem(f"{label} ran in run {run} after it was recorded")
            if label not in failed and at > passed.get(f"{PAST}{label}", at):
                self._problem(f"{label} ran in run {run} after the body had gone on with its result")

    def _check_loose(self, run: int, at: float, label: str) -> None:
        finished, learned = self._loose_runs[run]
        if label in finished:
            self._problem(f"{label} ran in run {run}, and was recorded before that began")
        if at > learned + HALTING:
            self._problem(f"{label} ran in run {run} {at - learned:.3f} s after that had learned of another runner")

    def _check_failed(self, events: list[Any], effects: list[tuple[int, float, str]]) -> set[str]:
        """What failed for good, which is not tried again before the body has failed."""
        failed: dict[str, float] = {}
        ever: set[str] = set()
        for event in [*events, None]:
            moment = address.parse_timestamp(event.at).timestamp() if event is not None else float("inf")
            if isinstance(event, CheckpointFailed) and not event.retry:
                failed[event.args["label"]] = moment
                ever.add(event.args["label"])
            elif event is None or isinstance(event, AttemptFailed):
                for run, at, label in effects:
                    if run not in self._loose_runs and failed.get(label, moment) + 0.000_01 < at < moment:
                        self._problem(f"{label} ran in run {run} after its failure was recorded")
                failed = {}
        return ever

    def _compare(self, found: Execution, undisturbed: Execution | None) -> None:
        assert undisturbed is not None
        if found.status != "completed" or found.metadata != undisturbed.metadata:
            self._problem(f"{found.status}, metadata {found.metadata} instead of {undisturbed.metadata}")
        # Whoever meets a failure again at once need not begin what ran beside it; that stays as it was recorded.
        again = len(undisturbed.attempts) > 1
        if _calls(found) != _calls(undisturbed) and not (again and _outcomes(found) >= _outcomes(undisturbed)):
            self._problem("its calls are not those of an undisturbed run")

    def _check_logs(self, lab: Lab, exec_id: str) -> None:
        lines, _ = read_lines(lab.store, PROJECT, exec_id)
        known = ("line of ", "kill: warning of ", "the body at ")
        strange = [line.text for line in lines if not line.text.startswith(known)]
        if strange:
            self._problem(f"lines in its logs that it never wrote: {strange[:3]}")

    # --- details ---

    def _problem(self, what: str) -> None:
        self._harness.tally.problems.append(f"seed {self._seed}: {what}")

    def _lab(self, url: str) -> Lab:
        return Lab(self._folder, wrap=lambda _: open_store(url, base=self._folder))

    def _open(self, lab: Lab, flow: Any) -> str:
        exec_id = lab.open(flow, start=self._seed % 9)
        for place, wait in enumerate(self._program.waits, start=1):
            answer = {"value": place * 100, "by": "harness", "at": address.timestamp(lab.clock.now())}
            lab.store.create(address.wait_answer(PROJECT, exec_id, wait), address.canonical_json(answer))
        return exec_id

    def _order(
        self,
        lab: Lab,
        exec_id: str,
        *,
        cut: Cut | None = None,
        effects: Path | None = None,
        by_client: bool | None = None,
        takes_over: bool | None = None,
    ) -> Order:
        """``takes_over``: as it is, unless that is said: the first runner of the story does not."""
        run = self._harness.next_run()
        if takes_over is None:
            takes_over, self._begun = self._begun, True
        if by_client is None:
            # A client goes on with what somebody had begun; it leaves the rest to whoever may be starting it.
            by_client = self._chance.random() < 0.2 and lab.load(exec_id).status == "running"
        return Order(
            store_url=lab.store.url,
            sources=self._sources,
            target=self._program.target,
            exec_id=exec_id,
            run=run,
            effects=effects or self._effects,
            acks=self._folder / f"acks-{run}.txt",
            environment=self._harness.environment,
            cut=cut,
            by_client=by_client,
            takes_over=takes_over,
        )

    def _acks(self, order: Order) -> dict[int, str]:
        if not order.acks.exists():
            return {}
        lines = [line.split() for line in order.acks.read_text().splitlines()]
        return {int(number): digest for number, digest in lines}

    def _effects_all(self) -> list[tuple[int, float, str]]:
        if not self._effects.exists():
            return []
        lines = [line.split() for line in self._effects.read_text().splitlines()]
        return [(int(run), float(at), label) for run, at, label in lines]


def processes_of(order: Order) -> list[int]:
    """The ids of the processes that the run of this order started for isolated checkpoints, and that live."""
    marks = {f"{RUN}={order.run}".encode(), f"{EFFECTS}={order.effects}".encode()}
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marks <= set(path.read_bytes().split(b"\0")):
                found.append(int(path.parent.name))
        except OSError:  # it ended meanwhile, or is somebody else's
            continue
    return found


def _calls(execution: Execution) -> dict[str, tuple[Any, ...]]:
    return {
        call.call_id: (call.name, call.status, call.output and call.output.sha256, call.metadata)
        for call in execution.checkpoints
    }


def _outcomes(execution: Execution) -> set[str]:
    """The results of an execution with several attempts at its body, at whatever place.

    Of two calls at one place, ``7`` and ``7@2``, the later attempt made the second: the first is not of the final way.
    """
    calls = _calls(execution)
    final = {
        call.call_id.partition("@")[0]: call.call_id for call in execution.checkpoints if call.status == "completed"
    }
    return {repr(calls[call_id]) for call_id in final.values()}


def play(
    seeds: Iterable[int],
    *,
    rounds: int,
    store_url: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Tally:
    """Stories of these seeds until there were ``rounds`` kills; what they came to. See ``Harness`` for the rest."""
    with tempfile.TemporaryDirectory(prefix="kitaru-kill-", ignore_cleanup_errors=True) as folder:
        harness = Harness(Path(folder).resolve(), store_url, environment)
        for seed in seeds:
            if harness.tally.kills >= rounds:
                break
            harness.play(seed)
            shutil.rmtree(harness.folder / f"story-{seed}", ignore_errors=True)
    return harness.tally
