"""What verbs ask of the store does not grow with the project: with flows, with versions, with generations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.long_history import lengthen
from kitaru import KitaruClient
from kitaru.model import address
from kitaru.model.manifest import SourceSpec
from kitaru.model.route import selector
from kitaru.release.releases import Releases
from kitaru.source.git import GitSource
from kitaru.store.local import LocalStore
from kitaru.upkeep.verify import verify
from kitaru.wiring import Silent
from tests.execution_lab import CountingStore
from tests.repository import Repository, WallClock

FLOWS, VERSIONS, GENERATIONS = 60, 40, 150
PROJECT = "research"

CODE = "from kitaru import flow\n" + "".join(
    f"\n@flow\ndef flow_{number}(word: str = '') -> str:\n    return word\n" for number in range(FLOWS)
)


def manifest(flows: int, word: str = "tea") -> str:
    lines = ["kitaru: 1", f"project: {PROJECT}", "store: file://.kitaru/store", "source: {include: [flows.py]}"]
    lines.append("flows:")
    for number in range(flows):
        said = word if number == 0 else "tea"
        lines += [f"  flow_{number}:", f"    target: flows.py:flow_{number}", f"    inputs: {{word: {said}}}"]
        lines += ["    routes: {default: head}"]
    return "\n".join(lines) + "\n"


def make(folder: Path, flows: int) -> Repository:
    repository = Repository.make(folder, {"flows.py": CODE}, manifest(flows))
    repository.apply()
    return repository


def counted(repository: Repository, work: Callable[[KitaruClient], Any]) -> Counter[str]:
    """Calls of the store, by verb; reads of objects apart from those of the log."""
    made: list[CountingStore] = []
    client = repository.client(wrap=lambda store: made.append(CountingStore(store)) or made[0])  # type: ignore[func-returns-value]
    work(client)
    return Counter(verb for verb, _ in made[0].calls)


def apply_one(client: KitaruClient) -> None:
    assert client.apply(("flow_0",)).changed


def change(repository: Repository, flows: int, word: str) -> None:
    repository.manifest(manifest(flows, word))
    repository.commit(word)


VERBS: dict[str, Callable[[KitaruClient], Any]] = {
    "plan": lambda client: client.plan(),
    "plan of one": lambda client: client.plan(("flow_0",)),
    "resolve a tag": lambda client: client.deployments._resolve(client.session.releases.head(), "flow_0", selector()),
    "resolve a version": lambda client: client.deployments._resolve(
        client.session.releases.head(), "flow_0", selector(version=1)
    ),
    "invoke": lambda client: client.deployments.invoke("flow_0").invoked.launched,
    "tag": lambda client: client.deployments.tag("flow_0", "marked", version=1, exclusive=True, manifest="leave"),
    "deploy": lambda client: client.deployments.release("flows.py:flow_0", {}, tag="default", manifest="leave"),
    "flows": lambda client: client.deployments.flows(),
    "list": lambda client: client.deployments.list("flow_0"),
}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One flow with one version, and a project with a long past."""
    folder = tmp_path_factory.mktemp("scale")
    patch = pytest.MonkeyPatch()
    patch.setenv("KITARU_HOME", str(folder / "home"))
    patch.setenv("HOME", str(folder))
    for name in ("KITARU_STORE", "KITARU_PROJECT"):
        patch.delenv(name, raising=False)
    small, large = make(folder / "small", 1), make(folder / "large", FLOWS)
    store = large.store()
    lock = Releases(store, PROJECT, WallClock()).head()
    lengthen(store, lock, versions=VERSIONS, generations=GENERATIONS)
    yield small, large
    patch.undo()


def test_the_long_past_is_a_sound_one(worlds: tuple[Repository, Repository]) -> None:
    """What the counts below are taken in is what writers would have left: every entry follows, every hint is true."""
    store = worlds[1].store()
    found = verify(store, PROJECT, Silent())
    assert found.generations >= GENERATIONS
    # The first entry gives a state that it took a thousand edits to reach; all others follow from theirs.
    assert {fault.generation for fault in found.problems} <= {1}
    lock = Releases(store, PROJECT, WallClock()).head(verified=True)
    assert all(state.latest >= VERSIONS for state in lock.flows.values())


def test_an_apply_of_one_change_asks_no_more(worlds: tuple[Repository, Repository]) -> None:
    """One flow of many gets another version: as in a project that has no other. (Before there are executions.)"""
    small, large = worlds
    for repository, flows in ((small, 1), (large, FLOWS)):
        change(repository, flows, "coffee")
    found = [counted(repository, apply_one) for repository in (small, large)]
    # In a project of this size not every entry carries the whole state; that is what one more read may be for.
    assert found[1].total() <= found[0].total() + 1


def test_the_requests_of_the_verbs_that_count(worlds: tuple[Repository, Repository]) -> None:
    """Invoke by tag: three reads and one write. A quiet plan: three reads. No listing of anything."""
    _, large = worlds
    assert counted(large, VERBS["invoke"]) == {"read": 3, "create": 1}
    quiet = counted(large, VERBS["plan of one"])
    assert quiet == {"read": 3}


@pytest.mark.parametrize("verb", list(VERBS))
def test_requests_do_not_grow(worlds: tuple[Repository, Repository], verb: str) -> None:
    """The same requests as in a project of one flow with one version; no more, anyhow."""
    small, large = (counted(repository, VERBS[verb]) for repository in worlds)
    assert large.total() <= small.total() + (1 if verb in ("resolve a version", "tag") else 0)


def test_the_source_is_asked_for_once(worlds: tuple[Repository, Repository], monkeypatch: pytest.MonkeyPatch) -> None:
    """Flows that take their source alike have one digest, which a plan of all of them looks up once."""
    asked: list[object] = []
    digest_of = GitSource.digest_of

    def counting(self: GitSource, tree: str, spec: SourceSpec) -> str:
        asked.append(spec)
        return digest_of(self, tree, spec)

    monkeypatch.setattr(GitSource, "digest_of", counting)
    plan = worlds[1].client().plan()
    assert len(plan.flows) == FLOWS
    assert len(asked) == 1


def test_the_root_stays_small(worlds: tuple[Repository, Repository]) -> None:
    """Below 1 kB for each flow, however many versions it has: 1 MB for 1,000."""
    store = LocalStore(worlds[1].store_folder, "file://x")
    body = store.read(address.lock_hint(PROJECT))
    assert body is not None
    assert len(body) < 1000 * FLOWS
