"""A project of 1,000 flows with 1,000 versions each, after 10,000 generations, beside one of one flow made just now."""

from __future__ import annotations

import os
import resource
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.counting_store import CountingStore
from benchmarks.figures import Figure, compared, counted, interleave
from benchmarks.long_history import lengthen
from benchmarks.workspace import Workspace, kitaru_command, workspace
from kitaru import KitaruClient
from kitaru.model import address
from kitaru.model.lockfile import Lockfile
from kitaru.release.releases import Releases
from kitaru.store.local import LocalStore
from kitaru.store.port import Created, Taken
from kitaru.wiring import SystemClock

GOAL = "1,000 flows × 1,000 versions, 10,000 generations: within 3 × of the empty project, lock root ≤ 1 MB"
ROUNDS = 5
FLOWS = int(os.environ.get("KITARU_SCALE_FLOWS", "1000"))
VERSIONS = int(os.environ.get("KITARU_SCALE_VERSIONS", "1000"))
GENERATIONS = int(os.environ.get("KITARU_SCALE_GENERATIONS", "10000"))
PROJECT = "bench"
TIMES = 3.0

FLOW = """
@flow
def flow_{number:04d}(topic: str = "tea") -> str:
    \"\"\"Collect notes on a topic.\"\"\"
    return f"{{topic}} {number}"

"""


class QuickStore(LocalStore):
    """A local store that makes nothing durable: for a past that is made in one go."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, f"file://{root}")
        self._place = root

    def create(self, key: str, body: bytes) -> Created | Taken:
        path = self._place / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        return Created()


class Place:
    """A repository with a project of so many flows, and the figures of what is done in it."""

    def __init__(self, place: Workspace, flows: int) -> None:
        self.place = place
        text = "from kitaru import flow\n" + "".join(FLOW.format(number=number) for number in range(flows))
        place.write("flows.py", text)
        self.words: dict[str, str] = {f"flow_{number:04d}": "tea" for number in range(flows)}
        self._round = 0
        self._declare()
        place.kitaru("apply", "--yes")

    @property
    def store_folder(self) -> Path:
        return self.place.root / ".kitaru" / "store"

    def age(self, versions: int, generations: int) -> Lockfile:
        """Give the project a long past."""
        store = QuickStore(self.store_folder)
        lock = Releases(store, PROJECT, SystemClock()).head()
        return lengthen(store, lock, versions=versions, generations=generations)

    def change(self) -> None:
        """One flow is to have another representative input, which makes another version; committed."""
        self._round += 1
        self.words["flow_0000"] = f"tea_{self._round}"
        self._declare()

    def _declare(self) -> None:
        lines = ["kitaru: 1", f"project: {PROJECT}", "store: file://.kitaru/store", "source: {include: [flows.py]}"]
        lines.append("flows:")
        for name, word in self.words.items():
            lines += [f"  {name}:", f"    target: flows.py:{name}", f"    inputs: {{topic: {word}}}"]
            lines += ["    routes: {default: head}"]
        self.place.write("kitaru.yaml", "\n".join(lines) + "\n")
        self.place.write(".gitignore", ".kitaru/\n__pycache__/\n")
        self.place.commit()

    def cost(self, *arguments: str) -> Callable[[], float]:
        """A measure of a command: the processor time that it and its children take, in seconds."""
        command = [*kitaru_command(), *arguments]

        def measured() -> float:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            self.place.run(command)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

        return measured

    def apply_one(self) -> float:
        """The cost of applying one change to one flow."""
        self.change()
        self.place.kitaru("plan", "flow_0000")  # The manifest is new: reading it is the change's cost, not the store's.
        return self.cost("apply", "flow_0000", "--yes")()

    def requests(self, work: Callable[[KitaruClient], Any]) -> Counter[str]:
        """What a verb asks of the store."""
        here = Path.cwd()
        os.chdir(self.place.root)
        os.environ["KITARU_HOME"] = str(self.place.home)
        try:
            client = KitaruClient(manifest=self.place.root / "kitaru.yaml")
            counting = CountingStore(client.session.store)
            vars(client.session)["store"] = counting
            work(client)
            return counting.calls
        finally:
            os.chdir(here)


def measure(
    rounds: int, flows: int = FLOWS, versions: int = VERSIONS, generations: int = GENERATIONS
) -> Iterator[Figure]:
    with workspace() as small, workspace() as large:
        empty, full = Place(small, 1), Place(large, flows)
        quiet = full.cost("plan")
        young = [quiet() for _ in range(rounds)]
        lock = full.age(versions, generations)
        quiet()  # What a command remembers of a store is not the store's cost.
        old = [quiet() for _ in range(rounds)]
        yield compared(
            "scale_quiet_plan", old, young, unit="s", against=f"the same {flows} flows, one version", times=TIMES
        )
        root = (full.store_folder / address.lock_hint(PROJECT)).stat().st_size
        yield counted("scale_lock_root", root / 1e6, "MB", at_most=1.0, note=f"{lock.generation} generations")
        for metric, of in VERBS.items():
            taken = interleave(rounds, lambda of=of: of(full), lambda of=of: of(empty))
            yield compared(
                f"scale_{metric}", taken[0], taken[1], unit="s", against="one flow, one version", times=TIMES
            )
        yield from _counts(full)
        shutil.rmtree(full.store_folder, ignore_errors=True)


VERBS: dict[str, Callable[[Place], float]] = {
    "plan_of_one_flow": lambda place: place.cost("plan", "flow_0000")(),
    "apply_of_one_change": Place.apply_one,
    "deploy": lambda place: place.cost("deploy", "flows.py:flow_0000", "--no-manifest")(),
    "tag": lambda place: place.cost(
        *("flow", "tag", "flow_0000", "marked", "--version", "1", "--exclusive", "--no-manifest")
    )(),
    "show": lambda place: place.cost("flow", "deployments", "show", "flow_0000")(),
    "invoke": lambda place: place.cost("invoke", "flow_0000", "--wait")(),
}


def _counts(place: Place) -> Iterator[Figure]:
    quiet = place.requests(lambda client: client.plan(("flow_0000",)))
    yield counted("scale_plan_reads", quiet["read"], "reads", at_most=3, note=str(dict(quiet)))
    invoked = place.requests(COUNTED["invoke"])
    yield counted("scale_invoke_reads", invoked["read"], "reads", at_most=3)
    yield counted("scale_invoke_writes", invoked["create"] + invoked["overwrite"], "writes", at_most=1)
    for metric, work in COUNTED.items():
        calls = place.requests(work)
        yield counted(f"scale_{metric}_requests", calls.total(), "requests", note=str(dict(calls)))


COUNTED: dict[str, Callable[[KitaruClient], Any]] = {
    "resolve": lambda client: client.deployments._resolve(client.session.releases.head(), "flow_0000", _default()),
    "invoke": lambda client: client.deployments.invoke("flow_0000"),
    "tag": lambda client: client.deployments.tag("flow_0000", "other", version=1, exclusive=True, manifest="leave"),
    "deploy": lambda client: client.deployments.release("flows.py:flow_0000", {}, tag="default", manifest="leave"),
}


def _default() -> Any:
    from kitaru.model.route import selector

    return selector()
