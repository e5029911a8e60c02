"""Apply interrupted at every write, killed at any moment, and raced: before or after, no version twice, no gap."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from kitaru.client.project import Applied
from kitaru.errors import (
    KitaruConflictError,
    KitaruError,
)
from kitaru.release.applier import Applier
from tests.applying import TWO, generation, new_version, routed, routes_of
from tests.execution_lab import FailingStore, PowerCut
from tests.repository import FLOWS, MANIFEST, Repository, Watched, finish, start, until

# --- interrupted -----------------------------------------------------------------------------------------------------

SEVERAL = (
    MANIFEST
    + "  greeter:\n    target: flows/work.py:greeter\n    routes: {default: head, stable: 1}\n"
    + "  second:\n    target: other.py:agent\n    source: {include: [other.py]}\n    routes: {default: head}\n"
)


@pytest.mark.parametrize("after", [False, True], ids=["before it lands", "after it landed"])
def test_a_power_cut_at_any_write_leaves_before_or_after(own_world: Path, after: bool) -> None:
    """Apply of three flows stopped at write k, for every k: no route or all of them, and a second apply finishes it."""
    repository = Repository.make(own_world / "r", {"flows/work.py": FLOWS, "other.py": FLOWS}, SEVERAL)
    repository.plan()
    states, finished = set(), False
    cut = 0
    while not finished:
        cut += 1
        assert cut < 60
        folder = own_world / f"store-{after}-{cut}"
        client = repository.client(
            store=f"file://{folder}",
            wrap=lambda store, cut=cut: FailingStore(store, cut, after=after),  # type: ignore[misc]
        )
        try:
            client.apply()
            finished = True
        except PowerCut:
            pass
        lock = repository.client(store=f"file://{folder}").session.releases.head()
        states.add((lock.generation, len(lock.flows)))
        again = repository.client(store=f"file://{folder}").apply()
        assert again.changed == (lock.generation == 0)
        end = repository.client(store=f"file://{folder}").session.releases.head()
        assert end.generation == 1
        assert {name: state.latest for name, state in end.flows.items()} == {"agent": 1, "greeter": 1, "second": 1}
        assert repository.client(store=f"file://{folder}").plan().is_empty
    assert states == {(0, 0), (1, 3)}
    assert cut > 8


@pytest.mark.parametrize("after", [False, True], ids=["before it lands", "after it landed"])
def test_a_power_cut_in_a_second_apply_keeps_the_first(own_world: Path, after: bool) -> None:
    """Stopped at any write of an update, the routes are those of v1 or those of v2, and v2 is made once."""
    repository = Repository.make(own_world / "r", {"flows/work.py": FLOWS, "other.py": FLOWS}, SEVERAL)
    repository.apply()
    source = repository.store_folder
    new_version(repository, "second")
    repository.plan()
    import shutil

    finished, cut = False, 0
    while not finished:
        cut += 1
        folder = own_world / f"copy-{after}-{cut}"
        shutil.copytree(source, folder)
        client = repository.client(
            store=f"file://{folder}",
            wrap=lambda store, cut=cut: FailingStore(store, cut, after=after),  # type: ignore[misc]
        )
        try:
            client.apply()
            finished = True
        except PowerCut:
            pass
        fresh = repository.client(store=f"file://{folder}")
        lock = fresh.session.releases.head()
        versions = {name: state.routes["default"].versions for name, state in lock.flows.items()}
        new = {"agent": (2,), "greeter": (2,), "second": (1,)}
        assert versions == (new if lock.generation == 2 else {"agent": (1,), "greeter": (1,), "second": (1,)})
        fresh.apply()
        end = repository.client(store=f"file://{folder}")
        assert end.session.releases.head().generation == 2
        assert [one.version for one in end.deployments.list("agent")] == [1, 2]
    assert cut > 4


def kill_after(process: subprocess.Popen[str], folder: Path, writes: int) -> None:
    """Return when so many files and folders are new in ``folder``, or the process is over."""

    def entries() -> int:
        return len(list(folder.rglob("*")))

    target = entries() + writes
    until(lambda: process.poll() is not None or entries() > target)


def test_apply_killed_at_random_leaves_before_or_after(own_world: Path) -> None:
    """kill -9 of a real ``kitaru apply`` of twenty flows, at several moments from its first write to its last."""
    names = [f"flow_{number:02d}" for number in range(20)]
    code = "from kitaru import flow\n" + "".join(f"@flow\ndef {name}() -> int:\n    return 1\n" for name in names)
    manifest = "kitaru: 1\nproject: research\nstore: file://.kitaru/store\nsource: {include: [many.py]}\nflows:\n"
    flows = "".join(f"  {name}: {{target: 'many.py:{name}', routes: {{default: head}}}}\n" for name in names)
    repository = Repository.make(own_world / "r", {"many.py": code}, manifest + flows)
    chance = random.Random(20)
    for before in range(6):
        repository.write("many.py", f"{code}# {before}\n")
        repository.commit()
        repository.plan()
        process = start("apply", "--yes", cwd=repository.folder)
        if before % 3:
            # From here on it writes: some forty objects, the generation, and the hint.
            kill_after(process, repository.store_folder, chance.randrange(60))
        else:
            time.sleep(chance.uniform(0.1, 0.9))
        process.kill()
        process.communicate()
        lock = repository.client().session.releases.head(verified=True)
        assert lock.generation in (before, before + 1)
        assert {state.latest for state in lock.flows.values()} <= {lock.generation}
        assert len(lock.flows) == (20 if lock.generation else 0)
        done = repository.apply()
        assert done.changed == (lock.generation == before)
        assert generation(repository) == before + 1
        assert repository.plan().is_empty
    versions = [one.version for one in repository.client().deployments.list(names[0])]
    assert versions == list(range(1, 7))
    assert not [path for path in repository.store_folder.rglob("*") if path.is_file() and path.stat().st_size == 0]


# --- at once ---------------------------------------------------------------------------------------------------------


class Rendezvous(Watched):
    """A store at which writers of a generation wait for one another."""

    barrier: threading.Barrier

    def create(self, key: str, body: bytes) -> Any:
        if "/lock/" in key and self.barrier is not None:
            barrier, self.barrier = self.barrier, None  # type: ignore[assignment]
            barrier.wait(20)
        return super().create(key, body)


def at_once(*jobs: Any) -> list[Any]:
    """What each job gave or raised, all started together."""
    outcomes: list[Any] = [None] * len(jobs)

    def run(index: int) -> None:
        try:
            outcomes[index] = jobs[index]()
        except KitaruError as error:
            outcomes[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outcomes


def meeting(barrier: threading.Barrier) -> Any:
    def wrap(store: Any) -> Any:
        watched = Rendezvous(store)
        watched.barrier = barrier
        return watched

    return wrap


def test_two_applies_of_one_commit_make_one_generation(repository: Repository) -> None:
    """Both at the commit point together: one writes, the other finds that all is as it wanted."""
    barrier = threading.Barrier(2)
    clients = [repository.client(wrap=meeting(barrier)) for _ in range(2)]
    outcomes = at_once(*(client.apply for client in clients))
    assert sorted((one.changed, one.others_first) for one in outcomes) == [(False, True), (True, False)]
    assert generation(repository) == 1
    assert [one.version for one in repository.client().deployments.list("agent")] == [1]


def test_two_applies_of_different_flows_both_land(repository: Repository) -> None:
    """The one that loses the generation folds its edits onto the winner's, since none of its requirements broke."""
    repository.manifest(TWO)
    repository.commit()
    barrier = threading.Barrier(2)
    clients = [repository.client(wrap=meeting(barrier)) for _ in range(2)]
    outcomes = at_once(lambda: clients[0].apply(("agent",)), lambda: clients[1].apply(("greeter",)))
    assert sorted(one.generation for one in outcomes) == [1, 2]
    assert sorted(repository.client().session.releases.head().flows) == ["agent", "greeter"]
    assert repository.plan().is_empty


def test_two_applies_of_different_commits_do_not_both_win(repository: Repository, own_world: Path) -> None:
    """One makes v2; the other is refused with the winner's name and generation, and no version is made twice."""
    repository.apply()
    theirs = repository.clone(own_world / "theirs", "Bob")
    new_version(repository, "mine")
    new_version(theirs, "theirs")
    barrier = threading.Barrier(2)
    store = f"file://{repository.store_folder}"
    outcomes = at_once(
        repository.client(store=store, wrap=meeting(barrier)).apply,
        theirs.client(store=store, wrap=meeting(barrier)).apply,
    )
    (lost,) = [one for one in outcomes if isinstance(one, KitaruError)]
    (won,) = [one for one in outcomes if isinstance(one, Applied)]
    assert isinstance(lost, KitaruConflictError)
    assert f"{won.by} wrote it" in lost.message
    assert "generation 2" in lost.message
    assert [one.version for one in repository.client().deployments.list("agent")] == [1, 2]
    assert generation(repository) == 2


def test_processes_that_apply_at_once_make_one_history(repository: Repository, own_world: Path) -> None:
    """Four processes, two commits, one store: each wins, agrees, or is refused; no version twice, no gap."""
    repository.apply()
    theirs = repository.clone(own_world / "theirs", "Bob")
    new_version(repository, "mine")
    new_version(theirs, "theirs")
    for each in (repository, theirs):
        each.plan()
    store = f"file://{repository.store_folder}"
    processes = [
        start("apply", "--yes", "--store", store, "-o", "json", cwd=each.folder)
        for each in (repository, theirs, repository, theirs)
    ]
    done = [finish(process) for process in processes]
    for one in done:
        assert one.code in (0, 1), one.said
        # One that begins after the winner stands at a commit that lacks the winner's.
        assert one.code == 0 or one.json["error"]["code"] in ("conflict", "state"), one.said
    changed = [one for one in done if one.code == 0 and one.json["item"]["changed"]]
    versions = [one.version for one in repository.client().deployments.list("agent")]
    assert versions == list(range(1, 2 + len(changed)))
    assert generation(repository) == 1 + len(changed)
    assert changed


def test_a_route_that_moved_meanwhile_is_not_moved_back(repository: Repository) -> None:
    """A plan that expected stable at v1 is refused after somebody moved it to v2, and says who."""
    repository.manifest(routed("{default: 1, stable: 1}"))
    repository.commit()
    repository.apply()
    new_version(repository, "second")
    repository.apply()
    repository.manifest(routed("{default: 1, stable: 2}"))
    repository.commit()
    client = repository.client()
    plan = client.plan()
    new_version(repository, "third")
    repository.manifest(routed("{default: 1, stable: 3}"))
    repository.commit()
    repository.apply()
    with pytest.raises(KitaruConflictError) as refused:
        client.apply(plan=plan)
    assert "agent route stable: expected v1, found v3 (moved by Ann" in refused.value.message
    assert routes_of(repository)["stable"] == (3,)


def test_the_source_moved_while_it_was_uploaded(repository: Repository) -> None:
    """A plan whose source is not the workshop's is not carried out with another source."""
    client = repository.client()
    plan = client.plan()
    repository.change("flows/work.py", "hello", "good day")
    repository.commit()
    project = repository.client().project
    session = repository.client().session
    applier = Applier(session.store, session.project, session.releases, session.clock, session.reporter)
    with pytest.raises(KitaruConflictError, match="the source is not the one that was planned"):
        applier.apply(plan, project.workshop(allow_dirty=False), by="Ann", saved=False)
    assert generation(repository) == 0


def test_the_history_says_who_did_what(repository: Repository) -> None:
    """A generation keeps actor, commit, message and edits, and its parent's digest."""
    repository.apply(message="first")
    new_version(repository, "second")
    sha = repository.commit()
    repository.apply(message="second")
    releases = repository.client().session.releases
    first, second = releases.entry(1), releases.entry(2)
    assert first is not None
    assert second is not None
    assert (second[0].by, second[0].message, second[0].parent) == ("Ann", "second", first[1])
    assert second[0].commit is not None
    assert (second[0].commit.sha, second[0].commit.branch, second[0].commit.dirty) == (sha, "main", False)
    assert [edit.kind for edit in second[0].edits] == ["add_version", "move"]
